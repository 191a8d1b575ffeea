# SPDX-License-Identifier: Apache-2.0
"""Quantities: exact against fractions, canonical form stable."""

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
