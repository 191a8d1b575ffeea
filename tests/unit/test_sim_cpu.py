# SPDX-License-Identifier: Apache-2.0
"""The SIMULATED CPU: what ECREATE to EINIT refuse and by which code, REPORTs, and an EPC that runs out."""

import hashlib
import json
import struct
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.cmac import CMAC

from kubenclave.platform.simulated.cpu import CpuEnclave, SoftwareCpu
from kubenclave.platform.simulated.faults import CpuError
from kubenclave.platform.simulated.keys import BaseKeys, Fuses
from kubenclave.sgx.attributes import AttributeFlags, Attributes
from kubenclave.sgx.gramine import GramineEnclave
from kubenclave.sgx.keyrequest import KeyName, KeyPolicy, KeyRequest
from kubenclave.sgx.measure import Pages, measure
from kubenclave.sgx.report import Report, TargetInfo
from kubenclave.sgx.secinfo import SecInfo
from kubenclave.wire import simcpu
from kubenclave.wire.simcpu import Code
from tests import simulated_enclaves as made
from tests.simulated_enclaves import ALL, MR_ENCLAVE, MR_SIGNER, PLAIN

FLAGS = AttributeFlags
KSS = Attributes(FLAGS.MODE64BIT | FLAGS.KSS, 3)
DEBUG = Attributes(FLAGS.MODE64BIT | FLAGS.DEBUG, 3)


def refused(code, call, *arguments):
    with pytest.raises(CpuError) as caught:
        call(*arguments)
    assert caught.value.answer is code, caught.value.message
    return caught.value.message


def create(enclave: CpuEnclave, **operands) -> None:
    enclave.create(simcpu.Create(**{"size": made.SIZE, "attributes": PLAIN, **operands}))


@pytest.mark.parametrize(
    "operands",
    [
        pytest.param({"size": 0x1000}, id="one-page"),
        pytest.param({"size": 0x3000}, id="no-power-of-two"),
        pytest.param({"size": 1 << 57}, id="beyond-64-bit-mode"),
        pytest.param({"size": 1 << 32, "attributes": Attributes(0, 3)}, id="beyond-32-bit-mode"),
        pytest.param({"ssa_frame_size": 0}, id="no-ssa-frame"),
        pytest.param({"attributes": Attributes(4, 0x602E7)}, id="ssa-frame-too-small-for-amx"),
        pytest.param({"attributes": Attributes(FLAGS.MODE64BIT | FLAGS.INIT, 3)}, id="init"),
        pytest.param({"attributes": Attributes(FLAGS.MODE64BIT | 8, 3)}, id="reserved-flag"),
        pytest.param({"attributes": Attributes(FLAGS.MODE64BIT | 1 << 63, 3)}, id="undefined-flag"),
        pytest.param({"attributes": Attributes(4, 1)}, id="no-sse"),
        pytest.param({"attributes": Attributes(4, 0x103)}, id="undefined-xfrm"),
        pytest.param({"attributes": Attributes(4, 0xB)}, id="half-of-mpx"),
        pytest.param({"attributes": Attributes(4, 0x27)}, id="part-of-avx512"),
        pytest.param({"attributes": Attributes(4, 0xE3)}, id="avx512-without-avx"),
        pytest.param({"misc_select": 2}, id="misc-select-cpinfo"),
        pytest.param({"misc_select": 4}, id="misc-select-undefined"),
        pytest.param({"cet_attributes": 1}, id="cet-attributes-without-cet"),
        pytest.param({"config_svn": 1}, id="config-svn-without-kss"),
        pytest.param({"config_id": b"c" * 64}, id="config-id-without-kss"),
    ],
)
def test_ecreate_refuses(operands):
    cpu = made.cpu()
    refused(Code.GENERAL_PROTECTION, lambda: create(cpu.enclave(), **operands))
    assert cpu.epc.free == 64


