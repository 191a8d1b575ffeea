# SPDX-License-Identifier: Apache-2.0
"""The public call: its signature, what it answers with and without a policy, and what a verdict tells."""

import concurrent.futures
import dataclasses
import datetime as dt
import inspect
import json
from typing import Any

import pytest

import kubenclave
from kubenclave.dcap.anchor import TrustAnchor
from kubenclave.dcap.cache import Cache
from kubenclave.dcap.describe import describe_quote
from kubenclave.dcap.policy import Policy
from kubenclave.dcap.tcb import TcbStatus
from kubenclave.dcap.verdict import QuoteVerdict, verify_quote
from kubenclave.dcap.verify import verify as verify_only
from kubenclave.platform.simulated.pki import Role
from kubenclave.platform.simulated.tcb import PlatformTcb
from kubenclave.sgx.attributes import Attributes
from kubenclave.sgx.quote import Quote
from vectors.case import Before, both, put
from vectors.scene import AT, PERIODS, PKI, collateral_of, scene, sgx_body

NOTHING = put()
POLICY = Policy.from_json(json.dumps({"version": 1, "enclaves": [{"mr_enclave": sgx_body().mr_enclave.hex()}]}))


def verify(change: Before = NOTHING, base: str = "sgx-v3", **keywords: Any) -> QuoteVerdict:
    staged = scene(base)
    change(staged)
    evidence = staged.build()
    defaults: dict[str, Any] = {"at": AT, "root": evidence.root, "cache": Cache()}
    return kubenclave.verify_quote(evidence.quote, collateral_of(evidence), **{**defaults, **keywords})


def refusal(*arguments: Any, **keywords: Any) -> kubenclave.VerificationError:
    with pytest.raises(kubenclave.VerificationError) as caught:
        verify(*arguments, **keywords)
    return caught.value


# What the call looks like


def test_it_stands_at_the_top_of_the_package():
    assert kubenclave.verify_quote is verify_quote
    assert kubenclave.QuoteVerdict is QuoteVerdict


def test_everything_but_quote_and_collateral_is_by_keyword():
    parameters = inspect.signature(verify_quote).parameters.values()
    positional = [p.name for p in parameters if p.kind is not inspect.Parameter.KEYWORD_ONLY]
    assert positional == ["quote", "collateral"]
    required = [p.name for p in parameters if p.default is inspect.Parameter.empty]
    assert required == ["quote", "collateral", "at"]


def test_keywords_that_relax_are_named_for_it_and_off():
    parameters = inspect.signature(verify_quote).parameters
    relaxing = {name: parameter.default for name, parameter in parameters.items() if name.startswith("dangerously_")}
    assert relaxing == {
        "dangerously_allow_debug": False,
        "dangerously_accept_expired_collateral": dt.timedelta(0),
    }


def test_a_time_without_a_zone_is_refused():
    with pytest.raises(kubenclave.UsageError) as caught:
        verify(at=AT.replace(tzinfo=None))
    assert caught.value.code == "usage.naive-time"


def test_a_time_in_another_zone_is_the_same_moment():
    there = dt.timezone(dt.timedelta(hours=-8))
    assert verify(at=AT.astimezone(there)).as_dict() == verify().as_dict()


@pytest.mark.parametrize("size", [0, 63, 65])
def test_report_data_has_64_bytes(size):
    with pytest.raises(kubenclave.UsageError) as caught:
        verify(report_data=bytes(size))
    assert caught.value.code == "usage.report-data"


def test_a_root_that_is_none_is_a_format_error():
    with pytest.raises(kubenclave.FormatError) as caught:
        verify(root=b"no certificate")
    assert caught.value.code == "root.malformed"


def test_a_quote_that_is_none_is_a_format_error():
    with pytest.raises(kubenclave.FormatError):
        kubenclave.verify_quote(b"no quote", collateral_of(scene("sgx-v3").build()), at=AT)


@pytest.mark.parametrize("garbage", [b"", b"no certificate"], ids=["empty", "garbage"])
def test_a_chain_beside_a_quote_that_carries_its_own_is_left_unread(garbage):
    assert verify(pck_chain=garbage).as_dict() == verify().as_dict()


# Without a policy


def test_without_a_policy_nothing_is_appraised():
    verdict = verify()
    assert (verdict.appraised, verdict.policy_name, verdict.report_data_checked) == (False, None, False)
    assert verdict.enclave is None


@pytest.mark.parametrize("state", list(PlatformTcb)[:6], ids=str)
def test_without_a_policy_every_status_but_revoked_is_the_relying_partys_to_weigh(state):
    verdict = verify(lambda staged: staged.platform(state.svns))
    assert verdict.tcb_status.lower() == state.replace("-", "")
    assert [each.partition(":")[0] for each in verdict.relaxations] == ["root"]


