# SPDX-License-Identifier: Apache-2.0
"""The programs of the examples, started as their containers start them, on the SIMULATED platform of this machine."""

import base64
import os
import subprocess
import sys
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest

from benchmarks import node
from kubenclave.sgx.quote import Quote
from tests.waiting import PATIENCE, eventually

ROOT = Path(__file__).parents[2]
SERVER = ROOT / "examples/web-server/server.py"
IN_PROCESS = ROOT / "examples/in-process/quote.py"
URL = "http://127.0.0.1:8080"


@pytest.fixture(scope="module")
def platform():
    with node.places() as where, node.simulator(where), node.quote_helper(where):
        yield where


def environment(where):
    return {
        **os.environ,
        "HOME": str(where.root),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "KUBENCLAVE_AESM_SOCKET": str(where.aesm),
        "KUBENCLAVE_SIM_CPU": str(where.cpu),
        "KUBENCLAVE_SIM_PROVISION": str(where.provision),
    }


def in_enclave(program):
    return [sys.executable, "-m", "kubenclave", "sim", "run", "--", str(program)]


@contextmanager
def server(*command, env):
    with subprocess.Popen(command, env=env, stderr=subprocess.DEVNULL) as process:
        try:
            eventually(lambda: answer("/healthz") == (200, b"ok\n"))
            yield
        finally:
            process.terminate()


def answer(path):
    try:
        with urllib.request.urlopen(URL + path, timeout=PATIENCE) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()
    except OSError:
        return None


# One test: the server has one port, and tests may run side by side.
def test_web_server(platform):
    env = environment(platform)
    with server(*in_enclave(SERVER), env=env):
        status, quote = answer("/quote?nonce=00ff")
        assert status == 200
        assert Quote.parse(quote).body.report_data == b"\x00\xff".ljust(64, b"\0")
        for nonsense in ("", "zz", "00" * 65):
            assert answer(f"/quote?nonce={nonsense}")[0] == 400
        assert answer("/else")[0] == 404
    with server(sys.executable, str(SERVER), env=env):
        assert answer("/quote?nonce=00ff") == (503, b"not started in an enclave\n")
    with server(*in_enclave(SERVER), env={**env, "KUBENCLAVE_AESM_SOCKET": "/nowhere"}):
        status, text = answer("/quote?nonce=00ff")
        assert status == 503
        assert b"no answer from the AESM socket" in text


def test_in_process(platform):
    done = subprocess.run(in_enclave(IN_PROCESS), env=environment(platform), capture_output=True, check=True)
    quote = Quote.parse(base64.b64decode(done.stdout))
    assert quote.body.report_data.rstrip(b"\0") == b"made in process"


def test_in_process_without_an_enclave(platform):
    done = subprocess.run(
        [sys.executable, str(IN_PROCESS)], env=environment(platform), capture_output=True, check=False
    )
    assert done.returncode == 1
    assert b"kubenclave sim run" in done.stderr
