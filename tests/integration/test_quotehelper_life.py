# SPDX-License-Identifier: Apache-2.0
"""The quote helper as a process: start, readiness, crashes of its worker, hand-over, hostile neighbours, budgets."""

import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from kubenclave.node.helper import main
from kubenclave.wire import aesm
from kubenclave.wire.aesm_errors import AesmError
from kubenclave.wire.aesm_keyid import ECDSA_P256_KEY_ID as KEY_ID
from tests.integration.aesm_peer import Helper, ask, connect, error_of, exchange, helper, quote, report, rest
from tests.integration.testworker import QUOTE_SIZE, quote_of, target_info
from tests.programs import resident, unmeasured
from tests.waiting import eventually

READY = aesm.InitQuote(KEY_ID, True, 32)
SIZE = aesm.GetQuoteSize(KEY_ID)


@contextmanager
def planned(folder: Path, plan: str, *options: str, ready: bool = True) -> Iterator[Helper]:
    """Run a helper whose worker takes its orders for INIT from ``folder/plan``."""
    write(folder, plan)
    with helper(folder, *options, worker=("--plan", str(folder / "plan")), ready=ready) as one:
        yield one


def write(folder: Path, plan: str) -> None:
    (folder / "plan.new").write_text(plan)
    (folder / "plan.new").rename(folder / "plan")


# --- start and readiness


def test_a_kubelet_can_probe_it_on_a_port(short_tmp):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with planned(short_tmp, "", "--health-port", str(port)), socket.create_connection(("127.0.0.1", port)) as probe:
        probe.sendall(b"GET /readyz HTTP/1.1\r\nHost: node\r\n\r\n")
        assert probe.recv(64).startswith(b"HTTP/1.1 200 ")


def test_the_socket_appears_when_quotes_can_be_made_and_health_says_why_not(short_tmp):
    with planned(short_tmp, "error 44 e011", ready=False) as one:
        eventually(lambda: one.health.exists() and "quotehelper.not-initialised" in one.codes())
        assert not one.socket.exists()
        status, body = one.get("/readyz")
        assert (status, b"0xE011" in body) == (503, True)
        assert one.status()["simulated"] is True
        assert one.get("/healthz") == (200, b"ok\n")
        assert one.metric("kubenclave_quote_helper_ready") == 0
        assert "quotehelper.starting" in one.codes()
        write(short_tmp, "")
        one.wait_ready()
        assert one.get("/readyz")[0] == 200
        assert error_of(one.socket, quote()) is AesmError.SUCCESS
        assert one.metric("kubenclave_quote_helper_ready") == 1
        assert one.metric("kubenclave_quote_worker_up") == 1


@pytest.mark.parametrize(
    ("plan", "code"), [("ppid", "quotehelper.not-initialised"), ("garbage", "quotehelper.worker-failing")]
)
def test_a_backend_whose_quotes_would_be_refused_or_make_no_sense_keeps_the_socket_away(short_tmp, plan, code):
    with planned(short_tmp, plan, ready=False) as one:
        eventually(lambda: one.health.exists() and code in one.codes())
        assert not one.socket.exists()


def test_every_log_line_says_simulated(short_tmp):
    with helper(short_tmp) as one:
        one.stop()
    lines = one.log()
    assert len(lines) >= 5
    assert all(line["simulated"] is True for line in lines)
    assert any("SIMULATED" in line.get("note", "") for line in lines)


def test_mode_and_owner_of_the_socket(short_tmp):
    owner = f"{os.getuid()}:{os.getgid()}"
    with helper(short_tmp, "--mode", "640", "--owner", owner) as one:
        status = one.socket.stat()
        assert stat.S_IMODE(status.st_mode) == 0o640
        assert (status.st_uid, status.st_gid) == (os.getuid(), os.getgid())
        assert [name.name for name in short_tmp.iterdir() if name.name.startswith(".")] == []


def test_the_default_mode_lets_everybody_connect(short_tmp):
    with helper(short_tmp) as one:
        assert stat.S_IMODE(one.socket.stat().st_mode) == 0o666


@pytest.mark.parametrize("stale", ["socket", "file"])
def test_what_nobody_serves_is_replaced(short_tmp, stale):
    if stale == "socket":
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(short_tmp / "a"))
    else:
        (short_tmp / "a").write_text("left over")
    with helper(short_tmp) as one:
        assert error_of(one.socket, quote()) is AesmError.SUCCESS


