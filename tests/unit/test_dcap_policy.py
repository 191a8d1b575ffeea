# SPDX-License-Identifier: Apache-2.0
"""Policies as documents: what may stand in one, and that nothing is guessed."""

import datetime as dt
import json
from typing import Any

import msgspec
import pytest

import kubenclave
from kubenclave.dcap.pins import PINS, SGX_PINS, TDX_PINS
from kubenclave.dcap.policy import EnclaveRule, Hex, MaskedBits, Policy
from kubenclave.dcap.tcb import TcbStatus
from kubenclave.errors import FormatError
from kubenclave.sgx.attributes import AttributeFlags
from kubenclave.sgx.report import ReportBody
from kubenclave.sgx.tdreport import TdReport15

H32, H48 = "ab" * 32, "cd" * 48
ENCLAVE = {"mr_enclave": H32}
SIGNER = {"mr_signer": H32, "isv_prod_id": 1, "min_isv_svn": 2}


def policy(**members: Any) -> Policy:
    return Policy.from_json(json.dumps({"version": 1, "enclaves": [ENCLAVE], **members}))


def refusal_of(**members: Any) -> FormatError:
    with pytest.raises(FormatError) as refusal:
        policy(**members)
    assert refusal.value.code == "policy.malformed"
    return refusal.value


def test_the_defaults_are_strict():
    read = policy()
    assert read.tcb_statuses == (TcbStatus.UP_TO_DATE,)
    assert read.forbidden_flags == AttributeFlags.PROVISION_KEY | AttributeFlags.EINITTOKEN_KEY
    assert (read.grace, read.dangerously_allow_debug) == (dt.timedelta(0), False)
    assert (read.expected_report_data, read.max_collateral_age_days) == (None, None)


def test_every_member():
    read = policy(
        name="payments",
        enclaves=[{"name": "v1", **ENCLAVE, **SIGNER}, {"name": "next", **SIGNER}, {"mr_td": H48}],
        tcb_statuses=["UpToDate", "SWHardeningNeeded"],
        refused_advisories=["INTEL-SA-00615"],
        attributes={"mask": "ff" * 16, "value": "05" + "00" * 15},
        misc_select={"mask": "ffffffff", "value": "01000000"},
        report_data="00ff",
        max_collateral_age_days=7,
        min_tcb_evaluation_data_number=17,
        dangerously_allow_debug=True,
        dangerously_allow_provision_key=True,
        dangerously_accept_expired_collateral_days=3,
    )
    assert [rule.name for rule in read.enclaves] == ["v1", "next", ""]
    assert read.enclaves[0].mr_enclave == bytes.fromhex(H32)
    assert read.enclaves[2].mr_td == bytes.fromhex(H48)
    assert read.expected_report_data == b"\x00\xff" + bytes(62)
    assert read.forbidden_flags == 0
    assert read.grace == dt.timedelta(days=3)


def test_toml_says_the_same():
    text = f"""
    version = 1
    name = "payments"
    tcb_statuses = ["UpToDate", "OutOfDate"]

    [[enclaves]]
    mr_enclave = "{H32}"

    [[enclaves]]
    mr_signer = "{H32}"
    isv_prod_id = 1
    min_isv_svn = 2
    """
    same = policy(name="payments", tcb_statuses=["UpToDate", "OutOfDate"], enclaves=[ENCLAVE, SIGNER])
    assert Policy.from_toml(text) == same


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("version =", id="syntax"),
        pytest.param("version = 1\nversion = 1", id="duplicate"),
        pytest.param("a = " + "[" * 5000, id="depth"),
        pytest.param("version = 1\nenclaves = 2026-01-01", id="date"),
        pytest.param("", id="empty"),
    ],
)
def test_toml_that_is_refused(text):
    with pytest.raises(FormatError) as refusal:
        Policy.from_toml(text)
    assert refusal.value.code == "policy.malformed"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "json.malformed"),
        ("[]", "policy.malformed"),
        ('{"version": 1, "version": 1}', "json.duplicate-key"),
        ('{"version": NaN}', "json.malformed"),
        ('{"version": 1, "name": "\\ud800", "tcb_statuses": ["\\ud800"], "enclaves": []}', "policy.malformed"),
    ],
    ids=["empty", "array", "duplicate", "nan", "surrogate"],
)
def test_json_that_is_refused(text, code):
    with pytest.raises(FormatError) as refusal:
        Policy.from_json(text)
    assert refusal.value.code == code