def test_without_a_policy_debug_and_revoked_are_refused_together():
    both_wrong = both(put(body={"attributes": Attributes(0x7, 0xE7)}), put(qe={"isv_svn": 1}))
    error = refusal(both_wrong)
    assert isinstance(error, kubenclave.PolicyError)
    assert [finding.code for finding in error.findings] == ["policy.debug", "tcb.revoked"]


def test_report_data_is_checked_without_a_policy_as_well():
    good = sgx_body().report_data
    verdict = verify(report_data=good)
    assert (verdict.appraised, verdict.report_data_checked) == (False, True)
    assert refusal(report_data=good[:-1] + b"\0").code == "policy.report-data"


def test_with_a_policy_it_is_appraised():
    assert verify(policy=POLICY).appraised
    assert refusal(policy=_unwanted()).code == "policy.mr-enclave"


def _unwanted() -> Policy:
    return Policy.from_json(json.dumps({"version": 1, "enclaves": [{"mr_enclave": "00" * 32}]}))


# Relaxations


def test_intels_root_and_current_collateral_need_no_relaxation(shared_data):
    folder = shared_data / "quotes" / "tdx-v4-uptodate"
    at = json.loads((folder / "expected.json").read_text())["verify_at"]
    verdict = kubenclave.verify_quote(
        (folder / "quote.bin").read_bytes(),
        kubenclave.Collateral.from_json((folder / "collateral.json").read_text()),
        at=dt.datetime.fromtimestamp(at, dt.UTC),
    )
    assert (verdict.relaxations, verdict.simulated) == ((), False)


def test_another_root_is_listed_and_marks_the_verdict():
    verdict = verify()
    digest = TrustAnchor.from_certificate(PKI.root_der).digest
    assert verdict.relaxations == (f"root: {digest} instead of Intel's",)
    assert verdict.simulated


@pytest.mark.parametrize("base", ["sgx-v3", "sgx-v4", "sgx-v5", "tdx-v4", "tdx-v5"])
def test_debug_when_allowed_is_listed(base):
    change = put(body={"attributes": Attributes(0x7, 0xE7)} if base.startswith("sgx") else {"td_attributes": 1})
    assert refusal(change, base).code == "policy.debug"
    verdict = verify(change, base, dangerously_allow_debug=True)
    assert verdict.relaxations[1:] == ("dangerously_allow_debug: the host can read this enclave's memory",)


LATE = PERIODS.ends + dt.timedelta(days=2)


def test_expired_collateral_within_the_grace_period_is_listed_item_by_item():
    verdict = verify(at=LATE, dangerously_accept_expired_collateral=dt.timedelta(days=2))
    assert verdict.collateral_expired
    assert verdict.relaxations[1:] == tuple(
        f"dangerously_accept_expired_collateral: {what} ended 2026-02-13T00:00:00Z"
        for what in ("PCK CRL", "TCB info", "QE identity")
    )


@pytest.mark.parametrize(
    "grace", [dt.timedelta(0), dt.timedelta(days=2) - dt.timedelta(microseconds=1), -dt.timedelta(days=9)]
)
def test_collateral_beyond_the_grace_period_is_refused(grace):
    error = refusal(at=LATE, dangerously_accept_expired_collateral=grace)
    assert (error.code, error.field) == ("collateral.expired", "PCK CRL")
    assert error.expected == "2026-01-14T00:00:00Z to 2026-02-13T00:00:00Z"
    assert error.found == "2026-02-15T00:00:00Z"


def test_the_grace_period_of_a_policy_counts_as_well():
    document = {"version": 1, "enclaves": [{"mr_enclave": sgx_body().mr_enclave.hex()}]}
    policy = Policy.from_json(json.dumps({**document, "dangerously_accept_expired_collateral_days": 2}))
    assert len(verify(at=LATE, policy=policy).relaxations) == 4
    assert refusal(at=LATE, policy=POLICY).code == "collateral.expired"


def test_no_grace_period_helps_a_certificate():
    expired = put(leaf_changes={"not_after": AT - dt.timedelta(seconds=1)})
    error = refusal(expired, dangerously_accept_expired_collateral=dt.timedelta(days=9999))
    assert (error.code, error.field) == ("certificate.expired", "PCK certificate")


@pytest.mark.parametrize("name", ["tcb_info", "qe_identity"])
def test_a_minimum_generation_is_kept_and_shown(name):
    older = put(**{name: {"tcbEvaluationDataNumber": 16}})
    assert verify(older).minimum_tcb_evaluation_data_number == 0
    verdict = verify(older, minimum_tcb_evaluation_data_number=16)
    assert verdict.minimum_tcb_evaluation_data_number == 16
    assert verdict.relaxations[1:] == ("minimum_tcb_evaluation_data_number: 16 in place of none",)
    error = refusal(older, minimum_tcb_evaluation_data_number=17)
    assert error.code == "tcb.evaluation-data-number"


