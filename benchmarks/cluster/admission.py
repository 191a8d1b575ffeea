# SPDX-License-Identifier: Apache-2.0
"""What admission adds to a pod's creation (dry run): nothing installed, policies, webhook; with EPC and without."""

import contextlib
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, Final

from benchmarks.figures import Figure, Unit
from benchmarks.timing import Effort, percentile
from kubenclave.sgx.epc import EPC_RESOURCE
from tests.cluster import fleet, release
from tests.cluster.harness.cluster import Cluster

WEBHOOK: Final[dict[str, Any]] = {"image": release.TEST_IMAGE, "admission": {"mode": "webhook"}}
_PODS: Final = (("EPC pod", {EPC_RESOURCE: "10Mi"}), ("other pod", {"cpu": "100m"}))
_PATH: Final = "/api/v1/namespaces/default/pods?dryRun=All"


def measure(cluster: Cluster, effort: Effort) -> Iterator[Figure]:
    """Measure with one caller, one creation after the other."""
    halves: tuple[tuple[str, Callable[[Cluster], AbstractContextManager[None]]], ...] = (
        ("no add-on", lambda _: contextlib.nullcontext()),
        ("policies", fleet.admission),
        ("webhook", lambda it: release.installed(it, WEBHOOK)),
    )
    for half, at_work in halves:
        with at_work(cluster):
            for kind, limits in _PODS:
                runs = [_run(cluster, limits, effort.calls) for _ in range(max(2, effort.runs // 2))]
                for share in (50, 99):
                    values = tuple(percentile(run, share / 100) for run in runs)
                    yield Figure(f"create {kind}, {half}: p{share}", Unit.MILLISECONDS, values)


def _run(cluster: Cluster, limits: dict[str, str], calls: int) -> list[float]:
    """Return the milliseconds of every call, sorted."""
    pod = release.pod("benchmark", limits)
    took = []
    with fleet.Api(cluster.kubeconfig).posting(_PATH) as post:
        post(pod)
        for _ in range(calls):
            begin = time.perf_counter()
            post(pod)
            took.append((time.perf_counter() - begin) * 1e3)
    return sorted(took)
