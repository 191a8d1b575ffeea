# SPDX-License-Identifier: Apache-2.0
"""``kubenclave run`` against everything of ``up`` that is not a daemon: admission, ledger, kubelet, control socket."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kubenclave._proto import deviceplugin_pb2 as pb
from kubenclave.local.controlserver import ControlServer
from kubenclave.local.kubelet import Kubelet
from kubenclave.local.state import StateDirectory, owned
from kubenclave.local.up import Machine, Options
from kubenclave.sgx.epc import ENCLAVE_RESOURCE
from tests.integration.test_local_kubelet import GrpcPlugin, devices, register
from tests.programs import alive
from tests.waiting import eventually

EXAMPLES = Path(__file__).parents[2] / "examples"
MIB = 1 << 20
ALLOWED = subprocess.run(["unshare", "--user", "--mount", "true"], check=False, capture_output=True).returncode == 0

namespaces = pytest.mark.skipif(not ALLOWED, reason="this kernel does not let us have user namespaces")


class Plugin(GrpcPlugin):
    """Grants the AESM folder, as the node agent does."""

    def __init__(self, aesm: Path) -> None:
        super().__init__()
        self.aesm = aesm

    def allocate(self, request: Any, context: Any) -> pb.AllocateResponse:
        self.allocated.append(list(request.container_requests[0].devices_ids))
        mount = pb.Mount(container_path="/var/run/aesmd", host_path=str(self.aesm), read_only=True)
        one = pb.ContainerAllocateResponse(mounts=[mount], envs={"GRANTED": "/var/run/aesmd"})
        return pb.AllocateResponse(container_responses=[one])


class Up:
    """The stand-in for ``up`` in a thread; 128 MiB of EPC and four enclave devices."""

    def __init__(self, path: Path) -> None:
        self.state = StateDirectory(path)
        self.plugin = Plugin(self.state.aesm_directory)
        self.kubelet = Kubelet(self.state.plugins)
        self.machine = Machine(Options(self.state, simulated=True, provision=False), self.kubelet)
        self.machine.ledger.capacity = 128 * MIB
        self.end: Callable[[], object]

    async def serve(self, ready: threading.Event, stop: asyncio.Event) -> None:
        listener = socket.socket(socket.AF_UNIX)
        with owned(self.state), listener:
            listener.bind(str(self.state.aesm_socket))
            listener.listen()
            async with self.kubelet.serving(), ControlServer(self.machine.answer).serving(self.state.control):
                with self.plugin.serving(self.state.plugins / "p.sock"):
                    self.plugin.lists.put(devices("a", "b", "c", "d"))
                    await asyncio.to_thread(register, self.state.plugins)
                    await self.kubelet.wait_for(ENCLAVE_RESOURCE, 5)
                    ready.set()
                    await stop.wait()

    def leases(self) -> int:
        return len(self.machine.ledger.leases)


@pytest.fixture
def up(short_tmp: Path) -> Iterator[Up]:
    served = Up(short_tmp / "s")
    ready = threading.Event()
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()
    thread = threading.Thread(target=lambda: loop.run_until_complete(served.serve(ready, stop)))
    thread.start()
    assert ready.wait(10)
    served.end = lambda: loop.call_soon_threadsafe(stop.set)
    yield served
    served.end()
    thread.join(10)
    loop.close()


def arguments(up: Up, *words: str) -> list[str]:
    return [sys.executable, "-m", "kubenclave", "run", "--state", str(up.state.path), *words]


def run(up: Up, *words: str, **more: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(arguments(up, *words), check=False, capture_output=True, text=True, timeout=30, **more)


def start(up: Up, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        arguments(up, *words),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@namespaces
@pytest.mark.parametrize("dialect", ["azure", "intel"])
def test_the_examples_run_unchanged(up, dialect):
    done = run(up, "-f", str(EXAMPLES / f"pod-{dialect}.yaml"))
    assert done.returncode == 0, done.stderr
    assert "hello from a pod in" in done.stdout
    assert "SGX_AESM_ADDR=1" in done.stdout
    assert "SIMULATED" in done.stderr
    assert up.leases() == 0


@namespaces
def test_a_command_gets_what_it_asked_for_and_its_exit_code_is_ours(up):
    script = "import os, sys; print(os.listdir('/var/run/aesmd'), os.environ['GRANTED'], sys.argv[1:]); sys.exit(7)"
    done = run(up, "--epc", "64Mi", "--", sys.executable, "-c", script, "--epc", "x")
    assert done.returncode == 7, done.stderr
    assert done.stdout == "['aesm.socket'] /var/run/aesmd ['--epc', 'x']\n"


def test_without_namespaces_the_environment_says_where_things_are_and_it_is_said_loudly(up):
    script = "import os; print(os.environ['GRANTED'], os.environ['KUBENCLAVE_AESM_SOCKET'])"
    done = run(up, "--epc", "1Mi", "--isolation", "environment", "--", sys.executable, "-c", script)
    assert done.stdout == f"{up.state.aesm_directory} {up.state.aesm_socket}\n"
    assert "WARNING: NOT ISOLATED, as asked" in done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to take namespaces away")
def test_a_kernel_that_forbids_namespaces_is_warned_about_or_insisted_on(up):
    def limited(*words: str) -> subprocess.CompletedProcess[str]:
        # a user namespace in which no further namespaces may be made, without the right to make them as root
        script = 'echo 0 > /proc/sys/user/max_mnt_namespaces || exit 99; exec "$@"'
        prefix = ["unshare", "--user", "--map-root-user", "sh", "-c", script, "sh"]
        return subprocess.run(
            [*prefix, *arguments(up, *words)], check=False, capture_output=True, text=True, timeout=30
        )

    done = limited("--epc", "1Mi", "--", "true")
    if done.returncode == 99:
        pytest.skip("cannot make a namespace without namespaces here")
    assert done.returncode == 0, done.stderr
    assert "NOT ISOLATED" in done.stderr
    done = limited("--epc", "1Mi", "--isolation", "namespace", "--output", "json", "--", "true")
    assert done.returncode == 5
    assert json.loads(done.stdout)["error"]["code"] == "sandbox.forbidden"


def test_the_environment_is_clean_but_for_what_is_asked_for(up):
    env = {**os.environ, "SECRET": "s", "ALSO": "passed on"}
    done = run(up, "-e", "A=b=c", "-e", "ALSO", "--", "env", env=env)
    names = {line.partition("=")[0] for line in done.stdout.splitlines()}
    assert {"A=b=c", "ALSO=passed on"} <= set(done.stdout.splitlines())
    assert "SECRET" not in names
    assert not any(name.startswith(("KUBENCLAVE", "SGX")) for name in names)


def test_json_says_what_became_of_it_and_the_command_speaks_on_stderr(up):
    done = run(up, "--epc", "2Mi", "--output", "json", "--", "sh", "-c", "echo hi; exit 3")
    document = json.loads(done.stdout)
    assert "hi" in done.stderr
    (granted,) = document.pop("granted")
    assert [one["resource"] for one in granted["allotments"]] == [ENCLAVE_RESOURCE]
    assert document | {"isolation": None} == {
        "exit_code": 3,
        "containers": {"sh": 3},
        "epc_bytes": 2 * MIB,
        "simulated": True,
        "isolation": None,
    }
    assert done.returncode == 3


def test_epc_that_is_short_is_refused_with_asked_free_and_holder(up):
    holder = start(up, "--epc", "100Mi", "--name", "web", "--", "sleep", "60")
    eventually(lambda: up.leases() == 1)
    done = run(up, "--epc", "64Mi", "--output", "json", "--", "true")
    assert done.returncode == 5
    error = json.loads(done.stdout)["error"]
    assert error["code"] == "epc.short"
    assert f"asked 64Mi, free 28Mi of 128Mi; held by web (pid {holder.pid}) 100Mi" in error["message"]
    holder.send_signal(signal.SIGTERM)
    assert holder.wait(10) == 128 + signal.SIGTERM
    holder.communicate()
    assert run(up, "--epc", "64Mi", "--", "true").returncode == 0


def test_a_killed_run_takes_its_process_along_and_gives_everything_back(up, short_tmp):
    out = short_tmp / "pid"
    child = start(up, "--epc", "100Mi", "--", "sh", "-c", f"echo $$ > {out}.new; mv {out}.new {out}; exec sleep 60")
    eventually(out.exists)
    child.kill()
    child.communicate()
    eventually(lambda: up.leases() == 0)
    eventually(lambda: not alive(int(out.read_text())))
    assert up.kubelet.count(ENCLAVE_RESOURCE).free == 4


FAMILY = """
sleep 60 <&- >&- 2>&- &
exec <&- >&- 2>&-
setsid sh -c 'trap "" TERM; sleep 60 & echo $! > {out}/orphan.new; mv {out}/orphan.new {out}/orphan; wait' &
echo $PPID > {out}/keeper.new; mv {out}/keeper.new {out}/keeper
wait
"""


@pytest.mark.parametrize("killed", ["guard", "keeper", "program"])
def test_whoever_is_killed_the_whole_family_ends_and_the_lease_after_it(up, short_tmp, killed):
    child = start(up, "--epc", "100Mi", "--", "sh", "-c", FAMILY.format(out=short_tmp))
    eventually(lambda: (short_tmp / "orphan").exists() and (short_tmp / "keeper").exists())
    orphan, keeper = (int((short_tmp / name).read_text()) for name in ("orphan", "keeper"))
    assert keeper != child.pid
    programs = Path(f"/proc/{keeper}/task/{keeper}/children").read_text().split()
    os.kill({"guard": child.pid, "keeper": keeper, "program": int(programs[0])}[killed], signal.SIGKILL)
    _, stderr = child.communicate(timeout=10)
    eventually(lambda: not alive(orphan) and not alive(keeper))
    eventually(lambda: up.leases() == 0)
    assert child.returncode == {"guard": -9, "keeper": 5, "program": 137}[killed]
    assert ("run.keeper-lost" in stderr) == (killed == "keeper")


def test_when_up_ends_what_it_granted_ends_too(up, short_tmp):
    out = short_tmp / "ready"
    child = start(up, "--epc", "1Mi", "--", "sh", "-c", f"touch {out}; exec sleep 60")
    eventually(out.exists)
    up.end()
    _, stderr = child.communicate(timeout=10)
    assert child.returncode == 128 + signal.SIGTERM
    assert "'kubenclave up' has ended" in stderr


@namespaces
def test_a_relative_folder_is_no_way_around_the_mask(up):
    container = {"name": "a", "command": ["ls"], "workingDir": "."}
    pod = {"kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": [container]}}
    done = run(up, "-f", "-", input=json.dumps(pod), cwd=up.state.path)
    assert done.returncode == 0, done.stderr
    assert "control.sock" not in done.stdout


def test_ctrl_c_ends_the_command_quietly(up, short_tmp):
    out = short_tmp / "ready"
    child = start(up, "--epc", "1Mi", "--", "sh", "-c", f"touch {out}; exec sleep 60")
    eventually(out.exists)
    child.send_signal(signal.SIGINT)
    stdout, stderr = child.communicate(timeout=10)
    assert child.returncode == 130
    assert "Traceback" not in stderr
    assert stdout == ""
    eventually(lambda: up.leases() == 0)


def test_what_a_command_leaves_behind_does_not_outlive_it(up, short_tmp):
    out = short_tmp / "pid"
    done = run(up, "--epc", "1Mi", "--", "sh", "-c", f"sleep 60 >&- 2>&- & echo $! > {out}; exit 0")
    assert done.returncode == 0
    assert not alive(int(out.read_text()))


def test_init_containers_run_in_order_and_sidecars_beside_the_rest(up, short_tmp):
    log = short_tmp / "log"
    limits = {"limits": {"kubernetes.azure.com/sgx_epc_mem_in_MiB": 10}}

    def container(name: str, script: str, **more: Any) -> dict[str, Any]:
        return {"name": name, "command": ["sh", "-c", script], "resources": limits, **more}

    sidecar = f"trap 'echo side ends >> {log}; exit 0' TERM; echo side >> {log}; while :; do sleep 0.05; done"
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "p"},
        "spec": {
            "initContainers": [
                container("one", f"echo one >> {log}"),
                container("side", sidecar, restartPolicy="Always"),
                container("two", f"while ! grep -q side {log}; do sleep 0.01; done; echo two >> {log}"),
            ],
            "containers": [container("a", f"echo a >> {log}; exit 4"), container("b", f"sleep 0.1; echo b >> {log}")],
        },
    }
    done = run(up, "-f", "-", "--output", "json", input=json.dumps(pod))
    document = json.loads(done.stdout)
    assert document["containers"] == {"one": 0, "two": 0, "a": 4, "b": 0, "side": 0}
    assert (done.returncode, document["epc_bytes"]) == (4, 30 * MIB)
    assert log.read_text().split("\n") == ["one", "side", "two", "a", "b", "side ends", ""]


def test_what_a_manifest_says_is_shown_and_not_obeyed_by_a_terminal(up):
    title = "\x1b]0;mine\x07"
    pod = {
        "kind": "Pod",
        "metadata": {"name": "p", "annotations": {"sgx.intel.com/quote-provider": title}},
        "spec": {"initContainers": [{"name": title, "command": ["false"]}], "containers": []},
    }
    done = run(up, "-f", "-", input=json.dumps(pod))
    assert r"init container \x1b]0;mine\x07 ended with exit code 1" in done.stderr
    assert "\x1b" not in done.stderr


def test_an_init_container_that_fails_ends_the_pod(up):
    pod = {
        "kind": "Pod",
        "metadata": {"name": "p"},
        "spec": {
            "initContainers": [{"name": "first", "command": ["false"]}],
            "containers": [{"name": "a", "command": ["echo", "never"]}],
        },
    }
    done = run(up, "-f", "-", input=json.dumps(pod))
    assert (done.returncode, done.stdout) == (1, "")
    assert "init container first" in done.stderr


@pytest.mark.parametrize(
    ("words", "code", "exit_code"),
    [
        (["--provision", "--epc", "1Mi", "--", "true"], "admission.provision-refused", 1),
        (["--epc", "0", "--", "true"], "cli.misuse", 2),
        (["--epc", "64MB", "--", "true"], "cli.misuse", 2),
        (["--", "no-such-program"], "run.command", 2),
        (["-f", "/no/such/file"], "cli.input", 2),
        ([], "cli.misuse", 2),
        (["-f", "x", "true"], "cli.misuse", 2),
    ],
)
def test_refusals_have_their_code_and_leave_nothing_taken(up, words, code, exit_code):
    done = run(up, "--output", "json", *words)
    assert done.returncode == exit_code
    assert json.loads(done.stdout)["error"]["code"] == code
    eventually(lambda: up.leases() == 0 and up.kubelet.count(ENCLAVE_RESOURCE).free == 4)


def test_more_devices_than_there_are_give_the_epc_back(up):
    container = {
        "name": "a",
        "command": ["true"],
        "resources": {"limits": {"sgx.intel.com/epc": "1Mi", "sgx.intel.com/enclave": 5}},
    }
    done = run(
        up, "-f", "-", "--output", "json", input=json.dumps({"kind": "Pod", "spec": {"containers": [container]}})
    )
    assert json.loads(done.stdout)["error"]["code"] == "kubelet.devices-short"
    assert up.leases() == 0


def test_without_up_it_says_what_to_start(short_tmp):
    words = [sys.executable, "-m", "kubenclave", "run", "--state", str(short_tmp), "--", "true"]
    done = subprocess.run(words, check=False, capture_output=True, text=True, timeout=30)
    assert done.returncode == 4
    assert "start 'kubenclave up'" in done.stderr


def test_garbage_on_the_control_socket_costs_nobody_else(up):
    with socket.socket(socket.AF_UNIX) as stalled, socket.socket(socket.AF_UNIX) as garbage:
        stalled.connect(str(up.state.control))
        stalled.sendall(b'{"type":')
        garbage.connect(str(up.state.control))
        garbage.sendall(b"nonsense\n")
        assert b"control.request" in garbage.recv(65536)
        assert run(up, "--epc", "1Mi", "--", "true").returncode == 0
    with socket.socket(socket.AF_UNIX) as flood:
        flood.connect(str(up.state.control))
        with pytest.raises(OSError):  # whichever way the other side hangs up
            for _ in range(100):
                flood.sendall(b"x" * 65536)
                time.sleep(0.001)


def test_the_doctor_asks_up_about_plugin_and_epc(up):
    words = [sys.executable, "-m", "kubenclave", "doctor", "node", "--state", str(up.state.path), "--output", "json"]
    done = subprocess.run(words, check=False, capture_output=True, text=True, timeout=30)
    document = json.loads(done.stdout)
    layers = {layer["layer"]: layer["state"] for layer in document["layers"]}
    assert document["simulated"] is True
    assert (layers["plugin"], layers["epc"], layers["cpu"]) == ("ok", "ok", "ok")
    assert document["first_missing"] == "aesm"  # somebody listens there but does not answer
    assert done.returncode == 5
