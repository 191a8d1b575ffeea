# SPDX-License-Identifier: Apache-2.0
"""The benchmarks run: short ones here, so that they do not rot between releases. Figures are nobody's business here."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def benchmarks(*arguments: str) -> "subprocess.CompletedProcess[str]":
    # The real quotes would take longer than they are worth here; the SIMULATED ones are always there.
    env = {**os.environ, "KUBENCLAVE_SHARED_DATA": "/nowhere"}
    argv = [sys.executable, "-m", "benchmarks", *arguments]
    return subprocess.run(argv, cwd=ROOT, env=env, capture_output=True, text=True, check=False)


def test_table_json_and_document_say_the_same(tmp_path):
    document, figures = tmp_path / "document.md", tmp_path / "figures.json"
    document.write_text("before\n<!-- figures -->\nold\n<!-- end of figures -->\nafter\n", encoding="utf-8")
    done = benchmarks("--quick", "verification", "--json", str(figures), "--into", str(document))
    assert done.returncode == 0, done.stderr
    read = json.loads(figures.read_text(encoding="utf-8"))
    names = [figure["name"] for figure in read["figures"]]
    assert names == [
        "verify, SIMULATED, same enclave again",
        "verify, SIMULATED, fleet of platforms",
        "verify, SIMULATED, nothing cached",
    ]
    assert {figure["peer"]["name"] for figure in read["figures"]} == {"dcap-qvl"}
    assert all(figure["best"] > 0 and figure["times_better"] > 0 for figure in read["figures"])
    written = document.read_text(encoding="utf-8")
    assert written.startswith("before\n<!-- figures -->\n")
    assert written.endswith("\n<!-- end of figures -->\nafter\n")
    assert "old" not in written
    assert all(name in written and name in done.stdout for name in names)


@pytest.mark.parametrize("name", ["nonsense", "verify"])
def test_an_unknown_name_is_misuse(name):
    done = benchmarks(name)
    assert done.returncode == 2
    assert "no such benchmark" in done.stderr


def test_a_document_without_marks_is_left_alone(tmp_path):
    document = tmp_path / "document.md"
    document.write_text("no marks", encoding="utf-8")
    done = benchmarks("--quick", "verification", "--into", str(document))
    assert done.returncode != 0
    assert "has no marks" in done.stderr
    assert document.read_text(encoding="utf-8") == "no marks"


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_services_are_measured_beside_their_peer(tmp_path):
    done = benchmarks("--quick", "services", "--json", str(tmp_path / "figures.json"))
    assert done.returncode == 0, done.stderr
    read = json.loads((tmp_path / "figures.json").read_text(encoding="utf-8"))["figures"]
    assert all(figure["best"] > 0 for figure in read)
    assert {figure["peer"]["name"] for figure in read if figure["peer"]} == {"dcap-qvl in starlette"}
    assert {"attest, Azure RS256, 64 clients", "collateral, pckcrl, 16 clients"} <= {figure["name"] for figure in read}
