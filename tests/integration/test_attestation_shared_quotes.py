# SPDX-License-Identifier: Apache-2.0
"""Real quotes of SGX and TDX through the service for Intel's root: what it says is what the verifier says."""

import datetime as dt
from typing import Any

import pytest

from kubenclave.dcap.collateral import Collateral
from kubenclave.dcap.tcb import TcbStatus
from kubenclave.services.attestation.provider import FixedCollateral
from tests.attestation_service import base64url, bench, claims
from tests.integration.test_dcap_shared_quotes import CASES, load

REAL = "https://attestation.example"
UPDATED = {"UpToDate", "SWHardeningNeeded", "ConfigurationNeeded", "ConfigurationAndSWHardeningNeeded"}


@pytest.fixture
def asked(shared_data, tmp_path, request):
    """The bench with what the case needs, and the evidence of the case."""
    case = load(shared_data, request.param)
    name: dict[str, Any] = {} if case.root is not None else {"issuer": REAL}
    with bench(tmp_path / "state", root=case.root, **name) as made:
        made.service.judge.provider = FixedCollateral(Collateral.from_json(case.text))
        made.clock.time = dt.datetime.fromtimestamp(case.at, dt.UTC)
        chain = {} if case.pck_chain is None else {"pck_chain": case.pck_chain.decode()}
        yield request.param, made, {"quote": base64url(case.quote), **chain}


@pytest.mark.parametrize("asked", sorted(CASES), indirect=True)
def test_service_says_what_the_verifier_says(asked):
    name, made, evidence = asked
    for dialect in ("none", "ear", "ear-veraison", "azure"):
        answer = made.post("/v1/attest", {**evidence, "token": dialect})
        found, expected = answer.json(), CASES[name]
        if dialect == "azure" and expected in set(TcbStatus) - UPDATED:
            assert found["code"] == "azure-policy.tcb-status"
        elif "." in expected:
            assert (answer.status_code, found["code"]) == (422, expected)
        else:
            assert found["verdict"]["tcb_status"] == expected, answer.text
            assert found["verdict"]["simulated"] is made.service.settings.simulated


@pytest.mark.parametrize("asked", ["tdx-v4-uptodate", "sgx-v3-swhardening"], indirect=True)
def test_tokens_for_real_hardware_do_not_say_simulated(asked):
    name, made, evidence = asked
    for dialect in ("ear", "azure"):
        token = made.post("/v1/attest", {**evidence, "token": dialect}).json()["token"]
        said = claims(token)
        assert (said["iss"], said["kubenclave"]["simulated"]) == (REAL, False)
        if dialect == "azure":
            assert said["x-ms-attestation-type"] == ("tdxvm" if name.startswith("tdx") else "sgx")
    assert "simulated" not in made.get("/v1/certs").text.lower()
