# SPDX-License-Identifier: Apache-2.0
"""The socket server by itself: writes, deadlines, places, draining, in one process with the test."""

import asyncio
import errno
import os
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from kubenclave.node.quotehelper.server import AesmServer, Connection, ServerLimits
from kubenclave.platform import sockets
from kubenclave.wire.metrics import Counter, Metrics
from tests.waiting import eventually_async

REQUEST = struct.pack("<I", 5) + b"hello"


class Rig:
    """A server whose handler keeps the connections, or answers with ``answer`` at once."""

    def __init__(self, path: Path, limits: ServerLimits, kind: int) -> None:
        self.path = path
        self.answer: bytes | None = b"answer"
        self.keep = False
        self.kept: list[Connection] = []
        self.bodies: list[bytes] = []
        self._kind = kind
        self.outcomes: Counter = Metrics().counter("c_total", "", "outcome")
        self.server = AesmServer(self.handle, self.outcomes, limits)

    def handle(self, body: bytes, connection: Connection) -> None:
        self.bodies.append(body)
        self.kept.append(connection)
        if not self.keep:
            connection.answer(self.answer)

    def peer(self, data: bytes = b"") -> socket.socket:
        peer = socket.socket(socket.AF_UNIX, self._kind)
        peer.setblocking(False)
        peer.connect(str(self.path))
        if data:
            peer.send(data)
        return peer

    async def read(self, peer: socket.socket) -> bytes:
        """Return all that comes until the server closes; what is after that is lost, as in a reset, is not ours."""
        data = b""
        while part := await asyncio.get_running_loop().sock_recv(peer, 1 << 20):
            data += part
        peer.close()
        return data

    async def ended(self, outcome: str, times: int = 1) -> None:
        await eventually_async(lambda: self.outcomes.get(outcome) >= times)


@asynccontextmanager
async def rig(folder: Path, kind: int = socket.SOCK_STREAM, **limits: float) -> AsyncIterator[Rig]:
    one = Rig(folder / "s", ServerLimits(**limits), kind)  # type: ignore[arg-type]  # numbers of either kind
    if kind == socket.SOCK_STREAM:
        listener = sockets.listen(one.path, 0o600, 256)
    else:
        listener = socket.socket(socket.AF_UNIX, kind | socket.SOCK_NONBLOCK)
        listener.bind(str(one.path))
        listener.listen()
    one.server.start(listener)
    try:
        async with asyncio.timeout(20):
            yield one
    finally:
        one.server.close()


def run(dialogue: Callable[[], Awaitable[None]]) -> None:
    async def inner() -> None:
        await dialogue()

    asyncio.run(inner())


def test_a_reply_is_one_write_however_long(short_tmp):
    async def dialogue() -> None:
        async with rig(short_tmp, socket.SOCK_SEQPACKET) as one:  # where each write is a message of its own
            one.answer = struct.pack("<I", 68000) + bytes(68000)
            peer = one.peer(REQUEST)
            message = await asyncio.get_running_loop().sock_recv(peer, 1 << 20)
            assert len(message) == 68004
            assert await one.read(peer) == b""

    run(dialogue)


def test_a_connection_is_closed_after_its_answer_or_without_one(short_tmp):
    async def dialogue() -> None:
        async with rig(short_tmp) as one:
            assert await one.read(one.peer(REQUEST)) == b"answer"
            one.answer = None
            assert await one.read(one.peer(REQUEST)) == b""
            one.kept[0].answer(b"again")  # late and ignored
            assert one.server.connections == 0
            assert (one.outcomes.get("answered"), one.outcomes.get("malformed")) == (1, 1)
            assert one.bodies == [b"hello", b"hello"]

    run(dialogue)


def test_peers_are_told_apart_by_their_process(short_tmp):
    async def dialogue() -> None:
        async with rig(short_tmp) as one:
            one.keep = True
            peer = one.peer(REQUEST)
            await eventually_async(lambda: one.kept)
            assert one.kept[0].peer == os.getpid()
            peer.close()

    run(dialogue)


def test_a_process_that_cannot_be_told_from_others_goes_by_its_user(short_tmp):
    async def dialogue() -> None:
        async with rig(short_tmp) as one:
            one.keep = True
            peer = one.peer(REQUEST)
            await eventually_async(lambda: one.kept)
            connection = one.kept[0]

            class Foreign:
                def getsockopt(self, _level: int, _option: int, size: int = 0) -> bytes:
                    if not size:
                        raise OSError(errno.ENOPROTOOPT, "no SO_PEERPIDFD")
                    return struct.pack("=iII", 0, 1000, 1000)

            real = connection.socket
            connection.socket = Foreign()  # type: ignore[assignment]  # as the kernel says it to a container
            assert connection.peer == -1001
            connection.socket = real
            connection.answer(b"x")
            assert await one.read(peer) == b"x"

    run(dialogue)


