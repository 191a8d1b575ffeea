# SPDX-License-Identifier: Apache-2.0
"""The tests on a real cluster (the default), a cluster to play with (--hold), or a way into one (--enter)."""

from __future__ import annotations

import argparse
import os
import sys
import threading
from pathlib import Path

from tests.cluster.harness import enclose, needs, pythonimage
from tests.cluster.harness.cluster import LINE, Cluster
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
    parser.add_argument("--version", default="1.36", help="Kubernetes line, 1.36 (the default) or 1.34")
    parser.add_argument("--nodes", default="sgx-1,plain-1", help="names of the nodes (sgx-1,plain-1)")
    parser.add_argument("--keep-logs", action="store_true", help="leave the logs when it ends")
    parser.add_argument("arguments", nargs="*", help="after --: of pytest; with --enter the command")
    options = parser.parse_args()
    if options.enter is not None:
        return _enter(options.enter, options.version, options.arguments)
    if options.hold and enclose.folder():
        return _hold(options)
    if options.install and not needs.impossible() and (code := build.main([])):
        return code
    if reason := needs.missing(("containerd", options.version, *(() if options.hold else ("helm",)))):
        say(f"cluster tests skipped: {reason}")
        return 1 if options.hold else 0
    with phase("image of this checkout"):  # needs a package index, which nothing inside an enclosure reaches
        pythonimage.kubenclave()
    chosen = any(word.startswith("tests/") for word in options.arguments)
    again = [*_PYTEST, *options.arguments, *([] if chosen else ["tests/cluster"])]
    if options.hold:
        again = ["-m", "tests.cluster", *sys.argv[1:]]
    os.environ[LINE] = options.version
    code = enclose.run([sys.executable, *again], keep=options.keep_logs)
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
    """Run a command, or a shell, inside the newest held cluster or the one named."""
    found = [(folder, first) for folder, first in enclose.running() if run in folder.name]
    if not found:
        say("no cluster is held here; start one with: python -m tests.cluster --hold")
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
