# SPDX-License-Identifier: Apache-2.0
"""What a TCB recovery will do to known platforms: today's verdict, that under early TCB info, and when it changes.

Early TCB info appears on the day a recovery becomes public, and becomes the standard about six weeks later (Intel PCS
API, parameter ``update``). Nobody publishes that second day, so the date here is an estimate: the recovery event of
the early generation, from the signed list of TCB evaluation data numbers, and six weeks. It says how sure it is.

The verdict is on the platform's own TCB. Quoting enclave and TDX module have identities of their own, which only a
quote can be held against.
"""

import datetime as dt
import enum
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from kubenclave.dcap.describe import zulu
from kubenclave.dcap.documents import COMPONENTS, TcbInfo, TcbLevel
from kubenclave.dcap.tcb import TcbStatus
from kubenclave.errors import KubenclaveError
from kubenclave.services.collateral.assemble import Getter
from kubenclave.services.collateral.items import EARLY, STANDARD, ItemKey, Kind, Tee
from kubenclave.services.collateral.platforms import KnownPlatform
from kubenclave.sgx.quote import TeeType
from kubenclave.wire import pcs
from kubenclave.wire.pcs import EvaluationNumbers

EARLY_TO_STANDARD: Final = dt.timedelta(weeks=6)
"""How long after a recovery becomes public its TCB info becomes the standard, commonly and approximately."""

_PLATFORM_SVNS: Final = COMPONENTS + 1


class Certainty(enum.StrEnum):
    """How sure the date of a change is."""

    NO_CHANGE = "no-change"  # early is the standard already, or says the same of this platform
    ESTIMATED = "estimated"  # recovery event and six weeks
    ANY_TIME = "any-time"  # that estimate has passed, and the standard has still not followed
    UNKNOWN = "unknown"  # the list does not tell of the early generation, or there is no early TCB info


@dataclass(frozen=True, slots=True)
class Outlook:
    """What one generation of TCB info says of a platform; ``status`` is None where none of its levels is reached."""

    generation: int
    status: TcbStatus | None
    advisories: tuple[str, ...]
    tcb_date: dt.datetime | None
    next_update: dt.datetime


@dataclass(frozen=True, slots=True)
class Forecast:
    """What is to come for a platform. ``early`` is None where there is no early TCB info.

    ``changes`` on ``date`` (None where nobody can tell), which is as sure as ``certainty`` says for ``reason``.
    """

    platform: str
    fmspc: str
    tee: Tee
    today: Outlook
    early: Outlook | None
    changes: bool
    date: dt.datetime | None
    certainty: Certainty
    reason: str

    def as_dict(self) -> dict[str, Any]:
        """Shape in JSON output."""
        return {
            **asdict(self),
            "today": _as_dict(self.today),
            "early": None if self.early is None else _as_dict(self.early),
            "date": None if self.date is None else zulu(self.date),
        }


def forecast(
    platform: KnownPlatform,
    standard: TcbInfo,
    early: TcbInfo | None,
    numbers: EvaluationNumbers | None,
    *,
    now: dt.datetime,
) -> Forecast:
    """Return what is to come for a platform under both generations of its family's TCB info, of one TEE."""
    today, later = outlook(platform, standard), None if early is None else outlook(platform, early)
    changes = later is not None and (later.status, later.advisories) != (today.status, today.advisories)
    if later is None:
        date, certainty, reason = None, Certainty.UNKNOWN, "no early TCB info is at hand"
    elif changes:
        date, certainty, reason = _when(today, later, numbers, now)
    else:
        date, certainty, reason = None, Certainty.NO_CHANGE, _why_none(today, later)
    tee = Tee.TDX if standard.tee is TeeType.TDX else Tee.SGX
    return Forecast(platform.platform, platform.fmspc, tee, today, later, changes, date, certainty, reason)


def outlook(platform: KnownPlatform, info: TcbInfo) -> Outlook:
    """Return what TCB info says of a platform: its first level of which every SVN is reached."""
    svns = (*platform.components, platform.pce_svn)
    level = next((each for each in info.levels if _reaches(svns, platform.tdx_svns, each.svns)), None)
    return _outlook(level, info)


