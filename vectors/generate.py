# SPDX-License-Identifier: Apache-2.0
"""Writes the vectors of ``vectors/dcap``: ``python -m vectors.generate [FOLDER]``.

The same bytes each time: keys come from a fixed seed, dates are fixed, signatures are deterministic. A case is kept as
what it changes in the quote and collateral of its base.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from vectors import cases_chain, cases_collateral, cases_crl, cases_quote, cases_status
from vectors.case import Case, make
from vectors.reader import FOLDER, ROOT_FILE
from vectors.scene import AT, BASES, PKI, Evidence, scene

_GROUPS: Final = {
    "quote": cases_quote,
    "chain": cases_chain,
    "crl": cases_crl,
    "collateral": cases_collateral,
    "status": cases_status,
}


def files() -> Iterator[tuple[str, bytes]]:
    """Yield path and content of every file."""
    yield ROOT_FILE, PKI.root_der
    bases = {name: scene(name).build() for name in BASES}
    for name, evidence in bases.items():
        yield f"{name}/quote.bin", evidence.quote
        yield f"{name}/collateral.json", _text(evidence.collateral)
        yield f"{name}/cases-good.json", _document({"good": _entry(make("good", "UpToDate", base=name), evidence)})
    for group, module in _GROUPS.items():
        entries: dict[str, dict[str, Any]] = {name: {} for name in bases}
        for case in module.cases():
            if case.name in entries[case.base]:
                raise ValueError(f"two cases are called {case.path}")
            entries[case.base][case.name] = _entry(case, bases[case.base])
        for name, cases in entries.items():
            if cases:
                yield f"{name}/cases-{group}.json", _document(cases)


def write(folder: Path) -> None:
    """Write every file below ``folder``."""
    for name, content in files():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def _entry(case: Case, base: Evidence) -> dict[str, Any]:
    answer, _, code = case.expect.partition(" ")
    evidence = case.evidence
    entry: dict[str, Any] = {"expect": answer} | ({"code": code} if code else {})
    if case.options:
        entry["options"] = case.options
    if evidence.root != base.root:
        entry["root"] = None if evidence.root is None else evidence.root.hex()
    if evidence.pck_chain is not None:
        entry["pck_chain"] = evidence.pck_chain.decode()
    if evidence.quote != base.quote:
        entry["quote"] = _splices(base.quote, evidence.quote)
    if evidence.text is not None:
        entry["text"] = _splices(json.dumps(base.collateral).encode(), evidence.text.encode())
        return entry
    return entry | _changed_parts(base.collateral, evidence.collateral)


def _changed_parts(base: dict[str, Any], parts: dict[str, Any]) -> dict[str, Any]:
    changed = {name: value for name, value in parts.items() if base[name] != value}
    spliced = {
        name: _splices(base[name].encode(), value.encode())
        for name, value in changed.items()
        if isinstance(value, str) and value.isascii()
    }
    kinds = {
        "without": sorted(base.keys() - parts.keys()),
        "spliced": spliced,
        "parts": {name: value for name, value in changed.items() if name not in spliced},
    }
    return {kind: value for kind, value in kinds.items() if value}


def _splices(old: bytes, new: bytes) -> list[list[Any]]:
    """Return the one splice that makes ``new`` of ``old``: between what both begin and what both end with."""
    most = min(len(old), len(new))
    start = next((at for at in range(most) if old[at] != new[at]), most)
    end = next((at for at in range(most - start) if old[-1 - at] != new[-1 - at]), most - start)
    inserted = new[start : len(new) - end]
    try:
        text = inserted.decode("ascii")
    except UnicodeDecodeError:
        return [[start, len(old) - end - start, inserted.hex()]]
    readable = text if text.replace("\n", " ").isprintable() else None
    return [[start, len(old) - end - start, f"={readable}" if readable else inserted.hex()]]


def _document(cases: dict[str, Any]) -> bytes:
    """Write one line for each case, so that a difference shows which one changed."""
    lines = [f"  {json.dumps(name)}: {json.dumps(case)}" for name, case in cases.items()]
    body = ",\n".join(lines)
    return f'{{\n "verify_at": {int(AT.timestamp())},\n "cases": {{\n{body}\n }}\n}}\n'.encode()


def _text(document: dict[str, Any]) -> bytes:
    return (json.dumps(document, indent=1) + "\n").encode()


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
