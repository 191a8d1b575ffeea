# SPDX-License-Identifier: Apache-2.0
"""The cache: good copies are served, what is wanted is renewed before it ends, and a failure leaves the copy alone.

Each item goes its own way: when it is due, from which source it came, and what went wrong last. Of several workers on
one database only one renews an item at a time.
"""

import asyncio
import datetime as dt
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final, Never, TypeVar

import structlog

from kubenclave.dcap.anchor import TrustAnchor
from kubenclave.dcap.describe import zulu
from kubenclave.errors import KubenclaveError, UnreachableError
from kubenclave.services.collateral.ingest import check, check_key, is_judged_by_root_crl
from kubenclave.services.collateral.items import EARLY, ROOT_CRL, STANDARD, Item, ItemKey, Kind
from kubenclave.services.collateral.sources.base import (
    Fetched,
    Source,
    SourceError,
    UnknownError,
    most_telling,
    unknown,
)
from kubenclave.services.collateral.store import ItemStatus, SourceStatus, Store
from kubenclave.services.web.limits import Buckets, Rate

_SECOND: Final = dt.timedelta(seconds=1)
_LEASE: Final = dt.timedelta(minutes=5)  # a worker that dies meanwhile leaves the item to others after that
_LONGEST_SLEEP: Final = 60.0  # seconds: other workers note uses that this one does not hear of
_NEW_NAMES: Final = Rate(per_second=5.0, burst=200)  # a source that is flooded shuts us out
_Key = TypeVar("_Key")
_Value = TypeVar("_Value")
_log = structlog.get_logger()


class StaleError(UnreachableError):
    """What is held has ended, and nobody gives anything newer. ``retry_after`` tells when it is tried again."""

    def __init__(self, item: Item, status: ItemStatus | None, retry_after: dt.timedelta) -> None:
        why = "" if status is None or status.error is None else f": {status.error}"
        super().__init__(
            f"what is held has ended and cannot be renewed{why}",
            code="collateral.stale",
            field=str(item.key),
            expected="nextUpdate still to come",
            found=zulu(item.next_update),
            hint="see the status of the item and of its sources; dangerously_serve_expired serves it nevertheless",
        )
        self.retry_after = retry_after


