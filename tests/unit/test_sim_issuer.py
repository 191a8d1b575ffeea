# SPDX-License-Identifier: Apache-2.0
import datetime as dt
import json

import pytest
from cryptography import x509

from kubenclave import UsageError
from kubenclave.dcap.anchor import TrustAnchor
from kubenclave.dcap.cache import Cache
from kubenclave.dcap.chain import verify_pck_chain
from kubenclave.dcap.documents import EnclaveIdentity, TcbInfo
from kubenclave.dcap.evaluate import evaluate_sgx
from kubenclave.dcap.pckext import PckCa
from kubenclave.dcap.tcb import TcbStatus
from kubenclave.dcap.trusted import verify_collateral
from kubenclave.platform.simulated import documents
from kubenclave.platform.simulated.enclaves import MR_SIGNER
from kubenclave.platform.simulated.issuer import COLLATERAL_PERIOD, ROOT_CRL_PERIOD, Issuer
from kubenclave.platform.simulated.pki import Pki, derive_key
from kubenclave.platform.simulated.tcb import FMSPC, PCE_ID, PCE_SVN, PlatformSvns, PlatformTcb
from kubenclave.sgx.quote import TeeType
from tests.simulated_platform import NOW, SEED

PCK_KEY = derive_key(b"k" * 16, "test").public_key()
STATUSES = {
    PlatformTcb.UP_TO_DATE: TcbStatus.UP_TO_DATE,
    PlatformTcb.OUT_OF_DATE: TcbStatus.OUT_OF_DATE,
    PlatformTcb.CONFIGURATION_NEEDED: TcbStatus.CONFIGURATION_NEEDED,
    PlatformTcb.SW_HARDENING_NEEDED: TcbStatus.SW_HARDENING_NEEDED,
    PlatformTcb.CONFIGURATION_AND_SW_HARDENING_NEEDED: TcbStatus.CONFIGURATION_AND_SW_HARDENING_NEEDED,
    PlatformTcb.OUT_OF_DATE_CONFIGURATION_NEEDED: TcbStatus.OUT_OF_DATE_CONFIGURATION_NEEDED,
    PlatformTcb.REVOKED: TcbStatus.UP_TO_DATE,  # its certificate is what is revoked
    PlatformTcb.EXPIRED: TcbStatus.UP_TO_DATE,
}


@pytest.fixture(scope="module")
def pki() -> Pki:
    return Pki.from_seed(SEED)


@pytest.fixture(params=list(PckCa), ids=str)
def issuer(pki, request) -> Issuer:
    return Issuer(pki, ca=request.param)


def verified_chain(issuer, tcb):
    anchor = TrustAnchor.from_certificate(issuer.root_der)
    return verify_pck_chain(issuer.pck_chain(tcb, PCK_KEY), anchor, Cache())


def crl_period(der):
    crl = x509.load_der_x509_crl(der)
    assert crl.next_update_utc is not None
    return crl.last_update_utc, crl.next_update_utc


def crl_serials(der):
    return {entry.serial_number for entry in x509.load_der_x509_crl(der)}


def test_every_state_has_a_status():
    assert set(STATUSES) == set(PlatformTcb)


@pytest.mark.parametrize("tcb", list(PlatformTcb), ids=str)
def test_certificate_reaches_the_level_of_the_state(issuer, tcb):
    collateral = issuer.collateral(tcb, NOW)
    identity = EnclaveIdentity.parse(collateral.qe_identity)
    extension = verified_chain(issuer, tcb).extension
    evaluation = evaluate_sgx(extension, TcbInfo.parse(collateral.tcb_info), identity.levels[0])
    assert evaluation.status is STATUSES[tcb]
    assert extension.cpu_svn == bytes(extension.components) == tcb.svns.cpu_svn
    assert (extension.fmspc, extension.pce_id, extension.pce_svn) == (FMSPC, PCE_ID, PCE_SVN)


