# SPDX-License-Identifier: Apache-2.0
"""The webhook as the chart installs it, in turn with Intel's: the same client and AdmissionReview of a pod with EPC."""

import base64
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks import apistub, peers
from benchmarks.cluster.admission import WEBHOOK
from benchmarks.cluster.processes import of_container
from benchmarks.figures import Budget, Figure, Peer, Unit
from benchmarks.node import resident
from benchmarks.timing import Effort
from tests.chart import NAMESPACE
from tests.cluster import release
from tests.cluster.harness.cluster import Cluster

OFFERED: Final = 200
CONNECTIONS: Final = 8
TAIL_BUDGET: Final = Budget(limit=5, times_better=0.5)
PEER: Final = f"Intel webhook {peers.VERSION}"
REST: Final = 1.0


@dataclass(frozen=True, slots=True)
class Webhook:
    """A running webhook: where it is, the name and file of whom to trust, its process."""

    address: str
    path: str
    name: str
    ca: Path
    pid: int

    def load(self, seconds: float, rate: int) -> dict[str, Any]:
        """Load it from a process of its own; return what the load generator says."""
        review = self.ca.with_name("review.json")
        review.write_text(json.dumps(REVIEW), encoding="utf-8")
        argv = [sys.executable, "-m", "benchmarks.admissionload", str(review), "--path", self.path]
        argv += ["--address", self.address, "--port", str(peers.WEBHOOK_PORT), "--name", self.name]
        argv += ["--ca", str(self.ca), "--connections", str(CONNECTIONS)]
        argv += ["--seconds", str(seconds), "--rate", str(rate)]
        done = subprocess.run(argv, check=True, stdout=subprocess.PIPE)
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer


def measure(cluster: Cluster, effort: Effort) -> Iterator[Figure]:
    """Measure at a rate, then flat out, then memory after it."""
    with release.installed(cluster, WEBHOOK), _ours(cluster) as ours, _intels() as intels:
        for rate, name in ((OFFERED, f"webhook, {OFFERED}/s"), (0, f"webhook, {CONNECTIONS} callers flat out")):
            mine, theirs = [], []
            for _ in range(max(2, effort.runs // 2)):
                mine.append(ours.load(effort.seconds, rate))
                theirs.append(intels.load(effort.seconds, rate))
            for share in ("p50", "p99"):
                peer = Peer(PEER, tuple(run[share] for run in theirs))
                budget = TAIL_BUDGET if rate and share == "p99" else None
                runs = tuple(run[share] for run in mine)
                yield Figure(f"{name}: {share}", Unit.MILLISECONDS, runs, peer, budget)
        time.sleep(REST)
        memory = Peer(PEER, (resident(intels.pid),))
        yield Figure("memory after that: webhook", Unit.MEBIBYTES, (resident(ours.pid),), memory)


@contextmanager
def _ours(cluster: Cluster) -> Iterator[Webhook]:
    """Yield the first replica."""
    pod = cluster.items("pods", NAMESPACE, "app.kubernetes.io/component=webhook")[0]
    configuration = cluster.get("mutatingwebhookconfiguration", "kubenclave-webhook")
    bundle = configuration["webhooks"][0]["clientConfig"]["caBundle"]
    with tempfile.TemporaryDirectory() as folder:
        ca = Path(folder) / "ca.pem"
        ca.write_bytes(base64.b64decode(bundle))
        name = f"kubenclave-webhook.{NAMESPACE}.svc"
        yield Webhook(pod["status"]["podIP"], "/mutate", name, ca, of_container(pod["metadata"]["uid"]))


@contextmanager
def _intels() -> Iterator[Webhook]:
    with tempfile.TemporaryDirectory() as folder:
        certificate = apistub.self_signed("127.0.0.1", "localhost")
        ca = Path(folder) / "ca.pem"
        ca.write_bytes(certificate[0])
        with peers.webhook(Path(folder), certificate) as daemon:
            yield Webhook("127.0.0.1", "/mutate--v1-pod", "localhost", ca, daemon.process.pid)


_EPC: Final = {"sgx.intel.com/epc": "10Mi", "cpu": "100m", "memory": "64Mi"}
_POD: Final = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {
        "name": "benchmark",
        "namespace": "default",
        "labels": {"app": "benchmark"},
        "annotations": {"sgx.intel.com/quote-provider": "aesmd"},
    },
    "spec": {
        "serviceAccountName": "default",
        "containers": [
            {
                "name": "main",
                "image": "registry.example/benchmark:1",
                "env": [{"name": "GREETING", "value": "hello"}],
                "resources": {"limits": _EPC, "requests": _EPC},
                "volumeMounts": [{"name": "token", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"}],
            }
        ],
        "volumes": [{"name": "token", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}}],
    },
}
REVIEW: Final = {
    "apiVersion": "admission.k8s.io/v1",
    "kind": "AdmissionReview",
    "request": {
        "uid": "0f2a4c6e-0000-4000-8000-000000000000",
        "kind": {"group": "", "version": "v1", "kind": "Pod"},
        "resource": {"group": "", "version": "v1", "resource": "pods"},
        "requestKind": {"group": "", "version": "v1", "kind": "Pod"},
        "requestResource": {"group": "", "version": "v1", "resource": "pods"},
        "name": "benchmark",
        "namespace": "default",
        "operation": "CREATE",
        "userInfo": {"username": "kubernetes-admin", "groups": ["system:authenticated"]},
        "object": _POD,
        "oldObject": None,
        "dryRun": False,
        "options": {"apiVersion": "meta.k8s.io/v1", "kind": "CreateOptions"},
    },
}
