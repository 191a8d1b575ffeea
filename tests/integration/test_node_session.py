# SPDX-License-Identifier: Apache-2.0
"""A plugin stays registered, whatever its kubelet does (kubernetes.md, device plugin lifecycle)."""

import asyncio
import socket
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest

from kubenclave._proto import deviceplugin_pb2 as pb
from kubenclave._proto.deviceplugin_grpc import RegistrationBase
from kubenclave.errors import UnreachableError
from kubenclave.node.deviceplugin import EpcMode, Offer, ResourcePlugin, resources
from kubenclave.node.kubelet import HangUpServer, Session, SessionState, Timing
from kubenclave.node.watch import Signal, watch_directories
from kubenclave.platform import sockets
from kubenclave.platform.base import DeviceKind, DeviceNode, DriverFlavour, EpcSection, EpcSource, Inventory
from kubenclave.sgx.epc import AZURE_EPC_RESOURCE, ENCLAVE_RESOURCE, MIB
from kubenclave.wire.metrics import Metrics
from tests.integration.grpc_kubelet import GrpcKubelet
from tests.waiting import eventually

QUICK = Timing(poll=0.05, register=10.0, opened=10.0, first_retry=0.02, last_retry=0.1, stable=0.2)
MACHINE = Inventory(
    DriverFlavour.IN_KERNEL,
    (DeviceNode("/dev/sgx_enclave", DeviceKind.ENCLAVE, 10, 125, 0o666, 0, 0),),
    (EpcSection(0, 3 * MIB), EpcSection(1, 2 * MIB)),
    EpcSource.SYSFS,
)
OFFER = Offer(enclave_limit=3, epc_mode=EpcMode.DEVICES, aesm_directory="/host/aesmd")


class Running:
    """A session in a thread of its own, with its loop."""

    def __init__(self, directory: Path, resource: str = ENCLAVE_RESOURCE, timing: Timing = QUICK) -> None:
        self.directory = directory
        self.timing = timing
        self.wanted = resource
        self.loop = asyncio.new_event_loop()
        self.started = threading.Event()
        self.thread = threading.Thread(target=self._run)
        self.plugin: ResourcePlugin
        self.session: Session
        self.task: asyncio.Task[Any]

    def _run(self) -> None:
        # a runner, as in the program: it ends what the library's connections leave behind before it closes the loop
        with suppress(asyncio.CancelledError), asyncio.Runner(loop_factory=lambda: self.loop) as runner:
            runner.run(self._main())

    async def _main(self) -> None:
        signal = Signal()
        (resource,) = (one for one in resources(MACHINE, OFFER) if one.name == self.wanted)
        self.plugin = ResourcePlugin(resource, Metrics().counter("a_total", "", "resource", "answer"))
        self.session = Session(self.plugin, self.directory, self.plugin.endpoint, signal, self.timing)
        with watch_directories([self.directory], signal):
            self.task = asyncio.create_task(self.session.run())
            self.started.set()
            await self.task

    def call(self, function: Any, *arguments: Any) -> None:
        """Run something in the session's loop and wait for it."""

        async def run() -> None:
            function(*arguments)

        made: Coroutine[Any, Any, None] = run()
        asyncio.run_coroutine_threadsafe(made, self.loop).result(5)

    @property
    def held(self) -> bool:
        return self.session.state is SessionState.HELD

    @property
    def socket(self) -> Path:
        return self.directory / self.plugin.endpoint


@contextmanager
def session(directory: Path, resource: str = ENCLAVE_RESOURCE, timing: Timing = QUICK) -> Iterator[Running]:
    running = Running(directory, resource, timing)
    running.thread.start()
    assert running.started.wait(5)
    try:
        yield running
    finally:
        running.loop.call_soon_threadsafe(running.task.cancel)
        running.thread.join(10)
        assert not running.thread.is_alive()


@pytest.fixture
def kubelet(short_tmp: Path) -> GrpcKubelet:
    return GrpcKubelet(short_tmp)


def test_a_plugin_registers_and_its_devices_are_listed(kubelet, short_tmp):
    with kubelet.running(), session(short_tmp) as plugin:
        client = kubelet.wait(ENCLAVE_RESOURCE)
        (request,) = kubelet.registrations
        assert (request.version, request.endpoint) == ("v1beta1", "kubenclave-enclave.sock")
        assert kubelet.options[0].get_preferred_allocation_available
        assert kubelet.healthy(ENCLAVE_RESOURCE) == ["enclave-0", "enclave-1", "enclave-2"]
        eventually(lambda: plugin.held)
        assert client.path.stat().st_mode & 0o777 == 0o600


