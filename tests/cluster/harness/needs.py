# SPDX-License-Identifier: Apache-2.0
"""What a machine must have for a cluster."""

from __future__ import annotations

import os
import shutil
import sys

from tools.kubernetes.build import TOOLS, built, go_version, missing_packages


def impossible() -> str | None:
    """Why no cluster can run on this machine even after `make cluster-tools`, in a line, or None."""
    if sys.platform != "linux":
        return "not Linux"
    if os.geteuid() != 0:
        return "not root"
    if go_version() is None:
        return "no `go` on PATH"
    if missing_packages() and not shutil.which("apt-get"):
        return f"no Debian, and missing {' '.join(missing_packages())}"
    return None


def missing(tools: tuple[str, ...]) -> str | None:
    """Why no cluster can run here as it is, in a line, or None."""
    if reason := impossible():
        return reason
    absent = [*missing_packages(), *(name for name in tools if not built(TOOLS[name]))]
    return f"missing {' '.join(absent)} (make cluster-tools)" if absent else None
