# SPDX-License-Identifier: Apache-2.0
"""Evidence that is kept within bounds, and policies tried on it."""

import datetime as dt
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from kubenclave.dcap.azurepolicy import DEFAULT_SGX_POLICY, parse
from kubenclave.dcap.azurepolicy.appraise import appraise
from kubenclave.dcap.policy import Policy
from kubenclave.errors import PolicyError
from kubenclave.platform.simulated.tcb import PlatformTcb
from kubenclave.services.attestation.evidence_store import EvidenceLimits, EvidenceStore, StoredEvidence
from kubenclave.services.attestation.policies.compare import Change, Terms, diff, dry_run, verified
from kubenclave.services.database import Database
from kubenclave.sgx.attributes import AttributeFlags, Attributes
from tests import evidence
from tests.evidence import BODY, MR_ENCLAVE, NOW

GIVEN = evidence.make()
TERMS = Terms(root=GIVEN.root)
TOO_NEW = '=>issueproperty(type="x-ms-sgx-tcbidentifier", value=99999);'
DEFAULT = parse(DEFAULT_SGX_POLICY)


def piece(given: evidence.Evidence = GIVEN, at: dt.datetime = NOW) -> StoredEvidence:
    return StoredEvidence(tee_type="SgxEnclave", quote=given.quote, collateral=given.collateral, at=at)


def other(svn: int) -> evidence.Evidence:
    return evidence.make(replace(BODY, isv_svn=svn))


def azure(rules: str, issuance: str = "", configuration: str = ""):
    text = f"version=1.2;configurationrules{{{configuration}}};authorizationrules{{{rules}}};"
    return parse(f"{text}issuancerules{{{issuance}}};")


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = Database(tmp_path / "attestation.db")
    yield opened
    opened.close()


def test_nothing_is_kept_unless_asked_for(database):
    store = EvidenceStore(database, lambda: NOW)
    assert not store.keep(piece())
    assert store.latest() == []


def test_what_is_kept_comes_back(database):
    store = EvidenceStore(database, lambda: NOW, EvidenceLimits(count=5))
    given = evidence.make(chain_inside=False)
    kept = replace(piece(given), pck_chain=given.chain, runtime_digest=b"r" * 32)
    assert store.keep(kept)
    assert store.latest() == store.latest("SgxEnclave") == [kept]
    assert store.latest("TdxVm") == []
    assert store.latest()[0].digest == kept.digest


def test_open_enclaves_evidence_is_that_of_sgx(database):
    store = EvidenceStore(database, lambda: NOW, EvidenceLimits(count=5))
    store.keep(replace(piece(), tee_type="OpenEnclave"))
    assert store.latest("OpenEnclave") == store.latest("SgxEnclave") == [piece()]


def test_a_quote_is_kept_once_with_its_latest_judgement(database):
    store = EvidenceStore(database, lambda: NOW, EvidenceLimits(count=5))
    later = NOW + dt.timedelta(hours=1)
    store.keep(piece())
    store.keep(piece(other(4)))
    store.keep(piece(at=later))
    assert [each.at for each in store.latest()] == [later, NOW]
    assert len(database.read("SELECT * FROM kept_collateral")) == 1


def test_the_oldest_go_when_there_are_too_many(database):
    store = EvidenceStore(database, lambda: NOW, EvidenceLimits(count=2))
    for number in range(4):
        store.keep(piece(other(number), NOW - dt.timedelta(minutes=4 - number)))
    assert [each.at for each in store.latest()] == [NOW - dt.timedelta(minutes=minutes) for minutes in (1, 2)]
    assert len(store.latest(count=1)) == 1


def test_what_is_too_old_goes(database):
    now = [NOW]
    store = EvidenceStore(database, lambda: now[0], EvidenceLimits(count=5, age=dt.timedelta(days=1)))
    store.keep(piece())
    now[0] += dt.timedelta(days=2)
    store.prune()
    assert store.latest() == []
    assert database.read("SELECT * FROM kept_collateral") == []


