# SPDX-License-Identifier: Apache-2.0
"""``kubenclave sim`` as programs: start, run, report, tcb, collateral."""

import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from kubenclave.cli import main
from kubenclave.cli.sim import identity
from kubenclave.dcap.collateral import Collateral
from kubenclave.errors import PlatformError
from kubenclave.platform.simcpu import Enclave
from kubenclave.platform.simulated import enclaves
from kubenclave.platform.simulated.places import cpu_socket, provision_socket
from kubenclave.sgx.attributes import AttributeFlags, Attributes
from kubenclave.sgx.keyrequest import KeyName, KeyPolicy, KeyRequest
from kubenclave.sgx.measure import Pages, measure
from kubenclave.sgx.report import Report, TargetInfo
from kubenclave.sgx.secinfo import SecInfo
from tests import simulated_enclaves as made
from tests.waiting import eventually

PROGRAM = [sys.executable, "-m", "kubenclave", "sim"]
MIB = 1 << 20
TRUE = shutil.which("true") or "/bin/true"


class Ended(NamedTuple):
    """How a command line in this process has ended."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def inside(capsys, monkeypatch, tmp_path):
    """Return how to run a command in this process: one that becomes no other program and sets up no log."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "no-state"))
    monkeypatch.delenv("KUBENCLAVE_SIM_CPU", raising=False)
    monkeypatch.delenv("KUBENCLAVE_SIM_ENCLAVE", raising=False)

    def run(*words: str) -> Ended:
        code = main.run(["sim", *words])
        return Ended(code, *capsys.readouterr())

    return run


class Simulator:
    """``sim start`` in a process of its own, ready."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder = folder
        self.state = folder / "sim"
        self.env = {
            **{name: value for name, value in os.environ.items() if not name.startswith("KUBENCLAVE")},
            "XDG_CONFIG_HOME": str(folder / "config"),
            "XDG_STATE_HOME": str(folder / "state"),
        }
        key = folder / "config" / "kubenclave" / "sim-enclave-key.pem"
        key.parent.mkdir(parents=True, exist_ok=True)
        key.write_bytes(
            enclaves.signing_key().private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        self.key = key
        self.process = subprocess.Popen(
            [*PROGRAM, "start", "--state", str(self.state), "--output", "json", *options],
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        lines = ""
        while not lines.endswith("}\n"):
            line = self.process.stdout.readline()
            assert line, self.process.communicate()[1]
            lines += line
        self.ready = json.loads(lines)

    @property
    def socket(self) -> Path:
        return cpu_socket(self.state)

    @property
    def provision(self) -> Path:
        return provision_socket(self.state)

    def command(self, *words: str, **env: str) -> "subprocess.CompletedProcess[str]":
        place = () if words[0] in ("run", "report") else ("--state", str(self.state))
        return subprocess.run(
            [*PROGRAM, words[0], *place, *words[1:]],
            env={**self.env, "KUBENCLAVE_SIM_CPU": str(self.socket), **env},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    def stop(self, number: int = signal.SIGTERM) -> str:
        """Return what it has said on stderr."""
        self.process.send_signal(number)
        _, errors = self.process.communicate(timeout=10)
        return errors


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulator]:
    """Return a simulator that many tests use one after the other."""
    folder = Path(tempfile.mkdtemp(prefix="kc"))
    found = Simulator(folder, "--epc", "16Mi")
    yield found
    found.stop()
    shutil.rmtree(folder)


@pytest.fixture
def own(short_tmp: Path) -> Iterator[Simulator]:
    """Return a simulator of the test's own."""
    found = Simulator(short_tmp, "--epc", "16Mi")
    yield found
    found.stop()


def test_start_says_that_it_is_ready_and_simulated(own):
    assert own.ready == {
        "ready": True,
        "simulated": True,
        "state": str(own.state),
        "cpu_socket": str(own.socket),
        "provision_socket": str(own.provision),
        "epc_bytes": 16 * MIB,
        "epc_numa_bytes": [16 * MIB],
        "tcb": "up-to-date",
    }
    said = own.stop()
    assert "SIMULATED platform: nothing is protected by hardware" in said
    logged = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    assert [line["event"] for line in logged] == ["sim.ready", "sim.stopping"]
    assert all(line["simulated"] for line in logged)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "sigterm"])
