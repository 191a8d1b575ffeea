# SPDX-License-Identifier: Apache-2.0
"""What each AESM request is answered with (aesm.md sections 2.3, 2.4, 4.1, 7 and 8).

Questions about key ids, sizes and the target info are answered from memory, never behind a quote that is being made.
Quotes wait in a fair queue for the worker. The helper initialises its attestation key by itself, at the start, after
a change and from time to time, so that clients seldom meet code 42; it still sends it where they rely on it.
"""

import asyncio
import time
from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final

import structlog

from kubenclave.errors import FormatError
from kubenclave.node.quotehelper import keyids
from kubenclave.node.quotehelper.calls import Call, Caller
from kubenclave.node.quotehelper.deadlines import Deadlines
from kubenclave.node.quotehelper.fair import FairQueue
from kubenclave.node.quotehelper.status import Reason, hint_for
from kubenclave.node.quotehelper.worker import Worker, WorkerState
from kubenclave.wire import aesm
from kubenclave.wire.aesm_errors import AesmError
from kubenclave.wire.metrics import Metrics
from kubenclave.wire.quoteworker import (
    PPID_QUOTE_SIZE,
    PPID_TYPES,
    QE_REPORT_INFO_SIZE,
    REPORT_SIZE,
    InitResult,
    Op,
    QuoteRequest,
    QuoteResult,
    WorkerReply,
    certification_type,
)

_log = structlog.get_logger()

_RETRY_FIRST: Final = 1.0
_RETRY_LONGEST: Final = 60.0
_REMEMBERED: Final = 4096
_QUOTE_SECONDS: Final = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceLimits:
    """Bounds of what clients can make us do; seconds are well under the 15 that Intel's client waits."""

    in_flight: int = 16
    queued: int = 1024
    queued_per_peer: int = 256
    answer_seconds: float = 10.0
    refresh_seconds: float = 3600.0


