# SPDX-License-Identifier: Apache-2.0
"""The quote worker between its two sockets: the helper's end of a socket pair, and the socket of a SIMULATED CPU."""

import asyncio
import datetime as dt
import hashlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from kubenclave import TrustError, verify_quote
from kubenclave.platform import sockets
from kubenclave.platform.simcpu import Enclave
from kubenclave.platform.simulated.enclaves import PCE
from kubenclave.platform.simulated.places import cpu_socket, make_folders, provision_socket
from kubenclave.platform.simulated.provisioning import provisioning_of
from kubenclave.platform.simulated.server import CpuServer
from kubenclave.platform.simulated.start import Machine
from kubenclave.platform.simulated.state import PlatformState
from kubenclave.platform.simulated.tcb import PlatformTcb
from kubenclave.platform.simulated.worker import Worker
from kubenclave.sgx.attributes import Attributes
from kubenclave.sgx.report import Report, TargetInfo
from kubenclave.wire.aesm_errors import AesmError
from kubenclave.wire.quoteworker import (
    FrameDecoder,
    InitResult,
    Op,
    QuoteRequest,
    QuoteResult,
    WorkerReply,
    decode_reply,
    encode_request,
)
from tests.simulated_platform import APP_MR_ENCLAVE, app_sigstruct

DATA = bytes(range(64))


class Cpu:
    """A SIMULATED CPU served from a thread; it can be switched off and on again."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.state = PlatformState.open(directory, (1 << 20,))
        make_folders(directory)
        self.path, self.provision = cpu_socket(directory), provision_socket(directory)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def on(self) -> None:
        ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(ready)))
        self._thread.start()
        assert ready.wait(10)

    def off(self) -> None:
        if self._loop is not None and self._thread is not None:
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join(10)
            self._loop = None

    def set_tcb(self, tcb: PlatformTcb) -> None:
        self.state = self.state.with_tcb(tcb)
        self.state.save(self.directory)

    def verify(self, quote: bytes):
        now = dt.datetime.now(dt.UTC)
        issuer = provisioning_of(self.state, self.directory)
        return verify_quote(quote, issuer.collateral(self.state.tcb, now), at=now, root=issuer.root_der)

    def application(self) -> Enclave:
        enclave = Enclave.connect(self.path)
        enclave.create(1 << 13, attributes=Attributes(4, 3))
        enclave.measured(APP_MR_ENCLAVE, 2)
        enclave.init(app_sigstruct())
        return enclave

    def report(self, target_info: bytes, data: bytes = DATA) -> bytes:
        with self.application() as enclave:
            return enclave.report(target_info, data)

    async def _serve(self, ready: threading.Event) -> None:
        self._stop = asyncio.Event()
        machine = Machine(self.directory, self.state, boot=os.urandom(32))
        server = CpuServer(machine.cpu, machine.pck_chain, refresh=machine.refresh)
        await server.start(sockets.listen(self.path, 0o600))
        await server.start(sockets.listen(self.provision, 0o600), may_provision=True)
        self._loop = asyncio.get_running_loop()
        ready.set()
        await self._stop.wait()
        await server.close()


class Helper:
    """The quote helper's end, and a worker on the other one."""

    def __init__(self, provision: Path) -> None:
        self.socket, self._theirs = socket.socketpair()
        self.socket.settimeout(10)
        self._decoder = FrameDecoder(decode_reply)
        self._replies: list[WorkerReply] = []
        self._thread = threading.Thread(target=self._run, args=(provision,))
        self.exit_code: int | None = None
        self._thread.start()

    def _run(self, provision: Path) -> None:
        with self._theirs:
            self.exit_code = Worker(provision, self._theirs).run()

    def next(self) -> WorkerReply:
        while not self._replies:
            data = self.socket.recv(65536)
            assert data, "the worker has closed the stream"
            self._replies += self._decoder.feed(data)
        return self._replies.pop(0)

    def ask(self, op: Op, payload: bytes = b"", request_id: int = 1) -> WorkerReply:
        self.socket.sendall(encode_request(request_id, op, payload))
        return self.next()

    def init(self) -> InitResult:
        reply = self.ask(Op.INIT)
        assert reply.error == 0
        return InitResult.parse(reply.payload)

    def quote(self, report: bytes, info: bytes | None = None) -> QuoteResult:
        reply = self.ask(Op.QUOTE, QuoteRequest(report, info).build())
        assert reply.error == 0
        return QuoteResult.parse(reply.payload)

    def ended(self) -> int | None:
        self._thread.join(10)
        return self.exit_code

    def close(self) -> None:
        self.socket.close()
        self._thread.join(10)