@pytest.mark.parametrize(
    "operands",
    [
        pytest.param({"size": 0x2000}, id="smallest"),
        pytest.param({"size": 1 << 56}, id="largest"),
        pytest.param({"size": 1 << 31, "attributes": Attributes(0, 3)}, id="largest-of-32-bit-mode"),
        pytest.param({"attributes": Attributes(4, 0x2E7)}, id="avx512-and-pkru-in-one-page"),
        pytest.param({"attributes": Attributes(4, 0x602E7), "ssa_frame_size": 3, "misc_select": 1}, id="amx"),
        pytest.param({"attributes": Attributes(FLAGS.MODE64BIT | FLAGS.CET, 3), "cet_attributes": 3}, id="cet"),
        pytest.param({"attributes": KSS, "config_svn": 9, "config_id": b"c" * 64}, id="kss"),
        pytest.param({"attributes": Attributes(FLAGS.MODE64BIT | FLAGS.AEX_NOTIFY, 3)}, id="aex-notify"),
    ],
)
def test_ecreate_takes_one_page(operands):
    cpu = made.cpu()
    enclave = cpu.enclave()
    create(enclave, **operands)
    assert enclave.created
    assert (enclave.held, cpu.epc.free) == (1, 63)


@pytest.mark.parametrize(
    "pages",
    [
        pytest.param(Pages(0x1001, SecInfo(0x201), 1), id="unaligned"),
        pytest.param(Pages(0x4000, SecInfo(0x201), 1), id="beyond-the-end"),
        pytest.param(Pages(0, SecInfo(0x201), 1), id="there-already"),
        pytest.param(Pages(0x2000, SecInfo(0x202), 1), id="w-without-r"),
        pytest.param(Pages(0x2000, SecInfo(0x001), 1), id="secs-page"),
        pytest.param(Pages(0x2000, SecInfo(0x201), 0), id="no-pages"),
    ],
)
def test_eadd_refuses_and_charges_nothing(pages):
    cpu = made.cpu()
    enclave = made.built(cpu)
    refused(Code.GENERAL_PROTECTION, enclave.add, pages)
    assert (enclave.held, cpu.epc.free) == (3, 61)
    enclave.init(made.signed().build())


TCS = SecInfo(0x100)
CET = Attributes(FLAGS.MODE64BIT | FLAGS.CET, 3)


def tcs(*fields: tuple[int, bytes]) -> bytes:
    """Return a TCS with an OSSA, one SSA frame and these fields."""
    page = bytearray(4096)
    for at, value in ((16, (0x1000).to_bytes(8, "little")), (28, b"\1"), *fields):
        page[at : at + len(value)] = value
    return bytes(page)


@pytest.mark.parametrize(
    ("attributes", "at"),
    [
        pytest.param(PLAIN, 72, id="first-reserved"),
        pytest.param(PLAIN, 4095, id="last-reserved"),
        pytest.param(CET, 80, id="behind-ocetssa"),
    ],
)
def test_eadd_refuses_a_tcs_with_reserved_bytes(attributes, at):
    cpu = made.cpu()
    enclave = made.built(cpu, attributes=attributes)
    reason = refused(Code.GENERAL_PROTECTION, enclave.add, Pages(0x2000, TCS, 2, tcs() + tcs((at, b"\1"))))
    assert "TCS at 0x3000" in reason
    assert (enclave.held, cpu.epc.free) == (3, 61)


def test_eadd_takes_an_ocetssa_where_there_is_cet():
    made.built(made.cpu(), attributes=CET).add(Pages(0x2000, TCS, 1, tcs((72, b"\1"))))


@pytest.mark.parametrize(
    ("at", "value"),
    [
        pytest.param(0, b"\xff" * 8, id="state"),
        pytest.param(8, b"\1", id="dbgoptin"),
        pytest.param(24, b"\xff" * 4, id="cssa"),
        pytest.param(40, b"\xff" * 8, id="aep"),
    ],
)
def test_eadd_clears_what_of_a_tcs_is_not_the_loaders_to_say(at, value):
    enclave = made.built(made.cpu())
    enclave.add(Pages(0x2000, TCS, 1, tcs((at, value))))
    clean = measure(made.SIZE, 1, (*made.LOAD, Pages(0x2000, TCS, 1, tcs())))
    enclave.init(made.signed(enclave_hash=clean).build())
    assert enclave.secs is not None
    assert enclave.secs.mr_enclave == clean