@pytest.mark.parametrize("tcb", list(PlatformTcb), ids=str)
def test_collateral_holds_under_the_root(issuer, tcb):
    anchor = TrustAnchor.from_certificate(issuer.root_der)
    trusted = verify_collateral(issuer.collateral(tcb, NOW), anchor, Cache())
    assert trusted.tcb_info.fmspc == FMSPC
    assert trusted.qe_identity.mr_signer == MR_SIGNER


@pytest.mark.parametrize("tcb", [each for each in PlatformTcb if each is not PlatformTcb.EXPIRED], ids=str)
def test_collateral_is_current_in_every_other_state(issuer, tcb):
    trusted = verify_collateral(issuer.collateral(tcb, NOW), TrustAnchor.from_certificate(issuer.root_der), Cache())
    hour = dt.timedelta(hours=1)
    for each in trusted.dated:
        assert each.not_before <= NOW - hour
        assert NOW + 28 * 24 * hour <= each.not_after


def test_periods_are_thirty_days_and_a_year_for_the_root_crl(issuer):
    collateral = issuer.collateral(PlatformTcb.UP_TO_DATE, NOW)
    info = TcbInfo.parse(collateral.tcb_info)
    identity = EnclaveIdentity.parse(collateral.qe_identity)
    root_crl_issued, root_crl_ends = crl_period(collateral.root_ca_crl)
    pck_crl_issued, pck_crl_ends = crl_period(collateral.pck_crl)
    assert root_crl_ends - root_crl_issued == ROOT_CRL_PERIOD
    assert pck_crl_ends - pck_crl_issued == COLLATERAL_PERIOD
    assert info.next_update - info.issue_date == identity.next_update - identity.issue_date == COLLATERAL_PERIOD


def test_expired_collateral_is_all_in_the_past(issuer):
    collateral = issuer.collateral(PlatformTcb.EXPIRED, NOW)
    ends = [
        crl_period(collateral.root_ca_crl)[1],
        crl_period(collateral.pck_crl)[1],
        TcbInfo.parse(collateral.tcb_info).next_update,
        EnclaveIdentity.parse(collateral.qe_identity).next_update,
    ]
    assert all(NOW - dt.timedelta(days=31) < end < NOW for end in ends)


def test_revoked_state_lists_the_certificates_of_all_states(issuer):
    listed = crl_serials(issuer.collateral(PlatformTcb.REVOKED, NOW).pck_crl)
    assert listed == {issuer.leaf(tcb, PCK_KEY).serial_number for tcb in PlatformTcb}


@pytest.mark.parametrize("tcb", [each for each in PlatformTcb if each is not PlatformTcb.REVOKED], ids=str)
def test_no_other_state_revokes(issuer, tcb):
    assert crl_serials(issuer.collateral(tcb, NOW).pck_crl) == set()


def test_collateral_is_the_same_all_day(issuer):
    morning = NOW.replace(hour=0, minute=0)
    evening = morning + dt.timedelta(hours=23, minutes=59)
    assert Issuer(issuer.pki, ca=issuer.ca).collateral(PlatformTcb.UP_TO_DATE, morning) == issuer.collateral(
        PlatformTcb.UP_TO_DATE, evening
    )
    assert issuer.collateral(PlatformTcb.UP_TO_DATE, morning + dt.timedelta(days=1)) != issuer.collateral(
        PlatformTcb.UP_TO_DATE, morning
    )


def test_time_zone_of_now_does_not_matter(issuer):
    there = NOW.astimezone(dt.timezone(dt.timedelta(hours=-9)))
    assert issuer.collateral(PlatformTcb.UP_TO_DATE, there) == issuer.collateral(PlatformTcb.UP_TO_DATE, NOW)


def test_time_without_a_zone_is_refused(issuer):
    with pytest.raises(UsageError) as refused:
        issuer.collateral(PlatformTcb.UP_TO_DATE, NOW.replace(tzinfo=None))
    assert refused.value.code == "usage.naive-time"


