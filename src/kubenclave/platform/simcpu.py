# SPDX-License-Identifier: Apache-2.0
"""A client of the SIMULATED CPU for programs without an event loop, and the platform as the node agent sees it.

Every simulated enclave is reached through here: the quoting enclave, workloads, tools. No cryptography is needed.
"""

import fcntl
import os
import select
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from kubenclave.errors import FormatError, PlatformError, UnreachableError
from kubenclave.platform.base import DriverFlavour, EpcSource, Inventory
from kubenclave.platform.sockets import (
    CPU_SOCKET,
    CPU_SOCKET_VARIABLE,
    PROVISION_SOCKET,
    PROVISION_SOCKET_VARIABLE,
)
from kubenclave.sgx.attributes import AttributeFlags, Attributes, Xfrm
from kubenclave.sgx.epc import PAGE_SIZE, EpcSection
from kubenclave.sgx.keyrequest import KeyRequest
from kubenclave.sgx.measure import Pages
from kubenclave.sgx.report import REPORT_DATA_SIZE, TARGET_INFO_SIZE, Report, ReportBody, TargetInfo
from kubenclave.wire import simcpu
from kubenclave.wire.frames import FrameDecoder
from kubenclave.wire.simcpu import Code, CpuStatus

__all__ = [
    "CPU_SOCKET_VARIABLE",
    "DEFAULT_CPU_SOCKET",
    "DEFAULT_PROVISION_SOCKET",
    "ENCLAVE_VARIABLE",
    "PROVISION_SOCKET_VARIABLE",
    "CpuStatus",
    "Enclave",
    "SimulatedPlatform",
    "provision_socket_path",
    "socket_path",
]

ENCLAVE_VARIABLE: Final = "KUBENCLAVE_SIM_ENCLAVE"
DEFAULT_CPU_SOCKET: Final = Path(CPU_SOCKET)
DEFAULT_PROVISION_SOCKET: Final = Path(PROVISION_SOCKET)
DEFAULT_TIMEOUT: Final = 15.0
DEFAULT_ATTRIBUTES: Final = Attributes(AttributeFlags.MODE64BIT, Xfrm.X87 | Xfrm.SSE)

_RECEIVE: Final = 64 * 1024
_LOCK_PAUSE: Final = 0.001
_HINTS: Final = {
    Code.OUT_OF_EPC: "end another enclave, or start the platform with more EPC",
    Code.INVALID_ATTRIBUTE: "load it as it was signed; for PROVISIONKEY ask for sgx.intel.com/provision",
    Code.INVALID_MEASUREMENT: "the SIGSTRUCT is of another build: sign what is being loaded",
    Code.INVALID_SIGNATURE: "sign it anew: any changed byte needs a new signature",
    Code.NOT_AVAILABLE: "the log of the simulated platform says why",
}


def socket_path(env: Mapping[str, str]) -> Path:
    """Return where the CPU is: what KUBENCLAVE_SIM_CPU says, or the default place."""
    return Path(env.get(CPU_SOCKET_VARIABLE) or DEFAULT_CPU_SOCKET)


def provision_socket_path(env: Mapping[str, str]) -> Path:
    """Return where enclaves with the provisioning key are loaded: KUBENCLAVE_SIM_PROVISION, or the default place."""
    return Path(env.get(PROVISION_SOCKET_VARIABLE) or DEFAULT_PROVISION_SOCKET)