def test_what_looks_like_a_tcs_in_another_page_is_content():
    enclave = made.built(made.cpu())
    pages = Pages(0x2000, SecInfo(0x203), 1, b"\xff" * 4096)
    enclave.add(pages)
    enclave.init(made.signed(enclave_hash=measure(made.SIZE, 1, (*made.LOAD, pages))).build())


def test_the_provisioning_key_is_refused_at_einit_without_its_grant():
    cpu = made.cpu()
    attributes = Attributes(FLAGS.MODE64BIT | FLAGS.PROVISION_KEY, 3)
    wanted = simcpu.Create(size=made.SIZE, attributes=attributes)
    signed = made.signed(attributes=attributes).build()
    for may_provision in (False, True):
        enclave = cpu.enclave(may_provision=may_provision)
        enclave.create(wanted)
        for pages in made.LOAD:
            enclave.add(pages)
        if may_provision:
            enclave.init(signed)
            assert enclave.secs is not None
        else:
            assert "provision socket" in refused(Code.INVALID_ATTRIBUTE, enclave.init, signed)
            refused(Code.GENERAL_PROTECTION, enclave.key, KeyRequest(key_name=KeyName.PROVISION).build())


def test_a_grant_of_the_provisioning_key_changes_nothing_for_enclaves_that_do_not_ask():
    enclave = made.cpu().enclave(may_provision=True)
    create(enclave)
    for pages in made.LOAD:
        enclave.add(pages)
    enclave.init(made.signed().build())
    refused(Code.INVALID_ATTRIBUTE, enclave.key, KeyRequest(key_name=KeyName.PROVISION).build())


def test_eextend_is_measured():
    cpu = made.cpu()
    enclave = cpu.enclave()
    create(enclave)
    for pages in made.LOAD:
        enclave.add(Pages(pages.offset, pages.sec_info, 1))
        if pages.content is not None:
            for at in range(0, 4096, 256):
                enclave.extend(at, pages.content[at : at + 256])
    enclave.init(made.signed().build())
    assert enclave.secs is not None
    assert enclave.secs.mr_enclave == MR_ENCLAVE


@pytest.mark.parametrize("offset", [0x1080, 0x2000], ids=["unaligned", "no-page"])
def test_eextend_refuses(offset):
    refused(Code.GENERAL_PROTECTION, made.built(made.cpu()).extend, offset, bytes(256))


def test_nothing_goes_before_ecreate():
    enclave = made.cpu().enclave()
    refused(Code.GENERAL_PROTECTION, enclave.add, made.LOAD[0])
    refused(Code.GENERAL_PROTECTION, enclave.extend, 0, bytes(256))
    refused(Code.GENERAL_PROTECTION, enclave.measured, MR_ENCLAVE, 2)
    refused(Code.GENERAL_PROTECTION, enclave.init, made.signed().build())
    refused(Code.GENERAL_PROTECTION, enclave.report, bytes(512), bytes(64))
    refused(Code.GENERAL_PROTECTION, enclave.key, KeyRequest(key_name=KeyName.SEAL).build())
    assert not enclave.created


def test_reports_and_keys_come_only_after_einit():
    enclave = made.built(made.cpu())
    refused(Code.GENERAL_PROTECTION, enclave.report, bytes(512), bytes(64))
    refused(Code.GENERAL_PROTECTION, enclave.key, KeyRequest(key_name=KeyName.SEAL).build())


def test_nothing_is_built_after_einit():
    enclave = made.running(made.cpu())
    refused(Code.GENERAL_PROTECTION, create, enclave)
    refused(Code.GENERAL_PROTECTION, enclave.add, Pages(0x2000, SecInfo(0x201), 1))
    refused(Code.GENERAL_PROTECTION, enclave.extend, 0, bytes(256))
    refused(Code.GENERAL_PROTECTION, enclave.measured, MR_ENCLAVE, 1)
    refused(Code.GENERAL_PROTECTION, enclave.init, made.signed().build())


def test_one_connection_is_one_enclave():
    refused(Code.GENERAL_PROTECTION, create, made.built(made.cpu()))


