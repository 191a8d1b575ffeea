# SPDX-License-Identifier: Apache-2.0
"""What is said to the SIMULATED CPU: the leaf functions of ENCLS and ENCLU as messages on a Unix stream socket.

One connection is one enclave: it is built by ECREATE to EINIT, gives REPORTs and keys of that enclave alone, and ends
with the connection. Little endian, the length counts what follows it::

    request  u32 length | u8 op | operands
    reply    u32 length | u16 code | result

Requests may follow one another without waiting; each is answered, in order. A refusal's result is the reason in
UTF-8, for people to read.
"""

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final, Self

from kubenclave.errors import FormatError
from kubenclave.sgx.attributes import Attributes
from kubenclave.sgx.cursor import Cursor
from kubenclave.sgx.epc import PAGE_SIZE
from kubenclave.sgx.keyrequest import KEY_REQUEST_SIZE, KEY_SIZE
from kubenclave.sgx.layout import Layout, wrong_size
from kubenclave.sgx.measure import CHUNK_SIZE, Pages
from kubenclave.sgx.report import REPORT_DATA_SIZE, REPORT_SIZE, TARGET_INFO_SIZE
from kubenclave.sgx.secinfo import SecInfo
from kubenclave.sgx.sigstruct import SIGSTRUCT_SIZE
from kubenclave.wire.frames import LENGTH

MAX_FRAME: Final = 1 << 20
"""Bytes that a length field may announce."""

_ADD_HEAD: Final = 22
PAGES_PER_FRAME: Final = (MAX_FRAME - _ADD_HEAD) // PAGE_SIZE
"""Pages with content that fit into one EADD."""

MAX_SECTIONS: Final = 64
"""NUMA nodes that a SIMULATED platform can have."""

_MAX_REASON: Final = 1024
_CODE: Final = struct.Struct("<IH")
_SECTION: Final = struct.Struct("<Q")


class Op(IntEnum):
    """What the CPU can be asked."""

    ECREATE = 1
    EADD = 2
    EEXTEND = 3
    MEASURED = 4
    EINIT = 5
    EREPORT = 6
    EGETKEY = 7
    STATUS = 8
    PCK_CHAIN = 9
    SECTIONS = 10


class Code(IntEnum):
    """How it answers: SGX's own error codes, and three for what real hardware says by a fault or not at all."""

    SUCCESS = 0
    INVALID_SIG_STRUCT = 1
    INVALID_ATTRIBUTE = 2
    INVALID_MEASUREMENT = 4
    INVALID_SIGNATURE = 8
    INVALID_EINITTOKEN = 16
    INVALID_CPUSVN = 32
    INVALID_ISVSVN = 64
    INVALID_KEYNAME = 256
    OUT_OF_EPC = 0x8000
    GENERAL_PROTECTION = 0x8001
    NOT_AVAILABLE = 0x8002

    @property
    def slug(self) -> str:
        """The name as it stands in error codes: ``out-of-epc``."""
        return self.name.lower().replace("_", "-")