def test_an_aesmd_on_the_path_is_left_alone_unless_told_otherwise(short_tmp):
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(short_tmp / "a"))
        other.listen()

        def serve() -> None:
            while True:
                try:
                    connection, _ = other.accept()
                except OSError:
                    return
                connection.recv(4096)
                connection.close()  # as aesmd does with what it does not know

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        with helper(short_tmp, ready=False) as refused:
            assert refused.process.wait(20) == 5
        assert refused.log()[-1]["code"] == "quotehelper.occupied"
        assert "--take-over anybody" in refused.log()[-1]["hint"]
        with helper(short_tmp, "--take-over", "anybody") as one:
            assert error_of(one.socket, quote()) is AesmError.SUCCESS
        other.shutdown(socket.SHUT_RDWR)
        thread.join(5)


def test_another_helper_is_not_replaced_when_told_not_to(short_tmp):
    with helper(short_tmp) as first, helper(short_tmp, "--take-over", "nobody", ready=False) as second:
        assert second.process.wait(20) == 5
        assert second.log()[-1]["code"] == "quotehelper.occupied"
        assert error_of(first.socket, quote()) is AesmError.SUCCESS


def test_a_place_that_cannot_be_used_ends_the_program(short_tmp):
    with helper(short_tmp, "--socket", str(short_tmp / "absent" / "a"), ready=False) as one:
        assert one.process.wait(20) == 5
    assert [line["code"] for line in one.log() if "code" in line] == ["socket.listen"]


# --- the command line


def test_help_and_misuse(capsys):
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert "--take-over" in shown
    assert "examples:" in shown
    for wrong in (
        [],
        ["--backend", "other"],
        ["--backend", "dcap", "--mode", "999"],
        ["--backend", "dcap", "--mode", "7777"],
        ["--backend", "dcap", "--owner", "nobody-of-this-name"],
        ["--backend", "dcap", "--owner", "0:no-such-group"],
        ["--backend", "dcap", "--in-flight", "0"],
        ["--backend", "dcap", "--answer-seconds", "-1"],
    ):
        assert main(wrong) == 2


def test_the_program_starts_the_worker_of_its_backend(short_tmp):
    """Without a CPU to ask, the simulated backend's worker ends, again and again, and the helper says so."""
    with helper(short_tmp, "--provision-socket", str(short_tmp / "cpu"), worker=None, ready=False) as one:
        eventually(lambda: one.health.exists() and "quotehelper.worker-failing" in one.codes())
        assert one.metric("kubenclave_quote_worker_restarts_total") >= 3
        assert not one.socket.exists()
        assert one.stop() == 0


# --- the worker ends, hangs, or talks nonsense


def test_a_crash_in_the_middle_of_requests_is_answered_and_mended(short_tmp):
    with helper(short_tmp, "--in-flight", "4") as one, ExitStack() as stack:
        peers = [stack.enter_context(connect(one.socket)) for _ in range(20)]
        eventually(lambda: one.metric("kubenclave_aesm_open_connections") == len(peers))
        for number, peer in enumerate(peers):
            peer.sendall(aesm.encode_request(quote({0: "late 1", 1: "crash"}.get(number, "good"))))
            if number < 2:
                eventually(lambda asked=number + 1: one.metric("kubenclave_quote_worker_calls") == asked)  # type: ignore[misc]
        assert len(rest(peers[0])) > 8192
        for peer in peers[1:]:
            assert aesm.decode_reply(rest(peer)[4:], quote()) == aesm.Refusal(quote(), AesmError.BUSY)
        eventually(lambda: one.status()["ready"])
        assert one.metric("kubenclave_quote_worker_restarts_total") == 1
        assert error_of(one.socket, quote()) is AesmError.SUCCESS
        assert error_of(one.socket, aesm.GetKeyIdCount()) is AesmError.SUCCESS