def test_start_ends_cleanly(short_tmp, number):
    simulator = Simulator(short_tmp)
    said = simulator.stop(number)
    assert simulator.process.returncode == 0, said
    left = sorted(str(path.relative_to(simulator.state)) for path in simulator.state.rglob("*"))
    assert left == ["cpu", "lock", "platform.json", "provision", "provision/cpu"]


def test_a_restart_keeps_keys_and_epc(short_tmp):
    request = KeyRequest(key_name=KeyName.SEAL, key_policy=KeyPolicy.MRENCLAVE)
    keys, chains = [], []
    for options in (["--epc", "8Mi"], []):
        simulator = Simulator(short_tmp, *options)
        with Enclave.connect(simulator.provision) as enclave:
            enclaves.PCE.load(enclave)
            keys.append(enclave.key(request))
            chains.append(enclave.pck_chain())
            assert enclave.status().epc_total == 8 * MIB
        simulator.stop(signal.SIGKILL)
    assert keys[0] == keys[1]
    assert chains[0] == chains[1]
    assert len(x509.load_pem_x509_certificates(chains[0])) == 3


def test_a_second_simulator_with_the_same_state(simulator):
    done = simulator.command("start", "--output", "json")
    assert done.returncode == 2
    assert json.loads(done.stdout)["error"]["code"] == "simstate.in-use"
    with Enclave.connect(simulator.socket) as enclave:
        assert enclave.status().epc_total == 16 * MIB


