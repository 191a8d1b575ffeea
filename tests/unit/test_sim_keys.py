# SPDX-License-Identifier: Apache-2.0
"""EGETKEY of the SIMULATED CPU: known answers, what goes into each key, and every refusal."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from kubenclave.platform.simulated.faults import CpuError
from kubenclave.platform.simulated.keys import BaseKeys, Fuses, Secs, cmac, get_key, report_key
from kubenclave.sgx.attributes import AttributeFlags, Attributes
from kubenclave.sgx.keyrequest import KeyName, KeyPolicy, KeyRequest
from kubenclave.sgx.report import TargetInfo
from kubenclave.wire.simcpu import Code

SDK_KEYS = BaseKeys(
    einittoken=bytes.fromhex("aa55" * 8),
    provision=bytes.fromhex("bbaabbeeff0000dd" * 2),
    provision_seal=b"PROVISIONSEALKEY",
    report=bytes.fromhex("ff00" * 8),
    seal=bytes.fromhex("00112233445566778899aabbccddeeff"),
    owner_epoch=b"THISISOWNEREPOCH",
)
FUSES = Fuses(b"P" * 16, b"S" * 16, b"E" * 16)
BASE = BaseKeys.from_fuses(FUSES)
CPU_SVN = bytes([5, 4, 3, *[0] * 13])
FLAGS = AttributeFlags
ALL_KEYS = FLAGS.INIT | FLAGS.MODE64BIT | FLAGS.PROVISION_KEY | FLAGS.EINITTOKEN_KEY | FLAGS.KSS | FLAGS.CET

SECS = Secs(
    attributes=Attributes(ALL_KEYS, 0x7),
    misc_select=1,
    cet_attributes=0x3,
    mr_enclave=b"e" * 32,
    mr_signer=b"s" * 32,
    isv_prod_id=7,
    isv_svn=9,
    config_id=b"c" * 64,
    config_svn=4,
    isv_family_id=b"f" * 16,
    isv_ext_prod_id=b"x" * 16,
)
ASKED = {
    "isv_svn": 8,
    "cpu_svn": CPU_SVN,
    "attribute_mask": Attributes(FLAGS.MODE64BIT, 0x3),
    "misc_mask": 0x1,
    "cet_attributes_mask": 0x1,
    "key_id": b"k" * 32,
    "config_svn": 3,
}
ALL_POLICY = sum(KeyPolicy) & ~KeyPolicy.NOISVPRODID
NAMES = pytest.mark.parametrize("name", list(KeyName), ids=[each.name.lower() for each in KeyName])


def key(name: KeyName, *, policy: int = ALL_POLICY, secs: Secs = SECS, base: BaseKeys = BASE, **asked: object) -> bytes:
    request = KeyRequest(**{"key_name": name, "key_policy": policy, **ASKED, **asked})  # type: ignore[arg-type]
    return get_key(base, secs, request, CPU_SVN)


def secs_of(vector: dict[str, object]) -> Secs:
    def raw(name: str) -> bytes:
        return bytes.fromhex(str(vector[name]))

    attributes = Attributes(int(str(vector["attributes_flags"]), 16), int(str(vector["attributes_xfrm"]), 16))
    return Secs(
        attributes=attributes,
        misc_select=int(str(vector["miscselect"])),
        mr_enclave=raw("mrenclave"),
        mr_signer=raw("mrsigner"),
        isv_prod_id=int(str(vector["isvprodid"])),
        isv_svn=int(str(vector["isvsvn"])),
        config_id=raw("configid"),
        config_svn=int(str(vector["configsvn"])),
        isv_family_id=raw("isvfamilyid"),
        isv_ext_prod_id=raw("isvextprodid"),
    )


def test_cmac_is_that_of_rfc_4493():
    secret = bytes.fromhex("2b7e151628aed2a6abf7158809cf4f3c")
    assert cmac(secret, b"").hex() == "bb1d6929e95937287fa37d129b756746"
    assert cmac(secret, bytes.fromhex("6bc1bee22e409f96e93d7e117393172a")).hex() == "070a16b46b4d4144f79bdd9dd04a287c"


def test_keys_of_the_sdk_simulation(shared_data: Path):
    document = json.loads((shared_data / "enclaves/simulator/sdk-simulation-keys.json").read_text(encoding="utf-8"))
    cpu_svn = bytes.fromhex(document["cpusvn"])
    assert document["keys"]
    for vector in document["keys"]:
        request = KeyRequest.parse(bytes.fromhex(vector["keyrequest"]))
        if not any(request.cpu_svn):  # the SDK's simulation takes zero for the default
            request = replace(request, cpu_svn=cpu_svn)
        found = get_key(SDK_KEYS, secs_of(vector["secs"]), request, cpu_svn)
        assert found.hex() == vector["key"], vector["name"]


def test_reports_of_the_sdk_simulation(shared_data: Path):
    document = json.loads((shared_data / "enclaves/simulator/sdk-simulation-keys.json").read_text(encoding="utf-8"))
    cpu_svn = bytes.fromhex(document["cpusvn"])
    assert document["reports"]
    for vector in document["reports"]:
        report = bytes.fromhex(vector["report"])
        target = TargetInfo.parse(bytes.fromhex(vector["targetinfo"]))
        found = report_key(SDK_KEYS, target, report[384:416], cpu_svn)
        assert found.hex() == vector["report_key"], vector["name"]
        assert cmac(found, report[:384]) == report[416:], vector["name"]


# Enclaves.md 1.7: which keys change when an input does. E P S R L: EINITTOKEN, PROVISION, PROVISION_SEAL, REPORT, SEAL.
LETTERS = dict(zip("EPSRL", KeyName, strict=True))
DIFFERENT_SECS = {
    "attribute-under-the-mask": ("EPSRL", {"attributes": Attributes(ALL_KEYS & ~FLAGS.MODE64BIT, 0x7)}),
    "attribute-outside-the-mask": ("R", {"attributes": Attributes(ALL_KEYS & ~FLAGS.CET, 0x7)}),
    "debug-under-no-mask": ("EPSRL", {"attributes": Attributes(ALL_KEYS | FLAGS.DEBUG, 0x7)}),
    "xfrm-under-the-mask": ("EPSRL", {"attributes": Attributes(ALL_KEYS, 0x5)}),
    "xfrm-outside-the-mask": ("R", {"attributes": Attributes(ALL_KEYS, 0x3)}),
    "misc-select": ("EPSRL", {"misc_select": 0}),
    "cet-under-the-mask": ("EPSRL", {"cet_attributes": 0x2}),
    "cet-outside-the-mask": ("R", {"cet_attributes": 0x1}),
    "isv-svn": ("", {"isv_svn": 10}),
    "isv-prod-id": ("EPSL", {"isv_prod_id": 8}),
    "mr-enclave": ("RL", {"mr_enclave": b"E" * 32}),
    "mr-signer": ("EPSL", {"mr_signer": b"S" * 32}),
    "config-id": ("SRL", {"config_id": b"C" * 64}),
    "config-svn": ("R", {"config_svn": 5}),
    "family": ("SL", {"isv_family_id": b"F" * 16}),
    "ext-prod-id": ("SL", {"isv_ext_prod_id": b"X" * 16}),
}
DIFFERENT_REQUEST = {
    "attribute-mask-that-selects-nothing-more": ("PSL", {"attribute_mask": Attributes(FLAGS.MODE64BIT | 0x8, 0x3)}),
    "misc-mask-that-selects-nothing-more": ("PSL", {"misc_mask": 0x3}),
    "cet-mask-that-selects-nothing-more": ("PSL", {"cet_attributes_mask": 0x5}),
    "cpu-svn": ("EPSL", {"cpu_svn": bytes(16)}),
    "isv-svn": ("EPSL", {"isv_svn": 0}),
    "config-svn": ("SL", {"config_svn": 2}),
    "key-id": ("ERL", {"key_id": b"K" * 32}),
    "policy-mr-enclave": ("SL", {"policy": ALL_POLICY & ~KeyPolicy.MRENCLAVE}),
    "policy-mr-signer": ("SL", {"policy": ALL_POLICY & ~KeyPolicy.MRSIGNER}),
    "policy-no-isv-prod-id": ("SL", {"policy": ALL_POLICY | KeyPolicy.NOISVPRODID}),
    "policy-config-id": ("SL", {"policy": ALL_POLICY & ~KeyPolicy.CONFIGID}),
    "policy-family": ("SL", {"policy": ALL_POLICY & ~KeyPolicy.ISVFAMILYID}),
    "policy-ext-prod-id": ("SL", {"policy": ALL_POLICY & ~KeyPolicy.ISVEXTPRODID}),
}


@pytest.mark.parametrize(("letters", "change"), DIFFERENT_SECS.values(), ids=DIFFERENT_SECS.keys())
def test_what_of_the_enclave_goes_into_which_key(letters, change):
    changed = "".join(
        letter for letter, name in LETTERS.items() if key(name) != key(name, secs=replace(SECS, **change))
    )
    assert changed == letters


@pytest.mark.parametrize(("letters", "change"), DIFFERENT_REQUEST.values(), ids=DIFFERENT_REQUEST.keys())
def test_what_of_the_request_goes_into_which_key(letters, change):
    changed = "".join(letter for letter, name in LETTERS.items() if key(name) != key(name, **change))
    assert changed == letters


@pytest.mark.parametrize(
    ("letters", "fuses"),
    [
        ("EPSRL", replace(FUSES, provisioning=b"p" * 16)),
        ("ESRL", replace(FUSES, seal=b"s" * 16)),
        ("ERL", replace(FUSES, owner_epoch=b"e" * 16)),
    ],
    ids=["provisioning", "seal", "owner-epoch"],
)
def test_which_fuses_go_into_which_key(letters, fuses):
    base = BaseKeys.from_fuses(fuses)
    assert "".join(letter for letter, name in LETTERS.items() if key(name) != key(name, base=base)) == letters


@pytest.mark.parametrize(
    ("policy", "member", "value"),
    [
        (KeyPolicy.MRENCLAVE, "mr_enclave", b"E" * 32),
        (KeyPolicy.MRSIGNER, "mr_signer", b"S" * 32),
        (KeyPolicy.CONFIGID, "config_id", b"C" * 64),
        (KeyPolicy.ISVFAMILYID, "isv_family_id", b"F" * 16),
        (KeyPolicy.ISVEXTPRODID, "isv_ext_prod_id", b"X" * 16),
    ],
    ids=["mr-enclave", "mr-signer", "config-id", "family", "ext-prod-id"],
)
def test_a_sealing_key_without_a_policy_bit_is_shared(policy, member, value):
    other = replace(SECS, **{member: value})
    assert key(KeyName.SEAL, policy=policy) != key(KeyName.SEAL, policy=policy, secs=other)
    assert key(KeyName.SEAL, policy=0) == key(KeyName.SEAL, policy=0, secs=other)


def test_a_sealing_key_without_product_id_is_shared_by_products():
    other = replace(SECS, isv_prod_id=8)
    assert key(KeyName.SEAL, policy=KeyPolicy.NOISVPRODID) == key(
        KeyName.SEAL, policy=KeyPolicy.NOISVPRODID, secs=other
    )


def test_config_svn_counts_only_with_config_id():
    assert key(KeyName.SEAL, policy=0, config_svn=0) == key(KeyName.SEAL, policy=0, config_svn=4)


def test_no_two_names_give_the_same_key():
    assert len({key(name) for name in KeyName}) == len(KeyName)


@NAMES
def test_a_debug_enclave_never_gets_a_production_key(name):
    debug = replace(SECS, attributes=Attributes(ALL_KEYS | FLAGS.DEBUG, 0x7))
    for mask in (Attributes(0, 0), Attributes(~int(FLAGS.DEBUG) & (1 << 64) - 1, (1 << 64) - 1)):
        assert key(name, attribute_mask=mask) != key(name, attribute_mask=mask, secs=debug)


def test_a_report_key_is_that_of_the_target():
    target = TargetInfo(
        mr_enclave=SECS.mr_enclave,
        attributes=SECS.attributes,
        cet_attributes=SECS.cet_attributes,
        config_svn=SECS.config_svn,
        misc_select=SECS.misc_select,
        config_id=SECS.config_id,
    )
    assert report_key(BASE, target, b"k" * 32, CPU_SVN) == key(KeyName.REPORT)
    assert report_key(BASE, target, b"k" * 32, bytes(16)) != key(KeyName.REPORT)


def refusal(secs: Secs = SECS, **asked: object) -> tuple[Code, str]:
    request = KeyRequest(**{"key_name": KeyName.SEAL, **ASKED, **asked})  # type: ignore[arg-type]
    with pytest.raises(CpuError) as caught:
        get_key(BASE, secs, request, CPU_SVN)
    return caught.value.answer, caught.value.code


WITHOUT_KSS = replace(SECS, attributes=Attributes(ALL_KEYS & ~FLAGS.KSS, 0x7))


@pytest.mark.parametrize("name", [5, 6, 0xFFFF])
def test_a_key_that_nobody_defined(name):
    assert refusal(key_name=name) == (Code.INVALID_KEYNAME, "simcpu.invalid-keyname")


@pytest.mark.parametrize("bit", [0x40, 0x8000])
def test_policy_bits_that_nobody_defined(bit):
    assert refusal(key_policy=bit)[0] is Code.GENERAL_PROTECTION


@pytest.mark.parametrize("policy", [0x04, 0x08, 0x10, 0x20])
def test_policies_that_need_kss(policy):
    assert refusal(WITHOUT_KSS, key_policy=policy, config_svn=0)[0] is Code.GENERAL_PROTECTION


def test_config_svn_needs_kss():
    assert refusal(WITHOUT_KSS, config_svn=1)[0] is Code.GENERAL_PROTECTION


@pytest.mark.parametrize("policy", [0, 1, 2, 3])
def test_policies_that_need_no_kss(policy):
    assert len(key(KeyName.SEAL, policy=policy, secs=WITHOUT_KSS, config_svn=0)) == 16


def test_malformed_policies_are_refused_before_unknown_names():
    assert refusal(key_name=99, key_policy=0x40)[0] is Code.GENERAL_PROTECTION


@pytest.mark.parametrize(
    ("name", "missing"),
    [
        (KeyName.PROVISION, FLAGS.PROVISION_KEY),
        (KeyName.PROVISION_SEAL, FLAGS.PROVISION_KEY),
        (KeyName.EINITTOKEN, FLAGS.EINITTOKEN_KEY),
    ],
    ids=["provision", "provision-seal", "einittoken"],
)
def test_keys_that_need_an_attribute(name, missing):
    without = replace(SECS, attributes=Attributes(ALL_KEYS & ~missing, 0x7))
    assert refusal(without, key_name=name) == (Code.INVALID_ATTRIBUTE, "simcpu.invalid-attribute")


@pytest.mark.parametrize("name", [each for each in KeyName if each is not KeyName.REPORT], ids=lambda name: name.name)
@pytest.mark.parametrize(
    ("asked", "code"),
    [
        ({"cpu_svn": bytes([6, *[0] * 15])}, Code.INVALID_CPUSVN),
        ({"cpu_svn": bytes([0] * 15 + [1])}, Code.INVALID_CPUSVN),
        ({"isv_svn": 10}, Code.INVALID_ISVSVN),
        ({"config_svn": 5}, Code.INVALID_ISVSVN),
    ],
    ids=["cpu-svn", "last-component", "isv-svn", "config-svn"],
)
def test_svns_beyond_the_present_ones(name, asked, code):
    assert refusal(key_name=name, **asked)[0] is code


def test_a_report_key_needs_no_svns():
    assert key(KeyName.REPORT) == key(KeyName.REPORT, cpu_svn=b"\xff" * 16, isv_svn=0xFFFF)


def test_secrets_are_not_shown():
    for secret in (FUSES, BASE):
        assert "P" * 8 not in repr(secret).replace("PROVISION", "")
        assert repr(secret) == f"{type(secret).__name__}()"