def test_while_the_worker_is_away_clients_hear_busy_then_unavailable_and_ids_are_still_told(short_tmp):
    with planned(short_tmp, "") as one:
        write(short_tmp, "crash")
        assert error_of(one.socket, quote("crash")) is AesmError.BUSY
        eventually(lambda: not one.status()["ready"])
        heard = {error_of(one.socket, quote()) for _ in range(5)}
        assert heard <= {AesmError.BUSY, AesmError.ATT_KEY_NOT_INITIALIZED, AesmError.SERVICE_UNAVAILABLE}
        eventually(lambda: "quotehelper.worker-failing" in one.codes())
        eventually(lambda: error_of(one.socket, READY) is AesmError.SERVICE_UNAVAILABLE)
        assert error_of(one.socket, quote()) is AesmError.SERVICE_UNAVAILABLE
        assert error_of(one.socket, SIZE) is AesmError.SERVICE_UNAVAILABLE
        assert error_of(one.socket, aesm.GetKeyIds(256)) is AesmError.SUCCESS
        assert error_of(one.socket, aesm.InitQuote(KEY_ID)) is AesmError.SUCCESS
        write(short_tmp, "")
        one.wait_ready()
        assert error_of(one.socket, quote()) is AesmError.SUCCESS


@pytest.mark.parametrize("words", ["garbage", "stream", "forget"])
def test_a_worker_that_talks_nonsense_is_replaced(short_tmp, words):
    with helper(short_tmp) as one:
        info = bytes(960)
        error = error_of(one.socket, quote(words, info=info))
        assert error is (AesmError.BUSY if words == "stream" else AesmError.UNEXPECTED_ERROR)
        eventually(lambda: one.metric("kubenclave_quote_worker_restarts_total") == 1)
        one.wait_ready()
        assert error_of(one.socket, quote(info=info)) is AesmError.SUCCESS


def test_a_hanging_worker_is_replaced_and_its_clients_do_not_wait_for_that(short_tmp):
    with helper(short_tmp, "--answer-seconds", "0.2", "--stall-seconds", "3", "--in-flight", "1") as one:
        with connect(one.socket) as hanging, connect(one.socket) as queued:
            hanging.sendall(aesm.encode_request(quote("hang")))
            eventually(lambda: one.metric("kubenclave_quote_worker_calls") == 1)
            queued.sendall(aesm.encode_request(quote("good")))
            started = time.monotonic()
            for peer in (hanging, queued):
                assert aesm.decode_reply(rest(peer)[4:], quote()) == aesm.Refusal(quote(), AesmError.BUSY)
            assert time.monotonic() - started < 2.5
        assert error_of(one.socket, quote()) is AesmError.BUSY  # at once: nothing is put behind what hangs
        assert error_of(one.socket, SIZE) is AesmError.SUCCESS
        eventually(lambda: one.metric("kubenclave_quote_worker_restarts_total") >= 1)
        one.wait_ready()
        assert error_of(one.socket, quote()) is AesmError.SUCCESS
        assert error_of(one.socket, quote()) is AesmError.SUCCESS


def test_a_late_answer_is_nobodys_and_makes_room_again(short_tmp):
    with helper(short_tmp, "--answer-seconds", "0.2", "--in-flight", "1") as one:
        assert error_of(one.socket, quote("late 0.5")) is AesmError.BUSY
        eventually(lambda: error_of(one.socket, quote()) is AesmError.SUCCESS)
        assert one.metric("kubenclave_quote_worker_restarts_total") == 0


def test_an_initialisation_that_takes_long_is_busy_and_not_a_timeout(short_tmp):
    with planned(short_tmp, "", "--answer-seconds", "0.2") as one:
        write(short_tmp, "late 1")
        assert error_of(one.socket, quote("crash")) is AesmError.BUSY
        eventually(lambda: one.metric("kubenclave_quote_worker_up") == 1)
        assert error_of(one.socket, READY) is AesmError.BUSY
        assert error_of(one.socket, SIZE) is AesmError.ATT_KEY_NOT_INITIALIZED
        assert error_of(one.socket, quote()) is AesmError.ATT_KEY_NOT_INITIALIZED
        assert "quotehelper.initialising" in one.codes()
        eventually(lambda: error_of(one.socket, READY) is AesmError.SUCCESS)


# --- 42 and its kin


def test_the_worker_losing_its_key_is_mended_by_another_init(short_tmp):
    with helper(short_tmp) as one:
        assert error_of(one.socket, quote("error 42 e00f")) is AesmError.ATT_KEY_NOT_INITIALIZED
        eventually(lambda: error_of(one.socket, quote()) is AesmError.SUCCESS)


