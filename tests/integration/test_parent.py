# SPDX-License-Identifier: Apache-2.0
"""Workers of the quote helper end with it, whatever they are doing: nobody else would give their EPC back."""

import os
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kubenclave.wire.quoteworker import Op, encode_request

# Stands for the helper: starts the worker on a descriptor and is killed.
STARTS = """\
import subprocess, sys, time
fd = int(sys.argv.pop(1))
words = [sys.executable, "-m", *sys.argv[1:], "--fd", str(fd)]
worker = subprocess.Popen(words, pass_fds=[fd], stderr=subprocess.DEVNULL)
print(worker.pid, flush=True)
time.sleep(60)
"""


def state_of(pid: int) -> str:
    """Return the letter of a process' state, Z when it has gone altogether."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return "Z"


def wait_for(pid: int, states: str) -> None:
    deadline = time.monotonic() + 20
    while state_of(pid) not in states:
        assert time.monotonic() < deadline, state_of(pid)
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("words", "refused"),
    [
        (["kubenclave.platform.simulated.worker", "--provision-socket", "/nowhere"], (Op.QUOTE, b"nonsense")),
        (["kubenclave.platform.dcapworker", "--library", "/nowhere"], (Op.INIT, b"")),
    ],
    ids=["simulated", "dcap"],
)
def test_a_stopped_worker_does_not_outlive_a_killed_helper(words, refused):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        starter = subprocess.Popen(
            [sys.executable, "-c", STARTS, str(theirs.fileno()), *words],
            stdout=subprocess.PIPE,
            pass_fds=[theirs.fileno()],
        )
        assert starter.stdout is not None
        worker = int(starter.stdout.readline())
        ours.sendall(encode_request(1, *refused))  # answered once the worker is at its work
        assert select.select([ours], [], [], 20)[0]
        os.kill(worker, signal.SIGSTOP)
        wait_for(worker, "T")
        starter.kill()
        starter.wait(20)
        starter.stdout.close()
        try:
            wait_for(worker, "Z")
        finally:
            if state_of(worker) != "Z":
                os.kill(worker, signal.SIGKILL)
