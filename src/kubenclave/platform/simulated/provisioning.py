# SPDX-License-Identifier: Apache-2.0
"""What stands in for Intel's provisioning service between a SIMULATED platform and its issuer.

It knows the provisioning fuse, as Intel does, and so can tell the public half of the PCK key that only the platform's
PCE can derive. Certificates come from the platform's own root, or from what an issuer elsewhere has sent.
"""

import datetime as dt
import functools
from pathlib import Path
from typing import Final, Protocol

from cryptography.hazmat.primitives.asymmetric import ec

from kubenclave.dcap.collateral import Collateral
from kubenclave.errors import PlatformError
from kubenclave.platform.simulated.enclaves import MR_SIGNER, PCE
from kubenclave.platform.simulated.issued import Issued
from kubenclave.platform.simulated.issuer import Issuer
from kubenclave.platform.simulated.keys import BaseKeys, Fuses, Secs, get_key
from kubenclave.platform.simulated.pce import pck_key_request, pck_private_key
from kubenclave.platform.simulated.pki import Pki
from kubenclave.platform.simulated.state import PlatformState
from kubenclave.platform.simulated.tcb import PlatformTcb


class Provisioning(Protocol):
    """Certificates and collateral of one platform. All raise PlatformError where there are none."""

    @property
    def root_der(self) -> bytes:
        """The root certificate, DER."""
        ...

    def pck_chain(self, tcb: PlatformTcb) -> bytes:
        """Return the PEM chain, leaf first, for the PCK key at the CPUSVN of that state."""
        ...

    def collateral(self, tcb: PlatformTcb, now: dt.datetime) -> Collateral:
        """Return collateral with which a verifier comes to think of the platform as being in that state."""
        ...


class OwnRoot:
    """A platform that is its own issuer; ``seed`` (32 bytes) is that of its PKI."""

    def __init__(self, seed: bytes, fuses: Fuses) -> None:
        self._issuer: Final = Issuer(Pki.from_seed(seed))
        self.root_der: Final = self._issuer.root_der
        self.collateral: Final = self._issuer.collateral
        keys = BaseKeys.from_fuses(fuses)
        self.pck_chain: Final = functools.lru_cache(maxsize=len(PlatformTcb))(
            lambda tcb: self._issuer.pck_chain(tcb, pck_public_key(keys, tcb))
        )


class SentByIssuer:
    """A platform whose issuer is elsewhere: what it has sent last, as kept in ``directory``."""

    def __init__(self, directory: Path, fuses: Fuses) -> None:
        self._directory: Final = directory
        self._platform: Final = fuses.identity

    @property
    def root_der(self) -> bytes:
        """The issuer's root certificate, DER."""
        return self._issued().root_der

    def pck_chain(self, tcb: PlatformTcb) -> bytes:
        """Return the PEM chain of that state."""
        return self._issued().chains[tcb].encode()

    def collateral(self, tcb: PlatformTcb, now: dt.datetime) -> Collateral:
        """Return the collateral that the issuer sent, whatever the time is."""
        issued = self._issued()
        if issued.tcb is not tcb:
            raise PlatformError(
                "the issuer has not yet sent collateral for the platform as it is now",
                code="simissuer.not-yet",
                expected=tcb.value,
                found=issued.tcb.value,
                hint="a running simulator asks for it within seconds; its log says what is in the way",
            )
        return issued.collateral_of_state

    def _issued(self) -> Issued:
        return Issued.load(self._directory, self._platform)


def provisioning_of(state: PlatformState, directory: Path) -> OwnRoot | SentByIssuer:
    """Return where the certificates of the platform in ``directory`` come from."""
    if state.seed is None:
        return SentByIssuer(directory, state.fuses)
    return OwnRoot(state.seed, state.fuses)


def pck_public_key(keys: BaseKeys, tcb: PlatformTcb) -> ec.EllipticCurvePublicKey:
    """Return the public PCK key of the PCE at the CPUSVN of a state."""
    cpu_svn = tcb.svns.cpu_svn
    target = PCE.target_info
    pce = Secs(
        attributes=target.attributes,
        mr_enclave=target.mr_enclave,
        mr_signer=MR_SIGNER,
        isv_prod_id=PCE.isv_prod_id,
        isv_svn=PCE.isv_svn,
    )
    return pck_private_key(get_key(keys, pce, pck_key_request(cpu_svn), cpu_svn)).public_key()