@pytest.mark.parametrize("error", [44, 46])
def test_certificates_or_enclave_lost_lead_to_another_init(short_tmp, error):
    with planned(short_tmp, "") as one:
        write(short_tmp, "target after")
        assert error_of(one.socket, quote(f"error {error} e0{error:x}")) == error
        eventually(lambda: ask(one.socket, READY) == aesm.QuoteInit(target_info("after"), bytes(range(32))))


def test_quotes_by_ppid_are_refused_whatever_the_backend(short_tmp):
    with helper(short_tmp) as one:
        assert error_of(one.socket, quote("ppid")) is AesmError.NO_PLATFORM_CERT_DATA


def test_a_longer_quote_than_announced_raises_the_size(short_tmp):
    with helper(short_tmp) as one:
        exact = quote("long", QUOTE_SIZE)
        assert error_of(one.socket, exact) is AesmError.ATT_KEY_NOT_INITIALIZED
        assert error_of(one.socket, exact) is AesmError.PARAMETER_ERROR
        assert ask(one.socket, SIZE) == aesm.QuoteSize(QUOTE_SIZE + 100)
        assert error_of(one.socket, quote("long", QUOTE_SIZE + 100)) is AesmError.SUCCESS


def test_a_buffer_of_the_size_of_before_is_answered_with_42_once(short_tmp):
    """Certificates were renewed, and are longer, between two requests, of which the helper has seen the second only."""
    small = quote("quote", QUOTE_SIZE - 1)
    with helper(short_tmp) as one:
        assert error_of(one.socket, small) is AesmError.ATT_KEY_NOT_INITIALIZED
        assert error_of(one.socket, small) is AesmError.PARAMETER_ERROR


def test_a_report_for_the_quoting_enclave_of_before_is_answered_with_42_once(short_tmp):
    """Gramine takes 47 as final, but fetches the target info again on 42."""
    bad = quote("error 47 e015")
    with helper(short_tmp) as first:
        assert error_of(first.socket, READY) is AesmError.SUCCESS
        assert error_of(first.socket, bad) is AesmError.INVALID_REPORT  # the target info is of now
    with helper(short_tmp) as second:
        assert error_of(second.socket, bad) is AesmError.ATT_KEY_NOT_INITIALIZED
        assert error_of(second.socket, bad) is AesmError.INVALID_REPORT
        assert error_of(second.socket, quote("error 45 e013")) is AesmError.ERROR_REPORT


def test_a_gramine_enclave_survives_a_new_quoting_enclave(short_tmp):
    with planned(short_tmp, "target old") as one:
        assert ask(one.socket, READY) == aesm.QuoteInit(target_info("old"), bytes(range(32)))
        write(short_tmp, "target new")
        assert error_of(one.socket, quote("crash")) is AesmError.BUSY
        one.wait_ready()
        assert error_of(one.socket, quote("error 47 e015")) is AesmError.ATT_KEY_NOT_INITIALIZED  # not final
        assert ask(one.socket, READY) == aesm.QuoteInit(target_info("new"), bytes(range(32)))
        assert error_of(one.socket, quote("for the new one")) is AesmError.SUCCESS


def test_renewal_runs_by_itself(short_tmp):
    with planned(short_tmp, "target one", "--refresh-seconds", "0.1") as one:
        write(short_tmp, "target two")
        eventually(lambda: ask(one.socket, READY) == aesm.QuoteInit(target_info("two"), bytes(range(32))))


# --- hand-over


def hammer(path: Path, stop: threading.Event, failures: list[str], answers: list[int]) -> None:
    """Ask as fast as possible; every refused or unanswered connection is a failure."""
    frame = aesm.encode_request(quote("hammer"))
    expected = aesm.encode_reply(aesm.Quote(quote_of(report("hammer")) + bytes(8192 - QUOTE_SIZE)))
    while not stop.is_set():
        try:
            answer = exchange(path, frame)
        except OSError as error:
            failures.append(repr(error))
            continue
        if answer != expected:
            failures.append(f"{len(answer)} bytes: {answer[:12].hex()}")
        answers.append(1)


