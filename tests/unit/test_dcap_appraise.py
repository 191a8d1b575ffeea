# SPDX-License-Identifier: Apache-2.0
"""Appraisal: every rule of a policy by itself, and all findings at once."""

import datetime as dt
import hmac
import json
from typing import Any

import pytest

import kubenclave
from kubenclave.dcap import appraise
from kubenclave.dcap.cache import Cache
from kubenclave.dcap.pins import PINS, SGX_PINS, Pin
from kubenclave.dcap.policy import Policy
from kubenclave.dcap.relaxations import relaxations_of
from kubenclave.dcap.tcb import TcbStatus
from kubenclave.dcap.verdict import QuoteVerdict
from kubenclave.errors import PolicyError
from kubenclave.platform.simulated.tcb import PlatformTcb
from kubenclave.sgx.attributes import Attributes
from kubenclave.sgx.quote import Quote
from kubenclave.sgx.report import ReportBody
from kubenclave.sgx.tdreport import TdReport10
from vectors.case import Before, both, put
from vectors.scene import AT, PERIODS, STRANGER, collateral_of, scene, sgx_body, td_body

BODY, TD = sgx_body(), td_body()
ENCLAVE = {"mr_enclave": BODY.mr_enclave.hex()}
SIGNER = {"mr_signer": BODY.mr_signer.hex(), "isv_prod_id": BODY.isv_prod_id, "min_isv_svn": BODY.isv_svn}
CACHE = Cache()
NOTHING = put()
STATUS_WORDS = {"to": "To", "sw": "SW", "of": "Of"}


def verify(
    change: Before = NOTHING,
    base: str = "sgx-v3",
    at: dt.datetime = AT,
    report_data: bytes | None = None,
    **members: Any,
) -> QuoteVerdict:
    staged = scene(base)
    change(staged)
    evidence = staged.build()
    document = {"version": 1, "enclaves": [ENCLAVE, {"mr_td": TD.mr_td.hex()}], **members}
    return kubenclave.verify_quote(
        evidence.quote,
        collateral_of(evidence),
        at=at,
        root=evidence.root,
        policy=Policy.from_json(json.dumps(document)),
        report_data=report_data,
        cache=CACHE,
    )


def findings(*arguments: Any, **members: Any) -> list[str]:
    with pytest.raises(PolicyError) as refusal:
        verify(*arguments, **members)
    return [finding.code for finding in refusal.value.findings]


def state(tcb: PlatformTcb) -> Before:
    return lambda staged: staged.platform(tcb.svns)


@pytest.mark.parametrize("base", ["sgx-v3", "tdx-v4"])
def test_what_was_wanted_is_appraised(base):
    assert verify(base=base, name="mine").appraised
    assert verify(base=base, name="mine").policy_name == "mine"


@pytest.mark.parametrize(
    "rule",
    [
        pytest.param(ENCLAVE, id="mr-enclave"),
        pytest.param(SIGNER, id="mr-signer"),
        pytest.param({**SIGNER, "min_isv_svn": 0}, id="older-svn-will-do"),
        pytest.param({**ENCLAVE, **SIGNER}, id="everything"),
        pytest.param({**ENCLAVE, "isv_prod_id": BODY.isv_prod_id}, id="mr-enclave-and-product"),
    ],
)
def test_rules_that_fit(rule):
    assert verify(enclaves=[rule]).appraised
    assert verify(enclaves=[{"mr_enclave": "00" * 32}, rule]).appraised


@pytest.mark.parametrize(
    ("rule", "codes"),
    [
        pytest.param({"mr_enclave": "00" * 32}, ["policy.mr-enclave"], id="mr-enclave"),
        pytest.param({**SIGNER, "mr_signer": "00" * 32}, ["policy.mr-signer"], id="mr-signer"),
        pytest.param({**SIGNER, "isv_prod_id": 8}, ["policy.isv-prod-id"], id="product"),
        pytest.param({**SIGNER, "min_isv_svn": 4}, ["policy.isv-svn"], id="svn"),
        pytest.param({**ENCLAVE, "min_isv_svn": 4}, ["policy.isv-svn"], id="mr-enclave-of-an-old-svn"),
        pytest.param({"mr_td": "00" * 48}, ["policy.mr-td"], id="a-trust-domain"),
        pytest.param(
            {"mr_enclave": "00" * 32, "mr_signer": "00" * 32, "isv_prod_id": 8, "min_isv_svn": 4},
            ["policy.mr-enclave", "policy.mr-signer", "policy.isv-prod-id", "policy.isv-svn"],
            id="everything",
        ),
    ],
)
def test_rules_that_do_not_fit(rule, codes):
    assert findings(enclaves=[rule]) == codes


