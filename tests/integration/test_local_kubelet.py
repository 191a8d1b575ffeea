# SPDX-License-Identifier: Apache-2.0
"""The stand-in for the kubelet against plugins on the common gRPC implementation, which is not the one it uses."""

import asyncio
import socket
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import grpc
import pytest

from kubenclave._proto import deviceplugin_pb2 as pb
from kubenclave.errors import KubenclaveError, PlatformError, UnreachableError
from kubenclave.local.allotment import DeviceSpec, Mount
from kubenclave.local.kubelet import Kubelet
from tests.waiting import eventually_async

RESOURCE = "sgx.intel.com/enclave"


class GrpcPlugin:
    """A device plugin as others write them; ``lists`` feeds ListAndWatch, None ends it."""

    def __init__(self, *, preferred: bool = False) -> None:
        self.preferred = preferred
        self.lists: SimpleQueue[list[pb.Device] | None] = SimpleQueue()
        self.allocated: list[list[str]] = []
        self.refuse = False
        self.answers = 1

    def options(self, request: Any, context: grpc.ServicerContext) -> pb.DevicePluginOptions:
        return pb.DevicePluginOptions(get_preferred_allocation_available=self.preferred)

    def list_and_watch(self, request: Any, context: grpc.ServicerContext) -> Iterator[pb.ListAndWatchResponse]:
        while (devices := self.lists.get()) is not None:
            yield pb.ListAndWatchResponse(devices=devices)

    def prefer(self, request: Any, context: grpc.ServicerContext) -> pb.PreferredAllocationResponse:
        one = request.container_requests[0]
        chosen = ["nonsense", *sorted(one.available_deviceIDs, reverse=True)][: one.allocation_size]
        return pb.PreferredAllocationResponse(
            container_responses=[pb.ContainerPreferredAllocationResponse(deviceIDs=chosen)]
        )

    def allocate(self, request: Any, context: grpc.ServicerContext) -> pb.AllocateResponse:
        if self.refuse:
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, "the device is broken")
        self.allocated.append(list(request.container_requests[0].devices_ids))
        one = pb.ContainerAllocateResponse(
            envs={"A": "b"},
            mounts=[pb.Mount(container_path="/c", host_path="/h", read_only=True)],
            devices=[pb.DeviceSpec(container_path="/dev/c", host_path="/dev/h", permissions="rw")],
        )
        return pb.AllocateResponse(container_responses=[one] * self.answers)

    @contextmanager
    def serving(self, path: Path) -> Iterator[None]:
        unary = grpc.unary_unary_rpc_method_handler
        handlers = {
            "GetDevicePluginOptions": unary(
                self.options, pb.Empty.FromString, pb.DevicePluginOptions.SerializeToString
            ),
            "GetPreferredAllocation": unary(
                self.prefer, pb.PreferredAllocationRequest.FromString, pb.PreferredAllocationResponse.SerializeToString
            ),
            "Allocate": unary(self.allocate, pb.AllocateRequest.FromString, pb.AllocateResponse.SerializeToString),
            "ListAndWatch": grpc.unary_stream_rpc_method_handler(
                self.list_and_watch, pb.Empty.FromString, pb.ListAndWatchResponse.SerializeToString
            ),
        }
        server = grpc.server(futures.ThreadPoolExecutor(4))
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("v1beta1.DevicePlugin", handlers),))
        server.add_insecure_port(f"unix:{path}")
        server.start()
        try:
            yield
        finally:
            self.lists.put(None)
            server.stop(0).wait()


def devices(*names: str, health: str = "Healthy") -> list[pb.Device]:
    return [pb.Device(ID=name, health=health) for name in names]


def register(directory: Path, resource: str = RESOURCE, endpoint: str = "p.sock", version: str = "v1beta1") -> None:
    """Register as a plugin does, with the other implementation."""
    with grpc.insecure_channel(f"unix:{directory}/kubelet.sock") as channel:
        call = channel.unary_unary(
            "/v1beta1.Registration/Register", pb.RegisterRequest.SerializeToString, pb.Empty.FromString
        )
        call(pb.RegisterRequest(version=version, endpoint=endpoint, resource_name=resource), timeout=10)


