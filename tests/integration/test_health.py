# SPDX-License-Identifier: Apache-2.0
"""The health endpoint against proper, hostile and slow clients."""

import asyncio
import errno
import gc
import http.client
import os
import socket
import stat
from collections.abc import Callable, Coroutine
from contextlib import suppress
from pathlib import Path

import pytest

from kubenclave.errors import PlatformError
from kubenclave.node.health import HealthServer
from kubenclave.platform import sockets

ROUTES = {
    "/healthz": lambda: (200, "text/plain", b"ok\n"),
    "/readyz": lambda: (503, "application/json", b'{"ready": false}'),
}


async def talk(path: Path, data: bytes, *, end: bool = False) -> bytes:
    """Send all bytes, return everything that comes back."""
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(data)
    if end:
        writer.write_eof()
    answer = await reader.read()
    writer.close()
    return answer


def serve(path: Path, dialogue: Callable[[], Coroutine[None, None, None]], server: HealthServer | None = None) -> None:
    async def run() -> None:
        async with (server or HealthServer(ROUTES)).on_unix_socket(path), asyncio.timeout(10):
            await dialogue()

    asyncio.run(run())


def test_routes_answer_with_their_status(short_tmp: Path) -> None:
    path = short_tmp / "s"

    async def dialogue() -> None:
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        answer = await talk(path, b"GET /healthz?verbose HTTP/1.1\r\nHost: node\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 200 \r\n")
        assert answer.endswith(b"\r\n\r\nok\n")
        assert b"connection: close" in answer.lower()
        answer = await talk(path, b"GET /readyz HTTP/1.0\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 503 \r\n")
        assert answer.endswith(b'{"ready": false}')

    serve(path, dialogue)
    assert not path.exists()


def test_head_has_no_body(short_tmp: Path) -> None:
    async def dialogue() -> None:
        answer = await talk(short_tmp / "s", b"HEAD /healthz HTTP/1.1\r\nHost: node\r\n\r\n")
        assert answer.endswith(b"\r\n\r\n")
        assert b"content-length: 3" in answer.lower()

    serve(short_tmp / "s", dialogue)


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET /other HTTP/1.1\r\nHost: node\r\n\r\n", b"404"),
        (b"GET /\xff HTTP/1.1\r\nHost: node\r\n\r\n", b"400"),
        (b"POST /healthz HTTP/1.1\r\nHost: node\r\nContent-Length: 5\r\n\r\nhello", b"405"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", b"400"),
        (b"GET /healthz HTTP/1.1\r\n" + b"X: " + b"y" * 100_000 + b"\r\n\r\n", b"431"),
    ],
)
def test_improper_requests_get_their_status(short_tmp: Path, request_bytes: bytes, status: bytes) -> None:
    async def dialogue() -> None:
        try:
            answer = await talk(short_tmp / "s", request_bytes)
        except ConnectionResetError:  # the rest of a refused request was still under way
            assert status == b"431"
        else:
            assert answer.split()[1] == status

    serve(short_tmp / "s", dialogue)


def test_peer_that_says_nothing_is_dropped(short_tmp: Path) -> None:
    path = short_tmp / "s"

    async def dialogue() -> None:
        assert b" 400 " in await talk(path, b"GET /heal", end=True)
        assert await talk(path, b"GET /healthz HTTP/1.1\r\n") == b""  # never ends its head
        assert (await talk(path, b"GET /healthz HTTP/1.0\r\n\r\n")).endswith(b"ok\n")

    serve(path, dialogue, HealthServer(ROUTES, deadline=0.1))


def test_peer_that_leaves_at_once_costs_nothing(short_tmp: Path) -> None:
    async def dialogue() -> None:
        assert await talk(short_tmp / "s", b"", end=True) == b""

    serve(short_tmp / "s", dialogue)


def test_who_says_nothing_makes_room_for_who_asks(short_tmp: Path) -> None:
    path = short_tmp / "s"

    async def dialogue() -> None:
        held = [await asyncio.open_unix_connection(path) for _ in range(2)]
        for _ in range(3):
            assert (await talk(path, b"GET /healthz HTTP/1.0\r\n\r\n")).endswith(b"ok\n")
        oldest, _ = held[0]
        assert await oldest.read() == b""
        held[1][1].write(b"GET /healthz HTTP/1.0\r\n\r\n")  # one was enough, so the other still has its place
        assert (await held[1][0].read()).endswith(b"ok\n")
        for _, writer in held:
            writer.close()

    serve(path, dialogue, HealthServer(ROUTES, max_connections=2))


