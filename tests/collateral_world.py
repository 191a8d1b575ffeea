# SPDX-License-Identifier: Apache-2.0
"""A collateral cache in one process: a SIMULATED world as its source, a clock that tests move, a database in a file."""

import datetime as dt
import random
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from kubenclave.dcap.anchor import TrustAnchor
from kubenclave.errors import KubenclaveError
from kubenclave.services.collateral.cache import CacheSettings, CollateralCache
from kubenclave.services.collateral.ingest import check
from kubenclave.services.collateral.items import ROOT_CRL, Item, ItemKey, Kind
from kubenclave.services.collateral.sources.base import Fetched, PckAnswer, PckRequest, unknown
from kubenclave.services.collateral.sources.http import Answer
from kubenclave.services.collateral.sources.routes import item_of, route_of
from kubenclave.services.collateral.store import Store
from kubenclave.services.database import Database
from kubenclave.wire import pcs
from tests.clock import Clock
from tests.pcs_upstream import ENCRYPTED_PPID, Fault, Request, Service, World

NOW: Final = dt.datetime(2026, 3, 5, 12, 0, tzinfo=dt.UTC)
DAY: Final = dt.timedelta(days=1)


class WorldSource:
    """A source without a network. ``failures`` raises an error for a kind of item, ``faults`` bends what comes."""

    def __init__(self, world: World, name: str = "world") -> None:
        self.name = name
        self.world = world
        self.failures: dict[Kind, KubenclaveError] = {}
        self.faults: dict[Kind, Fault] = {}
        self.pck_failure: KubenclaveError | None = None
        self.asked: list[ItemKey] = []
        self.pck_asked: list[PckRequest] = []
        self.closed = False
        self.before: Callable[[], Any] | None = None

    async def fetch(self, key: ItemKey) -> Fetched:
        self.asked.append(key)
        if self.before is not None:
            await self.before()
        if key.kind in self.failures:
            raise self.failures[key.kind]
        path, parameters = route_of(key)
        found = Service(self.world).reply(Request("GET", path, parameters, {}, b""), self.faults.get(key.kind))
        if found is None:
            raise unknown(str(key), self.name)
        return item_of(key, Answer(found.body, {name.lower(): value for name, value in found.headers.items()}))

    async def pck_certs(self, request: PckRequest) -> PckAnswer:
        self.pck_asked.append(request)
        if self.pck_failure is not None:
            raise self.pck_failure
        asked = {"encrypted_ppid": ENCRYPTED_PPID.hex(), "pceid": request.pce_id.hex()}
        query = urllib.parse.urlencode(asked)
        found = Service(self.world).reply(
            Request("GET", "/sgx/certification/v4/pckcerts", dict(urllib.parse.parse_qsl(query)), {}, b""), None
        )
        if found is None:
            raise unknown("PCK certificates", self.name)
        return PckAnswer(pcs.parse_pck_certs(found.body), pcs.decode_chain(found.headers[pcs.PCK_CHAIN]))

    async def close(self) -> None:
        self.closed = True


def anchor_of(world: World) -> TrustAnchor:
    return TrustAnchor.from_certificate(world.pki.root_der)


@contextmanager
def stored(path: Path, clock: Clock) -> Iterator[Store]:
    """Open a store, and close its database."""
    database = Database(path / "collateral.db")
    try:
        yield Store(database, clock)
    finally:
        database.close()


def cache_of(store: Store, *sources: WorldSource, clock: Clock, **settings: Any) -> CollateralCache:
    world = sources[0].world if sources else World(clock)
    return CollateralCache(
        store,
        sources,
        anchor_of(world),
        now=clock,
        settings=CacheSettings(**settings),
        jitter=random.Random(1),
    )


def fetched_of(world: World, key: ItemKey, fault: Fault | None = None) -> Fetched:
    path, parameters = route_of(key)
    found = Service(world).reply(Request("GET", path, parameters, {}, b""), fault)
    assert found is not None
    return item_of(key, Answer(found.body, {name.lower(): value for name, value in found.headers.items()}))


def item(world: World, key: ItemKey, fault: Fault | None = None, **changes: Any) -> Item:
    """Check an item as it comes from the world, or with other arguments of ``check``."""
    fetched, now = fetched_of(world, key, fault), world.now()
    given: dict[str, Any] = {
        "body": fetched.body,
        "issuer_chain": fetched.issuer_chain,
        "anchor": anchor_of(world),
        "now": now,
        "root_crl": None if key.kind is Kind.ROOT_CRL else item(world, ROOT_CRL),
        "source": "world",
        "fetched": now,
    }
    return check(key, **(given | changes))


@pytest.fixture
def clock() -> Clock:
    return Clock(NOW)


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> Iterator[Store]:
    with stored(tmp_path, clock) as opened:
        yield opened


@pytest.fixture
def source(clock: Clock) -> WorldSource:
    return WorldSource(World(clock))
