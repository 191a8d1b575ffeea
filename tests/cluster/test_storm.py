# SPDX-License-Identifier: Apache-2.0
"""Restarts of everything, again and again, while SGX pods come and go.

After each round: no running SGX pod without its device, and never more EPC given away than the node has. A pod that
was there before the storm runs through all of it in the same container. KUBENCLAVE_STORM_ROUNDS shortens it.
"""

import json
import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from kubenclave.sgx.epc import MIB
from tests.chart import NAMESPACE
from tests.cluster import hardware
from tests.cluster.hardware import epc
from tests.cluster.harness.cluster import Cluster
from tests.cluster.harness.parts import HarnessError
from tests.cluster.harness.progress import say
from tests.cluster.release import EPC, installed, pod

ROUNDS = int(os.environ.get("KUBENCLAVE_STORM_ROUNDS", "100"))
CAPACITY = 64
EACH = 8
STEADY = "steady"
PODS = 12
"""More than fit."""
RECOVERY = 90
"""Seconds within which a pod has to start after each disturbance: without that, a storm would prove nothing."""
SEED = 20260101


@pytest.fixture(scope="module")
def sgx(cluster: Cluster) -> Iterator[Cluster]:
    hardware.give(cluster, cluster.node("sgx-1"), CAPACITY)
    try:
        with installed(cluster, hardware.VALUES):
            cluster.wait(lambda: epc(cluster, "sgx-1") == CAPACITY * MIB, 30, "EPC")
            cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "storm"}})
            yield cluster
    finally:
        cluster.kubectl("delete", "namespace", "storm", "--ignore-not-found", "--wait=false")
        hardware.take(cluster, cluster.node("sgx-1"))


