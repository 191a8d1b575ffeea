# SPDX-License-Identifier: Apache-2.0
"""From Intel's device plugin to this add-on on a node with running pods: docs/migrate.md, with Intel's own binary."""

import json
import time

import pytest

from tests.cluster import release
from tests.cluster.harness.parts import Part
from tests.cluster.release import AZURE, EPC, pod
from tools.kubernetes.build import TOOLS, built, place

ENCLAVE = "sgx.intel.com/enclave"
THEIRS = 7  # devices that Intel's plugin is told to offer, so that one sees whose they are


@pytest.fixture
def intel(cluster):
    """Intel's plugin on sgx-1, and EPC as its epchook leaves it, which finds no SGX on this machine."""
    if not built(TOOLS["intel"]):
        pytest.skip("Intel's plugin is not built: make cluster-tools")
    node = cluster.node("sgx-1")
    node.make_sgx_devices()
    program = place(TOOLS["intel"]) / "bin/sgx_plugin"
    command = [program, f"-enclave-limit={THEIRS}", "-provision-limit=1"]
    plugin = Part("sgx-1.intel-sgx-plugin", node.inside(command), cluster.logs)
    plugin.start()
    patch = json.dumps([{"op": "add", "path": "/status/capacity/sgx.intel.com~1epc", "value": "67108864"}])
    cluster.kubectl("patch", "node", "sgx-1", "--subresource=status", "--type=json", "-p", patch)
    cluster.wait(
        lambda: offered(cluster, ENCLAVE) == THEIRS and offered(cluster, EPC) == 64 << 20, 60, "Intel's devices"
    )
    yield plugin
    plugin.stop()
    node.remove_sgx_devices()


def offered(cluster, name):
    """Allocatable amount on sgx-1."""
    amount = cluster.get("node", "sgx-1")["status"]["allocatable"].get(name, "0")
    return int(amount.removesuffix("Mi")) << 20 if amount.endswith("Mi") else int(amount)


def identity(cluster, name):
    """Container and restarts of a pod."""
    (status,) = cluster.get("pod", name)["status"]["containerStatuses"]
    return status["containerID"], status["restartCount"]


def environment(cluster, name):
    """Variables of a running container."""
    return cluster.exec(name, "env")


def test_running_pods_stay_and_new_ones_are_ours(cluster, intel):
    cluster.apply(pod("theirs", {EPC: "10Mi", ENCLAVE: "1"}))
    cluster.wait_pod("theirs")
    before = identity(cluster, "theirs")
    assert "KUBENCLAVE_SIM_CPU" not in environment(cluster, "theirs")

    release.pool(cluster, "sgx-1")
    with release.installed(cluster, release.SIMULATED | {"quoteHelper": {"enabled": False}}):
        cluster.wait(lambda: offered(cluster, ENCLAVE) > THEIRS and offered(cluster, EPC) > 64 << 20, 60, "our devices")
        cluster.apply(pod("beside", {AZURE: "10"}))
        cluster.wait_pod("beside")
        assert "KUBENCLAVE_SIM_CPU" in environment(cluster, "beside")

        intel.stop()
        time.sleep(2)  # the kubelet may drop the name with their stream; then ours registers again
        cluster.wait(lambda: offered(cluster, ENCLAVE) > THEIRS, 30, "our devices without theirs")
        cluster.apply(pod("after", {EPC: "10Mi"}))
        cluster.wait_pod("after")
        assert "KUBENCLAVE_SIM_CPU" in environment(cluster, "after")
        release.helm(cluster, "upgrade", release.SIMULATED)  # the quote helper now, and AESM for new pods
        assert identity(cluster, "theirs") == before
        for name in ("theirs", "beside", "after"):
            cluster.delete("pod", name)
