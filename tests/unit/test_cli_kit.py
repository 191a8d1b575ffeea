# SPDX-License-Identifier: Apache-2.0
"""What commands share: tables, files, the form of results, progress."""

import io
import json
import os

import click
import pytest

from kubenclave.cli import kit
from kubenclave.errors import Finding, PolicyError, UsageError


class Stream(io.StringIO):
    """A stream that says whether it is a terminal."""

    def __init__(self, *, terminal: bool) -> None:
        super().__init__()
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal


def test_columns_are_as_wide_as_what_is_seen_of_them():
    rows = [("a", click.style("red", fg="red"), "x"), ("long", "b", "y"), ("short",)]
    lines = [click.unstyle(line) for line in kit.table(rows).splitlines()]
    assert lines == ["a      red  x", "long   b    y", "short"]


def test_no_rows_make_no_table():
    assert kit.table([]) == ""


@pytest.mark.parametrize("json_wanted", [False, True], ids=["text", "json"])
def test_a_result_comes_in_one_form(json_wanted, capsys):
    form = kit.OutputFormat.JSON if json_wanted else kit.OutputFormat.TEXT
    with click.Context(click.Command("x"), obj=kit.Invocation(form)):
        kit.emit({"a": 1}, "text")
    shown = capsys.readouterr().out
    assert (json.loads(shown) == {"a": 1}) if json_wanted else (shown == "text\n")


def test_outside_of_a_command_the_form_is_text():
    assert kit.invocation().output is kit.OutputFormat.TEXT


@pytest.mark.parametrize("terminal", [False, True], ids=["pipe", "terminal"])
def test_progress_is_for_terminals(terminal, monkeypatch):
    stream = Stream(terminal=terminal)
    monkeypatch.setattr("sys.stderr", stream)
    kit.progress("half")
    assert ("half" in stream.getvalue()) is terminal


def test_all_findings_are_shown_one_above_the_other(capsys):
    findings = [Finding("p.a", "FIELD", "one", "two"), Finding("p.b", "OTHER", "three", "four")]
    kit.report(PolicyError(findings), kit.OutputFormat.TEXT)
    assert capsys.readouterr().err.splitlines() == [
        "refused[policy.refused]: not what is wanted",
        "  FIELD  expected  one",
        "         found     two",
        "  OTHER  expected  three",
        "         found     four",
    ]


@pytest.mark.parametrize("path", ["missing", "."], ids=["missing", "folder"])
def test_a_file_that_cannot_be_read_is_misuse(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError) as caught:
        kit.read_input(path, what="quote")
    assert caught.value.code == "cli.input"
    assert "the quote" in str(caught.value)


def test_input_may_be_as_large_as_the_limit_and_no_larger(tmp_path):
    file = tmp_path / "f"
    file.write_bytes(bytes(10))
    assert kit.read_input(str(file), limit=10) == bytes(10)
    with pytest.raises(UsageError) as caught:
        kit.read_input(str(file), limit=9)
    assert caught.value.code == "cli.input-size"


class Bytes:
    """Stands in for a stream with a ``buffer``."""

    def __init__(self, content: bytes = b"") -> None:
        self.buffer = io.BytesIO(content)


def test_a_dash_reads_stdin(monkeypatch):
    monkeypatch.setattr("sys.stdin", Bytes(b"in"))
    assert kit.read_input("-") == b"in"


def test_a_dash_writes_stdout(monkeypatch):
    out = Bytes()
    monkeypatch.setattr("sys.stdout", out)
    kit.write_output("-", b"out")
    assert out.buffer.getvalue() == b"out"


def test_results_go_to_files(tmp_path):
    kit.write_output(str(tmp_path / "f"), b"out")
    assert (tmp_path / "f").read_bytes() == b"out"


def test_a_file_that_cannot_be_written_is_misuse(tmp_path):
    with pytest.raises(UsageError) as caught:
        kit.write_output(str(tmp_path / "no" / "f"), b"out")
    assert caught.value.code == "cli.output"


def test_a_closed_pipe_is_not_taken_for_a_bad_file(monkeypatch):
    class Gone(io.BytesIO):
        def write(self, _: object) -> int:
            raise BrokenPipeError

    out = Bytes()
    out.buffer = Gone()
    monkeypatch.setattr("sys.stdout", out)
    with pytest.raises(BrokenPipeError):
        kit.write_output("-", b"out")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, ‖ ü", "plain, ‖ ü"),
        ("\x1b[2J", "\\x1b[2J"),
        ("a\nhint: all is well", "a\\nhint: all is well"),
        ("\u202egpj", "\\u202egpj"),
        ("\ud800", "\\ud800"),
    ],
    ids=["plain", "escape", "newline", "direction", "surrogate"],
)
def test_foreign_text_cannot_command_a_terminal(text, shown):
    assert kit.printable(text) == shown


def test_errors_are_shown_without_what_commands_a_terminal(capsys):
    evil = "\x1b]0;owned\x07"
    error = UsageError(evil, code="a.b", field=evil, expected=evil, found=evil, hint=evil)
    kit.report(error, kit.OutputFormat.TEXT)
    kit.report(PolicyError([Finding("p.a", evil, evil, evil)]), kit.OutputFormat.TEXT)
    shown = capsys.readouterr().err
    assert "\x1b" not in shown
    assert shown.count("\\x1b]0;owned\\x07") == 7


@pytest.mark.parametrize("before", [None, 0o644])
def test_a_secret_is_written_for_its_owner_alone(tmp_path, before):
    """Whatever the umask, and whatever mode a file of that name had."""
    path = tmp_path / "secret"
    if before is not None:
        path.write_bytes(b"something longer than that")
        path.chmod(before)
    mask = os.umask(0)
    try:
        kit.write_output(str(path), b"sesame", private=True)
    finally:
        os.umask(mask)
    assert (path.stat().st_mode & 0o777, path.read_bytes()) == (0o600, b"sesame")


def test_a_secret_goes_into_a_pipe_as_well(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        kit.write_output(str(pipe), b"sesame", private=True)
        assert os.read(reader, 100) == b"sesame"
    finally:
        os.close(reader)
    with pytest.raises(UsageError) as caught:
        kit.write_output(str(tmp_path), b"sesame", private=True)
    assert caught.value.code == "cli.output"
