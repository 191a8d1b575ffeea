# SPDX-License-Identifier: Apache-2.0
"""Nothing remains of an enclosure, whichever of its processes is killed in the middle of a running cluster.

The enclosures of these tests are made within the one that the tests run in, with a cluster of one node each.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
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


def links() -> list[str]:
    """The network links of this process: the tests may run beside a cluster that has a bridge here."""
    return sorted(name for _, name in socket.if_nameindex())


@pytest.fixture
def held():
    """A cluster that another process holds: that process, the name of its run, and our links from before it."""
    before = links()
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
        yield front, said[-1].split()[-5], before
        front.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_nothing_remains_of_a_cluster_whose_front_is_killed(held, number):
    front, run, before = held
    assert len(remains(run)) > 5
    assert links() == before, "its network met that of who started it"
    front.send_signal(number)
    deadline = time.monotonic() + 30
    while remains(run) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert remains(run) == []


def enclosed(script: str) -> tuple[int, Path]:
    """Run a shell script in an enclosure; return its exit code and the run's folder."""
    program = f"from tests.cluster.harness import enclose\nraise SystemExit(enclose.run(['sh', '-c', {script!r}]))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    return done.returncode, Path(done.stdout.strip())


@pytest.mark.parametrize(("end", "code"), [("exit 0", 0), ("exit 3", 3), ("kill -KILL $$", 137)])
def test_a_run_ends_as_its_command_does_and_leaves_logs_only_of_a_failure(end, code):
    found, folder = enclosed(f"mkdir ${enclose.RUN}/logs && echo ${enclose.RUN} && {end}")
    assert found == code
    assert [path.name for path in folder.glob("*")] == (["logs"] if code else [])
    shutil.rmtree(folder, ignore_errors=True)


def test_a_run_whose_janitor_was_killed_is_cleaned_up_by_the_next():
    _code, folder = enclosed(f"echo ${enclose.RUN}")
    folder.mkdir()
    (folder / "lock").touch()
    groups = [root / folder.name for root in enclose.hierarchies()]
    for group in groups:
        group.mkdir()
    enclosed("true")
    assert not any(path.exists() for path in (folder, *groups))
