# SPDX-License-Identifier: Apache-2.0
"""Kinds of values that options take: times, durations, REPORTDATA, sizes. Each fails as click wants it."""

import datetime as dt
import re
from typing import Any, Final

import click

from kubenclave.errors import FormatError
from kubenclave.sgx.epc import PAGE_SIZE, Quantity
from kubenclave.sgx.report import REPORT_DATA_SIZE

PORT: Final = click.IntRange(1, 65535)
TEE_TYPE: Final = click.Choice(("SgxEnclave", "OpenEnclave", "TdxVm"))
"""For whose evidence a policy is, in Azure's spelling."""

_UNITS: Final = {"d": "days", "h": "hours", "m": "minutes", "s": "seconds"}
_DURATION: Final = re.compile(r"([0-9]{1,5})([dhms])")
_SECONDS: Final = re.compile(r"[0-9]{1,11}")


def _moment(text: str) -> dt.datetime | None:
    """Return the time in UTC, None for one without a zone. Raises what the library raises for anything else."""
    if text == "now":
        return dt.datetime.now(dt.UTC)
    if _SECONDS.fullmatch(text):
        return dt.datetime.fromtimestamp(int(text), dt.UTC)
    moment = dt.datetime.fromisoformat(text.upper())
    return None if moment.tzinfo is None else moment.astimezone(dt.UTC)


class Moment(click.ParamType[dt.datetime]):
    """A time with a zone, as RFC 3339, Unix seconds or the word ``now``."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> dt.datetime:
        """Return the time in UTC; fails as click wants it."""
        try:
            moment = _moment(value)
        except (ValueError, OverflowError, OSError):
            moment = None
        if moment is None:
            self.fail(f"{value!r} is no time: give 2025-06-19T10:15:00Z, Unix seconds or now", param, ctx)
        return moment


class Duration(click.ParamType[dt.timedelta]):
    """A length of time such as 7d, 12h, 30m or 10s."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> dt.timedelta:
        """Return the time span; fails as click wants it."""
        match = _DURATION.fullmatch(value)
        if match is None:
            self.fail(f"{value!r} is no duration: give 7d, 12h, 30m or 10s", param, ctx)
        return dt.timedelta(**{_UNITS[match[2]]: int(match[1])})


class ReportData(click.ParamType[bytes]):
    """REPORTDATA as hexadecimal digits, 1 to 64 bytes; zeros follow."""

    name = "hex"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> bytes:
        """Return the 64 bytes; fails as click wants it."""
        try:
            data = bytes.fromhex(value.removeprefix("0x"))
        except ValueError:
            self.fail("not hexadecimal digits", param, ctx)
        if not data:  # an empty variable of a script must not come to mean 64 zeros, which anybody can quote
            self.fail("no digits at all (00 stands for zeros)", param, ctx)
        if len(data) > REPORT_DATA_SIZE:
            self.fail(f"{len(data)} bytes are more than the {REPORT_DATA_SIZE} of REPORTDATA", param, ctx)
        return data.ljust(REPORT_DATA_SIZE, b"\0")


class EpcSize(click.ParamType[int]):
    """An amount of EPC such as 64Mi, at least a page."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the bytes; fails as click wants it."""
        if isinstance(value, int):
            return value
        try:
            size = Quantity.parse(value).whole()
        except FormatError as error:
            self.fail(f"{error}; give it as in 64Mi", param, ctx)
        if size < PAGE_SIZE:
            self.fail(f"{value} is less than a page: give 4Ki or more", param, ctx)
        return size
