# SPDX-License-Identifier: Apache-2.0
"""The cache: what is served when, what is renewed when, and what a failure does not touch."""

import asyncio
import datetime as dt
import gc
from dataclasses import replace
from typing import Any

import pytest

from kubenclave.errors import KubenclaveError, TrustError, UsageError
from kubenclave.platform.simulated.tcb import FMSPC
from kubenclave.services.collateral import cache as module
from kubenclave.services.collateral.assemble import collateral_for, needs_of
from kubenclave.services.collateral.cache import CollateralCache, StaleError
from kubenclave.services.collateral.items import EARLY, ROOT_CRL, STANDARD, ItemKey, Kind, Tee
from kubenclave.services.collateral.sources.base import SourceError, UnknownError
from kubenclave.services.collateral.store import Store
from kubenclave.services.web.limits import Rate, TooFastError
from tests import evidence
from tests.asynchronous import in_a_loop
from tests.clock import Clock
from tests.collateral_world import DAY, NOW, WorldSource, cache_of, clock, item, source, store
from tests.pcs_upstream import OTHER_FMSPC, Fault, World

__all__ = ["clock", "source", "store"]

TCB_INFO = ItemKey.tcb_info(Tee.SGX, FMSPC.hex())
EARLY_INFO = replace(TCB_INFO, update=EARLY)
HOUR = dt.timedelta(hours=1)


def down(code: str = "source.dns", **more: Any) -> SourceError:
    return SourceError("the source is down", code=code, **more)


async def failure(cache: CollateralCache, key: ItemKey) -> KubenclaveError:
    with pytest.raises(KubenclaveError) as caught:
        await cache.get(key)
    return caught.value


@in_a_loop
async def test_a_miss_is_fetched_once_and_then_served_from_the_store(store: Store, source: WorldSource, clock: Clock):
    cache = cache_of(store, source, clock=clock)
    first = await asyncio.gather(*(cache.get(TCB_INFO) for _ in range(20)))
    again = await cache.get(TCB_INFO)
    assert source.asked == [ROOT_CRL, TCB_INFO]
    assert {each.body for each in (*first, again)} == {first[0].body}
    assert again.source == "world"
    await cache.close()
    assert source.closed


@in_a_loop
async def test_collateral_is_put_together_and_verifies(store: Store, source: WorldSource, clock: Clock):
    cache = cache_of(store, source, clock=clock)
    needs = needs_of(evidence.make().quote)
    assert needs == (Tee.SGX, FMSPC.hex(), "platform")
    collateral = await collateral_for(cache.get, tee=needs.tee, fmspc=needs.fmspc, ca=needs.ca)
    assert collateral == await collateral_for(cache.get, tee=needs.tee, fmspc=needs.fmspc, ca=needs.ca)
    with pytest.raises(UnknownError):
        await collateral_for(cache.get, tee=Tee.SGX, fmspc="00" * 6, ca="platform")
    await cache.close()


@in_a_loop
async def test_that_there_is_no_such_thing_is_remembered_for_a_while(store: Store, source: WorldSource, clock: Clock):
    cache = cache_of(store, source, clock=clock)
    key = ItemKey.tcb_info(Tee.SGX, "00" * 6)
    for _ in range(3):
        assert isinstance(await failure(cache, key), UnknownError)
    assert source.asked.count(key) == 1
    assert await cache.refresh_due() == 0  # nobody asks for it again by himself
    clock.advance(cache.settings.negative)
    assert isinstance(await failure(cache, key), UnknownError)
    assert source.asked.count(key) == 2
    with pytest.raises(UsageError):
        await cache.get(ItemKey(Kind.TCB_INFO, "../x", update=STANDARD))
    await cache.close()