# What a verdict tells


def test_statuses_of_the_parts_stand_apart():
    old_qe = both(lambda staged: staged.platform(PlatformTcb.SW_HARDENING_NEEDED.svns), put(qe={"isv_svn": 6}))
    verdict = verify(old_qe)
    assert verdict.platform.status is TcbStatus.SW_HARDENING_NEEDED
    assert verdict.qe.status is TcbStatus.OUT_OF_DATE
    assert verdict.tcb_status is TcbStatus.OUT_OF_DATE
    assert verdict.tdx_module is None


def test_advisories_of_all_parts_without_repeats():
    old = both(lambda staged: staged.platform(PlatformTcb.OUT_OF_DATE.svns), put(qe={"isv_svn": 6}))
    assert verify(old).advisories == ("INTEL-SA-00828", "INTEL-SA-00837", "INTEL-SA-00615")


def test_the_tcb_date_is_the_oldest_of_the_parts():
    verdict = verify(put(qe={"isv_svn": 6}))
    assert verdict.tcb_date == verdict.qe.tcb_date < verdict.platform.tcb_date


def test_every_date_is_told():
    verdict = verify()
    assert list(verdict.dates) == [
        "root certificate",
        "PCK CA certificate",
        "PCK certificate",
        "root CRL",
        "PCK CRL issuer",
        "PCK CRL",
        "TCB info signer",
        "QE identity signer",
        "TCB info",
        "QE identity",
    ]
    assert verdict.dates["TCB info"] == (PERIODS.issued, PERIODS.ends)
    assert verdict.earliest_expiration == PERIODS.ends


def test_dates_are_told_apart_also_when_two_signers_came_with_one_chain_before():
    # The signers' chain was checked for another collateral, in which it served for both documents.
    cache, end = Cache(), AT + dt.timedelta(days=1)
    verify(put(changes={"tcb_signer": {"not_after": end}, "qe_signer": {"not_after": end}}), cache=cache)
    verdict = verify(put(changes={"qe_signer": {"not_after": end}}), cache=cache)
    assert verdict.dates["QE identity signer"][1] == end
    assert verdict.dates["TCB info signer"][1] != end
    assert len(verdict.dates) == 10


@pytest.mark.parametrize("base", ["sgx-v3", "tdx-v4", "tdx-v5"])
def test_a_verdict_is_json_through_and_through(base):
    document = json.loads(json.dumps(verify(base=base).as_dict()))
    assert document["accepted"] is True
    assert document["appraised"] is False
    assert document["simulated"] is True
    assert document["tcb_status"] == "UpToDate"
    assert document["platform"]["status"] == document["qe"]["status"] == "UpToDate"
    assert document["verified_at"] == "2026-01-15T12:00:00Z"
    assert document["dates"]["PCK CRL"] == ["2026-01-14T00:00:00Z", "2026-02-13T00:00:00Z"]
    assert document["platform_identity"]["fmspc"] == scene(base).extension.fmspc.hex()
    assert document["platform_identity"]["platform_instance_id"] == bytes(range(16)).hex()
    assert document["quote"]["report_data"] == bytes(range(64)).hex()
    assert document["relaxations"] == list(verify(base=base).relaxations)


def test_a_module_of_its_own_identity_is_told():
    document = verify(put(body={"tee_tcb_svn": bytes((3, 1, 8)).ljust(16, b"\0")}), "tdx-v4").as_dict()
    assert document["tdx_module"]["status"] == "OutOfDate"
    assert document["tdx_module"]["svns"] == [3]


def test_a_quote_describes_itself_without_being_verified():
    described = describe_quote(Quote.parse(scene("sgx-v3").build().quote))
    assert described["attributes"]["flags"] == ["INIT", "MODE64BIT"]
    assert (described["version"], described["tee"], described["isv_svn"]) == (3, "SGX", 3)
    assert described["certification_data_type"] == 5
    trust_domain = describe_quote(Quote.parse(scene("tdx-v5").build().quote))
    assert (trust_domain["body_type"], trust_domain["xfam"]) == ("TD_REPORT_15", 0x618E7)
    assert "attributes" not in trust_domain


# Nobody else makes one


