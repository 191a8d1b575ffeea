# SPDX-License-Identifier: Apache-2.0
"""The AESM socket's server: one request, one reply, one write, one close for each connection.

It works on bare non-blocking sockets, because a connection lives for four system calls and a transport would cost
more than those. Connections that say nothing are bounded in number and time; when there are too many, the one that has
been silent longest makes room, so that whoever floods the socket pushes out its own.
"""

import asyncio
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import structlog

from kubenclave.errors import FormatError
from kubenclave.node.quotehelper.deadlines import Deadlines
from kubenclave.wire.aesm import FrameReader
from kubenclave.wire.metrics import Counter

_log = structlog.get_logger()

_CREDENTIALS: Final = struct.Struct("=iII")
_RECEIVE: Final = 8192
_BATCH: Final = 64
_ACCEPT_PAUSE: Final = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerLimits:
    """Bounds of what peers can hold: connections that owe us a request or do not take their reply, and for how long."""

    unread: int = 512
    unwritten: int = 256
    seconds: float = 5.0


class Connection:
    """A peer that has sent its request. It must be answered exactly once."""

    __slots__ = ("_server", "reader", "socket", "unsent")

    def __init__(self, server: "AesmServer", sock: socket.socket) -> None:
        self._server = server
        self.socket = sock
        self.reader = FrameReader()
        self.unsent = b""

    @property
    def peer(self) -> int:
        """Process id of the peer; 0 when it is outside of our PID namespace or has left."""
        try:
            data = self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        except OSError:
            return 0
        pid: int = _CREDENTIALS.unpack(data)[0]
        return pid

    def answer(self, frame: bytes | None) -> None:
        """Send the frame and close, or close without a word."""
        self._server.answer(self, frame)


Handler = Callable[[bytes, Connection], None]
"""Takes the body of a request and sees to it that the connection is answered."""


class AesmServer:
    """Serves one listening socket; ``outcomes`` counts connections by how they ended."""

    def __init__(self, handler: Handler, outcomes: Counter, limits: ServerLimits | None = None) -> None:
        self._handler: Final = handler
        self._outcomes: Final = outcomes
        self._limits: Final = limits or ServerLimits()
        self._unread: Final = Deadlines[Connection](self._limits.seconds, self._too_slow)
        self._unwritten: Final = Deadlines[Connection](self._limits.seconds, self._too_slow)
        self._waiting: Final[set[Connection]] = set()
        self._listener: socket.socket | None = None
        self._accepting = False
        self._resume: asyncio.TimerHandle | None = None

    @property
    def connections(self) -> int:
        """Connections that are open now."""
        return len(self._unread) + len(self._waiting) + len(self._unwritten)

    def start(self, listener: socket.socket) -> None:
        """Accept from a non-blocking listening socket, which is the server's from now on."""
        self._listener = listener
        self._listen()

    async def drain(self, linger: float, patience: float) -> None:
        """Stop without refusing anybody.

        A client that has looked up our path before it led elsewhere still gets in during the next ``linger`` seconds;
        answers under way have ``patience`` seconds to get out.
        """
        loop = asyncio.get_running_loop()
        await asyncio.sleep(linger)
        end = loop.time() + patience
        while self.connections and loop.time() < end:
            await asyncio.sleep(0.01)
        self.close()

    def close(self) -> None:
        """Close everything at once."""
        if self._resume is not None:
            self._resume.cancel()
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()
            self._listener = None
        for connection in [*self._unread.clear(), *self._unwritten.clear(), *self._waiting]:
            self._close(connection, "shutdown")

    def answer(self, connection: Connection, frame: bytes | None) -> None:
        """Send ``frame`` in one piece and close; what a full buffer does not take at once follows when it can."""
        if connection not in self._waiting:
            return  # closed meanwhile
        if frame is None:
            self._close(connection, "malformed")
            return
        try:
            sent = connection.socket.send(frame)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._close(connection, "left")
            return
        if sent == len(frame):
            self._close(connection, "answered")
        else:
            self._write_later(connection, frame[sent:])

    def _listen(self) -> None:
        self._resume = None
        if self._listener is not None:
            asyncio.get_running_loop().add_reader(self._listener, self._accept, self._listener)

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(_BATCH):  # others have to get their turn
            try:
                sock, _address = listener.accept()
            except BlockingIOError:
                return
            except ConnectionError:
                continue
            except OSError as error:
                self._pause(listener, error)
                return
            self._adopt(sock)

    def _pause(self, listener: socket.socket, error: OSError) -> None:
        """Wait for descriptors to become free, and see to it that one does."""
        _log.warning("aesm.accept_failed", error=error.strerror, connections=self.connections)
        loop = asyncio.get_running_loop()
        loop.remove_reader(listener)
        self._resume = loop.call_later(_ACCEPT_PAUSE, self._listen)
        self._make_room(self._unread, 1)

    def _adopt(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        connection = Connection(self, sock)
        self._make_room(self._unread, self._limits.unread)
        self._unread.add(connection)
        self._readable(connection)
        if connection in self._unread:  # mostly not: the request is there already, which saves the selector's work
            asyncio.get_running_loop().add_reader(sock, self._readable, connection)

    def _make_room(self, deadlines: Deadlines[Connection], limit: int) -> None:
        if len(deadlines) >= limit and (oldest := deadlines.oldest()) is not None:
            deadlines.discard(oldest)
            self._close(oldest, "crowded_out")

    def _readable(self, connection: Connection) -> None:
        try:
            data = connection.socket.recv(_RECEIVE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._unread.discard(connection)  # probes connect and leave: nothing to complain about
            self._close(connection, "truncated" if connection.reader.begun else "probe")
            return
        try:
            body = connection.reader.feed(data)
        except FormatError:
            self._unread.discard(connection)
            self._close(connection, "malformed")
            return
        if body is not None:
            asyncio.get_running_loop().remove_reader(connection.socket)
            self._unread.discard(connection)
            self._waiting.add(connection)
            self._handler(body, connection)

    def _write_later(self, connection: Connection, rest: bytes) -> None:
        self._waiting.discard(connection)
        self._make_room(self._unwritten, self._limits.unwritten)
        self._unwritten.add(connection)
        connection.unsent = rest
        asyncio.get_running_loop().add_writer(connection.socket, self._writable, connection)

    def _writable(self, connection: Connection) -> None:
        try:
            sent = connection.socket.send(connection.unsent)
        except BlockingIOError:
            return
        except OSError:
            self._unwritten.discard(connection)
            self._close(connection, "left")
            return
        connection.unsent = connection.unsent[sent:]
        if not connection.unsent:
            self._unwritten.discard(connection)
            self._close(connection, "answered")

    def _too_slow(self, connection: Connection) -> None:
        self._close(connection, "timeout")

    def _close(self, connection: Connection, outcome: str) -> None:
        self._waiting.discard(connection)
        loop = asyncio.get_running_loop()
        loop.remove_reader(connection.socket)
        loop.remove_writer(connection.socket)
        connection.socket.close()
        self._outcomes.inc(outcome)