def test_a_measurement_stands_in_place_of_pages():
    cpu = made.cpu()
    enclave = cpu.enclave()
    create(enclave)
    enclave.measured(MR_ENCLAVE, 4)
    assert cpu.epc.free == 59
    enclave.init(made.signed().build())
    assert enclave.secs == made.running(cpu).secs


@pytest.mark.parametrize("pages", [5, 0xFFFFFFFF])
def test_a_measurement_of_more_pages_than_fit(pages):
    enclave = made.cpu().enclave()
    create(enclave)
    refused(Code.GENERAL_PROTECTION, enclave.measured, MR_ENCLAVE, pages)


def test_a_measurement_goes_neither_before_nor_after_pages():
    refused(Code.GENERAL_PROTECTION, made.built(made.cpu()).measured, MR_ENCLAVE, 1)
    enclave = made.cpu().enclave()
    create(enclave)
    enclave.measured(MR_ENCLAVE, 1)
    refused(Code.GENERAL_PROTECTION, enclave.measured, MR_ENCLAVE, 1)
    refused(Code.GENERAL_PROTECTION, enclave.add, made.LOAD[0])
    refused(Code.GENERAL_PROTECTION, enclave.extend, 0, bytes(256))


def broken(offset: int, value: bytes = b"\x55") -> bytes:
    good = bytearray(made.signed().build())
    good[offset : offset + len(value)] = value
    return bytes(good)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        pytest.param(broken(0), Code.INVALID_SIG_STRUCT, id="header"),
        pytest.param(broken(16), Code.INVALID_SIG_STRUCT, id="vendor"),
        pytest.param(broken(24), Code.INVALID_SIG_STRUCT, id="header2"),
        pytest.param(broken(512, b"\x01\x00\x01"), Code.INVALID_SIG_STRUCT, id="exponent"),
        pytest.param(broken(44), Code.INVALID_SIG_STRUCT, id="reserved-44"),
        pytest.param(broken(910), Code.INVALID_SIG_STRUCT, id="reserved-910"),
        pytest.param(broken(992), Code.INVALID_SIG_STRUCT, id="reserved-992"),
        pytest.param(broken(1028), Code.INVALID_SIG_STRUCT, id="reserved-1028"),
        pytest.param(broken(20), Code.INVALID_SIGNATURE, id="date"),
        pytest.param(broken(200), Code.INVALID_SIGNATURE, id="modulus"),
        pytest.param(broken(600), Code.INVALID_SIGNATURE, id="signature"),
        pytest.param(broken(960), Code.INVALID_SIGNATURE, id="enclave-hash"),
        pytest.param(broken(1100), Code.INVALID_SIGNATURE, id="q1"),
        pytest.param(broken(1500), Code.INVALID_SIGNATURE, id="q2"),
    ],
)
def test_einit_refuses_a_sigstruct(data, code):
    enclave = made.built(made.cpu())
    refused(code, enclave.init, data)
    enclave.init(made.signed().build())  # and it can still be initialised


@pytest.mark.parametrize("vendor", [0, 0x8086])
def test_einit_accepts_both_vendors(vendor):
    made.running(made.cpu(), vendor=vendor)


@pytest.mark.parametrize("name", ["isv_family_id", "isv_ext_prod_id"])
def test_einit_wants_kss_for_kss_fields(name):
    refused(
        Code.INVALID_SIG_STRUCT,
        made.built(made.cpu()).init,
        made.signed(attribute_mask=Attributes(0, 0), **{name: b"i" * 16}).build(),
    )
    with_kss: dict[str, Any] = {"attributes": KSS, name: b"i" * 16}
    secs = made.running(made.cpu(), **with_kss).secs
    assert getattr(secs, name) == b"i" * 16


def test_einit_refuses_another_measurement():
    wrong = made.signed(enclave_hash=bytes(32)).build()
    reason = refused(Code.INVALID_MEASUREMENT, made.built(made.cpu()).init, wrong)
    assert MR_ENCLAVE.hex() in reason


