# SPDX-License-Identifier: Apache-2.0
"""Real quotes with real collateral: the verdict, and the opinion of dcap-qvl on the same bytes.

The two cases without collateral of their own are refused before collateral matters; they borrow another case's.
"""

import datetime as dt
import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dcap_qvl
import pytest

import kubenclave
from kubenclave.dcap.cache import Cache
from kubenclave.dcap.verdict import QuoteVerdict
from kubenclave.sgx.quote import Quote
from kubenclave.sgx.report import ReportBody
from kubenclave.sgx.tdreport import TdReport10, TdReport15

BORROWED = "sgx-v3-config-and-swhardening"

# Case -> its status, or the code of its refusal.
CASES = {
    "sgx-v3-bad-intermediate": "pck.chain",  # one byte of the name of its CA was changed: nobody there issued the leaf
    "sgx-v3-certtype3-no-chain": "pck.missing",
    "sgx-v3-collateral-expired": "collateral.expired",
    "sgx-v3-collateral-not-yet-issued": "collateral.not-yet-valid",
    "sgx-v3-config-and-swhardening": "ConfigurationAndSWHardeningNeeded",
    "sgx-v3-custom-root-pck-aside": "UpToDate",
    "sgx-v3-debug": "policy.debug",
    "sgx-v3-outofdate": "OutOfDate",
    "sgx-v3-swhardening": "SWHardeningNeeded",
    "sgx-v3-swhardening-b": "SWHardeningNeeded",
    "sgx-v3-swhardening-c": "SWHardeningNeeded",
    "sgx-v3-tcbinfo-v2": "ConfigurationAndSWHardeningNeeded",
    "synthetic-sgx-v3-pck-revoked": "pck.revoked",
    "synthetic-sgx-v3-uptodate": "UpToDate",
    "synthetic-tdx-v4-uptodate": "UpToDate",
    "tdx-v4-debug": "policy.debug",
    "tdx-v4-outofdate": "OutOfDate",
    "tdx-v4-sept-ve-off": "OutOfDate",
    "tdx-v4-uptodate": "UpToDate",
    "tdx-v4-uptodate-b": "UpToDate",
    "tdx-v4-uptodate-c": "UpToDate",
    "tdx-v5-no-level": "tcb.not-supported",
    "tdx-v5-relaunch-advised": "TDRelaunchAdvised",
    "tdx-v5-servicetd": "OutOfDate",
    "tdx-v5-uptodate": "UpToDate",
}

# Where dcap-qvl refuses what we report, and the words it does so with.
QVL_REFUSES = {
    "sgx-v3-custom-root-pck-aside": "missing field `sgxtcbcomponents`",  # reads no TCB info of version 2
    "sgx-v3-tcbinfo-v2": "missing field `sgxtcbcomponents`",
    "tdx-v4-sept-ve-off": "SEPT_VE_DISABLE is not enabled",  # a rule of its own, not of Intel's
    "tdx-v5-servicetd": "Invalid MR service TD",  # the same
}


@dataclass(frozen=True)
class Case:
    """One folder of the collection."""

    quote: bytes
    text: str
    at: int
    root: bytes | None
    pck_chain: bytes | None
    expected: dict[str, Any]

    def verify(self, cache: Cache, **relaxations: Any) -> QuoteVerdict:
        return kubenclave.verify_quote(
            self.quote,
            kubenclave.Collateral.from_json(self.text),
            at=dt.datetime.fromtimestamp(self.at, dt.UTC),
            root=self.root,
            pck_chain=self.pck_chain,
            cache=cache,
            **relaxations,
        )

    def outcome(self, cache: Cache) -> str:
        try:
            return self.verify(cache).tcb_status.value
        except kubenclave.VerificationError as error:
            return error.code

    def second_opinion(self) -> Any:
        collateral = dcap_qvl.QuoteCollateralV3.from_json(self.text)
        if self.root is None:
            return dcap_qvl.verify(self.quote, collateral, self.at)
        return dcap_qvl.verify_with_root_ca(self.quote, collateral, self.root, self.at)


def load(shared_data: Path, name: str) -> Case:
    folder = shared_data / "quotes" / name
    expected = json.loads((folder / "expected.json").read_text())
    lender = folder if (folder / "collateral.json").exists() else folder.parent / BORROWED
    return Case(
        quote=(folder / "quote.bin").read_bytes(),
        text=(lender / "collateral.json").read_text(),
        at=json.loads((lender / "expected.json").read_text())["verify_at"],
        root=_optional(folder / "root_ca.der"),
        pck_chain=_optional(folder / "pck_chain.pem"),
        expected=expected,
    )


