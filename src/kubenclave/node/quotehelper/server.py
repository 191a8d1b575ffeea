# SPDX-License-Identifier: Apache-2.0
"""The AESM socket's server: one request, one reply, one write, one close for each connection.

It works on bare non-blocking sockets, because a connection lives for four system calls and a transport would cost
more than those. Connections that say nothing are bounded in number and time; when there are too many, the peer that
has most of them loses its oldest, so that whoever floods the socket pushes out its own.
"""

import asyncio
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import structlog

from kubenclave.errors import FormatError
from kubenclave.node.quotehelper.deadlines import Deadlines
from kubenclave.node.quotehelper.fair import Crowd
from kubenclave.platform import sockets
from kubenclave.wire.aesm import FrameReader
from kubenclave.wire.metrics import Counter

_log = structlog.get_logger()

_RECEIVE: Final = 8192
_BATCH: Final = 64
_ACCEPT_PAUSE: Final = 0.05
_COMPLAINT_PAUSE: Final = 10.0
_DRAIN_STEP: Final = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerLimits:
    """Bounds of what peers can hold: connections that owe us a request or do not take their reply, and for how long.

    ``connections`` is the bound of all together, so that descriptors are left for the rest of the process.
    """

    connections: int = 4096
    unread: int = 512
    unwritten: int = 256
    seconds: float = 5.0