@pytest.mark.parametrize(
    "members",
    [
        pytest.param({"version": 2}, id="version"),
        pytest.param({"version": "1"}, id="version-text"),
        pytest.param({"enclaves": []}, id="no-enclave"),
        pytest.param({"enclaves": ENCLAVE}, id="enclaves-an-object"),
        pytest.param({"unknown": 1}, id="unknown-member"),
        pytest.param({"enclaves": [{**ENCLAVE, "mrenclave": H32}]}, id="unknown-member-of-a-rule"),
        pytest.param({"tcb_statuses": []}, id="no-status"),
        pytest.param({"tcb_statuses": ["Fine"]}, id="unknown-status"),
        pytest.param({"tcb_statuses": ["UpToDate", "Revoked"]}, id="revoked"),
        pytest.param({"enclaves": [{}]}, id="rule-empty"),
        pytest.param({"enclaves": [{"name": "x"}]}, id="rule-of-a-name"),
        pytest.param({"enclaves": [{"mr_signer": H32}]}, id="signer-alone"),
        pytest.param({"enclaves": [{"mr_signer": H32, "isv_prod_id": 1}]}, id="signer-without-svn"),
        pytest.param({"enclaves": [{"mr_signer": H32, "min_isv_svn": 1}]}, id="signer-without-product"),
        pytest.param({"enclaves": [{"isv_prod_id": 1, "min_isv_svn": 1}]}, id="no-signer"),
        pytest.param({"enclaves": [{"mr_enclave": H48}]}, id="mr-enclave-48-bytes"),
        pytest.param({"enclaves": [{"mr_enclave": ""}]}, id="mr-enclave-empty"),
        pytest.param({"enclaves": [{**SIGNER, "mr_signer": H32[2:]}]}, id="mr-signer-31-bytes"),
        pytest.param({"enclaves": [{"mr_td": H32}]}, id="mr-td-32-bytes"),
        pytest.param({"enclaves": [{"mr_td": H48, **ENCLAVE}]}, id="mr-td-and-mr-enclave"),
        pytest.param({"enclaves": [{"mr_td": H48, "mr_signer": H32}]}, id="mr-td-and-mr-signer"),
        pytest.param({"enclaves": [{"mr_td": H48, "min_isv_svn": 1}]}, id="mr-td-and-isv-svn"),
        pytest.param({"enclaves": [{**SIGNER, "isv_prod_id": 65536}]}, id="isv-prod-id-65536"),
        pytest.param({"enclaves": [{**SIGNER, "min_isv_svn": -1}]}, id="isv-svn-negative"),
        pytest.param({"enclaves": [{"mr_enclave": "zz" * 32}]}, id="not-hex"),
        pytest.param({"enclaves": [{"mr_enclave": 7}]}, id="hex-a-number"),
        pytest.param({"report_data": "00" * 65}, id="report-data-65-bytes"),
        pytest.param({"attributes": {"mask": "ff" * 15, "value": "00" * 16}}, id="mask-15-bytes"),
        pytest.param({"attributes": {"mask": "ff" * 16, "value": "00" * 17}}, id="value-17-bytes"),
        pytest.param({"attributes": {"mask": "ff" * 16}}, id="mask-without-value"),
        pytest.param({"attributes": {"mask": "00" * 16, "value": "01" + "00" * 15}}, id="value-outside-its-mask"),
        pytest.param({"misc_select": {"mask": "ff" * 5, "value": "00" * 5}}, id="misc-select-5-bytes"),
        pytest.param({"td_attributes": {"mask": "ff" * 16, "value": "00" * 16}}, id="td-attributes-16-bytes"),
        pytest.param({"max_collateral_age_days": -1}, id="age-negative"),
        pytest.param({"max_collateral_age_days": 10**9}, id="age-of-eras"),
        pytest.param({"dangerously_accept_expired_collateral_days": 3651}, id="grace-of-11-years"),
        pytest.param({"dangerously_allow_debug": "yes"}, id="debug-text"),
        pytest.param({"min_tcb_evaluation_data_number": 1.5}, id="number-fraction"),
    ],
)
def test_documents_that_are_refused(members):
    assert refusal_of(**members).found


def test_a_refusal_names_the_rule():
    assert refusal_of(enclaves=[ENCLAVE, {"mr_enclave": "00"}]).field == "enclaves[1].mr_enclave"


@pytest.mark.parametrize(
    ("members", "field", "expected", "found"),
    [
        pytest.param({"version": 2}, "version", "1", "2", id="version"),
        pytest.param({"version": "1"}, "version", "int", "str", id="type"),
        pytest.param({"enclaves": []}, "enclaves", "array of length >= 1", "something else", id="length"),
        pytest.param(
            {"enclaves": [{**ENCLAVE, "x": 1}]}, "enclaves[0]", None, "object contains unknown field x", id="x"
        ),
        pytest.param({"unknown": 1}, None, None, "object contains unknown field unknown", id="unknown"),
        pytest.param(
            {"enclaves": [{"mr_enclave": 7}]}, "enclaves[0].mr_enclave", "hexadecimal digits", "int", id="number"
        ),
        pytest.param(
            {"enclaves": [{"mr_enclave": "zz"}]}, "enclaves[0].mr_enclave", "hexadecimal digits", "other text", id="zz"
        ),
        pytest.param({"enclaves": [{"mr_td": H32}]}, "enclaves[0].mr_td", "48 bytes", "32 bytes", id="size"),
    ],
)
def test_a_refusal_names_the_member_and_what_it_has_to_be(members, field, expected, found):
    error = refusal_of(**members)
    assert (error.field, error.expected, error.found) == (field, expected, found)


