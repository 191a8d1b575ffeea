# SPDX-License-Identifier: Apache-2.0
"""Benchmarks on real Kubernetes, in a cluster that is made for them."""

import json
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Final

from benchmarks.__main__ import parse, report
from benchmarks.cluster import admission, rest, scale, webhook
from benchmarks.cluster import start as pods
from benchmarks.figures import Figure
from benchmarks.timing import Effort
from tests.cluster.harness import enclose, needs
from tests.cluster.harness.cluster import Cluster
from tests.cluster.release import pool

BENCHMARKS: Final[Mapping[str, Callable[[Cluster, Effort], Iterable[Figure]]]] = {
    "webhook": webhook.measure,
    "admission": admission.measure,
    "rest": rest.measure,
    "start": pods.measure,
    "scale": scale.measure,
}
MARKS: Final = "cluster figures"
# So that the clients of the control plane do not hold back what the API server could do.
UNTHROTTLED: Final = ("--kube-api-qps=2000", "--kube-api-burst=4000")


def main() -> int:
    """Enclose this program, then start a cluster and measure."""
    options = parse(__doc__ or "", BENCHMARKS)
    if enclose.folder() is None:
        reason = needs.missing(("containerd", "etcd", "1.36", "helm", "kwok", "intel"))
        if reason:
            print(f"cluster benchmarks skipped: {reason}")
            return 0
        return enclose.run([sys.executable, "-m", "benchmarks.cluster", *sys.argv[1:]])
    cluster = started()
    report(options, {name: partial(measure, cluster) for name, measure in BENCHMARKS.items()}, MARKS)
    return 0


def started() -> Cluster:
    """Return a running cluster with one node for SGX, whose control plane is not throttled and audits the agents."""
    cluster = Cluster()
    for part in (cluster.control.controllers, cluster.control.scheduler):
        part.command += UNTHROTTLED
    policy = cluster.folder / "audit-policy.json"
    document = json.loads(policy.read_text(encoding="utf-8"))
    document["rules"].insert(0, {"level": "Metadata", "users": [rest.AGENT]})
    policy.write_text(json.dumps(document), encoding="utf-8")
    cluster.start()
    pool(cluster, "sgx-1")
    return cluster


if __name__ == "__main__":
    sys.exit(main())
