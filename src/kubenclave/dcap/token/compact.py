# SPDX-License-Identifier: Apache-2.0
"""JSON Web Tokens in compact form taken apart (RFC 7515, RFC 7519). Nothing in here is verified."""

import base64
import binascii
import re
from dataclasses import dataclass, field
from typing import Any, Final, Self

from kubenclave.dcap.collateral import load_json
from kubenclave.errors import FormatError

MAX_SIZE: Final = 256 * 1024  # ours are 4 to 6 kB; held data may add 128 KiB before base64
_BASE64URL: Final = re.compile(r"[A-Za-z0-9_-]*")


@dataclass(frozen=True, slots=True)
class CompactToken:
    """A token's parts. ``text`` is all of it; ``signature`` is empty for an unsecured one."""

    text: str = field(repr=False)
    header: dict[str, Any]
    claims: dict[str, Any]
    signature: bytes = field(repr=False)

    @classmethod
    def parse(cls, data: str | bytes) -> Self:
        """Read a token; white space around it is left alone.

        Raises FormatError (``token.malformed``, ``json.*``) and nothing else.
        """
        text = _text(data)
        parts = text.split(".")
        if len(parts) != 3:
            raise _malformed("three parts with a dot between them", f"{len(parts)} parts")
        header, claims = (_object(part, what) for part, what in zip(parts, ("header", "claims"), strict=False))
        return cls(text, header, claims, _decode(parts[2], "signature"))

    @property
    def algorithm(self) -> Any:
        """What the header says of the algorithm, whatever its type."""
        return self.header.get("alg")


def _text(data: str | bytes) -> str:
    if len(data) > MAX_SIZE:
        raise _malformed(f"{MAX_SIZE} bytes at most", f"{len(data)} bytes")
    try:
        text = data if isinstance(data, str) else data.decode("ascii")
    except UnicodeDecodeError:
        raise _malformed("ASCII", "other bytes") from None
    return text.strip(" \t\r\n")


def _object(part: str, what: str) -> dict[str, Any]:
    value = load_json(_decode(part, what), f"the token's {what}")
    if not isinstance(value, dict):
        raise _malformed(f"a JSON object as {what}", type(value).__name__)
    return value


def _decode(part: str, what: str) -> bytes:
    """Decode base64url as JOSE has it: no padding, and no second spelling of the same bytes."""
    if not _BASE64URL.fullmatch(part):
        raise _malformed(f"base64url without padding as {what}", "other characters")
    try:
        data = base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
    except binascii.Error:
        raise _malformed(f"base64url as {what}", "a length that cannot be") from None
    if base64.urlsafe_b64encode(data).rstrip(b"=").decode() != part:
        raise _malformed(f"base64url as {what}", "bits behind the end")
    return data


def _malformed(expected: str, found: str) -> FormatError:
    return FormatError(
        "not a JSON Web Token in compact form",
        code="token.malformed",
        expected=expected,
        found=found,
        hint="the token alone, without quotes or a JSON object around it",
    )
