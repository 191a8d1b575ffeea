# SPDX-License-Identifier: Apache-2.0
"""The node agent as a whole: hardware on a made-up file system, a kubelet on grpcio, and its own status socket."""

import asyncio
import http.client
import json
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from kubenclave._proto import deviceplugin_pb2 as pb
from kubenclave.errors import PlatformError, UnreachableError
from kubenclave.node import agent
from kubenclave.node.agent import Agent, Settings
from kubenclave.node.deviceplugin import EpcMode, Offer
from kubenclave.node.kubelet import Timing
from kubenclave.platform.base import Inventory
from kubenclave.platform.simulated.places import cpu_socket, provision_socket
from kubenclave.sgx.epc import AZURE_EPC_RESOURCE, ENCLAVE_RESOURCE, MIB, PROVISION_RESOURCE
from tests.integration.grpc_kubelet import GrpcKubelet
from tests.unit.test_linux_platform import FakeRoot
from tests.waiting import eventually

QUICK = Timing(poll=0.05, first_retry=0.02, last_retry=0.1)
EPC = 93 * MIB


class Unix(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=10)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(10)
        self.sock.connect(str(self._path))


def get(path: Path, target: str) -> tuple[int, bytes]:
    connection = Unix(path)
    try:
        connection.request("GET", target)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