def rule_of(body: ReportBody | TdReport10, pin: Pin) -> dict[str, Any]:
    value = getattr(body, pin.field)
    main = ENCLAVE if isinstance(body, ReportBody) else {"mr_td": TD.mr_td.hex()}
    return {**main, pin.member: value.hex() if isinstance(value, bytes) else value}


@pytest.mark.parametrize("pin", PINS, ids=lambda pin: pin.member)
def test_every_pin_fits_its_value_and_no_other(pin):
    base = "sgx-v3" if pin in SGX_PINS else "tdx-v5"
    size = 1 if pin.size is None else pin.size
    change = put(body={pin.field: 5 if pin.size is None else b"\x05" * size})
    if pin.member in ("mr_enclave", "mr_signer", "mr_td"):
        change = NOTHING
    staged = scene(base)
    change(staged)
    rule = rule_of(Quote.parse(staged.build().quote).body, pin)
    assert verify(change, base, enclaves=[rule]).appraised
    value = rule[pin.member]
    wrong = value + 1 if isinstance(value, int) else ("ff" + value[2:] if value[:2] != "ff" else "00" + value[2:])
    assert findings(change, base, enclaves=[{**rule, pin.member: wrong}]) == [pin.code]


def test_an_older_config_svn_will_do_where_the_rule_says_so():
    change = put(body={"config_svn": 5})
    assert verify(change, enclaves=[{**ENCLAVE, "min_config_svn": 4}]).appraised
    with pytest.raises(PolicyError) as refusal:
        verify(change, enclaves=[{**ENCLAVE, "min_config_svn": 6}])
    assert str(refusal.value.findings[0]) == "CONFIGSVN: expected 6 or more, found 5"


def test_a_field_that_the_body_does_not_have_is_not_zero():
    rule = {"mr_td": TD.mr_td.hex(), "mr_service_td": "00" * 48}
    with pytest.raises(PolicyError) as refusal:
        verify(base="tdx-v4", enclaves=[rule])
    (finding,) = refusal.value.findings
    assert (finding.code, finding.found) == (
        "policy.mr-service-td",
        "no such field: its TD report is of an older version",
    )


def test_the_closest_rule_is_one_of_the_same_tee():
    far = {"mr_signer": "00" * 32, "isv_prod_id": 8, "min_isv_svn": 4}
    assert findings(enclaves=[{"mr_td": "00" * 48}, far])[0] == "policy.mr-signer"


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        ([{"name": "mine", **ENCLAVE}], "mine"),
        ([ENCLAVE], "enclaves[0]"),
        ([{"mr_enclave": "00" * 32}, SIGNER, ENCLAVE], "enclaves[1]"),
    ],
    ids=["name", "no name", "first that fits"],
)
def test_a_verdict_says_which_rule_it_was(rules, said):
    verdict = verify(enclaves=rules)
    assert verdict.enclave == verdict.as_dict()["enclave"] == said


@pytest.mark.parametrize(
    ("mask", "value", "fits"),
    [
        ("01" + "00" * 7, "00" * 8, True),
        ("00" * 3 + "10" + "00" * 4, "00" * 3 + "10" + "00" * 4, True),
        ("00" * 7 + "80", "00" * 7 + "80", False),
    ],
    ids=["no debug", "SEPT_VE_DISABLE", "PERFMON"],
)
def test_td_attributes_under_a_mask(mask, value, fits):
    change = put(body={"td_attributes": 0x10000000})
    bits = {"mask": mask, "value": value}
    if fits:
        assert verify(change, "tdx-v4", td_attributes=bits).appraised
    else:
        assert findings(change, "tdx-v4", td_attributes=bits) == ["policy.td-attributes"]


