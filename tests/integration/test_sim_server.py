# SPDX-License-Identifier: Apache-2.0
"""The SIMULATED CPU behind its socket: enclaves apart from one another, and peers that behave badly."""

import asyncio
import gc
import multiprocessing
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest

from kubenclave.errors import PlatformError, UnreachableError
from kubenclave.platform import sockets
from kubenclave.platform.base import DeviceKind
from kubenclave.platform.simcpu import Enclave, SimulatedPlatform
from kubenclave.platform.simulated.cpu import SoftwareCpu
from kubenclave.platform.simulated.enclaves import PCE
from kubenclave.platform.simulated.faults import CpuError
from kubenclave.platform.simulated.keys import BaseKeys
from kubenclave.platform.simulated.pce import pck_key_request
from kubenclave.platform.simulated.server import CpuServer, ServerLimits
from kubenclave.sgx.attributes import AttributeFlags, Attributes
from kubenclave.sgx.keyrequest import KeyName, KeyPolicy, KeyRequest
from kubenclave.sgx.measure import Pages
from kubenclave.sgx.report import Report
from kubenclave.sgx.secinfo import SecInfo
from kubenclave.wire import simcpu
from kubenclave.wire.frames import FrameDecoder
from kubenclave.wire.simcpu import Code
from tests import simulated_enclaves as made
from tests.waiting import eventually

SEAL = KeyRequest(key_name=KeyName.SEAL, key_policy=KeyPolicy.MRENCLAVE)
STATUS = simcpu.encode_request(simcpu.GetStatus())


def no_chain() -> bytes:
    raise CpuError(Code.NOT_AVAILABLE, "no issuer here")


class Running:
    """A server in a thread of its own."""

    def __init__(self, path: Path, server: CpuServer, cpu: SoftwareCpu) -> None:
        self.path, self.server, self.cpu = path, server, cpu
        self.provision = path.with_name("provision.sock")

    def connect(self) -> Enclave:
        return Enclave.connect(self.path, timeout=10)

    def raw(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(10)
        connection.connect(str(self.path))
        return connection

    def enclave(self, **terms: object) -> Enclave:
        connection = self.connect()
        attributes = terms.get("attributes", made.PLAIN)
        assert isinstance(attributes, Attributes)
        connection.create(made.SIZE, attributes=attributes)
        for pages in made.LOAD:
            connection.add(pages)
        connection.init(made.signed(**terms).build())
        return connection


@contextmanager
def serving(
    folder: Path,
    *,
    pages: int = 256,
    limits: ServerLimits | None = None,
    pck_chain: Callable[[], bytes] = no_chain,
    refresh: Callable[[], None] = lambda: None,
) -> Iterator[Running]:
    cpu = SoftwareCpu(BaseKeys.from_fuses(made.FUSES), epc=[pages * 4096], cpu_svn=made.CPU_SVN, boot=b"B" * 32)
    server = CpuServer(cpu, pck_chain, refresh=refresh, limits=limits)
    loop, path, up, stop = asyncio.new_event_loop(), folder / "cpu.sock", threading.Event(), asyncio.Event()

    async def work() -> None:
        await server.start(sockets.listen(path, 0o600))
        await server.start(sockets.listen(path.with_name("provision.sock"), 0o600), may_provision=True)
        up.set()
        await stop.wait()
        await server.close()

    unexpected: list[object] = []
    loop.set_exception_handler(lambda _, context: unexpected.append(context))

    def run() -> None:
        asyncio.set_event_loop(loop)
        loop.run_until_complete(work())
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()

    thread = threading.Thread(target=run)
    thread.start()
    assert up.wait(10)
    try:
        yield Running(path, server, cpu)
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)
        assert not thread.is_alive()
    assert not unexpected


@pytest.fixture
def running(short_tmp: Path) -> Iterator[Running]:
    with serving(short_tmp) as found:
        yield found


def closed(connection: socket.socket) -> bool:
    """Read to the end of the stream; tell whether it came."""
    try:
        while connection.recv(1 << 16):
            pass
    except ConnectionError:
        pass
    return True


def refusal(connection: socket.socket) -> Code:
    decoder = FrameDecoder(simcpu.decode_reply, simcpu.MAX_FRAME)
    while not (replies := decoder.feed(connection.recv(1 << 16))):
        pass
    return replies[0].code


