# SPDX-License-Identifier: Apache-2.0
"""A monitor's memory of a log: page by page, saved and taken up again, never overwritten by what is wrong."""

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from kubenclave.cli.attest.watch import Watch
from kubenclave.dcap.merkle import Frontier, leaf_hash
from kubenclave.errors import TrustError, UsageError
from kubenclave.services.attestation.transparency.checkpoint import Checkpoint, LogKey

PRIVATE = Ed25519PrivateKey.from_private_bytes(bytes(32))
KEY = LogKey("attest.example", PRIVATE.public_key().public_bytes_raw())
ENTRIES = [f'{{"number":{number}}}' for number in range(23)]


def head(size, entries=ENTRIES):
    tree = Frontier()
    for entry in entries[:size]:
        tree.append(leaf_hash(entry.encode()))
    return Checkpoint(KEY.name, size, tree.root()).sign(PRIVATE)


def pages(size, entries=ENTRIES):
    return lambda start, _end: entries[start : start + size]


def follow(path, size, page=3, entries=ENTRIES):
    """One run of a monitor; return the entries that were new."""
    kept: list[str] = []
    watch = Watch.load(path, KEY)
    watch.follow(head(size, entries), pages(page, entries), kept.extend)
    watch.save()
    return kept


def test_every_entry_comes_once_whatever_the_pages(tmp_path):
    path = tmp_path / "log.json"
    seen = [*follow(path, 0), *follow(path, 5), *follow(path, 5), *follow(path, 17, page=1000), *follow(path, 23)]
    assert seen == ENTRIES
    assert Watch.load(path, KEY).tree.size == 23


def test_a_page_that_goes_beyond_the_head_is_cut(tmp_path):
    assert follow(tmp_path / "log.json", 4, page=1000) == ENTRIES[:4]


@pytest.mark.parametrize("size", [5, 6, 12])
def test_a_history_that_was_changed_is_found_by_whoever_saw_it(tmp_path, size):
    path = tmp_path / "log.json"
    follow(path, 5)
    before = path.read_bytes()
    rewritten = ['{"number":"other"}', *ENTRIES[1:]]
    with pytest.raises(TrustError) as caught:
        follow(path, size, entries=rewritten)
    assert caught.value.code == "log.consistency"
    assert path.read_bytes() == before
    assert head(5) in path.with_suffix(".conflict").read_text()
    assert head(size, rewritten) in path.with_suffix(".conflict").read_text()


def test_evidence_that_cannot_be_kept_is_told(tmp_path):
    path = tmp_path / "log.json"
    follow(path, 5)
    path.with_suffix(".conflict").mkdir()
    with pytest.raises(UsageError) as caught:
        follow(path, 4)
    assert caught.value.code == "cli.output"