@pytest.mark.parametrize(
    ("data", "outcome"),
    [
        pytest.param(b"", "probe", id="probe"),
        pytest.param(REQUEST[:3], "truncated", id="length"),
        pytest.param(REQUEST[:-1], "truncated", id="body"),
        pytest.param(b"\xff\xff\xff\xff", "malformed", id="length-absurd"),
    ],
)
def test_how_connections_end_that_ask_nothing(short_tmp, data, outcome):
    async def dialogue() -> None:
        async with rig(short_tmp) as one:
            peer = one.peer()
            await eventually_async(lambda: one.server.connections)
            if data:
                peer.send(data)
            peer.shutdown(socket.SHUT_WR)
            await one.ended(outcome)
            assert one.server.connections == 0
            peer.close()

    run(dialogue)


def test_a_peer_that_resets_is_a_probe(short_tmp):
    async def dialogue() -> None:
        async with rig(short_tmp) as one:
            peer = one.peer()
            await eventually_async(lambda: one.server.connections)
            peer.close()
            await one.ended("probe")

    run(dialogue)


def test_whoever_stalls_is_closed_in_time_and_others_are_not_delayed(short_tmp):
    async def dialogue() -> None:
        async with rig(short_tmp, seconds=0.3) as one:
            stalled = [one.peer(REQUEST[:count]) for count in (0, 1, 3, 4, 6)]
            for _ in range(10):
                assert await one.read(one.peer(REQUEST)) == b"answer"
            assert one.server.connections == len(stalled)
            await one.ended("timeout", len(stalled))
            for peer in stalled:
                assert await one.read(peer) == b""

    run(dialogue)


def test_a_flood_of_silent_connections_crowds_out_itself(short_tmp):
    async def dialogue() -> None:
        async with rig(short_tmp, unread=10, seconds=15) as one:
            flood = []
            for _ in range(50):
                flood.append(one.peer())
                await asyncio.sleep(0)
            await one.ended("crowded_out", 40)
            assert one.server.connections == 10
            assert await one.read(one.peer(REQUEST)) == b"answer"
            for peer in flood[:40]:
                assert await one.read(peer) == b""
            flood[45].send(REQUEST)  # still in
            assert await one.read(flood[45]) == b"answer"
            for peer in flood[40:]:
                peer.close()

    run(dialogue)


def test_a_peer_that_does_not_take_its_reply_gets_time_and_no_more(short_tmp):
    async def dialogue() -> None:
        async with rig(short_tmp, seconds=0.3, unwritten=2) as one:
            one.answer = bytes(4 << 20)
            peers = [one.peer(REQUEST) for _ in range(3)]
            await one.ended("crowded_out")
            one.answer = b"answer"
            assert await one.read(one.peer(REQUEST)) == b"answer"
            assert len(await one.read(peers[2])) == 4 << 20  # slow, but in time
            await one.ended("timeout")
            assert one.server.connections == 0
            for peer in peers[:2]:
                peer.close()

    run(dialogue)


@pytest.mark.parametrize("size", [6, 4 << 20], ids=["short", "long"])
def test_a_peer_that_leaves_before_its_answer_is_noted(short_tmp, size):
    async def dialogue() -> None:
        async with rig(short_tmp) as one:
            one.keep = True
            peer = one.peer(REQUEST)
            await eventually_async(lambda: one.kept)
            if size > 6:  # it leaves in the middle
                one.kept[0].answer(bytes(size))
                assert one.server.connections == 1
            peer.close()
            if size == 6:
                one.kept[0].answer(b"answer")
            await one.ended("left")
            assert one.server.connections == 0

    run(dialogue)


def test_a_buffer_that_is_full_is_written_to_later(short_tmp):
    class Full:
        def __init__(self, sock: socket.socket) -> None:
            self._socket = sock
            self._refusals = 2

        def send(self, data: bytes) -> int:
            if self._refusals:
                self._refusals -= 1
                raise BlockingIOError
            return self._socket.send(data)

        def __getattr__(self, name: str) -> object:
            return getattr(self._socket, name)

    async def dialogue() -> None:
        async with rig(short_tmp) as one:
            one.keep = True
            peer = one.peer(REQUEST)
            await eventually_async(lambda: one.kept)
            one.kept[0].socket = Full(one.kept[0].socket)  # type: ignore[assignment]  # a socket that says no twice
            one.kept[0].answer(b"answer")
            assert await one.read(peer) == b"answer"

    run(dialogue)


