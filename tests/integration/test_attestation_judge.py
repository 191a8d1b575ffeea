# SPDX-License-Identifier: Apache-2.0
"""The judge: whose collateral is asked for, by which clock, under which root."""

import asyncio

import pytest

from kubenclave.dcap.judgement import DataType, Freshness, HeldData
from kubenclave.dcap.pckext import PckCa
from kubenclave.errors import FormatError, KubenclaveError, PolicyError, TrustError
from kubenclave.platform.simulated.tcb import FMSPC, PlatformTcb
from kubenclave.services.attestation.evidence import MAX_HELD_DATA, MAX_QUOTE, Evidence
from kubenclave.services.attestation.provider import CachedCollateral
from kubenclave.services.attestation.service import AttestationService
from kubenclave.services.attestation.settings import Settings
from kubenclave.services.collateral.items import ROOT_CRL, Item, ItemKey, Kind, Tee
from kubenclave.services.collateral.sources.base import SourceError, unknown
from kubenclave.sgx.quote import TeeType
from tests import evidence as by_hand
from tests import simulated_platform
from tests.attestation_service import attestation, base64url, run
from tests.clock import Clock

__all__ = ["attestation"]


class Asked:
    """A provider that takes note, and fails where it has nothing but an error."""

    def __init__(self, collateral):
        self.collateral_ = collateral
        self.asked = []

    async def collateral(self, tee, fmspc, ca):
        self.asked.append((tee, fmspc, ca))
        if isinstance(self.collateral_, KubenclaveError):
            raise self.collateral_
        return self.collateral_

    async def generations(self, tee):
        raise NotImplementedError


def judged(attestation, given, policy=None):
    return run(attestation.service.judge.judge(given, policy))


def test_collateral_is_asked_for_by_what_the_certificate_says(attestation):
    provider = attestation.service.judge.provider = Asked(attestation.platform.collateral())
    judgement = judged(attestation, Evidence(quote=attestation.quote()))
    assert provider.asked == [(TeeType.SGX, FMSPC.hex(), PckCa.PLATFORM.value)]
    assert judgement.freshness is Freshness.NONE
    assert judgement.policy is None
    assert judgement.at == attestation.clock.time


def test_nobody_is_asked_for_a_platform_that_is_not_under_the_root(tmp_path):
    platform = simulated_platform.Platform.ready()
    provider = Asked(platform.collateral())
    settings = Settings(issuer="https://attestation.example", state=tmp_path / "state")
    service = AttestationService.create(settings, provider, Clock(simulated_platform.NOW))
    with pytest.raises(TrustError) as caught:
        run(service.judge.judge(Evidence(quote=platform.quote()), None))
    service.close()
    assert caught.value.code == "pck.untrusted-root"
    assert provider.asked == []


@pytest.mark.parametrize(
    "error",
    [
        SourceError("nobody answers", code="source.timeout"),
        unknown("TCB info", "a source"),
        TrustError("signed by nobody", code="tcb-info.signature"),
        FormatError("no JSON", code="json.malformed"),
    ],
)
def test_collateral_that_cannot_be_had_is_no_verdict_and_no_fault_of_who_asks(attestation, error):
    attestation.service.judge.provider = Asked(error)
    answer = attestation.post("/v1/attest", {"quote": base64url(attestation.quote())})
    assert (answer.status_code, answer.json()["code"]) == (503, error.code)
    assert int(answer.headers["Retry-After"]) > 0
    assert attestation.service.log.size() == 0


def test_chain_beside_a_quote_that_carries_none(attestation):
    made = by_hand.make(chain_inside=False)
    attestation.service.judge.provider = Asked(made.collateral)
    attestation.clock.time = by_hand.NOW
    with pytest.raises(TrustError) as caught:
        judged(attestation, Evidence(quote=made.quote))
    assert caught.value.code == "pck.missing"
    assert judged(attestation, Evidence(quote=made.quote, pck_chain=made.chain)).verdict.simulated


