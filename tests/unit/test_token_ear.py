# SPDX-License-Identifier: Apache-2.0
"""EAR: two spellings of one result, and what each finding becomes in the trustworthiness vector."""

import datetime as dt
from types import SimpleNamespace
from typing import Any, cast

import pytest

from kubenclave.dcap.judgement import DataType, HeldData, Judgement
from kubenclave.dcap.policy import Policy
from kubenclave.dcap.tcb import TcbStatus
from kubenclave.dcap.token.ear import Dialect, ear_claims, tier, trustworthiness
from kubenclave.errors import FormatError
from kubenclave.platform.simulated.tcb import PlatformTcb
from tests import evidence
from tests.judgements import AZURE_POLICY, NONCE, TYPED_POLICY, judgement, tdx

WANTED = Policy.from_json(f'{{"version": 1, "enclaves": [{{"mr_enclave": "{evidence.MR_ENCLAVE.hex()}"}}]}}')


def claims(dialect: Dialect = Dialect.DRAFT, **changes: Any) -> dict[str, Any]:
    return ear_claims(judgement(**changes), dialect, build="test 1")


def test_the_draft_spelling():
    said = claims(nonce=NONCE)
    assert said["eat_profile"] == "tag:ietf.org,2026:rats/ear#03"
    assert said["ear_verifier_id"]["build"] == "test 1"
    assert said["eat_nonce"] == NONCE
    sgx = said["submods"]["sgx"]
    assert sgx["ear_status"] == "warning"
    assert sgx["ear_appraisal_policy_ids"] == [f"policy:azure/SgxEnclave/3/{AZURE_POLICY.digest.hex()}"]
    assert sgx["kubenclave"]["evidence"]["mr_enclave"] == evidence.MR_ENCLAVE.hex()
    assert sgx["kubenclave"]["evidence"]["report_data"] == evidence.REPORT_DATA.hex()
    assert said["kubenclave"]["simulated"] is True


def test_the_veraison_spelling():
    said = claims(Dialect.VERAISON, issued={"team": "a"})
    assert said["eat_profile"] == "tag:github.com,2023:veraison/ear"
    assert said["ear.verifier-id"]["build"] == "test 1"
    assert "eat_nonce" not in said
    sgx = said["submods"]["sgx"]
    assert sgx["ear.status"] == "warning"
    assert sgx["ear.appraisal-policy-id"] == f"policy:azure/SgxEnclave/3/{AZURE_POLICY.digest.hex()}"
    assert sgx["ear.veraison.annotated-evidence"]["mr_enclave"] == evidence.MR_ENCLAVE.hex()
    assert sgx["ear.veraison.policy-claims"] == {"team": "a"}


def test_both_say_the_same():
    draft, veraison = (claims(each)["submods"]["sgx"] for each in Dialect)
    assert draft["ear_status"] == veraison["ear.status"]
    assert draft["ear_trustworthiness_vector"] == veraison["ear.trustworthiness-vector"]
    assert draft["kubenclave"]["evidence"] == veraison["ear.veraison.annotated-evidence"]


@pytest.mark.parametrize("dialect", Dialect)
def test_without_a_policy_there_is_no_policy_id(dialect):
    sgx = claims(dialect, policy_reference=None)["submods"]["sgx"]
    assert not any("policy" in name for name in sgx)


def test_claims_of_a_policy_and_held_data():
    held = HeldData(b"\xfb\xff", DataType.BINARY)
    said = claims(issued={"team": "a"}, runtime_data=held)["submods"]["sgx"]["kubenclave"]
    assert said["policy_claims"] == {"team": "a"}
    assert said["evidence"]["runtime_data"] == "-_8"
    assert "init_data" not in said["evidence"]


def test_a_trust_domain_is_a_submodule_of_its_own_kind():
    said = ear_claims(tdx(), Dialect.DRAFT, build="test 1")
    assert list(said["submods"]) == ["tdx"]
    assert said["submods"]["tdx"]["kubenclave"]["evidence"]["tee"] == "TDX"


@pytest.mark.parametrize("nonce", ["", "1234567", "x" * 89])
def test_a_nonce_that_does_not_fit_is_refused(nonce):
    with pytest.raises(FormatError) as caught:
        claims(nonce=nonce)
    assert caught.value.code == "token.nonce"


def test_an_enclave_that_a_policy_named_is_affirmed():
    said = claims(policy=WANTED, policy_reference=TYPED_POLICY)["submods"]["sgx"]
    assert said["ear_status"] == "affirming"
    assert said["ear_trustworthiness_vector"] == {
        "configuration": 2,
        "executables": 2,
        "hardware": 2,
        "runtime-opaque": 2,
    }


def test_a_debug_enclave_is_contraindicated():
    said = claims(given=evidence.debug(), debug=True)["submods"]["sgx"]
    assert said["ear_status"] == "contraindicated"
    assert said["ear_trustworthiness_vector"]["runtime-opaque"] == 96


def test_overdue_collateral_affirms_no_hardware():
    late = judgement(at=evidence.NOW + dt.timedelta(days=40), grace=dt.timedelta(days=20))
    assert late.verdict.collateral_expired
    assert trustworthiness(late)["hardware"] == 32
    assert ear_claims(late, Dialect.DRAFT, build="test 1")["kubenclave"]["collateral"]["expired"] is True


def test_a_platform_out_of_date():
    said = trustworthiness(judgement(evidence.make(tcb=PlatformTcb.OUT_OF_DATE)))
    assert said["hardware"] == 32


@pytest.mark.parametrize(
    ("status", "hardware", "configuration"),
    [
        (TcbStatus.UP_TO_DATE, 2, 2),
        (TcbStatus.SW_HARDENING_NEEDED, 2, 32),
        (TcbStatus.CONFIGURATION_NEEDED, 2, 36),
        (TcbStatus.CONFIGURATION_AND_SW_HARDENING_NEEDED, 2, 36),
        (TcbStatus.OUT_OF_DATE, 32, 2),
        (TcbStatus.OUT_OF_DATE_CONFIGURATION_NEEDED, 32, 36),
        (TcbStatus.TD_RELAUNCH_ADVISED, 32, 2),
        (TcbStatus.TD_RELAUNCH_ADVISED_CONFIGURATION_NEEDED, 32, 36),
        (TcbStatus.REVOKED, 96, 2),
    ],
)
def test_every_status_has_its_numbers(status, hardware, configuration):
    verdict = SimpleNamespace(
        tcb_status=status,
        enclave="named",
        collateral_expired=False,
        quote=SimpleNamespace(body=SimpleNamespace(debug=False)),
    )
    said = trustworthiness(cast("Judgement", SimpleNamespace(verdict=verdict)))
    assert (said["hardware"], said["configuration"]) == (hardware, configuration)
    assert said["executables"] == said["runtime-opaque"] == 2


@pytest.mark.parametrize(
    ("worst", "expected"),
    [
        (2, "affirming"),
        (31, "affirming"),
        (32, "warning"),
        (95, "warning"),
        (96, "contraindicated"),
        (99, "contraindicated"),
    ],
)
def test_the_status_is_the_worst_tier(worst, expected):
    assert tier({"hardware": worst, "executables": 2}) == expected
