# SPDX-License-Identifier: Apache-2.0
"""The SGX extension of a PCK certificate, by itself: each rule of the specification, and strict DER."""

import pytest

from kubenclave.dcap.pckext import PckCa, PckExtension, SgxType
from kubenclave.errors import FormatError
from kubenclave.platform.simulated.der import boolean, integer, octets, sequence_of_entries
from kubenclave.platform.simulated.pki import sgx_entries, sgx_extension
from kubenclave.platform.simulated.tcb import PlatformTcb
from vectors.scene import extension

ARC = bytes.fromhex("2a864886f84d010d01")
PLATFORM = extension(PlatformTcb.UP_TO_DATE.svns, PckCa.PLATFORM)
PROCESSOR = extension(PlatformTcb.UP_TO_DATE.svns, PckCa.PROCESSOR)
ENTRIES = sgx_entries(PLATFORM)
TCB = {
    **{number: integer(svn) for number, svn in enumerate(PLATFORM.components, 1)},
    17: integer(PLATFORM.pce_svn),
    18: octets(PLATFORM.cpu_svn),
}


def with_tcb(**changes: bytes) -> bytes:
    tcb = TCB | {int(number[1:]): value for number, value in changes.items()}
    return sgx_extension({**ENTRIES, 2: sequence_of_entries(ARC + b"\x02", tcb)})


def test_a_leaf_of_the_platform_ca():
    assert PckExtension.parse(sgx_extension(ENTRIES), PckCa.PLATFORM) == PLATFORM


def test_a_leaf_of_the_processor_ca():
    parsed = PckExtension.parse(sgx_extension(sgx_entries(PROCESSOR)), PckCa.PROCESSOR)
    assert parsed == PROCESSOR
    assert (parsed.platform_instance_id, parsed.dynamic_platform, parsed.smt_enabled) == (None, None, None)


@pytest.mark.parametrize("kind", list(SgxType), ids=lambda kind: kind.name)
def test_each_sgx_type(kind):
    der = sgx_extension({**ENTRIES, 5: bytes([0x0A, 1, kind])})
    assert PckExtension.parse(der, PckCa.PLATFORM).sgx_type is kind


@pytest.mark.parametrize("svn", [0, 1, 127, 128, 255])
def test_component_svns_of_one_byte(svn):
    assert PckExtension.parse(with_tcb(_3=integer(svn)), PckCa.PLATFORM).components[2] == svn


@pytest.mark.parametrize("svn", [0, 127, 128, 255, 256, 32767, 32768, 65535])
def test_pce_svns_of_two_bytes(svn):
    assert PckExtension.parse(with_tcb(_17=integer(svn)), PckCa.PLATFORM).pce_svn == svn


def test_the_order_of_entries_does_not_matter():
    entries = dict(reversed(ENTRIES.items()))
    entries[2] = sequence_of_entries(ARC + b"\x02", dict(reversed(TCB.items())))
    assert PckExtension.parse(sgx_extension(entries), PckCa.PLATFORM) == PLATFORM


@pytest.mark.parametrize("flags", [(True, False, False), (False, True, False), (False, False, True)], ids=str)
def test_each_flag_of_the_configuration(flags):
    configuration = sequence_of_entries(ARC + b"\x07", {n: boolean(flag) for n, flag in enumerate(flags, 1)})
    parsed = PckExtension.parse(sgx_extension({**ENTRIES, 7: configuration}), PckCa.PLATFORM)
    assert (parsed.dynamic_platform, parsed.cached_keys, parsed.smt_enabled) == flags


def element(tag: int, content: bytes) -> bytes:
    return bytes([tag, len(content)]) + content