def test_platform_that_needs_an_update_is_told_and_left_to_the_policy(attestation):
    tcb = PlatformTcb.OUT_OF_DATE
    platform = simulated_platform.Platform.ready(tcb)
    attestation.service.judge.provider = Asked(platform.collateral())
    assert judged(attestation, Evidence(quote=platform.quote())).verdict.tcb_status.value == "OutOfDate"


def test_platform_without_updates_needs_a_word_of_an_azure_policy_and_results_show_it(attestation):
    platform = simulated_platform.Platform.ready(PlatformTcb.OUT_OF_DATE)
    attestation.service.judge.provider = Asked(platform.collateral())
    given, policies = Evidence(quote=platform.quote()), attestation.service.policies
    with pytest.raises(PolicyError) as caught:
        judged(attestation, given, policies.current("SgxEnclave"))
    assert caught.value.code == "azure-policy.tcb-status"
    text = (
        "version= 1.1; configurationrules {"
        ' => issueproperty(type="dangerously_accept_tcb_status", value="OutOfDate"); };'
        " authorizationrules { => permit(); }; issuancerules {};"
    )
    policy = policies.put("SgxEnclave", text, "azure", by="test")
    assert any("OutOfDate" in each for each in judged(attestation, given, policy).relaxations)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("quote", bytes(MAX_QUOTE + 1)),
        ("pck_chain", bytes(MAX_QUOTE)),
        ("runtime_data", HeldData(bytes(MAX_HELD_DATA + 1), DataType.BINARY)),
        ("init_data", HeldData(bytes(MAX_HELD_DATA + 1), DataType.BINARY)),
        ("nonce", "n" * 300),
        ("challenge", "n" * 300),
    ],
)
def test_evidence_is_bounded(name, value):
    with pytest.raises(FormatError) as caught:
        Evidence(**{"quote": b"", name: value})
    assert (caught.value.code, caught.value.field) == ("evidence.size", name)


def test_nonce_is_plain_text():
    with pytest.raises(FormatError) as caught:
        Evidence(quote=b"", nonce="\ud800")
    assert caught.value.code == "evidence.nonce"


def test_many_at_once_get_what_each_of_them_asked_for(attestation):
    async def all_of_them():
        quotes = [attestation.quote(bytes([number])) for number in range(8)]
        held = [HeldData(bytes([number]), DataType.BINARY) for number in range(8)]
        judge = attestation.service.judge
        return await asyncio.gather(
            *(
                judge.judge(Evidence(quote=quote, runtime_data=data), None)
                for quote, data in zip(quotes, held, strict=True)
            )
        )

    judgements = run(all_of_them())
    assert [each.runtime_data.data for each in judgements] == [bytes([number]) for number in range(8)]


def test_cached_collateral_puts_items_together(attestation):
    collateral = attestation.platform.collateral()

    def signed(member, text, signature):
        return b'{"%b":%b,"signature":"%b"}' % (member, text, signature.hex().encode())

    bodies = {
        Kind.ROOT_CRL: (collateral.root_ca_crl, b""),
        Kind.PCK_CRL: (collateral.pck_crl, collateral.pck_crl_issuer_chain),
        Kind.TCB_INFO: (
            signed(b"tcbInfo", collateral.tcb_info, collateral.tcb_info_signature),
            collateral.tcb_info_issuer_chain,
        ),
        Kind.IDENTITY: (
            signed(b"enclaveIdentity", collateral.qe_identity, collateral.qe_identity_signature),
            collateral.qe_identity_issuer_chain,
        ),
    }
    asked = []

    async def get(key: ItemKey) -> Item:
        asked.append(key)
        time = simulated_platform.NOW
        return Item(key, *bodies[key.kind], time, time, 0, "test", time)

    attestation.service.judge.provider = CachedCollateral(get)
    judgement = judged(attestation, Evidence(quote=attestation.quote()))
    assert judgement.collateral == collateral
    assert ROOT_CRL in asked
    assert ItemKey.tcb_info(Tee.SGX, FMSPC.hex()) in asked