def _outlook(level: TcbLevel | None, info: TcbInfo) -> Outlook:
    number, ends = info.tcb_evaluation_data_number, info.next_update
    if level is None:
        return Outlook(number, None, (), None, ends)
    return Outlook(number, level.status, level.advisories, level.tcb_date, ends)


def _reaches(svns: tuple[int, ...], tdx_svns: tuple[int, ...] | None, wanted: Sequence[int]) -> bool:
    if not all(have >= want for have, want in zip(svns, wanted[:_PLATFORM_SVNS], strict=True)):
        return False
    of_tdx = wanted[_PLATFORM_SVNS:]
    if not of_tdx or tdx_svns is None:
        return True
    skipped = 2 if tdx_svns[1] else 0  # from module version 1 on its own identity judges these
    return all(have >= want for have, want in zip(tdx_svns[skipped:], of_tdx[skipped:], strict=True))


def _when(
    today: Outlook, later: Outlook, numbers: EvaluationNumbers | None, now: dt.datetime
) -> tuple[dt.datetime | None, Certainty, str]:
    listed = numbers.numbers if numbers is not None else ()
    event = next((each.recovery_event for each in listed if each.number == later.generation), None)
    if event is None:
        return (
            None,
            Certainty.UNKNOWN,
            f"the list of TCB evaluation data numbers does not tell when {later.generation} became public",
        )
    date = event + EARLY_TO_STANDARD
    public = f"{later.generation} became public on {event:%Y-%m-%d}"
    if date <= now:
        return (
            None,
            Certainty.ANY_TIME,
            f"{public}, more than six weeks ago: the standard, {today.generation}, may follow at any renewal",
        )
    return date, Certainty.ESTIMATED, f"{public}; it becomes the standard about six weeks later"


def _why_none(today: Outlook, later: Outlook) -> str:
    if later.generation == today.generation:
        return "early and standard TCB info are the same generation"
    return "early TCB info says the same of this platform"


@dataclass(frozen=True, slots=True)
class Forecasts:
    """The forecasts there are, and for which families there is no standard TCB info, with the reason."""

    made: tuple[Forecast, ...]
    failed: tuple[tuple[Tee, str, KubenclaveError], ...]


async def forecast_all(get: Getter, platforms: Iterable[KnownPlatform], *, now: dt.datetime) -> Forecasts:
    """Return the forecast for each platform, for SGX and, where it has shown a TDX quote, for TDX.

    ``get`` is that of the cache. Early TCB info and the list of numbers may be missing, and then the forecast says so.
    """
    made, failed = [], []
    for platform in platforms:
        for tee in (Tee.SGX,) if platform.tdx_svns is None else (Tee.SGX, Tee.TDX):
            try:
                standard = await _tcb_info(get, tee, platform.fmspc, STANDARD)
            except KubenclaveError as error:
                failed.append((tee, platform.fmspc, error))
                continue
            try:
                early: TcbInfo | None = await _tcb_info(get, tee, platform.fmspc, EARLY)
            except KubenclaveError:
                early = None
            made.append(forecast(platform, standard, early, await _numbers(get, tee), now=now))
    return Forecasts(tuple(made), tuple(failed))


async def _tcb_info(get: Getter, tee: Tee, fmspc: str, update: str) -> TcbInfo:
    item = await get(ItemKey.tcb_info(tee, fmspc, update))
    return TcbInfo.parse(pcs.split_signed(item.body, pcs.TCB_INFO)[0])


async def _numbers(get: Getter, tee: Tee) -> EvaluationNumbers | None:
    try:
        item = await get(ItemKey(Kind.EVALUATION_NUMBERS, tee=tee))
    except KubenclaveError:
        return None
    return pcs.parse_evaluation_numbers(pcs.split_signed(item.body, pcs.EVALUATION_NUMBERS)[0])


def _as_dict(outlook: Outlook) -> dict[str, Any]:
    return {
        "tcb_evaluation_data_number": outlook.generation,
        "status": None if outlook.status is None else outlook.status.value,
        "advisories": list(outlook.advisories),
        "tcb_date": None if outlook.tcb_date is None else zulu(outlook.tcb_date),
        "next_update": zulu(outlook.next_update),
    }