def test_start_refuses_a_foreign_state(short_tmp):
    (short_tmp / "platform.json").write_text("{}")
    done = subprocess.run([*PROGRAM, "start", "--state", str(short_tmp)], capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert "simstate.foreign" in done.stderr


@pytest.mark.parametrize("size", ["1Ki", "much", "-4Ki", "1.5"])
def test_start_refuses_sizes(inside, short_tmp, size):
    done = inside("start", "--state", str(short_tmp), "--epc", size)
    assert done.returncode == 2
    assert "cli.misuse" in done.stderr
    assert not list(short_tmp.iterdir())


def test_run_passes_the_exit_code_on_and_runs_the_very_program(simulator):
    done = simulator.command(
        "run", "--", "sh", "-c", "echo pid $$; test -e /proc/self/fd/$KUBENCLAVE_SIM_ENCLAVE; exit 7"
    )
    assert done.returncode == 7
    assert done.stdout.startswith("pid ")
    assert "SIMULATED enclave, nothing is protected by hardware" in done.stderr


def test_run_dies_of_the_signal_of_its_command(simulator):
    done = simulator.command("run", "--", "sh", "-c", "kill -KILL $$")
    assert done.returncode == -signal.SIGKILL


def test_run_gives_no_ignored_signals_to_its_command(simulator):
    done = simulator.command("run", "--", "sh", "-c", "grep SigIgn /proc/self/status")
    assert int(done.stdout.split()[1], 16) & (1 << (signal.SIGPIPE - 1)) == 0


REPORT = [*PROGRAM, "report", "--target-info", "{ti}", "--report-data", "0102", "--out", "{out}", "--output", "json"]


def report_words(folder: Path) -> list[str]:
    target = TargetInfo(mr_enclave=b"t" * 32, attributes=Attributes(5, 3))
    (folder / "ti").write_bytes(target.build())
    return [word.format(ti=folder / "ti", out=folder / "report") for word in REPORT]


def test_the_default_identity_is_the_content_of_the_executable(simulator):
    script = simulator.folder / "script.sh"
    script.write_text(f"#!/bin/sh\n#{'x' * 5000}\nexec {shlex.join(report_words(simulator.folder))}\n")
    script.chmod(0o755)
    done = simulator.command("run", "--isv-prod-id", "3", "--isv-svn", "4", "--", str(script))
    assert done.returncode == 0, done.stderr
    report = Report.parse((simulator.folder / "report").read_bytes())
    pages = Pages(0, SecInfo(0x205), 2, script.read_bytes().ljust(2 * 4096, b"\0"))
    assert report.body.mr_enclave == measure(2 * 4096, 1, [pages])
    assert report.body.mr_signer == made.MR_SIGNER
    assert (report.body.isv_prod_id, report.body.isv_svn, report.body.debug) == (3, 4, False)
    assert report.body.report_data == b"\1\2" + bytes(62)
    document = json.loads(done.stdout)
    assert document["simulated"]
    assert document["inherited"]
    assert document["mr_enclave"] == report.body.mr_enclave.hex()


def test_a_debug_enclave_says_so(simulator):
    done = simulator.command("run", "--debug", "--", TRUE)
    assert done.returncode == 0
    assert " DEBUG" in done.stderr


def test_a_report_of_a_passing_enclave(inside, simulator, tmp_path):
    words = report_words(tmp_path)[len(PROGRAM) :]
    done = inside(*words, "--key", str(simulator.key), "--cpu-socket", str(simulator.socket))
    assert done.returncode == 0, done.stderr
    assert not json.loads(done.stdout)["inherited"]
    assert len((tmp_path / "report").read_bytes()) == 432


def test_a_report_for_a_target_that_is_none(inside, tmp_path):
    (tmp_path / "ti").write_bytes(bytes(511))
    done = inside("report", "--target-info", str(tmp_path / "ti"), "--report-data", "00", "--out", "-")
    assert done.returncode == 3
    assert "format.size" in done.stderr


def signed_file(folder: Path, **terms: object) -> str:
    path = folder / "app.sig"
    path.write_bytes(made.signed(**terms).build())
    return str(path)


def test_run_of_a_measurement_with_its_sigstruct(simulator):
    sig = signed_file(simulator.folder)
    mine = ["--mr-enclave", made.MR_ENCLAVE.hex(), "--sigstruct", sig]
    done = simulator.command("run", *mine, "--pages", "100", "--", "sh", "-c", "exit 3")
    assert done.returncode == 3
    assert made.MR_ENCLAVE.hex() in done.stderr
    short = simulator.command("run", *mine, "--pages", "5000", "--", "sh", "-c", "echo ran")
    assert (short.returncode, short.stdout) == (5, "")
    assert "simcpu.out-of-epc" in short.stderr
    assert "asked 5000 pages, free 4095 of 4096" in short.stderr


@pytest.mark.parametrize(
    ("terms", "code"),
    [
        pytest.param({"enclave_hash": b"o" * 32}, "simcpu.invalid-measurement", id="another-measurement"),
        pytest.param({"isv_family_id": b"f" * 16}, "simcpu.invalid-sig-struct", id="kss-fields"),
        pytest.param({"attributes": Attributes(4 | 8, 3)}, "simcpu.general-protection", id="reserved-attribute"),
    ],
)
def test_run_refuses_with_the_reason_of_the_cpu(inside, simulator, terms, code):
    mine = ["--mr-enclave", made.MR_ENCLAVE.hex(), "--sigstruct", signed_file(simulator.folder, **terms)]
    done = inside("run", "--cpu-socket", str(simulator.socket), *mine, "--", "sh", "-c", "echo ran")
    assert (done.returncode, done.stdout) == (5, "")
    assert code in done.stderr


@pytest.mark.parametrize(
    ("damage", "exit_code", "code"),
    [
        pytest.param(lambda good: good[:1026] + b"\1" + good[1027:], 5, "simcpu.invalid-signature", id="changed"),
        pytest.param(lambda good: bytes(len(good)), 5, "simcpu.invalid-sig-struct", id="zeros"),
        pytest.param(lambda good: good[:99], 3, "format.value", id="short"),
    ],
)
def test_run_refuses_a_sigstruct_that_is_broken(inside, simulator, damage, exit_code, code):
    sig = Path(signed_file(simulator.folder))
    sig.write_bytes(damage(sig.read_bytes()))
    mine = ["--mr-enclave", made.MR_ENCLAVE.hex(), "--sigstruct", str(sig)]
    done = inside("run", "--cpu-socket", str(simulator.socket), *mine, "--", "sh", "-c", "echo ran")
    assert (done.returncode, done.stdout) == (exit_code, "")
    assert code in done.stderr


SHOW_FLAGS = """
import os
from kubenclave.platform.simcpu import Enclave
from kubenclave.sgx.keyrequest import KeyName, KeyRequest
with Enclave.inherited(os.environ) as enclave:
    print(enclave.target_info().attributes.flags, len(enclave.key(KeyRequest(key_name=KeyName.PROVISION))))
"""


def test_run_with_the_provisioning_key_where_it_was_granted(simulator):
    words = ("run", "--provision", "--key", str(simulator.key), "--", sys.executable, "-c", SHOW_FLAGS)
    done = simulator.command(*words, KUBENCLAVE_SIM_PROVISION=str(simulator.provision))
    assert (done.stdout, done.returncode) == ("21 16\n", 0), done.stderr


def test_run_with_the_provisioning_key_finds_the_socket_by_the_state_folder(simulator):
    words = [*PROGRAM, "run", "--state", str(simulator.state), "--provision", "--", sys.executable, "-c", SHOW_FLAGS]
    done = subprocess.run(words, env=simulator.env, capture_output=True, text=True, check=False, timeout=60)
    assert (done.stdout, done.returncode) == ("21 16\n", 0), done.stderr


def test_run_with_the_provisioning_key_is_refused_with_the_next_step_where_it_was_not_granted(simulator):
    done = simulator.command("run", "--provision", "--output", "json", "--", "sh", "-c", "echo ran")
    error = json.loads(done.stdout)["error"]
    assert (done.returncode, error["code"]) == (5, "sim.no-provision")
    assert "kubenclave run --provision" in error["hint"]
    assert "--grant-provision" in error["hint"]


def test_run_takes_the_provision_socket_for_a_sigstruct_that_asks_for_the_key(inside, simulator):
    provisions = Attributes(AttributeFlags.MODE64BIT | AttributeFlags.PROVISION_KEY, 3)
    sig = signed_file(simulator.folder, attributes=provisions)
    words = ("run", "--mr-enclave", made.MR_ENCLAVE.hex(), "--sigstruct", sig)
    done = simulator.command(*words, "--", "true", KUBENCLAVE_SIM_PROVISION=str(simulator.provision))
    assert done.returncode == 0, done.stderr
    done = inside(*words, "--cpu-socket", str(simulator.socket), "--", "true")
    assert done.returncode == 5
    assert "simcpu.invalid-attribute" in done.stderr


def test_run_of_gramine_enclaves(short_tmp, shared_data):
    folder = shared_data / "enclaves/gramine"
    expected = json.loads((folder / "minimal/expected.json").read_text(encoding="utf-8"))
    words = ["--manifest", str(folder / "minimal/app.manifest.sgx"), "--sig", str(folder / "minimal/app.sig")]
    large = Simulator(short_tmp, "--epc", "32Mi")
    try:
        done = large.command("run", *words, "--libpal", str(folder / expected["pal"]), "--", "sh", "-c", "exit 9")
        assert done.returncode == 9, done.stderr
        other = large.command("run", *words, "--libpal", str(folder / "pal-bss.elf"), "--", "sh", "-c", "echo ran")
        assert (other.returncode, other.stdout) == (5, "")
        assert "simcpu.invalid-measurement" in other.stderr
    finally:
        large.stop()


def test_run_of_an_sgxs_stream(simulator, shared_data):
    folder = shared_data / "enclaves/fortanix"
    words = ["--sgxs", str(folder / "test_enclave.sgxs"), "--sigstruct", str(folder / "test_enclave.sig")]
    assert simulator.command("run", *words, "--", "sh", "-c", "exit 4").returncode == 4


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(["--sigstruct", "s", "--", TRUE], id="sigstruct-alone"),
        pytest.param(["--manifest", "m", "--", TRUE], id="manifest-without-sigstruct"),
        pytest.param(["--manifest", "m", "--sgxs", "x", "--sigstruct", "s", "--", TRUE], id="two-descriptions"),
        pytest.param(["--sgxs", "x", "--sigstruct", "s", "--key", "k", "--", TRUE], id="sigstruct-and-key"),
        pytest.param(["--sgxs", "x", "--sigstruct", "s", "--debug", "--", TRUE], id="sigstruct-and-debug"),
        pytest.param(["--sgxs", "x", "--sigstruct", "s", "--libpal", "l", "--", TRUE], id="libpal-without-manifest"),
        pytest.param(["--sgxs", "x", "--sigstruct", "s", "--pages", "9", "--", TRUE], id="pages-without-measurement"),
        pytest.param(["--pages", "9", "--", TRUE], id="pages-alone"),
        pytest.param([], id="no-command"),
    ],
)
def test_run_refuses_options_that_contradict_one_another(inside, words):
    done = inside("run", *words)
    assert done.returncode == 2
    assert "cli.misuse" in done.stderr


