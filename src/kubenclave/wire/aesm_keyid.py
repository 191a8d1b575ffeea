# SPDX-License-Identifier: Apache-2.0
"""Attestation key ids: 256 bytes that name a quoting enclave and its algorithm (aesm.md section 3)."""

import struct
from collections.abc import Sequence
from enum import IntEnum
from typing import Final

from kubenclave.errors import FormatError
from kubenclave.sgx.cursor import Cursor
from kubenclave.sgx.layout import Layout

KEY_ID_SIZE: Final = 256

COMPARED_SIZE: Final = 158
"""Bytes that say which key it is; ``spid``, ``att_key_type`` and padding follow and are nobody's business."""

MAX_LISTED: Final = 10
"""Ids that a SelectAttKeyID request may list."""


class Algorithm(IntEnum):
    """What signs the quotes."""

    EPID_UNLINKABLE = 0
    EPID_LINKABLE = 1
    ECDSA_P256 = 2
    ECDSA_P384 = 3


_KEY_ID: Final = Layout(
    "attestation key id",
    KEY_ID_SIZE,
    [
        (0, "id", "H"),
        (2, "version", "H"),
        (4, "mr_signer_length", "H"),
        (6, "mr_signer", 48),
        (54, "prod_id", "I"),
        (58, "extended_prod_id", 16),
        (74, "config_id", 64),
        (138, "family_id", 16),
        (154, "algorithm_id", "I"),
        (158, "spid", 16),
        (174, "att_key_type", "H"),
        (176, "reserved", 80),
    ],
)
_LIST_HEAD: Final = struct.Struct("<HHI")

# Clients compile this MRSIGNER in, so it is advertised whoever makes the quotes; only a verifier judges the enclave.
_INTEL_MR_SIGNER: Final = bytes.fromhex("8c4f5775d796503e96137f77c68a829a0056ac8ded70140b081b094490c57bff")

ECDSA_P256_KEY_ID: Final = _KEY_ID.build(
    {
        "id": 0,
        "version": 0,
        "mr_signer_length": len(_INTEL_MR_SIGNER),
        "mr_signer": _INTEL_MR_SIGNER.ljust(48, b"\0"),
        "prod_id": 1,
        "extended_prod_id": bytes(16),
        "config_id": bytes(64),
        "family_id": bytes(16),
        "algorithm_id": Algorithm.ECDSA_P256,
        "spid": bytes(16),
        "att_key_type": 0,
        "reserved": bytes(80),
    }
)
"""The id of Intel's QE3 with ECDSA P-256, the one that every DCAP client uses."""


def same_key(one: bytes, other: bytes) -> bool:
    """Compare as AESM does: the first 158 bytes only."""
    return one[:COMPARED_SIZE] == other[:COMPARED_SIZE]


def build_key_id_list(key_ids: Sequence[bytes]) -> bytes:
    """Return the list of a SelectAttKeyID request."""
    return _LIST_HEAD.pack(0, 0, len(key_ids)) + b"".join(key_ids)


def parse_key_id_list(data: bytes) -> tuple[bytes, ...]:
    """Read u16 id 0 | u16 version 0 | u32 count | ids of 256 bytes. Raises FormatError for anything else."""
    cursor = Cursor(data, "attestation key id list")
    head = cursor.u16("id"), cursor.u16("version")
    count = cursor.u32("count")
    if head != (0, 0) or count > MAX_LISTED:
        raise FormatError(
            "not a list of attestation key ids",
            code="format.value",
            expected=f"id 0, version 0, count <= {MAX_LISTED}",
            found=f"id {head[0]}, version {head[1]}, count {count}",
        )
    key_ids = tuple(cursor.take(KEY_ID_SIZE, f"id {number}") for number in range(count))
    cursor.finish()
    return key_ids