ATTRIBUTE_CASES = {
    "debug-of-the-loader": ({"attributes": DEBUG}, {}),
    "debug-of-the-signer": ({}, {"attributes": DEBUG}),
    "xfrm-of-the-loader": ({"attributes": Attributes(4, 7)}, {}),
    "misc-select": ({"misc_select": 1}, {}),
    "cet-attributes": (
        {"attributes": Attributes(FLAGS.MODE64BIT | FLAGS.CET, 3), "cet_attributes": 2},
        {"attributes": Attributes(FLAGS.MODE64BIT | FLAGS.CET, 3)},
    ),
}


@pytest.mark.parametrize(("created", "terms"), ATTRIBUTE_CASES.values(), ids=ATTRIBUTE_CASES.keys())
def test_einit_refuses_attributes_that_were_not_signed(created, terms):
    refused(Code.INVALID_ATTRIBUTE, made.built(made.cpu(), **created).init, made.signed(**terms).build())


@pytest.mark.parametrize(("created", "terms"), ATTRIBUTE_CASES.values(), ids=ATTRIBUTE_CASES.keys())
def test_einit_looks_only_under_the_masks(created, terms):
    masks = {"attribute_mask": Attributes(0, 0), "misc_mask": 0, "cet_attributes_mask": 0}
    enclave = made.built(made.cpu(), **created)
    enclave.init(made.signed(**terms, **masks).build())
    assert enclave.secs is not None
    assert enclave.secs.attributes.flags == created.get("attributes", PLAIN).flags | FLAGS.INIT


def test_bits_of_the_signer_outside_the_mask_do_not_matter():
    made.built(made.cpu()).init(made.signed(attributes=DEBUG, attribute_mask=Attributes(ALL & ~2, ALL)).build())


def test_launch_control_that_is_locked_to_another_signer():
    cpu = made.cpu(launch_signer=b"L" * 32)
    refused(Code.INVALID_EINITTOKEN, made.built(cpu).init, made.signed().build())
    launcher = Attributes(FLAGS.MODE64BIT | FLAGS.EINITTOKEN_KEY, 3)
    enclave = made.built(cpu, attributes=launcher)
    refused(Code.INVALID_ATTRIBUTE, enclave.init, made.signed(attributes=launcher).build())


def test_launch_control_that_is_locked_to_this_signer():
    launcher = Attributes(FLAGS.MODE64BIT | FLAGS.EINITTOKEN_KEY, 3)
    made.running(made.cpu(launch_signer=MR_SIGNER), attributes=launcher)


def test_checks_of_einit_in_their_order():
    """Each SIGSTRUCT has this fault and all later ones; it is refused for this one."""
    cpu = made.cpu(launch_signer=b"L" * 32)
    launcher = Attributes(FLAGS.MODE64BIT | FLAGS.EINITTOKEN_KEY, 3)
    enclave = made.built(cpu, attributes=launcher)
    wrong = {"enclave_hash": bytes(32), "isv_family_id": b"f" * 16, "attributes": DEBUG}
    all_wrong = bytearray(made.signed(**wrong).build())
    all_wrong[600] ^= 1
    malformed = bytes([*all_wrong[:44], 1, *all_wrong[45:]])
    refused(Code.INVALID_SIG_STRUCT, enclave.init, malformed)
    refused(Code.INVALID_SIGNATURE, enclave.init, bytes(all_wrong))
    refused(Code.INVALID_SIG_STRUCT, enclave.init, made.signed(**wrong).build())
    refused(Code.INVALID_MEASUREMENT, enclave.init, made.signed(**{**wrong, "isv_family_id": bytes(16)}).build())
    reason = refused(Code.INVALID_ATTRIBUTE, enclave.init, made.signed(attributes=DEBUG).build())
    assert "launch-control" in reason
    plain = made.built(cpu)
    refused(Code.INVALID_ATTRIBUTE, plain.init, made.signed(attributes=DEBUG).build())
    refused(Code.INVALID_EINITTOKEN, plain.init, made.signed().build())


