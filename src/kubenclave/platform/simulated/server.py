# SPDX-License-Identifier: Apache-2.0
"""The SIMULATED CPU's sockets: one connection is one enclave, and ends with it.

Peers are held to what they may cost the others: connections in number and for each process, half-sent frames and
replies that nobody takes in time and bytes, long loads in slices between which everybody else gets a turn.
"""

import asyncio
import socket
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import structlog

from kubenclave.errors import FormatError
from kubenclave.platform import sockets
from kubenclave.platform.simulated.cpu import CpuEnclave, SoftwareCpu
from kubenclave.platform.simulated.faults import CpuError
from kubenclave.sgx.epc import PAGE_SIZE
from kubenclave.sgx.measure import Pages
from kubenclave.wire import simcpu
from kubenclave.wire.frames import LENGTH, frame_end
from kubenclave.wire.simcpu import Code, Reply

_log = structlog.get_logger()

_SMALL_FRAME: Final = 64 * 1024
_MEASURED_SLICE: Final = 32  # pages between two turns of the others: about a millisecond
_UNMEASURED_SLICE: Final = 2048
_REQUESTS_PER_TURN: Final = 16
_UNTAKEN: Final = 16 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerLimits:
    """What peers can hold. ``frame_seconds`` is for half a request and for a reply that is not taken.

    ``idle_seconds`` is for connections on which no enclave has been created; one with an enclave may be silent for
    ever. ``arriving`` are bytes of long frames that have not come entirely, of all peers together.
    """

    connections: int = 768
    per_process: int = 256
    frame_seconds: float = 5.0
    idle_seconds: float = 60.0
    arriving: int = 64 << 20


@dataclass(slots=True, eq=False)
class _Connection:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    enclave: CpuEnclave
    peer: int = field(init=False)
    refused: bool = False

    def __post_init__(self) -> None:
        self.peer = _peer(self.writer)

    def abort(self) -> None:
        """Close without a word; its reader sees the end of the stream."""
        self.writer.transport.abort()