@pytest.mark.parametrize("base", ["sgx-v3", "tdx-v4"])
def test_a_policy_for_both_tees_names_the_attributes_of_both(base):
    anything: dict[str, Any] = {"misc_select": {"mask": "00" * 4, "value": "00" * 4}}
    of_td: dict[str, Any] = {"td_attributes": {"mask": "00" * 8, "value": "00" * 8}}
    assert verify(base=base, **anything, **of_td).appraised
    assert findings(base="sgx-v3", **of_td) == ["policy.tee"]


def test_the_closest_of_several_rules_is_reported_by_its_name():
    far = {"name": "far", "mr_signer": "00" * 32, "isv_prod_id": 8, "min_isv_svn": 4}
    near = {"name": "near", **SIGNER, "min_isv_svn": 4}
    with pytest.raises(PolicyError) as refusal:
        verify(enclaves=[far, near])
    (finding,) = refusal.value.findings
    assert (finding.field, finding.expected, finding.found) == ("ISVSVN of near", "4 or more", "3")


def test_a_trust_domain_is_no_enclave():
    assert findings(base="tdx-v4", enclaves=[ENCLAVE]) == ["policy.mr-enclave"]
    assert findings(base="tdx-v4", enclaves=[SIGNER]) == ["policy.mr-signer"]


@pytest.mark.parametrize("member", ["attributes", "misc_select"])
def test_sgx_attributes_are_not_found_in_a_trust_domain(member):
    size = 16 if member == "attributes" else 4
    bits = {"mask": "00" * size, "value": "00" * size}
    assert findings(base="tdx-v4", **{member: bits}) == ["policy.tee"]


@pytest.mark.parametrize("base", ["sgx-v3", "tdx-v5"])
def test_debug(base):
    change = put(body={"attributes": Attributes(0x7, 0xE7)} if base == "sgx-v3" else {"td_attributes": 1})
    assert findings(change, base) == ["policy.debug"]
    verdict = verify(change, base, dangerously_allow_debug=True)
    assert [each.split(":")[0] for each in verdict.relaxations] == ["root", "dangerously_allow_debug"]


@pytest.mark.parametrize("flag", [0x10, 0x20, 0x30])
def test_keys_that_identify_the_platform(flag):
    change = put(body={"attributes": Attributes(0x5 | flag, 0xE7)})
    assert findings(change) == ["policy.forbidden-flags"]
    verdict = verify(change, dangerously_allow_provision_key=True)
    assert [each.split(":")[0] for each in verdict.relaxations] == ["root", "dangerously_allow_provision_key"]


def test_a_relaxation_that_was_not_needed_is_not_listed():
    verdict = verify(
        dangerously_allow_debug=True,
        dangerously_allow_provision_key=True,
        dangerously_accept_expired_collateral_days=30,
    )
    assert [each.split(":")[0] for each in verdict.relaxations] == ["root"]


@pytest.mark.parametrize("tcb", list(PlatformTcb)[1:6], ids=str)
def test_a_status_beyond_the_default_is_listed(tcb):
    status = TcbStatus("".join(STATUS_WORDS.get(word, word.title()) for word in tcb.split("-")))
    verdict = verify(state(tcb), tcb_statuses=["UpToDate", status.value])
    assert verdict.relaxations[1:] == (f"tcb_statuses: {status.value} accepted by the policy",)
    assert verify(tcb_statuses=["UpToDate", status.value]).relaxations[1:] == ()


