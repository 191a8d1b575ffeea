# SPDX-License-Identifier: Apache-2.0
"""How ``kubenclave run`` asks ``kubenclave up``: one JSON document a line over a Unix socket, one request each way.

A granted lease lives as long as its connection, so whoever dies gives back what it held. Nobody else's lease can be
touched: there is no other way to release one.
"""

import socket
import stat
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Self

import msgspec

from kubenclave import errors
from kubenclave.errors import Finding, FormatError, KubenclaveError, PlatformError, PolicyError, UnreachableError
from kubenclave.local.allotment import Allotment

MAX_LINE: Final = 1 << 20
REPLY_DEADLINE: Final = 30.0

_KINDS: Final = {
    kind.__name__: kind
    for kind in (
        errors.UsageError,
        errors.FormatError,
        errors.TrustError,
        errors.UnreachableError,
        errors.PlatformError,
    )
}


class LeaseRequest(msgspec.Struct, frozen=True, tag="lease"):
    """Admit this pod and grant what it asks for, until I hang up."""

    pod: dict[str, Any]


class StatusRequest(msgspec.Struct, frozen=True, tag="status"):
    """Tell what there is and who holds it."""


class Container(msgspec.Struct, frozen=True):
    """What one container of an admitted pod was granted."""

    name: str
    kind: str
    allotments: tuple[Allotment, ...] = ()


class Granted(msgspec.Struct, frozen=True, tag="granted"):
    """The pod as admitted and its containers in the pod's order; ``state`` is the directory to keep out of reach."""

    pod: dict[str, Any]
    containers: tuple[Container, ...]
    epc: int
    state: str
    simulated: bool
    notes: tuple[str, ...] = ()
    attestation_url: str | None = None


class HeldLease(msgspec.Struct, frozen=True):
    """One line of the ledger; ``epc`` in bytes."""

    name: str
    pid: int
    epc: int


class Status(msgspec.Struct, frozen=True, tag="status"):
    """What there is. EPC in bytes; ``devices`` maps resources to (healthy, free)."""

    simulated: bool
    epc_capacity: int
    epc_free: int
    leases: tuple[HeldLease, ...]
    devices: dict[str, tuple[int, int]]
    aesm_socket: str
    cpu_socket: str | None = None
    provision_socket: str | None = None
    attestation_url: str | None = None


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    """An error of ours, to be raised on the other side."""

    kind: str
    code: str
    message: str
    field: str | None = None
    expected: str | None = None
    found: str | None = None
    hint: str | None = None
    findings: tuple[Finding, ...] = ()


Request = LeaseRequest | StatusRequest
Reply = Granted | Status | Refused

_ENCODER: Final = msgspec.json.Encoder()
_REQUESTS: Final = msgspec.json.Decoder(Request)
_REPLIES: Final = msgspec.json.Decoder(Reply)


def encode(message: Request | Reply) -> bytes:
    """Return one line. Raises FormatError when it would be longer than anybody reads, or is nothing that JSON has."""
    try:
        line = _ENCODER.encode(message) + b"\n"
    except (TypeError, ValueError, RecursionError) as error:
        raise FormatError(f"cannot be said in JSON: {error}", code="control.encode") from error
    if len(line) > MAX_LINE:
        raise FormatError(
            "too large for the control socket",
            code="control.size",
            expected=f"at most {MAX_LINE} bytes",
            found=str(len(line)),
        )
    return line


def decode_request(line: bytes) -> Request:
    """Read one request line. Raises FormatError."""
    try:
        request: Request = _REQUESTS.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise FormatError(f"not a control request: {error}", code="control.request") from error
    return request


def decode_reply(line: bytes) -> Reply:
    """Read one reply line. Raises FormatError."""
    try:
        reply: Reply = _REPLIES.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise FormatError(
            f"not a control reply: {error}", code="control.reply", hint="do both sides have the same version?"
        ) from error
    return reply


def refusal(error: KubenclaveError) -> Refused:
    """Return an error in the form it travels in."""
    if isinstance(error, PolicyError):
        return Refused("PolicyError", error.code, error.message, findings=error.findings)
    return Refused(
        type(error).__name__,
        error.code,
        error.message,
        field=error.field,
        expected=error.expected,
        found=error.found,
        hint=error.hint,
    )


def as_error(refused: Refused) -> KubenclaveError:
    """Return the error that a refusal stands for."""
    if refused.findings:
        return PolicyError(refused.findings)
    kind = _KINDS.get(refused.kind, PlatformError)
    return kind(
        refused.message,
        code=refused.code,
        field=refused.field,
        expected=refused.expected,
        found=refused.found,
        hint=refused.hint,
    )


class ControlClient:
    """The other side, for programs without an event loop. A context manager: the lease ends with the block."""

    def __init__(self, path: Path, *, deadline: float = REPLY_DEADLINE) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._path = path
        self._socket.settimeout(deadline)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def fileno(self) -> int:
        """Return the connection's descriptor, which becomes readable when the other side goes."""
        return self._socket.fileno()

    def ask(self, request: Request) -> Granted | Status:
        """Send the request and return the answer; the connection stays open.

        Raises the error that the other side refused with, UnreachableError when there is nobody.
        """
        line = encode(request)
        try:
            self._socket.connect(str(self._path))
            self._socket.sendall(line)
            answer = _read_line(self._socket)
        except OSError as error:
            raise UnreachableError(
                f"no answer at {self._path}: {error.strerror or error}",
                code="control.unreachable",
                hint="start 'kubenclave up' with the same --state first",
            ) from error
        reply = decode_reply(answer)
        if isinstance(reply, Refused):
            raise as_error(reply)
        return reply


def is_served(path: Path) -> bool:
    """Tell whether somebody listens at ``path``."""
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        if stat.S_ISSOCK(path.stat().st_mode):
            probe.settimeout(1)
            probe.connect(str(path))
            return True
    return False


def _read_line(connection: socket.socket) -> bytes:
    line = bytearray()
    while not line.endswith(b"\n"):
        part = connection.recv(65536)
        if not part or len(line) + len(part) > MAX_LINE:
            raise OSError("the other side hung up" if not part else "the answer does not end")
        line += part
    return bytes(line)
