# SPDX-License-Identifier: Apache-2.0
"""The demo's own machinery: steps that go wrong, hardware, commands that do not come up or do not end."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import click
import pytest

from kubenclave.cli import kit, main
from kubenclave.cli.demo import scenes, stage
from kubenclave.cli.demo.scenes import StopError, Teller
from kubenclave.cli.demo.stage import Done, Interruptions, Stage, staged
from kubenclave.errors import PlatformError, UnreachableError, UsageError
from kubenclave.platform.simulated.signing import development_key

GRANTED = {
    "exit_code": 0,
    "epc_bytes": 1 << 20,
    "isolation": "environment",
    "granted": [
        {
            "name": "true",
            "allotments": [
                {
                    "resource": "sgx.intel.com/enclave",
                    "devices_ids": ["enclave-7"],
                    "envs": {},
                    "mounts": [{"container_path": "/var/run/aesmd", "host_path": "/x", "read_only": False}],
                    "devices": [{"container_path": "/dev/sgx_enclave", "host_path": "/dev/sgx_enclave"}],
                }
            ],
        }
    ],
}
READY = {"ready": True, "epc_bytes": 2 << 20, "devices": {"sgx.intel.com/enclave": 1}, "aesm_socket": "/a"}
SHORT = {"error": {"code": "epc.short", "message": "not enough EPC"}}


@pytest.fixture(scope="module")
def key(tmp_path_factory) -> Path:
    """A signing key; making one takes long."""
    path: Path = tmp_path_factory.mktemp("key") / "key.pem"
    development_key(path)
    return path


@pytest.fixture
def folder(tmp_path, key) -> Path:
    """A folder for a stage, with the key of the demo's enclave."""
    shutil.copyfile(key, tmp_path / "key.pem")
    return Path(tmp_path)


class Script(Stage):
    """A stage on which commands end as written: by their first word that is in the script."""

    def __init__(self, folder: Path, endings: dict[str, Done], *, makes: tuple[str, ...] = ()) -> None:
        super().__init__(folder)
        self.endings = endings
        self.makes = makes
        self.called: list[tuple[str, ...]] = []

    def call(self, *words: str) -> Done:
        self.called.append(words)
        for name in self.makes:
            (self.folder / name).write_bytes(b"made")
        return next(ending for name, ending in self.endings.items() if name in words)

    @contextmanager
    def beside(self, *words: str, log: str, ready: Any) -> Iterator[dict[str, Any]]:
        assert ready(READY)
        yield READY


def played(teller: Teller) -> list[tuple[bool, str]]:
    return [(step.good, step.found) for step in teller.steps]