class _RestingError(SourceError):
    """A source that was not asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheSettings:
    """How the cache behaves.

    ``refresh_after``: how old a copy may be before it is renewed, at most: half of what is left until nextUpdate comes
    before that. ``kept_for``: how long after its last use an item is still renewed. ``negative``: how long the answer
    that there is no such item counts. ``first_pause`` to ``longest_pause``: between attempts after failures.
    ``dangerously_serve_expired``: how long after its end a copy is served when nobody has a newer one.
    ``dangerously_allow_rollback``: take older items than those that are held.
    """

    refresh_after: dt.timedelta = dt.timedelta(days=1)
    kept_for: dt.timedelta = dt.timedelta(days=60)
    negative: dt.timedelta = dt.timedelta(minutes=5)
    first_pause: dt.timedelta = dt.timedelta(seconds=30)
    longest_pause: dt.timedelta = dt.timedelta(hours=6)
    at_once: int = 4
    dangerously_serve_expired: dt.timedelta = dt.timedelta(0)
    dangerously_allow_rollback: bool = False


class CollateralCache:
    """Items by name, from the store or from the first source that has them. For one event loop.

    Raises UsageError ``collateral.other-root`` where the store is for another root.
    """

    def __init__(
        self,
        store: Store,
        sources: Sequence[Source],
        anchor: TrustAnchor,
        *,
        now: Callable[[], dt.datetime],
        settings: CacheSettings | None = None,
        jitter: random.Random | None = None,
    ) -> None:
        store.keep_to(anchor.digest)
        self.store: Final = store
        self.sources: Final = tuple(sources)
        self.anchor: Final = anchor
        self.settings: Final = settings or CacheSettings()
        self._now: Final = now
        self._jitter: Final = jitter or random.Random()  # noqa: S311  # spreads load, protects nothing
        self._under_way: Final[dict[ItemKey, asyncio.Task[Item]]] = {}
        self.chores: Final[list[Callable[[], Awaitable[None]]]] = []  # what else is to be done in each turn of ``run``
        self._resting: Final[dict[str, tuple[dt.datetime, str]]] = {}  # until when, and why
        self._wanted: Final = asyncio.Event()
        self._new_names: Final = Buckets(_NEW_NAMES, time.monotonic)

    async def get(self, key: ItemKey) -> Item:
        """Return an item that is good now: the copy that is held, or what a source gives.

        Raises UsageError for a key that names nothing, UnknownError where the sources have no such item, SourceError
        where they do not answer, StaleError where the copy has ended, TrustError or FormatError where what they give
        is not good and there is no copy, TooFastError where too many names were asked for that nobody has heard of.
        """
        check_key(key)
        if self._costs_a_question(key):
            self._new_names.take("")
        new = self.store.is_new_use(key)
        if new:
            await asyncio.to_thread(self.store.note_use, key)
            self._wanted.set()
        item = await self._good(key)
        if new and key.kind in (Kind.TCB_INFO, Kind.IDENTITY) and key.update in (STANDARD, EARLY):
            # Forecasts compare both generations of what is in use.
            twin = replace(key, update=EARLY if key.update == STANDARD else STANDARD)
            await asyncio.to_thread(self.store.note_use, twin)
            self._wanted.set()
        return item

    def _costs_a_question(self, key: ItemKey) -> bool:
        """Tell whether the sources have to be asked for what was never here, by a name that anybody can make up."""
        if key.kind not in (Kind.TCB_INFO, Kind.IDENTITY) or key in self._under_way or self.store.get(key) is not None:
            return False
        return not self._has_just_failed(self.store.attempt(key))

    async def _good(self, key: ItemKey) -> Item:
        held, now = self.store.get(key), self._now()
        if held is not None and held.issued <= now <= held.next_update:
            return held
        try:
            return await self._renew_now(key)
        except KubenclaveError:
            if held is None or held.next_update >= now:
                raise
            if now <= held.next_update + self.settings.dangerously_serve_expired:
                return held
            status = self.store.attempt(key)
            pause = _SECOND if status is None else max(status.next_try - now, _SECOND)
            raise StaleError(held, status, pause) from None

    def status(self) -> list[ItemStatus]:
        """Return what is known of every item that anybody has asked for."""
        return self.store.status()

    def source_status(self) -> list[SourceStatus]:
        """Return how the sources answer, in the order in which they are asked; None is said of what was never asked."""
        known = {each.name: each for each in self.store.sources()}
        return [known.get(each.name, SourceStatus(each.name, None, 0, None, None, None)) for each in self.sources]

    async def refresh(self, key: ItemKey) -> Item:
        """Renew an item now, whenever it is due. Raises what ``get`` does, but StaleError."""
        check_key(key)
        task = self._under_way.get(key)
        if task is None:
            task = asyncio.create_task(self._renew(key), name=f"renew {key}")
            self._under_way[key] = task
            task.add_done_callback(lambda done: forget(self._under_way, key, done))
        return await asyncio.shield(task)  # others wait for it as well

    async def refresh_due(self) -> int:
        """Renew everything that is due, some at once; return how many were. No failure keeps others from their turn."""
        since = self._now() - self.settings.kept_for
        due = [key for key in self.store.due(used_since=since) if self._is_mine(key)]
        turns = asyncio.Semaphore(self.settings.at_once)

        async def one(key: ItemKey) -> None:
            async with turns:
                with suppress(KubenclaveError):  # the status tells of it, and the log
                    await self.refresh(key)

        first = [key for key in due if key == ROOT_CRL]
        for keys in (first, [key for key in due if key != ROOT_CRL]):  # the others are judged by the root CRL
            await asyncio.gather(*(one(key) for key in keys))
        return len(due)

    async def run(self) -> Never:
        """Renew what is due, for ever."""
        while True:
            try:
                await self.refresh_due()
                for chore in self.chores:
                    await chore()
            except KubenclaveError as error:  # the database: full, or locked for too long
                _log.error("collateral.not-refreshed", code=error.code, error=str(error), hint=error.hint or "")
            self._wanted.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wanted.wait(), self._seconds_to_next())

    async def close(self) -> None:
        """End what is under way and let go of the sources."""
        tasks = list(self._under_way.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for source in self.sources:
            await source.close()

    def _is_mine(self, key: ItemKey) -> bool:
        return self.store.claim(key, self._now() + _LEASE)

    def _seconds_to_next(self) -> float:
        due = self.store.next_due(used_since=self._now() - self.settings.kept_for)
        left = self.settings.refresh_after if due is None else due - self._now()
        return min(max(left.total_seconds(), 1.0), _LONGEST_SLEEP)

    async def _renew_now(self, key: ItemKey) -> Item:
        """Renew an item that somebody waits for, unless that has just failed: then say again why."""
        status = self.store.attempt(key)
        if key not in self._under_way and status is not None and self._has_just_failed(status):
            raise _again(status, status.next_try - self._now())
        return await self.refresh(key)

    def _has_just_failed(self, status: ItemStatus | None) -> bool:
        return status is not None and status.failures > 0 and self._now() < status.next_try

    async def _renew(self, key: ItemKey) -> Item:
        try:
            root_crl = await self.get(ROOT_CRL) if is_judged_by_root_crl(key) else None
            item = await self._from_sources(key, root_crl)
        except KubenclaveError as error:
            pause = self._pause_after(key, error)
            await asyncio.to_thread(self.store.failed, key, error, self._now() + pause)
            _log.warning(
                "collateral.not-renewed",
                item=str(key),
                code=error.code,
                error=str(error),
                hint=error.hint or "",
                seconds=round(pause.total_seconds()),
            )
            raise
        await asyncio.to_thread(self.store.succeeded, key, self._now() + self._pause_before_next(item))
        _log.info("collateral.renewed", item=str(key), source=item.source, next_update=zulu(item.next_update))
        return item

    async def _from_sources(self, key: ItemKey, root_crl: Item | None) -> Item:
        """Return the item of the first source that gives a good one, and keep it. Raises the most telling failure."""
        failures: list[KubenclaveError] = []
        for source in self.sources:
            try:
                self._leave_alone(source.name)
                fetched = await source.fetch(key)
                item = self._checked(key, fetched, root_crl, source.name)
                await asyncio.to_thread(self.store.put, item, allow_rollback=self.settings.dangerously_allow_rollback)
            except _RestingError as error:
                failures.append(error)
                continue
            except KubenclaveError as error:
                failures.append(error)
                self._note_rest(source.name, error)
                told = None if isinstance(error, UnknownError) else error  # that it has no such thing is an answer
                await asyncio.to_thread(self.store.source_answered, source.name, told)
                continue
            await asyncio.to_thread(self.store.source_answered, source.name, None)
            return item
        raise most_telling(failures, str(key))

    def _leave_alone(self, source: str) -> None:
        """Raise while a source is to be left alone, whichever item it said so of."""
        until, code = self._resting.get(source, (self._now(), ""))
        left = until - self._now()
        if left > dt.timedelta(0):
            raise _RestingError("the source is left alone for a while", code=code, field=source, retry_after=left)

    def _note_rest(self, source: str, error: KubenclaveError) -> None:
        """Leave a source alone for as long as it wants; one that lets us wait, for a moment if there are others."""
        if not isinstance(error, SourceError):
            return
        pause = error.retry_after
        if pause is None and error.code == "source.timeout" and len(self.sources) > 1:
            pause = self.settings.first_pause
        if pause is not None:
            self._resting[source] = self._now() + pause, error.code

    def _checked(self, key: ItemKey, fetched: Fetched, root_crl: Item | None, source: str) -> Item:
        now = self._now()
        return check(
            key,
            fetched.body,
            fetched.issuer_chain,
            anchor=self.anchor,
            now=now,
            root_crl=root_crl,
            source=source,
            fetched=now,
        )

    def _pause_before_next(self, item: Item) -> dt.timedelta:
        """Return when to renew a copy: well before it ends, and not all at the same moment."""
        left = max(item.next_update - self._now(), dt.timedelta(0))
        return max(min(self.settings.refresh_after, left / 2) * self._jitter.uniform(0.75, 1.0), _SECOND)

    def _pause_after(self, key: ItemKey, error: KubenclaveError) -> dt.timedelta:
        """Return how long to wait after a failure: twice as long each time, and as long as the source wants."""
        if isinstance(error, UnknownError):
            return self.settings.negative
        status = self.store.attempt(key)
        failures = 0 if status is None else min(status.failures, 20)
        pause: dt.timedelta = min(self.settings.first_pause * 2**failures, self.settings.longest_pause)
        pause *= self._jitter.uniform(0.75, 1.0)
        wanted = error.retry_after if isinstance(error, SourceError) else None
        return pause if wanted is None else max(pause, wanted)


def forget(under_way: dict[_Key, asyncio.Task[_Value]], key: _Key, task: asyncio.Task[_Value]) -> None:
    """Take a task that has ended off the list; its failure counts as seen, whoever waited may have gone."""
    under_way.pop(key, None)
    if not task.cancelled():
        task.exception()


def _again(status: ItemStatus, pause: dt.timedelta) -> KubenclaveError:
    """Return the failure of a short while ago once more."""
    if status.error_code == "collateral.unknown":
        return unknown(str(status.key), "any source")
    return SourceError(
        f"the sources have just failed: {status.error}",
        code=status.error_code or "source.failed",
        field=str(status.key),
        hint="they are tried again by themselves; see the status of the item",
        retry_after=pause,
    )
