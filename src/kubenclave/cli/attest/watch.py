# SPDX-License-Identifier: Apache-2.0
"""What a monitor remembers of a log between its runs, and how it holds the log to that."""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from kubenclave.dcap.collateral import load_json
from kubenclave.dcap.merkle import Frontier, leaf_hash
from kubenclave.errors import FormatError, TrustError, UsageError
from kubenclave.services.attestation.transparency.checkpoint import Checkpoint, LogKey, open_checkpoint

Fetch = Callable[[int, int], Sequence[str]]
"""(first, end) to entries from the first on, as many as the service likes."""

Keep = Callable[[Sequence[str]], None]


@dataclass(slots=True)
class Watch:
    """A log as it was seen last: the right edge of its tree, and the head that was signed over it (or nothing)."""

    path: Path
    key: LogKey
    tree: Frontier
    note: str

    @classmethod
    def load(cls, path: Path, key: LogKey) -> Self:
        """Read what an earlier run has written; begin where there was none.

        Raises FormatError ``log.memory``, UsageError ``log.other-key`` when it is about another log.
        """
        try:
            found = json.loads(path.read_bytes())
            tree = Frontier(int(found["size"]), [bytes.fromhex(each) for each in found["hashes"]])
            note, known = str(found["note"]), str(found["key"])
        except FileNotFoundError:
            return cls(path, key, Frontier(), "")
        except OSError as error:
            raise UsageError(f"cannot read {path}: {error.strerror or error}", code="cli.input") from error
        except (ValueError, TypeError, KeyError, RecursionError):
            raise _no_memory(path) from None
        if known != str(key):
            raise UsageError(
                "this is the memory of another log", code="log.other-key", field=str(path), hint="one file for each log"
            )
        head = open_checkpoint(note, key)
        if (head.size, head.root) != (tree.size, tree.root()):
            raise _no_memory(path)
        return cls(path, key, tree, note)

    def follow(self, note: str, fetch: Fetch, keep: Keep) -> Checkpoint:
        """Fetch what is new under a head and check that the log grew into it; every new entry goes to ``keep``.

        Raises TrustError: ``checkpoint.signature``, ``log.consistency``, ``log.withheld``, ``log.entry-malformed``.
        """
        head = open_checkpoint(note, self.key)
        if head.size < self.tree.size:
            raise self._conflict(note, f"{head.size} entries, after {self.tree.size}")
        while self.tree.size < head.size:
            page = fetch(self.tree.size, head.size)[: head.size - self.tree.size]
            if not page:
                raise TrustError(
                    "the service does not give entries that its head speaks of",
                    code="log.withheld",
                    expected=f"entry {self.tree.size} of {head.size}",
                    found="none",
                )
            for entry in page:
                read_entry(entry)
                self.tree.append(leaf_hash(entry.encode()))
            keep(page)
        if self.tree.root() != head.root:
            raise self._conflict(note, f"root {head.root.hex()}, where the entries make {self.tree.root().hex()}")
        self.note = note
        return head

    def save(self) -> None:
        """Write the memory, whole or not at all. Raises UsageError ``cli.output``."""
        hashes = [each.hex() for each in self.tree.hashes]
        document = {"key": str(self.key), "size": self.tree.size, "hashes": hashes, "note": self.note}
        fresh = self.path.with_suffix(".new")
        try:
            with fresh.open("w", encoding="utf-8") as file:
                json.dump(document, file)
                file.flush()
                os.fsync(file.fileno())
            fresh.replace(self.path)
        except OSError as error:
            raise UsageError(f"cannot write {self.path}: {error.strerror or error}", code="cli.output") from error

    def _conflict(self, note: str, found: str) -> TrustError:
        """Keep both heads, which together prove it, and return the error."""
        kept = self.path.with_suffix(".conflict")
        try:
            kept.write_text(f"{self.note}\n{note}", encoding="utf-8")
        except OSError as error:
            raise UsageError(f"cannot write {kept}: {error.strerror or error}", code="cli.output") from error
        return TrustError(
            "the log is not what its signed heads say",
            code="log.consistency",
            found=found,
            hint=f"both heads are in {kept}: ask the operator, and do not trust verdicts of this service",
        )


def read_entry(text: str) -> dict[str, Any]:
    """Read an entry of a log. Raises TrustError ``log.entry-malformed`` unless it is canonical JSON, on one line."""
    try:
        entry = load_json(text, "entry")
        canonical = json.dumps(entry, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        text.encode()
    except (FormatError, UnicodeEncodeError):
        entry, canonical = None, ""
    if not isinstance(entry, dict) or canonical != text:
        raise TrustError("the log has an entry that is no canonical JSON", code="log.entry-malformed", found=text[:100])
    return entry


def _no_memory(path: Path) -> FormatError:
    return FormatError(
        "not the memory of a monitor",
        code="log.memory",
        field=str(path),
        hint="restore it from a copy; a monitor that forgets cannot tell whether the log was rewritten",
    )
