# SPDX-License-Identifier: Apache-2.0
"""Reads the vectors of ``vectors/dcap``; see the README there for their form."""

import datetime as dt
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

FOLDER: Final = Path(__file__).parent / "dcap"
ROOT_FILE: Final = "root_ca.der"


@dataclass(frozen=True, slots=True, kw_only=True)
class Vector:
    """A question to a verifier, and the answer.

    ``expect`` is a TCB status; ``reject`` when the answer is no; ``malformed`` when quote, collateral or root cannot
    be read. ``code`` is the error's for the last two. ``options`` are keywords of ``verify_quote``.
    """

    name: str
    quote: bytes
    collateral: str
    root: bytes | None
    pck_chain: bytes | None
    at: dt.datetime
    options: dict[str, Any]
    expect: str
    code: str | None

    @property
    def base(self) -> str:
        """Name of the folder: TEE and version of the quote."""
        return self.name.split("/")[0]


def read(folder: Path = FOLDER) -> Iterator[Vector]:
    """Yield every vector, in the order of the files."""
    root = (folder / ROOT_FILE).read_bytes()
    for base in sorted(path.parent for path in folder.glob("*/quote.bin")):
        quote = (base / "quote.bin").read_bytes()
        collateral = json.loads((base / "collateral.json").read_text())
        for path in sorted(base.glob("cases-*.json")):
            document = json.loads(path.read_text())
            for name, case in document["cases"].items():
                yield _vector(f"{base.name}/{name}", case, document["verify_at"], (quote, collateral, root))


def splice(original: bytes, splices: list[list[Any]]) -> bytes:
    """Apply ``[offset, bytes to drop, what to put there]``; the last is hex, or text behind a ``=``."""
    for at, dropped, inserted in reversed(splices):
        content = inserted[1:].encode() if inserted.startswith("=") else bytes.fromhex(inserted)
        original = original[:at] + content + original[at + dropped :]
    return original


def _vector(name: str, case: dict[str, Any], at: int, base: tuple[bytes, dict[str, str], bytes]) -> Vector:
    quote, collateral, root = base
    options = dict(case.get("options", {}))
    if "dangerously_accept_expired_collateral" in options:
        options["dangerously_accept_expired_collateral"] = dt.timedelta(
            days=options["dangerously_accept_expired_collateral"]
        )
    given = case.get("root", root.hex())
    chain = case.get("pck_chain")
    return Vector(
        name=name,
        quote=splice(quote, case.get("quote", [])),
        collateral=_collateral(collateral, case),
        root=None if given is None else bytes.fromhex(given),
        pck_chain=None if chain is None else chain.encode(),
        at=dt.datetime.fromtimestamp(at, dt.UTC),
        options=options,
        expect=case["expect"],
        code=case.get("code"),
    )


def _collateral(base: Mapping[str, str], case: dict[str, Any]) -> str:
    if "text" in case:
        return splice(json.dumps(base).encode(), case["text"]).decode()
    parts: dict[str, Any] = {name: value for name, value in base.items() if name not in case.get("without", [])}
    parts |= case.get("parts", {})
    for name, splices in case.get("spliced", {}).items():
        parts[name] = splice(base[name].encode(), splices).decode()
    return json.dumps(parts)
