# SPDX-License-Identifier: Apache-2.0
"""The log of verdicts: append-only, shared by all workers, every entry on disk before anybody holds its receipt."""

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from kubenclave.dcap import merkle
from kubenclave.errors import PlatformError, UsageError
from kubenclave.services.attestation.transparency.checkpoint import Checkpoint, InclusionReceipt, LogKey
from kubenclave.services.attestation.transparency.tiles import Tile, bundle
from kubenclave.services.batches import Batches
from kubenclave.services.database import Database

MIGRATIONS: Final = (
    """
    CREATE TABLE log_entries (position INTEGER PRIMARY KEY, entry BLOB NOT NULL);
    CREATE TABLE log_nodes (
        level INTEGER NOT NULL, position INTEGER NOT NULL, hash BLOB NOT NULL, PRIMARY KEY (level, position)
    ) WITHOUT ROWID;
    CREATE TABLE log_key (only INTEGER PRIMARY KEY CHECK (only = 1), origin TEXT NOT NULL, private BLOB NOT NULL);
    """,
)

_ENTRIES: Final = "SELECT entry FROM log_entries WHERE position >= ? AND position < ? ORDER BY position"
_NODES: Final = "SELECT hash FROM log_nodes WHERE level = ? AND position >= ? AND position < ? ORDER BY position"

MAX_ENTRY: Final = 65_535  # bytes, what an entry bundle of tlog-tiles can hold
MAX_PAGE: Final = 1_000  # entries per request


@dataclass(frozen=True, slots=True)
class Receipt:
    """What the log says of an entry that it has taken: where it lies, and the proof of that.

    ``leaf_hash``: 32 bytes. ``entry``: canonical JSON. ``proof``: tlog-proof, inclusion under a signed head of
    ``tree_size`` entries.
    """

    index: int
    leaf_hash: bytes
    tree_size: int
    entry: bytes
    proof: str

    def as_dict(self) -> dict[str, Any]:
        """Shape in answers; ``entry`` is text, as its bytes are what was hashed."""
        return {
            "index": self.index,
            "leaf_hash": self.leaf_hash.hex(),
            "tree_size": self.tree_size,
            "entry": self.entry.decode(),
            "proof": self.proof,
        }


@dataclass(frozen=True, slots=True)
class SignedTreeHead:
    """Head of the log and the note that carries the signature over it."""

    checkpoint: Checkpoint
    note: str