def test_on_hardware_it_shows_epc_device_and_quoting_enclave(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(scenes, "has_sgx", lambda: True)
    script = Script(tmp_path, {"1Mi": Done(0, GRANTED, ""), "3Mi": Done(5, SHORT, "")}, makes=("target.bin",))
    teller = Teller(hardware=True)
    teller.open()
    with ExitStack() as stack:
        scenes.hardware(script, teller, stack)
    assert played(teller) == [(True, "ready"), (True, "its target info"), (True, "refused: epc.short")]
    document = teller.document(1.5, None)
    assert (document["good"], document["simulated"]) == (True, False)
    shown = capsys.readouterr().out
    assert "SIMULATED" not in shown + teller.summary(document)
    assert "/dev/sgx_enclave" in shown
    assert "by environment alone" in shown


def test_on_hardware_without_a_quoting_enclave_it_stops(tmp_path, monkeypatch):
    monkeypatch.setattr(scenes, "has_sgx", lambda: True)
    script = Script(tmp_path, {"1Mi": Done(4, {}, "one\nerror[aesm.unreachable]: nobody\n")})
    teller = Teller(hardware=True)
    with ExitStack() as stack:
        scenes.hardware(script, teller, stack)
    assert played(teller)[1] == (False, "exit code 4: error[aesm.unreachable]: nobody")
    assert len(teller.steps) == 2
    document = teller.document(1.5, tmp_path)
    assert document["good"] is False
    assert "1 of 3 steps" in teller.summary(document)
    assert f"kept in {tmp_path}" in teller.summary(document)


def test_without_sgx_there_is_no_hardware_demo(tmp_path, monkeypatch):
    monkeypatch.setattr(scenes, "has_sgx", lambda: False)
    with pytest.raises(PlatformError) as caught, ExitStack() as stack:
        scenes.hardware(Script(tmp_path, {}), Teller(hardware=True), stack)
    assert caught.value.code == "demo.no-sgx"


@pytest.mark.parametrize(
    ("endings", "last"),
    [
        pytest.param({"policy": Done(3, {}, "")}, "exit code 3", id="policy"),
        pytest.param({"policy": Done(0, {"relaxations": []}, ""), "run": Done(5, SHORT, "")}, "not enough", id="run"),
        pytest.param(
            {"policy": Done(0, {"relaxations": []}, ""), "run": Done(0, {}, "no quote came\n")},
            "exit code 0: no quote came",
            id="no quote",
        ),
    ],
)
def test_what_others_rest_on_ends_the_demo_when_it_goes_wrong(endings, last, folder):
    teller = Teller(hardware=False)
    with ExitStack() as stack:
        scenes.simulated(Script(folder, endings), teller, stack)
    good, found = played(teller)[-1]
    assert not good
    assert last in found
    assert len(teller.steps) < 8
    assert teller.document(1.0, None)["good"] is False


QUOTE = {"mr_enclave": "aa", "report_data": "bb" * 64, "version": 3, "size": 4000}
VERDICT = {
    "appraised": False,
    "tcb_status": "OutOfDate",
    "report_data_checked": False,
    "quote": {"mr_enclave": "aa"},
    "platform": {"status": "OutOfDate"},
    "qe": {"status": "UpToDate"},
    "relaxations": [],
}


def endings(**changes: Done) -> dict[str, Done]:
    """Return endings of the whole demo; by words that occur in one command only."""
    usual = {
        "check": Done(0, {"relaxations": []}, ""),
        "workload": Done(0, GRANTED, ""),
        "show": Done(0, {**QUOTE, "verified": True, "earliest_expiration": "later"}, ""),
        "sim": Done(0, {}, ""),
        "--report-data": Done(0, VERDICT, ""),
        "other-policy.toml": Done(1, {"error": {"code": "policy.mr-enclave", "message": "no"}}, ""),
        "verify": Done(1, {"error": {"code": "pck.untrusted-root", "message": "no", "hint": "--root"}}, ""),
        "true": Done(5, SHORT, ""),
    }
    return {name.replace("workload", "./workload"): ending for name, ending in (usual | changes).items()}


def test_a_verdict_that_is_not_appraised_is_wrong(folder):
    teller = Teller(hardware=False)
    with ExitStack() as stack:
        scenes.simulated(Script(folder, endings(), makes=("quote.bin", "here")), teller, stack)
    assert played(teller)[-1] == (False, "accepted, NOT APPRAISED, OutOfDate")
    assert teller.verdict == VERDICT


def test_a_quote_that_is_refused_is_wrong(folder):
    changed = endings()
    changed["--report-data"] = Done(1, SHORT, "")
    teller = Teller(hardware=False)
    with ExitStack() as stack:
        scenes.simulated(Script(folder, changed, makes=("quote.bin",)), teller, stack)
    assert played(teller)[-1] == (False, "exit code 1: not enough EPC")


def test_collateral_that_does_not_come_is_wrong(folder):
    changed = endings(sim=Done(2, {}, ""))
    teller = Teller(hardware=False)
    with ExitStack() as stack:
        scenes.simulated(Script(folder, changed, makes=("quote.bin",)), teller, stack)
    assert played(teller)[-1] == (False, "exit code 2")


def test_a_refusal_that_does_not_come_is_wrong_and_the_rest_is_shown_all_the_same(folder):
    good = {**VERDICT, "appraised": True, "tcb_status": "UpToDate", "report_data_checked": True}
    changed = endings()
    changed["--report-data"] = changed["verify"] = Done(0, good, "")
    (folder / "here").touch()
    teller = Teller(hardware=False)
    with ExitStack() as stack:
        scenes.simulated(Script(folder, changed, makes=("quote.bin",)), teller, stack)
    assert [good for good, _ in played(teller)] == [True] * 5 + [False, True, True]
    assert played(teller)[5] == (False, "exit code 0")
    assert "WRONG: exit code 0" in click.unstyle(teller.summary(teller.document(1.0, None)))


def test_an_error_in_the_first_step_is_an_error_of_the_demo():
    teller = Teller(hardware=False)
    with pytest.raises(UnreachableError), teller.step("one", "up", wanted="ready"):
        raise UnreachableError("nobody", code="a.b")


def test_an_error_in_a_later_step_is_how_it_ended():
    teller = Teller(hardware=False)
    with teller.step("one", "up", wanted="ready") as step:
        step.found = "ready"
    with pytest.raises(StopError), teller.step("two", "run", wanted="a quote"):
        raise UnreachableError("nobody", code="a.b")
    assert played(teller)[1] == (False, "a.b: nobody")


def test_a_demo_with_a_wrong_step_ends_with_exit_code_1(monkeypatch, capsys):
    monkeypatch.setattr(scenes, "simulated", lambda *_: None)
    assert main.run(["demo", "--output", "json"]) == 1
    assert json.loads(capsys.readouterr().out)["good"] is False


def test_in_json_steps_are_told_on_a_terminal_only(monkeypatch, capsys):
    with click.Context(click.Command("demo"), obj=kit.Invocation(kit.OutputFormat.JSON)):
        teller = Teller(hardware=False)
        teller.open()
        monkeypatch.setattr("sys.stderr.isatty", lambda: True)
        teller.open()
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("SIMULATED") == 1


@pytest.fixture
def program(tmp_path) -> Any:
    """Return a stage, and how to say what its command ``kubenclave`` does: a shell script."""
    (tmp_path / "bin").mkdir()
    made = Stage(tmp_path)

    def does(script: str) -> Stage:
        path = tmp_path / "bin" / "kubenclave"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return made

    yield does
    assert made.running == []


def test_output_json_belongs_to_our_command_not_to_one_behind_a_dash(program):
    done = program('echo "$@" >&2; echo "{}"').call("run", "--epc", "1Mi", "--", "app", "--", "x")
    assert done == Done(0, {}, "run --epc 1Mi --output json -- app -- x\n")
    assert program('echo "$@" >&2').call("version").said == "version --output json\n"


@pytest.mark.parametrize("printed", ["", "nonsense", "[1]"], ids=["nothing", "no JSON", "a list"])
def test_what_is_not_a_document_is_an_empty_one(printed, program):
    done = program(f"echo '{printed}'; exit 3").call("version")
    assert (done.exit_code, done.document, done.error_code) == (3, {}, None)


def test_the_code_of_an_error_is_read(program):
    assert program("""echo '{"error": {"code": "a.b"}}'""").call("version").error_code == "a.b"


def test_a_command_that_does_not_end_is_ended(program, monkeypatch):
    monkeypatch.setattr(stage, "COMMAND_DEADLINE", 0.2)
    with pytest.raises(PlatformError) as caught:
        program("exec sleep 60").call("version")
    assert caught.value.code == "demo.stuck"
    assert "'kubenclave version' has not ended" in str(caught.value)


def test_a_command_that_ignores_the_request_is_killed(program, monkeypatch):
    monkeypatch.setattr(stage, "END_DEADLINE", 0.2)
    ready = program("""trap '' TERM; echo '{"ready": true}'; while :; do sleep 0.1; done""")
    with ready.beside("up", log="up.log", ready=lambda printed: "ready" in printed) as printed:
        (child,) = ready.running
        assert printed == {"ready": True}
    assert child.returncode == -9


@pytest.mark.parametrize(
    ("script", "code", "said"),
    [
        ("echo one >&2; echo last >&2; exit 5", "demo.not-ready", "'kubenclave up' ended with exit code 5: last"),
        ("exit 5", "demo.not-ready", "it said nothing"),
        ("""echo '{"error": {"code": "a.b", "message": "reason", "hint": "do"}}'; exit 4""", "a.b", "reason"),
        ("exec sleep 60", "demo.not-ready", "is not ready in time"),
    ],
    ids=["log", "silence", "error", "late"],
)
def test_a_command_that_does_not_come_up_says_why(script, code, said, program, monkeypatch):
    monkeypatch.setattr(stage, "READY_DEADLINE", 0.5)
    with pytest.raises(PlatformError) as caught, program(script).beside("up", log="l", ready=lambda _: False):
        pytest.fail("it is not ready")
    assert caught.value.code == code
    assert said in str(caught.value)


def test_a_stage_has_this_installation_as_its_command_and_is_cleared_away():
    with staged(None, ()) as made:
        assert sys.executable in (made.folder / "bin" / "kubenclave").read_text()
        assert made.call("version").document["kubenclave"]
    assert not made.folder.exists()


def test_what_is_to_be_kept_is_kept_also_after_an_error(tmp_path):
    with pytest.raises(KeyError), staged(tmp_path / "kept", ("a", "b")) as made:
        (made.folder / "a").write_text("x")
        raise KeyError
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["a"]


def test_what_cannot_be_kept_is_cleared_away_all_the_same(tmp_path):
    (tmp_path / "kept" / "a").mkdir(parents=True)
    with pytest.raises(IsADirectoryError), staged(tmp_path / "kept", ("a",)) as made:
        (made.folder / "a").write_text("x")
    assert not made.folder.exists()


def test_a_stage_without_a_folder_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UsageError) as caught, staged(tmp_path / "file" / "x", ()):
        pytest.fail("there is no folder")
    assert caught.value.code == "demo.folder"


