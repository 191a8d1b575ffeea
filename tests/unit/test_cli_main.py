# SPDX-License-Identifier: Apache-2.0
"""The command line as a whole: help, completion, errors, exit codes, and how little it loads."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator

import click
import pytest

from kubenclave.cli import kit, main
from kubenclave.errors import PlatformError, TrustError, UnreachableError
from tests.programs import unmeasured

PROGRAM = [sys.executable, "-m", "kubenclave"]
HEAVY = ("cryptography", "msgspec", "asyncio", "google", "grpclib", "yaml", "structlog", "socket", "subprocess")


def commands(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the path of every command below ``command``."""
    yield path
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None, name
            yield from commands(below, (*path, name))


def loaded_by(*words: str) -> set[str]:
    """Return the top-level packages that a run of these words has loaded at its end."""
    code = "import sys; from kubenclave.cli.main import run; run(sys.argv[1:]); print('\\n'.join(sys.modules))"
    argv = [sys.executable, "-c", code, *words]
    done = subprocess.run(argv, check=True, capture_output=True, text=True, env=unmeasured())
    return {name.partition(".")[0] for name in done.stdout.split()}


class Raising:
    """Raises when called."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __call__(self, *_: object) -> None:
        raise self.error


@pytest.fixture
def failing(monkeypatch):
    """Return how to make ``kubenclave version`` fail with an error."""

    def fail_with(error: BaseException) -> None:
        command = click.Command("version", callback=Raising(error))
        kit.output_option(command)
        monkeypatch.setattr("kubenclave.cli.version.command", command)

    return fail_with


def test_every_command_has_a_help_with_an_example(capfd):
    paths = list(commands(main.cli))
    assert len(paths) > 20
    for path in paths:
        code = main.run([*path, "--help"]) if path[:1] != ("node",) or len(path) == 1 else 0
        shown = capfd.readouterr().out
        assert code == 0, path
        if path[:1] != ("node",) or len(path) == 1:
            assert re.search(r"^\s*Examples:\n\s+\S+", shown, re.MULTILINE), path


@pytest.mark.parametrize("daemon", ["agent", "quote-helper"])
def test_daemons_show_their_own_help_with_an_example(daemon):
    done = subprocess.run([*PROGRAM, "node", daemon, "--help"], check=True, capture_output=True, text=True)
    assert "kubenclave node " + daemon in done.stdout
    assert "example" in done.stdout


def test_every_line_of_the_table_is_the_help_of_its_noun():
    context = click.Context(main.cli)
    for noun in main.NOUNS:
        command = main.cli.get_command(context, noun)
        assert command is not None
        assert command.name == noun


RUN_BY_THE_CHART = {("cluster", name) for name in ("webhook", "exporter", "issuer", "cleanup")}


def test_every_command_that_shows_a_result_has_output_json():
    context = click.Context(main.cli)
    for path in commands(main.cli):
        command: click.Command = main.cli
        for name in path:
            assert isinstance(command, click.Group)
            found = command.get_command(context, name)
            assert found is not None
            command = found
        if isinstance(command, click.Group) or path[0] in ("node", "completion") or path in RUN_BY_THE_CHART:
            continue
        assert any("--output" in one.opts for one in command.params), path


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["nonsense"]], ids=["help", "version", "misuse"])
def test_it_loads_next_to_nothing_before_a_noun_is_used(words):
    assert loaded_by(*words) & set(HEAVY) == set()


def test_help_of_quote_loads_no_cryptography():
    assert loaded_by("quote", "verify", "--help") & {"cryptography", "msgspec", "asyncio", "google"} == set()


def test_without_arguments_the_help_goes_to_stderr_and_it_is_misuse(capsys):
    assert main.run([]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Commands:" in captured.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        pytest.param(["nonsense"], "nonsense", id="noun"),
        pytest.param(["version", "--nonsense"], "--nonsense", id="option"),
        pytest.param(["quote", "verify", "q"], "--at", id="missing option"),
        pytest.param(["completion", "tcsh"], "tcsh", id="choice"),
        pytest.param(["attest", "keys", "rotate"], "Choose from: RS256, ES256", id="missing choice"),
        pytest.param(["version", "extra"], "extra", id="argument"),
    ],
)
def test_misuse_says_code_and_hint_on_stderr(words, said, capsys):
    assert main.run(words) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error[cli.misuse]: ")
    assert said in captured.err
    assert "hint: see kubenclave" in captured.err
    assert "--help" in captured.err


@pytest.mark.parametrize(
    "words",
    [
        ["quote", "verify", "q", "--output", "json"],
        ["quote", "verify", "--output=json", "--nonsense"],
        ["version", "extra", "--output", "json"],
    ],
    ids=["option behind", "option before", "argument"],
)
def test_misuse_with_output_json_is_one_document_on_stdout(words, capsys):
    assert main.run(words) == 2
    captured = capsys.readouterr()
    assert json.loads(captured.out)["error"]["code"] == "cli.misuse"
    assert captured.err == ""


def test_a_misspelt_noun_is_recognised(capsys):
    assert main.run(["qoute"]) == 2
    assert "no such command 'qoute'. Did you mean 'quote'?" in capsys.readouterr().err


def test_output_json_behind_a_double_dash_belongs_to_the_command(capsys):
    assert main.run(["version", "extra", "--", "--output", "json"]) == 2
    assert capsys.readouterr().err.startswith("error[cli.misuse]")


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        pytest.param(TrustError("no", code="a.b"), 1, "refused[a.b]: no\n", id="verdict"),
        pytest.param(UnreachableError("nobody", code="a.b", hint="wait"), 4, "hint: wait\n", id="unreachable"),
        pytest.param(PlatformError("lacks", code="a.b"), 5, "error[a.b]: lacks\n", id="platform"),
        pytest.param(
            PlatformError("lacks", code="a.b", field="f", expected="e", found="x"),
            5,
            "error[a.b]: f: lacks\n  expected  e\n  found     x\n",
            id="expected and found",
        ),
        pytest.param(OSError(28, "No space left on device", "f"), 5, "error[cli.os]: No space left", id="os"),
        pytest.param(OSError("odd"), 5, "error[cli.os]: odd: no file", id="os without number"),
        pytest.param(ModuleNotFoundError("x", name="yaml"), 5, "hint: pip install 'kubenclave[local]'", id="extra"),
        pytest.param(
            ModuleNotFoundError("x", name="lightkube.config"),
            5,
            "hint: pip install 'kubenclave[cluster]'",
            id="cluster",
        ),
        pytest.param(KeyboardInterrupt(), 130, "", id="interrupt"),
    ],
)
def test_each_kind_of_failure_has_its_exit_code(error, code, said, failing, capsys):
    failing(error)
    assert main.run(["version"]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert said in captured.err
    assert "Traceback" not in captured.err


@pytest.mark.parametrize(
    "error",
    [RuntimeError("odd"), ModuleNotFoundError("x", name="kubenclave.nowhere"), ModuleNotFoundError("x")],
    ids=["any", "own module", "no name"],
)
def test_a_mistake_of_ours_shows_its_traceback_and_never_ends_like_a_verdict(error, failing, capsys):
    failing(error)
    assert main.run(["version"]) == 70
    captured = capsys.readouterr()
    assert "Traceback" in captured.err
    assert f"error[cli.internal]: mistake in kubenclave: {type(error).__name__}" in captured.err


def test_a_missing_extra_is_said_in_json_too(failing, capsys):
    failing(ModuleNotFoundError("x", name="yaml"))
    assert main.run(["version", "--output", "json"]) == 5
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["code"] == "cli.extra"
    assert "yaml" in error["message"]


def test_a_refusal_in_json_says_accepted_false(failing, capsys):
    failing(TrustError("no", code="a.b", hint="look"))
    assert main.run(["version", "--output", "json"]) == 1
    shown = json.loads(capsys.readouterr().out)
    assert shown == {"accepted": False, "error": {"code": "a.b", "message": "no", "hint": "look"}}


def test_interrupted_while_an_error_is_shown(monkeypatch):
    monkeypatch.setattr(kit, "report", Raising(KeyboardInterrupt()))
    assert main.run(["nonsense"]) == 130


@pytest.mark.parametrize("words", [["version"], ["--help"]], ids=["command", "help"])
def test_a_reader_that_went_away_is_no_verdict(words):
    from_us, to_us = os.pipe()
    os.close(from_us)
    done = subprocess.run([*PROGRAM, *words], check=False, stdout=to_us, stderr=subprocess.PIPE, text=True)
    os.close(to_us)
    assert (done.returncode, done.stderr) == (141, "")


def test_a_reader_that_goes_away_in_the_middle_is_no_verdict():
    code = (
        "import click; from kubenclave.cli import main, version;"
        "version.command.callback = lambda: [click.echo('x' * 4096) for _ in range(100)];"
        "main.main()"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, "version"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert child.stderr is not None
    child.stdout.read(10)
    child.stdout.close()
    said = child.stderr.read()
    child.stderr.close()
    assert (child.wait(10), said) == (141, "")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_script(shell, capfd):
    assert main.run(["completion", shell]) == 0
    script = capfd.readouterr().out
    assert f"_KUBENCLAVE_COMPLETE={shell}_complete" in script
    assert "kubenclave" in script


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash here")
def test_bash_takes_the_script_and_completes_with_it(tmp_path, capfd):
    main.run(["completion", "bash"])
    script = capfd.readouterr().out
    program = tmp_path / "kubenclave"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m kubenclave "$@"\n')
    program.chmod(0o755)
    ask = f"COMP_WORDS=(kubenclave quo); COMP_CWORD=1; _kubenclave_completion {program}; echo ${{COMPREPLY[@]}}"
    done = subprocess.run(
        ["bash", "-c", f"{script}\ncomplete -p kubenclave && {ask}"],
        check=False,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == "quote"


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        pytest.param(["kubenclave", ""], set(main.NOUNS), id="all nouns"),
        pytest.param(["kubenclave", "po"], {"policy"}, id="noun"),
        pytest.param(["kubenclave", "--v"], {"--version"}, id="option of the program"),
        pytest.param(["kubenclave", "quote", ""], {"get", "show", "verify"}, id="verbs"),
        pytest.param(["kubenclave", "quote", "verify", "--dang"], None, id="options"),
    ],
)
def test_completions(words, wanted):
    env = {
        **os.environ,
        "_KUBENCLAVE_COMPLETE": "bash_complete",
        "COMP_WORDS": " ".join(words),
        "COMP_CWORD": str(len(words) - 1),
    }
    done = subprocess.run(PROGRAM, check=False, capture_output=True, text=True, env=env)
    offered = {line.partition(",")[2] for line in done.stdout.splitlines()}
    if wanted is None:
        wanted = {"--dangerously-allow-debug", "--dangerously-accept-expired-collateral"}
    assert offered == wanted


def test_completing_a_noun_loads_none_of_them():
    code = "import sys; from kubenclave.cli.main import cli; cli.shell_complete(None, 'qu'); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env=unmeasured())
    assert not {"kubenclave.cli.quote", "cryptography"} & set(done.stdout.split())


def test_version_in_both_forms(capsys):
    assert main.run(["version"]) == 0
    assert capsys.readouterr().out.startswith("kubenclave ")
    assert main.run(["version", "--output", "json"]) == 0
    assert set(json.loads(capsys.readouterr().out)) == {"kubenclave", "python"}


def test_python_m_is_the_same_program():
    done = subprocess.run([*PROGRAM, "--version"], check=True, capture_output=True, text=True)
    assert done.stdout.startswith("kubenclave, version ")


@pytest.mark.parametrize(("daemon", "module"), [("agent", "agent"), ("quote-helper", "helper")])
def test_daemons_get_their_own_arguments_and_give_their_exit_code(daemon, module, monkeypatch):
    given = []

    def ends(arguments):
        given.extend(arguments)
        return 4

    monkeypatch.setattr(f"kubenclave.node.{module}.main", ends)
    assert main.run(["node", daemon, "--its-own", "x", "--output", "y"]) == 4
    assert given == ["--its-own", "x", "--output", "y"]


def test_a_terminal_without_unicode_is_no_reason_to_fail():
    code = "import click; from kubenclave.cli import main, version;"
    code += "version.command.callback = lambda: click.echo('r\u2016s'); main.main()"
    env = {**os.environ, "PYTHONIOENCODING": "latin-1"}
    done = subprocess.run([sys.executable, "-c", code, "version"], check=False, capture_output=True, text=True, env=env)
    assert (done.returncode, done.stdout, done.stderr) == (0, "r\\u2016s\n", "")
