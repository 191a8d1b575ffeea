# SPDX-License-Identifier: Apache-2.0
"""The log of verdicts: receipts that hold, one log for all workers, nothing that is forgotten."""

import asyncio
import hashlib

import pytest

from kubenclave.dcap import merkle
from kubenclave.errors import FormatError, PlatformError, UsageError
from kubenclave.services.attestation.transparency.checkpoint import InclusionReceipt, LogKey, open_checkpoint
from kubenclave.services.attestation.transparency.log import VerdictLog, canonical
from kubenclave.services.attestation.transparency.tiles import Tile
from kubenclave.services.database import Database
from tests.asynchronous import in_a_loop
from tests.unit.test_dcap_merkle import written_out

ORIGIN = "attest.example/simulated"


@pytest.fixture
def database(tmp_path):
    opened = Database(tmp_path / "attestation.db")
    yield opened
    opened.close()


@pytest.fixture
def log(database):
    return VerdictLog(database, origin=ORIGIN)


def filled(log, count):
    async def fill():
        return await asyncio.gather(*(log.append({"number": number}) for number in range(count)))

    return asyncio.run(fill())


def refusal(kind, call, *arguments):
    with pytest.raises(kind) as caught:
        call(*arguments)
    return caught.value.code


def test_an_empty_log_has_a_head(log):
    head = log.head()
    assert (head.checkpoint.size, head.checkpoint.root) == (0, hashlib.sha256(b"").digest())
    assert open_checkpoint(head.note, log.key) == head.checkpoint


def test_every_receipt_holds_and_the_head_is_over_all_entries(log):
    receipts = filled(log, 21)
    assert [receipt.index for receipt in receipts] == list(range(21))
    for number, receipt in enumerate(receipts):
        assert receipt.entry == canonical({"number": number})
        assert receipt.leaf_hash == merkle.leaf_hash(receipt.entry)
        head = InclusionReceipt.parse(receipt.proof).check(receipt.entry, LogKey.parse(str(log.key)))
        assert head.size == receipt.tree_size
    entries = log.entries(0, 21)
    assert entries == [receipt.entry for receipt in receipts]
    assert log.head().checkpoint.root == written_out(entries)


@in_a_loop
async def test_entries_that_wait_together_are_written_together(database, log, monkeypatch):
    transactions, transaction = [], database.transaction

    def counted():
        transactions.append(1)
        return transaction()

    monkeypatch.setattr(database, "transaction", counted)
    await asyncio.gather(*(log.append({"number": number}) for number in range(50)))
    assert len(transactions) == 1
    await log.append({"number": 50})
    assert len(transactions) == 2


@in_a_loop
async def test_entries_that_come_while_the_disk_is_busy_go_into_the_next_batch(log):
    first = asyncio.create_task(log.append({"number": 0}))
    for _ in range(2):  # the caller opens a batch, the batch closes itself and waits for the disk
        await asyncio.sleep(0)
    assert log._batches._open is None
    later = await asyncio.gather(*(log.append({"number": number}) for number in (1, 2)))
    assert (await first).tree_size == 1
    assert [(each.index, each.tree_size) for each in later] == [(1, 3), (2, 3)]


@in_a_loop
async def test_a_caller_who_goes_away_takes_nothing_back(log):
    going = asyncio.create_task(log.append({"number": 0}))
    staying = asyncio.create_task(log.append({"number": 1}))
    await asyncio.sleep(0)
    going.cancel()
    assert (await staying).index == 1
    assert log.size() == 2


@in_a_loop
async def test_when_the_disk_refuses_all_who_wait_are_told_and_the_next_may_succeed(database, log, monkeypatch):
    def full():
        raise PlatformError("full", code="database.unusable")

    with monkeypatch.context() as patch:
        patch.setattr(database, "transaction", full)
        outcomes = await asyncio.gather(*(log.append({"n": n}) for n in range(3)), return_exceptions=True)
        assert [getattr(outcome, "code", None) for outcome in outcomes] == ["database.unusable"] * 3
    assert (await log.append({"n": 3})).index == 0


def test_workers_share_one_log(log, tmp_path):
    filled(log, 3)
    other = Database(tmp_path / "attestation.db")
    try:
        second = VerdictLog(other, origin=ORIGIN)
        assert second.key == log.key
        filled(second, 2)
    finally:
        other.close()
    receipts = filled(log, 1)
    assert receipts[0].index == 5
    assert log.head().checkpoint.root == written_out(log.entries(0, 6))


