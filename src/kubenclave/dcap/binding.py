# SPDX-License-Identifier: Apache-2.0
"""What an enclave binds to its quote: a challenge of the service's and a public key of its own.

The one rule, for every native request: ``report_data[0:32]`` is SHA-256 of the runtime data as it is sent; the other 32
bytes are the enclave's own, zero when they are of no use to it. Runtime data that proves freshness is a JSON object
with the challenge as ``nonce``; one that asks for a secret has a public key (JWK) as ``key`` beside it. Only the bytes
that were hashed count, so any spelling of the JSON will do.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from kubenclave.dcap.collateral import load_json
from kubenclave.errors import FormatError
from kubenclave.sgx.report import REPORT_DATA_SIZE


def runtime_data(nonce: str, key: Mapping[str, Any] | None = None) -> bytes:
    """Return runtime data over a challenge and, to be given a secret, a public JWK."""
    document = {"nonce": nonce} if key is None else {"nonce": nonce, "key": dict(key)}
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def report_data_over(data: bytes) -> bytes:
    """Return the 64 bytes of report data that bind ``data``."""
    return hashlib.sha256(data).digest().ljust(REPORT_DATA_SIZE, b"\0")


def bound_key(data: bytes) -> Mapping[str, Any]:
    """Return the JWK in runtime data, as it stands there.

    Raises FormatError: ``json.*``, or ``binding.no-key`` when there is none.
    """
    document = load_json(data, "runtime data")
    key = document.get("key") if isinstance(document, dict) else None
    if not isinstance(key, dict):
        raise FormatError(
            "runtime data holds no public key",
            code="binding.no-key",
            field="key",
            expected='{"key": <JWK>, "nonce": <challenge>}',
            found="no object" if key is None else type(key).__name__,
            hint="make a key pair in the enclave and put its public half into runtime data before it is hashed",
        )
    return key