@pytest.mark.parametrize("text", ["00", "zz" * 32, ""])
def test_run_refuses_what_is_no_measurement(inside, short_tmp, text):
    done = inside("run", "--mr-enclave", text, "--sigstruct", signed_file(short_tmp), "--", TRUE)
    assert done.returncode == 2
    assert "64 hexadecimal digits" in done.stderr


def test_run_without_gramine_asks_for_its_pal(inside, short_tmp):
    if any(Path(path).exists() for path in identity.PALS):
        pytest.skip("Gramine is installed here")
    words = ["--manifest", signed_file(short_tmp), "--sigstruct", signed_file(short_tmp)]
    done = inside("run", *words, "--", TRUE)
    assert done.returncode == 2
    assert "sim.no-pal" in done.stderr


def test_run_of_a_command_that_is_not_there(inside):
    done = inside("run", "--", "no-such-command")
    assert done.returncode == 2
    assert "sim.no-command" in done.stderr


def test_run_of_a_script_without_an_interpreter(simulator):
    script = simulator.folder / "script"
    script.write_text("echo ran\n")
    script.chmod(0o755)
    done = simulator.command("run", "--", str(script))
    assert done.returncode == 2
    assert "sim.no-command" in done.stderr


def test_run_without_a_cpu(inside, short_tmp):
    mine = ["--mr-enclave", "00" * 32, "--sigstruct", signed_file(short_tmp)]
    done = inside("run", "--state", str(short_tmp), *mine, "--", TRUE)
    assert done.returncode == 4
    assert "simcpu.unreachable" in done.stderr