@pytest.mark.parametrize(
    "der",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"\x30", id="tag-only"),
        pytest.param(b"\x30\x00", id="no-entries"),
        pytest.param(b"\x30\x80\x00\x00", id="indefinite-length"),
        pytest.param(b"\x30\x81\x01\x00", id="length-in-two-octets-for-less"),
        pytest.param(b"\x30\x82\x00\x01\x00", id="length-in-three-octets-for-less"),
        pytest.param(b"\x30\x83\x00\x00\x01\x00", id="length-in-four-octets"),
        pytest.param(b"\x30\x84\xff\xff\xff\xff", id="huge-length"),
        pytest.param(b"\x30\x82\xff\xff", id="length-beyond-the-end"),
        pytest.param(sgx_extension(ENTRIES) * 2, id="two-structures"),
        pytest.param(b"\x31" + sgx_extension(ENTRIES)[1:], id="set"),
        pytest.param(element(0x30, b"\x02\x01\x00"), id="entry-no-sequence"),
        pytest.param(element(0x30, element(0x30, b"")), id="entry-empty"),
        pytest.param(element(0x30, element(0x30, b"\x06\x00\x05\x00")), id="oid-empty"),
        pytest.param(element(0x30, element(0x30, b"\x02\x01\x00\x05\x00")), id="oid-an-integer"),
        pytest.param(element(0x30, element(0x30, b"\x06\x01\x2a")), id="entry-without-value"),
        pytest.param(element(0x30, element(0x30, b"\x06\x01\x2a\x05\x00\x05\x00")), id="entry-of-three"),
        pytest.param(sgx_extension({**ENTRIES, 1: b"\x04\x10" + bytes(15)}), id="value-beyond-its-entry"),
        pytest.param(sgx_extension({**ENTRIES, 0: octets(b"")}), id="entry-0"),
        pytest.param(sgx_extension({**ENTRIES, 2: octets(bytes(16))}), id="tcb-no-sequence"),
        pytest.param(sgx_extension({**ENTRIES, 7: octets(bytes(16))}), id="configuration-no-sequence"),
        pytest.param(sgx_extension({**ENTRIES, 5: integer(1)}), id="sgx-type-an-integer"),
        pytest.param(sgx_extension({**ENTRIES, 5: b"\x0a\x02\x00\x01"}), id="sgx-type-of-two-octets"),
        pytest.param(sgx_extension({**ENTRIES, 4: octets(bytes(5))}), id="fmspc-of-5-bytes"),
        pytest.param(sgx_extension({**ENTRIES, 3: octets(bytes(3))}), id="pce-id-of-3-bytes"),
        pytest.param(with_tcb(_1=integer(256)), id="component-256"),
        pytest.param(with_tcb(_1=b"\x02\x01\x80"), id="component-minus-128"),
        pytest.param(with_tcb(_1=b"\x02\x02\x00\x7f"), id="component-padded"),
        pytest.param(with_tcb(_1=b"\x02\x02\xff\x80"), id="component-negative-padded"),
        pytest.param(with_tcb(_1=b"\x02\x00"), id="component-empty"),
        pytest.param(with_tcb(_1=octets(b"\x01")), id="component-octets"),
        pytest.param(with_tcb(_17=integer(65536)), id="pcesvn-65536"),
        pytest.param(with_tcb(_18=octets(bytes(17))), id="cpusvn-of-17-bytes"),
        pytest.param(with_tcb(_19=integer(0)), id="tcb-of-19-entries"),
    ],
)
def test_anything_else_is_a_format_error(der):
    with pytest.raises(FormatError) as refusal:
        PckExtension.parse(der, PckCa.PLATFORM)
    assert refusal.value.code == "pck.extension"


def test_every_entry_is_needed():
    for number in ENTRIES:
        rest = {each: value for each, value in ENTRIES.items() if each != number}
        with pytest.raises(FormatError):
            PckExtension.parse(sgx_extension(rest), PckCa.PLATFORM)


def test_an_entry_may_not_come_twice():
    der = sgx_extension(ENTRIES)
    fmspc = element(0x30, element(0x06, ARC + b"\x04") + octets(bytes(6)))
    content = der[der.index(bytes([0x30])) + 4 :] + fmspc
    with pytest.raises(FormatError) as refusal:
        PckExtension.parse(b"\x30\x82" + len(content).to_bytes(2, "big") + content, PckCa.PLATFORM)
    assert str(refusal.value.found).startswith((b"\x06\x0a" + ARC + b"\x04").hex())


@pytest.mark.parametrize(("entries", "ca"), [(PLATFORM, PckCa.PROCESSOR), (PROCESSOR, PckCa.PLATFORM)], ids=["7", "5"])
def test_the_number_of_entries_is_that_of_the_ca(entries, ca):
    with pytest.raises(FormatError):
        PckExtension.parse(sgx_extension(sgx_entries(entries)), ca)