def test_what_is_too_large_goes(database):
    size = len(GIVEN.quote) + len(GIVEN.collateral.to_json().encode())
    store = EvidenceStore(database, lambda: NOW, EvidenceLimits(count=5, size=2 * size + 100))
    for number in range(4):
        store.keep(piece(other(number), NOW + dt.timedelta(minutes=number)))
    assert len(store.latest()) == 2


def test_dry_run_counts_and_tells_why():
    rule = '[type=="x-ms-sgx-svn", value>=4] => permit(); [type=="x-ms-sgx-svn", value==5] => deny();'
    found = dry_run(azure(rule), [piece(other(svn)) for svn in (3, 4, 5, 6)], TERMS).as_dict()
    assert json.loads(json.dumps(found)) == found
    assert (found["evidence"], found["accepted"], found["refused"]) == (4, 2, 2)
    assert found["codes"] == {"azure-policy.no-permit": 1, "azure-policy.denied": 1}
    assert [each["accepted"] for each in found["pieces"]] == [False, True, False, True]
    assert found["pieces"][2]["trace"] == ["line 1: permit", "line 1: deny"]
    assert found["pieces"][0]["at"] == evidence.AT


def test_a_typed_policy_tells_every_finding():
    policy = Policy.from_json(json.dumps({"version": 1, "enclaves": [{"mr_enclave": "00" * 32}], "report_data": "00"}))
    (outcome,) = dry_run(policy, [piece()], TERMS).outcomes
    assert set(outcome.codes) == {"policy.mr-enclave", "policy.report-data"}
    wanted = Policy.from_json(json.dumps({"version": 1, "enclaves": [{"mr_enclave": MR_ENCLAVE.hex()}]}))
    assert dry_run(wanted, [piece()], TERMS).outcomes[0].accepted


def test_what_is_not_genuine_is_refused_whatever_the_policy():
    (outcome,) = dry_run(DEFAULT, [piece()], Terms()).outcomes
    assert not outcome.accepted
    assert outcome.codes == ("pck.untrusted-root",)


def test_debug_enclaves_are_the_services_decision():
    given = evidence.debug()
    assert dry_run(DEFAULT, [piece(given)], TERMS).outcomes[0].codes == ("policy.debug",)
    terms = replace(TERMS, dangerously_allow_debug=True)
    assert dry_run(DEFAULT, [piece(given)], terms).outcomes[0].accepted
    rule = azure('[type=="x-ms-sgx-is-debuggable", value==false] => permit();')
    assert dry_run(rule, [piece(given)], terms).outcomes[0].codes == ("azure-policy.no-permit",)


@pytest.mark.parametrize(
    ("tcb", "properties", "accepted", "relaxed"),
    [
        (PlatformTcb.UP_TO_DATE, [], True, None),
        (PlatformTcb.SW_HARDENING_NEEDED, [], True, "tcb_statuses: SWHardeningNeeded"),
        (PlatformTcb.OUT_OF_DATE, [], False, None),
        (PlatformTcb.OUT_OF_DATE, ["OutOfDateConfigurationNeeded"], False, None),
        (PlatformTcb.OUT_OF_DATE, ["OutOfDate"], True, "dangerously_accept_tcb_status: OutOfDate"),
        (PlatformTcb.OUT_OF_DATE, ["TDRelaunchAdvised", "OutOfDate"], True, "dangerously_accept_tcb_status: OutOfDate"),
    ],
)
def test_a_platform_without_its_updates_needs_a_word_of_the_policy(tcb, properties, accepted, relaxed):
    rules = "".join(f'=>issueproperty(type="dangerously_accept_tcb_status", value="{each}");' for each in properties)
    (outcome,) = dry_run(azure("=>permit();", configuration=rules), [piece(evidence.make(tcb=tcb))], TERMS).outcomes
    assert outcome.accepted is accepted
    assert outcome.codes == (() if accepted else ("azure-policy.tcb-status",))
    named = [each for each in outcome.relaxations if not each.startswith("root:")]
    assert [each.partition(" accepted")[0] for each in named] == ([] if relaxed is None else [relaxed])