_CREATE: Final = Layout(
    "ECREATE operands",
    99,
    [
        (0, "size", "Q"),
        (8, "ssa_frame_size", "I"),
        (12, "misc_select", "I"),
        (16, "cet_attributes", "B"),
        (17, "attributes", 16),
        (33, "config_svn", "H"),
        (35, "config_id", 64),
    ],
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Create:
    """ECREATE: what of the SECS the loader decides. ``size`` in bytes, ``ssa_frame_size`` in pages."""

    size: int
    ssa_frame_size: int = 1
    misc_select: int = 0
    cet_attributes: int = 0
    attributes: Attributes
    config_svn: int = 0
    config_id: bytes = bytes(64)

    @classmethod
    def parse(cls, operands: bytes) -> Self:
        """Read exactly 99 bytes. Raises FormatError."""
        fields = _CREATE.parse(operands)
        return cls(**{**fields, "attributes": Attributes.parse(fields["attributes"])})

    def build(self) -> bytes:
        """Return the operands. Raises FormatError when a value does not fit its field."""
        fields: dict[str, Any] = {name: getattr(self, name) for name in _CREATE.names}
        return _CREATE.build({**fields, "attributes": self.attributes.build()})


@dataclass(frozen=True, slots=True)
class Add:
    """EADD of consecutive pages, and EEXTEND of all their chunks where they have content."""

    pages: Pages

    @classmethod
    def parse(cls, operands: bytes) -> Self:
        """Read u64 offset | u64 SECINFO.FLAGS | u32 count | u8 measured | content. Raises FormatError."""
        cursor = Cursor(operands, "EADD operands")
        offset, flags, count = cursor.u64("offset"), cursor.u64("SECINFO.FLAGS"), cursor.u32("count")
        measured = cursor.u8("measured")
        if measured > 1:
            raise FormatError("no flag", code="format.value", field="measured", expected="0 or 1", found=f"{measured}")
        content = cursor.take(count * PAGE_SIZE, "content") if measured else None
        cursor.finish()
        return cls(Pages(offset, SecInfo(flags), count, content))

    def build(self) -> bytes:
        """Return the operands. Raises FormatError for values that do not fit and content that is no whole pages."""
        pages = self.pages
        content = b"" if pages.content is None else pages.content
        if pages.content is not None and len(content) != pages.count * PAGE_SIZE:
            raise wrong_size("content", pages.count * PAGE_SIZE, len(content))
        fields = {
            "offset": pages.offset,
            "flags": pages.sec_info.flags,
            "count": pages.count,
            "measured": int(pages.content is not None),
        }
        return _ADD.build(fields) + content


@dataclass(frozen=True, slots=True)
class Extend:
    """EEXTEND of one chunk of 256 bytes at ``offset`` from the enclave's base."""

    offset: int
    chunk: bytes

    @classmethod
    def parse(cls, operands: bytes) -> Self:
        """Read u64 offset | chunk[256]. Raises FormatError."""
        return cls(**_EXTEND.parse(operands))

    def build(self) -> bytes:
        """Return the operands. Raises FormatError when a value does not fit its field."""
        return _EXTEND.build({"offset": self.offset, "chunk": self.chunk})


@dataclass(frozen=True, slots=True)
class Measured:
    """A measurement (32 bytes) in place of the ``pages`` it was made of; they are charged as if they had been added."""

    mr_enclave: bytes
    pages: int

    @classmethod
    def parse(cls, operands: bytes) -> Self:
        """Read mr_enclave[32] | u32 pages. Raises FormatError."""
        return cls(**_MEASURED.parse(operands))

    def build(self) -> bytes:
        """Return the operands. Raises FormatError when a value does not fit its field."""
        return _MEASURED.build({"mr_enclave": self.mr_enclave, "pages": self.pages})


@dataclass(frozen=True, slots=True)
class Init:
    """EINIT with a SIGSTRUCT of 1808 bytes; there is no token, as on every node of today."""

    sigstruct: bytes

    @classmethod
    def parse(cls, operands: bytes) -> Self:
        """Read sigstruct[1808]. Raises FormatError."""
        return cls(**_INIT.parse(operands))

    def build(self) -> bytes:
        """Return the operands. Raises FormatError for a SIGSTRUCT of another size."""
        return _INIT.build({"sigstruct": self.sigstruct})


@dataclass(frozen=True, slots=True)
class MakeReport:
    """EREPORT: TARGETINFO (512 bytes) and REPORTDATA (64 bytes), answered by a REPORT of 432 bytes."""

    target_info: bytes
    report_data: bytes

    @classmethod
    def parse(cls, operands: bytes) -> Self:
        """Read target_info[512] | report_data[64]. Raises FormatError."""
        return cls(**_REPORT.parse(operands))

    def build(self) -> bytes:
        """Return the operands. Raises FormatError for structures of another size."""
        return _REPORT.build({"target_info": self.target_info, "report_data": self.report_data})


@dataclass(frozen=True, slots=True)
class GetKey:
    """EGETKEY: KEYREQUEST (512 bytes), answered by a key of 16 bytes."""

    key_request: bytes

    @classmethod
    def parse(cls, operands: bytes) -> Self:
        """Read key_request[512]. Raises FormatError."""
        return cls(**_KEY.parse(operands))

    def build(self) -> bytes:
        """Return the operands. Raises FormatError for a KEYREQUEST of another size."""
        return _KEY.build({"key_request": self.key_request})


@dataclass(frozen=True, slots=True)
class GetStatus:
    """Ask how much EPC there is and what the CPUSVN is; answered by CpuStatus."""

    @classmethod
    def parse(cls, operands: bytes) -> Self:
        """Read nothing. Raises FormatError for something."""
        Cursor(operands, "STATUS operands").finish()
        return cls()

    def build(self) -> bytes:
        """Return no bytes."""
        return b""


@dataclass(frozen=True, slots=True)
class GetPckChain:
    """Ask the provisioning service behind the CPU for its PCK certificate chain: PEM, leaf first, root last."""

    @classmethod
    def parse(cls, operands: bytes) -> Self:
        """Read nothing. Raises FormatError for something."""
        Cursor(operands, "PCK_CHAIN operands").finish()
        return cls()

    def build(self) -> bytes:
        """Return no bytes."""
        return b""


@dataclass(frozen=True, slots=True)
class GetSections:
    """Ask how the EPC is spread over NUMA nodes; answered by Sections."""

    @classmethod
    def parse(cls, operands: bytes) -> Self:
        """Read nothing. Raises FormatError for something."""
        Cursor(operands, "SECTIONS operands").finish()
        return cls()

    def build(self) -> bytes:
        """Return no bytes."""
        return b""


_ADD: Final = Layout(
    "EADD operands", _ADD_HEAD - 1, [(0, "offset", "Q"), (8, "flags", "Q"), (16, "count", "I"), (20, "measured", "B")]
)
_EXTEND: Final = Layout("EEXTEND operands", 8 + CHUNK_SIZE, [(0, "offset", "Q"), (8, "chunk", CHUNK_SIZE)])
_MEASURED: Final = Layout("MEASURED operands", 36, [(0, "mr_enclave", 32), (32, "pages", "I")])
_INIT: Final = Layout("EINIT operands", SIGSTRUCT_SIZE, [(0, "sigstruct", SIGSTRUCT_SIZE)])
_REPORT: Final = Layout(
    "EREPORT operands",
    TARGET_INFO_SIZE + REPORT_DATA_SIZE,
    [(0, "target_info", TARGET_INFO_SIZE), (TARGET_INFO_SIZE, "report_data", REPORT_DATA_SIZE)],
)
_KEY: Final = Layout("EGETKEY operands", KEY_REQUEST_SIZE, [(0, "key_request", KEY_REQUEST_SIZE)])

Request = Create | Add | Extend | Measured | Init | MakeReport | GetKey | GetStatus | GetPckChain | GetSections

_REQUESTS: Final[dict[Op, type[Request]]] = {
    Op.ECREATE: Create,
    Op.EADD: Add,
    Op.EEXTEND: Extend,
    Op.MEASURED: Measured,
    Op.EINIT: Init,
    Op.EREPORT: MakeReport,
    Op.EGETKEY: GetKey,
    Op.STATUS: GetStatus,
    Op.PCK_CHAIN: GetPckChain,
    Op.SECTIONS: GetSections,
}
_OPS: Final = {kind: op for op, kind in _REQUESTS.items()}
# Bytes of a success; None: any number.
_RESULTS: Final[dict[type[Request], int | None]] = {
    MakeReport: REPORT_SIZE,
    GetKey: KEY_SIZE,
    GetStatus: 32,
    GetPckChain: None,
    GetSections: None,
}

_CPU_STATUS: Final = Layout("STATUS result", 32, [(0, "epc_total", "Q"), (8, "epc_free", "Q"), (16, "cpu_svn", 16)])


@dataclass(frozen=True, slots=True)
class CpuStatus:
    """EPC in bytes, all of it and what is free now, and the CPUSVN (16 bytes)."""

    epc_total: int
    epc_free: int
    cpu_svn: bytes

    @classmethod
    def parse(cls, result: bytes) -> Self:
        """Read exactly 32 bytes. Raises FormatError."""
        return cls(**_CPU_STATUS.parse(result))

    def build(self) -> bytes:
        """Return the 32 bytes. Raises FormatError when a value does not fit its field."""
        return _CPU_STATUS.build({name: getattr(self, name) for name in _CPU_STATUS.names})


@dataclass(frozen=True, slots=True)
class Sections:
    """Bytes of EPC on each NUMA node: the first number is that of node 0."""

    sizes: tuple[int, ...]

    @classmethod
    def parse(cls, result: bytes) -> Self:
        """Read one u64 for each node, at least one. Raises FormatError."""
        count, rest = divmod(len(result), _SECTION.size)
        if rest or not 1 <= count <= MAX_SECTIONS:
            raise FormatError(
                "not sizes of EPC sections",
                code="format.size",
                field="SECTIONS result",
                expected=f"8 bytes for each of 1 to {MAX_SECTIONS} NUMA nodes",
                found=f"{len(result)} bytes",
            )
        return cls(tuple(size for (size,) in _SECTION.iter_unpack(result)))

    def build(self) -> bytes:
        """Return 8 bytes for each node."""
        return b"".join(map(_SECTION.pack, self.sizes))


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer: the result of a success, or the code of a refusal and its reason in UTF-8."""

    code: Code
    result: bytes = b""

    @property
    def reason(self) -> str:
        """The reason of a refusal, empty for a success. Bytes that are no text come out as question marks."""
        if self.code is Code.SUCCESS:
            return ""
        text = self.result[:_MAX_REASON].decode(errors="replace")
        return "".join(char if char.isprintable() else "?" for char in text)

    def check(self, request: Request) -> bytes:
        """Return the result of a success. Raises FormatError when ``request`` has results of another size."""
        wanted = _RESULTS.get(type(request), 0)
        if wanted is not None and len(self.result) != wanted:
            raise wrong_size(f"result of {op_of(request).name}", wanted, len(self.result))
        return self.result


def op_of(request: Request) -> Op:
    """Return the operation that a request is."""
    return _OPS[type(request)]


def encode_request(request: Request) -> bytes:
    """Return the frame of a request. Raises FormatError for values that do not fit, and for frames over the limit."""
    operands = request.build()
    length = 1 + len(operands)
    if length > MAX_FRAME:
        raise FormatError(
            "frame is too long",
            code="format.size",
            field="length",
            expected=f"at most {MAX_FRAME} bytes",
            found=f"{length} bytes",
        )
    return LENGTH.pack(length) + bytes((op_of(request),)) + operands


def decode_request(frame: bytes) -> Request:
    """Read one whole frame, its length field included. Raises FormatError."""
    cursor = Cursor(frame, "request to the CPU")
    cursor.u32("length")
    number = cursor.u8("op")
    try:
        op = Op(number)
    except ValueError:
        raise FormatError("unknown operation", code="format.value", field="op", found=f"{number}") from None
    return _REQUESTS[op].parse(frame[cursor.offset :])


def encode_reply(reply: Reply) -> bytes:
    """Return the frame of a reply."""
    result = reply.result if reply.code is Code.SUCCESS else reply.result[:_MAX_REASON]
    return _CODE.pack(2 + len(result), reply.code) + result


def decode_reply(frame: bytes) -> Reply:
    """Read one whole frame, its length field included. Raises FormatError."""
    cursor = Cursor(frame, "reply of the CPU")
    cursor.u32("length")
    number = cursor.u16("code")
    try:
        code = Code(number)
    except ValueError:
        raise FormatError("unknown code", code="format.value", field="code", found=f"{number:#x}") from None
    return Reply(code, frame[cursor.offset :])


def refusal(code: Code, reason: str) -> Reply:
    """Return a refusal with a reason for people."""
    return Reply(code, reason.encode()[:_MAX_REASON])