@pytest.mark.parametrize(
    ("statuses", "field"),
    [(["UpToDate", "Fine"], "tcb_statuses[1]"), (["Revoked"], "tcb_statuses")],
    ids=["unknown", "revoked"],
)
def test_a_status_that_cannot_be_accepted_comes_with_those_that_can(statuses, field):
    error = refusal_of(tcb_statuses=statuses)
    allowed = [each.value for each in TcbStatus if each is not TcbStatus.REVOKED]
    assert (error.field, error.expected) == (field, "one of " + ", ".join(allowed))


@pytest.mark.parametrize("pin", PINS, ids=lambda pin: pin.member)
def test_every_pin_is_a_member_of_its_size_and_of_one_tee(pin):
    own, other = (ENCLAVE, {"mr_td": H48}) if pin in SGX_PINS else ({"mr_td": H48}, ENCLAVE)
    value: Any = 7 if pin.size is None else "07" * pin.size
    assert pin.field in {*ReportBody.__dataclass_fields__, *TdReport15.__dataclass_fields__}
    rule = policy(enclaves=[{**own, pin.member: value}]).enclaves[0]
    assert getattr(rule, pin.member) == (7 if pin.size is None else b"\x07" * pin.size)
    wrong: Any = 0x10000 if pin.size is None else value + "07"
    assert refusal_of(enclaves=[{**own, pin.member: wrong}]).field == f"enclaves[0].{pin.member}"
    refusal_of(enclaves=[{pin.member: value, **other}] if pin.member not in other else [{**own, **other}])


def test_every_member_of_a_rule_is_a_pin():
    assert set(EnclaveRule.__struct_fields__) == {"name", *(pin.member for pin in PINS)}


@pytest.mark.parametrize("pin", TDX_PINS[1:], ids=lambda pin: pin.member)
def test_nothing_of_a_trust_domain_stands_for_its_mr_td(pin):
    assert "mr_td" in str(refusal_of(enclaves=[{pin.member: H48}]).expected)


def test_report_data_of_64_bytes_is_taken_as_it_is():
    assert policy(report_data="07" * 64).expected_report_data == b"\x07" * 64


def test_it_stands_at_the_top_of_the_package():
    assert kubenclave.Policy is Policy


# Policies that are put together in Python

MEASURED = EnclaveRule(mr_enclave=Hex(bytes.fromhex(H32)))


def test_one_that_is_put_together_is_the_one_that_is_read():
    made = Policy(
        version=1,
        enclaves=[EnclaveRule(mr_enclave=bytes.fromhex(H32))],  # type: ignore[arg-type]
        tcb_statuses=["UpToDate"],  # type: ignore[arg-type]
        misc_select=MaskedBits(mask=b"\xff" * 4, value=bytes(4)),  # type: ignore[arg-type]
    )
    assert made == policy(tcb_statuses=["UpToDate"], misc_select={"mask": "ffffffff", "value": "00000000"})
    assert (type(made.enclaves), type(made.enclaves[0].mr_enclave)) == (tuple, Hex)


@pytest.mark.parametrize(
    "members",
    [
        pytest.param({"enclaves": ()}, id="no enclave"),
        pytest.param({"enclaves": (EnclaveRule(),)}, id="any enclave"),
        pytest.param({"enclaves": (EnclaveRule(name="mine"),)}, id="a name alone"),
        pytest.param({"enclaves": (EnclaveRule(mr_signer=Hex(bytes(32))),)}, id="a signer alone"),
        pytest.param({"enclaves": MEASURED}, id="a rule for a list"),
        pytest.param({"version": 2}, id="version"),
        pytest.param({"tcb_statuses": "OutOfDateConfigurationNeeded"}, id="a text of statuses"),
        pytest.param({"tcb_statuses": (TcbStatus.REVOKED,)}, id="revoked"),
        pytest.param({"refused_advisories": "INTEL-SA-00615"}, id="a text of advisories"),
        pytest.param({"attributes": MaskedBits(Hex(b""), Hex(b""))}, id="empty mask"),
        pytest.param({"report_data": b""}, id="empty report data"),
        pytest.param({"report_data": bytes(65)}, id="long report data"),
        pytest.param({"report_data": bytearray(64)}, id="report data that can change"),
        pytest.param({"min_tcb_evaluation_data_number": -1}, id="negative number"),
        pytest.param({"dangerously_accept_expired_collateral_days": "7"}, id="days as a text"),
    ],
)
def test_one_that_is_put_together_is_held_to_the_same_rules(members):
    with pytest.raises(FormatError) as refusal:
        Policy(**{"version": 1, "enclaves": (MEASURED,), **members})
    assert refusal.value.code == "policy.malformed"


def test_a_rule_by_itself_is_held_to_its_types():
    with pytest.raises(FormatError) as refusal:
        EnclaveRule(isv_prod_id=0x10000)
    assert (refusal.value.code, refusal.value.field) == ("policy.malformed", "isv_prod_id")


def test_changing_one_member_is_checked_as_well():
    with pytest.raises(FormatError):
        msgspec.structs.replace(policy(), enclaves=(EnclaveRule(),))


def test_report_data_of_no_bytes_is_no_policy():
    assert refusal_of(report_data="").field == "report_data"