class Running:
    """An agent in a thread, with the folder it works in."""

    def __init__(self, directory: Path, platform: Any, offer: Offer, interval: float) -> None:
        self.status_socket = directory / "agent.sock"
        self.plugins = directory / "plugins"
        self.plugins.mkdir(exist_ok=True)
        watched = (platform.root / "dev",) if isinstance(platform, FakeRoot) else ()
        self.settings = Settings(
            platform.platform if isinstance(platform, FakeRoot) else platform,
            self.plugins,
            self.status_socket,
            watched=watched,
            offer=offer,
            interval=interval,
            timing=QUICK,
        )
        self.error: BaseException | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[Any] | None = None
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        try:
            asyncio.run(self._main())  # which, at the end, lets connections close that have just been given up
        except asyncio.CancelledError:
            pass
        except BaseException as error:  # noqa: BLE001  # looked at by the test
            self.error = error

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.create_task(Agent(self.settings).run())
        await self._task

    @contextmanager
    def running(self) -> Iterator["Running"]:
        self._thread.start()
        try:
            eventually(lambda: self.status_socket.exists() or not self._thread.is_alive())
            yield self
        finally:
            if self._loop is not None and self._task is not None and not self._loop.is_closed():
                self._loop.call_soon_threadsafe(self._task.cancel)
            self._thread.join(10)
            assert not self._thread.is_alive()

    @property
    def ended(self) -> bool:
        return not self._thread.is_alive()

    def status(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(get(self.status_socket, "/status")[1])
        return document


@pytest.fixture
def machine(tmp_path: Path) -> FakeRoot:
    fake = FakeRoot(tmp_path)
    fake.device("dev/sgx_enclave", 125)
    fake.device("dev/sgx_provision", 126, 0o660, gid=110)
    fake.write("sys/devices/system/node/node0/x86/sgx_total_bytes", f"{EPC}\n")
    return fake


def running(directory: Path, platform: Any, offer: Offer | None = None, interval: float = 0.05) -> Any:
    return Running(directory, platform, offer or Offer(), interval).running()


def test_both_resources_are_offered_and_epc_counts_once_the_kubelet_holds_them(machine, short_tmp):
    with running(short_tmp, machine) as one:
        status = one.status()
        assert (status["epc_bytes"], status["driver"], status["epc_source"]) == (0, "in-kernel", "sysfs")
        assert status["epc_sections"] == [{"numa_node": 0, "bytes": EPC}]
        assert [(node["path"], node["mode"], node["gid"]) for node in status["device_nodes"]] == [
            ("/dev/sgx_enclave", "0666", 0),
            ("/dev/sgx_provision", "0660", 110),
        ]
        assert get(one.status_socket, "/readyz") == (
            503,
            f"{ENCLAVE_RESOURCE}: waiting for the kubelet\n{PROVISION_RESOURCE}: waiting for the kubelet\n".encode(),
        )
        kubelet = GrpcKubelet(one.plugins)
        with kubelet.running():
            kubelet.wait(ENCLAVE_RESOURCE)
            kubelet.wait(PROVISION_RESOURCE)
            eventually(lambda: one.status()["epc_bytes"] == EPC)
            eventually(lambda: get(one.status_socket, "/readyz") == (200, b"ok\n"))
            assert one.status()["findings"] == []
            assert AZURE_EPC_RESOURCE not in kubelet.clients
        eventually(lambda: one.status()["epc_bytes"] == 0)


def test_health_follows_the_device_node_without_waiting_for_the_next_look(machine, short_tmp):
    with running(short_tmp, machine, interval=60.0) as one:
        kubelet = GrpcKubelet(one.plugins)
        with kubelet.running():
            kubelet.wait(ENCLAVE_RESOURCE)
            kubelet.wait(PROVISION_RESOURCE)
            (machine.root / "dev/sgx_enclave").unlink()
            eventually(lambda: not kubelet.healthy(ENCLAVE_RESOURCE))
            assert kubelet.healthy(PROVISION_RESOURCE)
            assert one.status()["epc_bytes"] == 0
            assert f"{ENCLAVE_RESOURCE}: unhealthy" in one.status()["findings"]
            machine.device("dev/.new", 127)
            (machine.root / "dev/.new").rename(machine.root / "dev/sgx_enclave")
            kubelet.wait(ENCLAVE_RESOURCE)
            eventually(lambda: one.status()["epc_bytes"] == EPC)
            assert kubelet.count(ENCLAVE_RESOURCE) == 1


def test_where_inotify_sees_nothing_the_next_look_does(machine, short_tmp):
    sysfs = machine.root / "sys/devices/system/node/node0/x86/sgx_total_bytes"
    with running(short_tmp, machine) as one:
        sysfs.write_text("4096\n")
        eventually(lambda: one.status()["epc_sections"] == [{"numa_node": 0, "bytes": 4096}])
        sysfs.unlink()
        eventually(lambda: any("no EPC" in finding for finding in one.status()["findings"]))


def test_a_platform_nobody_can_look_at_offers_nothing_and_says_why(short_tmp):
    class Away:
        answer: Inventory | None = None

        def inventory(self) -> Inventory:
            if self.answer is None:
                raise UnreachableError("no SIMULATED CPU there", code="simcpu.unreachable", hint="start it")
            return self.answer

    platform = Away()
    with running(short_tmp, platform) as one:
        assert "[simcpu.unreachable] no SIMULATED CPU there" in one.status()["findings"]
        platform.answer = Inventory()
        eventually(lambda: not any("simcpu" in finding for finding in one.status()["findings"]))


def test_a_look_that_never_ends_holds_up_neither_status_nor_stop(machine, short_tmp):
    release = threading.Event()

    class Stuck:
        looks = 0

        def inventory(self) -> Inventory:
            self.looks += 1
            if self.looks > 1:
                release.wait(30)
            inventory: Inventory = machine.platform.inventory()
            return inventory

    platform = Stuck()
    with running(short_tmp, platform) as one:
        eventually(lambda: platform.looks > 1)
        assert one.status()["driver"] == "in-kernel"
    release.set()


def test_a_broken_platform_ends_the_agent_instead_of_being_offered_on(short_tmp):
    class Broken:
        def inventory(self) -> Inventory:
            raise ValueError("a defect")

    with running(short_tmp, Broken()) as one:
        eventually(lambda: one.ended)
    assert isinstance(one.error, ValueError)


def test_epc_that_grows_beyond_4096_mib_ends_the_agent_with_the_reason(machine, short_tmp):
    with running(short_tmp, machine, Offer(epc_mode=EpcMode.DEVICES)) as one:
        kubelet = GrpcKubelet(one.plugins)
        with kubelet.running():
            assert len(kubelet.wait(AZURE_EPC_RESOURCE).lists[-1]) == 93
            machine.write("sys/devices/system/node/node1/x86/sgx_total_bytes", f"{4096 * MIB}\n")
            eventually(lambda: one.ended)
    assert isinstance(one.error, ExceptionGroup)
    (error,) = one.error.exceptions
    assert isinstance(error, PlatformError)
    assert (error.code, error.found) == ("deviceplugin.epc-too-large", "4189 MiB")


def test_metrics_are_read_by_the_common_parser(machine, short_tmp):
    with running(short_tmp, machine, Offer(enclave_limit=7)) as one:
        kubelet = GrpcKubelet(one.plugins)
        with kubelet.running():
            kubelet.wait(ENCLAVE_RESOURCE)
            kubelet.wait(PROVISION_RESOURCE)
            eventually(lambda: get(one.status_socket, "/readyz")[0] == 200)
            for _ in range(2):  # the second time nothing is counted twice
                status, text = get(one.status_socket, "/metrics")
            assert status == 200
    families = text_string_to_metric_families(text.decode())
    samples = {
        (sample.name.removeprefix("kubenclave_agent_"), *sample.labels.values()): sample.value
        for family in families
        for sample in family.samples
    }
    assert samples["registrations_total", ENCLAVE_RESOURCE] == 1
    assert samples["devices", ENCLAVE_RESOURCE, "healthy"] == 7
    assert samples["devices", ENCLAVE_RESOURCE, "unhealthy"] == 0
    assert samples["held", PROVISION_RESOURCE] == 1
    assert samples["epc_bytes",] == samples["epc_found_bytes",] == EPC


def test_liveness_ends_when_the_last_look_is_too_old(machine, short_tmp):
    one = Agent(Settings(machine.platform, short_tmp, short_tmp / "agent.sock"))
    now = 10.0
    health: Any = one._page.routes(lambda: now)["/healthz"]
    assert health()[0] == 200
    now = 100.0
    assert health() == (503, "text/plain; charset=utf-8", b"the last look at this machine ended 100 s ago\n")


# --- the program


def arguments(directory: Path, *more: str) -> list[str]:
    (directory / "plugins").mkdir(exist_ok=True)
    return [
        *(sys.executable, "-m", "kubenclave.node.agent", "--plugin-dir", str(directory / "plugins")),
        *("--status-socket", str(directory / "agent.sock"), *more),
    ]


def logged(stderr: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stderr.splitlines()]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["term", "int"])
def test_a_signal_ends_the_program_and_its_sockets_go(short_tmp, number):
    kubelet_directory = short_tmp / "plugins"
    words = arguments(short_tmp, "--root", str(short_tmp))
    kubelet = GrpcKubelet(kubelet_directory)
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as child, kubelet.running():
        try:
            eventually(lambda: kubelet.count(ENCLAVE_RESOURCE) and kubelet.count(PROVISION_RESOURCE))
            eventually(lambda: get(short_tmp / "agent.sock", "/healthz")[0] == 200)
            child.send_signal(number)
            _, stderr = child.communicate(timeout=10)
        finally:
            child.kill()  # does nothing to one that has ended
        assert child.returncode == 0, stderr
        assert {entry.name for entry in kubelet_directory.iterdir()} == {"kubelet.sock"}
    assert not (short_tmp / "agent.sock").exists()
    assert [line["event"] for line in logged(stderr)][-1] == "agent.ended"
    assert {line["service"] for line in logged(stderr)} == {"node-agent"}