class QuoteService:
    """Answers requests with the help of a worker."""

    def __init__(self, worker: Worker, metrics: Metrics, limits: ServiceLimits | None = None) -> None:
        self._limits: Final = limits or ServiceLimits()
        self._worker: Final = worker
        self._requests: Final = metrics.counter(
            "kubenclave_aesm_requests_total", "AESM requests by message and error", "message", "error"
        )
        self._originals: Final = metrics.counter(
            "kubenclave_quote_worker_errors_total", "Errors of the quoting library", "error", "original"
        )
        self._seconds: Final = metrics.histogram(
            "kubenclave_aesm_quote_seconds", "Time from a request for a quote to its answer", _QUOTE_SECONDS
        )
        self._queue: Final = FairQueue[Call](self._limits.queued_per_peer, self._limits.queued)
        self._deadlines: Final = Deadlines[Call](self._limits.answer_seconds, self._expired)
        self._stuck = 0
        self._init: InitResult | None = None
        self._init_error = AesmError.BUSY
        self._init_original = 0
        self._init_failed_at = float("-inf")
        self._initialising = False
        self._init_waiters: list[Call] = []
        self._init_wanted = asyncio.Event()
        self._initialised = asyncio.Event()
        self._dispatching = False
        self._told: Final[OrderedDict[int | bytes, None]] = OrderedDict()
        worker.on_lost = self._worker_lost

    @property
    def ready(self) -> bool:
        """Whether a quote would be made now."""
        return self._init is not None and self._worker.state is WorkerState.UP

    @property
    def queued(self) -> int:
        """Quotes that wait for the worker."""
        return len(self._queue)

    @property
    def reasons(self) -> list[Reason]:
        """What stands in the way of quotes."""
        if self.ready:
            return []
        state = self._worker.state
        if state is WorkerState.FAILING:
            return [
                Reason("quotehelper.worker-failing", "the worker ends again and again", "its last log lines say why")
            ]
        if state is WorkerState.RESTARTING:
            return [Reason("quotehelper.worker-restarting", "the worker is being started again")]
        if self._init_error is AesmError.BUSY:
            return [Reason("quotehelper.initialising", "the attestation key is being made and certified")]
        text = f"no attestation key: {self._init_error.name} ({int(self._init_error)})"
        if self._init_original:
            text += f", the library says 0x{self._init_original:04X}"
        return [Reason("quotehelper.not-initialised", text, hint_for(self._init_error))]

    async def wait_initialised(self) -> None:
        """Return once an attestation key is there."""
        await self._initialised.wait()

    def handle(self, body: bytes, caller: Caller) -> None:
        """Answer a request, at once or later; a request that means nothing to us is answered by closing."""
        if body == aesm.IDENTIFY:
            caller.answer(aesm.IDENTITY)
            return
        try:
            request = aesm.decode_request(body)
        except FormatError:
            caller.answer(None)
            return
        match request:
            case aesm.GetQuote():
                self._quote(request, caller)
            case aesm.InitQuote():
                self._init_quote(request, caller)
            case aesm.GetQuoteSize():
                self._finish(request, caller, self._quote_size(request))
            case _:
                self._finish(request, caller, keyids.answer(request))

    async def keep_initialised(self) -> None:
        """Initialise whenever that is needed, until cancelled."""
        delay = _RETRY_FIRST
        while True:
            await self._worker.wait_up()
            self._init_wanted.clear()
            error = await self._initialise()
            if error is AesmError.SUCCESS:
                delay = _RETRY_FIRST
                wait = self._limits.refresh_seconds
            else:
                wait = delay
                delay = min(delay * 2, _RETRY_LONGEST)
            with suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._init_wanted.wait()

    # --- initialisation

    async def _initialise(self) -> AesmError:
        self._initialising = True
        try:
            reply = await self._worker.ask(Op.INIT)
        finally:
            self._initialising = False
        error = self._error_of(reply)
        if error is AesmError.SUCCESS:
            try:
                error = self._take_init(InitResult.parse(reply.payload))
            except FormatError as problem:
                self._worker.restart(str(problem))
                error = AesmError.UNEXPECTED_ERROR
        if error is not AesmError.SUCCESS:
            self._init_error = error
            self._init_original = reply.original
            self._init_failed_at = asyncio.get_running_loop().time()
            _log.warning("quotes.init-failed", error=error.name, original=hex(reply.original))
        waiters, self._init_waiters = self._init_waiters, []
        for call in waiters:
            self._answer_init(call, error)
        return error

    def _take_init(self, init: InitResult) -> AesmError:
        if init.quote_size == PPID_QUOTE_SIZE:
            # Without a usable provider library the quotes would carry an encrypted PPID that verifiers reject.
            self._init = None
            return AesmError.NO_PLATFORM_CERT_DATA
        known = None if self._init is None else (self._init.target_info, self._init.quote_size)
        if known != (init.target_info, init.quote_size):
            self._told.clear()
            _log.info("quotes.initialised", quote_size=init.quote_size)
        self._init = init
        self._initialised.set()
        self._worker.healthy()
        return AesmError.SUCCESS

    def _forget_key(self, error: AesmError) -> None:
        self._init = None
        self._init_error = error
        self._init_original = 0
        self._initialised.clear()
        self._init_wanted.set()

    def _init_quote(self, request: aesm.InitQuote, caller: Caller) -> None:
        if (error := keyids.problem(request.key_id)) is not None:
            self._refuse(request, caller, error)
        elif not request.with_pub_key_id:
            # buf_size is stack garbage here, and a key in the reply would crash the client.
            self._finish(request, caller, aesm.QuoteInit(bytes(512)))
        elif request.buf_size != aesm.PUB_KEY_ID_SIZE:
            self._refuse(request, caller, AesmError.PARAMETER_ERROR)
        else:
            call = Call(request, caller)
            if self._init is not None:
                self._answer_init(call, AesmError.SUCCESS)
            elif self._worker.state is WorkerState.FAILING:
                self._answer_init(call, AesmError.SERVICE_UNAVAILABLE)
            elif not self._initialising and self._failed_just_now():
                self._answer_init(call, self._init_error)
            elif len(self._init_waiters) >= self._limits.queued:
                self._answer_init(call, AesmError.BUSY)
            else:
                self._init_waiters.append(call)
                self._deadlines.add(call)
                self._init_wanted.set()

    def _failed_just_now(self) -> bool:
        return asyncio.get_running_loop().time() - self._init_failed_at < _RETRY_FIRST

    def _answer_init(self, call: Call, error: AesmError) -> None:
        if call.over:
            return
        call.over = True
        self._deadlines.discard(call)
        if self._init is None or error is not AesmError.SUCCESS:
            self._refuse(call.request, call.caller, error)
            return
        if call.peer > 0:
            self._remember(call.peer)
        self._finish(call.request, call.caller, aesm.QuoteInit(self._init.target_info, self._init.pub_key_id))

    # --- quotes

    def _quote_size(self, request: aesm.GetQuoteSize) -> aesm.Reply:
        error = keyids.problem(request.key_id)
        if error is None and self._init is not None:
            return aesm.QuoteSize(self._init.quote_size)
        return aesm.Refusal(request, error or self._no_key())

    def _no_key(self) -> AesmError:
        state = self._worker.state
        return AesmError.ATT_KEY_NOT_INITIALIZED if state is WorkerState.UP else state.error

    def _quote(self, request: aesm.GetQuote, caller: Caller) -> None:
        call = Call(request, caller)
        error = self._quote_problem(request, call.who)
        if error is None:
            self._enqueue(call)
        else:
            self._refuse(request, caller, error)

    def _enqueue(self, call: Call) -> None:
        displaced = call if self._stuck else self._queue.put(call.peer, call)
        if displaced is not call:
            self._deadlines.add(call)
        if displaced is not None and not displaced.over:
            displaced.over = True
            self._deadlines.discard(displaced)
            self._refuse(displaced.request, displaced.caller, AesmError.BUSY)
        self._dispatch()

    def _quote_problem(self, request: aesm.GetQuote, who: int | bytes) -> AesmError | None:
        if request.report is None or request.buf_size is None:
            return AesmError.UNEXPECTED_ERROR
        if (error := keyids.problem(request.key_id)) is not None:
            return error
        info = request.qe_report_info
        if len(request.report) != REPORT_SIZE or (info is not None and len(info) != QE_REPORT_INFO_SIZE):
            return AesmError.PARAMETER_ERROR
        if self._init is None:
            return self._no_key()
        if request.buf_size > aesm.MAX_BUFFER:
            return AesmError.PARAMETER_ERROR
        return self._outdated(who, AesmError.PARAMETER_ERROR) if request.buf_size < self._init.quote_size else None

    def _dispatch(self) -> None:
        if self._dispatching:
            return  # a call that fails at once ends up here again
        self._dispatching = True
        while self._worker.outstanding < self._limits.in_flight and (call := self._queue.get()) is not None:
            if not call.over:
                self._send(call, call.request)
        self._dispatching = False

    def _send(self, call: Call, request: aesm.GetQuote | aesm.InitQuote) -> None:
        assert isinstance(request, aesm.GetQuote)
        assert request.report is not None
        call.asked = True
        payload = QuoteRequest(request.report, request.qe_report_info).build()
        self._worker.call(Op.QUOTE, payload, lambda reply: self._quoted(call, request, reply))

    def _quoted(self, call: Call, request: aesm.GetQuote, reply: WorkerReply) -> None:
        if call.over:
            self._stuck -= 1
        else:
            call.over = True
            self._deadlines.discard(call)
            self._seconds.observe(time.monotonic() - call.begun)
            self._finish(request, call.caller, self._quote_reply(call, request, reply))
        self._dispatch()

    def _quote_reply(self, call: Call, request: aesm.GetQuote, reply: WorkerReply) -> aesm.Reply:
        error = self._error_of(reply)
        if error is not AesmError.SUCCESS:
            return aesm.Refusal(request, self._quote_error(call, error))
        assert request.buf_size is not None
        try:
            result = QuoteResult.parse(reply.payload)
        except FormatError as problem:
            self._worker.restart(str(problem))
            return aesm.Refusal(request, AesmError.UNEXPECTED_ERROR)
        quote = result.quote
        if (result.qe_report_info is None) != (request.qe_report_info is None):
            self._worker.restart("it forgets the QE REPORT, or makes one that nobody wants")
            return aesm.Refusal(request, AesmError.UNEXPECTED_ERROR)
        if certification_type(quote) in PPID_TYPES:
            self._forget_key(AesmError.NO_PLATFORM_CERT_DATA)
            return aesm.Refusal(request, AesmError.NO_PLATFORM_CERT_DATA)
        if self._init is not None and len(quote) > self._init.quote_size:
            self._init = replace(self._init, quote_size=len(quote))  # the certificate chain has changed
            self._told.clear()
        if len(quote) > request.buf_size:
            return aesm.Refusal(request, self._outdated(call.who, AesmError.PARAMETER_ERROR))
        return aesm.Quote(quote.ljust(request.buf_size, b"\0"), result.qe_report_info)

    def _quote_error(self, call: Call, error: AesmError) -> AesmError:
        if error is AesmError.ATT_KEY_NOT_INITIALIZED:
            self._forget_key(error)
        elif error in {AesmError.NO_PLATFORM_CERT_DATA, AesmError.ENCLAVE_LOST}:
            self._init_wanted.set()
        elif error in {AesmError.INVALID_REPORT, AesmError.ERROR_REPORT}:
            return self._outdated(call.who, error)
        return error

    def _outdated(self, who: int | bytes, error: AesmError) -> AesmError:
        """Return what to say to somebody who may only go by what was true before.

        The REPORT may be for the quoting enclave, or the buffer for the certificates, of before a restart, an upgrade
        or a renewal. Clients take 47 and 3 as final, while 42 makes them ask for all of it anew, so they get that once.
        """
        if who in self._told:
            return error
        self._remember(who)
        return AesmError.ATT_KEY_NOT_INITIALIZED

    def _remember(self, who: int | bytes) -> None:
        """Note that somebody has, or will have, fetched the target info of now."""
        self._told[who] = None
        if len(self._told) > _REMEMBERED:
            self._told.popitem(last=False)

    # --- common

    def _worker_lost(self) -> None:
        self._forget_key(AesmError.BUSY)

    def _expired(self, call: Call) -> None:
        """Tell the client to come back rather than let it run into its own timeout."""
        call.over = True
        if call.asked:
            self._stuck += 1
        self._refuse(call.request, call.caller, AesmError.BUSY)

    def _error_of(self, reply: WorkerReply) -> AesmError:
        error = AesmError.from_number(reply.error)
        if error is not AesmError.SUCCESS:
            self._originals.inc(error.name, hex(reply.original))
            _log.info("worker.error", error=error.name, original=hex(reply.original))
        return error

    def _refuse(self, request: aesm.Request, caller: Caller, error: AesmError) -> None:
        self._finish(request, caller, aesm.Refusal(request, error))

    def _finish(self, request: aesm.Request, caller: Caller, reply: aesm.Reply) -> None:
        error = reply.error.name if isinstance(reply, aesm.Refusal) else "SUCCESS"
        self._requests.inc(type(request).__name__, error)
        caller.answer(aesm.encode_reply(reply))
