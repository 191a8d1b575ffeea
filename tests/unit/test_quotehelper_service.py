# SPDX-License-Identifier: Apache-2.0
"""What the service answers in the states that are hard to hold still in a whole helper, with a worker made of lists."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, cast

import pytest

from kubenclave.node.quotehelper.calls import Call
from kubenclave.node.quotehelper.service import QuoteService, ServiceLimits
from kubenclave.node.quotehelper.worker import Done, Worker, WorkerState
from kubenclave.wire import aesm
from kubenclave.wire.aesm_errors import AesmError
from kubenclave.wire.aesm_keyid import ECDSA_P256_KEY_ID as KEY_ID
from kubenclave.wire.metrics import Metrics
from kubenclave.wire.quoteworker import InitResult, Op, QuoteResult, WorkerReply
from tests.waiting import eventually_async

INIT = aesm.InitQuote(KEY_ID, True, 32)
QUOTE = b"q" * 1100
RESULT = InitResult(b"t" * 512, b"p" * 32, len(QUOTE))


class Listed:
    """A worker whose calls stand in a list until the test answers them."""

    def __init__(self) -> None:
        self.state = WorkerState.UP
        self.calls: list[tuple[Op, Done]] = []
        self.restarted: list[str] = []
        self.on_lost: Callable[[], None] = lambda: None

    @property
    def outstanding(self) -> int:
        return len(self.calls)

    async def wait_up(self) -> None:
        pass

    def healthy(self) -> None:
        pass

    def restart(self, reason: str) -> None:
        self.restarted.append(reason)

    def call(self, op: Op, _payload: bytes, done: Done) -> None:
        self.calls.append((op, done))

    async def ask(self, op: Op) -> WorkerReply:
        future: asyncio.Future[WorkerReply] = asyncio.get_running_loop().create_future()
        self.call(op, b"", future.set_result)
        return await future

    async def answer(self, op: Op, error: int = 0, payload: bytes = b"") -> None:
        """Answer the first call, which has to be of this kind, as soon as it is there."""
        await eventually_async(lambda: self.calls)
        (was, done), self.calls = self.calls[0], self.calls[1:]
        assert was is op
        done(WorkerReply(0, error, 0xE000, payload))
        await asyncio.sleep(0)


class Client:
    """One request and what it got."""

    def __init__(self, peer: int = 1) -> None:
        self.peer = peer
        self.frames: list[bytes | None] = []

    def answer(self, frame: bytes | None) -> None:
        self.frames.append(frame)

    def error(self, request: aesm.Request) -> AesmError | None:
        """Return the error code of the one answer, None while there is none."""
        if not self.frames:
            return None
        assert len(self.frames) == 1
        assert self.frames[0] is not None
        reply = aesm.decode_reply(self.frames[0][4:], request)
        return reply.error if isinstance(reply, aesm.Refusal) else AesmError.SUCCESS


class Bench:
    """Service and worker; ``ask`` sends a request and returns its client."""

    def __init__(self, **limits: Any) -> None:
        self.worker = Listed()
        self.service = QuoteService(cast("Worker", self.worker), Metrics(), ServiceLimits(**limits))

    def ask(self, request: aesm.Request, peer: int = 1) -> Client:
        client = Client(peer)
        self.service.handle(aesm.encode_request(request)[4:], client)
        return client

    def quote(self, peer: int = 1, report: bytes = bytes(432), info: bytes | None = None) -> Client:
        return self.ask(aesm.GetQuote(report, KEY_ID, 2000, info), peer)


REQUEST = aesm.GetQuote(bytes(432), KEY_ID, 2000)
Scene = Callable[[Bench], Coroutine[Any, Any, None]]


def play(scene: Scene, *, initialised: bool = True, **limits: Any) -> None:
    async def run() -> None:
        bench = Bench(**limits)
        keeping = asyncio.ensure_future(bench.service.keep_initialised())
        if initialised:
            await bench.worker.answer(Op.INIT, payload=RESULT.build())
            assert bench.service.ready
        async with asyncio.timeout(20):
            await scene(bench)
        keeping.cancel()
        await asyncio.wait([keeping])

    asyncio.run(run())


def test_init_waits_for_the_initialisation_under_way():
    async def scene(bench: Bench) -> None:
        clients = [bench.ask(INIT) for _ in range(3)]
        assert [client.error(INIT) for client in clients] == [None] * 3
        await bench.worker.answer(Op.INIT, payload=RESULT.build())
        await bench.service.wait_initialised()
        assert [client.error(INIT) for client in clients] == [AesmError.SUCCESS] * 3

    play(scene, initialised=False)


def test_a_failed_initialisation_is_told_to_all_and_at_once_to_those_who_come_right_after():
    async def scene(bench: Bench) -> None:
        waiting = bench.ask(INIT)
        await bench.worker.answer(Op.INIT, 12)
        assert waiting.error(INIT) is AesmError.NETWORK_ERROR
        assert bench.ask(INIT).error(INIT) is AesmError.NETWORK_ERROR
        assert [reason.code for reason in bench.service.reasons] == ["quotehelper.not-initialised"]
        assert "0xE000" in bench.service.reasons[0].message
        assert "PCCS" in bench.service.reasons[0].hint

    play(scene, initialised=False)


def test_those_who_wait_for_the_initialisation_are_bounded():
    async def scene(bench: Bench) -> None:
        clients = [bench.ask(INIT) for _ in range(3)]
        assert [client.error(INIT) for client in clients] == [None, None, AesmError.BUSY]
        await bench.worker.answer(Op.INIT, 30)

    play(scene, initialised=False, queued=2)


def test_whoever_waited_too_long_is_not_answered_twice():
    async def scene(bench: Bench) -> None:
        client = bench.ask(INIT)
        await eventually_async(lambda: client.error(INIT) is not None)
        assert client.error(INIT) is AesmError.BUSY
        await bench.worker.answer(Op.INIT, payload=RESULT.build())
        assert client.error(INIT) is AesmError.BUSY

    play(scene, initialised=False, answer_seconds=0.02)


def test_a_failed_renewal_leaves_the_key_in_use():
    async def scene(bench: Bench) -> None:
        await bench.worker.answer(Op.INIT, 12)
        assert bench.service.ready
        assert bench.ask(INIT).error(INIT) is AesmError.SUCCESS

    play(scene, refresh_seconds=0.01)


def test_a_full_queue_refuses_the_newest_of_whoever_has_most():
    async def scene(bench: Bench) -> None:
        greedy = [bench.quote(1) for _ in range(4)]  # one is asked, three wait
        other = bench.quote(2)
        assert [client.error(REQUEST) for client in greedy] == [None, None, None, AesmError.BUSY]
        payload = QuoteResult(QUOTE).build()
        await bench.worker.answer(Op.QUOTE, payload=payload)
        await bench.worker.answer(Op.QUOTE, payload=payload)
        await bench.worker.answer(Op.QUOTE, payload=payload)
        assert other.error(REQUEST) is AesmError.SUCCESS
        assert bench.service.queued == 0

    play(scene, in_flight=1, queued=3)


def test_a_call_that_has_expired_in_the_queue_takes_nobodys_place():
    async def scene(bench: Bench) -> None:
        asked, waiting, last = bench.quote(), bench.quote(), bench.quote()
        await eventually_async(lambda: last.error(REQUEST) is not None)
        assert {one.error(REQUEST) for one in (asked, waiting)} == {AesmError.BUSY}
        assert bench.quote(2).error(REQUEST) is AesmError.BUSY  # the worker has not come back
        await bench.worker.answer(Op.QUOTE, payload=QuoteResult(QUOTE).build())
        assert bench.service.queued == 0
        assert bench.worker.calls == []
        good = bench.quote()
        await bench.worker.answer(Op.QUOTE, payload=QuoteResult(QUOTE).build())
        assert good.error(REQUEST) is AesmError.SUCCESS

    play(scene, in_flight=1, answer_seconds=0.02)


def test_an_expired_call_that_loses_its_place_is_not_answered_again():
    async def scene(bench: Bench) -> None:
        first, second, third = bench.quote(1), bench.quote(1), bench.quote(1)
        await eventually_async(lambda: third.error(REQUEST) is not None)
        bench.service._stuck = 0  # as if the worker had come back without an answer
        other = bench.quote(2)
        assert [one.error(REQUEST) for one in (first, second, third)] == [AesmError.BUSY] * 3
        assert other.error(REQUEST) is None

    play(scene, in_flight=1, queued=2, answer_seconds=0.02)


def test_a_process_that_cannot_be_seen_goes_by_its_report():
    async def scene(bench: Bench) -> None:
        one, other = b"1" * 432, b"2" * 432
        heard = []
        for report in (one, other, one, other):
            client = bench.quote(-1, report)
            await bench.worker.answer(Op.QUOTE, AesmError.INVALID_REPORT)
            heard.append(client.error(REQUEST))
        assert heard == [AesmError.ATT_KEY_NOT_INITIALIZED] * 2 + [AesmError.INVALID_REPORT] * 2
        assert bench.ask(INIT, -1).error(INIT) is AesmError.SUCCESS  # tells nothing about anybody
        client = bench.quote(-1, b"3" * 432)
        await bench.worker.answer(Op.QUOTE, AesmError.INVALID_REPORT)
        assert client.error(REQUEST) is AesmError.ATT_KEY_NOT_INITIALIZED

    play(scene)


def test_clients_are_remembered_up_to_a_bound():
    async def scene(bench: Bench) -> None:
        for peer in range(1, 4100):
            bench.ask(INIT, peer)
        assert len(bench.service._told) == 4096

    play(scene)


def test_an_unwanted_qe_report_means_another_worker():
    async def scene(bench: Bench) -> None:
        client = bench.quote()
        await bench.worker.answer(Op.QUOTE, payload=QuoteResult(QUOTE, bytes(960)).build())
        assert client.error(REQUEST) is AesmError.UNEXPECTED_ERROR
        assert len(bench.worker.restarted) == 1

    play(scene)


@pytest.mark.parametrize(
    ("state", "error", "code"),
    [
        (WorkerState.RESTARTING, AesmError.BUSY, "quotehelper.worker-restarting"),
        (WorkerState.FAILING, AesmError.SERVICE_UNAVAILABLE, "quotehelper.worker-failing"),
    ],
    ids=["restarting", "failing"],
)
def test_without_a_worker(state, error, code):
    async def scene(bench: Bench) -> None:
        bench.worker.on_lost()
        bench.worker.state = state
        assert bench.quote().error(REQUEST) is error
        assert bench.ask(aesm.GetQuoteSize(KEY_ID)).error(aesm.GetQuoteSize(KEY_ID)) is error
        assert [reason.code for reason in bench.service.reasons] == [code]
        if state is WorkerState.FAILING:
            assert bench.ask(INIT).error(INIT) is error

    play(scene)


def test_the_helpers_own_question_is_answered_and_nonsense_is_not():
    async def scene(bench: Bench) -> None:
        client = Client()
        bench.service.handle(aesm.IDENTIFY, client)
        assert client.frames == [aesm.IDENTITY]
        stranger = Client()
        bench.service.handle(b"\xff", stranger)
        assert stranger.frames == [None]

    play(scene)


def test_who_a_client_is():
    assert Call(REQUEST, Client(7)).who == 7
    assert Call(INIT, Client(-1)).who == -1
    assert Call(aesm.GetQuote(b"r" * 432, KEY_ID, 1), Client(-1)).who == b"r" * 384