class VerdictLog:
    """The log in the database of a service; ``origin`` names it for good (a URL without scheme).

    Its signing key is made together with the log and never again. Raises PlatformError ``log.origin`` when the
    database holds the log of another service.
    """

    def __init__(self, database: Database, *, origin: str) -> None:
        self._database: Final = database
        database.migrate("log", MIGRATIONS)
        self._private: Final = _key_of(database, origin)
        self.key: Final = LogKey(origin, self._private.public_key().public_bytes_raw())
        self._batches: Final = Batches(self._store)

    async def append(self, entry: Mapping[str, Any]) -> Receipt:
        """Add an entry (JSON values) and return its receipt once it is on disk.

        Cancelling the caller does not take the entry back. Raises UsageError ``log.entry-size``, PlatformError.
        """
        encoded = canonical(entry)
        if len(encoded) > MAX_ENTRY:
            raise UsageError(
                "an entry is too large for the log",
                code="log.entry-size",
                expected=f"{MAX_ENTRY} bytes at most",
                found=f"{len(encoded)} bytes",
            )
        return await self._batches.add(encoded)

    def head(self) -> SignedTreeHead:
        """Return the signed head of everything that is committed."""
        size = self.size()
        return self._signed(size, merkle.root_of(self._node, size))

    def size(self) -> int:
        """Return the number of entries that are committed."""
        return int(self._database.read("SELECT COALESCE(MAX(position) + 1, 0) FROM log_entries")[0][0])

    def entries(self, start: int, end: int) -> list[bytes]:
        """Return the entries from ``start`` to before ``end`` as they were hashed, 1 000 and what there is at most.

        Raises UsageError ``log.range``.
        """
        self._check_range("start", start, end)
        rows = self._database.read(_ENTRIES, (start, min(end, start + MAX_PAGE)))
        return [bytes(row[0]) for row in rows]

    def inclusion(self, index: int, size: int) -> list[bytes]:
        """Return the proof that entry ``index`` is in the log of ``size`` entries. Raises UsageError ``log.range``."""
        self._check_range("size", size, self.size())
        return merkle.inclusion_proof(self._node, index, size)

    def consistency(self, first: int, second: int) -> list[bytes]:
        """Return the proof that the log only grew between two sizes. Raises UsageError ``log.range``."""
        self._check_range("second", second, self.size())
        return merkle.consistency_proof(self._node, first, second)

    def tile(self, tile: Tile) -> bytes:
        """Return a tile: hashes of 32 bytes, or entries as a bundle. Raises UsageError ``log.range``."""
        places = (tile.start, tile.start + tile.width)
        if tile.level is None:
            rows = self._database.read(_ENTRIES, places)
        else:
            rows = self._database.read(_NODES, (8 * tile.level, *places))
        self._check_range("width", tile.width, len(rows))
        found = [bytes(row[0]) for row in rows]
        return bundle(found) if tile.level is None else b"".join(found)

    def _store(self, entries: Sequence[bytes]) -> list[Receipt]:
        """Write one batch in one transaction. Another worker may have written since: size and edge are read anew."""
        with self._database.transaction() as connection:
            first = self.size()
            tree = merkle.Frontier.read(self._node, first)
            leaves = [merkle.leaf_hash(entry) for entry in entries]
            nodes = [node for leaf in leaves for node in tree.append(leaf)]
            connection.executemany("INSERT INTO log_entries VALUES (?, ?)", enumerate(entries, first))
            connection.executemany("INSERT INTO log_nodes VALUES (?, ?, ?)", nodes)
        head = self._signed(tree.size, tree.root())
        read = functools.cache(self._node)
        receipts = []
        for index, (entry, leaf) in enumerate(zip(entries, leaves, strict=True), first):
            proof = tuple(merkle.inclusion_proof(read, index, tree.size))
            text = InclusionReceipt(index, proof, head.note).text
            receipts.append(Receipt(index, leaf, tree.size, entry, text))
        return receipts

    def _signed(self, size: int, root: bytes) -> SignedTreeHead:
        checkpoint = Checkpoint(self.key.name, size, root)
        return SignedTreeHead(checkpoint, checkpoint.sign(self._private))

    def _node(self, level: int, index: int) -> bytes:
        rows = self._database.read("SELECT hash FROM log_nodes WHERE level = ? AND position = ?", (level, index))
        if not rows:
            raise PlatformError(
                "the log has lost a part of its tree",
                code="log.damaged",
                field=f"level {level}, position {index}",
                hint="restore the database whole; a log is never repaired by hand",
            )
        return bytes(rows[0]["hash"])

    def _check_range(self, name: str, value: int, end: int) -> None:
        if not 0 <= value <= end:
            raise UsageError(
                "the log has no such place", code="log.range", field=name, expected=f"0 to {end}", found=str(value)
            )


def canonical(entry: Mapping[str, Any]) -> bytes:
    """Canonical JSON: sorted keys, no spaces, UTF-8; the bytes that are hashed."""
    return json.dumps(entry, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def _key_of(database: Database, origin: str) -> Ed25519PrivateKey:
    with database.transaction() as connection:
        row = connection.execute("SELECT origin, private FROM log_key").fetchone()
        if row is None:
            if connection.execute("SELECT 1 FROM log_entries LIMIT 1").fetchone():
                raise PlatformError(
                    "the log has entries and no key",
                    code="log.damaged",
                    hint="restore the database whole: a new key would make another log of it",
                )
            private = Ed25519PrivateKey.generate()
            LogKey(origin, private.public_key().public_bytes_raw())  # refuses a name that cannot be signed for
            connection.execute("INSERT INTO log_key VALUES (1, ?, ?)", (origin, private.private_bytes_raw()))
            return private
    if row["origin"] != origin:
        raise PlatformError(
            "the database holds the log of another service",
            code="log.origin",
            expected=row["origin"],
            found=origin,
            hint="a log keeps its name: give this service a state directory of its own, or its former issuer URL",
        )
    return Ed25519PrivateKey.from_private_bytes(row["private"])