def test_it_leaves_nothing_behind(kubelet, short_tmp):
    with kubelet.running():
        with session(short_tmp):
            client = kubelet.wait(ENCLAVE_RESOURCE)
        assert {entry.name for entry in short_tmp.iterdir()} == {"kubelet.sock"}
        eventually(lambda: client.ended)


def test_it_waits_for_a_late_kubelet(kubelet, short_tmp):
    with session(short_tmp) as plugin:
        assert plugin.session.state is SessionState.WAITING
        assert not plugin.socket.exists()
        with kubelet.running():
            kubelet.wait(ENCLAVE_RESOURCE)


def test_it_waits_for_a_directory_that_is_not_there_yet(short_tmp):
    directory = short_tmp / "later"
    with session(directory):
        directory.mkdir()
        kubelet = GrpcKubelet(directory)
        with kubelet.running():
            kubelet.wait(ENCLAVE_RESOURCE)


def test_a_restarted_kubelet_that_removed_every_socket_gets_it_back(kubelet, short_tmp):
    with session(short_tmp) as plugin:
        with kubelet.running():
            kubelet.wait(ENCLAVE_RESOURCE)
            eventually(lambda: plugin.held)  # the list is there a moment before the registration is answered
        again = GrpcKubelet(short_tmp)
        with again.running():
            again.wait(ENCLAVE_RESOURCE)
            eventually(lambda: plugin.held)
        assert plugin.session.registrations == 2


def test_a_new_kubelet_socket_is_enough_even_while_the_old_stream_lives(kubelet, short_tmp):
    with session(short_tmp), kubelet.running():
        old = kubelet.wait(ENCLAVE_RESOURCE)
        successor = GrpcKubelet(short_tmp)
        with successor.running():  # its predecessor has not hung up
            successor.wait(ENCLAVE_RESOURCE)
            eventually(lambda: old.ended)  # the old server was stopped with its connections


def test_its_own_socket_deleted_is_noticed_without_any_other_event(kubelet, short_tmp):
    with kubelet.running(), session(short_tmp) as plugin:
        kubelet.wait(ENCLAVE_RESOURCE)
        eventually(lambda: plugin.held)
        plugin.socket.unlink()
        eventually(lambda: kubelet.count(ENCLAVE_RESOURCE) == 2)
        eventually(lambda: plugin.held)
        assert plugin.socket.is_socket()


def test_somebody_elses_file_in_its_place_is_noticed_too(kubelet, short_tmp):
    with kubelet.running(), session(short_tmp) as plugin:
        kubelet.wait(ENCLAVE_RESOURCE)
        (short_tmp / "other").write_text("")
        (short_tmp / "other").replace(plugin.socket)
        eventually(lambda: kubelet.count(ENCLAVE_RESOURCE) == 2)


def test_a_refused_registration_is_tried_again(kubelet, short_tmp):
    kubelet.refuse = "the name is bad"
    with kubelet.running(), session(short_tmp) as plugin:
        eventually(lambda: len(kubelet.registrations) >= 3)
        assert plugin.session.registrations == 0
        kubelet.refuse = ""
        kubelet.wait(ENCLAVE_RESOURCE)


@pytest.mark.parametrize("listens", [pytest.param(False, id="nobody"), pytest.param(True, id="mute")])
def test_a_kubelet_that_does_not_answer_is_tried_again(kubelet, short_tmp, listens):
    with session(short_tmp, timing=replace(QUICK, register=0.5)) as plugin:
        with socket.socket(socket.AF_UNIX) as mute:
            mute.bind(str(short_tmp / "kubelet.sock"))
            if listens:
                mute.listen()
            eventually(lambda: "the kubelet does not answer" in plugin.session._told)
        with kubelet.running():
            kubelet.wait(ENCLAVE_RESOURCE)


def test_a_kubelet_that_never_asks_for_the_list_is_registered_with_again(kubelet, short_tmp):
    kubelet.silent = True
    with kubelet.running(), session(short_tmp, timing=replace(QUICK, opened=0.3)) as plugin:
        eventually(lambda: kubelet.count(ENCLAVE_RESOURCE) >= 2)
        assert not plugin.held
        kubelet.silent = False
        kubelet.wait(ENCLAVE_RESOURCE)


