# SPDX-License-Identifier: Apache-2.0
"""SQLite for services: one file that several workers share, changed in whole transactions or not at all.

Write-ahead logging lets readers go on while one worker writes; ``synchronous=FULL`` makes what was committed outlive a
power cut. Each room of a service keeps its own tables and brings its own migrations, so none needs to know another's.
"""

import contextlib
import os
import sqlite3
import stat
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from kubenclave.errors import PlatformError

_BUSY: Final = 10.0  # seconds to wait for another worker's transaction
_MODE: Final = 0o600  # keys, tokens' hashes and evidence are in there
_TOO_OPEN: Final = 0o007


class Database:
    """An SQLite file, for use from any thread; every thread gets a connection of its own.

    Raises PlatformError (codes ``database.*``) where the file cannot be used.
    """

    def __init__(self, path: Path) -> None:
        self.path: Final = path
        self._local: Final = threading.local()
        self._lock: Final = threading.Lock()
        # SQLite lets whoever waits for a transaction sleep and try again, longer each time: of the threads of one
        # process the unlucky ones would wait for half a second.
        self._turn: Final = threading.RLock()
        self._open: Final[list[sqlite3.Connection]] = []
        self._closed = False
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, _MODE))
        except FileExistsError:
            pass
        except OSError as error:
            raise _unusable(path, error) from error
        _check_mode(path)
        self.read("SELECT 1")

    def migrate(self, room: str, steps: Sequence[str]) -> None:
        """Bring one room's tables up to date; ``steps`` are SQL scripts, of which those run that never ran here.

        A step, once released, is never changed: a later one corrects it. Raises PlatformError ``database.newer`` when
        the file was written by a later version of the program.
        """
        with self.transaction() as connection:
            connection.execute(
                "CREATE TABLE IF NOT EXISTS migrations (room TEXT PRIMARY KEY, version INTEGER NOT NULL)"
            )
            row = connection.execute("SELECT version FROM migrations WHERE room = ?", (room,)).fetchone()
            version = 0 if row is None else int(row["version"])
            if version > len(steps):
                raise PlatformError(
                    "the database was written by a later version of kubenclave",
                    code="database.newer",
                    field=room,
                    expected=f"version {len(steps)} at most",
                    found=f"version {version}",
                    hint="upgrade kubenclave, or restore a copy from before that version ran",
                )
            for step in steps[version:]:
                for statement in _statements(step):
                    connection.execute(statement)
            if version < len(steps):
                connection.execute("INSERT OR REPLACE INTO migrations VALUES (?, ?)", (room, len(steps)))

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """One transaction that may write: all of it happens, or nothing when the block raises."""
        connection = self._connection()
        with self._turn:
            try:
                connection.execute("BEGIN IMMEDIATE")
            except sqlite3.Error as error:
                raise _unusable(self.path, error) from error
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException as error:
                with contextlib.suppress(sqlite3.Error):  # a full disk may have ended it already
                    connection.execute("ROLLBACK")
                if isinstance(error, sqlite3.OperationalError):
                    raise _unusable(self.path, error) from error
                raise

    def read(self, sql: str, parameters: Sequence[Any] = ()) -> list[sqlite3.Row]:
        """Return the rows of one query, of everything that is committed by now."""
        try:
            return self._connection().execute(sql, parameters).fetchall()
        except sqlite3.OperationalError as error:
            raise _unusable(self.path, error) from error

    def close(self) -> None:
        """Close the connections of all threads; nothing may be under way."""
        with self._lock:
            self._closed = True
            for connection in self._open:
                connection.close()
            self._open.clear()

    def _connection(self) -> sqlite3.Connection:
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is not None and not self._closed:
            return connection
        if self._closed:
            raise PlatformError("the database is closed", code="database.closed", found=str(self.path))
        try:
            connection = sqlite3.connect(self.path, timeout=_BUSY, isolation_level=None, check_same_thread=False)
            connection.row_factory = sqlite3.Row
            for setting in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "trusted_schema=OFF"):
                connection.execute(f"PRAGMA {setting}").fetchall()
        except sqlite3.Error as error:
            raise _unusable(self.path, error) from error
        with self._lock:
            self._open.append(connection)
        self._local.connection = connection
        return connection


def _statements(script: str) -> Iterator[str]:
    """Split a script: ``executescript`` would commit the transaction that it runs in."""
    statement = ""
    for piece in script.split(";"):
        statement += f"{piece};"
        if sqlite3.complete_statement(statement):  # not within a text or a trigger
            if piece.strip():
                yield statement
            statement = ""


def _check_mode(path: Path) -> None:
    """Refuse a file that everybody can read, write or replace, as one that was restored carelessly.

    The group may have it: Kubernetes gives volumes to a group of the pod's own.
    """
    # SQLite makes its log with the mode of the file.
    for each, open_ in ((path.parent, 0o002), (path, _TOO_OPEN), (path.with_name(f"{path.name}-wal"), _TOO_OPEN)):
        try:
            mode = stat.S_IMODE(each.stat().st_mode)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise _unusable(each, error) from error
        if mode & open_:
            raise PlatformError(
                "everybody on this machine can read or write the database, which holds keys",
                code="database.exposed",
                field=str(each),
                expected="no access for others",
                found=f"mode {mode:04o}",
                hint=f"chmod o= {each}; revoke the signing keys if others could read them",
            )


def _unusable(path: Path, error: Exception) -> PlatformError:
    text = error.strerror or str(error) if isinstance(error, OSError) else str(error)
    return PlatformError(
        "the database cannot be used",
        code="database.unusable",
        field=str(path),
        found=text,
        hint="check that the file and its directory are writable, on a local disk, with space left",
    )
