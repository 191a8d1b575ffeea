# SPDX-License-Identifier: Apache-2.0
"""REPORT and TARGETINFO: every field from its offset in the specification, and what is refused."""

import struct
from dataclasses import replace

import pytest

from kubenclave.errors import FormatError
from kubenclave.sgx.attributes import Attributes
from kubenclave.sgx.report import REPORT_DATA_SIZE, Report, ReportBody, TargetInfo
from tests.samples import SGX_RESERVED, pattern, sgx_body

BODY = [
    ("cpu_svn", 0, 16),
    ("misc_select", 16, 4),
    ("cet_attributes", 20, 1),
    ("isv_ext_prod_id", 32, 16),
    ("attributes", 48, 16),
    ("mr_enclave", 64, 32),
    ("mr_signer", 128, 32),
    ("config_id", 192, 64),
    ("isv_prod_id", 256, 2),
    ("isv_svn", 258, 2),
    ("config_svn", 260, 2),
    ("isv_family_id", 304, 16),
    ("report_data", 320, 64),
]
TARGET = [
    ("mr_enclave", 0, 32),
    ("attributes", 32, 16),
    ("cet_attributes", 48, 1),
    ("config_svn", 50, 2),
    ("misc_select", 52, 4),
    ("config_id", 64, 64),
]


def as_bytes(value: object, size: int) -> bytes:
    if isinstance(value, Attributes):
        return struct.pack("<QQ", value.flags, value.xfrm)
    return value if isinstance(value, bytes) else int.to_bytes(value, size, "little")  # type: ignore[arg-type]  # an int


def target_info() -> bytes:
    data = bytearray(512)
    for name, offset, size in TARGET:
        data[offset : offset + size] = pattern(name, size)
    return bytes(data)


@pytest.mark.parametrize(("name", "offset", "size"), BODY, ids=[row[0] for row in BODY])
def test_fields_of_a_report_body_stand_where_the_specification_has_them(name: str, offset: int, size: int) -> None:
    data = sgx_body()
    assert as_bytes(getattr(ReportBody.parse(data), name), size) == data[offset : offset + size]


@pytest.mark.parametrize("reserved", [False, True], ids=["zero", "not zero"])
def test_a_body_keeps_every_byte_reserved_ones_too(reserved: bool) -> None:
    data = sgx_body(reserved=reserved)
    body = ReportBody.parse(data)
    assert body.build() == data
    assert body.reserved == tuple(data[offset : offset + size] for offset, size in SGX_RESERVED)


@pytest.mark.parametrize(("flags", "debug"), [(0, False), (2, True), (0xFD, False)])
def test_the_debug_attribute_means_debug(flags: int, debug: bool) -> None:
    assert replace(ReportBody.parse(sgx_body()), attributes=Attributes(flags, 3)).debug is debug


@pytest.mark.parametrize("size", [0, 383, 385, 432])
def test_bodies_of_another_size(size: int) -> None:
    with pytest.raises(FormatError) as caught:
        ReportBody.parse(bytes(size))
    assert caught.value.code == "format.size"


@pytest.mark.parametrize(
    "changes",
    [
        {"cpu_svn": bytes(15)},
        {"isv_svn": 65536},
        {"cet_attributes": -1},
        {"report_data": bytes(65)},
        {"attributes": Attributes(1 << 64, 0)},
        {"reserved": (b"", bytes(32), bytes(32), bytes(42))},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_fields_that_do_not_fit_do_not_build(changes: dict[str, object]) -> None:
    body = ReportBody.parse(sgx_body())
    with pytest.raises(FormatError) as caught:
        replace(body, **changes).build()  # type: ignore[arg-type]  # wrong on purpose
    assert caught.value.code == "format.value"


def test_a_report_is_body_key_id_and_mac() -> None:
    data = sgx_body() + pattern("key id", 32) + pattern("mac", 16)
    report = Report.parse(data)
    assert report.body == ReportBody.parse(data[:384])
    assert (report.key_id, report.mac) == (data[384:416], data[416:])
    assert report.build() == data


@pytest.mark.parametrize("size", [0, 384, 431, 433])
def test_reports_of_another_size(size: int) -> None:
    with pytest.raises(FormatError) as caught:
        Report.parse(bytes(size))
    assert caught.value.code == "format.size"


@pytest.mark.parametrize(("key_id", "mac"), [(bytes(31), bytes(16)), (bytes(32), bytes(17))], ids=["key id", "mac"])
def test_a_report_with_parts_of_another_size_does_not_build(key_id: bytes, mac: bytes) -> None:
    with pytest.raises(FormatError) as caught:
        Report(ReportBody.parse(sgx_body()), key_id, mac).build()
    assert caught.value.code == "format.size"


@pytest.mark.parametrize(("name", "offset", "size"), TARGET, ids=[row[0] for row in TARGET])
def test_fields_of_target_info_stand_where_the_specification_has_them(name: str, offset: int, size: int) -> None:
    data = target_info()
    parsed = TargetInfo.parse(data)
    assert as_bytes(getattr(parsed, name), size) == data[offset : offset + size]
    assert parsed.build() == data


@pytest.mark.parametrize("position", [49, 56, 63, 128, 511])
def test_reserved_bytes_of_target_info_must_be_zero(position: int) -> None:
    """EREPORT answers them with #GP."""
    data = bytearray(target_info())
    data[position] = 1
    with pytest.raises(FormatError) as caught:
        TargetInfo.parse(bytes(data))
    assert caught.value.code == "format.reserved"


def test_target_info_names_the_enclave_of_a_report() -> None:
    body = ReportBody.parse(sgx_body())
    target = TargetInfo.of(body)
    assert TargetInfo.parse(target.build()) == target
    for name, _, _ in TARGET:
        assert getattr(target, name) == getattr(body, name)


def test_report_data_is_the_last_field_of_the_body() -> None:
    assert ReportBody.parse(sgx_body()).report_data == sgx_body()[-REPORT_DATA_SIZE:]