def test_a_policy_and_a_verdict_under_it_agree_on_what_is_relaxed():
    members: dict[str, Any] = {
        "dangerously_allow_debug": True,
        "dangerously_allow_provision_key": True,
        "dangerously_accept_expired_collateral_days": 9999 // 3,
        "tcb_statuses": ["UpToDate", "OutOfDate"],
    }
    document = {"version": 1, "enclaves": [ENCLAVE], **members}
    allowed = {each.partition(":")[0] for each in relaxations_of(Policy.from_json(json.dumps(document)))}
    change = both(put(body={"attributes": Attributes(0x17, 0xE7)}), state(PlatformTcb.OUT_OF_DATE))
    late = PERIODS.ends + dt.timedelta(days=2)
    used = {each.partition(":")[0] for each in verify(change, at=late, **members).relaxations} - {"root"}
    assert allowed == set(members)
    assert {name.removesuffix("_days") for name in allowed} == used
    assert relaxations_of(Policy.from_json(json.dumps({"version": 1, "enclaves": [ENCLAVE]}))) == ()


@pytest.mark.parametrize(
    ("mask", "value", "fits"),
    [
        ("ff" * 16, "0500000000000000e700000000000000", True),
        ("ff" * 16, "0500000000000000e600000000000000", False),
        ("00" * 8 + "06" + "00" * 7, "00" * 8 + "06" + "00" * 7, True),
        ("00" * 8 + "18" + "00" * 7, "00" * 16, True),
        ("80" + "00" * 15, "80" + "00" * 15, False),
        ("00" * 16, "00" * 16, True),
    ],
    ids=["exact", "another-xfrm", "avx", "no-mpx", "kss", "nothing"],
)
def test_attributes_under_a_mask(mask, value, fits):
    bits = {"mask": mask, "value": value}
    if fits:
        assert verify(attributes=bits).appraised
    else:
        assert findings(attributes=bits) == ["policy.attributes"]


def test_misc_select_under_a_mask():
    change = put(body={"misc_select": 0x0201})
    assert verify(change, misc_select={"mask": "ff000000", "value": "01000000"}).appraised
    assert findings(change, misc_select={"mask": "ffff0000", "value": "01000000"}) == ["policy.misc-select"]


@pytest.mark.parametrize("tcb", list(PlatformTcb)[:6], ids=str)
def test_statuses_are_accepted_by_name(tcb):
    status = TcbStatus("".join(STATUS_WORDS.get(word, word.title()) for word in tcb.split("-")))
    assert verify(state(tcb), tcb_statuses=[status.value]).tcb_status is status
    others = [each for each in ("UpToDate", "OutOfDate") if each != status]
    assert findings(state(tcb), tcb_statuses=others) == ["policy.tcb-status"]


def test_revoked_is_one_finding_whatever_the_policy():
    assert findings(put(qe={"isv_svn": 1})) == ["tcb.revoked"]


def test_advisories_of_every_part_count():
    statuses = ["OutOfDate"]
    change = put(qe={"isv_svn": 6})
    assert verify(change, tcb_statuses=statuses, refused_advisories=["INTEL-SA-00001"]).appraised
    assert findings(change, tcb_statuses=statuses, refused_advisories=["INTEL-SA-00615"]) == ["policy.advisory"]
    assert findings(change, tcb_statuses=statuses, refused_advisories=["intel-sa-00615"]) == ["policy.advisory"]
    old = state(PlatformTcb.OUT_OF_DATE)
    with pytest.raises(PolicyError) as refusal:
        verify(old, tcb_statuses=statuses, refused_advisories=["INTEL-SA-00837", "INTEL-SA-00828"])
    assert refusal.value.findings[0].found == "INTEL-SA-00828, INTEL-SA-00837"


def test_generation_of_the_collateral():
    older = put(qe_identity={"tcbEvaluationDataNumber": 16})
    verdict = verify(older, min_tcb_evaluation_data_number=16)
    assert (verdict.tcb_evaluation_data_number, verdict.minimum_tcb_evaluation_data_number) == (16, 16)
    assert findings(older, min_tcb_evaluation_data_number=17) == ["policy.tcb-evaluation-data-number"]


@pytest.mark.parametrize("days", [0, 1, 7])
def test_age_of_the_collateral(days):
    limit = PERIODS.issued + dt.timedelta(days=days)
    assert verify(at=limit, max_collateral_age_days=days).appraised
    assert findings(at=limit + dt.timedelta(seconds=1), max_collateral_age_days=days) == ["policy.freshness"]