@in_a_loop
async def test_fmspcs_that_are_made_up_do_not_become_a_flood_for_the_sources(
    store: Store, source: WorldSource, clock: Clock, monkeypatch: pytest.MonkeyPatch
):
    """Anybody may ask for any FMSPC, and Intel shuts out who asks too often: then nothing could be renewed."""
    monkeypatch.setattr(module, "_NEW_NAMES", Rate(per_second=0.001, burst=10))
    cache = cache_of(store, source, clock=clock)
    await cache.get(TCB_INFO)
    made_up = [ItemKey.tcb_info(Tee.SGX, f"{number:012x}") for number in range(30)]
    made_up += [ItemKey.identity(Tee.SGX, update=str(number)) for number in range(100, 110)]
    failures = [await failure(cache, key) for key in made_up]
    assert sum(isinstance(each, UnknownError) for each in failures) == 9
    assert sum(isinstance(each, TooFastError) for each in failures) == 31
    assert len([key for key in source.asked if key in made_up]) == 9
    assert len(store.status()) < 20, "what was not asked for leaves no trace"
    assert (await cache.get(TCB_INFO)).key == TCB_INFO
    assert isinstance(await failure(cache, made_up[0]), UnknownError), "what is remembered costs no question"
    clock.advance(2 * DAY)
    assert (await cache.get(TCB_INFO)).key == TCB_INFO, "what was here before is renewed"
    await cache.close()


@in_a_loop
async def test_a_copy_is_renewed_well_before_it_ends_and_not_with_all_others(
    store: Store, source: WorldSource, clock: Clock
):
    cache = cache_of(store, source, clock=clock)
    for key in (TCB_INFO, ItemKey.pck_crl("platform"), ItemKey.pck_crl("processor")):
        await cache.get(key)
    next_tries = {each.next_try for each in cache.status() if each.last_success}
    assert len(next_tries) == 4
    assert all(NOW + 0.7 * DAY <= each <= NOW + DAY for each in next_tries)
    assert await cache.refresh_due() == 1  # early, which nobody has asked for: the forecast wants it
    assert source.asked.count(EARLY_INFO) == 1
    clock.advance(DAY)
    asked = len(source.asked)
    assert await cache.refresh_due() == 5
    assert len(source.asked) == asked + 5
    assert store.get(TCB_INFO) == item(source.world, TCB_INFO)
    await cache.close()


@in_a_loop
async def test_a_short_lived_copy_is_renewed_at_half_of_its_life(store: Store, source: WorldSource, clock: Clock):
    cache = cache_of(store, source, clock=clock, refresh_after=dt.timedelta(days=365))
    await cache.get(TCB_INFO)
    status = store.attempt(TCB_INFO)
    held = store.get(TCB_INFO)
    assert status is not None
    assert held is not None
    assert status.next_try <= NOW + (held.next_update - NOW) / 2
    await cache.close()


@in_a_loop
async def test_a_failing_item_keeps_its_copy_and_stops_no_other(store: Store, source: WorldSource, clock: Clock):
    cache = cache_of(store, source, clock=clock)
    crl = ItemKey.pck_crl("platform")
    await cache.get(TCB_INFO)
    await cache.get(crl)
    before = store.get(TCB_INFO)
    clock.advance(DAY)
    source.failures[Kind.TCB_INFO] = down()
    source.world.issued_later = DAY
    assert await cache.refresh_due() == 4  # with early and the root's list
    assert store.get(TCB_INFO) == before == await cache.get(TCB_INFO)
    renewed = store.get(crl)
    assert renewed is not None
    assert renewed.fetched == clock()
    status = {each.key: each for each in cache.status()}[TCB_INFO]
    assert (status.error_code, status.failures, status.failed) == ("source.dns", 1, clock())
    assert status.fetched == NOW  # the age of what is served is there to see
    assert "the source is down" in (status.error or "")
    await cache.close()


@in_a_loop
async def test_attempts_come_less_and_less_often(store: Store, source: WorldSource, clock: Clock):
    cache = cache_of(store, source, clock=clock, first_pause=dt.timedelta(minutes=1), longest_pause=HOUR)
    await cache.get(TCB_INFO)
    source.failures[Kind.TCB_INFO] = down()
    pauses = []
    for _ in range(9):
        status = store.attempt(TCB_INFO)
        assert status is not None
        clock.time = status.next_try
        await cache.refresh_due()
        status = store.attempt(TCB_INFO)
        assert status is not None
        pauses.append(status.next_try - clock())
    assert pauses[0] <= dt.timedelta(minutes=1)
    assert pauses[0] < pauses[1] < pauses[2] < pauses[3]
    assert all(0.7 * HOUR <= pause <= HOUR for pause in pauses[-2:])
    await cache.close()