@pytest.mark.parametrize(
    ("more", "code", "reason"),
    [
        pytest.param(
            ["--epc-mode", "devices"],
            "deviceplugin.epc-too-large",
            "expected at most 4096 MiB, found 8192 MiB",
            id="epc",
        ),
        pytest.param(["--enclave-limit", "300000"], "deviceplugin.list-too-long", "too long for a kubelet", id="list"),
        pytest.param(["--status-socket", "/nonexistent/agent.sock"], "socket.listen", "cannot listen", id="socket"),
    ],
)
def test_what_cannot_be_offered_ends_the_program_with_the_reason(short_tmp, more, code, reason):
    sysfs = short_tmp / "sys/devices/system/node/node0/x86/sgx_total_bytes"
    sysfs.parent.mkdir(parents=True)
    sysfs.write_text(str(8192 * MIB))
    words = arguments(short_tmp, "--root", str(short_tmp), *more)
    done = subprocess.run(words, check=False, capture_output=True, text=True, timeout=30)
    assert done.returncode == 5
    last = logged(done.stderr)[-1]
    assert (last["event"], last["code"]) == ("agent.failed", code)
    assert reason in last["error"]
    assert last["hint"]


@pytest.mark.parametrize(
    "more", [["--enclave-limit", "-1"], ["--provision-limit", "x"], ["--epc-mode", "bytes"]], ids=["-1", "x", "mode"]
)
def test_misuse_is_told_at_once(short_tmp, more, capsys):
    with pytest.raises(SystemExit) as caught:
        agent.main(arguments(short_tmp, *more)[3:])
    assert caught.value.code == 2
    assert more[0] in capsys.readouterr().err


def test_help_has_examples_and_every_option(capsys):
    with pytest.raises(SystemExit) as caught:
        agent.main(["--help"])
    text = capsys.readouterr().out
    assert caught.value.code == 0
    assert "examples:" in text
    for option in ("plugin-dir", "aesm-dir", "status-socket", "simulated-cpu", "epc-mode", "enclave-limit", "root"):
        assert f"--{option}" in text


