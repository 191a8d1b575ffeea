# SPDX-License-Identifier: Apache-2.0
"""SGX structures: what is built parses to the same, what is parsed builds the same bytes, MRENCLAVE is one hash."""

import hashlib
import struct
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubenclave.errors import FormatError
from kubenclave.sgx.attributes import Attributes
from kubenclave.sgx.certification import CertificationData, CertificationType, Ppid
from kubenclave.sgx.layout import Layout
from kubenclave.sgx.measure import Measurement, Pages
from kubenclave.sgx.quote import BodyType, Quote, QuoteHeader, QuoteSignature, TeeType, signed_part
from kubenclave.sgx.report import Report, ReportBody, TargetInfo
from kubenclave.sgx.secinfo import SecInfo
from kubenclave.sgx.tdreport import TdReport10, TdReport15, TdReport15Ex

U8, U16, U32, U64 = (st.integers(0, (1 << bits) - 1) for bits in (8, 16, 32, 64))
ATTRIBUTES = st.builds(Attributes, U64, U64)


def octets(size: int) -> st.SearchStrategy[bytes]:
    return st.binary(min_size=size, max_size=size)


BODIES = st.builds(
    ReportBody,
    cpu_svn=octets(16),
    misc_select=U32,
    cet_attributes=U8,
    isv_ext_prod_id=octets(16),
    attributes=ATTRIBUTES,
    mr_enclave=octets(32),
    mr_signer=octets(32),
    config_id=octets(64),
    isv_prod_id=U16,
    isv_svn=U16,
    config_svn=U16,
    isv_family_id=octets(16),
    report_data=octets(64),
    reserved=st.tuples(octets(11), octets(32), octets(32), octets(42)),
)
TARGETS = st.builds(
    TargetInfo,
    mr_enclave=octets(32),
    attributes=ATTRIBUTES,
    cet_attributes=U8,
    config_svn=U16,
    misc_select=U32,
    config_id=octets(64),
)
PPIDS = st.sampled_from([16, 256, 384]).flatmap(lambda size: st.builds(Ppid, octets(size), octets(16), U16, U16))
TD_REPORTS: list[type[TdReport10]] = [TdReport10, TdReport15, TdReport15Ex]
TD_BODIES = st.one_of([octets(kind.LAYOUT.size).map(kind.parse) for kind in TD_REPORTS])
CERTIFICATION = st.builds(
    CertificationData,
    st.sampled_from([kind for kind in CertificationType if kind is not CertificationType.QE_REPORT_CERT]),
    st.binary(max_size=500),
)
SIGNATURES = st.builds(
    QuoteSignature,
    octets(64),
    octets(64),
    octets(384),
    octets(64),
    st.binary(max_size=100),
    CERTIFICATION,
    st.binary(max_size=20),
)
TYPES = {ReportBody: BodyType.SGX_REPORT, TdReport10: BodyType.TD_REPORT_10, TdReport15: BodyType.TD_REPORT_15}


@st.composite
def quotes(draw: st.DrawFn) -> Quote:
    version = draw(st.sampled_from([3, 4, 5]))
    body = draw({3: BODIES, 4: BODIES | octets(584).map(TdReport10.parse), 5: BODIES | TD_BODIES}[version])
    header = QuoteHeader(
        version=version,
        tee_type=TeeType.SGX if isinstance(body, ReportBody) else TeeType.TDX,
        qe_svn=draw(U16),
        pce_svn=draw(U16),
        qe_vendor_id=draw(octets(16)),
        user_data=draw(octets(20)),
    )
    body_type = TYPES.get(type(body), BodyType.TD_REPORT_15_EX)
    return Quote(header, body_type, body, draw(SIGNATURES), signed_part(header, body_type, body))


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (Attributes, ATTRIBUTES),
        (ReportBody, BODIES),
        (Report, st.builds(Report, BODIES, octets(32), octets(16))),
        (TargetInfo, TARGETS),
        (Quote, quotes()),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
@given(data=st.data())
def test_what_is_built_parses_to_the_same(kind: Any, values: st.SearchStrategy[Any], data: st.DataObject) -> None:
    value = data.draw(values)
    assert kind.parse(value.build()) == value


