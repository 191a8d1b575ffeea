# SPDX-License-Identifier: Apache-2.0
"""What an enclave binds to its quote: a challenge of the service's and a public key of its own.

The one rule, for every native request: ``report_data[0:32]`` is SHA-256 of the runtime data as it is sent, and
``report_data[32:64]`` is zero. Runtime data that proves freshness, or asks for a secret, is the JSON object
``{"key":{...JWK...},"nonce":"..."}`` with sorted keys and without spaces; a reader takes it in any spelling, as only
the bytes that were hashed count.
"""

import hashlib
import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from kubenclave.dcap.collateral import load_json
from kubenclave.errors import FormatError, TrustError
from kubenclave.sgx.report import REPORT_DATA_SIZE

MAX_NONCE: Final = 88  # characters, as an eat_nonce of RFC 9711


@dataclass(frozen=True, slots=True)
class BoundData:
    """What runtime data says: the nonce, and the public key as JWK (None when there is none)."""

    nonce: str | None
    key: Mapping[str, Any] | None


def runtime_data(nonce: str, key: Mapping[str, Any] | None = None) -> bytes:
    """Return the runtime data over a challenge and, to be given a secret, a public JWK."""
    document = {"nonce": nonce} if key is None else {"nonce": nonce, "key": dict(key)}
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def report_data_over(data: bytes) -> bytes:
    """Return the 64 bytes of report data that bind ``data``."""
    return hashlib.sha256(data).digest().ljust(REPORT_DATA_SIZE, b"\0")


def check_binding(report_data: bytes, data: bytes) -> None:
    """Check that report data binds ``data``; raises TrustError ``binding.mismatch``."""
    expected = report_data_over(data)
    if not hmac.compare_digest(report_data, expected):
        raise TrustError(
            "the quote does not speak of this runtime data",
            code="binding.mismatch",
            field="REPORTDATA",
            expected="SHA-256 of the runtime data, then 32 zero bytes",
            hint="hash the runtime data as it is sent, byte for byte, before it is encoded in base64url",
        )


def read_runtime_data(data: bytes) -> BoundData:
    """Read runtime data; members other than ``nonce`` and ``key`` are the enclave's own.

    Raises FormatError: ``json.*`` or ``binding.malformed``.
    """
    document = load_json(data, "runtime data")
    if not isinstance(document, dict):
        raise _malformed("a JSON object", type(document).__name__)
    nonce, key = document.get("nonce"), document.get("key")
    if nonce is not None and not (isinstance(nonce, str) and len(nonce) <= MAX_NONCE):
        raise _malformed(f"nonce: a text of {MAX_NONCE} characters at most", type(nonce).__name__)
    if key is not None and not isinstance(key, dict):
        raise _malformed("key: a JWK", type(key).__name__)
    return BoundData(nonce, key)


def _malformed(expected: str, found: str) -> FormatError:
    return FormatError(
        "runtime data is not what binds a challenge or a key", code="binding.malformed", expected=expected, found=found
    )
