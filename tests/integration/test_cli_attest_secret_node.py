# SPDX-License-Identifier: Apache-2.0
"""A secret for an enclave on a node: CPU, quote helper, enclave and command as programs, the service over TLS."""

import json
import subprocess
import sys

from kubenclave.services.attestation.provider import FixedCollateral
from kubenclave.services.attestation.release.secrets import make_key
from kubenclave.sgx.quote import Quote
from kubenclave.sgx.report import ReportBody
from tests.azure_server import served
from tests.integration.test_sim_quotes_aesm import Node

KUBENCLAVE = [sys.executable, "-m", "kubenclave"]
VALUE = b"\0a secret\xff"


def in_an_enclave(node, *words, debug=False):
    """Run a command of ours with a SIMULATED enclave."""
    launch = [*KUBENCLAVE, "sim", "run", "--state", str(node.state), *(["--debug"] if debug else [])]
    inner = [*KUBENCLAVE, *map(str, words), "--aesm-socket", str(node.aesm)]
    return subprocess.run([*launch, "--", *inner], capture_output=True, check=False)


def test_an_enclave_gets_its_secret_and_its_debug_build_does_not(short_tmp):
    node, quote, out = Node(short_tmp), short_tmp / "quote.bin", short_tmp / "out"
    make_key(short_tmp / "secrets.key")
    with node.platform(), node.helper():
        collateral, root = node.collateral()
        with served(short_tmp, root=root, secrets_key=short_tmp / "secrets.key") as service:
            made = service.service
            made.judge.provider = FixedCollateral(collateral)
            assert in_an_enclave(node, "quote", "get", "--report-data", "00", "--out", quote).returncode == 0
            body = Quote.parse(quote.read_bytes()).body
            assert isinstance(body, ReportBody)
            policy = json.dumps({"version": 1, "enclaves": [{"mr_enclave": body.mr_enclave.hex()}]})
            stored = made.policies.put("SgxEnclave", policy, "kubenclave", by="test")
            made.secrets.put("database", VALUE, tee_type="SgxEnclave", policy=stored.digest, by="test", simulated=True)
            get = ("attest", "secret", "get", "database", "--url", service.url, "--ca", service.ca, "--out", out)
            done = in_an_enclave(node, *get)
            assert done.returncode == 0, done.stderr.decode()
            assert (out.read_bytes(), out.stat().st_mode & 0o077) == (VALUE, 0)
            done = in_an_enclave(node, *get, debug=True)
            assert (done.returncode, b"policy.debug" in done.stderr) == (1, True)
            verdicts = [json.loads(entry)["verdict"] for entry in made.log.entries(0, 9)]
            assert verdicts == ["accepted", "refused"]
