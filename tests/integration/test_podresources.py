# SPDX-License-Identifier: Apache-2.0
"""Which containers have devices, asked of a kubelet on grpcio, and told on a scrape."""

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import grpc
import pytest

from kubenclave._proto import podresources_pb2 as pb
from kubenclave.node import status
from kubenclave.node.podresources import Holder, PodDevices, held
from kubenclave.node.status import Condition, StatusPage
from kubenclave.sgx.epc import ENCLAVE_RESOURCE, PROVISION_RESOURCE

T = TypeVar("T")


def container(name: str, *devices: tuple[str, str]) -> pb.ContainerResources:
    """A container with devices (resource, id), one entry each as kubelets send them."""
    entries = [pb.ContainerDevices(resource_name=resource, device_ids=[one]) for resource, one in devices]
    return pb.ContainerResources(name=name, devices=entries)


ANSWER = pb.ListPodResourcesResponse(
    pod_resources=[
        pb.PodResources(
            name="web",
            namespace="shop",
            containers=[
                container("app", (ENCLAVE_RESOURCE, "enclave-1"), (ENCLAVE_RESOURCE, "enclave-2"), ("a.b/gpu", "0")),
                container("side", (PROVISION_RESOURCE, "provision-1")),
            ],
        ),
        pb.PodResources(name="plain", namespace="shop", containers=[container("app")]),
    ]
)
HELD = {
    Holder("shop", "web", "app", ENCLAVE_RESOURCE): 2,
    Holder("shop", "web", "side", PROVISION_RESOURCE): 1,
}


class PodResourcesServer:
    """Serves ``answer`` at ``path`` inside ``running``."""

    def __init__(self, path: Path, answer: pb.ListPodResourcesResponse = ANSWER) -> None:
        self.path = path
        self.answer = answer
        self.asked = 0
        self.refuse = False

    def _list(self, _request: pb.ListPodResourcesRequest, context: grpc.ServicerContext) -> Any:
        self.asked += 1
        if self.refuse:
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "rejected by rate limit")
        return self.answer

    @contextmanager
    def running(self) -> Iterator["PodResourcesServer"]:
        method = grpc.unary_unary_rpc_method_handler(
            self._list, pb.ListPodResourcesRequest.FromString, pb.ListPodResourcesResponse.SerializeToString
        )
        handler = grpc.method_handlers_generic_handler("v1.PodResourcesLister", {"List": method})
        server = grpc.server(futures.ThreadPoolExecutor(1))
        server.add_generic_rpc_handlers((handler,))
        assert server.add_insecure_port(f"unix:{self.path}")
        server.start()
        try:
            yield self
        finally:
            server.stop(0).wait()


@pytest.fixture
def kubelet(short_tmp: Path) -> PodResourcesServer:
    return PodResourcesServer(short_tmp / "s")


def with_devices(path: Path, dialogue: Callable[[PodDevices], Awaitable[T]], **timing: float) -> T:
    async def run() -> T:
        return await dialogue(PodDevices(path, **timing))

    return asyncio.run(run())


async def scrape(devices: PodDevices) -> str:
    answer = StatusPage(Condition(), pod_devices=devices, stale=60).routes(lambda: 0.0)["/metrics"]()
    assert isinstance(answer, Awaitable)
    status_code, _, body = await answer
    assert status_code == 200
    return body.decode()


def test_devices_of_ours_count_by_container():
    assert held(ANSWER) == HELD


def test_the_first_scrape_tells_who_has_devices(kubelet):
    with kubelet.running():
        text = with_devices(kubelet.path, scrape)
    labels = f'namespace="shop",pod="web",container="app",resource="{ENCLAVE_RESOURCE}"'
    assert f"kubenclave_agent_pod_devices{{{labels}}} 2\n" in text
    assert "gpu" not in text
    assert "kubenclave_agent_pod_devices_left_out 0\n" in text
    assert "kubenclave_agent_pod_resources_reached 1\n" in text


def test_scrapes_close_together_ask_once(kubelet):
    async def dialogue(devices: PodDevices) -> None:
        await asyncio.gather(*(devices.refresh() for _ in range(5)))
        await devices.refresh()
        assert devices.held == HELD

    with kubelet.running():
        with_devices(kubelet.path, dialogue)
    assert kubelet.asked == 1


def test_what_is_gone_is_told_no_more_and_an_absent_kubelet_leaves_no_figures(kubelet):
    async def dialogue(devices: PodDevices) -> str:
        with kubelet.running():
            assert 'pod="web"' in await scrape(devices)
            kubelet.answer = pb.ListPodResourcesResponse()
            assert 'pod="web"' not in await scrape(devices)
            assert devices.reached
            kubelet.answer = ANSWER
            assert 'pod="web"' in await scrape(devices)
            kubelet.refuse = True
            assert "kubenclave_agent_pod_resources_reached 0\n" in await scrape(devices)
        return await scrape(devices)

    text = with_devices(kubelet.path, dialogue, fresh=0)
    assert 'pod="web"' not in text
    assert "kubenclave_agent_pod_resources_reached 0\n" in text
    assert "kubenclave_agent_epc_bytes 0\n" in text


def test_a_kubelet_that_hangs_holds_a_scrape_up_no_longer_than_its_timeout(short_tmp):
    begun = time.monotonic()
    with socket.socket(socket.AF_UNIX) as deaf:
        deaf.bind(str(short_tmp / "s"))
        deaf.listen(1)
        text = with_devices(short_tmp / "s", scrape, timeout=0.1)
    assert "kubenclave_agent_pod_resources_reached 0\n" in text
    assert time.monotonic() - begun < 5


def test_an_answer_beyond_4_mib_is_read(short_tmp):
    many = container("app", *((ENCLAVE_RESOURCE, f"{number:040}") for number in range(80_000)))
    answer = pb.ListPodResourcesResponse(
        pod_resources=[pb.PodResources(name="large", namespace="shop", containers=[many])]
    )
    assert answer.ByteSize() > 5 << 20
    kubelet = PodResourcesServer(short_tmp / "s", answer)
    with kubelet.running():
        text = with_devices(kubelet.path, scrape, timeout=20)
    assert f'resource="{ENCLAVE_RESOURCE}"}} 80000\n' in text


def test_the_number_of_series_is_bounded(kubelet, monkeypatch):
    monkeypatch.setattr(status, "MAX_HOLDERS", 1)
    with kubelet.running():
        text = with_devices(kubelet.path, scrape)
    assert text.count('pod="web"') == 1
    assert "kubenclave_agent_pod_devices_left_out 1\n" in text
