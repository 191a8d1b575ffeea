# SPDX-License-Identifier: Apache-2.0
"""What all tests share: hypothesis profiles, third-party data, short socket paths."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).parent.parent

_EXAMPLES = os.environ.get("KUBENCLAVE_FUZZ_EXAMPLES")
settings.register_profile(
    "default",
    max_examples=int(_EXAMPLES or 60),
    derandomize=_EXAMPLES is None,  # a quick run says the same each time; new ground is for long ones
    deadline=None,  # a loaded machine is no failure
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("default")


def shared_data_path() -> Path:
    """Folder of third-party quotes and enclaves; one setting, read nowhere else."""
    return Path(os.environ.get("KUBENCLAVE_SHARED_DATA", ROOT / ".." / "shared" / "data")).resolve()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    path = shared_data_path()
    if not path.is_dir():
        pytest.skip("no third-party data here (KUBENCLAVE_SHARED_DATA)")
    return path


@pytest.fixture
def short_tmp() -> Iterator[Path]:
    """Folder whose name leaves room for a socket in AF_UNIX's 108 bytes."""
    path = Path(tempfile.mkdtemp(prefix="kc"))
    yield path
    shutil.rmtree(path, ignore_errors=True)
