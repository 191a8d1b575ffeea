# SPDX-License-Identifier: Apache-2.0
"""The node agent's budget: resident memory and modules, in a fresh interpreter, registered and at rest."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from kubenclave._proto import deviceplugin_pb2 as pb
from kubenclave.platform.simulated.places import cpu_socket, provision_socket
from kubenclave.sgx.epc import ENCLAVE_RESOURCE, PROVISION_RESOURCE
from tests.integration.fake_api import FakeApi
from tests.integration.grpc_kubelet import GrpcKubelet
from tests.integration.test_node_agent import get
from tests.integration.test_podresources import PodResourcesServer
from tests.node_objects import new_node
from tests.programs import resident, unmeasured
from tests.waiting import eventually

MAX_MODULES = 300 if sys.version_info < (3, 12) else 330  # later interpreters split their own into more
SIMULATED_MODULES = 12  # the simulated CPU's protocol knows enclaves; on real nodes nothing of it is loaded
MAX_RESIDENT = 32 << 20
FORBIDDEN = (
    *("cryptography", "kubenclave.dcap", "kubenclave.platform.simulated"),
    *("grpc", "msgspec", "click", "yaml", "structlog"),
)

PROGRAM = """
import json, sys
from kubenclave.node import agent
code = agent.main(sys.argv[1:])
print(json.dumps(sorted(sys.modules)))
sys.exit(code)
"""


def start(words: list[str], **more) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, *words], env=unmeasured(), stderr=subprocess.DEVNULL, text=True, **more)


@contextmanager
def ended(child: subprocess.Popen[str]) -> Iterator[None]:
    """Leave no process behind when a test fails."""
    try:
        yield
    finally:
        if child.poll() is None:
            child.kill()


def measure(folder: Path, *more: str, settled: Callable[[], object] = lambda: True) -> tuple[int, list[str]]:
    """Return resident memory at rest and the loaded modules of an agent that a kubelet holds, once it has settled."""
    plugins = folder / "plugins"
    plugins.mkdir()
    words = ["--plugin-dir", str(plugins), "--status-socket", str(folder / "a.sock"), "--aesm-dir", str(folder), *more]
    kubelet = GrpcKubelet(plugins)
    with start(["-c", PROGRAM, *words], stdout=subprocess.PIPE) as child, ended(child), kubelet.running():
        client = kubelet.wait(ENCLAVE_RESOURCE)
        kubelet.wait(PROVISION_RESOURCE)
        eventually(lambda: get(folder / "a.sock", "/readyz")[0] == 200)
        eventually(settled)
        one = pb.ContainerAllocateRequest(devices_ids=["enclave-0"])
        for _ in range(20):
            client.call("Allocate", pb.AllocateRequest(container_requests=[one]), pb.AllocateResponse)
        memory = resident(child.pid)
        child.terminate()
        output, _ = child.communicate(timeout=15)
    assert child.returncode == 0
    modules: list[str] = json.loads(output)
    return memory, [name for name in modules if name not in {"__main__", "_distutils_hack"}]  # the second: the venv's


def check(memory: int, modules: list[str], limit: int = MAX_MODULES) -> None:
    loaded = [name for name in modules if any(name == one or name.startswith(f"{one}.") for one in FORBIDDEN)]
    assert loaded == []
    assert len(modules) <= limit, f"{len(modules)} modules"
    assert memory <= MAX_RESIDENT, f"{memory / 1e6:.1f} MB"


def hardware(short_tmp: Path) -> Path:
    """Make a file system of a machine with SGX."""
    root = short_tmp / "root"
    (root / "dev").mkdir(parents=True)
    try:
        os.mknod(root / "dev/sgx_enclave", 0o020666, os.makedev(10, 125))
        os.mknod(root / "dev/sgx_provision", 0o020660, os.makedev(10, 126))
    except PermissionError:
        pytest.skip("device nodes cannot be made here")
    sysfs = root / "sys/devices/system/node/node0/x86/sgx_total_bytes"
    sysfs.parent.mkdir(parents=True)
    sysfs.write_text("98041856\n")
    return root


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make device nodes")
def test_on_hardware(short_tmp):
    memory, modules = measure(short_tmp, "--root", str(hardware(short_tmp)))
    check(memory, modules)
    assert not any("simcpu" in name for name in modules)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make device nodes")
def test_in_a_cluster(short_tmp):
    api = FakeApi(short_tmp, large_node())
    options = ["--root", str(hardware(short_tmp)), "--node-name", "sgx-1", "--api-server", api.place]
    options += ["--service-account", str(api.account), "--health-port", "0", "--startup-taint", "startup/sgx"]
    pod_resources = PodResourcesServer(short_tmp / "r.sock")
    options += ["--pod-resources", str(pod_resources.path)]
    with api.running(), pod_resources.running():
        memory, modules = measure(short_tmp, *options, settled=lambda: api.events and scraped(short_tmp / "a.sock"))
    assert pod_resources.asked
    assert api.node is not None
    assert api.node["status"]["capacity"]["sgx.intel.com/epc"] == "98041856"
    check(memory, modules)


def scraped(socket: Path) -> bool:
    """Tell whether metrics say who has devices."""
    return b'kubenclave_agent_pod_devices{namespace="shop",pod="web"' in get(socket, "/metrics")[1]


def large_node() -> dict[str, Any]:
    """A Node as long as they come: a kubelet tells of fifty images."""
    node = new_node()
    node["status"]["images"] = [
        {"names": [f"registry.example/a/long/name/{number}@sha256:{'0' * 64}"] * 2, "sizeBytes": number}
        for number in range(50)
    ]
    return node


def test_on_the_simulated_platform(short_tmp):
    state = short_tmp / "sim"
    with start(["-m", "kubenclave", "sim", "start", "--state", str(state)], stdout=subprocess.DEVNULL) as platform:
        try:
            eventually(cpu_socket(state).exists)
            sockets = ["--simulated-cpu", str(cpu_socket(state))]
            sockets += ["--simulated-provision", str(provision_socket(state))]
            memory, modules = measure(short_tmp, *sockets)
            check(memory, modules, MAX_MODULES + SIMULATED_MODULES)
        finally:
            platform.terminate()
