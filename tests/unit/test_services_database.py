# SPDX-License-Identifier: Apache-2.0
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing, contextmanager

import pytest

from kubenclave.errors import PlatformError
from kubenclave.services.database import Database

FIRST = "CREATE TABLE things (name TEXT PRIMARY KEY, number INTEGER NOT NULL);"
SECOND = """
CREATE TABLE others (name TEXT);
CREATE TRIGGER no_change BEFORE UPDATE ON others BEGIN SELECT RAISE(ABORT, 'fixed'); END;
INSERT INTO others VALUES ('a;b');
"""


@contextmanager
def opened(path, *steps):
    with closing(Database(path)) as database:
        database.migrate("room", steps)
        yield database


def names(database):
    return [row["name"] for row in database.read("SELECT name FROM things ORDER BY name")]


def test_the_file_and_what_sqlite_puts_beside_it_are_the_owners_alone(tmp_path):
    with opened(tmp_path / "kept.db", FIRST) as database:
        with database.transaction() as connection:
            connection.execute("INSERT INTO things VALUES ('a', 1)")
        modes = {each.name: each.stat().st_mode & 0o777 for each in tmp_path.iterdir()}
    assert modes.keys() >= {"kept.db", "kept.db-wal"}
    assert set(modes.values()) == {0o600}


def test_each_step_runs_once(tmp_path):
    with opened(tmp_path / "kept.db", FIRST) as database, database.transaction() as connection:
        connection.execute("INSERT INTO things VALUES ('a', 1)")
    for _ in range(2):
        with opened(tmp_path / "kept.db", FIRST, SECOND) as database:
            assert names(database) == ["a"]
            assert [row["name"] for row in database.read("SELECT name FROM others")] == ["a;b"]


def test_a_step_that_fails_leaves_no_half_of_itself(tmp_path):
    broken = "CREATE TABLE half (name TEXT); CREATE TABLE things (name TEXT);"
    with opened(tmp_path / "kept.db", FIRST) as database:
        with pytest.raises(PlatformError):
            database.migrate("room", (FIRST, broken))
        assert not database.read("SELECT 1 FROM sqlite_master WHERE name = 'half'")
        database.migrate("room", (FIRST, SECOND))


def test_a_file_of_a_later_version_is_refused(tmp_path):
    with opened(tmp_path / "kept.db", FIRST, SECOND) as database:
        with pytest.raises(PlatformError) as caught:
            database.migrate("room", (FIRST,))
        assert caught.value.code == "database.newer"


def test_rooms_have_their_own_versions(tmp_path):
    with opened(tmp_path / "kept.db", FIRST) as database:
        database.migrate("another", ("CREATE TABLE theirs (name TEXT);",))
        versions = {row["room"]: row["version"] for row in database.read("SELECT * FROM migrations")}
    assert versions == {"room": 1, "another": 1}


def test_a_transaction_happens_whole_or_not_at_all(tmp_path):
    with opened(tmp_path / "kept.db", FIRST) as database:
        with pytest.raises(ValueError, match="midway"), database.transaction() as connection:
            connection.execute("INSERT INTO things VALUES ('a', 1)")
            raise ValueError("midway")
        with pytest.raises(sqlite3.IntegrityError), database.transaction() as connection:
            connection.execute("INSERT INTO things VALUES ('b', 1)")
            connection.execute("INSERT INTO things VALUES ('b', 2)")
        assert names(database) == []
        with database.transaction() as connection:
            connection.execute("INSERT INTO things VALUES ('c', 1)")
        assert names(database) == ["c"]


def test_threads_write_one_after_the_other_and_lose_nothing(tmp_path):
    with opened(tmp_path / "kept.db", FIRST) as database:
        with database.transaction() as connection:
            connection.execute("INSERT INTO things VALUES ('a', 0)")

        def count():
            for _ in range(50):
                with database.transaction() as connection:
                    (number,) = connection.execute("SELECT number FROM things").fetchone()
                    connection.execute("UPDATE things SET number = ?", (number + 1,))

        threads = [threading.Thread(target=count) for _ in range(4)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        assert [row["number"] for row in database.read("SELECT number FROM things")] == [200]


def test_what_was_committed_outlives_the_process(tmp_path):
    program = f"""
import os, signal, pathlib
from kubenclave.services.database import Database
database = Database(pathlib.Path({str(tmp_path / "kept.db")!r}))
database.migrate("room", ({FIRST!r},))
with database.transaction() as connection:
    connection.execute("INSERT INTO things VALUES ('kept', 1)")
with database.transaction() as connection:
    connection.execute("INSERT INTO things VALUES ('lost', 1)")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == -9
    with opened(tmp_path / "kept.db", FIRST) as database:
        assert names(database) == ["kept"]
        assert [row[0] for row in database.read("PRAGMA integrity_check")] == ["ok"]


@pytest.mark.parametrize("make", ["directory", "garbage", "no directory"])
def test_a_file_that_cannot_be_used_is_said(tmp_path, make):
    path = tmp_path / "kept.db"
    if make == "directory":
        path.mkdir(0o700)
    elif make == "garbage":
        path.write_bytes(b"this is no database" * 100)
        path.chmod(0o600)
    else:
        path = tmp_path / "nowhere" / "kept.db"
    with pytest.raises(PlatformError) as caught:
        Database(path)
    assert caught.value.code == "database.unusable"


def test_nothing_is_done_once_it_is_closed(tmp_path):
    with opened(tmp_path / "kept.db", FIRST) as database:
        pass
    with pytest.raises(PlatformError) as caught:
        database.read("SELECT 1")
    assert caught.value.code == "database.closed"


@pytest.mark.parametrize("name", ["a.db", "a.db-wal"])
@pytest.mark.parametrize("mode", [0o604, 0o602, 0o666])
def test_a_file_that_everybody_can_read_or_write_is_refused(tmp_path, name, mode):
    """As one that was restored with a careless umask: signing keys are in there."""
    for each in ("a.db", "a.db-wal"):
        (tmp_path / each).touch(0o600)
    (tmp_path / name).chmod(mode)
    with pytest.raises(PlatformError) as caught:
        Database(tmp_path / "a.db")
    assert (caught.value.code, caught.value.field) == ("database.exposed", str(tmp_path / name))


def test_a_file_that_everybody_can_replace_is_refused(tmp_path):
    """As in a directory that somebody else on the machine has made beforehand."""
    place = tmp_path / "state"
    place.mkdir()
    place.chmod(0o777)
    with pytest.raises(PlatformError) as caught:
        Database(place / "a.db")
    assert (caught.value.code, caught.value.field) == ("database.exposed", str(place))


def test_the_group_of_a_pods_volume_is_no_stranger(tmp_path):
    path = tmp_path / "a.db"
    path.touch(0o600)
    path.chmod(0o660)
    Database(path).close()
