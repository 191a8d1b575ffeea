# SPDX-License-Identifier: Apache-2.0
"""The Python examples in README and docs run as they stand, on a quote of the SIMULATED platform made now."""

import datetime as dt
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.fleet import Fleet

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
EXAMPLES = [
    pytest.param(example, id=f"{path.stem}-{number}")
    for path in DOCUMENTS
    for number, example in enumerate(
        re.findall(r"^```python\n(.*?)^```$", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    )
]
POLICY = """
version = 1
[[enclaves]]
mr_enclave = "{mr_enclave}"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The files that the examples read."""
    fleet = Fleet.of(1, dt.datetime.now(dt.UTC))
    (tmp_path / "quote.bin").write_bytes(fleet.platforms[0].quote(0))
    (tmp_path / "collateral.json").write_text(fleet.collateral.to_json(), encoding="utf-8")
    (tmp_path / "root.der").write_bytes(fleet.root)
    (tmp_path / "policy.toml").write_text(POLICY.format(mr_enclave="11" * 32), encoding="utf-8")
    return tmp_path


def run(example: str, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", example], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_accepts_the_enclave_that_the_policy_wants(example, folder):
    assert "UpToDate" in run(example, folder)


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_refuses_another_enclave(example, folder):
    (folder / "policy.toml").write_text(POLICY.format(mr_enclave="00" * 32), encoding="utf-8")
    said = run(example, folder)
    assert "UpToDate" not in said
    assert "MRENCLAVE" in said
