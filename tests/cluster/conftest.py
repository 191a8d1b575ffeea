# SPDX-License-Identifier: Apache-2.0
"""One cluster for the whole run. Outside an enclosure nothing here is collected, which one line says."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.harness import enclose
from tests.cluster.harness.cluster import LINE, LINES, Cluster
from tests.cluster.harness.progress import phase, say
from tests.cluster.harness.tidy import tidy


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


@pytest.fixture(scope="session")
def nodes_before(cluster: Cluster) -> dict[str, dict[str, Any]]:
    """The Node objects of a cluster in which nothing has been done yet."""
    return {name: cluster.get("node", name) for name in cluster.nodes}


@pytest.fixture(scope="module", autouse=True)
def _tidied(request: pytest.FixtureRequest) -> Iterator[None]:
    """Let no module inherit what a failed one before it left behind."""
    failed = request.session.testsfailed
    mine = [item for item in request.session.items if item.getparent(pytest.Module) is request.node]
    on_cluster = any("cluster" in getattr(item, "fixturenames", ()) for item in mine)
    before = request.getfixturevalue("nodes_before") if on_cluster else {}
    yield
    if before and request.session.testsfailed > failed:
        with phase("tidied up after a failure"):
            tidy(request.getfixturevalue("cluster"), before)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Name what failed once more at the very end: before that are thousands of lines of logs."""
    reporter = config.pluginmanager.get_plugin("terminalreporter") if enclose.folder() else None
    for report in [*reporter.stats.get("failed", []), *reporter.stats.get("error", [])] if reporter else []:
        crash = getattr(report.longrepr, "reprcrash", None)
        say(f"failed: {report.nodeid}: {crash.message.splitlines()[0][:300] if crash else 'see above'}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]):
    report = yield
    if call.when == "call":
        say(f"{item.nodeid.removeprefix('tests/cluster/')}: {report.outcome}, {call.duration:.1f} s")
    if report.failed and "cluster" in getattr(item, "funcargs", {}) and "waited" not in str(call.excinfo):
        report.sections.append(("cluster", item.funcargs["cluster"].report()))  # type: ignore[attr-defined]
    return report
