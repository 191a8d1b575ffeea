# SPDX-License-Identifier: Apache-2.0
"""The worker for real nodes against a library with the interface of Intel's, built here."""

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kubenclave.platform import dcapworker
from kubenclave.platform.dcapworker import LibraryError, QuoteSource
from kubenclave.wire import aesm
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
from tests.integration.aesm_peer import ask, error_of, helper, quote
from tests.waiting import eventually

REPORT = bytes(range(216)) * 2
SIZE = 4600


@pytest.fixture(scope="session")
def built_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler: apt-get install gcc libc6-dev")
    library = tmp_path_factory.mktemp("dcap") / "libfake_dcap_ql.so"
    source = Path(__file__).with_name("fake_dcap_ql.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-w", "-o", library, source], check=True)
    return library


@pytest.fixture
def library(built_library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy, so that each test has a library that has not been called yet, and its orders in ``orders``."""
    copy = tmp_path / "lib.so"
    shutil.copy(built_library, copy)
    monkeypatch.setenv("FAKE_DCAP", str(tmp_path / "orders"))
    monkeypatch.setenv("SGX_AESM_ADDR", "1")
    return copy


@pytest.fixture
def source(library: Path) -> QuoteSource:
    return QuoteSource(str(library))


def order(tmp_path: Path, *lines: str) -> None:
    (tmp_path / "orders").write_text("".join(f"{line}\n" for line in lines))


def refused(source: QuoteSource, request: QuoteRequest | None = None) -> tuple[AesmError, int]:
    """Return the error of INIT or, given a request, of QUOTE."""
    with pytest.raises(LibraryError) as caught:
        source.quote(request) if request else source.init()
    return caught.value.error, caught.value.original


def test_init_and_quote(source):
    first = source.init()
    assert first == InitResult(b"t" * 512, bytes(32), SIZE)
    quote = source.quote(QuoteRequest(REPORT)).quote
    assert len(quote) == SIZE
    assert quote[48:432] == REPORT[:384]
    assert quote.endswith(b"c\0")
    assert source.init().pub_key_id == b"p" * 32  # known from the quote


def test_the_library_does_not_see_the_variable_that_would_turn_it_to_our_socket(source):
    source.init()
    assert "SGX_AESM_ADDR" not in os.environ


@pytest.mark.parametrize(
    ("line", "error", "original"),
    [
        pytest.param("target_info always e03f", AesmError.UNEXPECTED_ERROR, 0xE03F, id="unmapped"),
        pytest.param("target_info always e00d", AesmError.INTERFACE_UNAVAILABLE, 0xE00D, id="no-pce"),
        pytest.param("target_info always e011", AesmError.NO_PLATFORM_CERT_DATA, 0xE011, id="no-certificates"),
        pytest.param("target_info always e019", AesmError.NETWORK_ERROR, 0xE019, id="network"),
        pytest.param("size always e012", AesmError.OUT_OF_EPC, 0xE012, id="out-of-epc"),
        pytest.param("size type3", AesmError.NO_PLATFORM_CERT_DATA, 0, id="size-of-ppid-quotes"),
        pytest.param("size huge", AesmError.UNEXPECTED_ERROR, 0, id="absurd-size"),
    ],
)
def test_init_fails_with_the_code_of_the_protocol_and_the_librarys_own(source, tmp_path, line, error, original):
    order(tmp_path, line)
    assert refused(source) == (error, original)


@pytest.mark.parametrize(
    ("line", "error", "original"),
    [
        pytest.param("quote always e015", AesmError.INVALID_REPORT, 0xE015, id="bad-mac"),
        pytest.param("quote always e014", AesmError.ENCLAVE_LOST, 0xE014, id="enclave-lost"),
        pytest.param("quote always e047", AesmError.UNEXPECTED_ERROR, 0xE047, id="unmapped"),
        pytest.param("quote always e002", AesmError.PARAMETER_ERROR, 0xE002, id="parameter"),
        pytest.param("quote always e011", AesmError.NO_PLATFORM_CERT_DATA, 0xE011, id="no-certificates"),
        pytest.param("quote always e00f", AesmError.ATT_KEY_NOT_INITIALIZED, 0xE00F, id="no-key"),
        pytest.param("quote type3", AesmError.NO_PLATFORM_CERT_DATA, 0, id="ppid-quote"),
        pytest.param("quote broken", AesmError.UNEXPECTED_ERROR, 0, id="no-quote"),
    ],
)
def test_quote_fails_with_the_code_of_the_protocol_and_the_librarys_own(source, tmp_path, line, error, original):
    source.init()
    order(tmp_path, line)
    assert refused(source, QuoteRequest(REPORT)) == (error, original)


def test_a_qe_report_is_refused_because_the_interface_cannot_make_one(source):
    source.init()
    assert refused(source, QuoteRequest(REPORT, bytes(960))) == (AesmError.UNABLE_TO_GENERATE_QE_REPORT, 0)


def test_there_are_no_quotes_before_init(source):
    assert refused(source, QuoteRequest(REPORT)) == (AesmError.ATT_KEY_NOT_INITIALIZED, 0)


@pytest.mark.parametrize("code", ["e00f", "e011"])
def test_a_key_or_certificates_lost_meanwhile_are_had_anew_by_another_init(source, tmp_path, code):
    source.init()
    order(tmp_path, f"quote once {code}")
    assert len(source.quote(QuoteRequest(REPORT)).quote) == SIZE


def test_another_quoting_enclave_needs_another_report(source, tmp_path):
    source.init()
    order(tmp_path, "quote once e00f", "target_info new_target")
    assert refused(source, QuoteRequest(REPORT)) == (AesmError.ATT_KEY_NOT_INITIALIZED, 0xE00F)
    assert source.init().target_info[:1] == b"T"


def test_a_longer_certificate_chain_gets_a_longer_buffer(source, tmp_path):
    source.init()
    order(tmp_path, "size grow")
    assert len(source.quote(QuoteRequest(REPORT)).quote) == SIZE + 64


@pytest.mark.parametrize("path", ["/nowhere/lib.so", "libc.so.6"], ids=["absent", "another"])
def test_a_library_that_is_not_there_is_looked_for_again(path):
    source = QuoteSource(path)
    assert refused(source) == (AesmError.SERVICE_UNAVAILABLE, 0)
    assert refused(source) == (AesmError.SERVICE_UNAVAILABLE, 0)


class Process:
    """A worker process and the helper's end of its stream."""

    def __init__(self, process: subprocess.Popen[bytes], stream: socket.socket) -> None:
        self.process = process
        self.stream = stream
        self._decoder = FrameDecoder(decode_reply)

    def ask(self, op: Op, payload: bytes = b"") -> WorkerReply:
        self.stream.sendall(encode_request(7, op, payload))
        while True:
            data = self.stream.recv(65536)
            assert data, "the worker has gone"
            if replies := self._decoder.feed(data):
                return replies[0]


@contextmanager
def worker(*arguments: str) -> Iterator[Process]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(20)
        argv = [sys.executable, "-m", "kubenclave.platform.dcapworker", *arguments, "--fd", str(theirs.fileno())]
        process = subprocess.Popen(argv, pass_fds=[theirs.fileno()])
        theirs.close()
        try:
            yield Process(process, ours)
        finally:
            process.kill()
            process.wait()


def test_a_worker_process_from_start_to_end(library):
    with worker("--library", str(library)) as one:
        init = one.ask(Op.INIT)
        assert (init.request_id, init.error) == (7, 0)
        assert InitResult.parse(init.payload).quote_size == SIZE
        reply = one.ask(Op.QUOTE, QuoteRequest(REPORT).build())
        assert QuoteResult.parse(reply.payload).quote[48:432] == REPORT[:384]
        refusal = one.ask(Op.QUOTE, QuoteRequest(REPORT, bytes(960)).build())
        assert (refusal.error, refusal.payload) == (AesmError.UNABLE_TO_GENERATE_QE_REPORT, b"")
        one.stream.shutdown(socket.SHUT_RDWR)
        assert one.process.wait(10) == 0


def test_a_crash_of_the_library_ends_the_process(library, tmp_path):
    with worker("--library", str(library)) as one:
        assert one.ask(Op.INIT).error == 0
        order(tmp_path, "quote crash")
        one.stream.sendall(encode_request(1, Op.QUOTE, QuoteRequest(REPORT).build()))
        assert one.stream.recv(1) == b""
        assert one.process.wait(10) == -signal.SIGSEGV


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        pytest.param(encode_request(1, Op.QUOTE, b"short"), 3, id="request"),
        pytest.param(b"\xff\xff\xff\xff", 3, id="length"),
    ],
)
def test_nonsense_from_the_helper_ends_the_worker(sent, code):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(sent)
        source = QuoteSource()
        assert dcapworker.serve(theirs, lambda request: dcapworker.answer(source, request)) == code