def test_a_long_name_of_the_temporary_folder_leaves_no_room_for_sockets(tmp_path, monkeypatch):
    long = tmp_path / ("x" * 60)
    long.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(long))
    with staged(None, ()) as made:
        assert made.folder.parent == Path("/tmp")


def test_an_interruption_waits_where_something_must_not_be_left_half_done():
    interruptions = Interruptions()
    done = []
    with pytest.raises(KeyboardInterrupt), interruptions.installed(), interruptions.held():
        with interruptions.held():
            os.kill(os.getpid(), signal.SIGTERM)
        done.append("outer")
    assert done == ["outer"]


def test_only_the_first_interruption_counts():
    interruptions = Interruptions()
    with interruptions.installed():
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGHUP)
        with interruptions.held():
            os.kill(os.getpid(), signal.SIGTERM)


def test_signals_are_as_before_behind_it():
    before = signal.getsignal(signal.SIGHUP)
    with Interruptions().installed():
        assert signal.getsignal(signal.SIGHUP) != before
    assert signal.getsignal(signal.SIGHUP) == before


def test_what_still_runs_is_ended_with_the_stage():
    with pytest.raises(KeyError), staged(None, ()) as made:
        (made.folder / "bin" / "kubenclave").write_text("#!/bin/sh\nexec sleep 60\n")
        child = made._start(("up",), subprocess.DEVNULL, subprocess.DEVNULL)
        raise KeyError
    assert child.returncode == -signal.SIGTERM
