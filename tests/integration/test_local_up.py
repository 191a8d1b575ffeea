# SPDX-License-Identifier: Apache-2.0
"""The one-machine mode with the real daemons on the SIMULATED platform, from start to Ctrl-C."""

import json
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization

from kubenclave.local import up as up_module
from kubenclave.local.control import ControlClient, Status, StatusRequest, is_served
from kubenclave.platform.aesmclient import AesmClient
from kubenclave.platform.simcpu import Enclave
from kubenclave.platform.simulated import enclaves
from kubenclave.platform.simulated.places import cpu_socket
from tests.waiting import eventually

EXAMPLES = Path(__file__).parents[2] / "examples"
KUBENCLAVE = (sys.executable, "-m", "kubenclave")
READY_WITHIN = 2.0

ALLOWED = subprocess.run(["unshare", "--user", "--mount", "true"], check=False, capture_output=True).returncode == 0
namespaces = pytest.mark.skipif(not ALLOWED, reason="this kernel does not let us have user namespaces")


class Up:
    """A running ``kubenclave up`` in ``state``."""

    def __init__(self, state: Path, *more: str, program: tuple[str, ...] = KUBENCLAVE) -> None:
        self.state = state
        self.lines: list[str] = []
        self.ready: dict[str, Any] = {}
        self.seconds = 0.0
        self._started = time.monotonic()
        words = [*program, "up", "--simulated", "--epc", "64Mi", "--state", str(state), "--output", "json"]
        self.process = subprocess.Popen(
            [*words, *more],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._readers = [threading.Thread(target=self._read_log), threading.Thread(target=self._read_result)]
        for reader in self._readers:
            reader.start()

    def _read_log(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line)

    def _read_result(self) -> None:
        assert self.process.stdout is not None
        text = ""
        for line in self.process.stdout:
            text += line
            if line == "}\n":
                self.seconds = time.monotonic() - self._started
                self.ready = json.loads(text)

    def wait_ready(self) -> "Up":
        eventually(lambda: self.ready or self.process.poll() is not None, 30)
        assert self.ready, "".join(self.lines)
        return self

    def daemons(self) -> dict[str, int]:
        """Return the process ids of the daemons by the word in their command line that tells them."""
        found: dict[str, int] = {}
        for pid in children(self.process.pid):
            words = command_line(pid)
            for name in ("kubenclave.node.agent", "kubenclave.node.helper", "sim"):
                if name in words:
                    found[name] = pid
        return found

    def end(self, number: int = signal.SIGINT) -> int:
        """Stop it and return its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        code = self.process.wait(30)
        for reader in self._readers:
            reader.join(10)
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()
        return code


def children(pid: int) -> list[int]:
    return [
        int(child) for listing in Path(f"/proc/{pid}/task").glob("*/children") for child in listing.read_text().split()
    ]


def command_line(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
    except OSError:
        return []


def processes_of(state: Path) -> list[int]:
    """Return the processes that name a state folder on their command line."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        words = command_line(int(folder.name))
        if any(str(state) in word for word in words) and int(folder.name) != os.getpid():
            found.append(int(folder.name))
    return found


def sockets_in(state: Path) -> list[str]:
    return sorted(str(path.relative_to(state)) for path in state.rglob("*") if stat.S_ISSOCK(path.lstat().st_mode))


def kubenclave(*words: str, program: tuple[str, ...] = KUBENCLAVE, **more: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*program, *words], check=False, capture_output=True, text=True, timeout=60, **more)


@contextmanager
def started(state: Path, *more: str, program: tuple[str, ...] = KUBENCLAVE) -> Iterator[Up]:
    up = Up(state, *more, program=program)
    try:
        yield up
    finally:
        up.end()


@pytest.fixture(scope="module")
def up() -> Iterator[Up]:
    folder = Path(tempfile.mkdtemp(prefix="kc"))
    with started(folder / "s") as running:
        yield running.wait_ready()
    shutil.rmtree(folder)


def run(up: Up, *words: str, **more: Any) -> subprocess.CompletedProcess[str]:
    return kubenclave("run", "--state", str(up.state), *words, **more)


def status(up: Up) -> Status:
    with ControlClient(up.state / "control.sock") as control:
        answer = control.ask(StatusRequest())
    assert isinstance(answer, Status)
    return answer


