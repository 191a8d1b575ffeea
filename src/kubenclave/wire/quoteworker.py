# SPDX-License-Identifier: Apache-2.0
"""Frames between the quote helper and the process that makes its quotes.

The helper starts a worker as ``<program> --fd N``, N being the worker's end of a stream socket. Both ways, little
endian, the length counting what follows it::

    request  u32 length | u32 id | u8 op | payload
    reply    u32 length | u32 id | u16 AESM error | u32 original error | payload

INIT has no payload and is answered by an InitResult, QUOTE carries a QuoteRequest and is answered by a QuoteResult; a
reply with an error has no payload. Requests may be sent before earlier ones are answered, replies may overtake
each other. The end of the stream ends the worker.
"""

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from kubenclave.errors import FormatError
from kubenclave.sgx.cursor import Cursor
from kubenclave.wire.frames import LENGTH, FrameDecoder

__all__ = [
    "MAX_FRAME",
    "PPID_QUOTE_SIZE",
    "PPID_TYPES",
    "FrameDecoder",
    "InitResult",
    "Op",
    "QuoteRequest",
    "QuoteResult",
    "WorkerReply",
    "WorkerRequest",
    "certification_type",
    "decode_reply",
    "decode_request",
    "encode_reply",
    "encode_request",
]

MAX_FRAME: Final = 64 * 1024
"""Bytes that a length field may announce; what a FrameDecoder allows unless told otherwise."""

TARGET_INFO_SIZE: Final = 512
PUB_KEY_ID_SIZE: Final = 32
REPORT_SIZE: Final = 432
QE_REPORT_INFO_SIZE: Final = 960

PPID_TYPES: Final = range(1, 4)
"""Types of certification data that name the platform by PPID, in place of certificates.

Intel's library makes such quotes when it finds no provider library, and verifiers reject them (aesm.md section 6).
"""

PPID_QUOTE_SIZE: Final = 1456
"""Size of such a quote in bytes, with an encrypted PPID."""

_AUTH_DATA_SIZE: Final = struct.Struct("<1012xH")
_CERTIFICATION_TYPE: Final = struct.Struct("<H")

_REQUEST: Final = struct.Struct("<IIB")
_REPLY: Final = struct.Struct("<IIHI")


class Op(IntEnum):
    """What a worker can be asked."""

    INIT = 1
    QUOTE = 2


@dataclass(frozen=True, slots=True)
class WorkerRequest:
    """One question to a worker."""

    request_id: int
    op: Op
    payload: bytes


@dataclass(frozen=True, slots=True)
class WorkerReply:
    """Its answer; ``error`` is an AESM error code (0 is success), ``original`` the code of the library behind it."""

    request_id: int
    error: int
    original: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class InitResult:
    """What a worker knows once its attestation key is certified: aesm.md section 2.3, InitQuoteEx."""

    target_info: bytes
    pub_key_id: bytes
    quote_size: int

    @classmethod
    def parse(cls, payload: bytes) -> "InitResult":
        """Read target_info[512] | pub_key_id[32] | u32 quote_size. Raises FormatError for anything else."""
        cursor = Cursor(payload, "worker's INIT result")
        result = cls(
            cursor.take(TARGET_INFO_SIZE, "target_info"),
            cursor.take(PUB_KEY_ID_SIZE, "pub_key_id"),
            cursor.u32("quote_size"),
        )
        cursor.finish()
        return result

    def build(self) -> bytes:
        """Return the payload. Raises FormatError for fields of another size."""
        _check_size("target_info", self.target_info, TARGET_INFO_SIZE)
        _check_size("pub_key_id", self.pub_key_id, PUB_KEY_ID_SIZE)
        return self.target_info + self.pub_key_id + LENGTH.pack(self.quote_size)