class Enclave:
    """One connection to the CPU, which is one enclave: gone when the last process that holds it closes it.

    Threads and processes that share it take turns. Every method raises PlatformError with code
    ``simcpu.<name of the CPU's code>`` when the CPU refuses, UnreachableError when it does not answer in time,
    FormatError when operands have the wrong size.
    """

    def __init__(self, connection: socket.socket, *, timeout: float = DEFAULT_TIMEOUT) -> None:
        """Take over a connected socket; ``timeout`` in seconds for each step of an exchange."""
        self._socket: Final = connection
        self._timeout: Final = timeout
        self._turn: Final = threading.Lock()
        connection.settimeout(timeout)

    @classmethod
    def connect(cls, path: Path | str, *, timeout: float = DEFAULT_TIMEOUT) -> Self:
        """Connect to the CPU's socket; there is no enclave yet. Raises UnreachableError."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.settimeout(timeout)
            connection.connect(os.fspath(path))
        except OSError as error:
            connection.close()
            raise _unreachable(f"no SIMULATED CPU at {path}: {error.strerror or error}") from error
        return cls(connection, timeout=timeout)

    @classmethod
    def inherited(cls, env: Mapping[str, str], *, timeout: float = DEFAULT_TIMEOUT) -> Self | None:
        """Return the enclave that ``kubenclave sim run`` has loaded for this process, None when there is none.

        Raises PlatformError with code ``simcpu.inherited`` when the descriptor that KUBENCLAVE_SIM_ENCLAVE names
        has not come along.
        """
        number = env.get(ENCLAVE_VARIABLE)
        if not number:
            return None
        try:
            connection = socket.socket(fileno=os.dup(int(number)))
        except (ValueError, OverflowError, OSError) as error:
            raise _lost(number) from error
        if connection.family != socket.AF_UNIX or connection.type != socket.SOCK_STREAM:
            connection.close()
            raise _lost(number)
        return cls(connection, timeout=timeout)

    def create(
        self,
        size: int,
        ssa_frame_size: int = 1,
        *,
        attributes: Attributes = DEFAULT_ATTRIBUTES,
        misc_select: int = 0,
        cet_attributes: int = 0,
        config_svn: int = 0,
        config_id: bytes = bytes(64),
    ) -> None:
        """ECREATE of ``size`` bytes, with SSA frames of ``ssa_frame_size`` pages. Takes one page of EPC."""
        self._ask(
            simcpu.Create(
                size=size,
                ssa_frame_size=ssa_frame_size,
                misc_select=misc_select,
                cet_attributes=cet_attributes,
                attributes=attributes,
                config_svn=config_svn,
                config_id=config_id,
            )
        )

    def add(self, pages: Pages) -> None:
        """EADD, and EEXTEND where there is content; takes ``count`` pages of EPC."""
        step = simcpu.PAGES_PER_FRAME
        if pages.content is None or pages.count <= step:
            self._ask(simcpu.Add(pages))
            return
        for start in range(0, pages.count, step):
            at = start * PAGE_SIZE
            content = pages.content[at : at + step * PAGE_SIZE]
            count = min(step, pages.count - start)
            self._ask(simcpu.Add(Pages(pages.offset + at, pages.sec_info, count, content)))

    def extend(self, offset: int, chunk: bytes) -> None:
        """EEXTEND of 256 bytes at ``offset``."""
        self._ask(simcpu.Extend(offset, chunk))

    def measured(self, mr_enclave: bytes, pages: int) -> None:
        """Give a measurement in place of pages; as many are taken from the EPC."""
        self._ask(simcpu.Measured(mr_enclave, pages))

    def init(self, sigstruct: bytes) -> None:
        """EINIT with a SIGSTRUCT of 1808 bytes."""
        self._ask(simcpu.Init(sigstruct))

    def report(self, target_info: TargetInfo | bytes, report_data: bytes) -> bytes:
        """EREPORT: return the REPORT (432 bytes) of this enclave for a target; ``report_data`` is 64 bytes."""
        target = target_info if isinstance(target_info, bytes) else target_info.build()
        return self._ask(simcpu.MakeReport(target, report_data))

    def key(self, request: KeyRequest) -> bytes:
        """EGETKEY: return a key of this enclave, 16 bytes."""
        return self._ask(simcpu.GetKey(request.build()))

    def target_info(self) -> TargetInfo:
        """Return the TARGETINFO that names this enclave, read from a REPORT of its own."""
        return TargetInfo.of(self.body())

    def body(self) -> ReportBody:
        """Return what REPORTs say of this enclave, read from one that is made for nobody."""
        return Report.parse(self.report(bytes(TARGET_INFO_SIZE), bytes(REPORT_DATA_SIZE))).body

    def status(self) -> CpuStatus:
        """Return how much EPC the CPU has."""
        return CpuStatus.parse(self._ask(simcpu.GetStatus()))

    def sections(self) -> tuple[int, ...]:
        """Return the bytes of EPC on each NUMA node, from node 0 on."""
        return simcpu.Sections.parse(self._ask(simcpu.GetSections())).sizes

    def pck_chain(self) -> bytes:
        """Return the platform's PCK certificate chain: PEM, leaf first, root last."""
        return self._ask(simcpu.GetPckChain())

    def fileno(self) -> int:
        """Return the connection's descriptor, to be inherited by another process."""
        return self._socket.fileno()

    def hand_down(self) -> int:
        """Return the descriptor, made fit for a program executed from here; KUBENCLAVE_SIM_ENCLAVE tells it."""
        self._socket.setblocking(True)  # programs in other languages expect it
        self._socket.set_inheritable(True)
        return self._socket.fileno()

    def close(self) -> None:
        """Close the connection; the enclave ends unless another process holds it too."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _ask(self, request: simcpu.Request) -> bytes:
        frame = simcpu.encode_request(request)
        try:
            with self._alone():
                reply = self._exchange(frame)
        except OSError as error:
            raise _unreachable(f"the SIMULATED CPU does not answer: {error.strerror or error}") from error
        if reply.code is not Code.SUCCESS:
            raise _refused(simcpu.op_of(request), reply)
        return reply.check(request)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep out other threads, and other processes that hold the same connection: they would get our replies."""
        end = time.monotonic() + self._timeout
        if not self._turn.acquire(timeout=self._timeout):
            raise TimeoutError("another thread does not finish")
        try:
            while not _locked(self._socket):
                if time.monotonic() > end:
                    raise TimeoutError("another process does not finish")
                time.sleep(_LOCK_PAUSE)
            try:
                yield
            finally:
                fcntl.lockf(self._socket, fcntl.LOCK_UN)
        finally:
            self._turn.release()

    def _exchange(self, frame: bytes) -> simcpu.Reply:
        decoder = FrameDecoder(simcpu.decode_reply, simcpu.MAX_FRAME)
        try:
            self._check_silence()
            self._socket.sendall(frame)
            while data := self._socket.recv(_RECEIVE):
                if replies := decoder.feed(data):
                    return replies[0]
        except (OSError, FormatError):
            # Half a request or an unread reply is in the stream now; nobody may take it for the next one's.
            self._break()
            raise
        raise _unreachable("the SIMULATED CPU has ended this enclave")

    def _check_silence(self) -> None:
        """Raise ConnectionError when a reply waits for somebody who was killed before taking it."""
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        if poll.poll(0) and self._socket.recv(1, socket.MSG_PEEK):
            raise ConnectionError("another process has left a reply behind")

    def _break(self) -> None:
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)


