# SPDX-License-Identifier: Apache-2.0
"""What speaks against a release, which keys a secret can be encrypted to, and what the log says of it."""

import datetime as dt
from dataclasses import replace

import pytest
from joserfc.jwk import ECKey, RSAKey

from kubenclave.dcap.judgement import Freshness
from kubenclave.errors import Finding, FormatError, PolicyError
from kubenclave.platform.simulated.tcb import PlatformTcb
from kubenclave.services.attestation.release.rules import recipient, release_findings
from kubenclave.services.attestation.release.secrets import SecretInfo
from kubenclave.services.attestation.transparency.entries import accepted_entry, refused_entry
from kubenclave.services.attestation.transparency.log import MAX_ENTRY, canonical
from kubenclave.sgx.attributes import AttributeFlags, Attributes
from tests import evidence, judgements
from tests.evidence import BODY, NOW
from tests.judgements import AZURE_POLICY, TYPED_POLICY, judgement

SECRET = SecretInfo("database", 1, "SgxEnclave", AZURE_POLICY.digest, simulated=True, created=NOW, by="test")


def codes(found, secret=SECRET):
    return sorted({finding.code for finding in release_findings(secret, found)})


def good(*arguments, **how):
    return judgement(*arguments, **{"freshness": Freshness.CHALLENGE, **how})


def with_flags(flags):
    return evidence.make(replace(BODY, attributes=Attributes(BODY.attributes.flags | flags, BODY.attributes.xfrm)))


def test_nothing_speaks_against_a_good_judgement():
    assert codes(good()) == []


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (lambda: good(freshness=Freshness.NONE), ["release.not-fresh"]),
        (lambda: good(policy_reference=TYPED_POLICY), ["release.policy"]),
        (lambda: good(policy_reference=None), ["release.policy"]),
        (lambda: good(draft=True), ["release.draft"]),
        (lambda: good(evidence.debug(), debug=True), ["release.debug", "release.relaxed"]),
        (lambda: good(with_flags(AttributeFlags.PROVISION_KEY)), ["release.privileged"]),
        (lambda: good(evidence.make(tcb=PlatformTcb.OUT_OF_DATE)), ["release.tcb-status"]),
        (lambda: replace(judgements.tdx(), freshness=Freshness.CHALLENGE), ["release.tee"]),
        (
            lambda: good(at=NOW + dt.timedelta(days=60), grace=dt.timedelta(days=90)),
            ["release.relaxed"],
        ),
    ],
    ids=["replay", "other-policy", "no-policy", "draft", "debug", "privileged", "out-of-date", "tdx", "expired"],
)
def test_each_thing_that_is_wrong_is_named(found, expected):
    assert codes(found()) == expected


def test_a_mark_and_a_root_that_do_not_agree():
    assert codes(good(), replace(SECRET, simulated=False)) == ["release.simulated"]


def test_a_floor_of_the_operators_relaxes_nothing():
    found = good(relaxations=("minimum_tcb_evaluation_data_number: 17 in place of none", "root: x instead of Intel's"))
    assert codes(found) == []


def test_everything_that_is_wrong_is_told_at_once():
    found = good(evidence.debug(), debug=True, freshness=Freshness.NONE, draft=True, policy_reference=None)
    assert len(codes(found)) == 5


@pytest.mark.parametrize("curve", ["P-256", "P-384", "P-521"])
def test_public_keys_on_common_curves_are_taken(curve):
    key = ECKey.generate_key(curve)
    assert recipient({**key.as_dict(private=False), "use": "enc", "kid": "mine"}).thumbprint() == key.thumbprint()


EC = ECKey.generate_key("P-256").as_dict(private=False)
RSA = RSAKey.generate_key(2048).as_dict(private=False)


@pytest.mark.parametrize(
    "jwk",
    [
        {},
        {"kty": []},
        {"kty": "oct", "k": "AAAA"},
        {"kty": "OKP", "crv": "Ed25519", "x": EC["x"]},
        {"kty": "EC", "crv": "P-256"},
        {**EC, "crv": "secp256k1"},
        {**EC, "crv": []},
        {**EC, "x": EC["y"]},
        {**EC, "x": 3},
        {**EC, "x": "é"},
        {**EC, "d": EC["x"]},
        {"kty": "RSA"},
        {"kty": "RSA", "n": "A", "e": "AQAB"},
        {**RSA, "e": "AQ"},
        {**RSA, "n": "_" * 9000},
        {**RSA, "d": "AA"},
    ],
)
def test_other_keys_are_refused(jwk):
    with pytest.raises(FormatError) as caught:
        recipient(jwk)
    assert caught.value.code == "release.bad-key"


@pytest.mark.filterwarnings("ignore:Key size")
def test_a_short_rsa_key_is_refused():
    with pytest.raises(FormatError) as caught:
        recipient(RSAKey.generate_key(1024).as_dict(private=False))
    assert caught.value.code == "release.bad-key"


def test_an_entry_names_what_was_decided_and_no_machine():
    found = good()
    entry = accepted_entry(found, jti="1")
    assert entry["policy"]["digest"] == AZURE_POLICY.digest.hex()
    assert entry["evidence"] == found.evidence_digest.hex()
    assert (entry["fresh"], entry["simulated"], "released" in entry) == (True, True, False)
    text = canonical(entry)
    extension = found.verdict.verified.chain.extension
    for private in (extension.ppid, found.verdict.quote.body.report_data, extension.cpu_svn + b"\1"):
        assert private.hex().encode() not in text


def test_entries_are_bounded_whatever_a_policy_says():
    findings = [Finding(f"policy.made-up-{number}", "x" * 9999, "y", "z") for number in range(9999)]
    entry = refused_entry(
        PolicyError(findings),
        jti="1",
        at=NOW,
        evidence_digest=bytes(32),
        policy=replace(AZURE_POLICY, name="n" * 60_000),
        simulated=False,
    )
    assert len(canonical(entry)) < MAX_ENTRY // 10
    assert (len(entry["codes"]), entry["verdict"], "wanted" in entry) == (50, "refused", False)
