# SPDX-License-Identifier: Apache-2.0
"""Supervision of worker processes, and of the path of the socket, in one process with the test."""

import asyncio
import os
import socket
import sys
from collections.abc import Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from kubenclave.errors import PlatformError
from kubenclave.node.helper import QuoteHelper, worker_command
from kubenclave.node.quotehelper import place
from kubenclave.node.quotehelper.options import parse
from kubenclave.node.quotehelper.place import Occupant, Place, TakeOver, occupant
from kubenclave.node.quotehelper.worker import Worker, WorkerState
from kubenclave.wire import aesm
from kubenclave.wire.aesm_errors import AesmError
from kubenclave.wire.metrics import Counter, Metrics
from kubenclave.wire.quoteworker import Op, QuoteRequest, WorkerReply
from tests.integration.aesm_peer import TEST_WORKER, report
from tests.waiting import eventually_async

TEST = (sys.executable, str(TEST_WORKER))
HELD = """\
import os, socket, sys, time
stream = socket.socket(fileno=int(sys.argv[2]))
{0}
"""


def held(text: str) -> tuple[str, ...]:
    """Return the command of a worker that does this with its ``stream``."""
    return sys.executable, "-c", HELD.format(text)


def with_worker(
    dialogue: Callable[[Worker, Counter], Coroutine[Any, Any, None]], *argv: str, stall_seconds: float = 60
) -> None:
    async def run() -> None:
        restarts = Metrics().counter("r_total", "")
        worker = Worker(argv, restarts, stall_seconds=stall_seconds)
        running = asyncio.ensure_future(worker.run())
        try:
            async with asyncio.timeout(30):
                await dialogue(worker, restarts)
        finally:
            running.cancel()
            with suppress(asyncio.CancelledError):
                await running

    asyncio.run(run())


def test_calls_are_answered_each_by_its_own():
    async def dialogue(worker: Worker, _restarts: Counter) -> None:
        await worker.wait_up()
        payloads = [QuoteRequest(report(f"error {number} {number:x}")).build() for number in range(1, 30)]
        replies = await asyncio.gather(*(worker.ask(Op.QUOTE, payload) for payload in payloads))
        assert [reply.error for reply in replies] == list(range(1, 30))
        assert worker.outstanding == 0

    with_worker(dialogue, *TEST)


def test_more_than_the_stream_takes_at_once_follows_when_there_is_room():
    async def dialogue(worker: Worker, _restarts: Counter) -> None:
        await worker.wait_up()
        payload = QuoteRequest(report("late 0.001"), bytes(960)).build()
        replies = await asyncio.gather(*(worker.ask(Op.QUOTE, payload) for _ in range(600)))
        assert {reply.error for reply in replies} == {0}

    with_worker(dialogue, *TEST)


def test_a_program_that_cannot_be_started_is_a_failing_worker():
    async def dialogue(worker: Worker, restarts: Counter) -> None:
        await eventually_async(lambda: worker.state is WorkerState.FAILING)
        assert restarts.get() >= 3
        reply = await worker.ask(Op.INIT)
        assert reply == WorkerReply(0, AesmError.SERVICE_UNAVAILABLE, 0, b"")

    with_worker(dialogue, "/nowhere/worker")


def test_a_worker_that_does_not_answer_is_replaced_and_killed():
    async def dialogue(worker: Worker, restarts: Counter) -> None:
        await worker.wait_up()
        first = worker.pid
        replies = await asyncio.gather(worker.ask(Op.INIT), worker.ask(Op.INIT))
        assert {reply.error for reply in replies} == {AesmError.BUSY}
        await eventually_async(lambda: restarts.get() == 1)
        await eventually_async(lambda: worker.pid not in {None, first})
        with pytest.raises(ProcessLookupError):
            os.kill(first or 0, 0)

    with_worker(dialogue, *held("time.sleep(60)"), stall_seconds=0.2)


def test_answers_that_nobody_asked_for_are_ignored():
    async def dialogue(worker: Worker, restarts: Counter) -> None:
        await worker.wait_up()
        reply = await worker.ask(Op.INIT)
        assert (reply.request_id, reply.error) == (1, 7)
        assert restarts.get() == 0

    reply = "struct.pack('<IIHI', 10, {}, 7, 0)"
    text = f"import struct; stream.recv(9); stream.sendall({reply.format(99)} + {reply.format(1)}); stream.recv(1)"
    with_worker(dialogue, *held(text))


def test_a_worker_that_closes_its_stream_and_stays_is_killed():
    async def dialogue(worker: Worker, restarts: Counter) -> None:
        await worker.wait_up()
        worker.call(Op.INIT, b"", lambda _: None)
        await eventually_async(lambda: restarts.get() == 1)

    with_worker(dialogue, *held("os.close(int(sys.argv[2])); time.sleep(60)"))


