# SPDX-License-Identifier: Apache-2.0
"""Programs of the cluster as processes with a log, and waiting for conditions."""

from __future__ import annotations

import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, TypeVar

T = TypeVar("T")

_PAUSE: Final = 1.0


class HarnessError(Exception):
    """The cluster under test did not do what the harness needs of it; the message carries what is known."""


class Part:
    """One program that can be stopped and started again; its log is appended to.

    With ``kept`` it is started again a second after it ended by itself.
    """

    def __init__(self, name: str, command: Sequence[str | Path], logs: Path, *, kept: bool = False) -> None:
        self.name = name
        self.command = [str(word) for word in command]
        self.log = logs / f"{name}.log"
        self._kept = kept
        self._stopped = False
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """Its process id, or None while it is stopped."""
        return self._process.pid if self._process and self._process.poll() is None else None

    def start(self) -> None:
        """Start it; nothing happens when it runs."""
        if self.pid:
            return
        self._stopped = False
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        if self._kept:
            threading.Thread(target=self._keep, args=(self._process,), daemon=True).start()

    def stop(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Send it a signal and wait for its end."""
        self._stopped = True
        if self._process and self._process.poll() is None:
            self._process.send_signal(number)
            self._process.wait(60)

    def _keep(self, process: subprocess.Popen[bytes]) -> None:
        """Start it again once ``process`` has ended, unless it was stopped or started meanwhile."""
        process.wait()
        time.sleep(_PAUSE)
        if self._process is process and not self._stopped:
            self.start()

    def tail(self, lines: int = 25) -> str:
        """The end of its log, under its name."""
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return f"--- {self.name} ({self.log})\n" + "\n".join(text.splitlines()[-lines:])

    def alive_or_fail(self) -> None:
        """Raise HarnessError with the end of the log when it has ended."""
        if self._process and self._process.poll() is not None:
            raise HarnessError(f"{self.name} ended with {self._process.returncode}\n{self.tail()}")


def run(
    command: Sequence[str | Path], *, text: str | None = None, timeout: float = 60, folder: Path | None = None
) -> str:
    """Run a program to its end and return what it wrote. Raises HarnessError with its stderr."""
    words = [str(word) for word in command]
    done = subprocess.run(words, input=text, capture_output=True, text=True, timeout=timeout, check=False, cwd=folder)
    if done.returncode:
        raise HarnessError(f"{' '.join(words)}: exit {done.returncode}\n{done.stderr.strip()}\n{done.stdout.strip()}")
    return done.stdout


def wait(condition: Callable[[], T], timeout: float, why: str, parts: Sequence[Part] = ()) -> T:
    """Call ``condition`` until what it returns is true, and return that.

    Raises HarnessError after ``timeout`` seconds, with what it last returned or raised, or at once when one of
    ``parts`` has ended.
    """
    deadline = time.monotonic() + timeout
    while True:
        last: object
        try:
            value = condition()
            if value:
                return value
            last = value
        except (HarnessError, OSError, subprocess.TimeoutExpired, LookupError) as problem:
            last = problem
        for part in parts:
            part.alive_or_fail()
        if time.monotonic() > deadline:
            raise HarnessError(f"waited {timeout:.0f} s in vain for: {why}; last seen: {last}")
        time.sleep(0.1)