def test_ready_says_where_everything_is(up):
    url = up.ready.pop("attestation_url")
    assert re.fullmatch(r"http://127\.0\.0\.1:[0-9]+/simulated", url)
    assert up.ready == {
        "ready": True,
        "simulated": True,
        "state": str(up.state),
        "aesm_socket": f"{up.state}/aesmd/aesm.socket",
        "cpu_socket": f"{up.state}/sim/cpu/cpu.sock",
        "provision_socket": f"{up.state}/sim/provision/cpu/cpu.sock",
        "epc_bytes": 64 << 20,
        "devices": {"sgx.intel.com/enclave": 110, "sgx.intel.com/provision": 110},
    }
    assert "SIMULATED platform (as asked)" in up.lines[0]
    assert all("SIMULATED" in line or '"simulated": true' in line for line in up.lines)


def test_the_attestation_service_is_where_programs_are_told_and_stays_there(short_tmp):
    state = short_tmp / "s"
    urls = []
    for _ in range(2):
        with started(state) as up:
            ready = up.wait_ready().ready
            url = ready["attestation_url"]
            done = kubenclave("run", "--state", str(state), "--quote", "--", "printenv", "KUBENCLAVE_ATTESTATION_URL")
            assert done.stdout.strip() == url
            with urllib.request.urlopen(f"{url}/v1/certs") as answer:  # waits for a service that is still starting
                assert json.load(answer)["keys"]
            urls.append(url)
            assert up.end() == 0
        assert "log.origin" not in "".join(up.lines)
    assert urls[0] == urls[1]


def test_a_machine_may_do_without_an_attestation_service(short_tmp):
    with started(short_tmp / "s", "--no-attestation") as up:
        assert up.wait_ready().ready["attestation_url"] is None
        assert "attestation" not in "".join(up.lines)


def test_a_port_that_is_taken_is_named(short_tmp):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = kubenclave("up", "--simulated", "--state", str(short_tmp / "s"), "--attestation-port", port)
    assert (done.returncode, "up.attestation-port" in done.stderr) == (5, True)


# Runs inside: the granted sockets by their usual names, and an enclave's report.
INSIDE = """
import os
from kubenclave.platform.aesmclient import AesmClient, socket_path
from kubenclave.platform import simcpu
print(len(AesmClient(socket_path(os.environ)).key_ids()))
with simcpu.Enclave.connect(simcpu.socket_path(os.environ)) as enclave:
    print(enclave.status().epc_total)
print(socket_path(os.environ), os.environ["KUBENCLAVE_SIM_CPU"], os.environ.get("SGX_AESM_ADDR"))
"""

AS_USER = ("unshare", "--user", "--map-user=1000", "--map-group=1000")


@namespaces
@pytest.mark.parametrize("prefix", [pytest.param((), id="as-we-are"), pytest.param(AS_USER, id="as-a-user")])
def test_a_command_finds_the_aesm_socket_and_the_cpu_at_their_usual_places(up, prefix):
    words = ("--epc", "4Mi", "--quote", "--isolation", "namespace", "--", sys.executable, "-c", INSIDE)
    done = run(up, *words, program=(*prefix, *KUBENCLAVE))
    assert done.stdout.splitlines() == [
        "1",
        str(64 << 20),
        "/var/run/aesmd/aesm.socket /run/kubenclave/cpu/cpu.sock 1",
    ], done.stderr


def test_by_environment_alone_it_finds_them_where_they_are(up):
    done = run(up, "--epc", "4Mi", "--isolation", "environment", "--", sys.executable, "-c", INSIDE)
    assert done.stdout.splitlines()[1:] == [
        str(64 << 20),
        f"{up.state}/aesmd/aesm.socket {up.state}/sim/cpu/cpu.sock None",
    ], done.stderr


@namespaces
@pytest.mark.parametrize("dialect", ["azure", "intel"])
def test_a_pod_runs_in_either_dialect(up, dialect):
    done = run(up, "-f", str(EXAMPLES / f"pod-{dialect}.yaml"))
    assert done.returncode == 0, done.stderr
    assert f"hello from a pod in {dialect.title()}'s dialect, SGX_AESM_ADDR=1" in done.stdout