class Refusing:
    """A listener on which accept fails a few times."""

    def __init__(self, listener: socket.socket, errors: list[OSError]) -> None:
        self._listener = listener
        self._errors = errors

    def accept(self) -> tuple[socket.socket, object]:
        if self._errors:
            raise self._errors.pop(0)
        return self._listener.accept()

    def __getattr__(self, name: str) -> object:
        return getattr(self._listener, name)


def test_running_out_of_descriptors_costs_a_silent_peer_its_place(short_tmp):
    async def dialogue() -> None:
        async with rig(short_tmp) as one:
            silent = one.peer()
            await eventually_async(lambda: one.server.connections)
            errors = [ConnectionAbortedError(), OSError(errno.EMFILE, "too many")]
            listener = Refusing(sockets.listen(one.path, 0o600, 64), errors)
            one.server.start(listener)  # type: ignore[arg-type]  # a listener with troubles
            assert await one.read(one.peer(REQUEST)) == b"answer"
            assert errors == []
            assert await one.read(silent) == b""
            assert one.outcomes.get("crowded_out") == 1

    run(dialogue)


def test_connections_are_bounded_altogether_and_the_silent_make_room(short_tmp):
    async def dialogue() -> None:
        async with rig(short_tmp, connections=3) as one:
            one.keep = True
            silent = one.peer()
            await eventually_async(lambda: one.server.connections == 1)
            asking = [one.peer(REQUEST) for _ in range(4)]
            assert await one.read(silent) == b""
            await eventually_async(lambda: len(one.kept) == 3)
            await asyncio.sleep(0.12)  # longer than the pause: the fourth stays in the kernel's line
            assert (len(one.kept), one.server.connections) == (3, 3)
            one.kept[0].answer(b"answer")
            assert await one.read(asking[0]) == b"answer"
            await eventually_async(lambda: len(one.kept) == 4)
            for peer in asking[1:]:
                peer.close()

    run(dialogue)


def test_who_does_not_take_a_reply_makes_room_when_nobody_is_silent(short_tmp):
    async def dialogue() -> None:
        async with rig(short_tmp, connections=1) as one:
            one.answer = bytes(1 << 22)
            greedy = one.peer(REQUEST)
            await eventually_async(lambda: one.server.connections == 1)
            one.keep = True
            asking = one.peer(REQUEST)
            await one.ended("crowded_out")
            assert one.server.connections == 1
            one.kept[1].answer(b"answer")
            assert await one.read(asking) == b"answer"
            greedy.close()

    run(dialogue)


def test_closing_while_accept_pauses_leaves_nothing_behind(short_tmp):
    async def dialogue() -> None:
        async with rig(short_tmp) as one:
            errors = [OSError(errno.EMFILE, "too many")] * 100
            one.server.start(Refusing(sockets.listen(one.path, 0o600, 64), errors))  # type: ignore[arg-type]
            peer = one.peer()
            await eventually_async(lambda: len(errors) < 100)
            one.server.close()
            left = len(errors)
            await asyncio.sleep(0.12)  # longer than the pause
            assert len(errors) == left
            peer.close()

    run(dialogue)


def test_another_listener_takes_over_with_those_in_the_line_of_the_first(short_tmp):
    async def dialogue() -> None:
        async with rig(short_tmp) as one:
            early = one.peer(REQUEST)  # connected, not accepted yet
            one.server.start(sockets.listen(one.path, 0o600))
            assert await one.read(early) == b"answer"
            assert await one.read(one.peer(REQUEST)) == b"answer"

    run(dialogue)


def test_draining_answers_who_is_in_and_does_not_wait_for_the_silent(short_tmp):
    async def dialogue() -> None:
        async with rig(short_tmp) as one:
            one.keep = True
            silent, asking = one.peer(), one.peer(REQUEST)
            await eventually_async(lambda: one.kept)
            draining = asyncio.ensure_future(one.server.drain(0.1, 10))
            late = one.peer()
            late.send(REQUEST)
            await eventually_async(lambda: len(one.kept) == 2)
            for connection in one.kept:
                connection.answer(b"answer")
            assert await one.read(asking) == b"answer"
            assert await one.read(late) == b"answer"
            await draining
            assert await one.read(silent) == b""
            assert one.outcomes.get("shutdown") == 1

    run(dialogue)


def test_draining_ends_even_if_answers_do_not(short_tmp):
    async def dialogue() -> None:
        async with rig(short_tmp) as one:
            one.keep = True
            waiting = one.peer(REQUEST)
            await eventually_async(lambda: one.kept)
            one.keep, one.answer = False, bytes(4 << 20)
            unread = one.peer(REQUEST)
            await one.server.drain(0.02, 0.1)
            assert await one.read(waiting) == b""
            assert one.outcomes.get("shutdown") == 2
            unread.close()

    run(dialogue)
