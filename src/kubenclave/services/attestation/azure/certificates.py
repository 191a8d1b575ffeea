# SPDX-License-Identifier: Apache-2.0
"""Certificates of policy signers over Azure's API: list, add, remove, each answered with a token of the service's."""

import asyncio
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from kubenclave.errors import TrustError
from kubenclave.services.attestation.azure.http import check_version, read_json, signed_response
from kubenclave.services.attestation.azure.signed import Opened, Signer, open_token, read_certificate
from kubenclave.services.attestation.azure.writers import Writers
from kubenclave.services.attestation.policies.store import TrustModel
from kubenclave.services.attestation.service import AttestationService
from kubenclave.services.web.credentials import Role
from kubenclave.wire import maa


class PolicyCertificates:
    """The registered signers."""

    def __init__(self, service: AttestationService, writers: Writers) -> None:
        self._service: Final = service
        self._writers: Final = writers

    async def get(self, request: Request) -> Response:
        """``GET /certificates``."""
        check_version(request)
        await self._service.guard.require(request, Role.POLICY_ADMIN)
        keys = [dict(signer.jwk) for signer in self._service.policies.signers.all()]
        return signed_response(self._service, {"x-ms-policy-certificates": {"keys": keys}})

    async def add(self, request: Request) -> Response:
        """``POST /certificates:add``: register the certificate that a token is about."""
        subject, by = await self._read(request)
        await asyncio.to_thread(self._service.policies.signers.add, subject.jwk, by=by)
        return self._result(subject, "IsPresent")

    async def remove(self, request: Request) -> Response:
        """``POST /certificates:remove``: the last one stays."""
        subject, by = await self._read(request)
        await asyncio.to_thread(self._service.policies.signers.remove, subject.jwk, by=by)
        return self._result(subject, "IsAbsent")

    async def _read(self, request: Request) -> tuple[Signer, str]:
        """Return whose certificate it is about, and who asks."""
        check_version(request)
        token = maa.certificate_token(await read_json(request))
        opened = open_token(token, self._service.now())
        subject = Signer(read_certificate(maa.signer_certificate(opened.claims)))
        isolated = self._service.policies.trust_model is TrustModel.ISOLATED
        by = await self._writers.permit(request, opened, credential_needed=not isolated)
        self._check_model(opened)
        return subject, by

    def _check_model(self, opened: Opened) -> None:
        """In an isolated service only signers make signers, but for the first one, which an administrator makes."""
        policies = self._service.policies
        if policies.trust_model is not TrustModel.ISOLATED or not policies.signers.all():
            return
        if opened.signer is None or policies.signers.find(opened.signer.jwk) is None:
            raise TrustError(
                "the token is not signed by a registered signer",
                code="maa.signer-needed",
                hint="the trust model of this service is Isolated: signers vouch for signers",
            )

    def _result(self, subject: Signer, result: str) -> Response:
        claims = {"x-ms-certificate-thumbprint": subject.thumbprint, "x-ms-policycertificates-result": result}
        return signed_response(self._service, claims)