def test_whoever_has_the_cpu_socket_alone_cannot_become_the_pce(running):
    """Its signing key is in the source, so anybody can try: with the provisioning key the PCK key would be theirs."""
    with running.connect() as passerby, pytest.raises(PlatformError) as caught:
        PCE.load(passerby)
    assert caught.value.code == "simcpu.invalid-attribute"
    assert "provision socket" in caught.value.message
    assert "sgx.intel.com/provision" in (caught.value.hint or "")
    with Enclave.connect(running.provision) as pce:
        PCE.load(pce)
        assert pce.key(pck_key_request(made.CPU_SVN))


def test_an_enclave_that_is_the_pce_but_for_the_attribute_has_none_of_its_keys(running):
    without = Attributes(AttributeFlags.MODE64BIT, 3)
    with running.connect() as other:
        other.create(4 * 4096, attributes=without)
        for pages in PCE.pages:
            other.add(pages)
        signed = made.signed(enclave_hash=PCE.mr_enclave, attributes=without, isv_svn=PCE.isv_svn)
        other.init(signed.build())
        with pytest.raises(PlatformError) as caught:
            other.key(pck_key_request(made.CPU_SVN))
    assert caught.value.code == "simcpu.invalid-attribute"


def test_the_agent_sees_the_provisioning_key_where_its_socket_answers(running):
    for provision, offered in ((running.provision, True), (running.path.with_name("absent"), False), (None, False)):
        inventory = SimulatedPlatform(running.path, provision).inventory()
        assert inventory.offers(DeviceKind.PROVISION) is offered
        assert inventory.offers(DeviceKind.ENCLAVE)


def test_both_sockets_charge_one_epc(running):
    with running.enclave() as one, Enclave.connect(running.provision) as pce:
        before = one.status().epc_free
        PCE.load(pce)
        assert one.status().epc_free == before - 4 * 4096


def test_two_connections_are_two_enclaves(running):
    debug = Attributes(AttributeFlags.MODE64BIT | AttributeFlags.DEBUG, 3)
    with running.enclave() as one, running.enclave(attributes=debug) as two, running.connect() as nobody:
        assert one.key(SEAL) != two.key(SEAL)
        first, second = (Report.parse(each.report(bytes(512), bytes(64))).body for each in (one, two))
        assert first.mr_enclave == second.mr_enclave == made.MR_ENCLAVE
        assert (first.debug, second.debug) == (False, True)
        for ask in (lambda: nobody.key(SEAL), lambda: nobody.report(bytes(512), bytes(64))):
            with pytest.raises(PlatformError) as caught:
                ask()
            assert caught.value.code == "simcpu.general-protection"


def test_the_same_identity_has_the_same_keys_on_any_connection(running):
    with running.enclave() as one, running.enclave() as two:
        assert one.key(SEAL) == two.key(SEAL)


def test_requests_of_all_kinds(running):
    with running.connect() as enclave:
        enclave.create(made.SIZE, attributes=made.PLAIN)
        for pages in made.LOAD:
            enclave.add(Pages(pages.offset, pages.sec_info, 1))
            for at in range(0, len(pages.content or b""), 256):
                enclave.extend(at, (pages.content or b"")[at : at + 256])
        enclave.init(made.signed().build())
        assert enclave.target_info().mr_enclave == made.MR_ENCLAVE
        assert enclave.status().epc_free == (256 - 3) * 4096
    with running.connect() as enclave:
        enclave.create(made.SIZE, attributes=made.PLAIN)
        enclave.measured(made.MR_ENCLAVE, 2)
        enclave.init(made.signed().build())
        assert len(enclave.key(SEAL)) == 16


def test_refused_enclaves_can_be_corrected(running):
    with running.connect() as enclave:
        enclave.create(made.SIZE, attributes=made.PLAIN)
        enclave.add(made.LOAD[0])
        with pytest.raises(PlatformError) as caught:
            enclave.init(made.signed().build())
        assert caught.value.code == "simcpu.invalid-measurement"
        enclave.add(made.LOAD[1])
        enclave.init(made.signed().build())


def test_pipelined_requests_are_answered_in_order(running):
    requests: list[simcpu.Request] = [
        simcpu.Create(size=made.SIZE, attributes=made.PLAIN),
        *(simcpu.Add(pages) for pages in made.LOAD),
        simcpu.Init(made.signed().build()),
        *(simcpu.MakeReport(bytes(512), bytes([number]) * 64) for number in range(100)),
    ]
    with running.raw() as connection:
        connection.sendall(b"".join([simcpu.encode_request(request) for request in requests]))
        decoder = FrameDecoder(simcpu.decode_reply, simcpu.MAX_FRAME)
        replies: list[simcpu.Reply] = []
        while len(replies) < len(requests):
            replies += decoder.feed(connection.recv(1 << 16))
    assert {reply.code for reply in replies} == {Code.SUCCESS}
    assert [reply.result[320] for reply in replies[4:]] == list(range(100))