def test_options_become_settings(short_tmp):
    words = ["--plugin-dir", "p", "--status-socket", "s", "--aesm-dir", "a", "--enclave-limit", "3"]
    settings = agent.settings_of(agent.parser().parse_args([*words, "--epc-mode", "devices", "--root", "/host"]))
    assert settings.offer == Offer(3, 110, EpcMode.DEVICES, f"{Path.cwd()}/a")
    assert settings.watched == (Path("/host/dev"), Path("/host/dev/sgx"))
    assert agent.settings_of(agent.parser().parse_args(words[:4])).offer.aesm_directory is None
    words += ["--simulated-cpu", str(short_tmp / "cpu/cpu.sock")]
    simulated = agent.settings_of(agent.parser().parse_args(words))
    assert simulated.watched == (short_tmp / "cpu",)
    words += ["--simulated-provision", str(short_tmp / "provision/cpu.sock")]
    assert agent.settings_of(agent.parser().parse_args(words)).watched == (short_tmp / "cpu", short_tmp / "provision")
    assert simulated.plugin_directory.is_absolute()


# --- the simulated platform


@contextmanager
def simulated_cpu(state: Path) -> Iterator[subprocess.Popen[str]]:
    words = [sys.executable, "-m", "kubenclave", "sim", "start", "--state", str(state), "--epc", "8Mi"]
    child = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True)
    try:
        eventually(cpu_socket(state).is_socket, 30)
        yield child
    finally:
        child.terminate()
        child.wait(15)


def granted(client: Any, device: str) -> pb.ContainerAllocateResponse:
    one = pb.ContainerAllocateRequest(devices_ids=[device])
    request = pb.AllocateRequest(container_requests=[one])
    answer: pb.ContainerAllocateResponse
    (answer,) = client.call("Allocate", request, pb.AllocateResponse).container_responses
    assert not answer.devices
    return answer


def mounts_of(answer: pb.ContainerAllocateResponse) -> list[tuple[str, str, bool]]:
    return [(mount.container_path, mount.host_path, mount.read_only) for mount in answer.mounts]


def test_a_simulated_platform_is_granted_by_two_folders_and_its_end_is_noticed(short_tmp):
    state = short_tmp / "sim"
    cpu, provision = cpu_socket(state), provision_socket(state)
    options = ["--simulated-cpu", str(cpu), "--simulated-provision", str(provision)]
    words = arguments(short_tmp, *options, "--aesm-dir", str(short_tmp / "aesmd"))
    kubelet = GrpcKubelet(short_tmp / "plugins")
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as child, kubelet.running():
        try:
            eventually(lambda: kubelet.count(ENCLAVE_RESOURCE) and kubelet.count(PROVISION_RESOURCE))
            assert kubelet.healthy(ENCLAVE_RESOURCE) == []
            with simulated_cpu(state):
                answer = granted(kubelet.wait(ENCLAVE_RESOURCE), "enclave-0")
                assert dict(answer.envs) == {"KUBENCLAVE_SIM_CPU": "/run/kubenclave/cpu/cpu.sock"}
                assert mounts_of(answer) == [
                    ("/var/run/aesmd", str(short_tmp / "aesmd"), True),
                    ("/run/kubenclave/cpu", str(cpu.parent), True),
                ]
                answer = granted(kubelet.wait(PROVISION_RESOURCE), "provision-0")
                assert dict(answer.envs) == {"KUBENCLAVE_SIM_PROVISION": "/run/kubenclave/provision/cpu.sock"}
                assert mounts_of(answer) == [("/run/kubenclave/provision", str(provision.parent), True)]
                eventually(lambda: json.loads(get(short_tmp / "agent.sock", "/status")[1])["epc_bytes"] == 8 * MIB)
            eventually(lambda: kubelet.healthy(ENCLAVE_RESOURCE) == kubelet.healthy(PROVISION_RESOURCE) == [])
        finally:
            child.terminate()
            _, stderr = child.communicate(timeout=15)
    assert child.returncode == 0
    assert all(line["simulated"] for line in logged(stderr))
    assert "simcpu.unreachable" in {line.get("code") for line in logged(stderr)}


def test_the_command_line_runs_the_same_program(short_tmp):
    words = [sys.executable, "-m", "kubenclave", "node", "agent", "--help"]
    done = subprocess.run(words, check=False, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0
    assert "kubenclave node agent" in done.stdout
    words = [*words[:-1], "--plugin-dir", str(short_tmp), "--status-socket", "/nonexistent/s"]
    done = subprocess.run(words, check=False, capture_output=True, text=True, timeout=30)
    assert done.returncode == 5
