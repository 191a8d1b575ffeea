# SPDX-License-Identifier: Apache-2.0
"""The cache: bounded, of successes only, shared between threads."""

import functools
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from kubenclave.dcap.cache import DEFAULT_ENTRIES, Cache


def test_a_check_that_succeeded_is_not_done_again():
    cache, results = Cache(), iter(["first", "second"])
    assert [cache.get_or_check("key", lambda: next(results)) for _ in range(3)] == ["first"] * 3


def test_a_check_that_failed_is_done_again():
    cache, calls = Cache(), []

    def fail():
        calls.append(1)
        raise ValueError

    for _ in range(3):
        with pytest.raises(ValueError):
            cache.get_or_check("key", fail)
    assert (len(calls), len(cache)) == (3, 0)


def test_none_is_a_result_like_any_other():
    cache, calls = Cache(), []
    for _ in range(2):
        assert cache.get_or_check("key", lambda: calls.append(1)) is None
    assert calls == [1]


def test_never_more_entries_than_allowed():
    cache = Cache(entries=10)
    for number in range(1000):
        cache.get_or_check(number, lambda: number)  # noqa: B023  # called at once
    assert len(cache) == 10


def test_the_least_recently_used_entry_goes_first():
    cache = Cache(entries=2)
    for key in ("a", "b", "a", "c"):
        cache.get_or_check(key, lambda: None)
    calls: list[str] = []
    for key in ("a", "c", "b"):
        cache.get_or_check(key, lambda: calls.append(key))  # noqa: B023  # called at once
    assert calls == ["b"]


def test_a_cache_of_no_entries_only_calls():
    cache, calls = Cache(entries=0), []
    for _ in range(2):
        cache.get_or_check("key", lambda: calls.append(1))
    assert (len(calls), len(cache)) == (2, 0)


def test_clear_forgets_everything():
    cache = Cache()
    cache.get_or_check("key", lambda: "old")
    cache.clear()
    assert len(cache) == 0
    assert cache.get_or_check("key", lambda: "new") == "new"


def test_a_slow_check_does_not_hold_up_other_threads():
    cache, entered, release = Cache(), threading.Event(), threading.Event()

    def slow():
        entered.set()
        assert release.wait(10)
        return "slow"

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(cache.get_or_check, "slow", slow)
        assert entered.wait(10)
        assert cache.get_or_check("quick", lambda: "quick") == "quick"
        release.set()
        assert waiting.result(10) == "slow"


def test_many_threads_get_the_right_results_from_a_cache_that_is_too_small():
    cache = Cache(entries=5)

    def work(start: int) -> bool:
        keys = [(start + step) % 20 for step in range(2000)]
        return all(cache.get_or_check(key, functools.partial(pow, key, 2)) == key**2 for key in keys)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(8)))
    assert len(cache) == 5


def test_the_default_is_bounded_too():
    assert DEFAULT_ENTRIES <= 4096