class Connection:
    """A peer that has sent its request. It must be answered exactly once."""

    __slots__ = ("_peer", "_server", "reader", "socket", "unsent")

    def __init__(self, server: "AesmServer", sock: socket.socket) -> None:
        self._server = server
        self._peer: int | None = None
        self.socket = sock
        self.reader = FrameReader()
        self.unsent = b""

    @property
    def peer(self) -> int:
        """What tells the peer's process from others (``sockets.process``); -1 - user id where nothing does."""
        if self._peer is None:
            self._peer = sockets.process(self.socket) or -1 - sockets.peer(self.socket)[1]
        return self._peer

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
        self._unread: Final = Deadlines[Connection](self._limits.seconds, self._silent_too_long)
        self._unwritten: Final = Deadlines[Connection](self._limits.seconds, self._unread_too_long)
        self._waiting: Final[set[Connection]] = set()
        self._silent: Final = Crowd[Connection]()
        self._listener: socket.socket | None = None
        self._resume: asyncio.TimerHandle | None = None
        self._complained = float("-inf")

    @property
    def connections(self) -> int:
        """Connections that are open now."""
        return len(self._unread) + len(self._waiting) + len(self._unwritten)

    def start(self, listener: socket.socket) -> None:
        """Accept from a non-blocking listening socket, which is the server's from now on, in place of one before."""
        if self._listener is not None:
            self._accept(self._listener)  # whoever is in its line already
        self._stop_listening()
        self._listener = listener
        self._listen()

    async def drain(self, linger: float, patience: float) -> None:
        """Stop without refusing anybody.

        A client that has looked up our path before it led elsewhere still gets in during the next ``linger`` seconds,
        and has as long again to say what it wants; answers under way have ``patience`` seconds to get out.
        """
        loop = asyncio.get_running_loop()
        await asyncio.sleep(linger)
        begun = loop.time()
        while self.connections and loop.time() < begun + patience:
            if loop.time() > begun + linger and not self._waiting and not self._unwritten:
                break
            await asyncio.sleep(_DRAIN_STEP)
        self.close()

    def close(self) -> None:
        """Close everything at once."""
        self._stop_listening()
        for connection in self._unread.clear():
            self._heard(connection)
            self._close(connection, "shutdown")
        for connection in self._unwritten.clear():
            self._end_writing(connection, "shutdown")
        for connection in [*self._waiting]:
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

    def _stop_listening(self) -> None:
        if self._resume is not None:
            self._resume.cancel()
            self._resume = None
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()
            self._listener = None

    def _listen(self) -> None:
        self._resume = None
        assert self._listener is not None, "whoever stops listening cancels this"
        asyncio.get_running_loop().add_reader(self._listener, self._accept, self._listener)

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(_BATCH):  # others have to get their turn
            if self.connections >= self._limits.connections and not (self._unread or self._unwritten):
                self._pause(listener, "all connections wait for their answers")
                return
            try:
                sock, _address = listener.accept()
            except BlockingIOError:
                return
            except ConnectionError:
                continue
            except OSError as error:
                self._pause(listener, str(error.strerror))
                self._make_room()
                return
            self._adopt(sock)
            if self.connections > self._limits.connections:
                self._make_room()

    def _pause(self, listener: socket.socket, reason: str) -> None:
        """Wait for connections to end: who comes meanwhile stays in the kernel's line."""
        loop = asyncio.get_running_loop()
        if loop.time() >= self._complained + _COMPLAINT_PAUSE:
            self._complained = loop.time()
            _log.warning("aesm.accept-failed", error=reason, connections=self.connections)
        loop.remove_reader(listener)
        self._resume = loop.call_later(_ACCEPT_PAUSE, self._listen)

    def _make_room(self) -> None:
        """End a connection whose peer keeps us waiting, if there is one."""
        if (silent := self._silent.oldest_of_largest()) is not None:
            self._crowd_out(silent)
        elif (oldest := self._unwritten.oldest()) is not None:
            self._end_writing(oldest, "crowded_out")

    def _adopt(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        connection = Connection(self, sock)
        if self._read(connection):  # mostly: the request is there already, which saves the selector's work
            return
        if len(self._unread) >= self._limits.unread and (silent := self._silent.oldest_of_largest()) is not None:
            self._crowd_out(silent)
        self._unread.add(connection)
        self._silent.add(connection.peer, connection)
        asyncio.get_running_loop().add_reader(sock, self._read, connection)

    def _crowd_out(self, connection: Connection) -> None:
        self._heard(connection)
        self._close(connection, "crowded_out")

    def _heard(self, connection: Connection) -> None:
        """Stop waiting for a request."""
        asyncio.get_running_loop().remove_reader(connection.socket)
        self._unread.discard(connection)
        self._silent.discard(connection.peer, connection)

    def _read(self, connection: Connection) -> bool:
        """Take what has arrived; return whether there is nothing more to wait for."""
        try:
            data = connection.socket.recv(_RECEIVE)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        outcome, body = "", None
        if not data:  # probes connect and leave: nothing to complain about
            outcome = "truncated" if connection.reader.begun else "probe"
        else:
            try:
                body = connection.reader.feed(data)
            except FormatError:
                outcome = "malformed"
            if body is None and not outcome:
                return False
        if connection in self._unread:
            self._heard(connection)
        if body is None:
            self._close(connection, outcome)
        else:
            self._waiting.add(connection)
            self._handler(body, connection)
        return True

    def _write_later(self, connection: Connection, rest: bytes) -> None:
        self._waiting.discard(connection)
        if len(self._unwritten) >= self._limits.unwritten and (oldest := self._unwritten.oldest()) is not None:
            self._end_writing(oldest, "crowded_out")
        self._unwritten.add(connection)
        connection.unsent = rest
        asyncio.get_running_loop().add_writer(connection.socket, self._writable, connection)

    def _writable(self, connection: Connection) -> None:
        try:
            sent = connection.socket.send(connection.unsent)
        except BlockingIOError:
            return
        except OSError:
            self._end_writing(connection, "left")
            return
        connection.unsent = connection.unsent[sent:]
        if not connection.unsent:
            self._end_writing(connection, "answered")

    def _silent_too_long(self, connection: Connection) -> None:
        self._heard(connection)
        self._close(connection, "timeout")

    def _unread_too_long(self, connection: Connection) -> None:
        self._end_writing(connection, "timeout")

    def _end_writing(self, connection: Connection, outcome: str) -> None:
        asyncio.get_running_loop().remove_writer(connection.socket)
        self._unwritten.discard(connection)
        self._close(connection, outcome)

    def _close(self, connection: Connection, outcome: str) -> None:
        self._waiting.discard(connection)
        connection.socket.close()
        self._outcomes.inc(outcome)