@pytest.fixture
def plugin() -> GrpcPlugin:
    return GrpcPlugin()


def test_devices_are_listed_allocated_and_come_back(short_tmp, plugin):
    async def scenario() -> None:
        kubelet = Kubelet(short_tmp)
        async with kubelet.serving():
            with plugin.serving(short_tmp / "p.sock"):
                plugin.lists.put(devices("a", "b"))
                await asyncio.to_thread(register, short_tmp)
                await kubelet.wait_for(RESOURCE, 5)
                assert kubelet.resources() == (RESOURCE,)
                first = await kubelet.allocate(RESOURCE, 1)
                assert first.devices_ids == ("a",)
                assert first.envs == {"A": "b"}
                assert first.mounts == (Mount("/c", "/h", read_only=True),)
                assert first.devices == (DeviceSpec("/dev/c", "/dev/h", "rw"),)
                second = await kubelet.allocate(RESOURCE, 1)
                with pytest.raises(PlatformError) as caught:
                    await kubelet.allocate(RESOURCE, 1)
                assert caught.value.code == "kubelet.devices-short"
                assert caught.value.found == "0 free, 2 in use"
                kubelet.release(first)
                assert kubelet.count(RESOURCE).free == 1
                assert (await kubelet.allocate(RESOURCE, 1)).devices_ids == ("a",)
                assert (await kubelet.allocate(RESOURCE, 1, reusable={"b"})).devices_ids == ("b",)
                kubelet.release(second)
                assert plugin.allocated == [["a"], ["b"], ["a"], ["b"]]

    asyncio.run(scenario())


def test_the_plugins_preference_is_followed_as_far_as_it_makes_sense(short_tmp):
    plugin = GrpcPlugin(preferred=True)

    async def scenario() -> None:
        kubelet = Kubelet(short_tmp)
        async with kubelet.serving():
            with plugin.serving(short_tmp / "p.sock"):
                plugin.lists.put(devices("a", "b", "c"))
                await asyncio.to_thread(register, short_tmp)
                await kubelet.wait_for(RESOURCE, 5)
                assert (await kubelet.allocate(RESOURCE, 2)).devices_ids == ("c", "a")

    asyncio.run(scenario())


def test_unhealthy_devices_and_ended_lists_count_as_nothing(short_tmp, plugin):
    async def scenario() -> None:
        kubelet = Kubelet(short_tmp)
        async with kubelet.serving():
            with plugin.serving(short_tmp / "p.sock"):
                plugin.lists.put(devices("a") + devices("b", health="Broken"))
                await asyncio.to_thread(register, short_tmp)
                await kubelet.wait_for(RESOURCE, 5)
                assert (kubelet.count(RESOURCE).listed, kubelet.count(RESOURCE).healthy) == (2, 1)
                plugin.lists.put(devices("a", "b", health="Unhealthy"))
                await eventually_async(lambda: kubelet.count(RESOURCE).healthy == 0)
                plugin.lists.put(devices("a", "b"))
                await eventually_async(lambda: kubelet.count(RESOURCE).healthy == 2)
                plugin.lists.put(None)
                await eventually_async(lambda: kubelet.count(RESOURCE).healthy == 0)
                with pytest.raises(PlatformError):
                    await kubelet.allocate(RESOURCE, 1)

    asyncio.run(scenario())