@pytest.fixture
def cpu(short_tmp) -> Iterator[Cpu]:
    running = Cpu(short_tmp)
    running.on()
    yield running
    running.off()


@pytest.fixture
def helper(cpu) -> Iterator[Helper]:
    started = Helper(cpu.provision)
    yield started
    started.close()


def test_quotes_over_both_sockets_verify(cpu, helper):
    told = helper.init()
    quote = helper.quote(cpu.report(told.target_info)).quote
    assert len(quote) == told.quote_size
    assert quote[884:916] == told.pub_key_id
    assert str(cpu.verify(quote).tcb_status) == "UpToDate"


def test_requests_sent_together_are_all_answered_by_their_ids(cpu, helper):
    report = cpu.report(helper.init().target_info)
    payload = QuoteRequest(report).build()
    helper.socket.sendall(b"".join([encode_request(number, Op.QUOTE, payload) for number in range(100)]))
    replies = [helper.next() for _ in range(100)]
    assert sorted(reply.request_id for reply in replies) == list(range(100))
    assert {reply.error for reply in replies} == {0}


def test_request_in_pieces_is_answered_once_it_is_whole(helper):
    frame = encode_request(9, Op.INIT)
    for byte in frame[:-1]:
        helper.socket.sendall(bytes([byte]))
    helper.socket.sendall(frame[-1:])
    assert helper.next().request_id == 9


def test_qe_report_is_for_the_target_asked_for(cpu, helper):
    told = helper.init()
    with cpu.application() as application:
        target: TargetInfo = application.target_info()
        info = b"n" * 16 + target.build() + bytes(432)
        result = helper.quote(cpu.report(told.target_info), info)
    assert result.qe_report_info is not None
    report = Report.parse(result.qe_report_info[528:])
    assert report.body.report_data[:32] == hashlib.sha256(b"n" * 16 + result.quote).digest()


def test_changed_report_is_refused_with_47(cpu, helper):
    report = bytearray(cpu.report(helper.init().target_info))
    report[100] ^= 1
    reply = helper.ask(Op.QUOTE, QuoteRequest(bytes(report)).build())
    assert (reply.error, reply.original, reply.payload) == (AesmError.INVALID_REPORT, 0xE015, b"")


def test_report_for_another_target_is_refused_with_47(cpu, helper):
    helper.init()
    reply = helper.ask(Op.QUOTE, QuoteRequest(cpu.report(PCE.target_info.build())).build())
    assert reply.error == AesmError.INVALID_REPORT


def test_report_of_another_platform_is_refused_with_47(cpu, helper):
    told = helper.init()
    other = Cpu(cpu.directory / "2")
    other.on()
    try:
        report = other.report(told.target_info)
    finally:
        other.off()
    assert helper.ask(Op.QUOTE, QuoteRequest(report).build()).error == AesmError.INVALID_REPORT


def test_impossible_target_is_answered_with_49(cpu, helper):
    report = cpu.report(helper.init().target_info)
    reply = helper.ask(Op.QUOTE, QuoteRequest(report, b"\xff" * 960).build())
    assert reply.error == AesmError.UNABLE_TO_GENERATE_QE_REPORT


def test_quote_before_init_is_answered_with_42(helper):
    reply = helper.ask(Op.QUOTE, QuoteRequest(bytes(432)).build())
    assert (reply.error, reply.original) == (AesmError.ATT_KEY_NOT_INITIALIZED, 0xE00F)


def test_malformed_payload_is_a_parameter_error_and_no_end(cpu, helper):
    helper.init()
    assert helper.ask(Op.QUOTE, b"short").error == AesmError.PARAMETER_ERROR
    assert helper.quote(cpu.report(helper.init().target_info)).quote


