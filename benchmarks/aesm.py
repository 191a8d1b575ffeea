# SPDX-License-Identifier: Apache-2.0
"""Quotes over the AESM socket of the SIMULATED platform: flat out, and at a rate that a node may see."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from benchmarks import node
from benchmarks.figures import Budget, Figure, Unit
from benchmarks.timing import Effort
from kubenclave.platform.aesmclient import AesmClient
from kubenclave.platform.simcpu import Enclave
from kubenclave.platform.simulated import loader
from kubenclave.platform.simulated.signing import development_key, sign
from kubenclave.wire import aesm
from kubenclave.wire.aesm_keyid import ECDSA_P256_KEY_ID

CLIENTS: Final = (1, 16, 64)
OFFERED: Final = 1000
REPORTS: Final = 256
RATE_BUDGET: Final = Budget(limit=3000)
TAIL_BUDGET: Final = Budget(limit=5)


def measure(effort: Effort) -> Iterator[Figure]:
    """Measure with a load generator in a process of its own; latencies count from when a request was due."""
    with node.places() as where, node.simulator(where), node.quote_helper(where):
        frames = where.root / "requests"
        frames.write_bytes(_requests(where))
        for clients in CLIENTS:
            runs = [_load(where, frames, clients, effort.seconds) for _ in range(_runs(effort))]
            budget = RATE_BUDGET if clients == max(CLIENTS) else None
            name = f"AESM quotes, {clients} client{'s' if clients > 1 else ''} flat out"
            yield Figure(name, Unit.PER_SECOND, tuple(run["rate"] for run in runs), budget=budget)
            yield Figure(f"{name}: p99", Unit.MILLISECONDS, tuple(run["p99"] for run in runs))
        runs = [_load(where, frames, max(CLIENTS), effort.seconds, OFFERED) for _ in range(_runs(effort))]
        name = f"AESM quotes, {OFFERED}/s offered by {max(CLIENTS)} clients"
        yield Figure(f"{name}: p50", Unit.MILLISECONDS, tuple(run["p50"] for run in runs))
        yield Figure(f"{name}: p99", Unit.MILLISECONDS, tuple(run["p99"] for run in runs), budget=TAIL_BUDGET)


def _runs(effort: Effort) -> int:
    return max(2, effort.runs // 2)


def _requests(where: node.Places) -> bytes:
    """Return frames that ask for quotes, each over another REPORT of one SIMULATED enclave."""
    client = AesmClient(where.aesm)
    target = client.target_info()
    key = development_key(where.root / "key.pem")
    identity = loader.of_content(b"kubenclave benchmarks, SIMULATED", loader.Terms(), lambda it: sign(it, key))
    with Enclave.connect(where.cpu) as enclave:
        identity.load(enclave)
        reports = [enclave.report(target, number.to_bytes(64, "big")) for number in range(REPORTS)]
    size = len(client.quote(lambda _: reports[0])) + 1024  # clients ask with some room
    return b"".join(aesm.encode_request(aesm.GetQuote(report, ECDSA_P256_KEY_ID, size)) for report in reports)


def _load(where: node.Places, frames: Path, clients: int, seconds: float, rate: int = 0) -> dict[str, Any]:
    argv = [sys.executable, "-m", "benchmarks.aesmload", str(where.aesm), str(frames)]
    argv += ["--clients", str(clients), "--seconds", str(seconds), "--rate", str(rate)]
    done = subprocess.run(argv, check=True, stdout=subprocess.PIPE)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer
