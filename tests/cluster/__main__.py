# SPDX-License-Identifier: Apache-2.0
"""The tests on a real cluster (the default), a cluster to play with (--hold), or a way into one (--enter)."""

from __future__ import annotations

import argparse
import os
import sys
import threading
from pathlib import Path

import pytest

from tests.cluster.harness import enclose, needs, pythonimage
from tests.cluster.harness.cluster import LINE, LINES, Cluster
from tests.cluster.harness.progress import phase, say, total
from tools.kubernetes import build
from tools.kubernetes.build import TOOLS, place

_PYTEST = ["-m", "pytest", "-p", "no:randomly", "--capture=sys", "--timeout", "900"]


def main() -> int:
    """Run what the arguments ask for in an enclosure of its own."""
    parser = argparse.ArgumentParser(prog="python -m tests.cluster", description=__doc__)
    parser.add_argument("--hold", action="store_true", help="start a cluster and hold it until ^C")
    parser.add_argument("--enter", metavar="ID", nargs="?", const="", help="run COMMAND (a shell) in a held cluster")
    parser.add_argument("--install", action="store_true", help="make cluster-tools first, where that is possible")
    parser.add_argument("--version", default=LINES[0], choices=LINES, help=f"Kubernetes line ({LINES[0]})")
    parser.add_argument("--all-versions", action="store_true", help="on every line; on older ones what is marked so")
    parser.add_argument("--nodes", default="sgx-1,plain-1", help="names of the nodes (sgx-1,plain-1)")
    parser.add_argument("--keep-logs", action="store_true", help="leave the logs when it ends, not only when it fails")
    parser.add_argument("arguments", nargs="*", help="after --: of pytest; with --enter the command")
    options = parser.parse_args()
    if options.enter is not None:
        return _enter(options.enter, options.version, options.arguments)
    if options.hold and enclose.folder():
        return _hold(options)
    if options.install and not needs.impossible() and (code := build.main([])):
        return code
    lines = LINES if options.all_versions else (options.version,)
    if reason := needs.missing(("containerd", "etcd", *lines, *(() if options.hold else ("helm",)))):
        say(f"cluster tests skipped: {reason}")
        return 1 if options.hold else 0
    with phase("image of this checkout"):  # needs a package index, which nothing inside an enclosure reaches
        pythonimage.kubenclave()
    if options.hold:
        return enclose.run([sys.executable, "-m", "tests.cluster", *sys.argv[1:]], keep_logs=options.keep_logs)
    return _test(options)


def _test(options: argparse.Namespace) -> int:
    """Run pytest enclosed, for one Kubernetes line or for each; the first code that is not 0 ends it."""
    chosen = any(word.startswith("tests/") for word in options.arguments)
    command = [*_PYTEST, *options.arguments, *([] if chosen else ["tests/cluster"])]
    code = 0
    for version in LINES if options.all_versions else (options.version,):
        os.environ[LINE] = version
        marked = []
        if options.all_versions and version != LINES[0]:
            marked = ["-m", f"kubernetes_{version.replace('.', '_')}"]
        code = enclose.run([sys.executable, *command, *marked], keep_logs=options.keep_logs or None)
        if marked and code == pytest.ExitCode.NO_TESTS_COLLECTED:
            code = 0
        if code:
            break
    say(f"total: {total():.0f} s")
    return code


def _hold(options: argparse.Namespace) -> int:
    """Start a cluster, say how to reach it, and wait."""
    cluster = Cluster(options.nodes.split(","), options.version)
    cluster.start()
    say(f"logs in {cluster.logs}; node folders in {cluster.folder / 'nodes'}")
    say(f"enter it with: python -m tests.cluster --enter {cluster.folder.name} -- kubectl get nodes")
    threading.Event().wait()
    return 0


def _enter(run: str, version: str, command: list[str]) -> int:
    """Run a command, or a shell, inside the held cluster that is named, or the only one there is."""
    found = [(folder, first) for folder, first in enclose.running() if run in folder.name]
    if not found:
        say("no cluster is held here; start one with: python -m tests.cluster --hold")
        return 1
    if len(found) > 1:
        say(f"which one? --enter {' or '.join(folder.name for folder, _ in found)}")
        return 1
    folder, first = found[0]
    tools = [place(TOOLS[name]) / "bin" for name in (version, "helm")]
    os.environ["PATH"] = ":".join([*map(str, tools), os.environ["PATH"]])
    os.environ["KUBECONFIG"] = str(folder / "admin.kubeconfig")
    enclose.enter(folder, first, command or ["bash"])
    return 0


if __name__ == "__main__":
    # The repository, wherever this is started from.
    os.chdir(Path(__file__).parents[2])
    try:
        raise SystemExit(main())
    except KeyboardInterrupt:
        os._exit(130)