@pytest.mark.parametrize("where", ["variable", "user"])
def test_run_finds_the_cpu(simulator, tmp_path, short_tmp, where):
    env = {**simulator.env, "XDG_STATE_HOME": str(tmp_path if where == "variable" else short_tmp)}
    if where == "variable":
        env["KUBENCLAVE_SIM_CPU"] = str(simulator.socket)
    else:
        (short_tmp / "kubenclave").mkdir()
        (short_tmp / "kubenclave" / "sim").symlink_to(simulator.state)
    mine = ["--mr-enclave", made.MR_ENCLAVE.hex(), "--sigstruct", signed_file(tmp_path)]
    done = subprocess.run([*PROGRAM, "run", *mine, "--", TRUE], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_enclave_ends_with_the_command(simulator):
    mine = ["--mr-enclave", made.MR_ENCLAVE.hex(), "--sigstruct", signed_file(simulator.folder), "--pages", "9"]
    with Enclave.connect(simulator.socket) as watcher:
        process = subprocess.Popen(
            [*PROGRAM, "run", "--cpu-socket", str(simulator.socket), *mine, "--", "sleep", "60"],
            stderr=subprocess.DEVNULL,
            env=simulator.env,
        )
        eventually(lambda: watcher.status().epc_free == 16 * MIB - 10 * 4096)
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == -signal.SIGTERM
        eventually(lambda: watcher.status().epc_free == 16 * MIB)


def test_the_tcb_is_shown_and_set_and_followed(own):
    shown = json.loads(own.command("tcb", "--output", "json").stdout)
    assert shown["tcb"] == "up-to-date"
    assert shown["simulated"]
    with Enclave.connect(own.provision) as enclave:
        enclaves.PCE.load(enclave)
        before, chain = enclave.status().cpu_svn, enclave.pck_chain()
        assert before.hex() == shown["cpu_svn"]
        done = own.command("tcb", "out-of-date")
        assert done.stdout.startswith(f"SIMULATED platform {own.state}: out-of-date")
        after = enclave.status().cpu_svn
        assert after != before
        assert enclave.pck_chain() != chain
        assert Report.parse(enclave.report(bytes(512), bytes(64))).body.cpu_svn == after
        own.command("tcb", "up-to-date")
        assert enclave.pck_chain() == chain
    assert "tcb.changed" in own.stop()


def test_a_damaged_state_is_said_once_and_the_old_one_goes_on(own):
    with Enclave.connect(own.socket) as enclave:
        before = enclave.status()
        (own.state / "platform.json").write_text("damaged")
        assert enclave.status() == before
        assert enclave.status() == before
    assert own.stop().count("state.unreadable") == 1


def test_tcb_of_no_platform_and_of_no_state(inside, short_tmp):
    for words, code in ((["--state", str(short_tmp)], "simstate.absent"), (["splendid"], "cli.misuse")):
        done = inside("tcb", *words)
        assert done.returncode == 2
        assert code in done.stderr


def test_collateral_in_the_form_of_the_verifier(inside, simulator, tmp_path):
    out, root, chain = tmp_path / "c.json", tmp_path / "root.der", tmp_path / "pck.pem"
    files = ["--out", str(out), "--root", str(root), "--pck-chain", str(chain)]
    state = ["--state", str(simulator.state)]
    done = inside("collateral", *state, *files, "--at", "2026-03-01T00:00:00Z", "--output", "json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert (document["simulated"], document["tcb"], document["at"]) == (True, "up-to-date", "2026-03-01T00:00:00Z")
    Collateral.from_json(out.read_bytes())
    found = x509.load_pem_x509_certificates(chain.read_bytes())
    assert found[-1] == x509.load_der_x509_certificate(root.read_bytes())
    with Enclave.connect(simulator.socket) as anybody:
        assert anybody.pck_chain() == chain.read_bytes()


def test_collateral_alone(simulator):
    done = simulator.command("collateral", "--out", "-")
    Collateral.from_json(done.stdout)
    assert "SIMULATED" in done.stderr


def test_stdout_takes_one_thing(inside, tmp_path):
    (tmp_path / "ti").write_bytes(bytes(512))
    ti = str(tmp_path / "ti")
    for words in (
        ("collateral", "--out", "-", "--output", "json"),
        ("report", "--target-info", ti, "--report-data", "00", "--out", "-", "--output", "json"),
    ):
        assert inside(*words).returncode == 2


# --- NUMA nodes, issuer, probes


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--epc", "64Mi,1"], "less than a page"),
        (["--epc", "64Mi,"], "give it as in 64Mi"),
        (["--epc", ",".join(["4Ki"] * 65)], "65 NUMA nodes are more than 64"),
        (["--issuer", "http://10.0.0.1:8080"], "belong together"),
        (["--issuer", "10.0.0.1", "--issuer-token-file", "token"], "not the address of an issuer"),
    ],
)
def test_starts_that_cannot_be(inside, tmp_path, options, reason):
    ended = inside("start", "--state", str(tmp_path / "sim"), *options)
    assert ended.returncode == 2
    assert reason in ended.stderr
    assert not (tmp_path / "sim").exists()