def test_a_flood_of_silent_connections_does_not_keep_out_a_probe(short_tmp: Path) -> None:
    path = short_tmp / "s"

    async def dialogue() -> None:
        held = []
        for _ in range(5):
            held += [await asyncio.open_unix_connection(path) for _ in range(60)]
            assert (await talk(path, b"GET /healthz HTTP/1.0\r\n\r\n")).endswith(b"ok\n")
        for _, writer in held:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    serve(path, dialogue, HealthServer(ROUTES, deadline=30))


def test_a_socket_that_cannot_be_removed_any_more_is_left(short_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a disk that has become read-only: the daemon has better things to do than to end by that."""
    listener, who = sockets.take(short_tmp / "s", 0o600)

    def refuse(_path: Path) -> None:
        raise OSError(errno.EROFS, "read-only")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", refuse)
        sockets.remove(short_tmp / "s", who)
    assert sockets.identity(short_tmp / "s") == who
    listener.close()


def test_who_loses_the_place_at_once_does_not_take_the_others_socket_for_its_own(short_tmp: Path, monkeypatch) -> None:
    """Two daemons race for one path: between the renaming of one and its next step the other renames too."""
    path = short_tmp / "s"
    rename = Path.rename
    others = []

    def rename_and_lose(beside: Path, target: Path) -> Path:
        renamed = rename(beside, target)
        with monkeypatch.context() as patch:
            patch.setattr(Path, "rename", rename)
            others.append(sockets.take(path, 0o600))
        return renamed

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", rename_and_lose)
        listener, who = sockets.take(path, 0o600)
    (other, winner) = others[0]
    sockets.remove(path, who)
    assert sockets.identity(path) == winner != who
    listener.close()
    other.close()


def test_without_descriptors_there_is_an_error_of_ours(short_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EMFILE, "too many open files")

    monkeypatch.setattr("kubenclave.platform.sockets.socket.socket", refuse)
    with pytest.raises(PlatformError, match="too many open files") as caught:
        sockets.take(short_tmp / "s", 0o600)
    assert caught.value.code == "socket.listen"


def test_tcp_serves_an_ordinary_http_client() -> None:
    def ask(port: int) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        connection.request("GET", "/healthz")
        response = connection.getresponse()
        answer = response.status, response.read()
        connection.close()
        return answer

    async def run() -> None:
        async with HealthServer(ROUTES).on_tcp("127.0.0.1", 0) as port:
            assert await asyncio.to_thread(ask, port) == (200, b"ok\n")

    asyncio.run(run())


@pytest.mark.parametrize("host", ["127.0.0.1", None])
def test_a_port_that_somebody_else_has_is_an_error_of_ours(host: str | None) -> None:
    async def run() -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            async with HealthServer(ROUTES).on_tcp(host, taken.getsockname()[1]):
                pass

    with pytest.raises(PlatformError) as caught:
        asyncio.run(run())
    assert caught.value.code == "serving.port"
    assert "in use" in str(caught.value)


def test_stale_socket_is_replaced_and_a_successor_is_left_alone(short_tmp: Path) -> None:
    path = short_tmp / "s"
    stale = sockets.listen(path, 0o600)
    stale.close()
    first = sockets.identity(path)
    successor = sockets.listen(path, 0o666)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666
    assert sockets.identity(path) not in (first, None)
    sockets.remove(path, first)
    sockets.remove(path, None)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(os.fspath(path))
    successor.close()
    sockets.remove(path, sockets.identity(path))
    assert list(short_tmp.iterdir()) == []


def test_place_without_folder_is_an_error(short_tmp: Path) -> None:
    with pytest.raises(PlatformError) as caught:
        sockets.listen(short_tmp / "absent" / "s", 0o600)
    assert caught.value.code == "socket.listen"
    with pytest.raises(PlatformError):
        sockets.listen(short_tmp / ("x" * 200), 0o600)


def test_only_sockets_have_an_identity(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert sockets.identity(tmp_path / "file") is None
    assert sockets.identity(tmp_path / "absent") is None


@pytest.mark.parametrize("turns", range(5))
def test_who_is_accepted_in_the_moment_of_the_end_is_not_left_open(short_tmp: Path, turns: int) -> None:
    """asyncio accepts in steps, and forgets a connection whose server is closed between them."""
    path = short_tmp / "s"

    async def scenario() -> None:
        with socket.socket(socket.AF_UNIX) as peer:
            async with HealthServer(ROUTES).on_unix_socket(path):
                peer.connect(str(path))
                for _ in range(turns):
                    await asyncio.sleep(0)
            peer.shutdown(socket.SHUT_WR)

    asyncio.run(scenario())
    gc.collect()  # tells of a socket that nobody has closed
