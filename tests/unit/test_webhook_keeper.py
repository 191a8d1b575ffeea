# SPDX-License-Identifier: Apache-2.0
"""Several replicas look after one Secret and one configuration, by a clock that the test turns."""

import asyncio
import base64
import datetime as dt
import functools
import random

import pytest
from cryptography import x509
from structlog.testing import capture_logs

from kubenclave.cluster.api import MUTATING_WEBHOOKS, SECRETS
from kubenclave.cluster.webhook.certificates import Lifetimes
from kubenclave.cluster.webhook.keeper import Keeper, Place
from kubenclave.errors import ClusterError, UnreachableError
from kubenclave.wire.metrics import Metrics
from tests.asynchronous import in_a_loop
from tests.fake_cluster import FakeCluster
from tests.unit.test_webhook_certificates import trusts

PLACE = Place("kubenclave")
LIFETIMES = Lifetimes(dt.timedelta(days=90), dt.timedelta(days=9), dt.timedelta(minutes=2))


class Site:
    """A cluster with replicas; ``served`` is the leaf that each presents."""

    def __init__(self, replicas=3):
        self.now = dt.datetime(2026, 3, 1, tzinfo=dt.UTC)
        self.api = FakeCluster()
        self.api.put(SECRETS, {"metadata": {"namespace": "kubenclave", "name": PLACE.secret}})
        webhook = {"name": "w", "clientConfig": {"service": {}}}
        self.api.put(MUTATING_WEBHOOKS, {"metadata": {"name": PLACE.configuration}, "webhooks": [webhook]})
        self.served: dict[int, x509.Certificate] = {}
        self.keepers = [
            Keeper(
                self.api,
                PLACE,
                functools.partial(self._use, index),
                Metrics(),
                lifetimes=LIFETIMES,
                now=lambda: self.now,
            )
            for index in range(replicas)
        ]

    def _use(self, index, held):
        self.served[index] = held.leaf.certificate

    @property
    def bundle(self) -> bytes:
        configuration = self.api.objects[MUTATING_WEBHOOKS.path(name=PLACE.configuration)]
        return base64.b64decode(configuration["webhooks"][0]["clientConfig"].get("caBundle", ""))

    def check(self):
        """Whoever says that it is ready is trusted."""
        for index, keeper in enumerate(self.keepers):
            if keeper.missing() is None:
                assert trusts(self.bundle, self.served[index], self.now)


@in_a_loop
async def test_replicas_that_start_at_once_agree():
    site = Site()
    assert [keeper.missing() for keeper in site.keepers] == ["no certificate yet"] * 3
    await asyncio.gather(*(keeper.look_after() for keeper in site.keepers))
    assert [keeper.missing() for keeper in site.keepers] == [None] * 3
    assert len(set(site.served.values())) == 1
    assert len(x509.load_pem_x509_certificates(site.bundle)) == 1
    site.check()


@pytest.mark.parametrize("seed", range(5))
@in_a_loop
async def test_years_go_by_and_no_replica_is_ever_not_trusted(seed):
    rng = random.Random(seed)
    site = Site()
    await asyncio.gather(*(keeper.look_after() for keeper in site.keepers))
    authorities = set()
    for _ in range(200):
        site.now += dt.timedelta(hours=rng.choice([1, 20, 30]))
        await asyncio.gather(*(keeper.look_after() for keeper in rng.sample(site.keepers, 2)))
        site.check()
        authorities.update(x509.load_pem_x509_certificates(site.bundle))
    assert len(authorities) >= 2


@in_a_loop
async def test_a_watch_brings_the_new_leaf_to_the_others():
    site = Site(2)
    running = [asyncio.create_task(keeper._watch()) for keeper in site.keepers]
    await site.keepers[0].look_after()
    site.now += dt.timedelta(days=8)
    await site.keepers[0].look_after()
    for _ in range(20):
        await asyncio.sleep(0)
    assert site.served[0] == site.served[1]
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)


@in_a_loop
async def test_a_wiped_configuration_is_told_again():
    site = Site(1)
    await site.keepers[0].look_after()
    before = site.bundle
    site.api.put(
        MUTATING_WEBHOOKS,
        {"metadata": {"name": PLACE.configuration}, "webhooks": [{"name": "w", "clientConfig": {}}]},
    )
    await site.keepers[0].look_after()
    assert site.bundle == before


@in_a_loop
async def test_a_damaged_secret_is_written_anew():
    site = Site(1)
    await site.keepers[0].look_after()
    secret = await site.api.get(SECRETS, PLACE.secret, namespace="kubenclave")
    secret["data"]["tls.key"] = base64.b64encode(b"garbage").decode()
    site.api.put(SECRETS, secret)
    with capture_logs() as logs:
        await site.keepers[0].look_after()
    assert "certificates.unreadable" in {entry["event"] for entry in logs}
    site.check()
    secret["data"]["tls.key"] = "no base64!"
    site.api.put(SECRETS, secret)
    await site.keepers[0].look_after()
    site.check()


@in_a_loop
async def test_nothing_secret_is_logged():
    with capture_logs() as logs:
        site = Site(1)
        await site.keepers[0].look_after()
    assert "PRIVATE" not in str(logs)


@in_a_loop
async def test_at_rest_nothing_is_written():
    site = Site(1)
    await site.keepers[0].look_after()
    site.api.calls.clear()
    await site.keepers[0].look_after()
    assert [verb for verb, _ in site.api.calls] == ["get", "get"]


@in_a_loop
async def test_while_the_server_is_away_what_was_good_stays_so_until_it_ends():
    site = Site(1)
    keeper = site.keepers[0]
    await keeper.look_after()
    site.api.away = True
    with pytest.raises(UnreachableError):
        await keeper.look_after()
    assert keeper.missing() is None
    site.now += dt.timedelta(days=10)
    assert keeper.missing() == "the certificate has ended"


@in_a_loop
async def test_without_a_configuration_nobody_is_ready():
    site = Site(1)
    await site.api.delete(MUTATING_WEBHOOKS, PLACE.configuration)
    with pytest.raises(ClusterError):
        await site.keepers[0].look_after()
    assert site.keepers[0].missing() is not None


@in_a_loop
async def test_upkeep_goes_on_after_a_failure():
    site = Site(1)
    site.api.away = True
    with capture_logs() as logs:
        running = asyncio.create_task(site.keepers[0].run())
        await asyncio.sleep(0.05)
        site.api.away = False
        async with asyncio.timeout(10):
            while site.keepers[0].missing() is not None:  # noqa: ASYNC110 - it says so when asked
                await asyncio.sleep(0.05)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert {"certificates.upkeep-failed", "cluster.watch-failed"} <= {entry["event"] for entry in logs}
