# SPDX-License-Identifier: Apache-2.0
"""What the local mode makes of answers: the agent's status, and a machine looked over for the doctor."""

import asyncio
import json
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kubenclave.errors import FormatError, UnreachableError
from kubenclave.local import agentstatus, examine, up
from kubenclave.local.agentstatus import AgentStatus
from kubenclave.local.state import StateDirectory
from kubenclave.platform.base import Layer, LayerState


def fetched(path: Path, answer: bytes) -> AgentStatus:
    """Fetch from a server that gives this answer to whatever it is asked."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            await writer.drain()
        except OSError:
            pass  # the other side has had enough
        finally:
            writer.close()

    async def scenario() -> AgentStatus:
        server = await asyncio.start_unix_server(serve, path)
        try:
            return await agentstatus.fetch(path)
        finally:
            server.close()

    return asyncio.run(scenario())


def test_the_agents_status_is_read_and_its_other_fields_are_its_own(short_tmp):
    answer = b'HTTP/1.1 200 \r\n\r\n{"epc_bytes": 4096, "simulated": true, "driver": "simulated"}'
    assert fetched(short_tmp / "s", answer) == AgentStatus(4096, simulated=True)


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"HTTP/1.1 503 \r\n\r\n{}", id="503"),
        pytest.param(b"", id="nothing"),
        pytest.param(b"HTTP/1.1 200 \r\n\r\n{", id="half"),
        pytest.param(b"HTTP/1.1 200 \r\n\r\n{}", id="no-epc"),
        pytest.param(b"\xff\xfe\xfd\r\n\r\n", id="garbage"),
    ],
)
def test_what_is_no_status_is_a_format_error(short_tmp, answer):
    with pytest.raises(FormatError) as caught:
        fetched(short_tmp / "s", answer)
    assert caught.value.code == "agent.status"


def test_an_answer_without_end_is_cut_off(short_tmp):
    with pytest.raises(UnreachableError, match="does not end"):
        fetched(short_tmp / "s", b"x" * (agentstatus.MAX_STATUS + 1))


def test_an_agent_that_is_not_there_is_unreachable(short_tmp):
    with pytest.raises(UnreachableError) as caught:
        asyncio.run(agentstatus.fetch(short_tmp / "s"))
    assert caught.value.code == "agent.unreachable"


# --- the doctor's look


@pytest.fixture
def root(short_tmp: Path) -> Path:
    """The root of a node whose kernel has SGX but no device node, with a kubelet's folder."""
    for path, text in {
        "proc/sys/kernel/osrelease": "6.8.0\n",
        "boot/config-6.8.0": "CONFIG_X86_SGX=y\n",
        "proc/cpuinfo": "model name\t: Xeon\nflags\t\t: fpu sgx sgx_lc\n",
        "sys/devices/system/node/node0/x86/sgx_total_bytes": "98041856\n",
    }.items():
        (short_tmp / path).parent.mkdir(parents=True, exist_ok=True)
        (short_tmp / path).write_text(text)
    (short_tmp / "var/lib/kubelet/device-plugins").mkdir(parents=True)
    return short_tmp


@contextmanager
def listening(path: Path) -> Iterator[None]:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        yield


def states(found: examine.Examination) -> dict[Layer, LayerState]:
    return {finding.layer: finding.state for finding in found.findings}


def test_a_node_is_looked_over_through_its_files(root, monkeypatch):
    monkeypatch.setenv("KUBENCLAVE_AESM_SOCKET", str(root / "aesm.socket"))
    found = examine.examine(root, None)
    assert (found.through, found.simulated) == ("this machine", False)
    assert states(found)[Layer.BIOS] is LayerState.OK
    assert states(found)[Layer.EPC] is LayerState.OK
    assert states(found)[Layer.DRIVER] is LayerState.MISSING
    assert states(found)[Layer.PLUGIN] is LayerState.MISSING
    assert states(found)[Layer.AESM] is LayerState.MISSING


def test_a_plugin_that_listens_is_there_and_a_left_over_socket_is_not(root):
    path = root / "var/lib/kubelet/device-plugins/kubenclave-enclave.sock"
    with listening(path):
        assert states(examine.examine(root, None))[Layer.PLUGIN] is LayerState.OK
    assert states(examine.examine(root, None))[Layer.PLUGIN] is LayerState.MISSING


def test_where_there_is_no_kubelet_nobody_can_tell(root):
    (root / "var/lib/kubelet/device-plugins").rmdir()
    assert states(examine.examine(root, None))[Layer.PLUGIN] is LayerState.UNKNOWN


def test_an_up_that_does_not_answer_is_passed_over(root, monkeypatch):
    monkeypatch.setattr(examine, "AESM_PATIENCE", 0.05)
    state = StateDirectory(root / "s")
    state.path.mkdir()
    with listening(state.control):  # accepts, and says nothing
        assert examine.examine(root, state).through == "this machine"
    assert examine.examine(root, state).through == "this machine"


def doctor(root: Path, *more: str) -> tuple[int, str]:
    words = [sys.executable, "-m", "kubenclave", "doctor", "node", "--root", str(root), *more]
    done = subprocess.run(words, check=False, capture_output=True, text=True, timeout=30)
    return done.returncode, done.stdout


def test_the_doctor_names_the_first_missing_layer_and_the_next_step(root):
    code, text = doctor(root)
    assert code == 5
    assert "first missing layer: driver\nnext step: see dmesg" in text
    code, text = doctor(root, "--output", "json")
    document = json.loads(text)
    assert code == 5
    assert document["first_missing"] == "driver"
    assert document["next_step"].startswith("see dmesg")
    assert [layer["layer"] for layer in document["layers"]] == [layer.value for layer in Layer]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make device nodes")
def test_on_a_good_node_without_a_kubelet_only_aesm_is_left_to_do(root):
    try:
        for name, minor in (("sgx_enclave", 125), ("sgx_provision", 126)):
            path = root / "dev" / name
            path.parent.mkdir(exist_ok=True)
            os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(10, minor))
            path.chmod(0o660)
    except PermissionError:
        pytest.skip("device nodes cannot be made here")
    (root / "var/lib/kubelet/device-plugins").rmdir()
    _, text = doctor(root, "--output", "json")
    document = json.loads(text)
    states = {layer["layer"]: layer["state"] for layer in document["layers"]}
    assert states.pop("plugin") == "unknown"
    states.pop("aesm")  # somebody may serve one on this machine
    assert set(states.values()) == {"ok"}
    permissions = next(layer for layer in document["layers"] if layer["layer"] == "permissions")
    assert "supplementalGroups: [0]" in permissions["next_step"]


# --- what up starts


def test_on_hardware_the_daemons_are_told_so(short_tmp):
    options = up.Options(StateDirectory(short_tmp), simulated=False)
    helper, agent = up._quote_helper(options).argv, up._agent(options).argv
    assert helper[helper.index("--backend") + 1] == "dcap"
    assert "--provision-socket" not in helper
    assert not any(word.startswith("--simulated") for word in agent)
