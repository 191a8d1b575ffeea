# SPDX-License-Identifier: Apache-2.0
"""A cache that is killed in the middle of renewing loses nothing that it had committed, and corrupts nothing."""

import datetime as dt
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import IO

from kubenclave.dcap.anchor import TrustAnchor
from kubenclave.services.collateral.ingest import check
from kubenclave.services.collateral.items import ROOT_CRL, Item, ItemKey
from kubenclave.services.collateral.store import Store
from kubenclave.services.database import Database
from tests.integration.collateral_child import KEYS
from tests.pcs_upstream import Upstream, World

ROOT = Path(__file__).parents[2]
ROUNDS = 6


def now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


class Hurry:
    """A time that gains an hour with each look, from weeks ago until now: what it dates is always newer, and good."""

    def __init__(self) -> None:
        self._time = now() - dt.timedelta(days=20)

    def __call__(self) -> dt.datetime:
        self._time = min(self._time + dt.timedelta(hours=1), now())
        return self._time


def start(database: Path, url: str, root: Path) -> subprocess.Popen[str]:
    program = [sys.executable, "-m", "tests.integration.collateral_child", str(database), url, str(root)]
    return subprocess.Popen(program, cwd=ROOT, stdout=subprocess.PIPE, text=True, env=os.environ | {"NO_PROXY": "*"})


def read(stdout: IO[str], lines: int, told: dict[ItemKey, int]) -> None:
    """Take in that many lines of what the child says it has committed."""
    for _ in range(lines):
        number, issued = stdout.readline().split()
        told[KEYS[int(number)]] = int(issued)


def test_a_cache_that_is_killed_while_it_renews(tmp_path: Path):
    world = World(Hurry())
    database, root = tmp_path / "collateral.db", tmp_path / "root.der"
    root.write_bytes(world.pki.root_der)
    told: dict[ItemKey, int] = {}
    rest = random.Random(7)
    with Upstream(world) as upstream:
        for number in range(ROUNDS):
            child = start(database, upstream.url, root)
            assert child.stdout is not None
            with child.stdout as stdout:
                read(stdout, len(KEYS) + rest.randrange(3 * len(KEYS)), told)
                child.send_signal(signal.SIGKILL)
                assert child.wait() == -signal.SIGKILL
                for line in stdout.read().splitlines()[:-1]:  # the last may be cut
                    told[KEYS[int(line.split()[0])]] = int(line.split()[1])
            assert_whole(database, world, told, number)


def assert_whole(path: Path, world: World, told: dict[ItemKey, int], number: int) -> None:
    database = Database(path)
    try:
        assert [row[0] for row in database.read("PRAGMA integrity_check")] == ["ok"]
        held = {item.key: item for item in Store(database, now).items()}
    finally:
        database.close()
    assert held.keys() == set(KEYS), f"round {number}"
    for key, issued in told.items():
        assert int(held[key].issued.timestamp()) >= issued, f"round {number}: {key}"
    anchor = TrustAnchor.from_certificate(world.pki.root_der)
    for item in held.values():
        assert verified_again(item, held[ROOT_CRL], anchor) == item


def verified_again(item: Item, root_crl: Item, anchor: TrustAnchor) -> Item:
    return check(
        item.key,
        item.body,
        item.issuer_chain,
        anchor=anchor,
        now=now(),
        root_crl=root_crl,
        source=item.source,
        fetched=item.fetched,
    )
