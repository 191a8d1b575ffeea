# SPDX-License-Identifier: Apache-2.0
"""Microsoft Azure Attestation's REST API: attest, signing keys, discovery. docs/azure-attestation.md says what differs.

All of it lies under the path of the issuer's URL, as clients put their paths behind it.
"""

from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from kubenclave.dcap.judgement import DataType, HeldData
from kubenclave.dcap.token.azure import CLAIMS
from kubenclave.errors import FormatError, TrustError, UsageError
from kubenclave.services.attestation.azure.baselines import baselines
from kubenclave.services.attestation.azure.certificates import PolicyCertificates
from kubenclave.services.attestation.azure.http import NOTHING, Resource, check_version, json_response, read_json
from kubenclave.services.attestation.azure.policies import Policies, draft_policy
from kubenclave.services.attestation.azure.writers import Writers
from kubenclave.services.attestation.evidence import Evidence
from kubenclave.services.attestation.issue import TokenDialect
from kubenclave.services.attestation.keys.store import Algorithm
from kubenclave.services.attestation.policies.store import StoredPolicy
from kubenclave.services.attestation.service import AttestationService
from kubenclave.services.web.credentials import Role
from kubenclave.sgx.quote import QuoteHeader, TeeType
from kubenclave.wire import maa

_ROOTS: Final = ("/attest", "/policies", "/certificates", "/tcbbaselines", "/certs")
_KEYS_LIVE: Final = "max-age=300"  # how long clients may keep the key set


def azure_routes(service: AttestationService) -> list[Route]:
    """Return the routes of Azure's API; whatever else lies below its paths is answered in its shape too."""
    attestation, writers = Attestation(service), Writers(service)
    policies, certificates = Policies(service, writers), PolicyCertificates(service, writers)
    return [
        Route("/attest/{type}", Resource(post=attestation.attest)),
        Route("/certs", Resource(get=attestation.keys)),
        Route("/certs/", Resource(get=attestation.keys)),
        Route("/.well-known/openid-configuration", Resource(get=attestation.configuration)),
        Route("/revoke", Resource(post=attestation.revoke)),
        Route("/tcbbaselines/{type}", Resource(get=attestation.baselines)),
        Route("/policies/{type}:reset", Resource(post=policies.reset)),
        Route("/policies/{type}", Resource(get=policies.get, put=policies.put)),
        Route("/certificates", Resource(get=certificates.get)),
        Route("/certificates:add", Resource(post=certificates.add)),
        Route("/certificates:remove", Resource(post=certificates.remove)),
        *(Route(f"{root}/{{rest:path}}", NOTHING) for root in _ROOTS),
    ]


class Attestation:
    """Evidence in, token out; and what is needed to check tokens."""

    def __init__(self, service: AttestationService) -> None:
        self._service: Final = service

    async def attest(self, request: Request) -> Response:
        """``POST /attest/{type}``: judge evidence under the policy for its type, or under one that came with it."""
        check_version(request)
        kind = maa.check_type(request.path_params["type"])
        await self._admit(request)
        asked = maa.parse_attest(await read_json(request), kind)
        check_tee(asked.quote, kind)
        evidence = Evidence(
            quote=asked.quote,
            runtime_data=_held(asked.runtime_data),
            init_data=_held(asked.init_time_data),
            nonce=asked.nonce,
        )
        draft = None if asked.draft_policy is None else self._draft(asked.draft_policy, kind)
        policy = draft or self._service.policies.current(kind)
        attested = await self._service.attest(evidence, policy, TokenDialect.AZURE, draft=draft is not None)
        return json_response({"token": attested.token}, headers={"Cache-Control": "no-store"})

    async def keys(self, _request: Request) -> Response:
        """``GET /certs``: the RSA keys, each of them complete; clients of this API stumble over others."""
        keys = self._service.keyring.jwks(Algorithm.RS256)
        return json_response(keys, headers={"Cache-Control": _KEYS_LIVE})

    async def configuration(self, _request: Request) -> Response:
        """``GET /.well-known/openid-configuration``."""
        document = maa.openid_configuration(self._service.settings.issuer, sorted(CLAIMS))
        return json_response(document, headers={"Cache-Control": _KEYS_LIVE})

    async def revoke(self, _request: Request) -> Response:
        """``POST /revoke``: discovery names it, as Azure's does; tokens end by themselves."""
        raise UsageError(
            "tokens of this service cannot be revoked",
            code="maa.no-revocation",
            hint="they end at exp; an operator who has to end all of them revokes the signing key",
        )

    async def baselines(self, request: Request) -> Response:
        """``GET /tcbbaselines/{type}``: the generations of collateral, and the one in use."""
        check_version(request)
        kind = maa.check_type(request.path_params["type"])
        await self._admit(request)
        generations = await self._service.judge.provider.generations(_tee_of(kind))
        return json_response({"tcbBaselines": baselines(generations)})

    def _draft(self, given: str, kind: str) -> StoredPolicy:
        """Return the policy of a request's own, where the operator lets requests bring one."""
        if not self._service.settings.dangerously_allow_draft_policies:
            raise UsageError(
                "requests may not bring a policy here",
                code="maa.draft",
                field="draftPolicyForAttestation",
                hint="try it with kubenclave policy test, or let the operator allow drafts: they get unsigned tokens",
            )
        return draft_policy(given, kind, self._service.now())

    async def _admit(self, request: Request) -> None:
        """Let through who may attest; where all may, a token of Azure's, which its clients send, says nothing."""
        try:
            await self._service.guard.require(request, Role.ATTEST)
        except TrustError:
            if not self._service.settings.open:
                raise


def check_tee(quote: bytes, kind: str) -> None:
    """Refuse a quote of another TEE than the path says. Raises FormatError."""
    tee = QuoteHeader.parse(quote).tee_type
    wanted = _tee_of(kind)
    if tee is not wanted:
        raise FormatError(
            f"the quote is not for /attest/{kind}",
            code="maa.tee",
            field=maa.EVIDENCE_FIELDS[kind],
            expected=f"a quote of {wanted.name}",
            found=f"one of {tee.name}",
            hint="/attest/TdxVm is for quotes of TDX, /attest/SgxEnclave for those of SGX",
        )


def _tee_of(kind: str) -> TeeType:
    return TeeType.TDX if kind == "TdxVm" else TeeType.SGX


def _held(supplied: maa.SuppliedData | None) -> HeldData | None:
    if supplied is None:
        return None
    return HeldData(supplied.data, DataType.JSON if supplied.is_json else DataType.BINARY)