@in_a_loop
async def test_a_source_is_left_alone_for_as_long_as_it_wants(store: Store, source: WorldSource, clock: Clock):
    cache = cache_of(store, source, clock=clock)
    await cache.get(TCB_INFO)
    source.failures[Kind.IDENTITY] = down("source.rate-limited", retry_after=2 * HOUR)
    key = ItemKey.identity(Tee.SGX)
    assert (await failure(cache, key)).code == "source.rate-limited"
    asked = len(source.asked)
    again = await failure(cache, key)
    assert isinstance(again, SourceError)
    assert again.retry_after == 2 * HOUR
    assert (await failure(cache, ItemKey.pck_crl("platform"))).code == "source.rate-limited"  # the rest is the source's
    assert len(source.asked) == asked
    clock.advance(2 * HOUR)
    source.failures.clear()
    assert (await cache.get(key)).number == 17
    await cache.close()


@in_a_loop
async def test_sources_are_asked_in_order_and_each_item_knows_its_own(store: Store, source: WorldSource, clock: Clock):
    second = WorldSource(source.world, "second")
    cache = cache_of(store, source, second, clock=clock)
    source.failures[Kind.TCB_INFO] = down("source.tls")
    source.faults[Kind.IDENTITY] = Fault.WRONG_SIGNATURE
    assert (await cache.get(ROOT_CRL)).source == "world"
    assert (await cache.get(TCB_INFO)).source == "second"
    assert (await cache.get(ItemKey.identity(Tee.SGX))).source == "second"
    first, other = cache.source_status()
    assert (first.name, first.failures, first.error_code) == ("world", 2, "qe-identity.signature")
    assert (other.name, other.failures, other.error_code) == ("second", 0, None)
    assert other.last_success == NOW
    await cache.close()


@in_a_loop
async def test_a_source_that_lets_us_wait_is_passed_over_for_a_moment(store: Store, source: WorldSource, clock: Clock):
    second = WorldSource(source.world, "second")
    cache = cache_of(store, source, second, clock=clock)
    source.failures[Kind.TCB_INFO] = down("source.timeout")
    assert (await cache.get(TCB_INFO)).source == "second"
    assert (await cache.get(ItemKey.identity(Tee.SGX))).source == "second"
    clock.advance(cache.settings.first_pause)
    assert (await cache.get(ItemKey.pck_crl("platform"))).source == "world"
    await cache.close()


@in_a_loop
async def test_the_most_telling_failure_is_told(store: Store, source: WorldSource, clock: Clock):
    second = WorldSource(World(clock, fmspcs=()), "second")
    cache = cache_of(store, source, second, clock=clock)
    source.failures[Kind.TCB_INFO] = down("source.proxy")
    assert (await failure(cache, TCB_INFO)).code == "source.proxy"  # not that the second has no such thing
    await cache.close()


@in_a_loop
async def test_a_cache_without_sources(store: Store, source: WorldSource, clock: Clock):
    cache = cache_of(store, clock=clock)
    store.put(item(source.world, ROOT_CRL))
    assert (await cache.get(ROOT_CRL)).source == "world"
    assert isinstance(await failure(cache, TCB_INFO), UnknownError)
    await cache.close()


@in_a_loop
async def test_what_has_ended_is_not_served(store: Store, source: WorldSource, clock: Clock):
    cache = cache_of(store, source, clock=clock)
    held = await cache.get(TCB_INFO)
    source.failures[Kind.TCB_INFO] = down("source.timeout")
    clock.time = held.next_update + HOUR
    error = await failure(cache, TCB_INFO)
    assert isinstance(error, StaleError)
    assert (error.code, error.http_status) == ("collateral.stale", 503)
    assert "the source is down" in str(error)
    assert error.retry_after > dt.timedelta(0)
    assert store.get(TCB_INFO) == held
    lax = cache_of(store, source, clock=clock, dangerously_serve_expired=DAY)
    assert await lax.get(TCB_INFO) == held
    clock.advance(DAY)
    assert isinstance(await failure(lax, TCB_INFO), StaleError)
    source.failures.clear()
    clock.advance(DAY)
    assert (await cache.get(TCB_INFO)).next_update > clock()
    await cache.close()