def test_requests_that_a_worker_never_read_fail_with_its_end():
    async def dialogue(worker: Worker, restarts: Counter) -> None:
        await worker.wait_up()
        reply = await worker.ask(Op.INIT)
        assert reply.error is AesmError.BUSY
        worker.call(Op.INIT, b"", lambda _: None)
        await eventually_async(lambda: restarts.get() >= 1)

    with_worker(dialogue, *held("time.sleep(0.2); os._exit(1)"))


def test_a_helper_without_a_health_socket(short_tmp):
    async def run() -> None:
        stop = asyncio.Event()
        arguments = ["--backend", "simulated", "--socket", str(short_tmp / "a")]
        one = QuoteHelper(parse(arguments), TEST)
        running = asyncio.ensure_future(one.run(stop))
        await eventually_async(lambda: not one.reasons)
        assert await occupant(short_tmp / "a") is Occupant.HELPER
        assert one.routes()["/readyz"]()[0] == 200
        stop.set()
        await running
        assert await occupant(short_tmp / "a") is Occupant.NOBODY

    asyncio.run(run())


def test_the_command_of_each_backend():
    simulated = worker_command(parse(["--backend", "simulated", "--provision-socket", "/c"]))
    assert simulated[1:] == ["-m", "kubenclave.platform.simulated.worker", "--provision-socket", "/c"]
    dcap = worker_command(parse(["--backend", "dcap"]))
    assert dcap[1:] == ["-m", "kubenclave.platform.dcapworker"]
    named = worker_command(parse(["--backend", "dcap", "--library", "/l"]))
    assert named[2:] == ["kubenclave.platform.dcapworker", "--library", "/l"]


# --- the path


class Neighbour:
    """Somebody on the path who answers every connection with the same bytes, or never."""

    def __init__(self, path: Path, answer: bytes | None) -> None:
        self._path = path
        self._answer = answer
        self._open: list[asyncio.StreamWriter] = []

    async def __aenter__(self) -> None:
        self._server = await asyncio.start_unix_server(self._connected, self._path)

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for writer in self._open:
            writer.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.append(writer)
        if self._answer is not None:
            await reader.read(7)
            writer.write(self._answer)
            writer.close()


@pytest.mark.parametrize(
    ("answer", "who"),
    [
        pytest.param(aesm.IDENTITY, Occupant.HELPER, id="helper"),
        pytest.param(b"", Occupant.FOREIGN, id="aesmd"),
        pytest.param(b"HTTP/1.1 400", Occupant.FOREIGN, id="other"),
        pytest.param(None, Occupant.FOREIGN, id="mute"),
    ],
)
def test_who_serves_a_path(short_tmp, monkeypatch, answer, who):
    monkeypatch.setattr(place, "PROBE_SECONDS", 0.1 if answer is None else 5)

    async def run() -> None:
        async with Neighbour(short_tmp / "a", answer):
            assert await occupant(short_tmp / "a") is who

    asyncio.run(run())


def test_nobody_serves_a_path_without_a_listener(short_tmp):
    assert asyncio.run(occupant(short_tmp / "absent")) is Occupant.NOBODY
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(short_tmp / "dead"))
    assert asyncio.run(occupant(short_tmp / "dead")) is Occupant.NOBODY


def test_a_path_that_cannot_be_asked_is_somebodys(short_tmp):
    assert asyncio.run(occupant(short_tmp / ("x" * 200))) is Occupant.FOREIGN


@pytest.mark.parametrize(
    ("take_over", "permitted"),
    [
        (TakeOver.HELPER, {Occupant.NOBODY, Occupant.HELPER}),
        (TakeOver.ANYBODY, {Occupant.NOBODY, Occupant.HELPER, Occupant.FOREIGN}),
        (TakeOver.NOBODY, {Occupant.NOBODY}),
    ],
    ids=lambda value: value.value if isinstance(value, TakeOver) else "",
)
def test_whom_to_replace(take_over, permitted):
    assert {who for who in Occupant if take_over.permits(who)} == permitted


def test_a_place_is_ours_until_somebody_else_takes_it(short_tmp, monkeypatch):
    monkeypatch.setattr(place, "PROBE_SECONDS", 0.02)  # nobody accepts here

    async def run() -> None:
        one, other = (Place(short_tmp / "a", 0o600, None, TakeOver.ANYBODY) for _ in range(2))
        assert not one.ours
        one.leave()  # never had
        first = await one.claim()
        assert one.ours
        with first:
            second = await other.claim()
            assert (one.ours, other.ours) == (False, True)
            one.leave()
            assert other.ours
            other.leave()
            second.close()
        restored = await one.reclaim()
        assert restored is not None
        restored.close()

    asyncio.run(run())


def test_a_refusal_names_the_way_out(short_tmp):
    async def run() -> None:
        async with Neighbour(short_tmp / "a", aesm.IDENTITY):
            with pytest.raises(PlatformError) as caught:
                await Place(short_tmp / "a", 0o600, None, TakeOver.NOBODY).claim()
        assert caught.value.code == "quotehelper.occupied"
        assert "--take-over helper" in (caught.value.hint or "")

    asyncio.run(run())
