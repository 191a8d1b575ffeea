# SPDX-License-Identifier: Apache-2.0
"""For tests of the quote helper: helper processes with the test worker, and a peer that sends whatever a test wants."""

import itertools
import json
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kubenclave.wire import aesm
from kubenclave.wire.aesm_errors import AesmError
from kubenclave.wire.aesm_keyid import ECDSA_P256_KEY_ID as KEY_ID
from tests.waiting import PATIENCE, eventually

TEST_WORKER = Path(__file__).with_name("testworker.py")
START = """\
import sys
sys.modules["rich"] = None
from kubenclave.node import helper
from kubenclave.node.quotehelper import options
cut = sys.argv.index("--")
sys.exit(helper.run(options.parse(sys.argv[cut + 1 :]), sys.argv[1:cut]))
"""


def report(words: str = "") -> bytes:
    """Return a REPORT that tells the test worker what to do."""
    return words.encode().ljust(432, b"\0")


def connect(path: Path) -> socket.socket:
    peer = socket.socket(socket.AF_UNIX)
    peer.settimeout(PATIENCE)
    peer.connect(str(path))
    return peer


def exchange(path: Path, data: bytes) -> bytes:
    """Send bytes on a new connection and return all that comes back until the helper closes."""
    with connect(path) as peer:
        peer.sendall(data)
        return rest(peer)


def rest(peer: socket.socket) -> bytes:
    parts = []
    while part := peer.recv(65536):
        parts.append(part)
    return b"".join(parts)


def ask(path: Path, request: aesm.Request) -> aesm.Reply:
    answer = exchange(path, aesm.encode_request(request))
    assert answer, "closed without an answer"
    (length,) = struct.unpack_from("<I", answer)
    assert len(answer) == 4 + length, "one frame and nothing else"
    return aesm.decode_reply(answer[4:], request)


def quote(words: str = "", size: int = 8192, info: bytes | None = None) -> aesm.GetQuote:
    return aesm.GetQuote(report(words), KEY_ID, size, info)


def error_of(path: Path, request: aesm.Request) -> AesmError:
    """Return the code with which a request is answered."""
    reply = ask(path, request)
    return reply.error if isinstance(reply, aesm.Refusal) else AesmError.SUCCESS


class Helper:
    """A quote helper process."""

    def __init__(self, process: subprocess.Popen[bytes], socket_: Path, health: Path, log: Path) -> None:
        self.process = process
        self.socket = socket_
        self.health = health
        self._log = log

    def get(self, target: str) -> tuple[int, bytes]:
        """Ask the health socket; return status and body."""
        answer = exchange(self.health, f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        head, _, body = answer.partition(b"\r\n\r\n")
        return int(head.split()[1]), body

    def status(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self.get("/status")[1])
        return document

    def codes(self) -> list[str]:
        return [reason["code"] for reason in self.status()["reasons"]]

    def metric(self, name: str) -> float:
        """Return the value of a metric with its labels as they are written; 0 if it is not there."""
        for line in self.get("/metrics")[1].decode().splitlines():
            if line.rpartition(" ")[0] == name:
                return float(line.rpartition(" ")[2])
        return 0.0

    def log(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._log.read_text().splitlines() if line.startswith("{")]

    def wait_ready(self) -> "Helper":
        eventually(
            lambda: self.health.exists() and self.status()["ready"],
            what=lambda: f"the helper: {self._log.read_text()[-600:]}",
        )
        return self

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(PATIENCE)


_numbers = itertools.count()


@contextmanager
def helper(
    folder: Path,
    *options: str,
    worker: tuple[str, ...] | None = (),
    backend: str = "simulated",
    ready: bool = True,
    group: bool = False,
    prefix: tuple[str, ...] = (),
) -> Iterator[Helper]:
    """Run a helper on ``folder/a`` with the test worker and its arguments; ``worker`` None leaves the backend's own.

    It leads a process group of its own if ``group``; ``prefix`` is a program that starts it.
    """
    number = next(_numbers)
    health, log = folder / f"h{number}", folder / f"log{number}"
    arguments = ["--backend", backend, "--socket", str(folder / "a"), "--health-socket", str(health), *options]
    if worker is None:
        argv = [sys.executable, "-m", "kubenclave.node.helper", *arguments]
    else:
        argv = [sys.executable, "-c", START, sys.executable, str(TEST_WORKER), *worker, "--", *arguments]
    argv = [*prefix, *argv]
    with log.open("wb") as stderr, subprocess.Popen(argv, stderr=stderr, process_group=0 if group else None) as process:
        try:
            one = Helper(process, folder / "a", health, log)
            yield one.wait_ready() if ready else one
        finally:
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(PATIENCE)
                except subprocess.TimeoutExpired:
                    process.kill()
