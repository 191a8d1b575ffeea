# SPDX-License-Identifier: Apache-2.0
"""What all commands share: how results, errors and progress reach people and programs.

Results go to stdout: text, or one JSON document with ``--output json``. Everything said on the way goes to stderr.
"""

import errno
import json
import os
import stat
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from pathlib import Path
from typing import Any, Final, NoReturn, TextIO, TypeVar

import click

from kubenclave.errors import Finding, KubenclaveError, PolicyError, UsageError, VerificationError

MAX_INPUT: Final = 64 << 20

_Function = TypeVar("_Function", bound=Callable[..., Any])


class ExitCode(IntEnum):
    """What a process exit of ours means."""

    GOOD = 0
    REFUSED = 1
    MISUSE = 2
    BAD_INPUT = 3
    UNREACHABLE = 4
    PLATFORM = 5
    INTERNAL = 70
    INTERRUPTED = 130
    BROKEN_PIPE = 141


class OutputFormat(StrEnum):
    """Form of results and errors."""

    TEXT = "text"
    JSON = "json"


@dataclass(slots=True)
class Invocation:
    """One run of the command line; outlives click's contexts, so that errors come out in the form asked for."""

    output: OutputFormat = OutputFormat.TEXT


def _remember(context: click.Context, _parameter: click.Parameter, value: str) -> None:
    invocation(context).output = OutputFormat(value)


def invocation(context: click.Context | None = None) -> Invocation:
    """Return what belongs to the running command."""
    current = click.get_current_context(silent=True) if context is None else context
    return (current.find_object(Invocation) if current else None) or Invocation()


def output_option(function: _Function) -> _Function:
    """Give a command ``--output text|json``, which ``emit`` and errors follow."""
    option = click.option(
        "--output",
        type=click.Choice([form.value for form in OutputFormat]),
        default=OutputFormat.TEXT.value,
        show_default=True,
        is_eager=True,
        expose_value=False,
        callback=_remember,
        help="Form of the result on stdout.",
    )
    return option(function)


def wants_json() -> bool:
    """Tell whether the running command was given ``--output json``."""
    return invocation().output is OutputFormat.JSON


def emit(data: Any, text: str) -> None:
    """Print the result: ``data`` as JSON, or ``text``, whichever was asked for."""
    click.echo(json.dumps(data, indent=2) if wants_json() else text)


def finish(code: int) -> NoReturn:
    """End the command with this exit code."""
    raise click.exceptions.Exit(code)


def say(text: str) -> None:
    """Say something on the way, on stderr."""
    click.echo(text, err=True)


def progress(text: str) -> None:
    """Say how far a longer work has come: on a terminal only."""
    if sys.stderr is not None and sys.stderr.isatty():
        say(text)


def warn(text: str) -> None:
    """Say loudly what nobody should overlook."""
    say(click.style(text, fg="yellow", bold=True))


def report(error: KubenclaveError, form: OutputFormat) -> None:
    """Show an error: code, message, findings and hint on stderr, or one JSON object on stdout.

    A verdict that is no says so in JSON (``accepted``), where a verdict that is yes has the same key.
    """
    refused = isinstance(error, VerificationError)
    if form is OutputFormat.JSON:
        document = {**({"accepted": False} if refused else {}), "error": error.as_dict()}
        click.echo(json.dumps(document, indent=2))
        return
    mark = click.style("refused" if refused else "error", fg="red", bold=True)
    if isinstance(error, PolicyError):
        say(f"{mark}[{error.code}]: not what is wanted\n{finding_lines(error.findings)}")
    else:
        say(f"{mark}[{error.code}]: {printable(error.summary)}")
        rows = (("  expected", error.expected), ("  found", error.found))
        if given := [(name, printable(value)) for name, value in rows if value is not None]:
            say(table(given))
    if error.hint:
        say(hint_text(error.hint))


def hint_text(hint: str) -> str:
    """Return a hint as text; further lines, as those that show a place with a caret, are aligned with the first."""
    return "hint: " + "\n      ".join(printable(line) for line in hint.split("\n"))


def printable(text: str) -> str:
    """Return foreign text with everything escaped that a terminal would obey or not show."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def finding_lines(findings: Iterable[Finding]) -> str:
    """Return findings as text: what was expected above what was found, so that the eye can compare them."""
    rows = []
    for one in findings:
        rows += [
            (f"  {printable(one.field)}", "expected", printable(one.expected)),
            ("", "found", printable(one.found)),
        ]
    return table(rows)


def examples(*lines: str) -> str:
    """Return the examples at the end of a command's help, one a line."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


def table(rows: Iterable[Sequence[str]], *, gap: int = 2) -> str:
    """Return ``rows`` in aligned columns; widths ignore colours."""
    cells = [list(row) for row in rows]
    columns = max((len(row) for row in cells), default=0)
    widths = [
        max((len(click.unstyle(row[column])) for row in cells if column < len(row)), default=0)
        for column in range(columns)
    ]
    lines = []
    for row in cells:
        padded = [cell + " " * (width - len(click.unstyle(cell))) for cell, width in zip(row, widths, strict=False)]
        lines.append((" " * gap).join(padded).rstrip())
    return "\n".join(lines)


def read_input(path: str, *, what: str = "file", limit: int = MAX_INPUT) -> bytes:
    """Return the content of a file, of stdin for ``-``. Raises UsageError where it cannot be read or is too large."""
    try:
        if path == "-":
            content = _opened(sys.stdin).buffer.read(limit + 1)
        else:
            with Path(path).open("rb") as file:
                content = file.read(limit + 1)
    except OSError as error:
        raise UsageError(
            f"cannot read the {what} {path}: {error.strerror or error}",
            code="cli.input",
            hint="check its name and permissions",
        ) from error
    if len(content) > limit:
        raise UsageError(
            f"the {what} {path} is too large",
            code="cli.input-size",
            expected=f"at most {limit} bytes",
            found="more",
        )
    return content


def write_output(path: str, content: bytes, *, what: str = "file", private: bool = False) -> None:
    """Write a result to a file, to stdout for ``-``. Raises UsageError where that cannot be done.

    ``private``: nobody else may read the file, whatever the umask, and whatever its mode was.
    """
    try:
        if path == "-":
            _opened(sys.stdout).buffer.write(content)
            sys.stdout.buffer.flush()
        else:
            with open(path, "wb", opener=_private if private else None) as file:
                file.write(content)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise UsageError(f"cannot write the {what} {path}: {error.strerror or error}", code="cli.output") from error


def _private(path: str, flags: int) -> int:
    """Open a file with mode 0600 before anything is in it; what is no file (a pipe, a terminal) stays as it is."""
    descriptor = os.open(path, flags & ~os.O_TRUNC, 0o600)
    try:
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.fchmod(descriptor, 0o600)
            os.ftruncate(descriptor, 0)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _opened(stream: TextIO | None) -> TextIO:
    """Return a standard stream. Raises OSError where the process was started without it."""
    if stream is None:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    return stream
