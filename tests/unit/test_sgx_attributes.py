# SPDX-License-Identifier: Apache-2.0
"""ATTRIBUTES: bytes, bits and their names."""

import pytest

from kubenclave.errors import FormatError
from kubenclave.sgx.attributes import AttributeFlags, Attributes, MiscSelect, Xfrm


def test_flags_come_first_little_endian() -> None:
    attributes = Attributes.parse(bytes.fromhex("0700000000000000 e702060000000000"))
    assert attributes == Attributes(7, 0x602E7)
    assert attributes.build() == bytes.fromhex("0700000000000000e702060000000000")


@pytest.mark.parametrize("size", [0, 15, 17])
def test_other_sizes_are_refused(size: int) -> None:
    with pytest.raises(FormatError) as caught:
        Attributes.parse(bytes(size))
    assert caught.value.code == "format.size"


@pytest.mark.parametrize(("flags", "xfrm"), [(1 << 64, 0), (0, -1)])
def test_numbers_of_more_than_64_bits_do_not_build(flags: int, xfrm: int) -> None:
    with pytest.raises(FormatError) as caught:
        Attributes(flags, xfrm).build()
    assert caught.value.code == "format.value"


def test_the_debug_bit_and_only_it_means_debug() -> None:
    assert Attributes(2, 0).debug
    assert not Attributes(~2 & (1 << 64) - 1, 0).debug


def test_bits_have_their_names_and_unknown_ones_their_number() -> None:
    assert Attributes(0x4F7, 0).names() == [
        "INIT",
        "DEBUG",
        "MODE64BIT",
        "PROVISION_KEY",
        "EINITTOKEN_KEY",
        "CET",
        "KSS",
        "AEX_NOTIFY",
    ]
    assert Attributes(0x8000000000000008, 0).names() == ["0x8", "0x8000000000000000"]
    assert Attributes(0, 0).names() == []


def test_bits_are_those_of_the_specification() -> None:
    assert Xfrm.X87 | Xfrm.SSE == 3
    assert Xfrm.BNDREGS | Xfrm.BNDCSR == 0x18
    assert Xfrm.AVX | Xfrm.OPMASK | Xfrm.ZMM_HI256 | Xfrm.HI16_ZMM == 0xE4
    assert (Xfrm.PKRU, Xfrm.TILECFG | Xfrm.TILEDATA) == (0x200, 0x60000)
    assert (MiscSelect.EXINFO, MiscSelect.CPINFO) == (1, 2)
    assert sum(AttributeFlags) == 0x4F7
