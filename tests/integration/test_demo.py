# SPDX-License-Identifier: Apache-2.0
"""``kubenclave demo``: the whole stack in one run, what it leaves behind, and how it ends early."""

import datetime as dt
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import kubenclave
from kubenclave import Collateral, Policy
from tests.waiting import eventually

PROGRAM = [sys.executable, "-m", "kubenclave", "demo"]


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> tuple[subprocess.CompletedProcess[str], Path]:
    """One run in JSON, and the folder in which it kept what it made."""
    kept = tmp_path_factory.mktemp("demo") / "kept"
    done = subprocess.run(
        [*PROGRAM, "--keep", str(kept), "--output", "json"], check=False, capture_output=True, text=True, timeout=100
    )
    return done, kept


@pytest.fixture
def temporary(short_tmp: Path) -> Iterator[dict[str, str]]:
    """An environment whose temporary folder is ours to look into; at the end it has to be empty."""
    yield {**os.environ, "TMPDIR": str(short_tmp)}
    assert list(short_tmp.iterdir()) == []
    assert processes_in(short_tmp) == []


def processes_in(folder: Path) -> list[str]:
    """Return the command lines of processes whose working folder is below ``folder``."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cwd").readlink().is_relative_to(folder):
                found.append((process / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue
    return found


def test_every_step_ends_as_it_has_to(demo):
    done, _ = demo
    document = json.loads(done.stdout)
    assert [(step["title"], step["found"]) for step in document["steps"] if not step["good"]] == []
    assert done.returncode == 0
    assert (document["good"], document["simulated"], len(document["steps"])) == (True, True, 10)
    assert document["seconds"] < 60
    assert done.stderr == ""  # quiet when piped


def test_the_device_plugin_granted_what_was_asked_for(demo):
    done, _ = demo
    facts = [(fact["name"], fact["value"]) for fact in json.loads(done.stdout)["steps"][2]["facts"]]
    assert ("EPC granted", "64Mi") in facts
    assert any(name == "device granted" and value.startswith("sgx.intel.com/enclave: ") for name, value in facts)
    assert ("mount", "/var/run/aesmd (read-only)") in facts


def test_the_green_verdict_is_appraised_and_simulated(demo):
    done, _ = demo
    verdict = json.loads(done.stdout)["verdict"]
    assert (verdict["accepted"], verdict["appraised"], verdict["simulated"]) == (True, True, True)
    assert (verdict["tcb_status"], verdict["report_data_checked"]) == ("UpToDate", True)


def test_the_refusals_are_for_the_right_reasons(demo):
    done, _ = demo
    found = [step["found"] for step in json.loads(done.stdout)["steps"][7:]]
    assert found == ["refused: pck.untrusted-root", "refused: policy.mr-enclave", "refused: epc.short"]


def test_the_service_made_it_a_token_that_somebody_else_takes(demo):
    done, kept = demo
    got, taken = json.loads(done.stdout)["steps"][5:7]
    assert (got["found"], taken["found"]) == ("a token", "accepted, SIMULATED")
    assert (kept / "token.jwt").read_text().count(".") == 2


def test_what_it_kept_verifies_with_the_library(demo):
    _, kept = demo
    verdict = kubenclave.verify_quote(
        (kept / "quote.bin").read_bytes(),
        Collateral.from_json((kept / "collateral.json").read_bytes()),
        at=dt.datetime.now(dt.UTC),
        root=(kept / "root.der").read_bytes(),
        policy=Policy.from_toml((kept / "policy.toml").read_text()),
    )
    assert (verdict.appraised, verdict.simulated) == (True, True)
    assert '"up.ready"' in (kept / "up.log").read_text()


def test_as_text_it_tells_numbered_steps_and_ends_with_a_table(temporary):
    done = subprocess.run(PROGRAM, check=False, capture_output=True, text=True, timeout=100, env=temporary)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("SIMULATED platform: nothing here is protected by hardware\n")
    for number in range(1, 11):
        assert f"\n[{number}/10] " in done.stdout
    assert "$ kubenclave quote verify quote.bin" in done.stdout
    assert "STEP " in done.stdout.splitlines()[-13]
    assert "10 of 10 steps ended as they have to" in done.stdout.splitlines()[-1]
    assert "SIMULATED" in done.stdout.splitlines()[-1]


@pytest.mark.parametrize(
    ("step", "numbers"),
    [(1, [signal.SIGINT]), (3, [signal.SIGINT, signal.SIGINT]), (2, [signal.SIGTERM])],
    ids=["ctrl-c", "ctrl-c twice", "sigterm"],
)
def test_ended_early_it_leaves_nothing_behind(numbers, step, temporary):
    child = subprocess.Popen(
        PROGRAM, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=temporary
    )
    assert child.stdout is not None
    for line in child.stdout:
        if line.startswith(f"[{step}/10]"):
            break
    eventually(lambda: processes_in(Path(temporary["TMPDIR"])) or child.poll() is not None, what="what it starts")
    assert child.poll() is None, child.communicate()
    for number in numbers:
        child.send_signal(number)
    _, said = child.communicate(timeout=30)
    # CPython ends by SIGINT itself when the interrupt came in the middle of an import; for a shell that is 130 too.
    assert child.returncode in (130, -signal.SIGINT), said
    assert "Traceback" not in said


def test_without_hardware_the_hardware_demo_says_so_at_once():
    if Path("/dev/sgx_enclave").exists():
        pytest.skip("this machine has SGX")
    done = subprocess.run([*PROGRAM, "--hardware"], check=False, capture_output=True, text=True, timeout=30)
    assert done.returncode == 5
    assert "error[demo.no-sgx]" in done.stderr
    assert "kubenclave doctor node" in done.stderr


def test_a_folder_to_keep_things_in_that_cannot_be_made_is_misuse(tmp_path):
    (tmp_path / "file").touch()
    done = subprocess.run(
        [*PROGRAM, "--keep", str(tmp_path / "file" / "kept")], check=False, capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 2
    assert "error[demo.folder]" in done.stderr