def by_hand(fuses: Fuses, target: bytes, key_id: bytes, cpu_svn: bytes) -> bytes:
    """Return the report key of a target, from offsets and without the code under test but for the base key."""
    base = BaseKeys.from_fuses(fuses)
    structure = bytearray(192)
    struct.pack_into("<H", structure, 0, 3)
    structure[4] = target[48]
    structure[8:24] = target[32:48]
    structure[24:28] = target[52:56]
    structure[28:44] = fuses.owner_epoch
    structure[44:76] = target[:32]
    structure[76:92] = cpu_svn
    structure[92:94] = target[50:52]
    structure[94:158] = target[64:128]
    structure[158:190] = key_id
    mac = CMAC(AES(base.report))
    mac.update(bytes(structure))
    return mac.finalize()


def test_ereport_byte_for_byte():
    cpu = made.cpu()
    attributes = Attributes(FLAGS.MODE64BIT | FLAGS.KSS | FLAGS.CET, 7)
    config = {"config_svn": 0x0304, "config_id": b"c" * 64}
    enclave = made.running(
        cpu,
        create=config,
        attributes=attributes,
        misc_select=1,
        cet_attributes=2,
        isv_prod_id=0x0506,
        isv_svn=0x0708,
        isv_family_id=b"f" * 16,
        isv_ext_prod_id=b"x" * 16,
    )
    target = TargetInfo(
        mr_enclave=b"t" * 32,
        attributes=Attributes(0x15, 0x1F),
        cet_attributes=5,
        config_svn=6,
        misc_select=1,
        config_id=b"d" * 64,
    ).build()
    data = bytes(range(64))
    report = enclave.report(target, data)
    wanted = bytearray(384)
    wanted[0:16] = made.CPU_SVN
    wanted[16] = 1
    wanted[20] = 2
    wanted[32:48] = b"x" * 16
    struct.pack_into("<QQ", wanted, 48, 0xC5, 7)
    wanted[64:96] = MR_ENCLAVE
    wanted[128:160] = hashlib.sha256(made.signed().modulus).digest()
    wanted[192:256] = b"c" * 64
    struct.pack_into("<HHH", wanted, 256, 0x0506, 0x0708, 0x0304)
    wanted[304:320] = b"f" * 16
    wanted[320:384] = data
    assert report[:384] == bytes(wanted)
    mac = CMAC(AES(by_hand(made.FUSES, target, report[384:416], made.CPU_SVN)))
    mac.update(report[:384])
    mac.verify(report[416:])


def test_the_target_alone_can_check_a_report():
    cpu = made.cpu()
    target, other = made.running(cpu), made.running(cpu, attributes=DEBUG)
    assert target.secs is not None
    named = TargetInfo(mr_enclave=MR_ENCLAVE, attributes=target.secs.attributes)
    report = Report.parse(made.running(cpu, isv_svn=3).report(named.build(), bytes(64)))
    request = KeyRequest(key_name=KeyName.REPORT, key_id=report.key_id).build()
    mac = CMAC(AES(target.key(request)))
    mac.update(report.body.build())
    mac.verify(report.mac)
    assert other.key(request) != target.key(request)


def test_reports_of_another_cpu_do_not_fit():
    named = TargetInfo(mr_enclave=MR_ENCLAVE, attributes=Attributes(5, 3)).build()
    here, there = made.cpu(), made.cpu(fuses=replace(made.FUSES, seal=b"s" * 16))
    one, two = (made.running(cpu).report(named, bytes(64)) for cpu in (here, there))
    assert one[:416] == two[:416]
    assert one[416:] != two[416:]


@pytest.mark.parametrize("offset", [49, 56, 128, 511])
def test_ereport_wants_reserved_bytes_zero(offset):
    target = bytearray(512)
    target[offset] = 1
    refused(Code.GENERAL_PROTECTION, made.running(made.cpu()).report, bytes(target), bytes(64))


@pytest.mark.parametrize("offset", [7, 78, 511])
def test_egetkey_wants_reserved_bytes_zero(offset):
    request = bytearray(KeyRequest(key_name=KeyName.SEAL).build())
    request[offset] = 1
    refused(Code.GENERAL_PROTECTION, made.running(made.cpu()).key, bytes(request))