def test_epc_that_is_short_is_refused_with_asked_free_and_holder(up):
    words = [*KUBENCLAVE, "run", "--state", str(up.state), "--epc", "60Mi", "--name", "web", "--", "cat"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL) as holder:
        asked = ("doctor", "node", "--state", str(up.state))
        eventually(lambda: status(up).epc_free == 4 << 20)
        done = run(up, "--epc", "10Mi", "--", "true")
        assert done.returncode == 5
        assert f"asked 10Mi, free 4Mi of 64Mi; held by web (pid {holder.pid}) 60Mi" in done.stderr
        assert kubenclave(*asked).returncode == 0  # EPC in use is no missing layer
        assert holder.stdin is not None
        holder.stdin.close()
        assert holder.wait(10) == 0
    assert run(up, "--epc", "64Mi", "--", "true").returncode == 0


def test_the_doctor_finds_nothing_missing(up):
    done = kubenclave("doctor", "node", "--state", str(up.state))
    assert done.returncode == 0, done.stdout
    assert "SIMULATED" in done.stdout.splitlines()[0]
    assert done.stdout.splitlines()[-1] == "nothing is missing"
    document = json.loads(kubenclave("doctor", "node", "--state", str(up.state), "--output", "json").stdout)
    assert {layer["state"] for layer in document["layers"]} == {"ok"}
    assert document["first_missing"] is None


def test_a_second_one_with_the_same_state_is_refused_and_harms_nothing(up):
    done = kubenclave("up", "--simulated", "--state", str(up.state), "--output", "json")
    assert done.returncode == 2
    assert json.loads(done.stdout)["error"]["code"] == "state.in-use"
    assert AesmClient(up.state / "aesmd/aesm.socket").key_ids()


@pytest.mark.parametrize("name", ["kubenclave.node.agent", "kubenclave.node.helper", "sim"])
def test_a_killed_daemon_is_started_again_and_all_is_well(up, name):
    before = up.daemons()[name]
    os.kill(before, signal.SIGKILL)
    eventually(lambda: up.daemons().get(name, before) != before)

    def well() -> bool:
        return kubenclave("doctor", "node", "--state", str(up.state)).returncode == 0

    eventually(well, 30)
    assert not any(" Z " in Path(f"/proc/{pid}/stat").read_text() for pid in up.daemons().values())
    eventually(lambda: run(up, "--epc", "4Mi", "--", "true").returncode == 0)
    with Enclave.connect(cpu_socket(up.state / "sim")) as enclave:
        assert enclave.status().epc_total == 64 << 20


# Runs inside: an enclave and its quote, and once more when told that the simulator is another one.
ACROSS = """
import os, sys
from kubenclave.errors import KubenclaveError, UnreachableError
from kubenclave.platform import simcpu
from kubenclave.platform.aesmclient import AesmClient, socket_path
from tests.simulated_platform import APP_ATTRIBUTES, APP_MR_ENCLAVE, app_sigstruct
from tests.waiting import eventually
def enclave():
    connection = simcpu.Enclave.connect(simcpu.socket_path(os.environ))
    connection.create(1 << 13, attributes=APP_ATTRIBUTES)
    connection.measured(APP_MR_ENCLAVE, 2)
    connection.init(app_sigstruct())
    return connection
def quote(connection):
    try:
        return AesmClient(socket_path(os.environ)).quote(lambda target: connection.report(target, bytes(64)))
    except UnreachableError as error:  # BUSY while the helper starts another worker: clients come back
        print(error, file=sys.stderr)
before = enclave()
print(len(quote(before)) > 4000, flush=True)
sys.stdin.readline()
try:
    before.report(bytes(512), bytes(64))
except KubenclaveError as error:
    print(error.code, flush=True)
after, quotes = enclave(), []
eventually(lambda: quotes.append(quote(after)) or quotes[-1])
print(len(quotes[-1]) > 4000, flush=True)
"""


