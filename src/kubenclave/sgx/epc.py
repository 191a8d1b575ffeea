# SPDX-License-Identifier: Apache-2.0
"""EPC amounts: pages, sections, Kubernetes quantities and the resource names that count EPC.

All arithmetic is on exact integers. A quantity is read as the API server reads it (every suffix, exponents, white
space around it, rounding away from zero to a whole nano unit) and written in the API server's canonical form, with
two differences. An amount beyond a signed 64-bit number is refused where Kubernetes cuts it down or lets it overflow.
A suffix without a digit is refused where Kubernetes, against its own grammar, reads zero.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum, StrEnum, auto
from typing import Final, Self

from kubenclave.errors import FormatError

PAGE_SIZE: Final = 4096
MIB: Final = 1 << 20
MAX_AMOUNT: Final = (1 << 63) - 1

EPC_RESOURCE: Final = "sgx.intel.com/epc"
ENCLAVE_RESOURCE: Final = "sgx.intel.com/enclave"
PROVISION_RESOURCE: Final = "sgx.intel.com/provision"
AZURE_EPC_RESOURCE: Final = "kubernetes.azure.com/sgx_epc_mem_in_MiB"
ALIBABA_EPC_RESOURCE: Final = "alibabacloud.com/sgx_epc_MiB"

_NANO: Final = 10**9
_MAX_TEXT: Final = 128
_MAX_EXPONENT: Final = 2 * _MAX_TEXT  # with so few digits, beyond it only "too large" and "one nano unit" are left
_QUANTITY: Final = re.compile(
    r"(?P<sign>[+-]?)(?:(?P<whole>[0-9]+)(?:\.(?P<part>[0-9]*))?|\.(?P<only>[0-9]+))"
    r"(?:(?P<binary>[KMGTPE]i)|[eE](?P<exponent>[+-]?[0-9]+)|(?P<decimal>[numkMGTPE]?))"
)
_DECIMAL: Final = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_DECIMAL_SUFFIX: Final = {power: suffix for suffix, power in _DECIMAL.items()}
_BINARY: Final = ("", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei")


class EpcMode(StrEnum):
    """How EPC is counted: by the node's capacity, or as one device for each MiB (confcom's original form)."""

    CAPACITY = "capacity"
    DEVICES = "devices"


class Notation(Enum):
    """How an amount was written, which its canonical form keeps."""

    BINARY = auto()
    DECIMAL = auto()
    EXPONENT = auto()


@dataclass(frozen=True, slots=True)
class Quantity:
    """An amount in whole nano units. ``str()`` is Kubernetes' canonical form of it."""

    nanos: int
    notation: Notation = Notation.DECIMAL

    @classmethod
    def parse(cls, value: object) -> Self:
        """Read a quantity from a manifest: text, or a whole number as YAML and JSON may hold one.

        Raises FormatError for anything else, floating-point numbers included.
        """
        if isinstance(value, int) and not isinstance(value, bool):
            if abs(value) > MAX_AMOUNT:
                raise _out_of_range(f"a number of {value.bit_length()} bits")
            return cls(value * _NANO)
        if not isinstance(value, str):
            raise _malformed(f"a value of type {type(value).__name__}")
        match = _QUANTITY.fullmatch(value.strip()) if len(value) <= _MAX_TEXT else None
        if match is None:
            raise _malformed(repr(value[:_MAX_TEXT]))
        part = match["part"] or match["only"] or ""
        mantissa = int(f"{match['whole'] or ''}{part}")
        nanos, notation = _scale(mantissa, len(part), match)
        if nanos > MAX_AMOUNT * _NANO:
            raise _out_of_range(repr(value))
        return cls(-nanos if match["sign"] == "-" else nanos, notation)

    def whole(self) -> int:
        """Return the amount as an integer >= 0, the only kind an extended resource may have.

        Raises FormatError for a fraction or a negative amount.
        """
        amount, rest = divmod(self.nanos, _NANO)
        if rest or amount < 0:
            raise FormatError(
                "not a whole amount",
                code="quantity.whole",
                expected="an integer of zero or more",
                found=str(self),
                hint="extended resources are counted in integers",
            )
        return amount

    def __str__(self) -> str:
        amount, rest = divmod(self.nanos, _NANO)
        if self.notation is Notation.BINARY and not rest and abs(amount) >= 1024:
            power = 0
            while amount % 1024 == 0:
                amount //= 1024
                power += 1
            return f"{amount}{_BINARY[power]}"
        digits, exponent = self.nanos, -9
        while digits and digits % 1000 == 0:
            digits //= 1000
            exponent += 3
        if not digits:
            return "0"
        if self.notation is Notation.EXPONENT:
            return f"{digits}e{exponent}" if exponent else str(digits)
        return f"{digits}{_DECIMAL_SUFFIX[exponent]}"


def _scale(mantissa: int, places: int, match: re.Match[str]) -> tuple[int, Notation]:
    """Return ``mantissa / 10**places`` times its suffix in nano units, rounded up as Kubernetes does."""
    factor, exponent, notation = 1, 9 - places, Notation.DECIMAL
    if match["binary"]:
        factor, notation = 1 << 10 * _BINARY.index(match["binary"]), Notation.BINARY
    elif match["exponent"]:
        written = int(match["exponent"])
        exponent += max(-_MAX_EXPONENT, min(written, _MAX_EXPONENT))
        notation = Notation.EXPONENT
    else:
        exponent += _DECIMAL[match["decimal"]]
    if exponent >= 0:
        return mantissa * factor * 10**exponent, notation
    return -(-mantissa * factor // 10**-exponent), notation


def _malformed(found: str) -> FormatError:
    return FormatError(
        "not a Kubernetes quantity",
        code="quantity.malformed",
        expected="digits and a suffix, as in 64Mi",
        found=found,
    )


def _out_of_range(found: str) -> FormatError:
    return FormatError(
        "the quantity is too large", code="quantity.range", expected=f"at most {MAX_AMOUNT}", found=found
    )


@dataclass(frozen=True, slots=True)
class EpcSection:
    """EPC that belongs to one NUMA node: ``size`` bytes. ``numa_node`` is None where nobody told."""

    numa_node: int | None
    size: int


def total_bytes(sections: Iterable[EpcSection]) -> int:
    """Return the bytes of all sections together."""
    return sum(section.size for section in sections)


def pages_for(size: int) -> int:
    """Return how many EPC pages hold ``size`` bytes."""
    return -(-size // PAGE_SIZE)


def whole_mib(size: int) -> int:
    """Return the MiB that fit into ``size`` bytes: what a node may offer."""
    return size // MIB


def mib_for(size: int) -> int:
    """Return the MiB that ``size`` bytes fit into: what a workload has to ask for."""
    return -(-size // MIB)


def amount(size: int) -> str:
    """Return bytes as people write them, as in 64Mi."""
    return str(Quantity(size * _NANO, Notation.BINARY))
