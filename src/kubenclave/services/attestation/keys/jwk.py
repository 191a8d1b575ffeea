# SPDX-License-Identifier: Apache-2.0
"""JSON Web Keys as JSON objects: which members say what (RFC 7518, section 6), and their thumbprint (RFC 7638)."""

import base64
import hashlib
import json
from collections.abc import Mapping
from typing import Any, Final

REQUIRED: Final[Mapping[str, tuple[str, ...]]] = {"RSA": ("e", "kty", "n"), "EC": ("crv", "kty", "x", "y")}
"""Members of a public key by ``kty``, none of which can be left out."""

PRIVATE: Final = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})
"""Members that no public key has."""


def thumbprint(jwk: Mapping[str, Any]) -> str:
    """Return SHA-256 of the required members, sorted and compact, in base64url. ``jwk`` has all of them."""
    members = {name: jwk[name] for name in REQUIRED[jwk["kty"]]}
    text = json.dumps(members, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