class CpuServer:
    """Serves a CPU, on sockets for enclaves with and without the provisioning key.

    ``refresh`` is called before each request, so that a changed platform counts at once. ``pck_chain`` runs in a
    thread and returns the PEM chain; it may raise CpuError.
    """

    def __init__(
        self,
        cpu: SoftwareCpu,
        pck_chain: Callable[[], bytes],
        *,
        refresh: Callable[[], None] = lambda: None,
        limits: ServerLimits | None = None,
    ) -> None:
        self._cpu: Final = cpu
        self._pck_chain: Final = pck_chain
        self._refresh: Final = refresh
        self._limits: Final = limits or ServerLimits()
        self._connections: Final[dict[_Connection, asyncio.Task[None] | None]] = {}
        self._processes: Final[Counter[int]] = Counter()
        self._arriving: Final[dict[_Connection, int]] = {}
        self._certifying: Final = asyncio.Lock()
        self._servers: Final[list[asyncio.Server]] = []

    @property
    def connections(self) -> int:
        """Connections that are open now."""
        return len(self._connections)

    async def start(self, listener: socket.socket, *, may_provision: bool = False) -> None:
        """Accept from a listening socket, which is the server's from now on.

        ``may_provision`` lets enclaves of its connections have the provisioning key.
        """
        accepted = partial(self._accepted, may_provision=may_provision)
        self._servers.append(await asyncio.start_unix_server(accepted, sock=listener, limit=_SMALL_FRAME))

    async def close(self) -> None:
        """End all enclaves."""
        for server in self._servers:
            await sockets.close(server)
        tasks = [task for task in self._connections.values() if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _accepted(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, may_provision: bool
    ) -> None:
        connection = _Connection(reader, writer, self._cpu.enclave(may_provision=may_provision))
        if not self._admit(connection):
            connection.abort()
            return
        self._connections[connection] = asyncio.current_task()
        writer.transport.set_write_buffer_limits(high=_UNTAKEN)
        try:
            with suppress(OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await self._converse(connection)
        finally:
            self._forget(connection)

    def _admit(self, new: _Connection) -> bool:
        """Make room for a connection, first from those that are no enclaves; tell whether there is any."""
        if new.peer and self._processes[new.peer] >= self._limits.per_process:
            _log.warning("connection.refused", peer=new.peer, reason="too many of one process")
            return False
        if len(self._connections) >= self._limits.connections:
            idle = next((one for one in self._connections if not one.enclave.created), None)
            if idle is None:
                _log.warning("connection.refused", peer=new.peer, reason="too many enclaves")
                return False
            self._forget(idle)
        self._processes[new.peer] += 1
        return True

    def _forget(self, connection: _Connection) -> None:
        """Free everything a connection holds."""
        if connection not in self._connections:
            return
        del self._connections[connection]
        self._arriving.pop(connection, None)
        self._processes[connection.peer] -= 1
        if not self._processes[connection.peer]:
            del self._processes[connection.peer]
        held = connection.enclave.held
        connection.enclave.end()
        if held:
            _log.info("enclave.ended", peer=connection.peer, pages=held, free=self._cpu.epc.free)
        connection.writer.close()
        if connection.writer.transport.get_write_buffer_size():
            asyncio.get_running_loop().call_later(self._limits.frame_seconds, connection.abort)

    async def _converse(self, connection: _Connection) -> None:
        count = 0
        while frame := await self._receive(connection):
            try:
                request = simcpu.decode_request(frame)
            except FormatError as error:
                await self._send(connection, simcpu.refusal(Code.GENERAL_PROTECTION, str(error)))
                return
            await self._send(connection, await self._answer(connection, request))
            count += 1
            if count % _REQUESTS_PER_TURN == 0:
                await asyncio.sleep(0)

    async def _receive(self, connection: _Connection) -> bytes:
        """Return a whole frame, or nothing at the end of the stream and for a frame that is too long."""
        reader, limits = connection.reader, self._limits
        async with asyncio.timeout(None if connection.enclave.created else limits.idle_seconds):
            head = await reader.read(LENGTH.size)
        if not head:
            return b""
        async with asyncio.timeout(limits.frame_seconds):
            head += await reader.readexactly(LENGTH.size - len(head))
            try:
                rest = frame_end(head, 0, simcpu.MAX_FRAME) - LENGTH.size
            except FormatError as error:
                await self._send(connection, simcpu.refusal(Code.GENERAL_PROTECTION, str(error)))
                return b""
            if rest > _SMALL_FRAME:
                self._expect(connection, rest)
            body = await reader.readexactly(rest)
        self._arriving.pop(connection, None)
        return head + body

    def _expect(self, connection: _Connection, size: int) -> None:
        """Make room for a long frame; whoever has been sending one for the longest gives way."""
        while self._arriving and sum(self._arriving.values()) + size > self._limits.arriving:
            slowest = next(iter(self._arriving))
            self._arriving.pop(slowest)
            slowest.abort()
        self._arriving[connection] = size

    async def _send(self, connection: _Connection, reply: Reply) -> None:
        connection.writer.write(simcpu.encode_reply(reply))
        async with asyncio.timeout(self._limits.frame_seconds):
            try:
                await connection.writer.drain()
            except asyncio.CancelledError:
                connection.abort()  # what it does not take, it will not take later
                raise

    async def _answer(self, connection: _Connection, request: simcpu.Request) -> Reply:
        try:
            self._refresh()
            result = await self._execute(connection, request)
        except CpuError as error:
            if not connection.refused:  # one line for each connection: peers do not fill our log
                connection.refused = True
                op = simcpu.op_of(request).name
                _log.info("request.refused", peer=connection.peer, op=op, code=error.answer.name, reason=error.message)
            return simcpu.refusal(error.answer, error.message)
        return Reply(Code.SUCCESS, result)

    async def _execute(self, connection: _Connection, request: simcpu.Request) -> bytes:
        enclave = connection.enclave
        match request:
            case simcpu.Create():
                enclave.create(request)
            case simcpu.Add(pages):
                await self._add(enclave, pages)
            case simcpu.Extend(offset, chunk):
                enclave.extend(offset, chunk)
            case simcpu.Measured(mr_enclave, count):
                enclave.measured(mr_enclave, count)
            case simcpu.Init(sigstruct):
                enclave.init(sigstruct)
                _log_enclave(connection)
            case simcpu.MakeReport(target_info, report_data):
                return enclave.report(target_info, report_data)
            case simcpu.GetKey(key_request):
                return enclave.key(key_request)
            case _:
                return await self._tell(request)
        return b""

    async def _tell(self, request: simcpu.Request) -> bytes:
        """Answer what is not about one enclave."""
        match request:
            case simcpu.GetStatus():
                return self._cpu.status().build()
            case simcpu.GetSections():
                return simcpu.Sections(self._cpu.epc.sections).build()
        async with self._certifying:
            return await asyncio.to_thread(self._pck_chain)

    async def _add(self, enclave: CpuEnclave, pages: Pages) -> None:
        """EADD in slices. When one is refused, those before it stay added, as page by page on hardware."""
        self._cpu.epc.require(pages.count)
        step = _UNMEASURED_SLICE if pages.content is None else _MEASURED_SLICE
        for start in range(0, max(pages.count, 1), step):
            if start:
                await asyncio.sleep(0)
            count = min(step, pages.count - start)
            at = start * PAGE_SIZE
            content = None if pages.content is None else pages.content[at : at + count * PAGE_SIZE]
            enclave.add(Pages(pages.offset + at, pages.sec_info, count, content))


def _log_enclave(connection: _Connection) -> None:
    secs = connection.enclave.secs
    assert secs is not None, "EINIT has succeeded"
    _log.info(
        "enclave.initialised",
        peer=connection.peer,
        mr_enclave=secs.mr_enclave.hex(),
        mr_signer=secs.mr_signer.hex(),
        isv_prod_id=secs.isv_prod_id,
        isv_svn=secs.isv_svn,
        debug=secs.attributes.debug,
        pages=connection.enclave.held,
    )


def _peer(writer: asyncio.StreamWriter) -> int:
    """Return a number for the peer's process, 0 when it cannot be told from others or has left."""
    try:
        return sockets.process(writer.get_extra_info("socket"))
    except OSError:
        return 0
