# SPDX-License-Identifier: Apache-2.0
"""The command ``kubenclave``: a table of nouns, each imported when it is used.

Exit codes: 0 good, 1 the verdict is no, 2 misuse, 3 bad input, 4 not reachable, 5 platform, 70 a mistake of ours,
130 interrupted, 141 nobody reads the output.
"""

import io
import itertools
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, TextIO

import click

from kubenclave import __version__
from kubenclave.cli import kit
from kubenclave.cli.lazy import LazyGroup
from kubenclave.errors import KubenclaveError, PlatformError, UsageError

PROGRAM: Final = "kubenclave"

# Noun: its one line in the help. The module or package of the same name in this folder holds it as ``command``.
NOUNS: Final = {
    "demo": "Show all of it in one run: EPC, enclave, quote, verdict.",
    "up": "Run the node daemons on this machine, without Kubernetes.",
    "run": "Run a command or a Pod manifest with the EPC it asks for.",
    "doctor": "Find out what is missing on a node, in a cluster, for a pod.",
    "quote": "Get, show and verify quotes.",
    "collateral": "Show collateral and how long it is good.",
    "policy": "Check and test appraisal policies.",
    "attest": "Run the attestation service; read and check tokens.",
    "node": "Run the daemons of a node: agent, quote-helper.",
    "cluster": "Run and print what a cluster needs once: policies, webhook, exporter.",
    "sim": "Run and use the SIMULATED SGX platform.",
    "completion": "Print the completion script of a shell.",
    "version": "Print the version.",
}


# Errors that come before --output was read.
_BEFORE_OPTIONS: Final = frozenset({"cli.misuse", "cli.extra"})

# Extras by the packages that only they bring; what else may be missing comes with ``local``.
_EXTRAS: Final = {
    **dict.fromkeys(("httpx2", "lightkube", "starlette", "uvicorn"), "cluster"),
    **dict.fromkeys(("jmespath", "joserfc"), "services"),
}


class _NobodyReadsError(Exception):
    """Stdout is closed; no OSError, so that it passes through click."""


@contextmanager
def _closed_pipe_told_apart() -> Iterator[None]:
    """Let a reader that went away not look like exit code 1, which click would make of it."""
    try:
        yield
    except BrokenPipeError as error:
        raise _NobodyReadsError from error


class Nouns(LazyGroup):
    """The nouns; a reader that went away is told apart here, once for all commands."""

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        """Read the command line, which may print help."""
        with _closed_pipe_told_apart():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        with _closed_pipe_told_apart():
            return super().invoke(ctx)


@click.group(
    PROGRAM,
    cls=Nouns,
    package="kubenclave.cli",
    table=NOUNS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
    epilog=kit.examples(
        "kubenclave demo                          everything once, on a SIMULATED platform",
        "kubenclave up                            keep the daemons running",
        "kubenclave run --epc 64Mi --quote -- ./app",
        "kubenclave quote verify QUOTE --collateral FILE --at 2025-06-19T10:15:00Z",
    ),
)
@click.version_option(__version__, prog_name=PROGRAM)
def cli() -> None:
    """Intel SGX application enclaves: EPC for workloads, quotes, verdicts, and a simulated platform to try it all."""


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command line (that of the process by default) and return its exit code."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    try:
        code = _run(words, kit.Invocation())
        if sys.stdout is not None:  # it is where a shell closed it (>&-): then the exit code is the whole answer
            sys.stdout.flush()  # here, where it can still be noticed that nobody reads
    except (_NobodyReadsError, BrokenPipeError):
        _let_go(sys.stdout)
        return kit.ExitCode.BROKEN_PIPE
    except KeyboardInterrupt:
        return kit.ExitCode.INTERRUPTED
    except OSError:  # a full disk, and nowhere to say so: not to be taken for a refusal, whose code an exception has
        _let_go(sys.stdout)
        _let_go(sys.stderr)
        return kit.ExitCode.PLATFORM
    return code


def _let_go(stream: TextIO | None) -> None:
    """Keep the interpreter from flushing what cannot be written at its end."""
    if stream is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _run(words: Sequence[str], invocation: kit.Invocation) -> int:
    try:
        result = cli.main(args=words, prog_name=PROGRAM, obj=invocation, standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return kit.ExitCode.MISUSE
    except click.exceptions.Abort:
        return kit.ExitCode.INTERRUPTED
    except (_NobodyReadsError, BrokenPipeError):
        raise
    except Exception as error:  # noqa: BLE001 - also a mistake of ours must not end like a verdict
        failure = _as_ours(error)
        if failure.code in _BEFORE_OPTIONS:
            invocation.output = _form(words)
        kit.report(failure, invocation.output)
        return failure.exit_code
    return result if isinstance(result, int) else kit.ExitCode.GOOD


class _MistakeError(KubenclaveError):
    """We are wrong; an exit code that nothing else has."""

    exit_code = kit.ExitCode.INTERNAL


def _as_ours(error: Exception) -> KubenclaveError:
    """Return what is to be reported; of what nobody foresaw the traceback goes to stderr."""
    if isinstance(error, KubenclaveError):
        return error
    if isinstance(error, click.ClickException):
        return _misuse(error)
    if isinstance(error, OSError):
        return PlatformError(f"{error.strerror or error}: {error.filename or 'no file'}", code="cli.os")
    if isinstance(error, ModuleNotFoundError) and error.name and error.name.partition(".")[0] != PROGRAM:
        return PlatformError(
            f"this command needs the Python package {error.name}",
            code="cli.extra",
            hint=f"pip install '{PROGRAM}[{_EXTRAS.get(error.name.partition('.')[0], 'local')}]'",
        )
    import traceback

    traceback.print_exception(error)
    return _MistakeError(
        f"mistake in {PROGRAM}: {type(error).__name__}",
        code="cli.internal",
        hint="please report it with the lines above",
    )


def _form(words: Sequence[str]) -> kit.OutputFormat:
    """Return the form asked for by a command line that could not be parsed."""
    own = list(words[: words.index("--")]) if "--" in words else list(words)
    pairs = {*itertools.pairwise(own), *(tuple(word.split("=", 1)) for word in own)}
    return kit.OutputFormat.JSON if ("--output", "json") in pairs else kit.OutputFormat.TEXT


def _misuse(error: click.ClickException) -> UsageError:
    """Return click's complaint as an error of ours."""
    context = error.ctx if isinstance(error, click.UsageError) else None
    hint = f"see {context.command_path} --help" if context is not None else None
    message = " ".join(error.format_message().split()).rstrip(".")  # choices stand in lines of their own
    return UsageError(message[:1].lower() + message[1:], code="cli.misuse", hint=hint)


def main() -> None:
    """Entry point of the console script."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal without Unicode is no reason to fail
    sys.exit(run())
