# SPDX-License-Identifier: Apache-2.0
"""The client of the SIMULATED CPU: its errors, what it inherits, and a connection that several use."""

import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from kubenclave.errors import FormatError, KubenclaveError, PlatformError, UnreachableError
from kubenclave.platform.base import DeviceKind, DriverFlavour, EpcSource
from kubenclave.platform.simcpu import (
    CPU_SOCKET_VARIABLE,
    DEFAULT_CPU_SOCKET,
    DEFAULT_PROVISION_SOCKET,
    ENCLAVE_VARIABLE,
    PROVISION_SOCKET_VARIABLE,
    Enclave,
    SimulatedPlatform,
    provision_socket_path,
    socket_path,
)
from kubenclave.sgx.measure import Pages
from kubenclave.sgx.secinfo import SecInfo
from kubenclave.wire import simcpu
from kubenclave.wire.frames import FrameDecoder
from kubenclave.wire.simcpu import Code, CpuStatus, Reply


@pytest.fixture
def pair():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.settimeout(10)
        yield Enclave(ours, timeout=10), theirs


def answering(peer: socket.socket, *frames: bytes) -> threading.Thread:
    """Answer one request after the other with these bytes; an empty answer closes the connection."""

    def work() -> None:
        decoder = FrameDecoder(simcpu.decode_request, simcpu.MAX_FRAME)
        for frame in frames:
            while not decoder.feed(peer.recv(1 << 21)):
                pass
            if not frame:
                peer.shutdown(socket.SHUT_RDWR)
                return
            peer.sendall(frame)

    thread = threading.Thread(target=work)
    thread.start()
    return thread


@pytest.mark.parametrize("code", [code for code in Code if code], ids=[code.slug for code in Code if code])
def test_a_refusal_is_an_error_with_its_code_and_reason(pair, code):
    enclave, peer = pair
    thread = answering(peer, simcpu.encode_reply(simcpu.refusal(code, "a reason")))
    with pytest.raises(PlatformError) as caught:
        enclave.init(bytes(1808))
    thread.join()
    assert caught.value.code == f"simcpu.{code.slug}"
    assert f"refused EINIT with {code.name}: a reason" in str(caught.value)


def test_a_refusal_without_a_reason(pair):
    enclave, peer = pair
    thread = answering(peer, simcpu.encode_reply(Reply(Code.OUT_OF_EPC)))
    with pytest.raises(PlatformError) as caught:
        enclave.create(8192)
    thread.join()
    assert str(caught.value).endswith("OUT_OF_EPC")
    assert caught.value.hint


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        pytest.param(b"", UnreachableError, id="end"),
        pytest.param(bytes.fromhex("01000000 00"), FormatError, id="garbage"),
        pytest.param(b"\xff" * 4, FormatError, id="too-long"),
    ],
)
def test_after_a_broken_exchange_nobody_gets_a_wrong_reply(pair, answer, kind):
    enclave, peer = pair
    thread = answering(peer, answer)
    with pytest.raises(kind):
        enclave.status()
    thread.join()
    with pytest.raises(UnreachableError) as caught:
        enclave.status()
    assert caught.value.code == "simcpu.unreachable"


def test_a_reply_of_another_size_is_refused(pair):
    enclave, peer = pair
    thread = answering(peer, simcpu.encode_reply(Reply(Code.SUCCESS, bytes(31))))
    with pytest.raises(FormatError):
        enclave.status()
    thread.join()


def test_a_cpu_that_is_silent_is_not_waited_for():
    ours, theirs = socket.socketpair()
    with theirs, Enclave(ours, timeout=0.05) as enclave, pytest.raises(UnreachableError):
        enclave.status()


def test_replies_may_come_in_pieces(pair):
    enclave, peer = pair
    frame = simcpu.encode_reply(Reply(Code.SUCCESS, CpuStatus(4096, 0, b"v" * 16).build()))

    def work() -> None:
        peer.recv(100)
        for at in range(len(frame)):
            peer.sendall(frame[at : at + 1])

    thread = threading.Thread(target=work)
    thread.start()
    assert enclave.status() == CpuStatus(4096, 0, b"v" * 16)
    thread.join()


