# SPDX-License-Identifier: Apache-2.0
"""What a loader does on a SIMULATED platform: ECREATE to EINIT of a whole identity on one connection.

As with real loaders ATTRIBUTES and MISCSELECT come from SIGSTRUCT; whether they and the measurement agree with it is
for the CPU to say.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from kubenclave.errors import FormatError
from kubenclave.platform.simcpu import DEFAULT_ATTRIBUTES, Enclave
from kubenclave.sgx.attributes import AttributeFlags, Attributes
from kubenclave.sgx.epc import PAGE_SIZE, pages_for
from kubenclave.sgx.gramine import SSA_FRAME_PAGES, GramineEnclave
from kubenclave.sgx.measure import MIN_ENCLAVE_SIZE, Pages, measure, measure_sgxs
from kubenclave.sgx.secinfo import SecInfo
from kubenclave.sgx.sigstruct import Sigstruct

_RX: Final = SecInfo(0x205)
_FLAGS_MASK: Final = (1 << 64) - 1
_XFRM_MASK: Final = 0xFFFFFFFFFFF9FF1B  # as Gramine signs: AVX, AVX-512 and AMX are the host's choice
_UNKNOWN_SIZE: Final = 1 << 36  # ECREATE wants one, also where only the measurement is known
_LARGEST_SSA_FRAME: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """An enclave to be loaded. ``size`` in bytes; its pages in order, or the measurement of so many; its SIGSTRUCT."""

    size: int
    ssa_frame_size: int
    pages: tuple[Pages, ...] = ()
    measured: tuple[bytes, int] | None = None
    sigstruct: bytes

    @property
    def provisions(self) -> bool:
        """Whether it is to have the provisioning key, and so has to be loaded through the provision socket."""
        attributes, _ = _wanted(self.sigstruct)
        return bool(attributes.flags & AttributeFlags.PROVISION_KEY)

    def load(self, enclave: Enclave) -> None:
        """ECREATE to EINIT on a fresh connection. Raises what the connection raises when the CPU refuses."""
        attributes, misc_select = _wanted(self.sigstruct)
        enclave.create(self.size, self.ssa_frame_size, attributes=attributes, misc_select=misc_select)
        for pages in self.pages:
            enclave.add(pages)
        if self.measured is not None:
            enclave.measured(*self.measured)
        enclave.init(self.sigstruct)


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What a SIGSTRUCT states besides the measurement."""

    isv_prod_id: int = 0
    isv_svn: int = 0
    debug: bool = False
    provision: bool = False

    @property
    def attributes(self) -> Attributes:
        """ATTRIBUTES to sign and load with."""
        flags = DEFAULT_ATTRIBUTES.flags | (AttributeFlags.DEBUG if self.debug else 0)
        return replace(DEFAULT_ATTRIBUTES, flags=flags | (AttributeFlags.PROVISION_KEY if self.provision else 0))


def of_content(content: bytes, terms: Terms, sign: Callable[[Sigstruct], Sigstruct]) -> Identity:
    """Return the identity whose pages are ``content``, readable and executable, all of them measured."""
    count = max(1, pages_for(len(content)))
    size = MIN_ENCLAVE_SIZE
    while size < count * PAGE_SIZE:
        size *= 2
    pages = (Pages(0, _RX, count, content.ljust(count * PAGE_SIZE, b"\0")),)
    template = Sigstruct(
        enclave_hash=measure(size, 1, pages),
        attributes=terms.attributes,
        attribute_mask=Attributes(_FLAGS_MASK, _XFRM_MASK),
        isv_prod_id=terms.isv_prod_id,
        isv_svn=terms.isv_svn,
    )
    return Identity(size=size, ssa_frame_size=1, pages=pages, sigstruct=sign(template).build())


def of_gramine(manifest: bytes, pal: bytes, sigstruct: bytes) -> Identity:
    """Return the identity of a Gramine enclave: ``.manifest.sgx``, ``libpal.so`` and ``.sig``. Raises FormatError."""
    enclave = GramineEnclave.parse(manifest, pal)
    return Identity(
        size=enclave.size,
        ssa_frame_size=SSA_FRAME_PAGES,
        pages=tuple(area.pages for area in enclave.areas),
        sigstruct=sigstruct,
    )


def of_sgxs(stream: bytes, sigstruct: bytes) -> Identity:
    """Return the identity of an SGXS stream (Fortanix EDP), which is measured here. Raises FormatError."""
    measurement = measure_sgxs(stream)
    return Identity(
        size=measurement.size,
        ssa_frame_size=_LARGEST_SSA_FRAME,
        measured=(measurement.mr_enclave(), measurement.pages),
        sigstruct=sigstruct,
    )


def of_measurement(mr_enclave: bytes, pages: int, sigstruct: bytes) -> Identity:
    """Return the identity of an enclave of which only MRENCLAVE (32 bytes) and the number of pages are known."""
    return Identity(
        size=_UNKNOWN_SIZE, ssa_frame_size=_LARGEST_SSA_FRAME, measured=(mr_enclave, pages), sigstruct=sigstruct
    )


def _wanted(sigstruct: bytes) -> tuple[Attributes, int]:
    """Return ATTRIBUTES and MISCSELECT as signed."""
    try:
        signed = Sigstruct.parse(sigstruct)
    except FormatError:
        return DEFAULT_ATTRIBUTES, 0  # EINIT says what is wrong with it
    return replace(signed.attributes, flags=signed.attributes.flags & ~int(AttributeFlags.INIT)), signed.misc_select