def test_hand_overs_refuse_nobody(short_tmp):
    stop = threading.Event()
    failures: list[str] = []
    answers: list[int] = []
    with ExitStack() as stack:
        current = stack.enter_context(helper(short_tmp))
        threads = [threading.Thread(target=hammer, args=(short_tmp / "a", stop, failures, answers)) for _ in range(2)]
        for thread in threads:
            thread.start()
        try:
            for _ in range(4):
                before = len(answers)
                successor = stack.enter_context(helper(short_tmp))
                assert current.stop() == 0
                assert any(line["event"] == "helper.stopping" and line["handed_over"] for line in current.log())
                eventually(lambda count=before: len(answers) > count + 20)  # type: ignore[misc]  # bound in the loop
                current = successor
        finally:
            stop.set()
            for thread in threads:
                thread.join()
    assert failures == []
    assert len(answers) > 80


def test_a_helper_told_to_stop_waits_for_its_successor(short_tmp):
    with helper(short_tmp, "--handover-seconds", "15") as first:
        first.process.send_signal(signal.SIGTERM)
        eventually(lambda: "quotehelper.stopping" in first.codes())
        assert error_of(first.socket, quote()) is AesmError.SUCCESS
        with helper(short_tmp) as second:
            assert first.process.wait(10) == 0
            assert error_of(second.socket, quote()) is AesmError.SUCCESS


def test_answers_under_way_are_given_after_sigterm(short_tmp):
    with helper(short_tmp) as one, connect(one.socket) as peer:
        peer.sendall(aesm.encode_request(quote("late 0.5")))
        eventually(lambda: one.metric("kubenclave_aesm_open_connections") == 1)
        one.process.send_signal(signal.SIGTERM)
        assert len(rest(peer)) > 8192
        assert one.process.wait(10) == 0
        assert not one.socket.exists()
        assert not one.health.exists()


def test_ctrl_c_leaves_the_worker_to_its_answers(short_tmp):
    with helper(short_tmp, group=True) as one, connect(one.socket) as peer:
        peer.sendall(aesm.encode_request(quote("late 0.5")))
        eventually(lambda: one.metric("kubenclave_quote_worker_calls") == 1)
        os.killpg(one.process.pid, signal.SIGINT)  # as a terminal sends it
        assert len(rest(peer)) > 8192
        assert one.process.wait(10) == 0


def test_the_socket_comes_back_when_somebody_removes_it(short_tmp):
    with helper(short_tmp) as one:
        one.socket.unlink()
        eventually(one.socket.exists)
        assert error_of(one.socket, quote()) is AesmError.SUCCESS


def test_a_directory_made_anew_is_noticed_and_said(short_tmp):
    folder = short_tmp / "d"
    folder.mkdir()
    with helper(short_tmp, "--socket", str(folder / "a")) as one:
        shutil.rmtree(folder)
        eventually(lambda: "socket.listen" in one.codes())
        folder.mkdir()
        eventually((folder / "a").exists)
        assert error_of(folder / "a", quote()) is AesmError.SUCCESS
        one.wait_ready()


def test_a_helper_that_has_been_superseded_says_so_and_steps_back_in_for_nobody(short_tmp):
    with helper(short_tmp) as first:
        with helper(short_tmp) as second:
            eventually(lambda: first.codes() == ["quotehelper.superseded"])
            assert second.stop(signal.SIGKILL) == -signal.SIGKILL
        first.wait_ready()
        assert error_of(first.socket, quote()) is AesmError.SUCCESS


def test_sigterm_before_the_socket_is_there_ends_at_once(short_tmp):
    with planned(short_tmp, "late 30", ready=False) as one:
        eventually(lambda: one.health.exists() and "quotehelper.starting" in one.codes())
        started = time.monotonic()
        assert one.stop(signal.SIGINT) == 0
        assert time.monotonic() - started < 5


# --- neighbours who want to do harm