class SimulatedPlatform:
    """The simulated platform behind its sockets, for the node agent. Satisfies ``platform.base.Platform``."""

    def __init__(self, path: Path | str, provision: Path | str | None = None, *, timeout: float = 2.0) -> None:
        """Take the CPU socket and, where there is one to give, the provision socket."""
        self._path: Final = Path(path)
        self._provision: Final = None if provision is None else Path(provision)
        self._timeout: Final = timeout

    def inventory(self) -> Inventory:
        """Return what the CPU offers. Raises UnreachableError when it does not answer in time."""
        with Enclave.connect(self._path, timeout=self._timeout) as connection:
            sections = connection.sections()
        return Inventory(
            driver=DriverFlavour.SIMULATED,
            sections=tuple(EpcSection(node, size) for node, size in enumerate(sections)),
            epc_source=EpcSource.SIMULATED,
            cpu_socket=str(self._path),
            provision_socket=str(self._provision) if self._provides() else None,
        )

    def _provides(self) -> bool:
        """Tell whether enclaves with the provisioning key can be loaded."""
        if self._provision is None:
            return False
        try:
            Enclave.connect(self._provision, timeout=self._timeout).close()
        except UnreachableError:
            return False
        return True


def _locked(connection: socket.socket) -> bool:
    """Try to lock a connection against other processes; there is no such lock that waits for a limited time."""
    try:
        fcntl.lockf(connection, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _refused(op: simcpu.Op, reply: simcpu.Reply) -> PlatformError:
    reason = f": {reply.reason}" if reply.reason else ""
    return PlatformError(
        f"the SIMULATED CPU refused {op.name} with {reply.code.name}{reason}",
        code=f"simcpu.{reply.code.slug}",
        hint=_HINTS.get(reply.code),
    )


def _unreachable(message: str) -> UnreachableError:
    return UnreachableError(
        message,
        code="simcpu.unreachable",
        hint=f"'kubenclave sim start' or 'kubenclave up' runs one; {CPU_SOCKET_VARIABLE} says where it is",
    )


def _lost(number: str) -> PlatformError:
    return PlatformError(
        f"the enclave's descriptor {number[:20]!r} has not come along",
        code="simcpu.inherited",
        expected="a connection to the SIMULATED CPU",
        hint="programs between 'kubenclave sim run' and here must not close it",
    )
