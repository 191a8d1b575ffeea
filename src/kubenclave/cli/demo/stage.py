# SPDX-License-Identifier: Apache-2.0
"""A place of its own where the demo runs our commands as processes, and from which nothing is left behind."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Final

from kubenclave.errors import PlatformError, UsageError

COMMAND_DEADLINE: Final = 60.0
READY_DEADLINE: Final = 30.0
END_DEADLINE: Final = 10.0
POLL: Final = 0.02
MAX_FOLDER: Final = 24

_ENDING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

PROGRAM: Final = "kubenclave"


@dataclass(frozen=True, slots=True)
class Done:
    """A command that has ended: its exit code, the JSON document it printed (if any), and what it said."""

    exit_code: int
    document: dict[str, Any]
    said: str

    @property
    def error_code(self) -> str | None:
        """The stable code of the error it ended with."""
        code = self.document.get("error", {}).get("code")
        return None if code is None else str(code)


class Interruptions:
    """Ctrl-C, SIGTERM and SIGHUP as one KeyboardInterrupt, which waits while something must not be left half done."""

    def __init__(self) -> None:
        self._held = 0
        self._waiting = False
        self._told = False

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Take the signals inside the block, of the main thread."""
        before = {number: signal.signal(number, self._arrived) for number in _ENDING}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Let what arrives inside the block wait for its end."""
        self._held += 1
        try:
            yield
        finally:
            self._held -= 1
            if self._waiting and not self._held:
                self._waiting = False
                raise KeyboardInterrupt

    def _arrived(self, _number: int, _frame: FrameType | None) -> None:
        if self._told:
            return  # everything is being cleared away already
        self._told = True
        if not self._held:
            raise KeyboardInterrupt
        self._waiting = True


@dataclass(slots=True)
class Stage:
    """The working folder of all commands, and the processes still running in it."""

    folder: Path
    interruptions: Interruptions = field(default_factory=Interruptions)
    running: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def call(self, *words: str) -> Done:
        """Run a command of ours with ``--output json`` to its end. Raises PlatformError when it does not end."""
        child = self._start(words, subprocess.PIPE, subprocess.PIPE)
        try:
            out, said = child.communicate(timeout=COMMAND_DEADLINE)
        except subprocess.TimeoutExpired as error:
            raise PlatformError(
                f"'{shlex.join((PROGRAM, *words))}' has not ended in {COMMAND_DEADLINE:.0f} seconds", code="demo.stuck"
            ) from error
        finally:
            self._end(child)
        return Done(child.returncode, _document(out), said.decode(errors="replace"))

    @contextmanager
    def beside(self, *words: str, log: str, ready: Callable[[dict[str, Any]], bool]) -> Iterator[dict[str, Any]]:
        """Keep a command of ours running inside the block, from when ``ready`` holds of what it printed.

        What it says goes to the file ``log``. Raises PlatformError when it ends, or is not ready in time.
        """
        printed = self.folder / f".{log}.out"
        with printed.open("wb") as out, (self.folder / log).open("wb") as said:
            child = self._start(words, out, said)
        try:
            deadline = time.monotonic() + READY_DEADLINE
            while not ready(document := _document(printed.read_bytes())):
                if child.poll() is not None or time.monotonic() > deadline:
                    raise self._not_ready(words, child, document, log)
                time.sleep(POLL)
            yield document
        finally:
            self._end(child)

    def _start(self, words: Sequence[str], out: Any, said: Any) -> subprocess.Popen[bytes]:
        # Found on the PATH, so that what people read is what is run, also by a program that the command starts.
        # A session of its own: Ctrl-C is ours alone, and we end them in order.
        with self.interruptions.held():
            child = subprocess.Popen(
                (f"{self.folder}/bin/{PROGRAM}", *_with_json(words)),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=said,
                cwd=self.folder,
                env={**os.environ, "PATH": f"{self.folder}/bin:{os.environ.get('PATH', os.defpath)}"},
                start_new_session=True,
            )
            self.running.append(child)
        return child

    def end_all(self) -> None:
        """End whatever still runs."""
        for child in tuple(self.running):
            self._end(child)

    def _end(self, child: subprocess.Popen[bytes]) -> None:
        """Ask a process to end, insist after a while, and see it gone."""
        if child.poll() is None:
            child.terminate()
            try:
                child.wait(END_DEADLINE)
            except subprocess.TimeoutExpired:
                with suppress(ProcessLookupError):
                    os.killpg(child.pid, signal.SIGKILL)
                child.wait()
        for pipe in (child.stdout, child.stderr):
            if pipe is not None:
                pipe.close()
        self.running.remove(child)

    def _not_ready(
        self, words: Sequence[str], child: subprocess.Popen[bytes], document: dict[str, Any], log: str
    ) -> PlatformError:
        error = document.get("error", {})
        last = (self.folder / log).read_text(errors="replace").strip().rpartition("\n")[2]
        ended = "is not ready in time" if child.poll() is None else f"ended with exit code {child.returncode}"
        reason = error.get("message") or last or "it said nothing"
        return PlatformError(
            f"'{PROGRAM} {words[0]}' {ended}: {reason}",
            code=error.get("code", "demo.not-ready"),
            hint=error.get("hint", "--keep DIR keeps the log"),
        )


@contextmanager
def staged(keep: Path | None, names: Sequence[str]) -> Iterator[Stage]:
    """Make a stage and clear it away, whatever happens; ``names`` of its files are copied to ``keep`` before.

    SIGTERM and SIGHUP end the block as Ctrl-C does, and nothing interrupts the clearing away. Raises UsageError when
    ``keep`` cannot be made.
    """
    interruptions = Interruptions()
    with interruptions.installed(), ExitStack() as stack:
        with interruptions.held():
            stage = Stage(_make_folder(keep), interruptions)
            stack.callback(_clear, stage, keep, names)
        yield stage


def _make_folder(keep: Path | None) -> Path:
    try:
        if keep is not None:
            keep.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix="kubenclave-demo-", dir=_short_folder()))
        _make_program(folder / "bin")
    except OSError as error:
        raise UsageError(f"no folder for the demo: {error.strerror or error}", code="demo.folder") from error
    return folder


def _clear(stage: Stage, keep: Path | None, names: Sequence[str]) -> None:
    with stage.interruptions.held():
        try:
            stage.end_all()
            if keep is not None:
                _copy(stage.folder, keep, names)
        finally:
            shutil.rmtree(stage.folder, ignore_errors=True)


def _copy(folder: Path, keep: Path, names: Sequence[str]) -> None:
    for name in names:
        with suppress(FileNotFoundError):
            shutil.copyfile(folder / name, keep / name)


def _make_program(folder: Path) -> None:
    """Make the command ``kubenclave`` that is this very installation."""
    folder.mkdir()
    program = folder / PROGRAM
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m {PROGRAM} "$@"\n')
    program.chmod(0o755)


def _short_folder() -> str:
    """Return a folder for temporary things whose name leaves room for those of sockets."""
    usual = tempfile.gettempdir()
    return usual if len(os.fsencode(usual)) <= MAX_FOLDER else "/tmp"  # noqa: S108  # mkdtemp makes it ours alone


def _with_json(words: Sequence[str]) -> list[str]:
    """Put ``--output json`` where it belongs to our command and not to one behind ``--``."""
    at = list(words).index("--") if "--" in words else len(words)
    return [*words[:at], "--output", "json", *words[at:]]


def _document(printed: bytes) -> dict[str, Any]:
    """Return the JSON document that was printed, an empty one when it is none (yet)."""
    try:
        document = json.loads(printed)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}