def test_a_plugin_that_dies_is_noticed_and_a_new_one_taken_in(short_tmp, plugin):
    async def scenario() -> None:
        kubelet = Kubelet(short_tmp)
        async with kubelet.serving():
            with plugin.serving(short_tmp / "p.sock"):
                plugin.lists.put(devices("a"))
                await asyncio.to_thread(register, short_tmp)
                await kubelet.wait_for(RESOURCE, 5)
            await eventually_async(lambda: kubelet.count(RESOURCE).healthy == 0)
            other = GrpcPlugin()
            with other.serving(short_tmp / "q.sock"):
                other.lists.put(devices("x"))
                await asyncio.to_thread(register, short_tmp, endpoint="q.sock")
                await kubelet.wait_for(RESOURCE, 5)
                assert (await kubelet.allocate(RESOURCE, 1)).devices_ids == ("x",)

    asyncio.run(scenario())


def test_a_refusal_of_the_plugin_takes_no_device(short_tmp, plugin):
    async def scenario() -> None:
        kubelet = Kubelet(short_tmp)
        async with kubelet.serving():
            with plugin.serving(short_tmp / "p.sock"):
                plugin.lists.put(devices("a"))
                await asyncio.to_thread(register, short_tmp)
                await kubelet.wait_for(RESOURCE, 5)
                plugin.refuse = True
                with pytest.raises(PlatformError, match="the device is broken") as caught:
                    await kubelet.allocate(RESOURCE, 1)
                assert caught.value.code == "kubelet.plugin-refused"
                plugin.refuse = False
                plugin.answers = 0
                with pytest.raises(PlatformError) as caught:
                    await kubelet.allocate(RESOURCE, 1)
                assert caught.value.code == "kubelet.bad-answer"
                assert kubelet.count(RESOURCE).free == 1

    asyncio.run(scenario())


def test_its_end_hangs_up_on_whoever_is_connected(short_tmp):
    async def scenario() -> None:
        async with Kubelet(short_tmp).serving():
            reader, writer = await asyncio.open_unix_connection(short_tmp / "kubelet.sock")
            assert await reader.read(1)  # accepted: the other side has said something
        async with asyncio.timeout(10):
            await reader.read()
        writer.close()

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("registration", "reason"),
    [
        ({"version": "v1"}, "supported is v1beta1"),
        ({"resource": "enclave"}, "not an extended resource"),
        ({"resource": "kubernetes.io/enclave"}, "not an extended resource"),
        ({"endpoint": "../p.sock"}, "not the name of a socket"),
        ({"endpoint": "nobody.sock"}, "cannot ask the plugin"),
    ],
)
def test_registrations_are_refused_with_the_reason(short_tmp, registration, reason):
    async def scenario() -> None:
        async with Kubelet(short_tmp).serving():
            with pytest.raises(grpc.RpcError) as caught:
                await asyncio.to_thread(register, short_tmp, **registration)
            assert reason in caught.value.details()

    asyncio.run(scenario())


def test_every_stale_socket_goes_at_the_start_and_other_files_stay(short_tmp):
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(short_tmp / "old.sock"))
    (short_tmp / "kubelet_internal_checkpoint").write_text("{}")

    async def scenario() -> None:
        async with Kubelet(short_tmp).serving():
            assert {entry.name for entry in short_tmp.iterdir()} == {"kubelet.sock", "kubelet_internal_checkpoint"}
        assert not (short_tmp / "kubelet.sock").exists()

    asyncio.run(scenario())


def test_waiting_for_a_plugin_that_never_comes_ends_with_the_next_step(short_tmp):
    async def scenario() -> None:
        kubelet = Kubelet(short_tmp)
        async with kubelet.serving():
            with pytest.raises(UnreachableError) as caught:
                await kubelet.wait_for(RESOURCE, 0.05)
            assert caught.value.code == "kubelet.no-plugin"
            assert kubelet.count("nobody/heard") == kubelet.count(RESOURCE)

    asyncio.run(scenario())


def test_a_folder_that_cannot_be_made_is_a_platform_error(short_tmp):
    (short_tmp / "file").write_text("")

    async def scenario() -> None:
        async with Kubelet(short_tmp / "file" / "below").serving():
            pytest.fail("served")

    with pytest.raises(KubenclaveError) as caught:
        asyncio.run(scenario())
    assert caught.value.code == "kubelet.listen"