@namespaces
def test_a_workload_that_runs_across_a_restart_of_the_simulator_gets_new_enclaves_and_quotes(short_tmp):
    with started(short_tmp / "s") as up:
        up.wait_ready()
        words = [*KUBENCLAVE, "run", "--state", str(up.state), "--epc", "4Mi", "--quote", "--isolation", "namespace"]
        words += ["-e", f"PYTHONPATH={Path(__file__).parents[2]}", "--", sys.executable, "-c", ACROSS]
        with subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as workload:
            assert workload.stdin is not None
            assert workload.stdout is not None
            assert workload.stdout.readline() == "True\n"
            before = up.daemons()["sim"]
            os.kill(before, signal.SIGKILL)
            eventually(lambda: up.daemons().get("sim", before) != before)
            eventually(lambda: is_served(cpu_socket(up.state / "sim")), 30)
            output, said = workload.communicate("go\n", timeout=60)
        assert (output, workload.returncode) == ("simcpu.unreachable\nTrue\n", 0), said


@namespaces
def test_the_provisioning_key_is_for_commands_that_were_granted_it(short_tmp):
    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    signing_key = enclaves.signing_key().private_bytes(pem, pkcs8, serialization.NoEncryption())
    (short_tmp / "key.pem").write_bytes(signing_key)
    ask = ("--epc", "4Mi", "--isolation", "namespace")
    inside = (*KUBENCLAVE, "sim", "run", "--provision", "--key", str(short_tmp / "key.pem"), "--", "true")
    with started(short_tmp / "s", "--grant-provision") as up:
        up.wait_ready()
        granted = run(up, *ask, "--provision", "--", *inside)
        assert granted.returncode == 0, granted.stderr
        without = run(up, *ask, "--", *inside)
        assert without.returncode == 5
        assert "sim.no-provision" in without.stderr
        assert "kubenclave run --provision" in without.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["int", "term"])