def test_bad_peers_cost_the_others_nothing(short_tmp):
    good = aesm.encode_request(quote("good"))
    with helper(short_tmp, "--max-silent", "64", "--request-seconds", "15") as one, ExitStack() as stack:
        for number in range(200):  # stalled at every length, half closed, holding on
            peer = stack.enter_context(connect(one.socket))
            peer.sendall(good[: number % 9])
            if number % 3 == 0 and number % 9:
                peer.shutdown(socket.SHUT_WR)
        unread = [stack.enter_context(connect(one.socket)) for _ in range(30)]
        for peer in unread:  # who ask for much and read nothing
            peer.sendall(aesm.encode_request(quote("greedy", 65536)))
        times = []
        for _ in range(50):
            started = time.monotonic()
            assert len(exchange(one.socket, good)) > 8192
            times.append(time.monotonic() - started)
            for body in (b"\xff\xff\xff\xff", b"\x04\0\0\0\xff\xff\xff\xff", b"\0\0\0\0"):
                assert exchange(one.socket, body) == b""
        assert sorted(times)[len(times) // 2] < 0.1
        assert one.metric("kubenclave_aesm_open_connections") <= 64 + 30


def test_a_flood_that_takes_every_descriptor_leaves_some_for_another_worker(short_tmp):
    few = (sys.executable, "-c", FEW_DESCRIPTORS)
    with helper(short_tmp, prefix=few) as one, ExitStack() as stack:
        for _ in range(90):
            stack.enter_context(connect(one.socket))
        (worker,) = (int(text) for text in children(one.process.pid))
        os.kill(worker, signal.SIGKILL)
        for _ in range(20):
            stack.enter_context(connect(one.socket))
        eventually(lambda: one.metric("kubenclave_quote_worker_restarts_total") == 1)
        one.wait_ready()
        assert error_of(one.socket, quote()) is AesmError.SUCCESS


def children(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


FEW_DESCRIPTORS = """\
import os, resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
os.execv(sys.argv[1], sys.argv[1:])
"""

FLOOD = """\
import socket, sys, time
path, frame, count = sys.argv[1], bytes.fromhex(sys.argv[2]), int(sys.argv[3])
peers = []
for _ in range(count):
    peer = socket.socket(socket.AF_UNIX)
    peer.connect(path)
    peer.sendall(frame)
    peers.append(peer)
print("flooding", flush=True)
sys.stdin.read()
"""


def test_a_flood_of_requests_delays_itself_and_not_another_process(short_tmp):
    slow = aesm.encode_request(quote("late 0.02 flood"))
    options = ("--in-flight", "1", "--max-queued", "100", "--max-queued-per-process", "90", "--answer-seconds", "15")
    with helper(short_tmp, *options) as one:
        argv = [sys.executable, "-c", FLOOD, str(one.socket), slow.hex(), "300"]
        with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as flood:
            assert flood.stdout is not None
            assert flood.stdout.readline() == b"flooding\n"
            eventually(lambda: one.metric("kubenclave_aesm_queued_quotes") > 50)
            started = time.monotonic()
            assert error_of(one.socket, quote("other")) is AesmError.SUCCESS
            assert time.monotonic() - started < 1.4  # the line of the flood takes longer
            assert one.metric("kubenclave_aesm_queued_quotes") > 20
            assert one.metric('kubenclave_aesm_requests_total{message="GetQuote",error="BUSY"}') >= 200
            flood.kill()


# --- budgets: design.md section 6

# What is installed for the tests only must not count: structlog takes rich where it finds it.
PROGRAM = """\
import sys
sys.modules["rich"] = None
from kubenclave.node import helper
"""
FORBIDDEN = re.compile(
    r"cryptography|kubenclave\.(dcap|cli|local|cluster|platform\.simulated)|rich\.|grpclib|click|msgspec"
)


def test_the_helper_loads_no_cryptography_and_few_modules():
    argv = [sys.executable, "-c", PROGRAM + "print(*sys.modules)"]
    shown = subprocess.run(argv, env=unmeasured(), capture_output=True, text=True, check=True).stdout.split()
    assert [name for name in shown if FORBIDDEN.match(name)] == []
    assert len(shown) <= 300


def test_the_helper_at_rest_stays_inside_its_memory(short_tmp):
    argv = [sys.executable, "-c", PROGRAM + "sys.exit(helper.main())", "--backend", "simulated"]
    argv += [
        "--socket",
        str(short_tmp / "a"),
        "--health-socket",
        str(short_tmp / "h"),
        "--provision-socket",
        "/nowhere",
    ]
    with subprocess.Popen(argv, env=unmeasured(), stderr=subprocess.DEVNULL) as process:
        try:
            eventually((short_tmp / "h").exists)
            assert resident(process.pid) <= 32_000_000
        finally:
            process.kill()
