# SPDX-License-Identifier: Apache-2.0
"""Several processes append to one log at once, and are killed in the middle of it."""

import subprocess
import sys
from pathlib import Path

from kubenclave.dcap import merkle
from kubenclave.services.attestation.transparency.checkpoint import open_checkpoint
from kubenclave.services.attestation.transparency.log import VerdictLog
from kubenclave.services.database import Database

WRITER = Path(__file__).with_name("log_writer.py")


def test_a_kill_loses_no_entry_that_was_acknowledged_and_the_tree_stays_whole(tmp_path):
    path = tmp_path / "attestation.db"
    opened = Database(path)
    early = VerdictLog(opened, origin="attest.example").head()
    opened.close()
    writers = [
        subprocess.Popen([sys.executable, str(WRITER), str(path), name], stdout=subprocess.PIPE, text=True)
        for name in ("one", "two", "three")
    ]
    acknowledged = []
    for _ in range(20):
        acknowledged += [writer.stdout.readline() for writer in writers if writer.stdout]
    for writer in writers:
        writer.kill()
    for writer in writers:
        rest, _ = writer.communicate()
        acknowledged += [line for line in rest.splitlines(keepends=True) if line.endswith("}\n")]

    opened = Database(path)
    try:
        log = VerdictLog(opened, origin="attest.example")
        entries: list[bytes] = []
        while page := log.entries(len(entries), log.size()):
            entries += page
        places = dict(line.rstrip("\n").split(" ", 1) for line in acknowledged)
        assert len(places) == len(acknowledged) >= 60
        assert {place: entries[int(place)].decode() for place in places} == places
        head, edge = log.head(), merkle.Frontier()
        for entry in entries:
            edge.append(merkle.leaf_hash(entry))
        assert (head.checkpoint.size, head.checkpoint.root) == (edge.size, edge.root())
        assert open_checkpoint(head.note, log.key) == head.checkpoint
        merkle.check_consistency(0, early.checkpoint.root, edge.size, edge.root(), log.consistency(0, edge.size))
    finally:
        opened.close()
