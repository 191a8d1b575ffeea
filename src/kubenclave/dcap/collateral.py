# SPDX-License-Identifier: Apache-2.0
"""Collateral: everything beside the quote that a verdict rests on, as its signers wrote it.

The JSON form is the flat object that several verifiers exchange: three PEM chains, two CRLs in hex, and TCB info and
QE identity as the exact signed text (a string) beside their signatures (hex of r‖s, 64 bytes).
"""

import hashlib
import json
from collections import Counter
from dataclasses import dataclass, field, fields
from typing import Any, Final, Self

import msgspec

from kubenclave.errors import FormatError

MAX_SIZE: Final = 4 * 1024 * 1024  # real ones are 10 to 30 kB
MAX_DEPTH: Final = 32  # real ones are 5 deep
_ONE_KIND: Final = bytes.maketrans(b"[]", b"{}")
_NO_BRACKETS: Final = bytes(set(range(256)) - set(b"[{]}"))
_HEX: Final = frozenset({"root_ca_crl", "pck_crl", "tcb_info_signature", "qe_identity_signature"})


@dataclass(frozen=True, slots=True)
class Collateral:
    """Raw signed bytes; nothing in here is verified. CRLs are DER, chains PEM, signatures 64 bytes r‖s."""

    pck_crl_issuer_chain: bytes
    root_ca_crl: bytes
    pck_crl: bytes
    tcb_info_issuer_chain: bytes
    tcb_info: bytes
    tcb_info_signature: bytes
    qe_identity_issuer_chain: bytes
    qe_identity: bytes
    qe_identity_signature: bytes
    digest: bytes = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # Lengths go in, so that no two different collaterals share a digest by moving a boundary.
        hashing = hashlib.sha256()
        for name in _NAMES:
            value: bytes = getattr(self, name)
            if not isinstance(value, bytes):  # a bytearray could change under the digest that caches go by
                raise TypeError(f"Collateral.{name} has to be bytes, not {type(value).__name__}")
            hashing.update(len(value).to_bytes(8, "big"))
            hashing.update(value)
        object.__setattr__(self, "digest", hashing.digest())

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Read the flat JSON object. Unknown keys are left alone, duplicate ones refused.

        Raises FormatError (codes ``json.*`` and ``collateral.*``) and nothing else.
        """
        document = load_json(text, "collateral")
        if not isinstance(document, dict):
            raise _malformed("collateral", "a JSON object", type(document).__name__)
        return cls(**{name: _member(document, name) for name in _NAMES})

    def to_json(self) -> str:
        """Return the flat JSON object, indented."""
        values: dict[str, str] = {}
        for name in _NAMES:
            value: bytes = getattr(self, name)
            values[name] = value.hex() if name in _HEX else value.decode("utf-8", "surrogateescape")
        return json.dumps(values, indent=2)


_NAMES: Final = tuple(each.name for each in fields(Collateral) if each.init)


def load_json(text: str | bytes, what: str) -> Any:
    """Read JSON without what different readers read differently: duplicate keys, NaN, endless depth or size.

    Raises FormatError (codes ``json.*``) and nothing else.
    """
    if len(text) > MAX_SIZE:
        raise FormatError(
            f"{what} is too large",
            code="json.size",
            expected=f"{MAX_SIZE} bytes at most",
            found=f"{len(text)} bytes",
        )
    if _is_deep(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")):
        raise _too_deep(what)
    if isinstance(text, bytes) and (document := _compact(text)) is not None:
        return document
    try:
        decoded = text if isinstance(text, str) else text.decode()
        return json.loads(decoded, object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except _DuplicateKeyError as error:
        raise FormatError(f"{what} has a duplicate key", code="json.duplicate-key", field=str(error)) from None
    except RecursionError:  # closing brackets in a string hid the depth
        raise _too_deep(what) from None
    except ValueError as error:
        raise FormatError(f"{what} is not JSON", code="json.malformed", found=str(error)[:200]) from None


def _is_deep(text: bytes) -> bool:
    """Tell whether brackets are nested too deeply, those within strings not told apart: no real document has many.

    The innermost level goes with each turn; some without a partner, from within strings, may be left in the end.
    """
    brackets = text.translate(_ONE_KIND, _NO_BRACKETS)
    for _ in range(MAX_DEPTH):
        outer = brackets.replace(b"{}", b"")
        if len(outer) == len(brackets):
            break
        brackets = outer
    return b"{}" in brackets or b"{" * (MAX_DEPTH + 1) in brackets


def _compact(text: bytes) -> Any:
    """Return what compact JSON says, the quick way; None where that does not do.

    Text that is written back byte for byte had no duplicate key in it, nor anything else that readers disagree on.
    Signed documents are of that kind.
    """
    try:
        document = msgspec.json.decode(text)
        return document if msgspec.json.encode(document) == text else None
    except (ValueError, RecursionError):
        return None


def _too_deep(what: str) -> FormatError:
    return FormatError(f"{what} is nested too deeply", code="json.depth", expected=f"{MAX_DEPTH} levels at most")


class _DuplicateKeyError(Exception):
    """Carries the key; not a ValueError, so that it is told apart from malformed text."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        # One pass, whoever wrote the text: it may have hundreds of thousands of keys.
        ((duplicate, _),) = Counter(key for key, _ in pairs).most_common(1)
        raise _DuplicateKeyError(ascii(duplicate[:64]))  # it may hold what no terminal can print
    return members


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def _member(document: dict[str, Any], name: str) -> bytes:
    if name not in document:
        raise _malformed(name, "present", "absent")
    value = document[name]
    if not isinstance(value, str):
        raise _malformed(name, "a string", type(value).__name__)
    if name not in _HEX:
        try:
            return value.encode()
        except UnicodeEncodeError:
            raise _malformed(name, "Unicode text", "a lone surrogate") from None
    try:
        data = bytes.fromhex(value)
    except ValueError:
        raise _malformed(name, "hexadecimal digits", "something else") from None
    if 2 * len(data) != len(value):  # fromhex skips white space
        raise _malformed(name, "hexadecimal digits", "white space")
    if name.endswith("_signature") and len(data) != 64:
        raise _malformed(name, "64 bytes r‖s", f"{len(data)} bytes")
    return data


def _malformed(field_name: str, expected: str, found: str) -> FormatError:
    return FormatError(
        "not collateral",
        code="collateral.malformed",
        field=field_name,
        expected=expected,
        found=found,
        hint="kubenclave collateral show FILE says what a file holds",
    )
