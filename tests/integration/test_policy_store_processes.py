# SPDX-License-Identifier: Apache-2.0
"""Several processes set policies at once: no version is lost or given twice, and a killed writer leaves whole ones."""

import datetime as dt
import signal
import subprocess
import sys
import time
from pathlib import Path

from kubenclave.services.attestation.policies.store import PolicyStore
from kubenclave.services.database import Database
from tests.conftest import ROOT

WRITER = """
import datetime as dt, sys
from pathlib import Path
from kubenclave.errors import UsageError
from kubenclave.services.attestation.policies.store import PolicyStore
from kubenclave.services.database import Database

database = Database(Path(sys.argv[1]))
store = PolicyStore(database, lambda: dt.datetime.now(dt.UTC))
text = "version=1.0; authorizationrules{ =>permit(); }; // " + "x" * 1000
print("ready", flush=True)
sys.stdin.read(1)
done = 0
while done < int(sys.argv[3]):
    before = store.current("SgxEnclave").version
    try:
        after = store.put("SgxEnclave", text, "azure", by=f"{sys.argv[2]}:{done}", expected_version=before)
    except UsageError as error:
        assert error.code == "policy-store.conflict", error
    else:
        assert after.version == before + 1
        done += 1
database.close()
"""


def start(path: Path, name: str, count: int) -> "subprocess.Popen[str]":
    argv = [sys.executable, "-c", WRITER, str(path), name, str(count)]
    return subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)


def let_go(writer: "subprocess.Popen[str]") -> None:
    assert writer.stdin is not None
    writer.stdin.write("g")
    writer.stdin.flush()


def ready(writer: "subprocess.Popen[str]") -> None:
    assert writer.stdout is not None
    assert writer.stdout.readline() == "ready\n"


def history(path: Path) -> list[tuple[int, str]]:
    database = Database(path)
    try:
        store = PolicyStore(database, lambda: dt.datetime.now(dt.UTC))
        return [(each.version, each.by) for each in reversed(store.history("SgxEnclave", limit=100_000))]
    finally:
        database.close()


def test_writers_that_meet_lose_nothing(tmp_path):
    path = tmp_path / "attestation.db"
    Database(path).close()
    writers = [start(path, name, 10) for name in "abc"]
    for writer in writers:
        ready(writer)
    for writer in writers:
        let_go(writer)
    for writer in writers:
        assert writer.communicate()[0] == ""
        assert writer.returncode == 0
    found = history(path)
    assert [version for version, _ in found] == list(range(1, 31))
    assert sorted(by for _, by in found) == sorted(f"{name}:{number}" for name in "abc" for number in range(10))


def test_a_killed_writer_leaves_whole_versions(tmp_path):
    path = tmp_path / "attestation.db"
    with start(path, "a", 1_000_000) as writer:
        ready(writer)
        let_go(writer)
        end = time.monotonic() + 30
        while len(history(path)) < 5:
            assert time.monotonic() < end
        writer.send_signal(signal.SIGKILL)
    found = history(path)
    assert found == [(number + 1, f"a:{number}") for number in range(len(found))]
    with start(path, "b", 1) as writer:
        ready(writer)
        let_go(writer)
        assert writer.wait(30) == 0
    assert history(path) == [*found, (len(found) + 1, "b:0")]
