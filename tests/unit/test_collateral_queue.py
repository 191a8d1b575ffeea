# SPDX-License-Identifier: Apache-2.0
"""The registration queue: reading it takes nothing out, leases end, and what is malformed never gets in."""

import datetime as dt
from pathlib import Path

import pytest

from kubenclave.errors import FormatError, PlatformError
from kubenclave.services.collateral import queue as module
from kubenclave.services.collateral.queue import Platform, PlatformQueue, QueueState
from kubenclave.services.database import Database
from tests.clock import Clock
from tests.evidence import NOW

MEMBERS = {
    "qe_id": "ab" * 16,
    "pce_id": "0000",
    "cpu_svn": "0c" * 16,
    "pce_svn": "0d00",
    "enc_ppid": "ef" * 384,
    "platform_manifest": "",
}
PLATFORM = Platform.from_json(MEMBERS)


@pytest.fixture
def clock():
    return Clock(NOW)


@pytest.fixture
def queue(tmp_path: Path, clock: Clock):
    database = Database(tmp_path / "collateral.db")
    yield PlatformQueue(database, clock)
    database.close()


def test_a_platform_is_spelt_in_upper_case_as_clients_spell_it():
    assert PLATFORM.as_dict() == {name: value.upper() for name, value in MEMBERS.items()}


def test_with_a_manifest_nothing_else_is_kept():
    platform = Platform.from_json({**MEMBERS, "platform_manifest": "a1b2"})
    assert platform.as_dict() == {
        "qe_id": "AB" * 16,
        "pce_id": "0000",
        "cpu_svn": "",
        "pce_svn": "",
        "enc_ppid": "",
        "platform_manifest": "A1B2",
    }


def test_a_manifest_of_null_is_none():
    assert Platform.from_json({**MEMBERS, "platform_manifest": None}) == PLATFORM


@pytest.mark.parametrize(
    ("members", "field"),
    [
        ([], None),
        ({**MEMBERS, "qe_id": ""}, "qe_id"),
        ({**MEMBERS, "qe_id": "a" * 261}, "qe_id"),
        ({**MEMBERS, "qe_id": "a\n"}, "qe_id"),
        ({**MEMBERS, "qe_id": 7}, "qe_id"),
        ({**MEMBERS, "pce_id": "00"}, "pce_id"),
        ({**MEMBERS, "cpu_svn": "0g" * 16}, "cpu_svn"),
        ({**MEMBERS, "pce_svn": None}, "pce_svn"),
        ({**MEMBERS, "enc_ppid": "00"}, "enc_ppid"),
        ({**MEMBERS, "platform_manifest": "xyz"}, "platform_manifest"),
        ({**MEMBERS, "platform_manifest": "a" * (module.MAX_MANIFEST + 1)}, "platform_manifest"),
        ({"qe_id": "a", "platform_manifest": "aa"}, "pce_id"),
    ],
)
def test_what_is_no_platform_is_refused_by_field(members: object, field: str | None):
    with pytest.raises(FormatError) as caught:
        Platform.from_json(members)
    assert (caught.value.code, caught.value.field) == ("registration.malformed", field)


def test_what_identifies_a_machine_is_in_no_message_and_no_repr():
    with pytest.raises(FormatError) as caught:
        Platform.from_json({**MEMBERS, "enc_ppid": "5ec7e7" * 3})
    assert "5ec7e7" not in str(caught.value)
    assert MEMBERS["enc_ppid"].upper() not in repr(PLATFORM)
    assert PLATFORM.qe_id not in repr(PLATFORM)


def test_reading_takes_nothing_out(queue: PlatformQueue):
    queue.add(PLATFORM)
    assert queue.waiting(QueueState.NEW) == [PLATFORM]
    assert queue.waiting(QueueState.NEW) == [PLATFORM]


def test_a_lease_hides_a_platform_from_others_until_it_ends(queue: PlatformQueue, clock: Clock):
    queue.add(PLATFORM)
    assert queue.waiting(QueueState.NEW, lease=dt.timedelta(minutes=5)) == [PLATFORM]
    assert queue.waiting(QueueState.NEW) == []
    assert queue.waiting(QueueState.NEW, lease=dt.timedelta(minutes=5)) == []
    assert queue.lengths() == {QueueState.NEW: 1, QueueState.NOT_AVAILABLE: 0}
    clock.time += dt.timedelta(minutes=5)
    assert queue.waiting(QueueState.NEW) == [PLATFORM]


def test_first_come_first_and_only_done_takes_out(queue: PlatformQueue):
    others = [Platform.from_json({**MEMBERS, "qe_id": f"{number:032x}"}) for number in range(3)]
    for each in others:
        queue.add(each)
    assert queue.waiting(QueueState.NEW) == others
    assert queue.waiting(QueueState.NEW, lease=dt.timedelta(seconds=1)) == others
    assert queue.done([(others[1].qe_id.lower(), "0000"), ("nobody", "0000")]) == 1
    assert queue.lengths()[QueueState.NEW] == 2


def test_who_registers_again_stands_there_once_with_what_it_says_now(queue: PlatformQueue):
    queue.add(PLATFORM)
    again = Platform.from_json({**MEMBERS, "cpu_svn": "0e" * 16})
    queue.add(again)
    assert queue.waiting(QueueState.NEW) == [again]


def test_a_platform_without_certificates_is_told_apart_until_it_registers_again(queue: PlatformQueue):
    queue.add(PLATFORM)
    queue.not_available(PLATFORM.qe_id, PLATFORM.pce_id, "Intel has none")
    assert queue.waiting(QueueState.NEW) == []
    assert queue.waiting(QueueState.NOT_AVAILABLE) == [PLATFORM]
    queue.add(PLATFORM)
    assert queue.waiting(QueueState.NEW) == [PLATFORM]


def test_the_queue_has_a_bound(queue: PlatformQueue, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "CAPACITY", 1)
    queue.add(PLATFORM)
    queue.add(PLATFORM)  # the same again takes no more room
    with pytest.raises(PlatformError) as caught:
        queue.add(Platform.from_json({**MEMBERS, "qe_id": "01"}))
    assert caught.value.code == "registration.full"
    assert queue.waiting(QueueState.NEW) == [PLATFORM]


def test_manifests_have_a_bound_of_their_own_for_they_are_large(queue: PlatformQueue, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "WITH_MANIFEST", 1)
    large = {"qe_id": "02", "pce_id": "0000", "platform_manifest": "AB"}
    queue.add(Platform.from_json(large))
    queue.add(Platform.from_json(large))
    with pytest.raises(PlatformError) as caught:
        queue.add(Platform.from_json({**large, "qe_id": "03"}))
    assert (caught.value.code, caught.value.found) == ("registration.full", "1 platforms with a manifest")
    queue.add(PLATFORM)
    assert len(queue.waiting(QueueState.NEW)) == 2
    monkeypatch.setattr(module, "WITH_MANIFEST", 9)
    monkeypatch.setattr(module, "CAPACITY", 2)
    with pytest.raises(PlatformError, match="full"):
        queue.add(Platform.from_json({**large, "qe_id": "03"}))
