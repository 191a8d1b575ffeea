# SPDX-License-Identifier: Apache-2.0
"""What a case is: evidence, the question and the expected answer."""

import datetime as dt
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Final

from kubenclave.dcap.pckext import PckCa
from vectors.scene import AT, Evidence, Scene, scene

Before = Callable[[Scene], object]
After = Callable[[Evidence], Evidence]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One file of ``vectors/dcap``.

    ``expect`` is a TCB status, or ``reject CODE`` (VerificationError), or ``malformed CODE`` (FormatError).
    ``options`` are keywords of ``verify_quote``, spans of time in days.
    """

    base: str
    name: str
    expect: str
    evidence: Evidence
    at: dt.datetime = AT
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def path(self) -> str:
        """Base and name: what the case is called everywhere."""
        return f"{self.base}/{self.name}"


def make(
    name: str,
    expect: str,
    before: Before | None = None,
    after: After | None = None,
    *,
    base: str = "sgx-v3",
    ca: PckCa = PckCa.PLATFORM,
    **more: Any,
) -> Case:
    """Return a case: the base's scene changed by ``before``, signed, changed by ``after``."""
    staged = scene(base, ca)
    if before is not None:
        before(staged)
    evidence = staged.build()
    return Case(base=base, name=name, expect=expect, evidence=after(evidence) if after else evidence, **more)


def put(**attributes: Any) -> Before:
    """Return a change that sets attributes of the scene; a dictionary is merged into the one that is there."""

    def change(staged: Scene) -> None:
        for name, value in attributes.items():
            present = getattr(staged, name)
            merged = {**present, **value} if isinstance(present, dict) and isinstance(value, dict) else value
            setattr(staged, name, merged)

    return change


def both(*changes: Before) -> Before:
    """Return all the changes one after the other."""

    def change(staged: Scene) -> None:
        for each in changes:
            each(staged)

    return change


def flip(offset: int) -> After:
    """Return a change of one bit of the quote."""

    def change(evidence: Evidence) -> Evidence:
        quote = bytearray(evidence.quote)
        quote[offset] ^= 0x01
        return _with_quote(evidence, bytes(quote))

    return change


def edit(offset: int, code: str, *values: int) -> After:
    """Return a change that writes little-endian integers over the quote."""

    def change(evidence: Evidence) -> Evidence:
        quote = bytearray(evidence.quote)
        struct.pack_into(f"<{code}", quote, offset, *values)
        return _with_quote(evidence, bytes(quote))

    return change


def splice(start: int, end: int, content: bytes) -> After:
    """Return a change that puts other bytes in place of ``quote[start:end]``, lengths left as they are."""
    return lambda evidence: _with_quote(evidence, evidence.quote[:start] + content + evidence.quote[end:])


def cut(size: int) -> After:
    """Return a change that leaves the first ``size`` bytes of the quote."""
    return lambda evidence: _with_quote(evidence, evidence.quote[:size])


def part(name: str, value: Any) -> After:
    """Return a change of one part of the collateral; a function is given the part as it is."""
    return lambda evidence: evidence.part(name, value(evidence.collateral[name]) if callable(value) else value)


def _with_quote(evidence: Evidence, quote: bytes) -> Evidence:
    return replace(evidence, quote=quote)


# Offsets within a quote whose body ends at ``end`` (from the length word on).
SECTION: Final = {"signature": 4, "attestation-key": 68, "qe-report": 132, "qe-report-signature": 516}
AUTH_SIZE: Final = 580
V4_SHIFT: Final = 6
"""Type and size of the outer certification data, between attestation key and QE report."""


def boundaries(end: int, shift: int, size: int) -> Iterator[tuple[str, int]]:
    """Yield the places at which a quote may be cut: (name of the field that ends too early, size that is left)."""
    yield "empty", 0
    yield "header", 47
    yield "body", end - 1
    yield "length-word", end + 3
    yield "signature", end + 4 + 63
    yield "attestation-key", end + 68 + 63
    yield "qe-report", end + shift + 132 + 383
    yield "qe-report-signature", end + shift + 516 + 63
    yield "auth-data-size", end + shift + AUTH_SIZE + 1
    yield "auth-data", end + shift + AUTH_SIZE + 2 + 31
    yield "certification-type", end + shift + AUTH_SIZE + 34 + 1
    yield "certification-size", end + shift + AUTH_SIZE + 36 + 3
    yield "certification-data", size - 1
