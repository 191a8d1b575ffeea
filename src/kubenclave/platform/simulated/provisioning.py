# SPDX-License-Identifier: Apache-2.0
"""What stands in for Intel's provisioning service between a SIMULATED platform and its issuer.

It knows the provisioning fuse, as Intel does, and so can tell the public half of the PCK key that only the platform's
PCE can derive.
"""

import functools
from typing import Final

from kubenclave.platform.simulated.enclaves import MR_SIGNER, PCE
from kubenclave.platform.simulated.issuer import Issuer
from kubenclave.platform.simulated.keys import BaseKeys, Secs, get_key
from kubenclave.platform.simulated.pce import pck_key_request, pck_private_key
from kubenclave.platform.simulated.pki import Pki
from kubenclave.platform.simulated.state import PlatformState
from kubenclave.platform.simulated.tcb import PlatformTcb


def issuer_of(state: PlatformState) -> Issuer:
    """Return the issuer of a platform's certificates and collateral."""
    return Issuer(Pki.from_seed(state.seed))


class Provisioning:
    """PCK certificate chains for one platform, in whatever state its TCB is."""

    def __init__(self, state: PlatformState) -> None:
        self._issuer: Final = issuer_of(state)
        self._keys: Final = BaseKeys.from_fuses(state.fuses)
        self.pck_chain: Final = functools.lru_cache(maxsize=len(PlatformTcb))(self._pck_chain)

    def _pck_chain(self, tcb: PlatformTcb) -> bytes:
        """Return the PEM chain, leaf first, for the PCK key at the CPUSVN of that state."""
        cpu_svn = tcb.svns.cpu_svn
        target = PCE.target_info
        pce = Secs(
            attributes=target.attributes,
            mr_enclave=target.mr_enclave,
            mr_signer=MR_SIGNER,
            isv_prod_id=PCE.isv_prod_id,
            isv_svn=PCE.isv_svn,
        )
        private = pck_private_key(get_key(self._keys, pce, pck_key_request(cpu_svn), cpu_svn))
        return self._issuer.pck_chain(tcb, private.public_key())