@pytest.mark.parametrize("flag", [AttributeFlags.PROVISION_KEY, AttributeFlags.EINITTOKEN_KEY])
def test_keys_that_identify_the_platform_are_named_under_either_language(flag):
    given = evidence.make(replace(BODY, attributes=Attributes(BODY.attributes.flags | flag, BODY.attributes.xfrm)))
    typed = Policy.from_json(
        json.dumps(
            {
                "version": 1,
                "dangerously_allow_provision_key": True,
                "enclaves": [{"mr_enclave": MR_ENCLAVE.hex()}],
            }
        )
    )
    for policy in (typed, azure("=>permit();")):
        (outcome,) = dry_run(policy, [piece(given)], TERMS).outcomes
        assert outcome.accepted
        assert any(each.startswith("dangerously_allow_provision_key:") for each in outcome.relaxations)
        assert not any(
            each.startswith("dangerously") for each in dry_run(policy, [piece()], TERMS).outcomes[0].relaxations
        )


def test_a_policy_sees_the_tcb_status():
    rule = (
        'c:[type=="kubenclave"] => add(type="tcb", value=JsonToClaimValue(JmesPath(c.value, "tcb_status")));'
        '[type=="tcb", value=="UpToDate"] => permit();'
    )
    pieces = [piece(), piece(evidence.make(tcb=PlatformTcb.SW_HARDENING_NEEDED))]
    assert [each.accepted for each in dry_run(azure(rule), pieces, TERMS).outcomes] == [True, False]


@pytest.mark.parametrize(
    ("identifier", "accepted"),
    [("azuredefault", True), ("1", True), (1, True), ("99999", False), (99999, False), ("ten", False), (True, False)],
)
def test_tcb_identifier(identifier, accepted):
    rule = f'=>issueproperty(type="x-ms-sgx-tcbidentifier", value={json.dumps(identifier)});'
    (outcome,) = dry_run(azure("=>permit();", configuration=rule), [piece()], TERMS).outcomes
    assert outcome.accepted is accepted
    assert outcome.codes == (() if accepted else ("azure-policy.tcb-identifier",))


def test_appraisal_raises_where_a_policy_refuses():
    judgement = verified(DEFAULT, piece(), TERMS)
    assert appraise(DEFAULT, judgement).issued["svn"] == BODY.isv_svn
    for rules, configuration in (("", ""), ("=>permit();=>deny();", ""), ("=>permit();", TOO_NEW)):
        with pytest.raises(PolicyError):
            appraise(azure(rules, configuration=configuration), judgement)


def test_diff():
    first = azure('[type=="$svn", value>=4]=>permit();', '=>issue(type="a", value=1);')
    second = azure(
        '[type=="$svn", value==2]=>deny(); [type=="$svn", value>=3]=>permit(); [type=="$svn", value==5]=>deny();',
        '=>issue(type="a", value=1); [type=="$svn", value==6]=>issue(type="b", value=2);',
    )
    difference = diff(first, second, [piece(other(svn)) for svn in (1, 2, 3, 4, 5, 6)], TERMS)
    assert difference.changes == (
        Change.SAME, Change.OTHER_REASONS, Change.NEWLY_ACCEPTED, Change.SAME, Change.NEWLY_REFUSED, Change.OTHER_CLAIMS
    )  # fmt: skip
    found = difference.as_dict()
    assert json.loads(json.dumps(found)) == found
    assert found["changes"] == {
        "same": 2, "newly-accepted": 1, "newly-refused": 1, "other-claims": 1, "other-reasons": 1
    }  # fmt: skip
    assert found["pieces"][4]["second"]["codes"] == ["azure-policy.denied"]