@pytest.mark.parametrize(
    "pick", [lambda verdict: verdict, lambda verdict: verdict.verified], ids=["verdict", "verified"]
)
def test_nothing_but_the_recipe_makes_a_result(pick):
    result = pick(verify())
    fields = {each.name: getattr(result, each.name) for each in dataclasses.fields(result)}
    for more in ({}, {"seal": None}, {"seal": object()}):
        with pytest.raises(TypeError):
            type(result)(**fields, **more)
    for name, value in fields.items():
        with pytest.raises((TypeError, ValueError)):
            dataclasses.replace(result, **{name: value})
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(result, name, value)


# Caching


def test_the_shared_cache_is_used_where_none_is_given():
    evidence = scene("sgx-v3").build()
    collateral = collateral_of(evidence)
    first, second = (kubenclave.verify_quote(evidence.quote, collateral, at=AT, root=evidence.root) for _ in range(2))
    assert first.verified.chain is second.verified.chain


def test_a_further_quote_of_the_same_enclave_keeps_everything_but_the_quotes_own_signature():
    cache = Cache()
    first = verify(cache=cache)
    kept = len(cache)
    second = verify(put(body={"report_data": bytes(64)}), cache=cache)
    assert len(cache) == kept
    assert second.verified.collateral is first.verified.collateral
    assert second.quote.body.report_data == bytes(64)


def test_dates_are_judged_anew_with_what_was_kept():
    cache = Cache()
    verify(cache=cache)
    assert refusal(at=LATE, cache=cache).code == "collateral.expired"
    assert refusal(at=PERIODS.issued - dt.timedelta(seconds=1), cache=cache).code == "collateral.not-yet-valid"
    verify(at=LATE, dangerously_accept_expired_collateral=dt.timedelta(days=2), cache=cache)
    assert refusal(at=LATE, cache=cache).code == "collateral.expired"
    assert verify(cache=cache).relaxations[1:] == ()


def test_wishes_of_one_caller_do_not_reach_another_through_the_cache():
    cache, debug = Cache(), put(body={"attributes": Attributes(0x7, 0xE7)})
    verify(debug, cache=cache, dangerously_allow_debug=True)
    assert refusal(debug, cache=cache).code == "policy.debug"
    assert refusal(cache=cache, root=None).code == "pck.untrusted-root"


def test_many_threads_share_a_cache():
    cache = Cache(entries=3)
    evidences = [scene(base).build() for base in ("sgx-v3", "tdx-v4", "tdx-v5")]

    def work(number: int) -> str:
        evidence = evidences[number % 3]
        verdict = verify_quote(evidence.quote, collateral_of(evidence), at=AT, root=evidence.root, cache=cache)
        return str(verdict.tcb_status)

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert set(pool.map(work, range(60))) == {"UpToDate"}


def test_the_recipe_by_itself_takes_an_anchor():
    evidence = scene("sgx-v3").build()
    anchor = TrustAnchor.from_certificate(PKI.root_der)
    verified = verify_only(evidence.quote, collateral_of(evidence), at=AT, anchor=anchor, cache=Cache())
    assert verified.chain.ca.key == PKI.keys[Role.PLATFORM_CA].public_key()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("root", bytearray(PKI.root_der)),
        ("root", "root.der"),
        ("pck_chain", "-----BEGIN CERTIFICATE-----"),
        ("policy", {"version": 1}),
        ("report_data", "00" * 32),
        ("report_data", bytearray(64)),
        ("at", AT.date()),
        ("at", "2026-01-15T12:00:00Z"),
        ("minimum_tcb_evaluation_data_number", -1),
        ("minimum_tcb_evaluation_data_number", None),
        ("dangerously_accept_expired_collateral", 7),
    ],
    ids=str,
)
def test_an_argument_of_another_kind_is_said_before_anything_rests_on_it(name, value):
    with pytest.raises(kubenclave.UsageError) as caught:
        verify(**{name: value})
    assert (caught.value.code, caught.value.field) == ("usage.argument", name)


@pytest.mark.parametrize("kind", [bytearray, memoryview, bytes.hex], ids=["bytearray", "memoryview", "hex"])
def test_a_quote_that_is_not_bytes_is_not_looked_at(kind):
    evidence = scene("sgx-v3").build()
    with pytest.raises(kubenclave.UsageError) as caught:
        verify_quote(kind(evidence.quote), collateral_of(evidence), at=AT, root=evidence.root)
    assert (caught.value.code, caught.value.field) == ("usage.argument", "quote")


def test_collateral_that_was_not_read_is_said_so():
    evidence = scene("sgx-v3").build()
    with pytest.raises(kubenclave.UsageError) as caught:
        verify_quote(evidence.quote, evidence.collateral, at=AT, root=evidence.root)  # type: ignore[arg-type]
    assert (caught.value.field, caught.value.expected, caught.value.found) == ("collateral", "Collateral", "dict")