class Storm:
    """The disturbances, by name, and the rules that have to hold whatever they do."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.node = cluster.node("sgx-1")
        self.has_device: dict[str, bool] = {}
        self.seen = 0
        self.disturbances: dict[str, Callable[[], object]] = {
            "kubelet restarts": self._kubelet,
            "containerd restarts": self.node.restart_containerd,
            "agent is killed": self._kill_agent,
            "agent is upgraded": self._upgrade_agent,
            "plugin sockets are wiped": self._wipe,
            "API server is away": self._api_server,
            "driver goes and comes": self._driver,
        }

    def check(self) -> None:
        """Hold the rules against what the API server and containerd say now."""
        pods = [one for one in self.cluster.items("pods", "storm") if one["spec"].get("nodeName") == "sgx-1"]
        alive = [one for one in pods if one["status"]["phase"] not in {"Failed", "Succeeded"}]
        ended = [one["status"] for one in pods if one["metadata"]["name"] == STEADY and one not in alive]
        assert not ended, f"the pod from before the storm was ended: {ended}"
        given = sum(int(one["metadata"]["labels"]["mib"]) for one in alive)
        assert given <= CAPACITY, f"{given} MiB given away"
        for one in alive:
            for status in one["status"].get("containerStatuses", []):
                if "running" in status["state"]:
                    name = status["containerID"].removeprefix("containerd://")
                    assert self._device(name), f"{one['metadata']['name']} runs without its device"
        self.seen = len(self.has_device)

    def calm_down(self, seen: int) -> None:
        """Wait until a container starts that is not among the ``seen`` first; the rules hold meanwhile too."""

        def started() -> bool:
            self.restock()
            self.check()
            return self.seen > seen

        self.cluster.wait(started, RECOVERY, "a pod to start with its device", "storm")

    def _device(self, container: str) -> bool:
        """Tell whether a container was made with the enclave device."""
        if container not in self.has_device:
            with suppress(HarnessError):  # ended meanwhile
                spec = json.loads(self.node.ctr("containers", "info", container))["Spec"]
                paths = {device["path"] for device in spec["linux"].get("devices", [])}
                self.has_device[container] = {"/dev/sgx_enclave", "/dev/sgx/enclave"} <= paths
        return self.has_device.get(container, True)

    def change_pods(self, choose: random.Random) -> None:
        """Delete a pod that has its EPC, so that one that waits gets it."""
        holding = sorted(
            one["metadata"]["name"]
            for one in self.cluster.items("pods", "storm")
            if one["metadata"]["name"] != STEADY and _holds_epc(one)
        )
        if holding:
            self._delete(choose.choice(holding))
        self.restock()

    def restock(self) -> None:
        """Do what a controller does: replace pods that have failed, as they have to where there was no device for them.

        Names whose last pod is still ending wait for the next time.
        """
        pods = {one["metadata"]["name"]: one for one in self.cluster.items("pods", "storm")}
        failed = [name for name, one in pods.items() if one["status"]["phase"] == "Failed"]
        if failed:
            self._delete(*failed)
        for name in {f"p{number}" for number in range(PODS)} - pods.keys():
            self.cluster.apply(labelled(name, EACH), namespace="storm")

    def _delete(self, *names: str) -> None:
        self.cluster.kubectl("delete", "pod", "-n", "storm", "--ignore-not-found", "--wait=false", *names)

    def _kubelet(self) -> None:
        self.node.stop_kubelet()
        self.node.start_kubelet()

    def _kill_agent(self) -> None:
        for one in self.cluster.items("pods", NAMESPACE, "app.kubernetes.io/component=node-agent"):
            # An upgrade that is under way may have taken it meanwhile.
            at_once = ("--grace-period=0", "--force", "--wait=false", "--ignore-not-found")
            self.cluster.kubectl("delete", "pod", one["metadata"]["name"], "-n", NAMESPACE, *at_once)

    def _upgrade_agent(self) -> None:
        self.cluster.kubectl("rollout", "restart", "daemonset/kubenclave-node-agent", "-n", NAMESPACE)

    def _wipe(self) -> None:
        self.node.run("sh", "-c", "rm -f /var/lib/kubelet/device-plugins/kubenclave-*.sock")

    def _api_server(self) -> None:
        self.cluster.stop_apiserver()
        time.sleep(0.5)
        self.cluster.start_apiserver()

    def _driver(self) -> None:
        self.node.remove_sgx_devices()
        time.sleep(0.5)
        self.node.make_sgx_devices()


def _holds_epc(one: dict[str, Any]) -> bool:
    """Tell whether others get its EPC when it is deleted."""
    alive = one["status"]["phase"] != "Failed" and "deletionTimestamp" not in one["metadata"]
    return alive and "nodeName" in one["spec"]


@contextmanager
def round_named(number: int, disturbance: str) -> Iterator[None]:
    """Say in which round something failed."""
    try:
        yield
    except BaseException as error:
        say(f"storm: round {number}, {disturbance}: {type(error).__name__}: {str(error).splitlines()[0][:300]}")
        raise


def labelled(name: str, mib: int):
    made = pod(name, {EPC: f"{mib}Mi"}, "storm")
    made["metadata"]["labels"] = {"mib": str(mib)}
    return made


def test_a_storm_leaves_no_pod_without_its_device_and_no_epc_given_twice(sgx):
    choose = random.Random(SEED)
    storm = Storm(sgx)
    sgx.apply(labelled(STEADY, EACH), namespace="storm")
    steady = sgx.wait_pod(STEADY, "storm")["status"]["containerStatuses"][0]["containerID"]
    begun = time.monotonic()
    for number in range(1, ROUNDS + 1):
        seen, name = storm.seen, choose.choice(list(storm.disturbances))
        with round_named(number, name):
            storm.change_pods(choose)
            storm.disturbances[name]()
            storm.change_pods(choose)
            storm.check()
            storm.calm_down(seen)
        if number % 10 == 0 or number == ROUNDS:
            say(f"storm: {number} of {ROUNDS} rounds, {storm.seen} containers, {time.monotonic() - begun:.0f} s")
    assert storm.seen > ROUNDS, "each round starts a pod"
    sgx.wait_nodes()
    sgx.wait(lambda: epc(sgx, "sgx-1") == CAPACITY * MIB, 90, "EPC after the storm")
    names = [f"p{number}" for number in range(PODS)]
    sgx.kubectl("delete", "pods", "-n", "storm", "--ignore-not-found", *names, timeout=120)
    sgx.apply(labelled("after", EACH), namespace="storm")
    sgx.wait_pod("after", "storm", timeout=90)
    storm.check()
    after = sgx.get("pod", STEADY, "storm")["status"]["containerStatuses"][0]
    assert (after["containerID"], after["restartCount"]) == (steady, 0)
