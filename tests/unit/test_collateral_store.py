# SPDX-License-Identifier: Apache-2.0
"""The store: copies that are only replaced by newer ones, attempts beside them, bounded whatever is asked for."""

import datetime as dt
from dataclasses import replace
from pathlib import Path

import pytest

from kubenclave.dcap.anchor import intel_root
from kubenclave.errors import KubenclaveError, TrustError, UsageError
from kubenclave.platform.simulated.tcb import FMSPC
from kubenclave.services.collateral import store as module
from kubenclave.services.collateral.cache import CollateralCache
from kubenclave.services.collateral.intake import Bundles
from kubenclave.services.collateral.items import ROOT_CRL, Item, ItemKey, Tee
from kubenclave.services.collateral.store import Store
from kubenclave.services.database import Database
from tests.clock import Clock
from tests.collateral_world import DAY, NOW, cache_of, clock, item, store
from tests.pcs_upstream import World

__all__ = ["clock", "store"]

WORLD = World(lambda: NOW)
TCB_INFO = ItemKey.tcb_info(Tee.SGX, FMSPC.hex())
HOUR = dt.timedelta(hours=1)
REFUSED = KubenclaveError("no", code="source.dns")


@pytest.fixture(scope="module")
def info() -> Item:
    return item(WORLD, TCB_INFO)


def test_an_item_comes_back_as_it_was_put(store: Store, info: Item):
    assert store.get(TCB_INFO) is None
    store.put(info)
    assert store.get(TCB_INFO) == info
    assert store.keys() == [TCB_INFO]
    assert store.items() == [info]
    assert b"tcbInfo" not in repr(info).encode()


@pytest.mark.parametrize(
    "older",
    [
        lambda info: replace(info, number=info.number - 1, issued=info.issued + DAY),
        lambda info: replace(info, issued=info.issued - dt.timedelta(seconds=1)),
        lambda info: replace(info, number=info.number + 1, issued=info.issued - DAY),
    ],
)
def test_older_is_refused_unless_told_to(store: Store, info: Item, older: object):
    assert callable(older)
    store.put(info)
    with pytest.raises(TrustError) as caught:
        store.put(older(info))
    assert caught.value.code == "collateral.rollback"
    assert store.get(TCB_INFO) == info
    store.put(older(info), allow_rollback=True)
    assert store.get(TCB_INFO) == older(info)


def test_each_name_goes_forward_on_its_own(store: Store, info: Item):
    store.put(replace(info, number=18))
    store.put(replace(info, key=replace(TCB_INFO, tee=Tee.TDX)))
    store.put(replace(info, key=replace(TCB_INFO, update="early")))
    assert len(store.keys()) == 3


def test_all_are_put_or_none(store: Store, info: Item):
    root = item(WORLD, ROOT_CRL)
    store.put(info)
    with pytest.raises(TrustError):
        store.put_all([root, replace(info, number=1)])
    assert store.get(ROOT_CRL) is None
    store.put_all([root, replace(info, number=1)], allow_rollback=True)
    assert len(store.keys()) == 2


def test_what_is_put_is_renewed_in_its_turn(store: Store, info: Item, clock: Clock):
    store.put(info)
    assert store.due(used_since=NOW - DAY) == [TCB_INFO]
    assert store.claim(TCB_INFO, NOW + HOUR)
    assert not store.claim(TCB_INFO, NOW + HOUR)
    assert store.due(used_since=NOW - DAY) == []
    assert store.next_due(used_since=NOW - DAY) == NOW + HOUR
    clock.advance(HOUR)
    assert store.due(used_since=NOW + DAY) == []
    assert store.next_due(used_since=NOW + DAY) is None


def test_attempts_are_told_beside_the_copy(store: Store, info: Item, clock: Clock):
    store.put(info)
    clock.advance(HOUR)
    store.failed(TCB_INFO, REFUSED, clock() + HOUR)
    store.failed(TCB_INFO, REFUSED, clock() + HOUR)
    status = store.attempt(TCB_INFO)
    assert status is not None
    assert (status.failures, status.error_code, status.failed) == (2, "source.dns", clock())
    assert (status.fetched, status.number, status.source) == (NOW, 17, "world")
    store.succeeded(TCB_INFO, clock() + DAY)
    (after,) = store.status()
    assert (after.failures, after.last_success, after.next_try) == (0, clock(), clock() + DAY)
    assert after.error_code == "source.dns"  # what it was is still there to see


def test_a_use_is_noted_once_an_hour(store: Store, clock: Clock):
    assert store.is_new_use(TCB_INFO)
    store.note_use(TCB_INFO)
    assert not store.is_new_use(TCB_INFO)
    clock.advance(HOUR)
    assert store.is_new_use(TCB_INFO)


def test_names_that_anybody_makes_up_are_bounded(
    store: Store, info: Item, monkeypatch: pytest.MonkeyPatch, clock: Clock
):
    monkeypatch.setattr(module, "_MOST_ATTEMPTS", 10)
    store.put(info)
    for number in range(30):
        clock.advance(dt.timedelta(seconds=1))
        store.failed(ItemKey.tcb_info(Tee.SGX, f"{number:012x}"), REFUSED, clock())
    status = store.status()
    assert len(status) == 11
    assert TCB_INFO in {each.key for each in status}
    assert ItemKey.tcb_info(Tee.SGX, f"{29:012x}") in {each.key for each in status}


def test_a_source_and_its_last_failure(store: Store, clock: Clock):
    store.source_answered("intel", None)
    store.source_answered("intel", REFUSED)
    (found,) = store.sources()
    assert (found.name, found.last_success, found.failures, found.error_code) == ("intel", NOW, 1, "source.dns")
    clock.advance(HOUR)
    store.source_answered("intel", None)
    (found,) = store.sources()
    assert (found.failures, found.last_success, found.failed) == (0, NOW + HOUR, NOW)


def test_another_process_sees_what_is_committed(store: Store, info: Item, tmp_path: Path, clock: Clock):
    store.put(info)
    other = Database(tmp_path / "collateral.db")
    try:
        assert Store(other, clock).get(TCB_INFO) == info
    finally:
        other.close()


def test_what_was_verified_under_one_root_is_never_served_under_another(store: Store, clock: Clock):
    """Copies are not verified again when they are served, so a store belongs to a root for good."""
    cache_of(store, clock=clock)
    cache_of(store, clock=clock)
    for other in (
        lambda: CollateralCache(store, [], intel_root(), now=clock),
        lambda: Bundles(store.database, store, intel_root()),
    ):
        with pytest.raises(UsageError) as caught:
            other()
        assert caught.value.code == "collateral.other-root"
