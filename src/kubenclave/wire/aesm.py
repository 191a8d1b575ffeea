# SPDX-License-Identifier: Apache-2.0
"""The AESM protocol between bytes and values, for both ends: frames, requests, replies (aesm.md sections 1 and 2).

A frame is a u32 length, little endian, and that many bytes of protobuf. A connection carries one request and one
reply, and a reply must have the variant of its request: Intel's client follows a null pointer otherwise.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from google.protobuf.message import DecodeError

from kubenclave._proto import aesm_pb2
from kubenclave.errors import FormatError
from kubenclave.wire.aesm_errors import AesmError

MAX_REQUEST: Final = 64 * 1024
"""Bytes of a request's body. The largest one that a DCAP client has reason to send has 2.6 KB."""

MAX_BUFFER: Final = 64 * 1024
"""Bytes of a quote with its padding that a client may ask for (Gramine asks for 8192)."""

MAX_REPLY: Final = MAX_BUFFER + 4096

PUB_KEY_ID_SIZE: Final = 32
DEFAULT_TIMEOUT: Final = 15_000
"""What Intel's client writes into its requests, in milliseconds. Servers ignore it."""

_LENGTH: Final = struct.Struct("<I")

IDENTIFY: Final = b"\xfa\x7f\x00"
"""Body of a request that only kubenclave knows (field 2047, empty): whoever answers it is a quote helper of ours.

Intel's daemon closes the connection, as it does for every message that it does not know.
"""

IDENTITY: Final = b"\x0d\x00\x00\x00\xfa\x7f\x0akubenclave"
"""Frame of the answer to it."""

LEGACY_NUMBERS: Final = frozenset((1, 2, 3, 4, 10, 11, 12, 13, 14, 18))
"""Envelope fields of EPID and launch control messages."""


@dataclass(frozen=True, slots=True)
class GetKeyIdCount:
    """GetSupportedAttKeyIDNum."""


@dataclass(frozen=True, slots=True)
class GetKeyIds:
    """GetSupportedAttKeyIDs; ``buf_size`` None: the client left out what the protocol requires."""

    buf_size: int | None


@dataclass(frozen=True, slots=True)
class SelectKeyId:
    """SelectAttKeyID with a list for ``aesm_keyid.parse_key_id_list``, or without."""

    key_id_list: bytes | None = None


@dataclass(frozen=True, slots=True)
class InitQuote:
    """InitQuoteEx; without ``with_pub_key_id`` it is a query of sizes and ``buf_size`` has no meaning."""

    key_id: bytes | None
    with_pub_key_id: bool = False
    buf_size: int | None = None


@dataclass(frozen=True, slots=True)
class GetQuoteSize:
    """GetQuoteSizeEx."""

    key_id: bytes | None


@dataclass(frozen=True, slots=True)
class GetQuote:
    """GetQuoteEx; ``report`` or ``buf_size`` None: the client left out what the protocol requires."""

    report: bytes | None
    key_id: bytes | None
    buf_size: int | None
    qe_report_info: bytes | None = None


@dataclass(frozen=True, slots=True)
class Legacy:
    """An EPID or launch control message, of which only the envelope's field number matters."""

    number: int


Request = GetKeyIdCount | GetKeyIds | SelectKeyId | InitQuote | GetQuoteSize | GetQuote | Legacy


@dataclass(frozen=True, slots=True)
class Refusal:
    """A reply that carries an error and nothing else, in the variant of the ``request``."""

    request: Request
    error: AesmError


@dataclass(frozen=True, slots=True)
class KeyIdCount:
    """Answer to GetKeyIdCount."""

    count: int


@dataclass(frozen=True, slots=True)
class KeyIds:
    """Answer to GetKeyIds: 256 bytes for each id."""

    key_ids: bytes


@dataclass(frozen=True, slots=True)
class SelectedKeyId:
    """Answer to SelectKeyId: 256 bytes."""

    key_id: bytes


@dataclass(frozen=True, slots=True)
class QuoteInit:
    """Answer to InitQuote: target_info[512], and pub_key_id[32] unless only sizes were asked for."""

    target_info: bytes
    pub_key_id: bytes | None = None


@dataclass(frozen=True, slots=True)
class QuoteSize:
    """Answer to GetQuoteSize, in bytes."""

    size: int