def test_a_debug_enclave_of_the_same_measurement_has_other_keys():
    cpu = made.cpu()
    production, debug = made.running(cpu), made.running(cpu, attributes=DEBUG)
    assert production.secs is not None
    assert debug.secs is not None
    assert production.secs.mr_enclave == debug.secs.mr_enclave
    request = KeyRequest(key_name=KeyName.SEAL, key_policy=KeyPolicy.MRENCLAVE).build()
    assert production.key(request) != debug.key(request)


def test_keys_survive_a_restart_and_report_key_ids_do_not():
    def boot(random: bytes) -> SoftwareCpu:
        return SoftwareCpu(BaseKeys.from_fuses(made.FUSES), epc=[1 << 20], cpu_svn=made.CPU_SVN, boot=random)

    request = KeyRequest(key_name=KeyName.SEAL, key_policy=KeyPolicy.MRSIGNER).build()
    first, second = made.running(boot(b"1" * 32)), made.running(boot(b"2" * 32))
    assert first.key(request) == second.key(request)
    assert first.report(bytes(512), bytes(64))[384:416] != second.report(bytes(512), bytes(64))[384:416]


def test_a_changed_cpu_svn_counts_at_once():
    cpu = made.cpu()
    enclave = made.running(cpu)
    before = enclave.report(bytes(512), bytes(64))
    request = KeyRequest(key_name=KeyName.SEAL, cpu_svn=made.CPU_SVN).build()
    enclave.key(request)
    cpu.cpu_svn = bytes([4, *made.CPU_SVN[1:]])
    after = enclave.report(bytes(512), bytes(64))
    assert after[:16] == cpu.cpu_svn
    assert after[384:416] != before[384:416]
    refused(Code.INVALID_CPUSVN, enclave.key, request)


def test_epc_runs_out_and_comes_back():
    cpu = made.cpu(pages=7)
    first = made.running(cpu)
    second = made.running(cpu)
    third = cpu.enclave()
    create(third)
    reason = refused(Code.OUT_OF_EPC, third.add, made.LOAD[0])
    assert reason == "asked 1 pages, free 0 of 7"
    refused(Code.OUT_OF_EPC, create, cpu.enclave())
    first.end()
    assert cpu.epc.free == 3
    third.add(made.LOAD[0])
    for enclave in (second, third, first):
        enclave.end()
    assert cpu.epc.free == 7


def test_a_measurement_takes_epc_too():
    cpu = made.cpu(pages=4)
    enclave = cpu.enclave()
    create(enclave)
    refused(Code.OUT_OF_EPC, enclave.measured, MR_ENCLAVE, 4)
    enclave.measured(MR_ENCLAVE, 3)
    assert cpu.status() == simcpu.CpuStatus(4 * 4096, 0, made.CPU_SVN)


def test_an_ended_enclave_does_nothing():
    cpu = made.cpu()
    enclave = made.running(cpu)
    enclave.end()
    refused(Code.GENERAL_PROTECTION, enclave.report, bytes(512), bytes(64))
    refused(Code.GENERAL_PROTECTION, create, enclave)
    assert not enclave.created
    assert cpu.epc.free == cpu.epc.pages


@pytest.mark.parametrize("vector", ["minimal", "segments-debug", "trusted-tree", "page-boundary-4096"])
def test_enclaves_of_gramine_with_their_own_sigstruct(shared_data, vector):
    folder = shared_data / "enclaves/gramine"
    pal = json.loads((folder / vector / "expected.json").read_text(encoding="utf-8"))["pal"]
    gramine = GramineEnclave.parse((folder / vector / "app.manifest.sgx").read_bytes(), (folder / pal).read_bytes())
    cpu = made.cpu(pages=1 << 17)
    enclave = cpu.enclave()
    template = gramine.sigstruct()
    create(
        enclave,
        size=gramine.size,
        ssa_frame_size=4,
        attributes=template.attributes,
        misc_select=template.misc_select,
    )
    for area in gramine.areas:
        enclave.add(area.pages)
    enclave.init((folder / vector / "app.sig").read_bytes())
    assert enclave.held == gramine.pages + 1
