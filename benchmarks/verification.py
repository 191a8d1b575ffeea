# SPDX-License-Identifier: Apache-2.0
"""Verification, against dcap-qvl (Rust) on the same quotes in the same run, one thread.

The peer keeps nothing between calls; what ours keeps is the point of the first two figures. Parsed collateral is at
hand in both for the first two, the third begins with its JSON text.
"""

import datetime as dt
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import dcap_qvl

from benchmarks.figures import Budget, Figure, Peer, Unit
from benchmarks.fleet import AT, Fleet
from benchmarks.timing import Effort, in_turn
from kubenclave import Collateral, verify_quote
from kubenclave.dcap.cache import Cache

PEER: Final = "dcap-qvl"
SAME, FLEET, COLD = Budget(times_better=5), Budget(times_better=3), Budget(times_better=0.8)
REAL_CASES: Final = ("sgx-v3-swhardening", "tdx-v4-uptodate")

Calls = list[Callable[[], Any]]


@dataclass(frozen=True, slots=True)
class Evidence:
    """A quote and what it is verified with; ``root`` None for Intel's."""

    name: str
    quote: bytes
    text: str
    at: dt.datetime
    root: bytes | None = None


def measure(effort: Effort) -> Iterator[Figure]:
    """Measure on SIMULATED platforms, and on real quotes where there are some (KUBENCLAVE_SHARED_DATA)."""
    yield from _fleet(Fleet.of(effort.calls), effort)
    data = Path(os.environ.get("KUBENCLAVE_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data"))
    for name in REAL_CASES:
        if (data / "quotes" / name).is_dir():
            yield from _real(data / "quotes" / name, effort)


def _fleet(fleet: Fleet, effort: Effort) -> Iterator[Figure]:
    seconds = int(AT.timestamp())
    theirs = dcap_qvl.QuoteCollateralV3.from_json(fleet.collateral.to_json())
    one = fleet.platforms[0]
    challenges = [one.quote(number) for number in range(effort.calls)]
    different = [platform.quote(0) for platform in fleet.platforms]
    verify = partial(verify_quote, collateral=fleet.collateral, at=AT, root=fleet.root)
    warm = Cache(2 * effort.calls)

    def peer(quotes: list[bytes]) -> Calls:
        return [partial(dcap_qvl.verify_with_root_ca, quote, theirs, fleet.root, seconds) for quote in quotes]

    def new_platforms() -> Calls:
        """Know the collateral and one platform, and meet all the others for the first time."""
        cache = Cache(8 * len(different))
        verify(challenges[0], cache=cache)
        return [partial(verify, quote, cache=cache) for quote in different[1:]]

    contenders: list[Callable[[], Calls]] = [
        lambda: [partial(verify, quote, cache=warm) for quote in challenges],
        lambda: peer(challenges),
        new_platforms,
        lambda: peer(different[1:]),
    ]
    same, same_peer, new, new_peer = in_turn(contenders, effort)
    unit = Unit.MICROSECONDS
    yield Figure("verify, SIMULATED, same enclave again", unit, same, Peer(PEER, same_peer), SAME)
    yield Figure("verify, SIMULATED, fleet of platforms", unit, new, Peer(PEER, new_peer), FLEET)
    yield _cold(Evidence("SIMULATED", one.quote(0), fleet.collateral.to_json(), AT, fleet.root), effort)


def _real(case: Path, effort: Effort) -> Iterator[Figure]:
    quote, text = (case / "quote.bin").read_bytes(), (case / "collateral.json").read_text(encoding="utf-8")
    expected = json.loads((case / "expected.json").read_text(encoding="utf-8"))
    at = dt.datetime.fromtimestamp(expected["verify_at"], dt.UTC)
    collateral, theirs, warm = Collateral.from_json(text), dcap_qvl.QuoteCollateralV3.from_json(text), Cache()
    contenders: list[Callable[[], Calls]] = [
        lambda: [partial(verify_quote, quote, collateral, at=at, cache=warm)] * effort.calls,
        lambda: [partial(dcap_qvl.verify, quote, theirs, expected["verify_at"])] * effort.calls,
    ]
    ours, peer = in_turn(contenders, effort)
    yield Figure(f"verify, {case.name}, again", Unit.MICROSECONDS, ours, Peer(PEER, peer), SAME)
    yield _cold(Evidence(case.name, quote, text, at), effort)


def _cold(one: Evidence, effort: Effort) -> Figure:
    seconds = int(one.at.timestamp())

    def ours() -> None:
        verify_quote(one.quote, Collateral.from_json(one.text), at=one.at, root=one.root, cache=Cache())

    def peer() -> None:
        collateral = dcap_qvl.QuoteCollateralV3.from_json(one.text)
        if one.root is None:
            dcap_qvl.verify(one.quote, collateral, seconds)
        else:
            dcap_qvl.verify_with_root_ca(one.quote, collateral, one.root, seconds)

    contenders: list[Callable[[], Calls]] = [lambda: [ours] * effort.calls, lambda: [peer] * effort.calls]
    mine, theirs = in_turn(contenders, effort)
    return Figure(f"verify, {one.name}, nothing cached", Unit.MICROSECONDS, mine, Peer(PEER, theirs), COLD)
