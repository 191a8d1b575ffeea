# SPDX-License-Identifier: Apache-2.0
import hashlib
from dataclasses import replace

import pytest

from kubenclave import FormatError, PlatformError
from kubenclave.platform.simulated.enclaves import MR_SIGNER, PCE, QUOTING_ENCLAVE
from kubenclave.platform.simulated.pce import CertificationEnclave, pck_key_request, pck_private_key
from kubenclave.platform.simulated.pki import derive_key
from kubenclave.platform.simulated.quoting import AUTH_DATA, QuotingEnclave
from kubenclave.platform.simulated.tcb import PlatformTcb
from kubenclave.sgx.attributes import AttributeFlags
from kubenclave.sgx.certification import CertificationType
from kubenclave.sgx.quote import INTEL_QE_VENDOR_ID, Quote
from kubenclave.sgx.report import Report, ReportBody, TargetInfo
from kubenclave.sgx.sigstruct import Sigstruct
from tests.simulated_platform import APP_MR_ENCLAVE, Platform

DATA = bytes(range(64))


@pytest.fixture
def platform() -> Platform:
    return Platform.ready()


def refusal_of(qe: QuotingEnclave, report: bytes) -> str:
    with pytest.raises(PlatformError) as refused:
        qe.quote(report)
    return refused.value.code


def flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


@pytest.mark.parametrize(
    ("image", "prod_id", "isv_svn"), [(QUOTING_ENCLAVE, 1, 8), (PCE, 1, 13)], ids=["quoting", "pce"]
)
def test_identity_of_the_platforms_own_enclaves(image, prod_id, isv_svn):
    platform = Platform()
    body = Report.parse(platform.load(image).report(bytes(512), bytes(64))).body
    assert (body.isv_prod_id, body.isv_svn, body.mr_signer) == (prod_id, isv_svn, MR_SIGNER)
    assert body.attributes.flags == 0x15
    assert TargetInfo.of(body) == image.target_info


@pytest.mark.parametrize("image", [QUOTING_ENCLAVE, PCE], ids=["quoting", "pce"])
def test_sigstructs_are_signed_and_leave_no_choice(image):
    sigstruct = Sigstruct.parse(image.sigstruct)
    sigstruct.check()
    assert not sigstruct.debug_allowed
    assert sigstruct.enclave_hash == image.mr_enclave


def test_pages_say_that_they_are_simulated():
    assert (QUOTING_ENCLAVE.pages[0].content or b"").startswith(b"SIMULATED quoting enclave")
    assert QUOTING_ENCLAVE.mr_enclave != PCE.mr_enclave


def test_init_announces_what_quotes_then_have(platform):
    told = platform.qe.init()
    quote = platform.quote()
    assert told.target_info == QUOTING_ENCLAVE.target_info.build()
    assert told.quote_size == len(quote)
    assert told.pub_key_id == quote[884:916]


def test_quote_holds_the_report_and_the_header_of_a_real_one(platform):
    quote = Quote.parse(platform.quote(DATA))
    assert isinstance(quote.body, ReportBody)
    assert quote.body.report_data == DATA
    assert quote.body.mr_enclave == APP_MR_ENCLAVE
    assert (quote.header.version, quote.header.qe_svn, quote.header.pce_svn) == (3, 8, 13)
    assert quote.header.qe_vendor_id == INTEL_QE_VENDOR_ID
    assert any(quote.header.user_data[:16])
    assert quote.header.user_data[16:] == bytes(4)


def test_signature_section_is_that_of_a_real_quote(platform):
    raw = platform.quote()
    quote = Quote.parse(raw)
    signature = quote.signature
    report = ReportBody.parse(signature.qe_report)
    binding = hashlib.sha256(signature.attestation_key + AUTH_DATA).digest()
    assert quote.build() == raw
    assert signature.qe_auth_data == bytes(range(32))
    assert report.report_data == binding + bytes(32)
    assert report.attributes.flags == 0x15
    assert signature.certification_data.kind is CertificationType.PCK_CERT_CHAIN
    assert signature.certification_data.data == platform.pck_chain() + b"\0"


def test_quotes_of_one_report_differ_in_their_signature_alone(platform):
    report = platform.app_report(DATA)
    one, other = (platform.qe.quote(report).quote for _ in range(2))
    assert one[:436] + one[500:] == other[:436] + other[500:]


def test_whole_platform_restarted_gives_the_same_but_for_signatures():
    one, other = (Platform(boot=boot * 32) for boot in (b"1", b"2"))
    assert one.qe.init() == other.qe.init()
    first, second = one.quote(DATA), other.quote(DATA)
    assert first[:436] + first[500:] == second[:436] + second[500:]


