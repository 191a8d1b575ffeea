# SPDX-License-Identifier: Apache-2.0
"""The built wheel: complete, and good for more than an import. ``make wheel-test`` runs all tests against it."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.programs import unmeasured

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "kubenclave"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build it as an index would get it; hatchling needs no network."""
    folder = tmp_path_factory.mktemp("wheel")
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (built,) = folder.glob("*.whl")
    return built


def run(wheel: Path, unpacked: Path, *arguments: str) -> str:
    """Run a Python that finds the wheel's modules before any other."""
    if not unpacked.exists():
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(unpacked)
    env = {**unmeasured(), "PYTHONPATH": str(unpacked)}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=unpacked, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_holds_every_module_and_no_other(wheel):
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    in_source = {
        str(path.relative_to(SOURCE.parent))
        for path in SOURCE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert packed == in_source


def test_it_carries_licence_entry_point_and_type_marker(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (entry_points,) = [archive.read(name).decode() for name in names if name.endswith("entry_points.txt")]
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert "kubenclave/py.typed" in names
    for script in ("kubenclave", "kubectl-kubenclave"):
        assert f"\n{script} = kubenclave.cli.main:main\n" in entry_points


def test_its_command_line_is_its_own(wheel, tmp_path):
    unpacked = tmp_path / "unpacked"
    assert "Commands:" in run(wheel, unpacked, "-m", "kubenclave", "--help")
    where = run(wheel, unpacked, "-c", "import kubenclave.cli.main as m; print(m.__file__)").strip()
    assert Path(where).is_relative_to(unpacked)


def test_every_module_of_it_imports(wheel, tmp_path):
    every = (
        "import pkgutil, importlib, kubenclave;"
        "[importlib.import_module(m.name) for m in pkgutil.walk_packages(kubenclave.__path__, 'kubenclave.')"
        " if not m.name.endswith('__main__')]; print(kubenclave.__file__)"
    )
    assert Path(run(wheel, tmp_path / "unpacked", "-c", every).strip()).is_relative_to(tmp_path)