def test_lack_of_epc_is_answered_with_29_and_passes(cpu, helper):
    with Enclave.connect(cpu.path) as greedy:
        greedy.create(1 << 30, attributes=Attributes(4, 3))
        greedy.measured(bytes(32), greedy.status().epc_free // 4096)
        assert helper.ask(Op.INIT).error == AesmError.OUT_OF_EPC
        greedy.close()
    while helper.ask(Op.INIT).error == AesmError.OUT_OF_EPC:  # until the CPU has noticed the end of the other
        pass
    assert helper.init().quote_size


@pytest.mark.parametrize(
    ("tcb", "status"),
    [
        (PlatformTcb.OUT_OF_DATE, "OutOfDate"),
        (PlatformTcb.CONFIGURATION_AND_SW_HARDENING_NEEDED, "ConfigurationAndSWHardeningNeeded"),
    ],
    ids=["out-of-date", "hardening"],
)
def test_change_of_tcb_shows_in_quotes_at_once(cpu, helper, tcb, status):
    told = helper.init()
    cpu.set_tcb(tcb)
    quote = helper.quote(cpu.report(told.target_info)).quote
    assert str(cpu.verify(quote).tcb_status) == status


def test_init_after_a_change_of_tcb_announces_another_key(cpu, helper):
    before = helper.init()
    cpu.set_tcb(PlatformTcb.CONFIGURATION_NEEDED)
    after = helper.init()
    assert after.pub_key_id != before.pub_key_id
    assert after.target_info == before.target_info


@pytest.mark.parametrize("tcb", [PlatformTcb.REVOKED, PlatformTcb.EXPIRED], ids=str)
def test_quotes_go_on_and_are_refused_in_the_bad_states(cpu, helper, tcb):
    cpu.set_tcb(tcb)
    quote = helper.quote(cpu.report(helper.init().target_info)).quote
    with pytest.raises(TrustError):
        cpu.verify(quote)


def test_attestation_key_outlives_worker_and_cpu(cpu, helper):
    before = helper.init()
    helper.close()
    cpu.off()
    cpu.on()
    again = Helper(cpu.provision)
    try:
        assert again.init() == before
    finally:
        again.close()


def test_idle_worker_ends_when_the_cpu_does(cpu, helper):
    helper.init()
    cpu.off()
    assert helper.ended() == 4


def test_worker_without_a_cpu_says_unavailable_and_ends(cpu, helper):
    cpu.off()
    helper.socket.sendall(encode_request(1, Op.INIT) + encode_request(2, Op.INIT))
    replies = [helper.next(), helper.next()]
    assert [reply.error for reply in replies] == [AesmError.SERVICE_UNAVAILABLE] * 2
    assert helper.ended() == 4


def test_worker_ends_well_with_the_stream(helper):
    helper.init()
    helper.close()
    assert helper.exit_code == 0


def test_worker_ends_well_when_nobody_takes_its_replies(cpu):
    ours, theirs = socket.socketpair()
    ours.sendall(encode_request(1, Op.INIT))
    ours.close()
    with theirs:
        assert Worker(cpu.provision, theirs).run() == 0


def test_worker_ends_on_nonsense(helper):
    helper.socket.sendall(b"\xff" * 16)
    assert helper.ended() == 3


def test_nothing_is_left_in_the_epc_when_the_worker_ends(cpu, helper):
    with Enclave.connect(cpu.path) as watcher:
        free = watcher.status().epc_free
        helper.init()
        assert watcher.status().epc_free < free
        helper.close()
        while watcher.status().epc_free != free:  # the test's own time limit ends it
            pass


def test_program_quotes_ignores_ctrl_c_and_says_simulated(cpu):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        program = [sys.executable, "-m", "kubenclave.platform.simulated.worker"]
        process = subprocess.Popen(
            [*program, "--provision-socket", cpu.provision, "--fd", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stderr=subprocess.PIPE,
        )
        theirs.close()
        ours.settimeout(20)
        decoder = FrameDecoder(decode_reply)
        ours.sendall(encode_request(7, Op.QUOTE, QuoteRequest(bytes(432)).build()))
        while not (replies := decoder.feed(ours.recv(65536))):
            pass
        assert replies[0].error == AesmError.ATT_KEY_NOT_INITIALIZED
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGTERM)
        ours.sendall(encode_request(8, Op.INIT))
        while not (replies := decoder.feed(ours.recv(65536))):
            pass
        assert replies[0].request_id == 8
        ours.close()
        _, log = process.communicate(timeout=20)
    assert process.returncode == 0
    assert b'"simulated": true' in log