def test_the_end_of_an_old_stream_that_disconnects_the_new_plugin_is_survived(kubelet, short_tmp):
    """The race: the kubelet looks an ended stream's client up by resource name, and hangs up on its successor."""
    with kubelet.running(), session(short_tmp) as plugin:
        first = kubelet.wait(ENCLAVE_RESOURCE)
        kubelet.late_end = 0.3  # by then the new one is registered
        plugin.socket.unlink()
        eventually(lambda: kubelet.clients[ENCLAVE_RESOURCE] is not first)
        second = kubelet.clients[ENCLAVE_RESOURCE]
        eventually(lambda: second.ended)
        kubelet.late_end = 0.0
        eventually(lambda: kubelet.clients[ENCLAVE_RESOURCE] is not second)
        eventually(lambda: kubelet.healthy(ENCLAVE_RESOURCE) and plugin.held)
        assert plugin.session.registrations >= 3


def test_a_kubelet_that_hangs_up_is_registered_with_again(kubelet, short_tmp):
    with kubelet.running(), session(short_tmp):
        kubelet.wait(ENCLAVE_RESOURCE).hang_up()
        eventually(lambda: kubelet.count(ENCLAVE_RESOURCE) == 2)
        kubelet.wait(ENCLAVE_RESOURCE)


def test_another_client_of_the_list_may_come_and_go(kubelet, short_tmp):
    with kubelet.running(), session(short_tmp) as plugin:
        kubelet.wait(ENCLAVE_RESOURCE)
        eventually(lambda: plugin.held)
        with grpc.insecure_channel(f"unix:{plugin.socket}") as channel:
            listed = channel.unary_stream(
                "/v1beta1.DevicePlugin/ListAndWatch", pb.Empty.SerializeToString, pb.ListAndWatchResponse.FromString
            )(pb.Empty(), timeout=5)
            assert len(next(listed).devices) == 3
            listed.cancel()
        assert kubelet.healthy(ENCLAVE_RESOURCE)
        assert kubelet.count(ENCLAVE_RESOURCE) == 1


def test_health_goes_out_as_a_whole_new_list(kubelet, short_tmp):
    with kubelet.running(), session(short_tmp) as plugin:
        client = kubelet.wait(ENCLAVE_RESOURCE)
        (gone,) = (one for one in resources(Inventory(), OFFER) if one.name == ENCLAVE_RESOURCE)
        (back,) = (one for one in resources(MACHINE, OFFER) if one.name == ENCLAVE_RESOURCE)
        plugin.call(plugin.plugin.update, gone)
        eventually(lambda: kubelet.healthy(ENCLAVE_RESOURCE) == [])
        assert {device.health for device in client.lists[-1].values()} == {"Unhealthy"}
        plugin.call(plugin.plugin.update, back)
        eventually(lambda: len(kubelet.healthy(ENCLAVE_RESOURCE)) == 3)
        assert kubelet.count(ENCLAVE_RESOURCE) == 1


def test_epc_by_the_mib_goes_out_with_numa_hints(kubelet, short_tmp):
    with kubelet.running(), session(short_tmp, AZURE_EPC_RESOURCE):
        client = kubelet.wait(AZURE_EPC_RESOURCE)
        hints = [(name, [node.ID for node in one.topology.nodes]) for name, one in client.lists[-1].items()]
        assert hints == [("epc-0-0", [0]), ("epc-0-1", [0]), ("epc-0-2", [0]), ("epc-1-0", [1]), ("epc-1-1", [1])]


def test_preferred_devices_lie_on_one_numa_node(kubelet, short_tmp):
    with kubelet.running(), session(short_tmp, AZURE_EPC_RESOURCE):
        client = kubelet.wait(AZURE_EPC_RESOURCE)
        one = pb.ContainerPreferredAllocationRequest(
            available_deviceIDs=["epc-0-0", "epc-1-0", "epc-1-1"], allocation_size=2
        )
        request = pb.PreferredAllocationRequest(container_requests=[one])
        answer = client.call("GetPreferredAllocation", request, pb.PreferredAllocationResponse)
        assert list(answer.container_responses[0].deviceIDs) == ["epc-1-0", "epc-1-1"]


def allocate(client: Any, *names: str) -> pb.AllocateResponse:
    request = pb.AllocateRequest(container_requests=[pb.ContainerAllocateRequest(devices_ids=names)])
    answer: pb.AllocateResponse = client.call("Allocate", request, pb.AllocateResponse)
    return answer


def test_allocate_gives_the_device_under_both_names_and_aesm_read_only(kubelet, short_tmp):
    with kubelet.running(), session(short_tmp):
        (one,) = allocate(kubelet.wait(ENCLAVE_RESOURCE), "enclave-1").container_responses
    assert [(device.container_path, device.host_path, device.permissions) for device in one.devices] == [
        ("/dev/sgx_enclave", "/dev/sgx_enclave", "rw"),
        ("/dev/sgx/enclave", "/dev/sgx_enclave", "rw"),
    ]
    assert [(mount.container_path, mount.host_path, mount.read_only) for mount in one.mounts] == [
        ("/var/run/aesmd", "/host/aesmd", True)
    ]
    assert not one.envs
    assert not one.cdi_devices