@dataclass(frozen=True, slots=True)
class QuoteRequest:
    """A REPORT (432 bytes) to be quoted, and 960 bytes of ``qe_report_info`` where the QE's own REPORT is wanted."""

    report: bytes
    qe_report_info: bytes | None = None

    @classmethod
    def parse(cls, payload: bytes) -> "QuoteRequest":
        """Read report[432] | u8 has_qe_report_info | qe_report_info[960]. Raises FormatError for anything else."""
        cursor = Cursor(payload, "worker's QUOTE request")
        report = cursor.take(REPORT_SIZE, "report")
        wanted = cursor.u8("has_qe_report_info")
        if wanted > 1:
            raise FormatError(
                "no flag", code="format.value", field="has_qe_report_info", expected="0 or 1", found=f"{wanted}"
            )
        request = cls(report, cursor.take(QE_REPORT_INFO_SIZE, "qe_report_info") if wanted else None)
        cursor.finish()
        return request

    def build(self) -> bytes:
        """Return the payload. Raises FormatError for fields of another size."""
        _check_size("report", self.report, REPORT_SIZE)
        if self.qe_report_info is None:
            return self.report + b"\0"
        _check_size("qe_report_info", self.qe_report_info, QE_REPORT_INFO_SIZE)
        return self.report + b"\1" + self.qe_report_info


@dataclass(frozen=True, slots=True)
class QuoteResult:
    """The quote without padding; ``qe_report_info`` with the QE's REPORT at offset 528 exactly if it was asked for."""

    quote: bytes
    qe_report_info: bytes | None = None

    @classmethod
    def parse(cls, payload: bytes) -> "QuoteResult":
        """Read u32 length | quote | qe_report_info[960] or nothing. Raises FormatError for anything else."""
        cursor = Cursor(payload, "worker's QUOTE result")
        quote = cursor.take(cursor.u32("quote length"), "quote")
        result = cls(quote, cursor.take(QE_REPORT_INFO_SIZE, "qe_report_info") if cursor.left else None)
        cursor.finish()
        return result

    def build(self) -> bytes:
        """Return the payload. Raises FormatError for ``qe_report_info`` of another size."""
        head = LENGTH.pack(len(self.quote)) + self.quote
        if self.qe_report_info is None:
            return head
        _check_size("qe_report_info", self.qe_report_info, QE_REPORT_INFO_SIZE)
        return head + self.qe_report_info


def certification_type(quote: bytes) -> int | None:
    """Return the type of the certification data in a quote v3 (dcap.md), None where the bytes end before it.

    A glance at two fields, made for every quote; whether it is one at all is not looked at.
    """
    if len(quote) < _AUTH_DATA_SIZE.size:
        return None
    start = _AUTH_DATA_SIZE.size + _AUTH_DATA_SIZE.unpack_from(quote)[0]
    if len(quote) < start + _CERTIFICATION_TYPE.size:
        return None
    kind: int = _CERTIFICATION_TYPE.unpack_from(quote, start)[0]
    return kind


def encode_request(request_id: int, op: Op, payload: bytes = b"") -> bytes:
    """Return the frame of a request; ids are u32 and the helper's to choose."""
    return _REQUEST.pack(_REQUEST.size - LENGTH.size + len(payload), request_id, op) + payload


def encode_reply(request_id: int, error: int = 0, original: int = 0, payload: bytes = b"") -> bytes:
    """Return the frame of a reply; ``error`` is a u16 AESM error code, ``original`` a u32."""
    return _REPLY.pack(_REPLY.size - LENGTH.size + len(payload), request_id, error, original) + payload


def decode_request(frame: bytes) -> WorkerRequest:
    """Read one whole frame, its length field included. Raises FormatError."""
    if len(frame) < _REQUEST.size:
        raise _short("worker request", _REQUEST.size, frame)
    _, request_id, number = _REQUEST.unpack_from(frame)
    try:
        op = Op(number)
    except ValueError:
        raise FormatError("unknown operation", code="format.value", field="op", found=f"{number}") from None
    return WorkerRequest(request_id, op, frame[_REQUEST.size :])


def decode_reply(frame: bytes) -> WorkerReply:
    """Read one whole frame, its length field included. Raises FormatError."""
    if len(frame) < _REPLY.size:
        raise _short("worker reply", _REPLY.size, frame)
    _, request_id, error, original = _REPLY.unpack_from(frame)
    return WorkerReply(request_id, error, original, frame[_REPLY.size :])


def _check_size(field: str, value: bytes, wanted: int) -> None:
    if len(value) != wanted:
        raise FormatError(
            "wrong size", code="format.size", field=field, expected=f"{wanted} bytes", found=f"{len(value)} bytes"
        )


def _short(what: str, wanted: int, frame: bytes) -> FormatError:
    return FormatError(
        f"{what} is too short",
        code="format.truncated",
        expected=f"at least {wanted} bytes",
        found=f"{len(frame)} bytes",
    )
