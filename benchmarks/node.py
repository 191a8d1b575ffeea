# SPDX-License-Identifier: Apache-2.0
"""The daemons of a node as processes of their own, and the stand-in for a kubelet, for benchmarks to use."""

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from kubenclave.local.kubelet import Kubelet
from kubenclave.platform.simulated.places import cpu_socket, provision_socket
from kubenclave.sgx.epc import ENCLAVE_RESOURCE

PATIENCE: Final = 20.0
POLL: Final = 0.001

# structlog loads rich where it is installed: that is so beside the tools of the tests, and not on a node.
_AS_ON_A_NODE: Final = "import sys; sys.modules['rich'] = None\n"


@dataclass(frozen=True, slots=True)
class Daemon:
    """A running daemon; ``ready_after`` in milliseconds from its start."""

    process: "subprocess.Popen[bytes]"
    ready_after: float

    def memory(self) -> float:
        """Return the resident memory of the daemon's own process in MiB."""
        return resident(self.process.pid)

    def children_memory(self) -> float:
        """Return the resident memory of the processes that the daemon has started, in MiB."""
        listing = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text(encoding="ascii")
        return sum(resident(int(pid)) for pid in listing.split())


@dataclass(frozen=True, slots=True)
class Places:
    """Where the sockets of one node are."""

    root: Path

    @property
    def cpu(self) -> Path:
        """The SIMULATED CPU."""
        return cpu_socket(self.root / "sim")

    @property
    def provision(self) -> Path:
        """The provision socket of the SIMULATED platform."""
        return provision_socket(self.root / "sim")

    @property
    def aesm(self) -> Path:
        """The AESM socket."""
        return self.root / "aesmd" / "aesm.socket"

    @property
    def plugins(self) -> Path:
        """The device-plugin directory."""
        return self.root / "plugins"

    @property
    def enclave_plugin(self) -> Path:
        """The plugin of sgx.intel.com/enclave."""
        return self.plugins / "kubenclave-enclave.sock"


@contextmanager
def places() -> Iterator[Places]:
    """Make a directory with a short name."""
    with tempfile.TemporaryDirectory(prefix="kcb") as name:
        made = Places(Path(name))
        made.aesm.parent.mkdir()
        made.plugins.mkdir()
        (made.root / "sitecustomize.py").write_text(_AS_ON_A_NODE, encoding="utf-8")
        yield made


@contextmanager
def simulator(where: Places, *, epc: str = "128Mi") -> Iterator[Daemon]:
    """Run the SIMULATED platform."""
    argv = ["kubenclave", "sim", "start", "--state", str(where.root / "sim"), "--epc", epc]
    with _running(where, argv, lambda: accepts(where.cpu)) as daemon:
        yield daemon


@contextmanager
def quote_helper(where: Places) -> Iterator[Daemon]:
    """Run the quote helper on the SIMULATED platform; ready means that it can quote."""
    argv = ["kubenclave.node.helper", "--socket", str(where.aesm)]
    argv += ["--health-socket", str(where.root / "helper.sock"), "--backend", "simulated"]
    argv += ["--provision-socket", str(where.provision)]
    with _running(where, argv, lambda: accepts(where.aesm)) as daemon:
        yield daemon


@contextmanager
def agent(where: Places) -> Iterator[Daemon]:
    """Run the node agent on the SIMULATED platform; ready means that it answers on its status socket."""
    status = where.root / "agent.sock"
    argv = ["kubenclave.node.agent", "--plugin-dir", str(where.plugins), "--status-socket", str(status)]
    argv += ["--aesm-dir", str(where.aesm.parent), "--simulated-cpu", str(where.cpu)]
    argv += ["--simulated-provision", str(where.provision)]
    with _running(where, argv, lambda: accepts(status)) as daemon:
        yield daemon


@contextmanager
def kubelet(where: Places) -> Iterator[Callable[[], None]]:
    """Run the stand-in for the kubelet in a thread; the function yielded waits until the enclave plugin is there."""
    loop = asyncio.new_event_loop()
    standin = Kubelet(where.plugins)
    serving = threading.Event()
    over = asyncio.Event()

    async def serve() -> None:
        async with standin.serving():
            serving.set()
            await over.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()), name="kubelet")
    thread.start()
    serving.wait(PATIENCE)

    def wait_for_plugin() -> None:
        asyncio.run_coroutine_threadsafe(standin.wait_for(ENCLAVE_RESOURCE, PATIENCE), loop).result()

    try:
        yield wait_for_plugin
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join()
        loop.close()


@contextmanager
def _running(where: Places, arguments: list[str], ready: Callable[[], bool]) -> Iterator[Daemon]:
    path = os.pathsep.join(filter(None, (str(where.root), os.environ.get("PYTHONPATH"))))
    with started((sys.executable, "-m", *arguments), ready, {"PYTHONPATH": path}) as daemon:
        yield daemon


@contextmanager
def started(
    command: Sequence[str], ready: Callable[[], bool], environment: Mapping[str, str] | None = None
) -> Iterator[Daemon]:
    """Run any program until the end of the block, once it is ``ready``. Raises RuntimeError with what it said."""
    with tempfile.TemporaryFile() as log:
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **(environment or {})})
        try:
            while not ready():
                if process.poll() is not None or time.perf_counter() - start > PATIENCE:
                    log.seek(0)
                    said = log.read().decode(errors="replace")[-2000:]
                    raise RuntimeError(f"{' '.join(command)} did not come up: {said}")
                time.sleep(POLL)
            yield Daemon(process, (time.perf_counter() - start) * 1e3)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(PATIENCE)


def accepts(path: Path) -> bool:
    """Tell whether somebody serves a Unix socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True


def resident(pid: int) -> float:
    """Return the resident memory of a process in MiB."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    found = re.search(r"^VmRSS:\s+(\d+) kB", status, re.MULTILINE)
    assert found is not None, "every process has it"
    return int(found[1]) / 1024
