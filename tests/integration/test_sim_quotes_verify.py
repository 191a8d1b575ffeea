# SPDX-License-Identifier: Apache-2.0
"""SIMULATED quotes before two verifiers: our own, and dcap-qvl, which knows nothing of us."""

import datetime as dt
from collections.abc import Callable

import dcap_qvl
import pytest

from kubenclave import Collateral, KubenclaveError, TrustError, verify_quote
from kubenclave.dcap.pckext import PckCa
from kubenclave.platform.simulated.tcb import PlatformTcb
from tests.simulated_platform import NOW, Platform

GOOD = {
    PlatformTcb.UP_TO_DATE: "UpToDate",
    PlatformTcb.OUT_OF_DATE: "OutOfDate",
    PlatformTcb.CONFIGURATION_NEEDED: "ConfigurationNeeded",
    PlatformTcb.SW_HARDENING_NEEDED: "SWHardeningNeeded",
    PlatformTcb.CONFIGURATION_AND_SW_HARDENING_NEEDED: "ConfigurationAndSWHardeningNeeded",
    PlatformTcb.OUT_OF_DATE_CONFIGURATION_NEEDED: "OutOfDateConfigurationNeeded",
}
BAD = {PlatformTcb.REVOKED: "pck.revoked", PlatformTcb.EXPIRED: "collateral.expired"}
CAS = pytest.mark.parametrize("ca", list(PckCa), ids=str)
good_states = pytest.mark.parametrize(("tcb", "status"), GOOD.items(), ids=map(str, GOOD))
bad_states = pytest.mark.parametrize(("tcb", "code"), BAD.items(), ids=map(str, BAD))


def theirs(quote: bytes, collateral: Collateral, root: bytes, at: dt.datetime = NOW):
    parsed = dcap_qvl.QuoteCollateralV3.from_json(collateral.to_json())
    return dcap_qvl.verify_with_root_ca(quote, parsed, root, int(at.timestamp()))


def refused(verifier: Callable[[], object]) -> bool:
    try:
        verifier()
    except (KubenclaveError, ValueError):
        return True
    return False


def test_every_state_is_either_good_or_bad():
    assert GOOD.keys() | BAD.keys() == set(PlatformTcb)


@CAS
@good_states
def test_both_verifiers_give_the_status_of_the_state(ca, tcb, status):
    platform = Platform.ready(tcb, ca=ca)
    quote, collateral = platform.quote(), platform.collateral()
    verdict = verify_quote(quote, collateral, at=NOW, root=platform.issuer.root_der)
    other = theirs(quote, collateral, platform.issuer.root_der)
    assert str(verdict.tcb_status) == other.status == status
    assert list(verdict.advisories) == other.advisory_ids
    assert verdict.simulated


@CAS
@bad_states
def test_both_verifiers_refuse_in_the_bad_states(ca, tcb, code):
    platform = Platform.ready(tcb, ca=ca)
    quote, collateral = platform.quote(), platform.collateral()
    with pytest.raises(TrustError) as answer:
        verify_quote(quote, collateral, at=NOW, root=platform.issuer.root_der)
    assert answer.value.code == code
    with pytest.raises(ValueError, match=r"CertRevoked|Expired"):
        theirs(quote, collateral, platform.issuer.root_der)


@CAS
def test_quotes_are_refused_under_intels_root(ca):
    platform = Platform.ready(ca=ca)
    quote, collateral = platform.quote(), platform.collateral()
    with pytest.raises(TrustError) as answer:
        verify_quote(quote, collateral, at=NOW)
    assert answer.value.code == "pck.untrusted-root"
    with pytest.raises(ValueError, match="Verification failed"):
        dcap_qvl.verify(quote, dcap_qvl.QuoteCollateralV3.from_json(collateral.to_json()), int(NOW.timestamp()))


def test_quotes_made_before_a_revocation_are_refused_with_the_collateral_of_after():
    platform = Platform.ready()
    quote = platform.quote()
    platform.change(PlatformTcb.REVOKED)
    with pytest.raises(TrustError) as answer:
        verify_quote(quote, platform.collateral(), at=NOW, root=platform.issuer.root_der)
    assert answer.value.code == "pck.revoked"


def test_expired_collateral_is_good_for_a_grace_period_and_says_so():
    platform = Platform.ready(PlatformTcb.EXPIRED)
    verdict = verify_quote(
        platform.quote(),
        platform.collateral(),
        at=NOW,
        root=platform.issuer.root_der,
        dangerously_accept_expired_collateral=dt.timedelta(days=40),
    )
    assert str(verdict.tcb_status) == "UpToDate"
    assert verdict.relaxations


def test_debug_enclaves_are_refused_by_both():
    platform = Platform.ready()
    quote, collateral = platform.quote(debug=True), platform.collateral()
    assert refused(lambda: verify_quote(quote, collateral, at=NOW, root=platform.issuer.root_der))
    assert refused(lambda: theirs(quote, collateral, platform.issuer.root_der))


@pytest.mark.parametrize("days", [-3, 35], ids=["before", "after"])
def test_collateral_is_refused_out_of_its_time_by_both(days):
    platform = Platform.ready()
    quote, collateral = platform.quote(), platform.collateral()
    at = NOW + dt.timedelta(days=days)
    assert refused(lambda: verify_quote(quote, collateral, at=at, root=platform.issuer.root_der))
    assert refused(lambda: theirs(quote, collateral, platform.issuer.root_der, at))


def test_collateral_of_the_other_ca_is_refused_by_both():
    one, other = Platform.ready(ca=PckCa.PLATFORM), Platform.ready(ca=PckCa.PROCESSOR)
    quote, collateral = one.quote(), other.collateral()
    assert refused(lambda: verify_quote(quote, collateral, at=NOW, root=one.issuer.root_der))
    assert refused(lambda: theirs(quote, collateral, one.issuer.root_der))
