# SPDX-License-Identifier: Apache-2.0
"""The crate aesm-client of Fortanix, unmodified, against the quote helper."""

import datetime as dt
import shutil
import subprocess
from pathlib import Path

import pytest

from kubenclave import verify_quote
from kubenclave.platform.aesmclient import AesmClient
from kubenclave.platform.simcpu import Enclave
from kubenclave.sgx.attributes import Attributes
from tests.integration.aesm_peer import helper, report
from tests.integration.test_sim_quotes_aesm import Node
from tests.integration.testworker import quote_of
from tests.simulated_platform import APP_MR_ENCLAVE, app_sigstruct

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


@pytest.mark.timeout(400)
@pytest.mark.parametrize(("threads", "rounds"), [(1, 1), (64, 20)], ids=["alone", "64-threads"])
def test_quotes_of_the_simulated_platform_verify(program, short_tmp, threads, rounds):
    node = Node(short_tmp)
    with node.platform(), node.helper(), Enclave.connect(node.cpu) as enclave:
        enclave.create(1 << 13, attributes=Attributes(4, 3))
        enclave.measured(APP_MR_ENCLAVE, 2)
        enclave.init(app_sigstruct())
        target = AesmClient(node.aesm).target_info()
        (short_tmp / "report").write_bytes(enclave.report(target, b"rust".ljust(64, b"\0")))
        argv = [program, node.aesm, short_tmp / "report", str(threads), str(rounds)]
        done = subprocess.run(argv, capture_output=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr.decode()
        collateral, root = node.collateral()
    verdict = verify_quote(done.stdout, collateral, at=dt.datetime.now(dt.UTC), root=root)
    assert verdict.tcb_status == "UpToDate"
    assert done.stdout[48 + 320 : 48 + 324] == b"rust"