def test_another_tcb_has_another_attestation_key_and_the_same_qe_id():
    new, old = Platform.ready(), Platform.ready(PlatformTcb.OUT_OF_DATE)
    assert new.qe.init().pub_key_id != old.qe.init().pub_key_id
    assert Quote.parse(new.quote()).header.user_data == Quote.parse(old.quote()).header.user_data


def test_another_cpu_has_another_attestation_key_pck_and_qe_id():
    one, other = Platform.ready(), Platform(fuse=b"g" * 16)
    assert other.qe.init().pub_key_id != one.qe.init().pub_key_id
    quotes = [Quote.parse(each.quote()) for each in (one, other)]
    assert quotes[0].header.user_data != quotes[1].header.user_data
    assert quotes[0].signature.certification_data != quotes[1].signature.certification_data


@pytest.mark.parametrize("bit", [0, 8 * 48 + 1, 8 * 64, 8 * 200, 8 * 320, 8 * 383 + 7, 8 * 416, 8 * 431 + 7], ids=str)
def test_changed_report_is_refused(platform, bit):
    assert refusal_of(platform.qe, flipped(platform.app_report(), bit)) == "quoting.invalid-report"


@pytest.mark.parametrize("bit", [8 * 384, 8 * 415 + 7], ids=["first", "last"])
def test_report_with_another_key_id_is_refused(platform, bit):
    platform.quote()
    assert refusal_of(platform.qe, flipped(platform.app_report(), bit)) == "quoting.invalid-report"


def test_report_of_another_cpu_is_refused(platform):
    assert refusal_of(platform.qe, Platform(fuse=b"g" * 16).app_report()) == "quoting.invalid-report"


def test_report_for_another_target_is_refused(platform):
    report = platform.application().report(PCE.target_info, bytes(64))
    assert refusal_of(platform.qe, report) == "quoting.invalid-report"


def test_report_for_the_quoting_enclave_in_debug_mode_is_refused(platform):
    target = QUOTING_ENCLAVE.target_info
    debug = replace(target.attributes, flags=target.attributes.flags | AttributeFlags.DEBUG)
    report = platform.application().report(replace(target, attributes=debug), bytes(64))
    assert refusal_of(platform.qe, report) == "quoting.invalid-report"


@pytest.mark.parametrize("size", [0, 384, 431, 433])
def test_report_of_another_size_is_refused(platform, size):
    with pytest.raises(FormatError) as refused:
        platform.qe.quote(bytes(size))
    assert refused.value.code == "format.size"


def test_debug_enclaves_get_quotes_that_say_so(platform):
    quote = Quote.parse(platform.quote(debug=True))
    assert isinstance(quote.body, ReportBody)
    assert quote.body.debug


def test_quote_before_init_is_refused():
    platform = Platform()
    assert refusal_of(platform.qe, platform.app_report()) == "quoting.not-initialised"


def test_one_report_key_serves_all_quotes(platform):
    report = platform.app_report()
    platform.qe.quote(report)
    asked = platform.keys_asked
    for _ in range(3):
        platform.qe.quote(report)
    assert platform.keys_asked == asked


def test_made_up_key_ids_displace_nothing(platform):
    report = platform.app_report()
    platform.qe.quote(report)
    for number in range(200):
        refusal_of(platform.qe, report[:384] + number.to_bytes(32, "big") + report[416:])
    asked = platform.keys_asked
    platform.qe.quote(report)
    assert platform.keys_asked == asked


def test_report_keys_are_kept_within_bounds(platform, monkeypatch):
    for number in range(100):
        key_id = number.to_bytes(32, "big")
        monkeypatch.setattr(type(platform.cpu), "report_key_id", key_id)
        platform.quote()
    assert len(platform.qe._mac_keys) == 64


def test_init_does_nothing_anew_while_the_platform_stays_as_it_is(platform):
    loaded = len(platform.loaded)
    told = platform.qe.init()
    assert platform.qe.init() == told
    assert len(platform.loaded) == loaded


def test_init_certifies_anew_after_a_change_of_tcb(platform):
    before = platform.qe.init()
    platform.change(PlatformTcb.OUT_OF_DATE)
    after = platform.qe.init()
    assert after.pub_key_id != before.pub_key_id
    assert after.target_info == before.target_info
    assert [enclave.closed for enclave in platform.loaded] == [True, True, False, False]


def test_report_made_after_a_change_of_tcb_is_quoted_under_the_new_one(platform):
    platform.quote()
    platform.change(PlatformTcb.SW_HARDENING_NEEDED)
    quote = Quote.parse(platform.quote())
    assert isinstance(quote.body, ReportBody)
    assert quote.body.cpu_svn == ReportBody.parse(quote.signature.qe_report).cpu_svn
    assert quote.body.cpu_svn == PlatformTcb.SW_HARDENING_NEEDED.svns.cpu_svn


