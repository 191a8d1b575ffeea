# SPDX-License-Identifier: Apache-2.0
"""What a TCB recovery will do: verdicts under both generations, the day between, and how sure that is."""

import datetime as dt
from collections.abc import Sequence
from dataclasses import replace

import pytest

from kubenclave.dcap.documents import TcbInfo
from kubenclave.dcap.tcb import TcbStatus
from kubenclave.errors import KubenclaveError
from kubenclave.platform.simulated import documents
from kubenclave.platform.simulated.documents import Level
from kubenclave.platform.simulated.tcb import FMSPC, PlatformTcb
from kubenclave.services.collateral.forecast import Certainty, Forecast, forecast, forecast_all, outlook
from kubenclave.services.collateral.items import Item, ItemKey, Kind, Tee
from kubenclave.services.collateral.platforms import KnownPlatform
from kubenclave.services.collateral.store import Store
from kubenclave.sgx.quote import TeeType
from kubenclave.wire.pcs import EvaluationNumber, EvaluationNumbers
from tests.asynchronous import in_a_loop
from tests.clock import Clock
from tests.collateral_world import DAY, NOW, WorldSource, cache_of, clock, store
from tests.pcs_upstream import World

__all__ = ["clock", "store"]

UP_TO_DATE, OLD = PlatformTcb.UP_TO_DATE, PlatformTcb.OUT_OF_DATE
NEWER = replace(UP_TO_DATE.svns, components=(15, 15, *UP_TO_DATE.svns.components[2:]))
RECOVERED: Sequence[Level] = (
    Level(NEWER, TcbStatus.UP_TO_DATE, NOW, (), (6, 1, 9, *[0] * 13)),
    *(replace(each, status=TcbStatus.OUT_OF_DATE, advisories=("INTEL-SA-09999",)) for each in documents.LEVELS[:1]),
    *documents.LEVELS[1:],
)


def platform(tcb: PlatformTcb = UP_TO_DATE, tdx_svns: tuple[int, ...] | None = None) -> KnownPlatform:
    svns = tcb.svns
    return KnownPlatform(
        "ab" * 16, FMSPC.hex(), "0000", "platform", svns.components, svns.pce_svn, tdx_svns, "evidence", NOW, NOW
    )


def info(number: int, levels: Sequence[Level] = documents.LEVELS, tee: TeeType = TeeType.SGX) -> TcbInfo:
    document = documents.tcb_info(NOW, NOW + 30 * DAY, levels=levels, evaluation_number=number, tee=tee)
    return TcbInfo.parse(documents.compact(document))


def numbers(event: dt.datetime, number: int = 18) -> EvaluationNumbers:
    return EvaluationNumbers("SGX", NOW, NOW + 30 * DAY, (EvaluationNumber(number, event, event),))


def test_a_platform_that_falls_behind():
    event = NOW - 7 * DAY
    found = forecast(platform(), info(17), info(18, RECOVERED), numbers(event), now=NOW)
    assert found.early is not None
    assert (found.today.status, found.early.status) == (TcbStatus.UP_TO_DATE, TcbStatus.OUT_OF_DATE)
    assert found.early.advisories == ("INTEL-SA-09999",)
    assert (found.changes, found.date, found.certainty) == (True, event + 42 * DAY, Certainty.ESTIMATED)
    assert "about six weeks" in found.reason
    document = found.as_dict()
    assert document["date"] == "2026-04-09T12:00:00Z"
    assert document["today"]["status"] == "UpToDate"
    assert document["early"]["tcb_evaluation_data_number"] == 18
    assert (document["tee"], document["certainty"]) == ("sgx", "estimated")


def test_a_day_that_has_passed():
    found = forecast(platform(), info(17), info(18, RECOVERED), numbers(NOW - 60 * DAY), now=NOW)
    assert (found.changes, found.date, found.certainty) == (True, None, Certainty.ANY_TIME)


@pytest.mark.parametrize("listed", [None, numbers(NOW, 17)])
def test_a_day_that_nobody_can_tell(listed: EvaluationNumbers | None):
    found = forecast(platform(), info(17), info(18, RECOVERED), listed, now=NOW)
    assert (found.changes, found.date, found.certainty) == (True, None, Certainty.UNKNOWN)
    assert found.as_dict()["date"] is None


def test_nothing_changes():
    same = forecast(platform(), info(17), info(17), numbers(NOW), now=NOW)
    assert (same.changes, same.certainty) == (False, Certainty.NO_CHANGE)
    assert "same generation" in same.reason
    already_old = forecast(platform(OLD), info(17), info(18, RECOVERED), numbers(NOW), now=NOW)
    assert (already_old.changes, already_old.certainty) == (False, Certainty.NO_CHANGE)
    assert "says the same" in already_old.reason


def test_without_early_tcb_info():
    found = forecast(platform(), info(17), None, None, now=NOW)
    assert (found.early, found.changes, found.certainty) == (None, False, Certainty.UNKNOWN)
    assert found.as_dict()["early"] is None


def test_a_platform_below_every_level():
    found = outlook(replace(platform(), pce_svn=1), info(17))
    assert (found.status, found.advisories, found.tcb_date) == (None, (), None)
    made = forecast(replace(platform(), pce_svn=1), info(17), info(18), numbers(NOW), now=NOW)
    assert made.as_dict()["today"]["status"] is None


@pytest.mark.parametrize(
    ("svns", "status"),
    [
        ((5, 0, 8), TcbStatus.UP_TO_DATE),
        ((4, 0, 8), TcbStatus.OUT_OF_DATE),  # the module of version 0 is judged with the platform
        ((0, 1, 8), TcbStatus.UP_TO_DATE),  # later ones by an identity of their own
        ((0, 1, 7), TcbStatus.OUT_OF_DATE),
    ],
)
def test_tdx_components(svns: tuple[int, ...], status: TcbStatus):
    seen = platform(tdx_svns=(*svns, *[0] * 13))
    assert outlook(seen, info(17, tee=TeeType.TDX)).status == status


def world(clock: Clock) -> World:
    return World(clock, early_levels=tuple(RECOVERED), recovery_event=NOW - 7 * DAY)


@in_a_loop
async def test_all_platforms_from_the_cache(store: Store, clock: Clock):
    cache = cache_of(store, WorldSource(world(clock)), clock=clock)
    strange = replace(platform(), fmspc="00" * 6)
    seen = [platform(), platform(OLD, tdx_svns=(5, 1, 8, *[0] * 13)), strange]
    found = await forecast_all(cache.get, seen, now=NOW)
    assert [(each.tee, each.changes) for each in found.made] == [(Tee.SGX, True), (Tee.SGX, False), (Tee.TDX, False)]
    ((tee, fmspc, error),) = found.failed
    assert (tee, fmspc, error.code) == (Tee.SGX, "00" * 6, "collateral.unknown")
    await cache.close()


@in_a_loop
async def test_what_is_missing_is_said(store: Store, clock: Clock):
    cache = cache_of(store, WorldSource(world(clock)), clock=clock)

    async def without(missing: Kind, update: str) -> Forecast:
        async def get(key: ItemKey) -> Item:
            if (key.kind, key.update) == (missing, update):
                raise KubenclaveError("not there", code="collateral.unknown")
            return await cache.get(key)

        (made,) = (await forecast_all(get, [platform()], now=NOW)).made
        return made

    assert (await without(Kind.TCB_INFO, "early")).early is None
    no_list = await without(Kind.EVALUATION_NUMBERS, "")
    assert (no_list.changes, no_list.certainty) == (True, Certainty.UNKNOWN)
    await cache.close()
