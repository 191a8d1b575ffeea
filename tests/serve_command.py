# SPDX-License-Identifier: Apache-2.0
"""``kubenclave attest serve`` as a process of its own, for a SIMULATED platform."""

import base64
import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2

from kubenclave.platform.simulated.keys import Fuses
from kubenclave.platform.simulated.state import PlatformState
from tests import simulated_platform

KUBENCLAVE = (sys.executable, "-m", "kubenclave")


class Served:
    """A running command; ``ready`` is what it said on stdout."""

    def __init__(self, *words: object, log: Path) -> None:
        self.log = log
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                [*KUBENCLAVE, *map(str, words), "--output", "json"], stdout=subprocess.PIPE, stderr=file, text=True
            )
        self.ready = self._ready()

    def _ready(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        text = ""
        while not text.endswith("\n}\n"):
            line = self.process.stdout.readline()
            if not line:
                self.end()
                raise AssertionError(f"{text}{self.log.read_text()}")
            text += line
        found: dict[str, Any] = json.loads(text)
        return found

    @property
    def url(self) -> str:
        return str(self.ready["url"])

    def events(self) -> list[dict[str, Any]]:
        lines = [line for line in self.log.read_text().splitlines() if line.startswith("{")]
        return [json.loads(line) for line in lines]

    def workers(self) -> list[int]:
        text = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [int(word) for word in text.split()]

    def end(self, number: int = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        code = self.process.wait(60)
        if self.process.stdout is not None:
            self.process.stdout.close()
        return code


Start = Callable[..., Served]


@contextlib.contextmanager
def starting(directory: Path, platform: Path) -> Iterator[Start]:
    """Hand out what starts services with their states and logs in ``directory``; all are gone afterwards."""
    running: list[Served] = []

    def started(*words: object, state: str = "state") -> Served:
        command = ["attest", "serve", "--state", directory / state, "--simulated-state", platform]
        one = Served(*command, "--listen", "127.0.0.1:0", *words, log=directory / f"{len(running)}.log")
        running.append(one)
        return one

    try:
        yield started
    finally:
        for one in running:
            one.end(signal.SIGKILL)


def save_platform(directory: Path) -> Path:
    """Write the state of the SIMULATED platform whose root ``simulated_platform`` makes quotes under."""
    directory.mkdir(exist_ok=True)
    fuse = bytes(16)
    fuses = Fuses(provisioning=fuse, seal=fuse, owner_epoch=fuse)
    PlatformState(seed=simulated_platform.SEED, fuses=fuses).save(directory)
    return directory


def credential(state: Path, *words: object) -> Any:
    """Run ``attest credential`` on the state of a service; its answer."""
    command = [*KUBENCLAVE, "attest", "credential", *map(str, words), "--state", str(state), "--output", "json"]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=False).stdout)


def attest(client: Any, url: str, quote: bytes, **more: Any) -> Any:
    """Post a quote to the native API, for a token in Azure's dialect unless ``more`` says otherwise."""
    body = {"quote": base64.urlsafe_b64encode(quote).decode().rstrip("="), "token": "azure", **more}
    return client.post(f"{url}/v1/attest", json=body)


def samples(health: str) -> dict[str, float]:
    """Samples of a scrape by name with labels."""
    lines = httpx2.get(f"http://{health}/metrics").text.splitlines()
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")}
