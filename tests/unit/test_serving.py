# SPDX-License-Identifier: Apache-2.0
"""What serves HTTP in programs of the cluster: sockets that send at once, bodies within bounds."""

import asyncio
import re
import socket
from typing import Any

import httpx2
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from kubenclave.errors import KubenclaveError
from kubenclave.serving import MAX_CONNECTIONS, Bodies, health_app, listen, server, status_of


def request(*pieces, ends=True):
    """A request whose body comes in pieces; without its end the client stays silent, or goes away (None)."""
    messages = [
        {"type": "http.disconnect"} if piece is None else {"type": "http.request", "body": piece, "more_body": True}
        for piece in pieces
    ]
    messages += [{"type": "http.request", "body": b""}] if ends else []
    remaining = iter(messages)

    async def receive():
        message = next(remaining, None)
        return message if message is not None else await asyncio.Event().wait()

    return Request({"type": "http", "method": "POST", "headers": []}, receive)


def refusal(bodies, asked):
    with pytest.raises(KubenclaveError) as caught:
        asyncio.run(bodies.read(asked))
    return caught.value.code, status_of(caught.value)


def test_what_is_accepted_sends_at_once():
    with listen(0) as listening, socket.create_connection(("127.0.0.1", listening.getsockname()[1])):
        accepted, _ = listening.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_what_a_fault_says_is_in_no_log(caplog):
    async def broken(_request):
        no_error: Any = "a secret"
        status_of(no_error)

    async def ask():
        with listen(0) as listening:
            serving = server(Starlette(routes=[Route("/", broken)]))
            running = asyncio.create_task(serving.serve([listening]))
            async with httpx2.AsyncClient() as client:
                answer = await client.get(f"http://127.0.0.1:{listening.getsockname()[1]}/")
            serving.should_exit = True
            await running
            return answer.status_code

    assert asyncio.run(ask()) == 500
    (line,) = caplog.messages
    assert re.fullmatch(r"Exception in ASGI application: AttributeError in kubenclave\.serving:\d+", line)
    assert "secret" not in caplog.text


def test_connections_that_say_nothing_keep_nobody_out():
    async def ok(_request):
        return PlainTextResponse("ok")

    async def crowd():
        listening = listen(0)
        serving = server(Starlette(routes=[Route("/", ok)]))
        running = asyncio.create_task(serving.serve([listening]))
        address = listening.getsockname()
        crowd = [await asyncio.open_connection("127.0.0.1", address[1]) for _ in range(4 * MAX_CONNECTIONS + 1)]
        reader, writer = crowd[-1]
        writer.write(b"GET / HTTP/1.1\r\nHost: us\r\n\r\n")
        status = (await reader.readline()).split()[1]
        held = len(serving.server_state.connections)
        for _, each in crowd:
            each.close()
        serving.should_exit = True
        await running
        return status, held

    status, held = asyncio.run(crowd())
    assert status == b"200"
    assert held <= MAX_CONNECTIONS


def test_a_body_comes_whole_and_leaves_room_for_the_next():
    bodies = Bodies(limit=4, together=4, seconds=5)
    for _ in range(2):
        assert asyncio.run(bodies.read(request(b"ab", b"cd"))) == b"abcd"


def test_a_body_that_is_too_long_is_refused_before_its_end():
    assert refusal(Bodies(3, 100, 5), request(b"ab", b"cd", ends=False)) == ("serving.size", 413)


@pytest.mark.parametrize("pieces", [[b"a"], [b"a", None]], ids=["silent", "gone"])
def test_a_client_that_falls_silent_or_goes_away_holds_nothing(pieces):
    bodies = Bodies(3, 3, 0.01)
    assert refusal(bodies, request(*pieces, ends=False)) == ("serving.slow", 408)
    assert asyncio.run(bodies.read(request(b"abc"))) == b"abc"


def test_all_bodies_together_have_a_bound():
    async def second():
        bodies = Bodies(limit=3, together=5, seconds=5)
        first = asyncio.create_task(bodies.read(request(b"abc", ends=False)))
        await asyncio.sleep(0)
        try:
            await bodies.read(request(b"def"))
        finally:
            first.cancel()

    with pytest.raises(KubenclaveError) as caught:
        asyncio.run(second())
    assert (caught.value.code, status_of(caught.value)) == ("serving.busy", 503)


def test_one_address_may_be_served_with_bounds_of_its_own():
    with listen(0, "127.0.0.1", connections=1, backlog=4) as listening:
        listening.listen(1)  # as asyncio does, to say how many it accepts at once
        assert listening.getsockname()[0] == "127.0.0.1"
        with (
            socket.create_connection(listening.getsockname()) as first,
            socket.create_connection(listening.getsockname()),
        ):
            ours = [listening.accept()[0] for _ in range(2)]
            assert first.recv(1) == b"", "the oldest goes"
            for each in ours:
                each.close()


def test_a_server_may_wait_for_its_metrics():
    async def render():
        return b"a 1\n"

    async def scrape():
        transport = httpx2.ASGITransport(app=health_app(lambda: None, render))
        async with httpx2.AsyncClient(transport=transport, base_url="http://test") as client:
            return (await client.get("/metrics")).content

    assert asyncio.run(scrape()) == b"a 1\n"