def test_refused_allocations_say_why(kubelet, short_tmp):
    with kubelet.running(), session(short_tmp) as plugin:
        client = kubelet.wait(ENCLAVE_RESOURCE)
        with pytest.raises(grpc.RpcError) as caught:
            allocate(client, "enclave-99")
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "[deviceplugin.unknown-device]" in caught.value.details()
        (gone,) = (one for one in resources(Inventory(), OFFER) if one.name == ENCLAVE_RESOURCE)
        plugin.call(plugin.plugin.update, gone)
        with pytest.raises(grpc.RpcError) as caught:
            allocate(client, "enclave-0")
        assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert "kubenclave doctor node" in caught.value.details()


def test_being_stopped_while_the_library_swallows_cancellations_is_stopping_all_the_same(short_tmp, monkeypatch):
    """grpclib turns a cancellation into an error of its own when the connection ends in the same moment."""
    kubelet_socket = sockets.listen(short_tmp / "kubelet.sock", 0o600)

    async def scenario() -> None:
        (resource,) = (one for one in resources(MACHINE, OFFER) if one.name == ENCLAVE_RESOURCE)
        plugin = ResourcePlugin(resource, Metrics().counter("a_total", "", "resource", "answer"))
        session = Session(plugin, short_tmp, plugin.endpoint, Signal(), QUICK)
        registering = asyncio.Event()

        async def call(*_: object) -> None:
            registering.set()
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                raise UnreachableError("connection lost", code="kubelet.unreachable") from None

        monkeypatch.setattr("kubenclave.node.kubelet._call", call)  # the moment cannot be had otherwise
        task = asyncio.create_task(session.run())
        await registering.wait()
        task.cancel()
        async with asyncio.timeout(5):
            await asyncio.wait((task,))
        assert task.cancelled()

    asyncio.run(scenario())
    kubelet_socket.close()


class Deaf(RegistrationBase):
    async def Register(self, stream: Any) -> None:  # noqa: N802  # name of the protocol
        raise AssertionError("nobody calls")


@pytest.mark.parametrize("announced", ["before", "after"])
def test_a_connection_that_is_made_while_the_server_stops_is_hung_up_on(short_tmp, announced):
    """asyncio makes the protocol first and tells it of its connection a moment later, when the stop may be over."""

    async def scenario() -> None:
        server = HangUpServer(Deaf())
        await server.start(path=str(short_tmp / "s"))
        connection = server._protocol_factory() if announced == "before" else None
        await server.stop()
        ours, theirs = socket.socketpair()
        await asyncio.get_running_loop().connect_accepted_socket(
            lambda: connection or server._protocol_factory(), sock=theirs
        )
        reader, writer = await asyncio.open_unix_connection(sock=ours)
        async with asyncio.timeout(10):
            await reader.read()  # to the end
        writer.close()

    asyncio.run(scenario())


def test_who_is_accepted_in_the_moment_of_the_stop_is_hung_up_on_before_it_is_over(short_tmp):
    """The program may end right after it: an open socket would be left to the garbage collector."""

    async def scenario(path: str) -> None:
        server = HangUpServer(Deaf())
        await server.start(path=path)
        with socket.socket(socket.AF_UNIX) as ours:
            ours.connect(path)
            for _ in range(2):  # accepted, and no more than that
                await asyncio.sleep(0)
            await server.stop()
            ours.settimeout(0)
            while ours.recv(1 << 10):  # to the end; BlockingIOError would say that it has not come yet
                pass

    asyncio.run(scenario(str(short_tmp / "s")))


def test_a_call_that_does_not_exist_for_us_is_answered_all_the_same(kubelet, short_tmp):
    with kubelet.running(), session(short_tmp):
        client = kubelet.wait(ENCLAVE_RESOURCE)
        request = pb.PreStartContainerRequest(devices_ids=["enclave-0"])
        assert client.call("PreStartContainer", request, pb.PreStartContainerResponse) == pb.PreStartContainerResponse()


def test_a_call_without_a_request_is_an_invalid_argument(kubelet, short_tmp):
    with kubelet.running(), session(short_tmp):
        client = kubelet.wait(ENCLAVE_RESOURCE)
        call = client.channel.stream_unary(
            "/v1beta1.DevicePlugin/Allocate", pb.AllocateRequest.SerializeToString, pb.AllocateResponse.FromString
        )
        with pytest.raises(grpc.RpcError) as caught:
            call(iter(()), timeout=5)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