@dataclass(frozen=True, slots=True)
class Quote:
    """Answer to GetQuote: exactly ``buf_size`` bytes, and qe_report_info[960] if that came with the request."""

    quote: bytes
    qe_report_info: bytes | None = None


Reply = Refusal | KeyIdCount | KeyIds | SelectedKeyId | QuoteInit | QuoteSize | Quote


class FrameReader:
    """Collects the one frame that a peer sends; what follows it is not looked at."""

    def __init__(self, limit: int = MAX_REQUEST) -> None:
        self._limit: Final = limit
        self._buffer: Final = bytearray()

    @property
    def begun(self) -> bool:
        """True once anything has arrived."""
        return bool(self._buffer)

    def feed(self, data: bytes) -> bytes | None:
        """Return the body when it is complete. Raises FormatError once it is known to be longer than ``limit``."""
        buffer = self._buffer
        buffer += data
        if len(buffer) < _LENGTH.size:
            return None
        (length,) = _LENGTH.unpack_from(buffer)
        if length > self._limit:
            raise FormatError(
                "AESM message is too long",
                code="format.size",
                expected=f"at most {self._limit} bytes",
                found=f"{length} bytes",
            )
        end = _LENGTH.size + length
        return bytes(buffer[_LENGTH.size : end]) if len(buffer) >= end else None


def _frame(message: aesm_pb2.Request | aesm_pb2.Response) -> bytes:
    body = message.SerializeToString()
    return _LENGTH.pack(len(body)) + body


def decode_request(body: bytes) -> Request:
    """Read the protobuf of a request. Raises FormatError where it holds nothing that could be answered in kind.

    Of several messages in one envelope the first of Intel's order counts: legacy ones, then by number.
    """
    try:
        fields = aesm_pb2.Request.FromString(body).ListFields()
    except DecodeError:
        raise FormatError("not an AESM request", code="format.protobuf") from None
    if not fields:
        raise FormatError("AESM request without a known message", code="format.protobuf")
    descriptor, message = fields[0] if len(fields) == 1 else min(fields, key=_precedence)
    number = descriptor.number
    return Legacy(number) if number in LEGACY_NUMBERS else _REQUEST_READERS[number](message)


def _precedence(field: tuple[Any, Any]) -> tuple[bool, int]:
    number = field[0].number
    return number not in LEGACY_NUMBERS, number


def _optional(message: Any, name: str) -> Any:
    return getattr(message, name) if message.HasField(name) else None


_REQUEST_READERS: Final[dict[int, Callable[[Any], Request]]] = {
    15: lambda m: InitQuote(_optional(m, "att_key_id"), m.b_pub_key_id, _optional(m, "buf_size")),
    16: lambda m: GetQuoteSize(_optional(m, "att_key_id")),
    17: lambda m: GetQuote(
        _optional(m, "report"),
        _optional(m, "att_key_id"),
        _optional(m, "buf_size"),
        _optional(m, "qe_report_info"),
    ),
    19: lambda m: SelectKeyId(_optional(m, "att_key_id_list")),
    21: lambda _: GetKeyIdCount(),
    22: lambda m: GetKeyIds(_optional(m, "buf_size")),
}


_REQUEST_FIELDS: Final = {field.number: field.name for field in aesm_pb2.Request.DESCRIPTOR.fields}


def encode_request(request: Request, timeout: int | None = DEFAULT_TIMEOUT) -> bytes:
    """Return the frame of a request; fields that are None are left out."""
    envelope = aesm_pb2.Request()
    match request:
        case GetKeyIdCount():
            envelope.getSupportedAttKeyIDNumReq.CopyFrom(aesm_pb2.GetSupportedAttKeyIDNumRequest(timeout=timeout))
        case GetKeyIds(buf_size):
            envelope.getSupportedAttKeyIDsReq.CopyFrom(
                aesm_pb2.GetSupportedAttKeyIDsRequest(buf_size=buf_size, timeout=timeout)
            )
        case SelectKeyId(key_id_list):
            envelope.selectAttKeyIDReq.CopyFrom(
                aesm_pb2.SelectAttKeyIDRequest(att_key_id_list=key_id_list, timeout=timeout)
            )
        case InitQuote(key_id, with_pub_key_id, buf_size):
            envelope.initQuoteExReq.CopyFrom(
                aesm_pb2.InitQuoteExRequest(
                    att_key_id=key_id, b_pub_key_id=with_pub_key_id, buf_size=buf_size, timeout=timeout
                )
            )
        case GetQuoteSize(key_id):
            envelope.getQuoteSizeExReq.CopyFrom(aesm_pb2.GetQuoteSizeExRequest(att_key_id=key_id, timeout=timeout))
        case GetQuote(report, key_id, buf_size, qe_report_info):
            envelope.getQuoteExReq.CopyFrom(
                aesm_pb2.GetQuoteExRequest(
                    report=report, att_key_id=key_id, qe_report_info=qe_report_info, buf_size=buf_size, timeout=timeout
                )
            )
        case _:
            getattr(envelope, _REQUEST_FIELDS[request.number]).SetInParent()
    return _frame(envelope)


