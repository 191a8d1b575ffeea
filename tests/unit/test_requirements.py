# SPDX-License-Identifier: Apache-2.0
"""The locks: every package pinned with hashes, from no index in particular, and all of one mind."""

import re
from pathlib import Path

import pytest

REQUIREMENTS = Path(__file__).parents[2] / "requirements"
NAMES = ("run.txt", "image.txt", "dev.txt")


def pins(name: str) -> dict[str, list[str]]:
    """Package and version, with the hashes that follow."""
    found: dict[str, list[str]] = {}
    for line in (REQUIREMENTS / name).read_text(encoding="utf-8").splitlines():
        if match := re.match(r"([a-z0-9-]+)==([\w.]+)", line):
            found[f"{match[1]}=={match[2]}"] = []
        elif match := re.match(r" +--hash=sha256:([0-9a-f]{64})", line):
            found[list(found)[-1]].append(match[1])
        else:
            assert line.strip().startswith("#"), line
    return found


@pytest.mark.parametrize("name", NAMES)
def test_every_package_is_pinned_with_hashes(name):
    locked = pins(name)
    assert locked
    assert [package for package, hashes in locked.items() if not hashes] == []


@pytest.mark.parametrize("name", NAMES)
def test_no_lock_names_a_host(name):
    assert "://" not in (REQUIREMENTS / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["run.txt", "image.txt"])
def test_what_runs_is_what_is_tested(name):
    run, dev = pins(name), pins("dev.txt")
    assert {package: dev.get(package) for package in run} == run