def test_proofs_between_any_two_sizes(log):
    filled(log, 13)
    entries = log.entries(0, 13)
    merkle.check_inclusion(merkle.leaf_hash(entries[4]), 4, 9, log.inclusion(4, 9), written_out(entries[:9]))
    merkle.check_consistency(5, written_out(entries[:5]), 13, written_out(entries), log.consistency(5, 13))


@pytest.mark.parametrize(
    ("call", "arguments"),
    [
        ("inclusion", (0, 4)),
        ("inclusion", (3, 3)),
        ("consistency", (1, 4)),
        ("consistency", (3, 2)),
        ("entries", (2, 1)),
        ("entries", (-1, 1)),
        ("tile", (Tile(0, 0, 4),)),
        ("tile", (Tile(None, 1, 1),)),
        ("tile", (Tile(1, 0, 1),)),
    ],
)
def test_there_is_nothing_beyond_the_end(log, call, arguments):
    filled(log, 3)
    assert refusal(UsageError, getattr(log, call), *arguments) == "log.range"


def test_a_page_of_entries_ends_with_the_log(log):
    filled(log, 3)
    assert len(log.entries(1, 1000)) == 2
    assert log.entries(3, 9) == []


def test_tiles_hold_the_hashes_of_complete_subtrees_and_the_entries(log):
    filled(log, 260)
    entries = log.entries(0, 260)
    leaves = [merkle.leaf_hash(entry) for entry in entries]
    assert log.tile(Tile(0, 0, 256)) == b"".join(leaves[:256])
    assert log.tile(Tile(0, 1, 4)) == b"".join(leaves[256:])
    assert log.tile(Tile(1, 0, 1)) == written_out(entries[:256])
    expected = b"".join(len(entry).to_bytes(2, "big") + entry for entry in entries[256:259])
    assert log.tile(Tile(None, 1, 3)) == expected


@pytest.mark.parametrize(
    ("path", "tile"),
    [
        ("0/000", Tile(0, 0, 256)),
        ("63/001.p/255", Tile(63, 1, 255)),
        ("1/x001/x234/067", Tile(1, 1234067, 256)),
        ("entries/x001/000.p/1", Tile(None, 1000, 1)),
    ],
)
def test_paths_of_tiles(path, tile):
    assert Tile.parse(path) == tile


@pytest.mark.parametrize(
    "path",
    [
        "",
        "0",
        "0/0",
        "00/000",
        "64/000",
        "0/x000/001",
        "0/001.p/256",
        "0/001.p/0",
        "0/001.p/01",
        "-1/000",
        "0/\u0660\u0660\u0660",
        "0/000/x001",
    ],
)
def test_what_is_no_path_of_a_tile(path):
    assert refusal(FormatError, Tile.parse, path) == "log.tile"


@in_a_loop
async def test_an_entry_is_bounded(log):
    with pytest.raises(UsageError) as caught:
        await log.append({"x": "y" * 65_536})
    assert caught.value.code == "log.entry-size"


def test_a_database_keeps_the_log_it_has(database):
    VerdictLog(database, origin=ORIGIN)
    assert refusal(PlatformError, lambda: VerdictLog(database, origin="other.example")) == "log.origin"


def test_a_name_that_cannot_be_signed_for_is_refused(database):
    assert refusal(FormatError, lambda: VerdictLog(database, origin="a b")) == "checkpoint.bad-key"


def test_a_key_is_never_made_anew_for_a_log_with_entries(database, log):
    filled(log, 1)
    with database.transaction() as connection:
        connection.execute("DELETE FROM log_key")
    assert refusal(PlatformError, lambda: VerdictLog(database, origin=ORIGIN)) == "log.damaged"


def test_a_hole_in_the_tree_is_told(database, log):
    filled(log, 3)
    with database.transaction() as connection:
        connection.execute("DELETE FROM log_nodes WHERE level = 1")
    assert refusal(PlatformError, log.head) == "log.damaged"


def test_canonical_json_is_sorted_compact_and_utf_8():
    assert canonical({"b": 1, "a": "é"}) == '{"a":"é","b":1}'.encode()