def _optional(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None


each_case = pytest.mark.parametrize("name", sorted(CASES))
each_accepted_case = pytest.mark.parametrize("name", sorted(name for name in CASES if "." not in CASES[name]))


def test_every_case_of_the_collection_is_named_here(shared_data):
    assert {path.parent.name for path in shared_data.glob("quotes/*/quote.bin")} == CASES.keys()


@each_case
def test_the_table_says_what_the_collection_expects(shared_data, name):
    expected = load(shared_data, name).expected["expect"]
    assert expected == ("reject" if "." in CASES[name] else CASES[name])


@each_case
def test_cold(shared_data, name):
    assert load(shared_data, name).outcome(Cache()) == CASES[name]


@each_case
def test_warm(shared_data, name):
    cache, case = Cache(), load(shared_data, name)
    assert [case.outcome(cache) for _ in range(3)] == [CASES[name]] * 3


@pytest.mark.parametrize("seed", range(4))
def test_any_order_with_one_cache(shared_data, seed):
    names = sorted(CASES) * 2
    random.Random(seed).shuffle(names)
    cache = Cache()
    assert {name: load(shared_data, name).outcome(cache) for name in names} == CASES


def test_a_cache_too_small_for_anything_changes_nothing(shared_data):
    cache = Cache(entries=1)
    assert {name: load(shared_data, name).outcome(cache) for name in sorted(CASES)} == CASES


@each_accepted_case
def test_advisories(shared_data, name):
    case = load(shared_data, name)
    advisories = case.verify(Cache()).advisories
    assert sorted(advisories) == sorted(case.expected["advisories"])
    assert len(set(advisories)) == len(advisories)


@each_accepted_case
def test_facts_of_the_platform_and_the_collateral(shared_data, name):
    case = load(shared_data, name)
    verdict = case.verify(Cache())
    platform = verdict.as_dict()["platform_identity"]
    assert platform["fmspc"] == case.expected["fmspc"]
    assert f"Intel SGX PCK {platform['pck_ca'].title()} CA" == case.expected["pck_ca"]
    assert verdict.collateral_expired is case.expected["collateral_expired"] is False
    assert verdict.simulated is (case.root is not None)
    assert verdict.appraised is False
    assert len(verdict.relaxations) == (case.root is not None)
    assert verdict.tcb_evaluation_data_number == case.expected["tcb_evaluation_data_number"]


@each_case
def test_report_body(shared_data, name):
    case = load(shared_data, name)
    body = Quote.parse(case.quote).body
    expected = case.expected["report"]
    assert body.debug is expected["debug"]
    assert body.report_data.hex() == expected["report_data"]
    if isinstance(body, ReportBody):
        assert sgx_fields(body) == {key: expected[key] for key in sgx_fields(body)}
    else:
        assert td_fields(body) == {key: expected[key] for key in td_fields(body)}


def sgx_fields(body: ReportBody) -> dict[str, Any]:
    return {
        "mrenclave": body.mr_enclave.hex(),
        "mrsigner": body.mr_signer.hex(),
        "isv_prod_id": body.isv_prod_id,
        "isv_svn": body.isv_svn,
        "attributes": body.attributes.build().hex(),
        "miscselect": body.misc_select.to_bytes(4, "little").hex(),
        "cpu_svn": body.cpu_svn.hex(),
    }


def td_fields(body: TdReport10) -> dict[str, Any]:
    names = ("tee_tcb_svn", "mr_seam", "mr_signer_seam", "seam_attributes", "mr_td", "mr_config_id", "mr_owner")
    fields: dict[str, Any] = {name: getattr(body, name).hex() for name in names}
    fields["td_attributes"] = body.td_attributes.to_bytes(8, "little").hex()
    fields["xfam"] = body.xfam.to_bytes(8, "little").hex()
    fields["rtmr"] = [body.rtmr0.hex(), body.rtmr1.hex(), body.rtmr2.hex(), body.rtmr3.hex()]
    if isinstance(body, TdReport15):
        fields["mr_service_td"] = body.mr_service_td.hex()
        fields["tee_tcb_svn2"] = body.tee_tcb_svn_2.hex()
    return fields


@each_accepted_case
def test_dcap_qvl_agrees_where_it_can_read_the_case(shared_data, name):
    case = load(shared_data, name)
    if name in QVL_REFUSES:
        with pytest.raises(ValueError, match=QVL_REFUSES[name]):
            case.second_opinion()
        return
    opinion, verdict = case.second_opinion(), case.verify(Cache())
    assert (opinion.status, tuple(opinion.advisory_ids)) == (verdict.tcb_status, verdict.advisories)


@pytest.mark.parametrize("name", sorted(name for name in CASES if "." in CASES[name]))
def test_dcap_qvl_refuses_what_we_refuse(shared_data, name):
    with pytest.raises(ValueError):
        load(shared_data, name).second_opinion()


@pytest.mark.parametrize("name", ["sgx-v3-debug", "tdx-v4-debug"])
def test_debug_when_allowed_is_reported_with_its_status(shared_data, name):
    case = load(shared_data, name)
    verdict = case.verify(Cache(), dangerously_allow_debug=True)
    assert verdict.tcb_status == case.expected["tcb_status"]
    assert [each.split(":")[0] for each in verdict.relaxations] == ["dangerously_allow_debug"]


def test_expired_collateral_within_a_grace_period_is_reported_with_its_status(shared_data):
    case = load(shared_data, "sgx-v3-collateral-expired")
    verdict = case.verify(Cache(), dangerously_accept_expired_collateral=dt.timedelta(days=1))
    assert verdict.tcb_status == case.expected["tcb_status"]
    assert verdict.collateral_expired
    assert {each.split(":")[0] for each in verdict.relaxations} == {"dangerously_accept_expired_collateral"}


def test_a_grace_period_does_not_help_collateral_that_is_not_valid_yet(shared_data):
    case = load(shared_data, "sgx-v3-collateral-not-yet-issued")
    with pytest.raises(kubenclave.TrustError) as refusal:
        case.verify(Cache(), dangerously_accept_expired_collateral=dt.timedelta(days=365))
    assert refusal.value.code == "collateral.not-yet-valid"
