# SPDX-License-Identifier: Apache-2.0
"""Turns, places and deadlines of those who wait."""

import asyncio

from kubenclave.node.quotehelper.deadlines import Deadlines
from kubenclave.node.quotehelper.fair import Crowd, FairQueue


def taken(queue: FairQueue[str]) -> list[str]:
    items = []
    while (item := queue.get()) is not None:
        items.append(item)
    return items


def test_peers_take_turns():
    queue = FairQueue[str](10, 100)
    for item in ("a1", "a2", "a3", "b1", "c1", "b2"):
        assert queue.put(ord(item[0]), item) is None
    assert len(queue) == 6
    assert taken(queue) == ["a1", "b1", "c1", "a2", "b2", "a3"]
    assert len(queue) == 0


def test_a_peer_has_a_bounded_line():
    queue = FairQueue[str](2, 100)
    assert [queue.put(1, item) for item in "abc"] == [None, None, "c"]
    assert queue.put(2, "d") is None


def test_a_full_queue_takes_a_place_from_the_longest_line():
    queue = FairQueue[str](10, 3)
    assert [queue.put(1, item) for item in "abc"] == [None, None, None]
    assert queue.put(2, "x") == "c"
    assert queue.put(2, "y") == "y"  # two against one: nobody has more to give
    assert queue.put(1, "d") == "d"
    assert queue.put(3, "z") == "b"
    assert taken(queue) == ["a", "x", "z"]


def test_a_queue_without_places_takes_nothing():
    assert FairQueue[str](1, 0).put(1, "a") == "a"


def test_whoever_has_most_makes_room():
    crowd = Crowd[str]()
    assert crowd.oldest_of_largest() is None
    for peer, item in ((1, "a"), (2, "b"), (2, "c"), (1, "d"), (1, "e")):
        crowd.add(peer, item)
    assert crowd.oldest_of_largest() == "a"
    crowd.discard(1, "a")
    crowd.discard(1, "d")
    assert crowd.oldest_of_largest() == "b"
    for peer, item in ((1, "e"), (2, "b"), (2, "c"), (2, "c"), (9, "z")):
        crowd.discard(peer, item)
    assert crowd.oldest_of_largest() is None


def test_items_expire_in_order_and_only_those_that_are_due():
    async def run() -> None:
        expired: list[str] = []
        done = asyncio.Event()

        def late(item: str) -> None:
            expired.append(item)
            deadlines.discard("c")  # takes another one along
            if item == "d":
                done.set()

        deadlines = Deadlines[str](0.03, late)
        for item in "abc":
            deadlines.add(item)
        assert "a" in deadlines
        assert deadlines.discard("b")
        assert not deadlines.discard("b")
        assert deadlines.oldest() == "a"
        await asyncio.sleep(0.01)
        deadlines.add("d")
        async with asyncio.timeout(10):
            await done.wait()
        assert expired == ["a", "d"]
        assert len(deadlines) == 0
        assert deadlines.oldest() is None
        deadlines.add("e")
        assert deadlines.clear() == ["e"]
        assert deadlines.clear() == []

    asyncio.run(run())
