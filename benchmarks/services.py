# SPDX-License-Identifier: Apache-2.0
"""Attestation and collateral service on one core, the clients on another; beside dcap-qvl in a service of its own.

Every answer of ours is a signed token (or an EAR) whose verdict is in the log on disk before the answer goes out; the
peer answers with the verdict alone.
"""

import base64
import datetime as dt
import http.client
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from benchmarks import httpload, node, peers
from benchmarks.figures import Figure, Peer, Unit
from benchmarks.fleet import SEED, Fleet
from benchmarks.timing import Effort
from kubenclave.platform.simulated.keys import Fuses
from kubenclave.platform.simulated.state import PlatformState
from kubenclave.platform.simulated.tcb import FMSPC

CLIENTS: Final = (1, 16, 64)
SOME: Final = 16
"""Clients where one number has to do."""
PEER: Final = "dcap-qvl in starlette"
PREFIX: Final = "/simulated"
AZURE: Final = f"{PREFIX}/attest/SgxEnclave?api-version=2025-06-01"
NATIVE: Final = f"{PREFIX}/v1/attest"
COLLATERAL: Final = "/sgx/certification/v4"


@dataclass(frozen=True, slots=True)
class Server:
    """One that answers on a port of loopback."""

    port: int
    daemon: node.Daemon
    tls: bool = False

    def load(self, requests: Path, clients: int, seconds: float = 0.0) -> dict[str, float]:
        """Load it from another core: for so long, or with each request once."""
        argv = [sys.executable, "-m", "benchmarks.httpload", str(self.port), str(requests)]
        argv += ["--clients", str(clients), "--seconds", str(seconds), "--core", str(_cores()[-1])]
        argv += ["--tls"] if self.tls else []
        answer: dict[str, float] = json.loads(subprocess.run(argv, check=True, stdout=subprocess.PIPE).stdout)
        return answer


