# SPDX-License-Identifier: Apache-2.0
"""What a machine must have for a cluster."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from tools.kubernetes.build import TOOLS, built, go_version

PROGRAMS = {
    "etcd": "etcd-server",
    "runc": "runc",
    "busybox": "busybox-static",
    "iptables": "iptables",
    "ip": "iproute2",
    "unshare": "util-linux",
}
"""Programs, and the Debian packages they come from."""


def missing(tools: tuple[str, ...] = ("containerd", "1.36", "helm")) -> str | None:
    """Why no cluster can run here, in a line, or None."""
    if os.geteuid() != 0:
        return "not root"
    if go_version() is None:
        return "no `go` on PATH"
    packages = [package for program, package in PROGRAMS.items() if not shutil.which(program)]
    if not Path("/usr/lib/cni/bridge").exists():
        packages.append("containernetworking-plugins")
    if packages:
        return f"missing packages: {' '.join(packages)}"
    unbuilt = [name for name in tools if not built(TOOLS[name])]
    return f"not built: {' '.join(unbuilt)} (make cluster-tools)" if unbuilt else None
