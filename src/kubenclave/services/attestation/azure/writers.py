# SPDX-License-Identifier: Apache-2.0
"""Who may change policies and their signers over Azure's API: an administrator, or a registered signer's signature.

Signers themselves a signature changes in an isolated service alone, where it is what counts. Elsewhere whoever got hold
of one signer's key could else make signers of their own, and stay when that one is removed.

A signature does not say when it was made, nor for which service, and whoever reads a policy reads its token too. So a
signature without a credential counts once: a second time the same token needs an administrator.
"""

import asyncio
import hashlib
from typing import Final

from starlette.requests import Request

from kubenclave.errors import TrustError
from kubenclave.services.attestation.azure.signed import Opened
from kubenclave.services.attestation.service import AttestationService
from kubenclave.services.web.credentials import Role

MIGRATIONS: Final = (
    """CREATE TABLE azure_signed_tokens (digest BLOB PRIMARY KEY, seen TEXT NOT NULL) WITHOUT ROWID;""",
)


class Writers:
    """Decides for each token that wants to change something."""

    def __init__(self, service: AttestationService) -> None:
        service.database.migrate("azure-writers", MIGRATIONS)
        self._service: Final = service

    async def permit(self, request: Request, opened: Opened, *, credential_needed: bool = False) -> str:
        """Return the name of who changes something.

        ``credential_needed``: a signature does not take the place of a credential.

        Raises TrustError ``credentials.*`` for anybody else, ``maa.signature-used`` for a signature that has counted.
        """
        # Anybody can sign: a token is remembered once somebody who may change something has sent it, else whoever has
        # no credential could fill the disk.
        known = None if opened.signer is None else self._service.policies.signers.find(opened.signer.jwk)
        try:
            name = (await self._service.guard.require(request, Role.POLICY_ADMIN)).name
        except TrustError:
            if known is None or credential_needed:
                raise
        else:
            if opened.signer is not None:
                await asyncio.to_thread(self._note, opened.signed)
            return name
        if not await asyncio.to_thread(self._note, opened.signed):
            raise TrustError(
                "this signed token has been here before",
                code="maa.signature-used",
                hint="sign anew, with a member that differs, such as iat; or show the credential of an administrator",
            )
        return f"signer {known.thumbprint}"

    def _note(self, signed: bytes) -> bool:
        """Remember what was signed; whether it was new."""
        digest, seen = hashlib.sha256(signed).digest(), self._service.now().isoformat()
        with self._service.database.transaction() as connection:
            inserted = connection.execute("INSERT OR IGNORE INTO azure_signed_tokens VALUES (?, ?)", (digest, seen))
            return inserted.rowcount == 1