def hold(path: Path, ready: Event) -> None:
    enclave = Enclave.connect(path)
    enclave.create(1 << 20)
    enclave.add(Pages(0, SecInfo(0x201), 100))
    ready.set()
    signal.pause()


def test_a_killed_client_frees_its_epc(running):
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    process = context.Process(target=hold, args=(running.path, ready))
    process.start()
    assert ready.wait(30)
    with running.connect() as other:
        assert other.status().epc_free == (256 - 101) * 4096
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        eventually(lambda: other.status().epc_free == 256 * 4096)


def test_epc_is_shared_and_short(running):
    with running.connect() as one, running.connect() as two:
        one.create(1 << 20)
        one.add(Pages(0, SecInfo(0x201), 200))
        two.create(1 << 20)
        with pytest.raises(PlatformError) as caught:
            two.add(Pages(0, SecInfo(0x201), 55))
        assert caught.value.code == "simcpu.out-of-epc"
        assert "asked 55 pages, free 54 of 256" in str(caught.value)
        two.add(Pages(0, SecInfo(0x201), 54))
        one.close()
        eventually(lambda: two.status().epc_free == 201 * 4096)


GARBAGE = {
    "op": bytes.fromhex("01000000 63"),
    "empty-frame": bytes(4),
    "too-long": b"\xff" * 4,
    "short-operands": bytes.fromhex("02000000 05 00"),
    "text": b"GET / HTTP/1.1\r\n\r\n",
}


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE.keys())
def test_garbage_ends_its_connection_and_no_other(running, garbage):
    with running.enclave() as other, running.raw() as connection:
        connection.sendall(garbage)
        assert refusal(connection) is Code.GENERAL_PROTECTION
        assert closed(connection)
        assert len(other.key(SEAL)) == 16


@pytest.mark.parametrize("half", [STATUS[:1], STATUS[:3], STATUS[:4], bytes.fromhex("00001000 02")], ids=range(4))
def test_half_frames_are_not_waited_for(short_tmp, half):
    with serving(short_tmp, limits=ServerLimits(frame_seconds=0.1)) as running:
        with running.enclave() as other, running.raw() as connection:
            connection.sendall(half)
            assert closed(connection)
            assert len(other.key(SEAL)) == 16
        eventually(lambda: running.server.connections == 0)


def test_an_enclave_may_be_silent_and_an_empty_connection_not(short_tmp):
    with (
        serving(short_tmp, limits=ServerLimits(idle_seconds=0.1)) as running,
        running.enclave() as enclave,
        running.raw() as connection,
    ):
        assert closed(connection)
        assert len(enclave.key(SEAL)) == 16


def test_a_flood_of_connections_pushes_out_its_own(short_tmp):
    with (
        serving(short_tmp, limits=ServerLimits(connections=8, per_process=1000)) as running,
        ExitStack() as stack,
        running.enclave() as enclave,
    ):
        flood = [stack.enter_context(running.raw()) for _ in range(40)]
        assert closed(flood[0])
        assert len(enclave.key(SEAL)) == 16
        assert running.server.connections <= 8
        with running.connect() as late:
            assert late.status().epc_total == 256 * 4096


def test_enclaves_are_not_pushed_out(short_tmp):
    with (
        serving(short_tmp, limits=ServerLimits(connections=3)) as running,
        running.enclave() as one,
        running.enclave() as two,
        running.enclave() as three,
    ):
        with running.raw() as late:
            assert closed(late)
        for enclave in (one, two, three):
            assert len(enclave.key(SEAL)) == 16
        three.close()

        def served() -> bool:
            try:
                with running.connect() as late:
                    return late.status().epc_total > 0
            except UnreachableError:
                return False

        eventually(served)


def test_one_process_cannot_have_all_connections(short_tmp):
    with (
        serving(short_tmp, limits=ServerLimits(per_process=2)) as running,
        running.enclave() as one,
        running.enclave(),
    ):
        with running.raw() as late:
            assert closed(late)
        assert len(one.key(SEAL)) == 16