def test_report_made_before_a_change_of_tcb_is_refused_after_it(platform):
    old = platform.app_report()
    platform.change(PlatformTcb.OUT_OF_DATE)
    platform.qe.init()
    assert refusal_of(platform.qe, old) == "quoting.invalid-report"


def test_changed_report_made_after_a_change_of_tcb_is_refused(platform):
    platform.change(PlatformTcb.OUT_OF_DATE)
    assert refusal_of(platform.qe, flipped(platform.app_report(), 8 * 64)) == "quoting.invalid-report"
    assert platform.quote()


def test_epc_is_charged_for_the_two_enclaves_and_given_back(platform):
    free = platform.cpu.epc.free
    platform.qe.close()
    assert platform.cpu.epc.free - free == 8  # two of three pages and a SECS
    platform.qe.init()
    assert platform.cpu.epc.free == free


def test_lack_of_epc_is_said_and_leaves_nothing_behind():
    platform = Platform()
    platform.cpu.epc.take(platform.cpu.epc.free - 5)
    with pytest.raises(PlatformError) as refused:
        platform.qe.init()
    assert refused.value.code == "simcpu.out-of-epc"
    assert all(enclave.closed for enclave in platform.loaded)
    assert refusal_of(platform.qe, bytes(432)) == "quoting.not-initialised"


def test_certificate_of_another_platform_is_refused():
    platform = Platform()
    platform.pck_chain = Platform(fuse=b"g" * 16).pck_chain  # type: ignore[method-assign]  # as a mixed-up state would
    with pytest.raises(PlatformError) as refused:
        platform.qe.init()
    assert refused.value.code == "quoting.no-certificate"


def info_for(target: TargetInfo, nonce: bytes = b"n" * 16) -> bytes:
    return nonce + target.build() + bytes(432)


def test_qe_report_binds_nonce_and_quote(platform):
    application = platform.application()
    target = TargetInfo.of(Report.parse(application.report(bytes(512), bytes(64))).body)
    result = platform.qe.quote(platform.app_report(), info_for(target))
    assert result.qe_report_info is not None
    assert result.qe_report_info[:528] == info_for(target)[:528]
    report = Report.parse(result.qe_report_info[528:])
    assert report.body.report_data == hashlib.sha256(b"n" * 16 + result.quote).digest() + bytes(32)
    assert report.body.mr_enclave == QUOTING_ENCLAVE.mr_enclave


def test_quote_alone_comes_without_qe_report(platform):
    assert platform.qe.quote(platform.app_report()).qe_report_info is None


def test_impossible_target_gets_no_qe_report(platform):
    with pytest.raises(PlatformError) as refused:
        platform.qe.quote(platform.app_report(), b"\xff" * 960)
    assert refused.value.code == "quoting.qe-report"


def test_qe_report_info_of_another_size_is_refused(platform):
    with pytest.raises(FormatError):
        platform.qe.quote(platform.app_report(), bytes(959))


def test_pck_key_is_what_the_issuer_computes_from_the_provisioning_key():
    platform = Platform()
    pce = platform.load(PCE)
    provisioning_key = pce.key(pck_key_request(PlatformTcb.UP_TO_DATE.svns.cpu_svn))
    assert CertificationEnclave(pce).pck_public_key == pck_private_key(provisioning_key).public_key()


@pytest.mark.parametrize("bit", [0, 8 * 64, 8 * 384, 8 * 416], ids=["cpusvn", "mrenclave", "keyid", "mac"])
def test_pce_refuses_a_changed_report(bit):
    platform = Platform()
    pce, qe = platform.load(PCE), platform.load(QUOTING_ENCLAVE)
    report = qe.report(PCE.target_info, bytes(64))
    with pytest.raises(PlatformError) as refused:
        CertificationEnclave(pce).certify(flipped(report, bit))
    assert refused.value.code == "pce.refused"


def test_pce_refuses_an_enclave_without_provisionkey():
    platform = Platform()
    report = platform.application().report(PCE.target_info, bytes(64))
    with pytest.raises(PlatformError) as refused:
        CertificationEnclave(platform.load(PCE)).certify(report)
    assert refused.value.code == "pce.refused"
    assert "PROVISIONKEY" in str(refused.value)


def test_derived_keys_depend_on_secret_and_purpose():
    keys = [derive_key(secret, purpose) for secret in (b"a" * 16, b"b" * 16) for purpose in ("1", "2")]
    assert len({key.private_numbers().private_value for key in keys}) == 4