def test_the_older_document_decides_the_age():
    older = put(qe_identity={"issueDate": "2026-01-01T00:00:00Z"})
    assert findings(older, max_collateral_age_days=14) == ["policy.freshness"]
    assert verify(older, max_collateral_age_days=15).appraised


def test_report_data_of_the_policy_is_compared_whole():
    good = BODY.report_data.hex()
    assert verify(report_data=None).report_data_checked is False
    document = {"version": 1, "enclaves": [ENCLAVE], "report_data": good}
    assert appraise.policy_findings(verify().verified, Policy.from_json(json.dumps(document))) == []
    for other in (good[:-2], good[2:] + "00", good[:-2] + "00", "00", "00" * 64):
        shorter = Policy.from_json(json.dumps({**document, "report_data": other}))
        found = appraise.policy_findings(verify().verified, shorter)
        assert [finding.code for finding in found] == ["policy.report-data"]


@pytest.mark.parametrize(
    ("challenge", "own", "count"),
    [(True, True, 0), (True, False, 1), (False, True, 1), (False, False, 1)],
    ids=["both hold", "the policy's does not", "the challenge's does not", "neither, the same"],
)
def test_report_data_of_the_challenge_and_the_policys_both_have_to_hold(challenge, own, count):
    good, bad = BODY.report_data, bytes(64)
    document = {"version": 1, "enclaves": [ENCLAVE], "report_data": (good if own else bad).hex()}
    policy = Policy.from_json(json.dumps(document))
    found = appraise.policy_findings(verify().verified, policy, good if challenge else bad)
    assert [finding.code for finding in found] == ["policy.report-data"] * count


def test_two_report_data_that_differ_fit_nothing():
    document = {"version": 1, "enclaves": [ENCLAVE], "report_data": "01"}
    found = appraise.policy_findings(verify().verified, Policy.from_json(json.dumps(document)), bytes(64))
    assert [finding.expected for finding in found] == ["00" * 64, "01".ljust(128, "0")]


def test_report_data_of_a_challenge_counts_as_checked():
    assert verify(report_data=BODY.report_data).report_data_checked
    assert findings(report_data=bytes(64)) == ["policy.report-data"]


def test_report_data_is_compared_in_constant_time(monkeypatch):
    compared = []

    def compare(one, two):
        compared.append((one, two))
        return True

    monkeypatch.setattr(hmac, "compare_digest", compare)
    assert verify(report_data=bytes(64)).report_data_checked
    assert compared == [(bytes(64), BODY.report_data)]


def test_all_findings_come_at_once():
    change = put(body={"attributes": Attributes(0x17, 0xE7), "misc_select": 1}, tcb_info={"tcbEvaluationDataNumber": 1})
    old = state(PlatformTcb.OUT_OF_DATE)

    def everything(staged):
        change(staged)
        old(staged)

    codes = findings(
        everything,
        report_data=bytes(64),
        enclaves=[{"mr_enclave": "00" * 32}],
        attributes={"mask": "02" + "00" * 15, "value": "00" * 16},
        misc_select={"mask": "01000000", "value": "00000000"},
        refused_advisories=["INTEL-SA-00828"],
        min_tcb_evaluation_data_number=17,
        max_collateral_age_days=1,
    )
    assert codes == [
        "policy.debug",
        "policy.mr-enclave",
        "policy.forbidden-flags",
        "policy.attributes",
        "policy.misc-select",
        "policy.tcb-status",
        "policy.advisory",
        "policy.tcb-evaluation-data-number",
        "policy.freshness",
        "policy.report-data",
    ]


def test_several_findings_have_one_code_together():
    with pytest.raises(PolicyError) as refusal:
        verify(report_data=bytes(64), enclaves=[{"mr_enclave": "00" * 32}])
    assert refusal.value.code == "policy.refused"
    assert [each["code"] for each in refusal.value.as_dict()["findings"]] == ["policy.mr-enclave", "policy.report-data"]


def test_an_untrusted_quote_is_not_appraised_at_all():
    forged = put(signers={"quote": STRANGER})
    with pytest.raises(kubenclave.TrustError):
        verify(forged, enclaves=[{"mr_enclave": "00" * 32}])
