# SPDX-License-Identifier: Apache-2.0
"""Challenges: of our own, dated, good once, in whichever process and after a restart."""

import asyncio
import datetime as dt
import threading

import pytest

from kubenclave.errors import TrustError
from kubenclave.services.attestation.challenges import Challenges
from kubenclave.services.database import Database
from tests.clock import START, Clock


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def database(tmp_path):
    opened = Database(tmp_path / "attestation.db")
    yield opened
    opened.close()


@pytest.fixture
def challenges(database, clock):
    return Challenges(database, clock)


def redeem(challenges, nonce):
    asyncio.run(challenges.redeem(nonce))


def refusal(challenges, nonce):
    """How both refuse it: looking and using."""
    with pytest.raises(TrustError) as caught:
        challenges.check(nonce)
    with pytest.raises(TrustError) as used:
        redeem(challenges, nonce)
    assert caught.value.code == used.value.code
    return caught.value.code


def used(database):
    return database.read("SELECT COUNT(*) FROM challenges_used")[0][0]


def test_a_challenge_is_good_once(challenges):
    issued = challenges.issue()
    challenges.check(issued.nonce)
    redeem(challenges, issued.nonce)
    assert refusal(challenges, issued.nonce) == "challenge.used"


def test_a_nonce_fits_into_an_eat_nonce_and_says_when_it_ends(challenges):
    issued = challenges.issue()
    assert len(issued.nonce) == 86
    assert issued.expires == START + dt.timedelta(minutes=5)
    assert issued.nonce != challenges.issue().nonce


def test_a_challenge_ends(challenges, clock):
    nonce = challenges.issue().nonce
    clock.time = START + dt.timedelta(minutes=5)
    challenges.check(nonce)
    clock.time += dt.timedelta(seconds=1)
    assert refusal(challenges, nonce) == "challenge.expired"


def test_issuing_stores_nothing_and_what_was_used_is_forgotten_a_day_after_its_end(challenges, clock, database):
    for _ in range(20):
        challenges.issue()
    assert used(database) == 0
    for _ in range(3):
        redeem(challenges, challenges.issue().nonce)
    assert used(database) == 3
    clock.time += dt.timedelta(days=1, minutes=6)
    redeem(challenges, challenges.issue().nonce)
    assert used(database) == 1


def test_a_clock_that_is_set_back_makes_no_used_challenge_good_again(challenges, clock):
    nonce = challenges.issue().nonce
    redeem(challenges, nonce)
    clock.time = START + dt.timedelta(hours=12)
    redeem(challenges, challenges.issue().nonce)
    clock.time = START
    assert refusal(challenges, nonce) == "challenge.used"


def test_a_challenge_from_when_the_clock_was_ahead_proves_nothing(challenges, clock):
    clock.time = START + dt.timedelta(days=30)
    nonce = challenges.issue().nonce
    clock.time = START
    assert refusal(challenges, nonce) == "challenge.expired"


def test_another_process_and_a_restart_know_the_same_challenges(challenges, clock, tmp_path):
    nonce, other = challenges.issue().nonce, challenges.issue().nonce
    redeem(challenges, nonce)
    second = Database(tmp_path / "attestation.db")
    try:
        later = Challenges(second, clock)
        assert refusal(later, nonce) == "challenge.used"
        redeem(later, other)
    finally:
        second.close()
    assert refusal(challenges, other) == "challenge.used"


def outcome(challenges, nonce):
    try:
        redeem(challenges, nonce)
    except TrustError as error:
        return error.code
    return "good"


def test_of_several_who_try_one_comes_through(challenges, clock, database):
    """In one worker, where they are written together, and in several."""
    nonce, other = challenges.issue().nonce, challenges.issue().nonce

    async def together():
        return await asyncio.gather(*(challenges.redeem(nonce) for _ in range(4)), return_exceptions=True)

    found = asyncio.run(together())
    assert [getattr(each, "code", None) for each in found] == [None, *["challenge.used"] * 3]
    outcomes = []
    threads = [
        threading.Thread(target=lambda: outcomes.append(outcome(Challenges(database, clock), other))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["challenge.used"] * 3 + ["good"]


@pytest.mark.parametrize("place", [0, 31, 43, 55, 85])
def test_a_nonce_that_was_changed_is_unknown(challenges, place):
    nonce = challenges.issue().nonce
    changed = nonce[:place] + ("A" if nonce[place] != "A" else "B") + nonce[place + 1 :]
    assert refusal(challenges, changed) == "challenge.unknown"


@pytest.mark.parametrize("text", ["", "x", "=", "A" * 86, "A" * 87, "A" * 9999, "é" * 86, "+/" * 43, "\ud800" * 86])
def test_what_is_no_nonce_is_unknown(challenges, text):
    assert refusal(challenges, text) == "challenge.unknown"


def test_a_nonce_has_one_spelling(challenges):
    nonce = challenges.issue().nonce
    for spelling in (nonce + "==", " " + nonce, nonce + "\n"):
        assert refusal(challenges, spelling) == "challenge.unknown"


def test_a_nonce_of_another_service_is_unknown(challenges, clock, tmp_path):
    other = Database(tmp_path / "other.db")
    try:
        foreign = Challenges(other, clock).issue().nonce
    finally:
        other.close()
    assert refusal(challenges, foreign) == "challenge.unknown"