class Bench:
    """Where states and requests lie, and what the quotes are of."""

    def __init__(self, folder: Path, effort: Effort) -> None:
        self.folder = folder
        self.effort = effort
        self.runs = max(2, effort.runs // 2)
        self.each = 2 * effort.calls
        # One platform that is seen again and again, and others for each cold run of each dialect.
        self.fleet = Fleet.of(1 + 2 * self.runs * self.each, dt.datetime.now(dt.UTC))
        platform = PlatformState(seed=SEED, fuses=Fuses(provisioning=bytes(16), seal=bytes(16), owner_epoch=bytes(16)))
        platform.save(folder)
        (folder / "collateral.json").write_text(self.fleet.collateral.to_json(), encoding="utf-8")
        (folder / "root.der").write_bytes(self.fleet.root)

    def attest(self, name: str, path: str, quotes: Sequence[bytes], **more: str) -> Path:
        """Write requests that send these quotes."""
        bodies = [
            json.dumps({"quote": base64.urlsafe_b64encode(each).rstrip(b"=").decode(), **more}) for each in quotes
        ]
        requests = [httpload.request("POST", path, body.encode()) for body in bodies]
        return httpload.write(self.folder / f"{name}.json", requests)

    def get(self, name: str, path: str) -> Path:
        """Write a request for a document."""
        return httpload.write(self.folder / f"{name}.json", [httpload.request("GET", path)])

    @contextmanager
    def ours(self, *words: str, tls: bool = False) -> Iterator[Server]:
        """Run both services in one process on one core."""
        port = _free_port()
        argv = [sys.executable, "-m", "kubenclave", "attest", "serve", "--state", str(self.folder / "state"), "--open"]
        argv += ["--simulated-state", str(self.folder), "--with-collateral", "--listen", f"127.0.0.1:{port}"]
        argv += ["--issuer", f"https://localhost{PREFIX}", *words]
        ready = partial(peers.listens, port) if tls else partial(_answers, port, f"{PREFIX}/certs")
        with node.started(_pinned(argv), ready) as daemon:
            yield Server(port, daemon, tls)

    @contextmanager
    def theirs(self) -> Iterator[Server]:
        """Run the peer on the same core."""
        port = _free_port()
        files = (str(self.folder / "collateral.json"), str(self.folder / "root.der"))
        argv = [sys.executable, "-m", "benchmarks.qvlservice", str(port), *files]
        with node.started(_pinned(argv), partial(peers.listens, port)) as daemon:
            yield Server(port, daemon)


def measure(effort: Effort) -> Iterator[Figure]:
    """Measure with servers on the first core and the load generator on the last."""
    with tempfile.TemporaryDirectory(prefix="kcb") as folder:
        bench = Bench(Path(folder), effort)
        with bench.ours():
            pass  # makes keys and databases, once in the life of a service
        yield from _starts(bench)
        with ExitStack() as running:
            ours, theirs = running.enter_context(bench.ours()), running.enter_context(bench.theirs())
            yield from _attest(bench, ours, theirs)
            yield from _collateral(bench, ours)
            yield Figure(
                "services: memory after the load",
                Unit.MEBIBYTES,
                (ours.daemon.memory(),),
                Peer(PEER, (theirs.daemon.memory(),)),
            )
        yield from _tls(bench)


def _attest(bench: Bench, ours: Server, theirs: Server) -> Iterator[Figure]:
    """Quotes of one platform again and again, then of platforms never seen before."""
    same = [bench.fleet.platforms[0].quote(number) for number in range(bench.effort.calls)]
    dialects = {"Azure RS256": (AZURE, {}), "EAR ES256": (NATIVE, {"token": "ear"})}
    peer = bench.attest("peer", "/verify", same)
    unseen = iter(bench.fleet.platforms[1:])
    for name, (path, more) in dialects.items():
        warm = bench.attest("warm", path, same, **more)
        for clients in CLIENTS:
            pairs = []
            for _ in range(bench.runs):
                seconds = bench.effort.seconds
                pairs.append((ours.load(warm, clients, seconds), theirs.load(peer, clients, seconds)))
            yield from _figures(f"attest, {name}, {clients} client{'s' if clients > 1 else ''}", pairs)
        pairs = []
        for run in range(bench.runs):
            quotes = [next(unseen).quote(run) for _ in range(bench.each)]
            cold = bench.attest("cold", path, quotes, **more), bench.attest("cold peer", "/verify", quotes)
            pairs.append((ours.load(cold[0], SOME), theirs.load(cold[1], SOME)))
        yield from _figures(f"attest, {name}, platforms never seen, {SOME} clients", pairs)


def _collateral(bench: Bench, ours: Server) -> Iterator[Figure]:
    for name, path in (("tcb", f"tcb?fmspc={FMSPC.hex()}"), ("pckcrl", "pckcrl?ca=platform&encoding=der")):
        requests = bench.get(name, f"{COLLATERAL}/{path}")
        runs = [ours.load(requests, SOME, bench.effort.seconds) for _ in range(bench.runs)]
        yield from _figures(f"collateral, {name}, {SOME} clients", [(run, None) for run in runs])


def _tls(bench: Bench) -> Iterator[Figure]:
    certificate, key = _certificate(bench.folder)
    same = [bench.fleet.platforms[0].quote(number) for number in range(bench.effort.calls)]
    requests = bench.attest("warm", AZURE, same)
    with bench.ours("--tls-cert", str(certificate), "--tls-key", str(key), tls=True) as ours:
        runs = [ours.load(requests, SOME, bench.effort.seconds) for _ in range(bench.runs)]
    yield from _figures(f"attest, Azure RS256 over TLS, {SOME} clients", [(run, None) for run in runs])


def _starts(bench: Bench) -> Iterator[Figure]:
    """Start each a few times, with nothing to do for a second."""
    starts: list[tuple[float, float]] = []
    memory: list[tuple[float, float]] = []
    for _ in range(bench.runs):
        with bench.ours() as ours, bench.theirs() as theirs:
            time.sleep(1)
            starts.append((ours.daemon.ready_after, theirs.daemon.ready_after))
            memory.append((ours.daemon.memory(), theirs.daemon.memory()))
    for name, unit, pairs in (
        ("services: start to answer", Unit.MILLISECONDS, starts),
        ("services: memory at rest", Unit.MEBIBYTES, memory),
    ):
        yield Figure(name, unit, tuple(one for one, _ in pairs), Peer(PEER, tuple(other for _, other in pairs)))


def _figures(name: str, pairs: Sequence[tuple[dict[str, float], dict[str, float] | None]]) -> Iterator[Figure]:
    """Return requests a second and p99 of runs in turn with the peer's."""
    for title, unit, member in ((name, Unit.PER_SECOND, "rate"), (f"{name}: p99", Unit.MILLISECONDS, "p99")):
        theirs = tuple(other[member] for _, other in pairs if other is not None)
        yield Figure(title, unit, tuple(one[member] for one, _ in pairs), Peer(PEER, theirs) if theirs else None)


def _pinned(argv: Sequence[str]) -> list[str]:
    return ["taskset", "--cpu-list", str(_cores()[0]), *argv]


def _cores() -> list[int]:
    return sorted(os.sched_getaffinity(0))


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
        return port


def _answers(port: int, path: str) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=node.PATIENCE)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == http.client.OK
    except OSError:
        return False
    finally:
        connection.close()


def _certificate(folder: Path) -> tuple[Path, Path]:
    """Make a certificate for localhost that signs itself."""
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
    from cryptography.x509.oid import NameOID

    key, name = (
        ec.generate_private_key(ec.SECP256R1()),
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")]),
    )
    now = dt.datetime.now(dt.UTC)
    ends = now + dt.timedelta(days=1)
    made = x509.CertificateBuilder(name, name, key.public_key(), 1, now, ends).sign(key, SHA256())
    files = folder / "tls.crt", folder / "tls.key"
    files[0].write_bytes(made.public_bytes(Encoding.PEM))
    files[1].write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return files