@in_a_loop
async def test_nothing_goes_backwards(store: Store, source: WorldSource, clock: Clock):
    cache = cache_of(store, source, clock=clock)
    crl = ItemKey.pck_crl("platform")
    before = [await cache.get(TCB_INFO), await cache.get(crl)]
    source.faults |= {Kind.TCB_INFO: Fault.ROLLED_BACK, Kind.PCK_CRL: Fault.ROLLED_BACK}
    for key in (TCB_INFO, crl):
        with pytest.raises(TrustError) as caught:
            await cache.refresh(key)
        assert caught.value.code == "collateral.rollback"
    assert [store.get(TCB_INFO), store.get(crl)] == before
    lax = cache_of(store, source, clock=clock, dangerously_allow_rollback=True)
    assert (await lax.refresh(TCB_INFO)).number == 16
    assert (await lax.refresh(crl)).issued < before[1].issued
    await cache.close()


@in_a_loop
async def test_what_nobody_wants_is_not_renewed(store: Store, source: WorldSource, clock: Clock):
    cache = cache_of(store, source, clock=clock, kept_for=3 * DAY)
    other = ItemKey.tcb_info(Tee.SGX, OTHER_FMSPC.hex())
    await cache.get(other)
    await cache.refresh_due()
    for _ in range(5):
        clock.advance(DAY)
        await cache.get(TCB_INFO)
        await cache.refresh_due()
    asked = source.asked.count(other)
    clock.advance(DAY)
    await cache.refresh_due()
    assert source.asked.count(other) == asked <= 4
    assert source.asked.count(TCB_INFO) >= 5
    await cache.close()


@in_a_loop
async def test_one_worker_of_several_renews_an_item(store: Store, source: WorldSource, clock: Clock):
    other_source = WorldSource(source.world)
    mine, other = cache_of(store, source, clock=clock), cache_of(store, other_source, clock=clock)
    await mine.get(ROOT_CRL)
    clock.advance(DAY)
    assert sum(await asyncio.gather(mine.refresh_due(), other.refresh_due())) == 1
    assert len(source.asked) + len(other_source.asked) == 2
    await mine.close()
    await other.close()


@in_a_loop
async def test_the_loop_renews_what_is_wanted_and_goes_on_after_failures(
    store: Store, source: WorldSource, clock: Clock
):
    cache = cache_of(store, source, clock=clock)
    loop = asyncio.create_task(cache.run())
    await cache.get(TCB_INFO)
    for _ in range(200):
        if store.get(EARLY_INFO) is not None:
            break
        await asyncio.sleep(0.01)
    assert store.get(EARLY_INFO) is not None
    loop.cancel()
    with pytest.raises(asyncio.CancelledError):
        await loop
    await cache.close()


@in_a_loop
async def test_closing_ends_what_is_under_way(store: Store, source: WorldSource, clock: Clock):
    cache = cache_of(store, source, clock=clock)
    started = asyncio.Event()

    async def stall() -> None:
        started.set()
        await asyncio.Event().wait()

    source.before = stall
    waiting = asyncio.create_task(cache.get(ROOT_CRL))
    await started.wait()
    await cache.close()
    with pytest.raises(asyncio.CancelledError):
        await waiting


@in_a_loop
async def test_a_failure_that_nobody_waits_for_any_more_is_no_surprise(store: Store, source: WorldSource, clock: Clock):
    cache = cache_of(store, source, clock=clock)
    started, go = asyncio.Event(), asyncio.Event()
    told: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))

    async def stall() -> None:
        started.set()
        await go.wait()

    source.before, source.failures[Kind.ROOT_CRL] = stall, down()
    waiting = asyncio.create_task(cache.get(ROOT_CRL))
    await started.wait()
    waiting.cancel()  # as when a client hangs up
    with pytest.raises(asyncio.CancelledError):
        await waiting
    go.set()
    with pytest.raises(SourceError):
        await cache.refresh(ROOT_CRL)  # waits for the same attempt
    await cache.close()
    gc.collect()
    assert told == []
