# SPDX-License-Identifier: Apache-2.0
"""Heads, entries and proofs of the log, checked by the packages that Go checks its own module log with."""

import asyncio
import json
import shutil
import subprocess
from pathlib import Path

import pytest

from kubenclave.services.attestation.transparency.log import VerdictLog
from kubenclave.services.database import Database

MODULE = Path(__file__).parent.parent / "interop" / "log-go"
SIZE = 37

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    if shutil.which("go") is None:
        pytest.skip("needs go: apt-get install golang")
    built = tmp_path_factory.mktemp("go") / "check"
    done = subprocess.run(["go", "build", "-o", built], cwd=MODULE, capture_output=True, text=True, check=False)
    if any(text in done.stderr for text in ("dial tcp", "proxy", "download", "no required module")):
        pytest.skip("needs golang.org/x/mod: no network here")
    assert done.returncode == 0, done.stderr
    return built


@pytest.fixture
def seen(tmp_path):
    """A log with every head it had on the way."""
    database = Database(tmp_path / "attestation.db")
    log = VerdictLog(database, origin="attest.example/log")
    notes = []
    for number in range(SIZE):
        asyncio.run(log.append({"number": number}))
        notes.append(log.head().note)
    yield {
        "Key": str(log.key),
        "Notes": notes,
        "Entries": [entry.decode() for entry in log.entries(0, SIZE)],
        "Inclusion": [[each.hex() for each in log.inclusion(index, SIZE)] for index in range(SIZE)],
        "Consistency": [[each.hex() for each in log.consistency(size, SIZE)] for size in range(1, SIZE)],
    }
    database.close()


def check(program, seen):
    return subprocess.run([program], input=json.dumps(seen), capture_output=True, text=True, check=False)


@pytest.mark.timeout(300)  # the first build may fetch the module
def test_go_agrees_on_heads_entries_and_proofs(program, seen):
    done = check(program, seen)
    assert (done.returncode, done.stdout) == (0, f"{SIZE} entries {SIZE} heads\n"), done.stderr


@pytest.mark.timeout(300)
def test_go_refuses_what_was_changed(program, seen):
    for name in ("Notes", "Entries"):
        changed = [*seen[name]]
        changed[3] = changed[3].replace("3", "8", 1) if name == "Entries" else changed[3].replace("\n4\n", "\n5\n")
        assert check(program, {**seen, name: changed}).returncode == 1