def test_epc_of_two_numa_nodes_with_sockets_apart_and_a_port_for_probes(short_tmp):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    options = ["--epc", "8Mi,4Mi", "--sockets", str(short_tmp), "--health-port", str(port)]
    one = Simulator(short_tmp, *options)
    try:
        assert (one.ready["epc_bytes"], one.ready["epc_numa_bytes"]) == (12 * MIB, [8 * MIB, 4 * MIB])
        assert one.ready["cpu_socket"] == str(cpu_socket(short_tmp))
        with Enclave.connect(cpu_socket(short_tmp)) as connection:
            assert connection.sections() == (8 * MIB, 4 * MIB)
            assert connection.status().epc_total == 12 * MIB
        for path in ("healthz", "readyz"):
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}") as answer:
                assert b"SIMULATED" in answer.read()
    finally:
        one.stop()


def test_a_platform_without_issuer_says_so_until_it_is_certified(short_tmp):
    (short_tmp / "token").write_text("token")
    options = ["--issuer", "http://127.0.0.1:1", "--issuer-token-file", str(short_tmp / "token")]
    one = Simulator(short_tmp, *options)
    with Enclave.connect(one.socket) as connection, pytest.raises(PlatformError) as caught:
        connection.pck_chain()
    assert caught.value.code == "simcpu.not-available"
    refused = one.command("collateral", "--out", str(short_tmp / "c.json"), "--output", "json")
    assert json.loads(refused.stdout)["error"]["code"] == "simissuer.not-yet"
    assert "simissuer.unreachable" in one.stop()
    assert "seed" not in json.loads((one.state / "platform.json").read_text())