def test_the_helper_serves_what_the_library_makes_and_survives_its_crash(library, tmp_path, short_tmp):
    with helper(short_tmp, "--library", str(library), worker=None, backend="dcap") as one:
        assert one.status()["simulated"] is False
        reply = ask(one.socket, quote("real", SIZE))
        assert isinstance(reply, aesm.Quote)
        assert reply.quote[48:52] == b"real"
        assert error_of(one.socket, quote("fortanix", info=bytes(960))) is AesmError.UNABLE_TO_GENERATE_QE_REPORT
        order(tmp_path, "quote crash")
        assert error_of(one.socket, quote("crash")) is AesmError.BUSY
        order(tmp_path, "quote always e047")
        one.wait_ready()
        assert error_of(one.socket, quote()) is AesmError.UNEXPECTED_ERROR
        shown = 'kubenclave_quote_worker_errors_total{error="UNEXPECTED_ERROR",original="0xe047"}'
        assert one.metric(shown) == 1
        order(tmp_path)
        assert error_of(one.socket, quote()) is AesmError.SUCCESS
        assert one.metric("kubenclave_quote_worker_restarts_total") == 1
    assert "simulated" not in one.log()[-1]


def test_the_helper_replaces_a_worker_whose_library_hangs(library, tmp_path, short_tmp):
    limits = ("--answer-seconds", "0.3", "--stall-seconds", "3")
    with helper(short_tmp, "--library", str(library), *limits, worker=None, backend="dcap") as one:
        order(tmp_path, "quote hang")
        assert error_of(one.socket, quote()) is AesmError.BUSY
        order(tmp_path)
        eventually(lambda: one.metric("kubenclave_quote_worker_restarts_total") >= 1)
        one.wait_ready()
        assert error_of(one.socket, quote()) is AesmError.SUCCESS


def test_the_helper_without_the_library_says_what_is_missing(short_tmp):
    with helper(short_tmp, "--library", "/nowhere/lib.so", worker=None, backend="dcap", ready=False) as one:
        eventually(lambda: one.health.exists() and "quotehelper.not-initialised" in one.codes())
        assert "SERVICE_UNAVAILABLE" in one.status()["reasons"][-1]["message"]
        assert not one.socket.exists()


def test_a_helper_that_has_gone_ends_the_worker():
    ours, theirs = socket.socketpair()
    with theirs:
        ours.sendall(encode_request(1, Op.INIT))
        ours.close()
        assert dcapworker.serve(theirs, lambda _: b"answer") == 0
