# SPDX-License-Identifier: Apache-2.0
"""CPUID leaves of real processors, as printed in public reports."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest

from kubenclave.platform.base import CpuFacts
from kubenclave.platform.linux import cpuid
from kubenclave.platform.linux.cpuid import CpuidSection, Registers

ZERO = Registers(0, 0, 0, 0)
SGX = Registers(0, 1 << 2, 1 << 30, 0)
ENOUGH_LEAVES = Registers(0x1B, 0, 0, 0)

SECTIONS = [
    # registers, section
    pytest.param(
        (0x00C00001, 0x20, 0x7E1FF003, 0),
        CpuidSection(0x20_00C0_0000, 0x7E1FF000, 3),
        id="sapphire-rapids-of-fortanix-rust-sgx-938",
    ),
    pytest.param((0x70200001, 0, 0x05D80001, 0), CpuidSection(0x7020_0000, 0x5D8_0000, 1), id="client-93.5-MiB"),
    pytest.param((0x00C00001, 0x10, 0x7F400002, 0x1), CpuidSection(0x10_00C0_0000, 0x1_7F40_0000, 2), id="ice-lake"),
    pytest.param((0x00000FF1, 0, 0x00001FFF, 0), CpuidSection(0, 0x1000, 15), id="class-nobody-knows"),
    pytest.param(
        (0xFFFFF001, ~0 & 0xFFFFFFFF, 0xFFFFF001, 0xFFFFFFFF),
        CpuidSection((1 << 52) - 4096, (1 << 52) - 4096, 1),
        id="largest",
    ),
]


def reader(leaves: dict[tuple[int, int], Registers]) -> cpuid.CpuidReader:
    return lambda leaf, sub_leaf: leaves.get((leaf, sub_leaf), ZERO)


@pytest.mark.parametrize(("registers", "expected"), SECTIONS)
def test_sections_of_real_processors(registers: tuple[int, int, int, int], expected: CpuidSection) -> None:
    assert cpuid.section(Registers(*registers)) == expected


def test_sub_leaves_of_unknown_kind_are_passed_over() -> None:
    assert cpuid.section(Registers(0x00C00002, 0, 0x1000, 0)) is None
    leaves = {
        (0x12, 2): Registers(2, 0, 0, 0),
        (0x12, 3): Registers(1, 0, 0x2001, 0),
        (0x12, 5): Registers(1, 0, 0x1001, 0),
    }
    assert cpuid.sections(reader(leaves)) == (CpuidSection(0, 0x2000, 1),)


def test_endless_list_ends() -> None:
    assert len(cpuid.sections(lambda leaf, sub_leaf: Registers(1, 0, 0x1001, 0))) == 64


def test_two_sockets() -> None:
    facts = cpuid.decode(
        reader(
            {
                (0, 0): ENOUGH_LEAVES,
                (7, 0): SGX,
                (0x12, 0): Registers(0b11, 0, 0, 0),
                (0x12, 2): Registers(0x00C00001, 0x20, 0x7E1FF003, 0),
                (0x12, 3): Registers(0x00C00001, 0x40, 0x7E1FF003, 0),
            }
        )
    )
    assert facts == CpuFacts(
        sgx=True,
        launch_control=True,
        sgx1=True,
        sgx2=True,
        sections=((0x20_00C0_0000, 0x7E1FF000), (0x40_00C0_0000, 0x7E1FF000)),
    )


def test_switched_off_in_bios() -> None:
    facts = cpuid.decode(reader({(0, 0): ENOUGH_LEAVES, (7, 0): Registers(0, 1 << 2, 0, 0)}))
    assert facts == CpuFacts(sgx=True, launch_control=False, sgx1=False, sgx2=False, sections=())


@pytest.mark.parametrize("leaf_0", [Registers(6, 0, 0, 0), ENOUGH_LEAVES])
def test_without_sgx_leaf_12_is_not_read(leaf_0: Registers) -> None:
    leaves = {(0, 0): leaf_0, (0x12, 0): Registers(1, 0, 0, 0), (0x12, 2): Registers(1, 0, 0x1001, 0)}
    facts = cpuid.decode(reader(leaves))
    assert facts == CpuFacts(sgx=False, launch_control=False, sgx1=False, sgx2=False, sections=())


def test_device_is_read_at_leaf_and_sub_leaf(tmp_path: Path) -> None:
    device = tmp_path / "cpuid"
    with device.open("wb") as file:  # sparse: positions lie 4 GiB apart
        file.seek(3 << 32 | 0x12)
        file.write(bytes(range(16)))
    with device.open("rb") as file:
        registers = cpuid.read_registers(file.fileno(), 0x12, 3)
        assert registers == Registers(0x03020100, 0x07060504, 0x0B0A0908, 0x0F0E0D0C)
        with pytest.raises(OSError, match="ends early"):
            cpuid.read_registers(file.fileno(), 0x13, 3)


def test_device_that_is_absent_or_short_tells_nothing(tmp_path: Path) -> None:
    assert cpuid.read_device(tmp_path / "absent") is None
    short = tmp_path / "short"
    short.write_bytes(bytes(15))
    assert cpuid.read_device(short) is None
    short.write_bytes(bytes(16))
    facts = cpuid.read_device(short)
    assert facts is not None
    assert not facts.sgx


@pytest.fixture
def unasked():
    """The processor has not been asked yet, and will be again afterwards."""
    cpuid.ask.cache_clear()
    yield
    cpuid.ask.cache_clear()


@pytest.mark.usefixtures("unasked")
@pytest.mark.skipif(platform.machine() != "x86_64", reason="CPUID is an instruction of x86")
def test_the_processor_itself_tells_without_any_permission() -> None:
    facts = cpuid.ask()
    assert facts is not None
    flags = Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
    assert facts.sgx or "sgx" not in flags
    assert cpuid.ask() is facts, "asked once"


@pytest.mark.skipif(platform.machine() != "x86_64", reason="CPUID is an instruction of x86")
def test_an_answer_holds_the_four_registers_in_order() -> None:
    done = subprocess.run([sys.executable, "-I", cpuid._ASKING], input=bytes(8), capture_output=True, check=True)
    _, ebx, ecx, edx = (done.stdout[start : start + 4] for start in range(0, 16, 4))
    assert ebx + edx + ecx in Path("/proc/cpuinfo").read_bytes()  # the maker's name, GenuineIntel say


@pytest.mark.usefixtures("unasked")
@pytest.mark.parametrize("program", ["raise SystemExit(1)", "import os; os.abort()", "print('short')", "raise OSError"])
def test_where_the_instruction_is_not_to_be_had_nothing_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str
) -> None:
    (tmp_path / "program.py").write_text(program)
    monkeypatch.setattr(cpuid, "_ASKING", tmp_path / "program.py")
    assert cpuid.ask() is None
