# SPDX-License-Identifier: Apache-2.0
"""A collateral service over a SIMULATED world, in this process, with what stands in front of its routes."""

import asyncio
import contextlib
import datetime as dt
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
from starlette.applications import Starlette
from starlette.types import ASGIApp

from kubenclave.dcap.anchor import TrustAnchor
from kubenclave.errors import KubenclaveError
from kubenclave.services.collateral import replies
from kubenclave.services.collateral.app import BODIES, collateral_routes
from kubenclave.services.collateral.cache import CacheSettings, CollateralCache
from kubenclave.services.collateral.items import ItemKey
from kubenclave.services.collateral.service import CollateralService
from kubenclave.services.collateral.sources.base import Fetched, PckAnswer, PckRequest, unknown
from kubenclave.services.collateral.store import Store
from kubenclave.services.database import Database
from kubenclave.services.web.access import Access
from kubenclave.services.web.credentials import Credentials, Role
from kubenclave.services.web.guard import Guard
from kubenclave.services.web.limits import Bounds, Limits, Rate
from kubenclave.serving import server
from kubenclave.wire.metrics import Metrics
from tests import collateral_items
from tests.clock import Clock
from tests.evidence import NOW


@dataclass
class FixedSource:
    """Hands out what it was given; ``fails`` is raised instead where it is set."""

    held: dict[ItemKey, Fetched]
    certificates: dict[str, PckAnswer] = field(default_factory=dict)
    fails: KubenclaveError | None = None
    asked: list[ItemKey] = field(default_factory=list)
    name: str = "fixed"

    async def fetch(self, key: ItemKey) -> Fetched:
        self.asked.append(key)
        if self.fails is not None:
            raise self.fails
        if key not in self.held:
            raise unknown(str(key), self.name)
        return self.held[key]

    async def pck_certs(self, request: PckRequest) -> PckAnswer:
        if self.fails is not None:
            raise self.fails
        if request.qe_id not in self.certificates:
            raise unknown("PCK certificates", self.name)
        return self.certificates[request.qe_id]

    async def close(self) -> None:
        pass


@dataclass
class Bench:
    """The service, who may use it, and the application as a server would run it."""

    service: CollateralService
    source: FixedSource
    clock: Clock
    credentials: Credentials
    app: ASGIApp
    tokens: dict[Role, str] = field(default_factory=dict)

    def call(self, method: str, path: str, **how: Any) -> httpx2.Response:
        """Send one request; the path goes out as it stands."""

        async def send() -> httpx2.Response:
            transport = httpx2.ASGITransport(self.app, raise_app_exceptions=False)
            async with httpx2.AsyncClient(transport=transport) as client:
                return await client.request(method, f"http://service{path}", **how)

        return asyncio.run(send())

    def get(self, path: str, **how: Any) -> httpx2.Response:
        return self.call("GET", path, **how)

    def token(self, role: Role) -> str:
        if role not in self.tokens:
            self.tokens[role] = self.credentials.create(f"test-{role}", [role])
        return self.tokens[role]

    @property
    def admin(self) -> dict[str, str]:
        return {"admin-token": self.token(Role.COLLATERAL_ADMIN)}

    @property
    def user(self) -> dict[str, str]:
        return {"user-token": self.token(Role.REGISTER)}


@contextlib.contextmanager
def bench(
    state: Path,
    now: dt.datetime = NOW,
    *,
    sources: bool = True,
    settings: CacheSettings | None = None,
    held: dict[ItemKey, Fetched] | None = None,
    anchor: TrustAnchor = collateral_items.ANCHOR,
    rate: Rate | None = None,
) -> Iterator[Bench]:
    """A service whose one source has everything there is under the SIMULATED root, or what is given."""
    database, clock = Database(state / "collateral.db"), Clock(now)
    source = FixedSource(collateral_items.offered(now) if held is None else held)
    cache = CollateralCache(Store(database, clock), [source] if sources else [], anchor, now=clock, settings=settings)
    credentials = Credentials(database, clock)
    service = CollateralService.create(cache, Guard(credentials), clock)
    app: ASGIApp = Starlette(routes=collateral_routes(service))
    app = Limits(app, Bounds(rate=rate or Rate(), bodies=BODIES), time.monotonic, replies.failure)
    try:
        yield Bench(service, source, clock, credentials, Access(app, Metrics()))
    finally:
        asyncio.run(service.close())
        database.close()


@contextlib.contextmanager
def serving(app: ASGIApp, context: ssl.SSLContext | None = None) -> Iterator[int]:
    """Serve the application on loopback from a thread; yield the port."""
    listening = socket.create_server(("127.0.0.1", 0))
    running = server(app, context)
    thread = threading.Thread(target=lambda: asyncio.run(running.serve([listening])))
    thread.start()
    try:
        yield listening.getsockname()[1]
    finally:
        running.should_exit = True
        thread.join()
        listening.close()
