# SPDX-License-Identifier: Apache-2.0
"""The EPC ledger: what is leased is not free, and a refusal says who holds it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubenclave.errors import PlatformError
from kubenclave.local.ledger import Holder, Ledger

MIB = 1 << 20


def test_leases_are_taken_from_what_is_free_and_come_back_once():
    ledger = Ledger(128 * MIB)
    lease = ledger.take(100 * MIB, Holder("a", 1))
    assert (ledger.free, ledger.used, ledger.leases) == (28 * MIB, 100 * MIB, (lease,))
    ledger.release(lease)
    ledger.release(lease)
    assert (ledger.free, ledger.leases) == (128 * MIB, ())


def test_a_refusal_says_asked_free_and_who_holds_it():
    ledger = Ledger(128 * MIB)
    ledger.take(100 * MIB, Holder("web", 41))
    ledger.take(8 * MIB, Holder("db", 42))
    with pytest.raises(PlatformError) as caught:
        ledger.take(64 * MIB, Holder("late", 43))
    error = caught.value
    assert error.code == "epc.short"
    assert error.message == (
        "not enough EPC: asked 64Mi, free 20Mi of 128Mi; held by web (pid 41) 100Mi, db (pid 42) 8Mi"
    )
    assert (error.expected, error.found) == ("at most 20Mi", "64Mi")
    assert error.hint == "wait until a holder ends, or ask for less"


def test_only_the_largest_holders_are_named():
    ledger = Ledger(100)
    for number in range(8):
        ledger.take(10 + number % 2, Holder(f"h{number}", number))
    with pytest.raises(PlatformError) as caught:
        ledger.take(50, Holder("late", 9))
    assert "3 more 30" in caught.value.message


@pytest.mark.parametrize(("capacity", "hint"), [(0, "doctor node"), (10, "never have that much")])
def test_what_can_never_be_had_is_said_so(capacity, hint):
    with pytest.raises(PlatformError) as caught:
        Ledger(capacity).take(11, Holder("a", 1))
    assert hint in (caught.value.hint or "")
    assert "nobody holds any" in caught.value.message


def test_leases_outlive_a_shrunken_capacity():
    ledger = Ledger(10)
    lease = ledger.take(10, Holder("a", 1))
    ledger.capacity = 4
    assert (ledger.free, ledger.leases) == (0, (lease,))


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 60)), max_size=40))
def test_there_is_never_more_leased_than_there_is(steps):
    ledger = Ledger(100)
    for take, size in steps:
        if take and size <= ledger.free:
            ledger.take(size, Holder("a", 1))
        elif ledger.leases:
            ledger.release(ledger.leases[size % len(ledger.leases)])
        assert ledger.used + ledger.free == 100
