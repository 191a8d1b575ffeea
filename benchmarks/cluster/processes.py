# SPDX-License-Identifier: Apache-2.0
"""Processes of pods, as the enclosure sees them: all that run here are the cluster's."""

from pathlib import Path


def running(module: str) -> list[int]:
    """Return the ids of processes that were started as ``python -m MODULE``."""
    return [int(folder.name) for folder in _folders() if _words(folder)[1:3] == ["-m", module]]


def of_container(pod_uid: str) -> int:
    """Return the id of the process of ours in a pod, by the pod's cgroup. Raises StopIteration without one."""
    spellings = (pod_uid, pod_uid.replace("-", "_"))
    return next(
        int(folder.name)
        for folder in _folders()
        if any(spelling in (folder / "cgroup").read_text(encoding="ascii") for spelling in spellings)
        and any("kubenclave" in word for word in _words(folder))
    )


def _folders() -> list[Path]:
    return [folder for folder in Path("/proc").glob("[0-9]*") if (folder / "cmdline").read_bytes()]


def _words(folder: Path) -> list[str]:
    return (folder / "cmdline").read_text(encoding="utf-8", errors="replace").split("\0")
