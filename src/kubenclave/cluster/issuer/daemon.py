# SPDX-License-Identifier: Apache-2.0
"""The issuer as a program: it answers simulators, and keeps what relying parties need current in a ConfigMap."""

import asyncio
import datetime as dt
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final, Never

import structlog
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from kubenclave import serving
from kubenclave.cluster.api import ClusterApi
from kubenclave.cluster.issuer.authority import Authority
from kubenclave.cluster.issuer.store import Store
from kubenclave.cluster.issuer.tokens import node_of
from kubenclave.errors import FormatError, KubenclaveError, TrustError
from kubenclave.platform.signals import stop_signal
from kubenclave.platform.simulated.issued import LIMIT, PATH, CertificateRequest

PUBLISH_SECONDS: Final = 600.0
"""Between two looks at what is published: it changes each day, and somebody may have edited it."""

_RETRY_SECONDS: Final = 5.0
_BODY_SECONDS: Final = 5.0
_AT_ONCE: Final = 64  # requests of the largest size
_BEARER: Final = "Bearer "

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How to run. ``account`` names the service account of the simulators, in the issuer's own namespace."""

    namespace: str
    port: int = 8080
    account: str = "kubenclave-simulator"
    secret: str = "kubenclave-simulated-root"  # noqa: S105  # the name of an object
    config_map: str = "kubenclave-simulated-collateral"

    @property
    def user(self) -> str:
        """The simulators' account as the API server names it."""
        return f"system:serviceaccount:{self.namespace}:{self.account}"


class Service:
    """Answers requests of simulators for one authority."""

    def __init__(self, api: ClusterApi, authority: Authority, user: str) -> None:
        self._api: Final = api
        self._authority: Final = authority
        self._user: Final = user
        self._bodies: Final = serving.Bodies(LIMIT, _AT_ONCE * LIMIT, _BODY_SECONDS)
        self._turn: Final = asyncio.Lock()  # the authority works in a thread, for one of us at a time
        self.published = False
        self.changed: Final = asyncio.Event()

    def app(self) -> Starlette:
        """Return the application."""
        return Starlette(
            routes=[
                Route(PATH, self._certify, methods=["POST"]),
                Route("/healthz", self._healthy),
                Route("/readyz", self._ready),
            ]
        )

    async def _certify(self, request: Request) -> Response:
        try:
            body = await self._bodies.read(request)
            node = await node_of(self._api, _token(request), self._user)
            wanted = CertificateRequest.from_json(body)
            async with self._turn:
                before = dict(self._authority.revoked)
                issued = await asyncio.to_thread(self._authority.certify, node, wanted, dt.datetime.now(dt.UTC))
                if self._authority.revoked != before:
                    self.changed.set()
        except KubenclaveError as error:
            _log.warning("certificates.refused", code=error.code, error=str(error))
            status = HTTPStatus.FORBIDDEN if isinstance(error, TrustError) else serving.status_of(error)
            return JSONResponse(error.as_dict() | {"message": str(error)}, status)
        _log.info("certificates.issued", node=node, platform=wanted.platform, tcb=wanted.tcb.value)
        return Response(issued.to_json(), media_type="application/json")

    async def _healthy(self, _request: Request) -> Response:
        return PlainTextResponse("ok, SIMULATED\n")

    async def _ready(self, _request: Request) -> Response:
        if self.published:
            return PlainTextResponse("ready, SIMULATED\n")
        return PlainTextResponse("nothing is published yet\n", HTTPStatus.SERVICE_UNAVAILABLE)

    async def keep_published(self, store: Store) -> Never:
        """Publish for ever: now, after changes, and every so often."""
        while True:
            self.changed.clear()
            try:
                async with self._turn:
                    data = await asyncio.to_thread(self._authority.published, dt.datetime.now(dt.UTC))
                await store.publish(data)
            except KubenclaveError as error:
                _log.warning("collateral.not-published", code=error.code, error=str(error), hint=error.hint or "")
                await asyncio.sleep(_RETRY_SECONDS)
                continue
            self.published = True
            try:
                async with asyncio.timeout(PUBLISH_SECONDS):
                    await self.changed.wait()
            except TimeoutError:
                continue


async def serve(api: ClusterApi, settings: Settings) -> None:
    """Run until SIGTERM or SIGINT.

    Raises PlatformError when the port cannot be had or the Secret holds no seed, ClusterError and UnreachableError when
    the API server lets nothing be read at the start.
    """
    stop = stop_signal()
    store = Store(api, settings.namespace, settings.secret, settings.config_map)
    authority = Authority(await store.seed(), await store.revoked())
    service = Service(api, authority, settings.user)
    server, listener = serving.server(service.app()), serving.listen(settings.port)
    async with asyncio.TaskGroup() as tasks:
        publishing = tasks.create_task(service.keep_published(store))
        tasks.create_task(server.serve([listener]))
        _log.warning("issuer.started", port=settings.port, note="SIMULATED root: it proves nothing about hardware")
        _log.info("issuer.stopping", signal=await stop)
        publishing.cancel()
        server.should_exit = True


def _token(request: Request) -> str:
    value = request.headers.get("Authorization", "")
    if not value.startswith(_BEARER):
        raise FormatError("no token", code="simissuer.malformed", field="Authorization", expected="Bearer TOKEN")
    return value.removeprefix(_BEARER)