def test_chain_is_leaf_ca_root_and_always_the_same(issuer):
    chain = issuer.pck_chain(PlatformTcb.UP_TO_DATE, PCK_KEY)
    leaf, ca, root = x509.load_pem_x509_certificates(chain)
    leaf.verify_directly_issued_by(ca)
    ca.verify_directly_issued_by(root)
    assert leaf.public_key() == PCK_KEY
    assert Issuer(issuer.pki, ca=issuer.ca).pck_chain(PlatformTcb.UP_TO_DATE, PCK_KEY) == chain


def test_chain_has_the_same_size_for_every_state_and_key(issuer):
    keys = [derive_key(bytes([number]) * 16, "test").public_key() for number in range(4)]
    assert len({len(issuer.pck_chain(tcb, key)) for tcb in PlatformTcb for key in keys}) == 1


def test_platforms_under_one_root_have_nothing_in_common(pki):
    one, other = (Issuer(pki, platform=name).extension(PlatformTcb.UP_TO_DATE) for name in (b"1", b"2"))
    assert one.ppid != other.ppid
    assert one.platform_instance_id != other.platform_instance_id
    revoked = [Issuer(pki, platform=name).collateral(PlatformTcb.REVOKED, NOW).pck_crl for name in (b"1", b"2")]
    assert not crl_serials(revoked[0]) & crl_serials(revoked[1])


def test_documents_are_compact_and_in_the_order_of_the_service(issuer):
    collateral = issuer.collateral(PlatformTcb.UP_TO_DATE, NOW)
    for text in (collateral.tcb_info, collateral.qe_identity):
        assert b" " not in text.replace(b"Early Microcode Update", b"").replace(
            b"SGX Late Microcode Update", b""
        ).replace(b"TXT SINIT", b"")
    assert list(json.loads(collateral.tcb_info)) == [
        "id",
        "version",
        "issueDate",
        "nextUpdate",
        "fmspc",
        "pceId",
        "tcbType",
        "tcbEvaluationDataNumber",
        "tcbLevels",
    ]


def test_tcb_info_has_a_level_for_each_platform_status():
    info = TcbInfo.parse(documents.compact(documents.tcb_info(NOW, NOW + COLLATERAL_PERIOD)))
    assert len({level.status for level in info.levels}) == len(info.levels) == 7
    assert [level.svns for level in info.levels] == [
        (*level.svns.components, level.svns.pce_svn) for level in documents.LEVELS
    ]


def test_tdx_documents_are_signed_by_the_same_signer(issuer):
    trusted = verify_collateral(
        issuer.collateral(PlatformTcb.UP_TO_DATE, NOW, tee=TeeType.TDX),
        TrustAnchor.from_certificate(issuer.root_der),
        Cache(),
    )
    assert trusted.tcb_info.tee is trusted.qe_identity.tee is TeeType.TDX
    assert set(trusted.tcb_info.module_identities) == {"TDX_01", "TDX_03"}
    assert [level.svns[0] for level in trusted.qe_identity.levels] == [4, 2, 1]


def test_levels_of_choice_can_be_written():
    level = documents.Level(PlatformSvns((1,) * 16), TcbStatus.REVOKED, NOW, ("A",))
    info = TcbInfo.parse(documents.compact(documents.tcb_info(NOW, NOW, fmspc=b"other\0", levels=[level])))
    assert info.fmspc == b"other\0"
    assert info.levels[0].advisories == ("A",)
    only = documents.IsvLevel(3, TcbStatus.OUT_OF_DATE, NOW)
    identity = documents.qe_identity(NOW, NOW, bytes(32), levels=[only], evaluation_number=99)
    assert EnclaveIdentity.parse(documents.compact(identity)).tcb_evaluation_data_number == 99
