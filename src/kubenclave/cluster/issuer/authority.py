# SPDX-License-Identifier: Apache-2.0
"""What the issuer issues. Pure: seed, requests and the time go in, documents come out."""

import datetime as dt
import json
from collections.abc import Mapping
from typing import Final

from cryptography.hazmat.primitives.serialization import Encoding

from kubenclave.platform.simulated.issued import CertificateRequest, Issued
from kubenclave.platform.simulated.issuer import Issuer
from kubenclave.platform.simulated.pki import Pki, Role
from kubenclave.platform.simulated.tcb import PlatformTcb


class Authority:
    """One root, and which platforms under it are revoked: by node, what ``CertificateRequest.platform`` said."""

    def __init__(self, seed: bytes, revoked: Mapping[str, str]) -> None:
        """Take the seed of the PKI, 32 bytes. Raises UsageError for another size."""
        self._pki: Final = Pki.from_seed(seed)
        self._own: Final = Issuer(self._pki)
        self._root: Final = self._pki.certificates[Role.ROOT].public_bytes(Encoding.PEM).decode()
        self.revoked: Final = dict(revoked)

    def certify(self, node: str, request: CertificateRequest, now: dt.datetime) -> Issued:
        """Return certificates for the keys of a node's platform, and collateral for the state that it is in.

        A node is believed that it is revoked, and that it is so no more: it is a simulation of that, not a
        punishment. Raises FormatError when a key is none.
        """
        if request.tcb is PlatformTcb.REVOKED:
            self.revoked[node] = request.platform
        else:
            self.revoked.pop(node, None)
        issuer = self._issuer(node, request.platform)
        chains = {tcb: issuer.pck_chain(tcb, request.key(tcb)).decode() for tcb in PlatformTcb}
        collateral = issuer.collateral(request.tcb, now, others_revoked=self._serials())
        return Issued(
            platform=request.platform,
            tcb=request.tcb,
            root=self._root,
            chains=chains,
            collateral=json.loads(collateral.to_json()),
        )

    def published(self, now: dt.datetime) -> dict[str, str]:
        """Return what relying parties need, as the data of a ConfigMap; the same all day unless a node is revoked."""
        collateral = self._own.collateral(PlatformTcb.UP_TO_DATE, now, others_revoked=self._serials())
        return {
            "root.pem": self._root,
            "collateral.json": collateral.to_json() + "\n",
            "revoked.json": json.dumps(self.revoked, sort_keys=True),
        }

    def _serials(self) -> frozenset[int]:
        return frozenset().union(*(self._issuer(*one).serials for one in self.revoked.items()))

    def _issuer(self, node: str, platform: str) -> Issuer:
        # The node's name comes from its token: nobody gets certificates for another node's platform.
        return Issuer(self._pki, platform=f"{node}/{platform}".encode())