def test_long_frames_that_do_not_come_give_way_to_those_that_do(short_tmp):
    with (
        serving(short_tmp, limits=ServerLimits(arriving=3 << 20)) as running,
        ExitStack() as stack,
        running.enclave() as enclave,
    ):
        announced = (1 << 20).to_bytes(4, "little") + b"\2"
        slow = [stack.enter_context(running.raw()) for _ in range(3)]
        for connection in slow:
            before = len(running.server._arriving)
            connection.sendall(announced)
            eventually(partial(lambda count: len(running.server._arriving) == count, before + 1))
        with running.connect() as honest:
            honest.create(1 << 21)
            honest.add(Pages(0, SecInfo(0x201), 100, bytes(100 * 4096)))
        assert closed(slow[0])
        assert len(running.server._arriving) == 2
        assert len(enclave.key(SEAL)) == 16


def test_a_peer_that_takes_no_replies_is_left(short_tmp):
    with serving(short_tmp, limits=ServerLimits(frame_seconds=0.2)) as running:
        with running.enclave() as other, running.raw() as connection:
            connection.setblocking(False)
            sent, deadline = 0, time.monotonic() + 10
            while time.monotonic() < deadline:
                try:
                    sent += connection.send(STATUS * 1000)
                except BlockingIOError:
                    assert len(other.key(SEAL)) == 16
                except ConnectionError:
                    break
            assert sent
            assert time.monotonic() < deadline
        eventually(lambda: running.server.connections == 0)


def test_a_long_load_lets_others_in(short_tmp):
    pages = 1 << 19
    with serving(short_tmp, pages=pages + 10) as running, running.connect() as large, running.connect() as small:
        large.create(1 << 40)
        thread = threading.Thread(target=large.add, args=(Pages(0, SecInfo(0x207), pages),))
        thread.start()
        seen: list[int] = []
        while thread.is_alive():
            seen.append(small.status().epc_free // 4096)
        thread.join()
        between = {free for free in seen if 9 < free < pages}
        assert len(between) > 10, "others were answered only before and after"


def test_a_long_load_that_is_refused_in_the_middle_keeps_its_beginning(running):
    with running.connect() as enclave:
        enclave.create(1 << 20)
        enclave.add(Pages(40 * 4096, SecInfo(0x201), 1))
        with pytest.raises(PlatformError) as caught:
            enclave.add(Pages(0, SecInfo(0x201), 64, bytes(64 * 4096)))
        assert caught.value.code == "simcpu.general-protection"
        assert enclave.status().epc_free == (256 - 1 - 1 - 32) * 4096


def test_certificates_come_from_whoever_issues_them(short_tmp):
    asked: list[int] = []

    def chain() -> bytes:
        asked.append(threading.get_ident())
        return b"PEM"

    with (
        serving(short_tmp, pck_chain=chain, refresh=lambda: asked.append(0)) as running,
        running.connect() as anybody,
    ):
        assert anybody.pck_chain() == b"PEM"
    assert asked[0] == 0
    assert asked[1] != threading.get_ident()


def test_no_issuer(running):
    with running.connect() as anybody:
        with pytest.raises(PlatformError) as caught:
            anybody.pck_chain()
        assert caught.value.code == "simcpu.not-available"
        assert "no issuer here" in str(caught.value)


def test_the_end_of_the_server_ends_all_enclaves(short_tmp):
    with serving(short_tmp) as running:
        enclave = running.enclave()
        idle = running.raw()
        eventually(lambda: running.server.connections == 2)
    with enclave, idle:
        with pytest.raises(UnreachableError):
            enclave.key(SEAL)
        assert closed(idle)
    assert running.cpu.epc.free == running.cpu.epc.pages


@pytest.mark.parametrize("turns", range(5))
def test_who_is_accepted_in_the_moment_of_the_end_is_not_left_open(short_tmp, turns):
    """asyncio accepts in steps, and forgets a connection whose server is closed between them."""

    async def scenario() -> None:
        cpu = SoftwareCpu(BaseKeys.from_fuses(made.FUSES), epc=[4096], cpu_svn=made.CPU_SVN, boot=b"B" * 32)
        server = CpuServer(cpu, no_chain)
        await server.start(sockets.listen(short_tmp / "s", 0o600))
        with socket.socket(socket.AF_UNIX) as peer:
            peer.connect(str(short_tmp / "s"))
            for _ in range(turns):
                await asyncio.sleep(0)
            await server.close()

    asyncio.run(scenario())
    gc.collect()  # tells of a socket that nobody has closed