def test_ctrl_c_ends_all_of_it_and_leaves_nothing_behind(short_tmp, number):
    up = Up(short_tmp / "s").wait_ready()
    words = [*KUBENCLAVE, "run", "--state", str(up.state), "--epc", "4Mi", "--", "sh", "-c", "echo here; exec sleep 60"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "here\n"
        assert up.end(number) == 0
        assert child.wait(10) == 128 + signal.SIGTERM
    assert not any("Traceback" in line for line in up.lines)
    assert sockets_in(up.state) == []
    assert processes_of(up.state) == []


def test_killed_outright_its_daemons_end_and_the_next_one_starts(short_tmp):
    up = Up(short_tmp / "s").wait_ready()
    assert len(up.daemons()) == 3
    assert up.end(signal.SIGKILL) == -signal.SIGKILL
    with started(short_tmp / "s") as again:
        again.wait_ready()
    eventually(lambda: processes_of(short_tmp) == [])
    assert sockets_in(short_tmp) == []


@pytest.mark.parametrize("after", [0, 1, 2, 3])
def test_ctrl_c_while_it_starts_leaves_nothing_behind_either(short_tmp, after):
    """At once, and when one, two or three daemons have been started."""
    up = Up(short_tmp / "s")
    eventually(lambda: up.lines and len(up.daemons()) >= after)
    code = up.end()
    assert code in (0, 130), up.lines
    assert not any("Traceback" in line for line in up.lines)
    assert processes_of(short_tmp) == []
    assert not (short_tmp / "s").exists() or sockets_in(short_tmp / "s") == []


EARLY = """\
import os, signal, sys
from pathlib import Path
from kubenclave.local import up
from kubenclave.local.state import StateDirectory
usual = up.stop_signal
def interrupted():
    os.kill(os.getpid(), int(sys.argv[2]))
    return usual()
up.stop_signal = interrupted
up.serve(up.Options(StateDirectory(Path(sys.argv[1])), simulated=True), print)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["int", "term"])
def test_a_signal_in_the_first_moment_waits_until_it_can_be_heeded(short_tmp, number):
    words = [sys.executable, "-c", EARLY, str(short_tmp / "s"), str(int(number))]
    done = subprocess.run(words, check=False, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert "Traceback" not in done.stderr
    assert sockets_in(short_tmp / "s") == []
    assert processes_of(short_tmp) == []


def test_a_daemon_that_cannot_start_ends_all_of_it_with_the_reason(short_tmp):
    state = short_tmp / "s"
    (state / "sim").mkdir(parents=True)
    state.chmod(0o700)
    (state / "sim/platform.json").write_text("no JSON")
    up = Up(state)
    assert up.process.wait(30) == 5
    up.end()
    assert processes_of(short_tmp) == []
    assert sockets_in(state) == []


def test_it_is_ready_within_two_seconds(short_tmp, monkeypatch):
    for name in [name for name in os.environ if name.startswith("COVERAGE")]:
        monkeypatch.delenv(name)  # measured as it is, not while it is being traced
    seconds = []
    for attempt in range(4):  # one quiet moment is enough
        with started(short_tmp / f"s{attempt}") as up:
            seconds.append(up.wait_ready().seconds)
        if seconds[-1] < READY_WITHIN:
            return
    if os.getloadavg()[0] > (os.cpu_count() or 1):
        pytest.skip(f"this machine is too busy to tell: ready after {seconds}")
    pytest.fail(f"ready after {seconds}")


@pytest.mark.parametrize(
    ("words", "code", "exit_code"),
    [
        pytest.param(["--epc", "1Ki"], "cli.misuse", 2, id="less-than-a-page"),
        pytest.param(["--epc", "lots"], "cli.misuse", 2, id="no-quantity"),
        pytest.param(["--state", "/" + "x" * 90], "state.path-too-long", 2, id="long"),
        pytest.param(["--state", "/proc/nothing"], "state.unusable", 5, id="unusable"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_starts(words, code, exit_code):
    done = kubenclave("up", "--simulated", *words, "--output", "json")
    assert done.returncode == exit_code
    assert json.loads(done.stdout)["error"]["code"] == code


@pytest.mark.skipif(up_module.has_sgx(), reason="this machine has SGX")
def test_hardware_that_is_not_there_is_missed_at_once(short_tmp):
    done = kubenclave("up", "--hardware", "--state", str(short_tmp / "s"))
    assert done.returncode == 5
    assert "error[up.no-sgx]" in done.stderr
    assert "kubenclave doctor node" in done.stderr


@pytest.mark.skipif(up_module.has_sgx(), reason="this machine has SGX")
def test_without_hardware_it_is_simulated_and_said_loudly(short_tmp):
    words = [*KUBENCLAVE, "up", "--state", str(short_tmp / "s")]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        assert child.stderr is not None
        assert "SIMULATED platform (no usable SGX here)" in child.stderr.readline()
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        child.send_signal(signal.SIGINT)
        stdout = child.stdout.read()
        assert child.wait(20) == 0
    assert "128Mi SIMULATED" in stdout
    assert f"next: kubenclave run --state {short_tmp / 's'}" in stdout


def python_of_nobody(folder: Path) -> tuple[str, ...]:
    """Return the words that run Python with our packages as nobody, who gets ``folder``; skips where there is none."""
    if os.geteuid() != 0 or not shutil.which("setpriv"):
        pytest.skip("needs root and setpriv to become somebody else")
    os.chown(folder, 65534, 65534)
    packages = os.pathsep.join(path for path in sys.path if path)
    prefix = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "env", f"HOME={folder}")
    for python in (sys.executable, "/usr/bin/python3"):  # ours may lie in a folder of root's
        words = (*prefix, f"PYTHONPATH={packages}", python)
        if subprocess.run([*words, "-c", USABLE], check=False, capture_output=True, cwd="/").returncode == 0:
            return words
    pytest.skip("nobody else can read a Python with our packages here")


USABLE = "import cryptography.x509, google.protobuf, kubenclave.cli.main, msgspec"


@namespaces
def test_an_ordinary_user_needs_no_root_for_any_of_it(short_tmp):
    python = python_of_nobody(short_tmp)
    script = f"{INSIDE}\nprint(os.getuid())"
    words = ("--epc", "4Mi", "--quote", "--isolation", "namespace", "-e", "PYTHONPATH", "--", python[-1], "-c", script)
    with started(short_tmp / "s", program=(*python, "-m", "kubenclave")) as up:
        up.wait_ready()
        done = run(up, *words, program=(*python, "-m", "kubenclave"), cwd="/")
        assert done.stdout.splitlines() == [
            "1",
            str(64 << 20),
            "/var/run/aesmd/aesm.socket /run/kubenclave/cpu/cpu.sock 1",
            "65534",
        ], done.stderr
    assert processes_of(short_tmp / "s") == []
    assert sockets_in(short_tmp / "s") == []
