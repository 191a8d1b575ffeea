# SPDX-License-Identifier: Apache-2.0
"""The crate aesm-client of Fortanix, unmodified, against the quote helper."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.integration.aesm_peer import helper, report
from tests.integration.testworker import quote_of

CRATE = Path(__file__).parent.parent / "interop" / "aesm-client"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def program() -> Path:
    """The ten-line program around the crate, built once; its folder ``target`` is its cache."""
    for tool, package in (("cargo", "cargo"), ("protoc", "protobuf-compiler")):
        if shutil.which(tool) is None:
            pytest.skip(f"needs {tool}: apt-get install {package}")
    argv = ["cargo", "build", "--locked", "--quiet"]
    built = subprocess.run(argv, cwd=CRATE, capture_output=True, text=True, check=False)
    if any(text in built.stderr for text in ("failed to download", "failed to get")):
        pytest.skip("needs the crates of tests/interop/aesm-client: no network here")
    assert built.returncode == 0, built.stderr
    return CRATE / "target" / "debug" / "aesm-interop"


@pytest.mark.timeout(400)  # the first build compiles forty crates
@pytest.mark.parametrize(("threads", "rounds"), [(1, 3), (64, 10)], ids=["alone", "64-threads"])
def test_key_ids_target_info_and_quotes(program, short_tmp, threads, rounds):
    (short_tmp / "report").write_bytes(report("rust"))
    with helper(short_tmp) as one:
        argv = [program, one.socket, short_tmp / "report", str(threads), str(rounds)]
        done = subprocess.run(argv, capture_output=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr.decode()
        assert done.stdout == quote_of(report("rust"))
        assert b"ServiceUnavailable" in done.stderr  # EPID, answered in kind
        assert one.metric('kubenclave_aesm_requests_total{message="GetQuote",error="SUCCESS"}') == threads * rounds