def test_many_pages_go_in_several_frames(pair):
    enclave, peer = pair
    count = 2 * simcpu.PAGES_PER_FRAME + 3
    content = b"".join([number.to_bytes(4096, "little") for number in range(count)])
    got: list[simcpu.Request] = []

    def work() -> None:
        decoder = FrameDecoder(simcpu.decode_request, simcpu.MAX_FRAME)
        while len(got) < 3:
            for request in decoder.feed(peer.recv(1 << 16)):
                got.append(request)
                peer.sendall(simcpu.encode_reply(Reply(Code.SUCCESS)))

    thread = threading.Thread(target=work)
    thread.start()
    enclave.add(Pages(0x3000, SecInfo(0x201), count, content))
    thread.join()
    added = [request.pages for request in got if isinstance(request, simcpu.Add)]
    assert [pages.offset for pages in added] == [0x3000, 0x3000 + 255 * 4096, 0x3000 + 510 * 4096]
    assert sum(pages.count for pages in added) == count
    assert b"".join([pages.content or b"" for pages in added]) == content


def test_threads_take_turns(pair):
    enclave, peer = pair
    decoder = FrameDecoder(simcpu.decode_request, simcpu.MAX_FRAME)
    threads, found = 8, []

    def serve() -> None:
        for _ in range(threads):
            requests: list[simcpu.Request] = []
            while not requests:
                requests = decoder.feed(peer.recv(1 << 16))
            (request,) = requests  # never a second one before the first is answered
            assert isinstance(request, simcpu.MakeReport)
            peer.sendall(simcpu.encode_reply(Reply(Code.SUCCESS, request.report_data * 6 + bytes(48))))

    def ask(number: int) -> None:
        data = bytes([number]) * 64
        found.append(enclave.report(bytes(512), data)[:64] == data)

    workers = [threading.Thread(target=serve), *(threading.Thread(target=ask, args=(n,)) for n in range(threads))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert found == [True] * threads


def test_nobody_at_the_socket(short_tmp):
    with pytest.raises(UnreachableError) as caught:
        Enclave.connect(short_tmp / "cpu.sock")
    assert caught.value.code == "simcpu.unreachable"
    assert CPU_SOCKET_VARIABLE in (caught.value.hint or "")


def test_no_enclave_to_inherit():
    assert Enclave.inherited({}) is None
    assert Enclave.inherited({ENCLAVE_VARIABLE: ""}) is None


@pytest.mark.parametrize("number", ["x", "-1", "1000000", "9" * 40, "2147483648"])
def test_a_descriptor_that_has_not_come_along(number):
    with pytest.raises(KubenclaveError) as caught:
        Enclave.inherited({ENCLAVE_VARIABLE: number})
    assert caught.value.code == "simcpu.inherited"


def test_a_descriptor_of_another_kind(tmp_path):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other, (tmp_path / "file").open("wb") as file:
        for descriptor in (other.fileno(), file.fileno()):
            with pytest.raises(PlatformError) as caught:
                Enclave.inherited({ENCLAVE_VARIABLE: str(descriptor)})
            assert caught.value.code == "simcpu.inherited"


def test_an_inherited_enclave_outlives_its_users(pair):
    enclave, peer = pair
    frame = simcpu.encode_reply(Reply(Code.SUCCESS, CpuStatus(8192, 4096, bytes(16)).build()))
    thread = answering(peer, frame, frame)
    for _ in range(2):
        with Enclave.inherited({ENCLAVE_VARIABLE: str(enclave.fileno())}) or pytest.fail("none") as inherited:
            assert inherited.status().epc_free == 4096
    thread.join()


def test_an_enclave_is_handed_down_to_another_program(pair):
    enclave, peer = pair
    frame = simcpu.encode_reply(Reply(Code.SUCCESS, CpuStatus(8192, 4096, bytes(16)).build()))
    thread = answering(peer, frame)
    script = """import os
from kubenclave.platform.simcpu import Enclave
print(Enclave.inherited(os.environ).status().epc_free)
"""
    number = enclave.hand_down()
    assert os.get_inheritable(number)
    assert os.get_blocking(number)
    env = {**os.environ, ENCLAVE_VARIABLE: str(number)}
    done = subprocess.run(
        [sys.executable, "-c", script], env=env, pass_fds=[number], capture_output=True, text=True, check=False
    )
    thread.join()
    assert (done.stdout, done.returncode) == ("4096\n", 0), done.stderr


def test_where_the_cpu_is():
    assert socket_path({}) == DEFAULT_CPU_SOCKET
    assert socket_path({CPU_SOCKET_VARIABLE: "/x/cpu.sock"}) == Path("/x/cpu.sock")
    assert provision_socket_path({}) == DEFAULT_PROVISION_SOCKET
    assert provision_socket_path({PROVISION_SOCKET_VARIABLE: "/y"}) == Path("/y")


def test_the_platform_as_the_node_agent_sees_it(short_tmp):
    path = short_tmp / "cpu.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def work() -> None:
            peer, _ = listener.accept()
            with peer:
                sections = simcpu.Sections((1 << 27, 1 << 26))
                answering(peer, simcpu.encode_reply(Reply(Code.SUCCESS, sections.build()))).join()

        thread = threading.Thread(target=work)
        thread.start()
        inventory = SimulatedPlatform(path).inventory()
        thread.join()
    assert inventory.simulated
    assert (inventory.driver, inventory.epc_source) == (DriverFlavour.SIMULATED, EpcSource.SIMULATED)
    assert [(section.numa_node, section.size) for section in inventory.sections] == [(0, 1 << 27), (1, 1 << 26)]
    assert inventory.cpu_socket == str(path)
    assert inventory.offers(DeviceKind.ENCLAVE)
    assert not inventory.offers(DeviceKind.PROVISION)


def test_the_client_needs_no_cryptography():
    script = "import sys, kubenclave.platform.simcpu; print('cryptography' in sys.modules, 'asyncio' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "False False\n"


def test_processes_that_share_an_enclave_take_turns(pair):
    enclave, peer = pair
    decoder = FrameDecoder(simcpu.decode_request, simcpu.MAX_FRAME)
    processes, each = 4, 25
    script = f"""import os
from kubenclave.platform.simcpu import Enclave
enclave = Enclave.inherited(os.environ)
for number in range({each}):
    data = os.getpid().to_bytes(64, "little")
    assert enclave.report(bytes(512), data)[:64] == data
"""

    def serve() -> None:
        for _ in range(processes * each):
            requests: list[simcpu.Request] = []
            while not requests:
                requests = decoder.feed(peer.recv(1 << 16))
            (request,) = requests
            assert isinstance(request, simcpu.MakeReport)
            peer.sendall(simcpu.encode_reply(Reply(Code.SUCCESS, request.report_data * 6 + bytes(48))))

    server = threading.Thread(target=serve)
    server.start()
    number = enclave.hand_down()
    env = {**os.environ, ENCLAVE_VARIABLE: str(number)}
    started = [subprocess.Popen([sys.executable, "-c", script], env=env, pass_fds=[number]) for _ in range(processes)]
    assert [process.wait(30) for process in started] == [0] * processes
    server.join()


def test_a_process_that_does_not_finish_is_not_waited_for_for_ever():
    ours, theirs = socket.socketpair()
    script = "import fcntl, sys; fcntl.lockf(int(sys.argv[1]), fcntl.LOCK_EX); print('locked', flush=True); input()"
    with theirs, Enclave(ours, timeout=0.05) as enclave:
        number = enclave.hand_down()
        with subprocess.Popen(
            [sys.executable, "-c", script, str(number)],
            pass_fds=[number],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as other:
            assert other.stdout is not None
            assert other.stdout.readline() == b"locked\n"
            with pytest.raises(UnreachableError, match="another process does not finish"):
                enclave.status()
            other.communicate(b"\n")


def test_a_thread_that_does_not_finish_is_not_waited_for_for_ever():
    ours, theirs = socket.socketpair()
    with theirs, Enclave(ours, timeout=0.05) as enclave:
        enclave._turn.acquire()
        with pytest.raises(UnreachableError, match="another thread does not finish"):
            enclave.status()


def test_a_reply_that_somebody_left_behind_is_nobody_elses(pair):
    enclave, peer = pair
    peer.sendall(simcpu.encode_reply(Reply(Code.SUCCESS, CpuStatus(1, 1, bytes(16)).build())))
    for _ in range(2):
        with pytest.raises(UnreachableError):
            enclave.status()