_REPLY_FIELDS: Final = {field.number: field.name for field in aesm_pb2.Response.DESCRIPTOR.fields}
_NUMBERS: Final[dict[type, int]] = {
    InitQuote: 15,
    GetQuoteSize: 16,
    GetQuote: 17,
    SelectKeyId: 19,
    GetKeyIdCount: 21,
    GetKeyIds: 22,
}


def _number(request: Request) -> int:
    return request.number if isinstance(request, Legacy) else _NUMBERS[type(request)]


def encode_reply(reply: Reply) -> bytes:
    """Return the frame of a reply, to be sent in one piece."""
    envelope = aesm_pb2.Response()
    match reply:
        case Quote(quote, qe_report_info):
            quoted = envelope.getQuoteExRes
            quoted.errorCode = 0
            quoted.quote = quote
            if qe_report_info is not None:
                quoted.qe_report_info = qe_report_info
        case QuoteInit(target_info, pub_key_id):
            init = envelope.initQuoteExRes
            init.errorCode = 0
            init.target_info = target_info
            init.pub_key_id_size = PUB_KEY_ID_SIZE
            if pub_key_id is not None:
                init.pub_key_id = pub_key_id
        case QuoteSize(size):
            envelope.getQuoteSizeExRes.errorCode = 0
            envelope.getQuoteSizeExRes.quote_size = size
        case SelectedKeyId(key_id):
            envelope.selectAttKeyIDRes.errorCode = 0
            envelope.selectAttKeyIDRes.selected_att_key_id = key_id
        case KeyIdCount(count):
            envelope.getSupportedAttKeyIDNumRes.errorCode = 0
            envelope.getSupportedAttKeyIDNumRes.att_key_id_num = count
        case KeyIds(key_ids):
            envelope.getSupportedAttKeyIDsRes.errorCode = 0
            envelope.getSupportedAttKeyIDsRes.att_key_ids = key_ids
        case _:
            getattr(envelope, _REPLY_FIELDS[_number(reply.request)]).errorCode = reply.error
    return _frame(envelope)


def decode_reply(body: bytes, request: Request) -> Reply:
    """Read the protobuf of the reply to ``request``.

    Raises FormatError for bytes that are no reply, or not one to that request, or lack what success promises.
    """
    try:
        envelope = aesm_pb2.Response.FromString(body)
    except DecodeError:
        raise FormatError("not an AESM reply", code="format.protobuf") from None
    number = _number(request)
    name = _REPLY_FIELDS[number]
    message: Any = getattr(envelope, name)
    if not envelope.HasField(name) or not message.IsInitialized():
        raise FormatError("AESM reply lacks the answer to the request", code="format.protobuf", field=name)
    if message.errorCode != AesmError.SUCCESS:
        return Refusal(request, AesmError.from_number(message.errorCode))
    if number not in _REPLY_READERS:
        raise FormatError("success is no answer to this request", code="format.value", field=name)
    wanted, read = _REPLY_READERS[number]
    if not message.HasField(wanted):
        raise FormatError("AESM reply lacks what success promises", code="format.protobuf", field=wanted)
    return read(message)


_REPLY_READERS: Final[dict[int, tuple[str, Callable[[Any], Reply]]]] = {
    15: ("target_info", lambda m: QuoteInit(m.target_info, _optional(m, "pub_key_id"))),
    16: ("quote_size", lambda m: QuoteSize(m.quote_size)),
    17: ("quote", lambda m: Quote(m.quote, _optional(m, "qe_report_info"))),
    19: ("selected_att_key_id", lambda m: SelectedKeyId(m.selected_att_key_id)),
    21: ("att_key_id_num", lambda m: KeyIdCount(m.att_key_id_num)),
    22: ("att_key_ids", lambda m: KeyIds(m.att_key_ids)),
}
