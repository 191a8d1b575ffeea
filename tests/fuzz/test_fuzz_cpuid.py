# SPDX-License-Identifier: Apache-2.0
"""CPUID decoding raises nothing, whatever a processor or hypervisor answers."""

from hypothesis import given
from hypothesis import strategies as st

from kubenclave.platform.linux.cpuid import Registers, decode, section
from kubenclave.sgx.epc import PAGE_SIZE

WORD = st.integers(0, 0xFFFFFFFF)
REGISTERS = st.builds(Registers, WORD, WORD, WORD, WORD)


@given(answers=st.lists(REGISTERS, min_size=1))
def test_decode_accepts_every_processor(answers: list[Registers]) -> None:
    facts = decode(lambda leaf, sub_leaf: answers[(leaf + sub_leaf) % len(answers)])
    assert len(facts.sections) <= 64
    assert facts.sgx or not facts.sections


@given(registers=REGISTERS)
def test_sections_are_whole_pages(registers: Registers) -> None:
    one = section(registers)
    assert one is None or (one.base % PAGE_SIZE, one.size % PAGE_SIZE) == (0, 0)
