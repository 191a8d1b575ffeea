# SPDX-License-Identifier: Apache-2.0
"""One cluster for the whole run. Outside an enclosure nothing here is collected, which one line says."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.harness import enclose
from tests.cluster.harness.cluster import LINE, LINES, Cluster
from tests.cluster.harness.progress import say


class _NotHere(pytest.Module):
    """A test module that is not imported, only skipped."""

    def collect(self):
        pytest.skip("needs a cluster: make test-cluster")


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Module | None:
    if enclose.folder():
        return None
    module: pytest.Module = _NotHere.from_parent(parent, path=module_path)
    return module


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """The chosen Kubernetes, nodes sgx-1 and plain-1; neither has SGX devices before a test makes them.

    Tests marked kubernetes_1_34 run a second time on that line under `make test-cluster`.
    """
    made = Cluster(version=os.environ.get(LINE, LINES[0]))
    made.start()
    yield made
    made.stop()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]):
    report = yield
    if call.when == "call":
        say(f"{item.nodeid.removeprefix('tests/cluster/')}: {report.outcome}, {call.duration:.1f} s")
    if report.failed and "cluster" in getattr(item, "funcargs", {}) and "waited" not in str(call.excinfo):
        report.sections.append(("cluster", item.funcargs["cluster"].report()))  # type: ignore[attr-defined]
    return report
