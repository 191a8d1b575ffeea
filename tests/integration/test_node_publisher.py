# SPDX-License-Identifier: Apache-2.0
"""The node agent as part of a cluster: an API server over TLS, a kubelet on grpcio, hardware on a made-up root."""

import asyncio
import dataclasses
import socket
from pathlib import Path
from typing import Any

import pytest

from kubenclave.errors import KubenclaveError, PlatformError, UnreachableError, UsageError
from kubenclave.node import publisher
from kubenclave.node.api import NodeApi, Place, place_of
from kubenclave.node.deviceplugin import Offer
from kubenclave.node.publisher import Publisher, Target
from kubenclave.node.reconcile import Wishes
from kubenclave.sgx.epc import MIB
from tests.integration.fake_api import FakeApi
from tests.integration.grpc_kubelet import GrpcKubelet
from tests.integration.test_node_agent import Running, get
from tests.node_objects import new_node
from tests.unit.test_linux_platform import FakeRoot
from tests.waiting import eventually

EPC = "sgx.intel.com/epc"
ENCLAVE = "sgx.intel.com/enclave"
TAINT = "startup/sgx"


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Short pauses; the grace of a kubelet stays long, or a loaded machine would be taken for one that is deaf."""
    for name, seconds in {"LEAST": 0.01, "SOON": 0.05, "LAST_RETRY": 0.1, "LINGER": 0.01, "BLINK": 0.1}.items():
        monkeypatch.setattr(publisher, name, seconds)


@pytest.fixture
def api(short_tmp):
    return FakeApi(short_tmp, new_node(taints=[{"key": TAINT, "effect": "NoSchedule"}]))


@pytest.fixture
def machine(tmp_path: Path) -> FakeRoot:
    fake = FakeRoot(tmp_path)
    fake.device("dev/sgx_enclave", 125)
    fake.write("sys/devices/system/node/node0/x86/sgx_total_bytes", f"{64 * MIB}\n")
    return fake


class Cluster(Running):
    """An agent that publishes."""

    def __init__(self, directory: Path, machine: Any, api: FakeApi, **target: Any) -> None:
        super().__init__(directory, machine, Offer(), 0.05)
        host, _, port = api.place.rpartition(":")
        self.target = Target("sgx-1", self.plugins / "kubelet.sock", **target)
        self.publisher = Publisher(NodeApi(Place(host, int(port), api.account)), self.target)
        self.settings = dataclasses.replace(self.settings, publisher=self.publisher)


def published(api: FakeApi) -> str | None:
    assert api.node is not None
    amount: str | None = api.node["status"]["capacity"].get(EPC)
    return amount


def condition(api: FakeApi) -> tuple[str, str]:
    assert api.node is not None
    found = [one for one in api.node["status"]["conditions"] if one["type"] == "SGXReady"]
    return (found[0]["status"], found[0]["reason"]) if found else ("", "")


def reasons(api: FakeApi) -> list[str]:
    return [event["reason"] for event in api.events]


def test_epc_comes_with_the_kubelet_goes_with_the_device_and_comes_back(api, machine, short_tmp):
    with api.running(), Cluster(short_tmp, machine, api).running() as one:
        eventually(lambda: condition(api) == ("Unknown", "Starting"))
        assert published(api) is None, "no kubelet has taken the devices"
        kubelet = GrpcKubelet(one.plugins)
        with kubelet.running():
            eventually(lambda: published(api) == str(64 * MIB))
            (machine.root / "dev/sgx_enclave").unlink()
            eventually(lambda: published(api) == "0")
            eventually(lambda: condition(api) == ("False", "NoEnclaveDevice"))
            machine.device("dev/sgx_enclave", 125)
            eventually(lambda: published(api) == str(64 * MIB))
            eventually(lambda: reasons(api) == ["EPCPublished", "EPCWithdrawn", "EPCPublished"])
            body = get(one.status_socket, "/metrics")[1]
            assert b"kubenclave_agent_api_reached 1\n" in body
            assert b"kubenclave_agent_api_calls_total " in body


def test_a_device_that_is_made_anew_takes_no_epc_away(api, machine, short_tmp, monkeypatch):
    monkeypatch.setattr(publisher, "BLINK", 600)
    with api.running(), Cluster(short_tmp, machine, api).running() as one, GrpcKubelet(one.plugins).running():
        eventually(lambda: condition(api) == ("True", "EPCPublished"))
        for _ in range(2):
            api.node["status"]["allocatable"][ENCLAVE] = "110"
            (machine.root / "dev/sgx_enclave").unlink()
            eventually(lambda: condition(api) == ("False", "NoEnclaveDevice"))
            assert (published(api), api.node["status"]["allocatable"][ENCLAVE]) == (str(64 * MIB), "0")
            machine.device("dev/sgx_enclave", 125)
            eventually(lambda: condition(api) == ("True", "EPCPublished"))
        assert (published(api), reasons(api)) == (str(64 * MIB), ["EPCPublished"])


def test_epc_stays_while_the_kubelet_restarts(api, machine, short_tmp):
    with api.running(), Cluster(short_tmp, machine, api).running() as one:
        for _ in range(3):
            kubelet = GrpcKubelet(one.plugins)
            with kubelet.running():
                eventually(lambda: one.status()["epc_bytes"] == 64 * MIB)
                eventually(lambda: condition(api) == ("True", "EPCPublished"))
                eventually(lambda: reasons(api) == ["EPCPublished"])
            eventually(lambda: one.status()["epc_bytes"] == 0)
            assert published(api) == str(64 * MIB)
        assert reasons(api) == ["EPCPublished"]


def test_a_kubelet_that_does_not_take_the_devices_loses_the_epc(api, machine, short_tmp, monkeypatch):
    monkeypatch.setattr(publisher, "GRACE", 0.2)
    with api.running(), Cluster(short_tmp, machine, api).running() as one:
        with GrpcKubelet(one.plugins).running():
            eventually(lambda: published(api) == str(64 * MIB))
        (one.plugins / "kubelet.sock").unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX) as deaf:
            deaf.bind(str(one.plugins / "kubelet.sock"))
            deaf.listen(100)
            eventually(lambda: condition(api) == ("False", "PluginNotHeld"))
            assert published(api) == "0"


def test_the_startup_taint_waits_for_aesm(api, machine, short_tmp):
    path = short_tmp / "aesm.socket"
    wishes = Wishes(startup_taint=TAINT)
    assert api.node is not None
    api.node["status"]["allocatable"][ENCLAVE] = "110"
    cluster = Cluster(short_tmp, machine, api, wishes=wishes, aesm=path, await_aesm=True)
    with api.running(), cluster.running() as one, GrpcKubelet(one.plugins).running():
        eventually(lambda: published(api) == str(64 * MIB))
        eventually(lambda: condition(api) == ("False", "AESMAbsent"))
        assert api.node["spec"]["taints"]
        with socket.socket(socket.AF_UNIX) as aesm:
            aesm.bind(str(path))
            aesm.listen(100)
            eventually(lambda: condition(api) == ("True", "EPCPublished"))
            eventually(lambda: api.node["spec"]["taints"] == [])
        path.unlink()
        eventually(lambda: condition(api) == ("False", "AESMAbsent"))
        eventually(lambda: reasons(api) == ["EPCPublished", "AESMReady", "StartupTaintRemoved", "AESMAbsent"])


def test_a_node_that_is_made_anew_is_told_again(api, machine, short_tmp):
    with api.running(), Cluster(short_tmp, machine, api, rest=0.1).running() as one, GrpcKubelet(one.plugins).running():
        eventually(lambda: published(api) == str(64 * MIB))
        api.node = None
        eventually(lambda: ("GET", "/api/v1/nodes/sgx-1") in api.requests[-2:])
        api.node = new_node()
        eventually(lambda: published(api) == str(64 * MIB))


def test_it_goes_on_without_the_api_server_and_tells_it_later(api, machine, short_tmp):
    cluster = Cluster(short_tmp, machine, api)
    with cluster.running() as one, GrpcKubelet(one.plugins).running() as kubelet:
        kubelet.wait(ENCLAVE)
        eventually(lambda: one.status()["epc_bytes"] == 64 * MIB)
        eventually(lambda: cluster.publisher.api.calls > 1)
        assert not cluster.publisher.reached
        with api.running():
            eventually(lambda: published(api) == str(64 * MIB))
            eventually(lambda: cluster.publisher.reached)


def test_at_rest_it_reads_its_node_from_the_servers_memory_and_writes_nothing(api, machine, short_tmp):
    with api.running(), Cluster(short_tmp, machine, api, rest=0.1).running() as one, GrpcKubelet(one.plugins).running():
        eventually(lambda: published(api) == str(64 * MIB))
        eventually(lambda: reasons(api) == ["EPCPublished"])
        seen = len(api.requests)
        eventually(lambda: len(api.requests) >= seen + 5)
        assert set(api.requests[seen:]) == {("GET", "/api/v1/nodes/sgx-1?resourceVersion=0")}


def test_a_farewell_is_told_and_nothing_withdrawn(api, machine, short_tmp):
    cluster = Cluster(short_tmp, machine, api)
    with api.running():
        with cluster.running() as one, GrpcKubelet(one.plugins).running():
            eventually(lambda: condition(api) == ("True", "EPCPublished"))
        asyncio.run(cluster.publisher.farewell())  # as in the agent, when nothing else publishes any more
        assert condition(api) == ("Unknown", "AgentStopped")
        assert published(api) == str(64 * MIB)
        offered = api.node["status"]["allocatable"]
        assert (offered["sgx.intel.com/enclave"], offered["sgx.intel.com/provision"]) == ("0", "0")


def call(api: FakeApi, path: str = "/api/v1/nodes/sgx-1", **more: Any) -> Any:
    host, _, port = api.place.rpartition(":")
    return asyncio.run(NodeApi(Place(host, int(port), api.account), timeout=2).request("GET", path, **more))


def test_the_token_is_read_for_each_request(api):
    with api.running():
        assert call(api)["kind"] == "Node"
        (api.account / "token").write_text("old")
        with pytest.raises(PlatformError) as caught:
            call(api)
        assert caught.value.code == "kubeapi.refused"
        assert "Unauthorized" in str(caught.value)


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (404, "kubeapi.not-found"),
        (409, "kubeapi.conflict"),
        (422, "kubeapi.conflict"),
        (403, "kubeapi.refused"),
        (429, "kubeapi.busy"),
        (503, "kubeapi.busy"),
    ],
)
def test_refusals_have_codes(api, status, code):
    api.status = status
    with api.running(), pytest.raises(KubenclaveError) as caught:
        call(api)
    assert caught.value.code == code
    assert "as the test wants it" in str(caught.value)


def test_another_authority_is_not_believed(api, tmp_path):
    with api.running():
        (tmp_path / "x").mkdir()
        other = FakeApi(tmp_path / "x")
        (api.account / "ca.crt").write_bytes((other.account / "ca.crt").read_bytes())
        with pytest.raises(UnreachableError) as caught:
            call(api)
    assert caught.value.code == "kubeapi.unreachable"
    assert "certificate" in str(caught.value)
    assert api.requests == []


def test_one_that_accepts_and_says_nothing_is_given_up(short_tmp):
    api = FakeApi(short_tmp)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        api.port = silent.getsockname()[1]
        with pytest.raises(UnreachableError):
            call(api)


@pytest.mark.parametrize("text", ["", "host", ":6443", "host:0", "host:x", "host:65536", None])
def test_no_place_is_misuse(text, tmp_path):
    with pytest.raises(UsageError):
        place_of(text, tmp_path, {})


def test_a_place_as_pods_are_told_it(tmp_path):
    env = {"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "443"}
    assert place_of(None, tmp_path, env).authority == "[fd00::1]:443"
    assert place_of("[fd00::2]:6443", tmp_path, env).authority == "[fd00::2]:6443"
    assert place_of("10.0.0.1:6443", tmp_path, env).authority == "10.0.0.1:6443"
