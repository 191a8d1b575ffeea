# SPDX-License-Identifier: Apache-2.0
"""Nothing remains of an enclosure, whichever of its processes is killed in the middle of a running cluster.

The enclosures of these tests are made within the one that the tests run in, with a cluster of one node each.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cluster.harness import enclose

HOLD = [sys.executable, "-m", "tests.cluster", "--hold", "--nodes", "only"]


def remains(run: str) -> list[str]:
    """What is there of a run: its folder, cgroups, mounts, and processes that name it."""
    found = [str(place) for place in Path("/tmp").glob(run)]
    found += [str(root / run) for root in enclose.hierarchies() if (root / run).exists()]
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if run.encode() in (process / "cmdline").read_bytes() or run in (process / "mountinfo").read_text():
                found.append(str(process))
        except OSError:
            continue
    return found


@pytest.fixture
def held():
    """A cluster that another process holds: that process, and the name of its run."""
    environment = {name: value for name, value in os.environ.items() if name != enclose.RUN}
    with subprocess.Popen(HOLD, env=environment, stderr=subprocess.PIPE, text=True) as front:
        assert front.stderr
        said = []
        for line in front.stderr:
            said.append(line)
            if "enter it with" in line:
                break
        else:
            pytest.fail("".join(said))
        yield front, said[-1].split()[-5]
        front.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_nothing_remains_of_a_cluster_whose_front_is_killed(held, number):
    front, run = held
    assert len(remains(run)) > 5
    front.send_signal(number)
    deadline = time.monotonic() + 30
    while remains(run) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert remains(run) == []


@pytest.mark.usefixtures("held")
def test_the_network_of_a_cluster_is_not_that_of_who_started_it():
    assert "kubenclave0" not in subprocess.run(["ip", "link"], capture_output=True, text=True, check=True).stdout
