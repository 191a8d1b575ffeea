# SPDX-License-Identifier: Apache-2.0
"""EPC amounts and quantities. The canonical forms are those of apimachinery's own tests and documentation."""

import pytest

from kubenclave.errors import FormatError
from kubenclave.sgx import epc
from kubenclave.sgx.epc import EpcSection, Notation, Quantity

CANONICAL = [
    # written, canonical
    ("0", "0"),
    ("-0", "0"),
    ("0Ki", "0"),
    ("0.0e5", "0"),
    ("10", "10"),
    ("+10", "10"),
    ("007", "7"),
    ("5.", "5"),
    (".5", "500m"),
    ("-.5", "-500m"),
    ("1n", "1n"),
    ("1000n", "1u"),
    ("1u", "1u"),
    ("1m", "1m"),
    ("1500m", "1500m"),
    ("2000m", "2"),
    ("1000", "1k"),
    ("100000", "100k"),
    ("1k", "1k"),
    ("1M", "1M"),
    ("1G", "1G"),
    ("1T", "1T"),
    ("1P", "1P"),
    ("1E", "1E"),
    ("1.5G", "1500M"),
    ("0.1", "100m"),
    ("1e6", "1e6"),
    ("1E6", "1e6"),
    ("1e+2", "100"),
    ("12e-1", "1200e-3"),
    ("1e-9", "1e-9"),
    ("1e0", "1"),
    ("1Ki", "1Ki"),
    ("1000Ki", "1000Ki"),
    ("1024Ki", "1Mi"),
    ("5Mi", "5Mi"),
    ("1.5Gi", "1536Mi"),
    ("0.5Mi", "512Ki"),
    ("0.5Ki", "512"),
    ("0.1Ki", "102400m"),
    ("1.1Mi", "1153433600m"),
    ("1023.5Ki", "1048064"),
    ("7Ei", "7Ei"),
    ("1Ti", "1Ti"),
    ("1Pi", "1Pi"),
    ("-2Ki", "-2Ki"),
    ("0.0000000001", "1n"),  # asked for something, so it gets something
    ("-0.0000000001", "-1n"),
    ("1e-999999", "1e-9"),
    ("0e999999", "0"),
    ("9223372036854775807", "9223372036854775807"),
    (" 64Mi\n", "64Mi"),
]


@pytest.mark.parametrize(("written", "canonical"), CANONICAL)
def test_canonical_form_is_that_of_kubernetes(written: str, canonical: str) -> None:
    quantity = Quantity.parse(written)
    assert str(quantity) == canonical
    assert Quantity.parse(canonical).nanos == quantity.nanos


def test_numbers_of_a_manifest_are_amounts() -> None:
    assert Quantity.parse(10) == Quantity(10 * 10**9, Notation.DECIMAL)
    assert str(Quantity.parse(10_485_760)) == "10485760"
    assert Quantity.parse("10Mi").whole() == 10 * 1024 * 1024


MALFORMED = ". Mi 1MiB 1i 1ki 1K 1e 1e1.5 1ee3 1.1.1 --1 +-1 1,5 0x10 1m1 1eE NaN inf \N{ARABIC-INDIC DIGIT ONE}"


@pytest.mark.parametrize("text", ["", " ", "1 Mi", "- 1", "1" * 129, *MALFORMED.split()])
def test_malformed_text_is_refused(text: str) -> None:
    with pytest.raises(FormatError) as caught:
        Quantity.parse(text)
    assert caught.value.code == "quantity.malformed"


@pytest.mark.parametrize("value", [None, True, 1.5, [], {}, b"1"], ids=lambda value: type(value).__name__)
def test_other_types_are_refused(value: object) -> None:
    with pytest.raises(FormatError) as caught:
        Quantity.parse(value)
    assert caught.value.code == "quantity.malformed"


@pytest.mark.parametrize("value", ["9223372036854775808", "8Ei", "-8Ei", "10E", "1e19", "1e99999", 1 << 63, -(1 << 63)])
def test_amounts_beyond_64_bits_are_refused(value: object) -> None:
    with pytest.raises(FormatError) as caught:
        Quantity.parse(value)
    assert caught.value.code == "quantity.range"


@pytest.mark.parametrize("text", ["1.5", "1m", "-1", "-1m"])
def test_only_whole_amounts_count_resources(text: str) -> None:
    with pytest.raises(FormatError) as caught:
        Quantity.parse(text).whole()
    assert caught.value.code == "quantity.whole"


@pytest.mark.parametrize(("size", "text"), [(0, "0"), (64 << 20, "64Mi"), (1 << 30, "1Gi"), (4097, "4097")])
def test_bytes_are_written_as_people_do(size: int, text: str) -> None:
    assert epc.amount(size) == text


def test_offers_round_down_and_needs_round_up() -> None:
    size = 98_041_856  # 93.5 MiB, a client part
    assert (epc.whole_mib(size), epc.mib_for(size)) == (93, 94)
    assert (epc.whole_mib(2_126_512_128), epc.mib_for(2_126_512_128)) == (2028, 2028)
    assert [epc.pages_for(size) for size in (0, 1, 4096, 4097)] == [0, 1, 1, 2]


def test_sections_add_up() -> None:
    assert epc.total_bytes([EpcSection(0, 4096), EpcSection(1, 8192), EpcSection(None, 4096)]) == 16384
    assert epc.total_bytes([]) == 0