@given(PPIDS)
def test_a_ppid_parses_to_the_same(ppid: Ppid) -> None:
    kind = {16: 1, 256: 2, 384: 3}[len(ppid.ppid)]
    assert CertificationData(CertificationType(kind), ppid.build()).ppid == ppid


@pytest.mark.parametrize("kind", TD_REPORTS, ids=lambda kind: kind.__name__)
@given(data=st.data())
def test_any_bytes_of_its_size_are_a_td_report(kind: type[TdReport10], data: st.DataObject) -> None:
    written = data.draw(octets(kind.LAYOUT.size))
    assert kind.parse(written).build() == written


@given(body=BODIES, key_id=octets(32), mac=octets(16), position=st.integers(0, 431), value=U8)
def test_any_byte_of_a_report_may_have_any_value(
    body: ReportBody, key_id: bytes, mac: bytes, position: int, value: int
) -> None:
    written = bytearray(Report(body, key_id, mac).build())
    written[position] = value
    assert Report.parse(bytes(written)).build() == written


@given(target=TARGETS, position=st.integers(0, 511), value=st.integers(1, 255))
def test_target_info_is_strict_about_reserved_bytes_alone(target: TargetInfo, position: int, value: int) -> None:
    written = bytearray(target.build())
    written[position] = value
    if position == 49 or 56 <= position < 64 or position >= 128:
        with pytest.raises(FormatError):
            TargetInfo.parse(bytes(written))
    else:
        assert TargetInfo.parse(bytes(written)).build() == written


@st.composite
def layouts(draw: st.DrawFn) -> tuple[Layout, dict[str, Any]]:
    """A table of a few fields with gaps, and values for it."""
    rows: list[tuple[int, str, str | int]] = []
    values: dict[str, Any] = {}
    kinds: list[tuple[str | int, int, st.SearchStrategy[Any]]] = [
        ("B", 1, U8),
        ("H", 2, U16),
        ("I", 4, U32),
        ("Q", 8, U64),
        (3, 3, octets(3)),
        (16, 16, octets(16)),
    ]
    at = 0
    for number in range(draw(st.integers(0, 6))):
        at += draw(st.integers(0, 4))
        kind, size, strategy = draw(st.sampled_from(kinds))
        name = f"field{number}"
        rows.append((at, name, kind))
        values[name] = draw(strategy)
        at += size
    return Layout("table", at + draw(st.integers(0, 4)), rows), values


@given(layouts(), st.data())
def test_tables_read_what_they_write_and_nothing_else(made: tuple[Layout, dict[str, Any]], data: st.DataObject) -> None:
    layout, values = made
    written = layout.build(values)
    assert len(written) == layout.size
    assert layout.parse(written) == values
    assert layout.values(b"xyz" + written, 3) == tuple(values.values())
    other = data.draw(octets(layout.size))
    with suppress(FormatError):
        assert layout.build(layout.parse(other)) == other


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(1, 6), st.booleans()), max_size=12))
def test_mr_enclave_is_one_hash_over_what_was_added(asked: list[tuple[int, int, bool]]) -> None:
    measurement = Measurement(1 << 17, 1)
    stream = (b"ECREATE\0" + struct.pack("<IQ", 1, 1 << 17)).ljust(64, b"\0")
    added: set[int] = set()
    for first, count, measured in asked:
        pages = set(range(first, first + count))
        content = bytes([first]) * 4096 * count if measured else None
        load = Pages(first * 4096, SecInfo(0x203), count, content)
        if pages & added or max(pages) >= 32:
            with pytest.raises(FormatError):
                measurement.add(load)
            continue
        measurement.add(load)
        added |= pages
        for page in sorted(pages):
            stream += (b"EADD\0\0\0\0" + struct.pack("<QQ", page * 4096, 0x203)).ljust(64, b"\0")
            for at in range(page * 4096, page * 4096 + 4096, 256) if measured else ():
                stream += (b"EEXTEND\0" + struct.pack("<Q", at)).ljust(64, b"\0") + bytes([first]) * 256
    assert measurement.mr_enclave() == hashlib.sha256(stream).digest()
    assert measurement.pages == len(added)
