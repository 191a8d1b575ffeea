# SPDX-License-Identifier: Apache-2.0
"""Quantities: exact against fractions, canonical form stable."""

import re
from fractions import Fraction
from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubenclave.errors import FormatError
from kubenclave.sgx.epc import MAX_AMOUNT, MIB, PAGE_SIZE, Quantity, mib_for, pages_for, whole_mib

SUFFIXES = {
    **{suffix: Fraction(10) ** power for suffix, power in zip("num", (-9, -6, -3), strict=True)},
    **{suffix: Fraction(1000) ** power for power, suffix in enumerate(["", "k", "M", "G", "T", "P", "E"])},
    **{f"{suffix}i": Fraction(1024) ** power for power, suffix in enumerate("KMGTPE", 1)},
    **{f"e{power}": Fraction(10) ** power for power in range(-12, 19)},
}
CANONICAL = re.compile(r"(-?(?:0|[1-9][0-9]*))([numkMGTPE]|[KMGTPE]i|e-?[1-9][0-9]*)?")
NUMBERS = st.from_regex(r"[+-]?([0-9]{1,12}(\.[0-9]{0,12})?|\.[0-9]{1,12})", fullmatch=True)


@given(number=NUMBERS, suffix=st.sampled_from(sorted(SUFFIXES)))
def test_parsing_is_exact_and_canonical_form_is_stable(number: str, suffix: str) -> None:
    exact = Fraction(number.removesuffix(".")) * SUFFIXES[suffix]
    text = number + suffix
    if abs(exact) > MAX_AMOUNT:
        with pytest.raises(FormatError) as caught:
            Quantity.parse(text)
        assert caught.value.code == "quantity.range"
        return
    quantity = Quantity.parse(text)
    rounded = ceil(abs(exact) * 10**9)
    assert quantity.nanos == (rounded if exact >= 0 else -rounded)
    again = Quantity.parse(str(quantity))
    assert again.nanos == quantity.nanos
    assert str(again) == str(quantity)


@given(size=st.integers(0, MAX_AMOUNT))
def test_round_trips_lose_nothing_they_should_not(size: int) -> None:
    assert Quantity.parse(size).whole() == Quantity.parse(str(size)).whole() == size
    assert whole_mib(size) * MIB <= size <= mib_for(size) * MIB
    assert (pages_for(size) - 1) * PAGE_SIZE < size <= pages_for(size) * PAGE_SIZE or size == 0


@given(number=NUMBERS, suffix=st.sampled_from(sorted(SUFFIXES)), space=st.sampled_from(["", " ", "\n", "\t "]))
def test_canonical_form_is_short_and_of_the_same_kind(number: str, suffix: str, space: str) -> None:
    """No fraction, no plus sign, the largest suffix; binary only for whole amounts from 1024 on."""
    try:
        quantity = Quantity.parse(space + number + suffix + space)
    except FormatError:
        return
    match = CANONICAL.fullmatch(str(quantity))
    assert match
    digits, written = int(match[1]), match[2] or ""
    amount = Fraction(quantity.nanos, 10**9)
    assert digits * SUFFIXES[written] == amount
    if suffix.endswith("i") and amount.denominator == 1 and abs(amount) >= 1024:
        assert written.endswith("i")
        assert digits % 1024
    else:
        assert digits % 1000 or not digits
        assert not written.endswith("i")
        assert written.startswith("e") == (suffix.startswith("e") and amount != 0 and written != "")
