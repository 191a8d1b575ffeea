# SPDX-License-Identifier: Apache-2.0
"""Which PCK certificate of a platform's is the one for its TCB: the highest that is not above the platform's own."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from kubenclave.dcap.documents import TcbInfo
from kubenclave.dcap.pckext import PckExtension


@dataclass(frozen=True, slots=True)
class PckCertificate:
    """The certificate for a platform's TCB. ``tcbm`` is CPUSVN and PCE SVN (little-endian) that it is for, 18 bytes."""

    leaf: bytes = field(repr=False)
    issuer_chain: bytes = field(repr=False)
    tcbm: bytes
    extension: PckExtension = field(repr=False)
    ca: str

    @property
    def fmspc(self) -> str:
        """The platform's family, 12 hexadecimal digits."""
        return self.extension.fmspc.hex()


def choose(
    certificates: Sequence[PckCertificate], cpu_svn: bytes, pce_svn: int, tcb_info: TcbInfo | None
) -> PckCertificate | None:
    """Return the certificate for a platform at ``cpu_svn`` (16 bytes) and ``pce_svn``; None where all are above it.

    Of those whose TCB is not above the platform's in any component, the one that reaches the highest level of
    ``tcb_info``, and among equals that with the highest SVNs (Intel, PCK certificate selection library). The bytes of
    a CPUSVN are the component SVNs, as on all platforms seen, unless a certificate for that very CPUSVN says otherwise.
    """
    own = next(
        (each.extension.components for each in certificates if each.extension.cpu_svn == cpu_svn), tuple(cpu_svn)
    )
    candidates = [each for each in certificates if _reaches((*own, pce_svn), _svns(each))]
    return max(candidates, key=lambda each: (-_level(each, tcb_info), _svns(each)), default=None)


def _level(certificate: PckCertificate, tcb_info: TcbInfo | None) -> int:
    """Return how many levels are above the one that the certificate's TCB reaches."""
    levels = () if tcb_info is None else tcb_info.levels
    svns = _svns(certificate)
    reached = (number for number, level in enumerate(levels) if _reaches(svns, level.svns[: len(svns)]))
    return next(reached, len(levels))


def _svns(certificate: PckCertificate) -> tuple[int, ...]:
    return (*certificate.extension.components, certificate.extension.pce_svn)


def _reaches(have: Sequence[int], want: Sequence[int]) -> bool:
    return all(one >= other for one, other in zip(have, want, strict=True))
