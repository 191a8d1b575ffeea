# SPDX-License-Identifier: Apache-2.0
"""The collateral service: what its routes work on, and what administrators have it do."""

import asyncio
import datetime as dt
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Self

from kubenclave.dcap.anchor import TrustAnchor
from kubenclave.errors import KubenclaveError, PlatformError
from kubenclave.services.collateral.appraisal import AppraisalPolicies
from kubenclave.services.collateral.cache import CollateralCache
from kubenclave.services.collateral.intake import Bundles, Offered, verified
from kubenclave.services.collateral.items import ROOT_CRL, ItemKey
from kubenclave.services.collateral.platformcollateral import PlatformCollateral
from kubenclave.services.collateral.queue import PlatformQueue
from kubenclave.services.collateral.store import Store
from kubenclave.services.web.guard import Guard

_AT_ONCE = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of several things: how many went well, and what went wrong, by name."""

    good: int
    failures: tuple[tuple[str, KubenclaveError], ...] = ()
    left_out: tuple[str, ...] = ()

    def __str__(self) -> str:
        parts = [f"{self.good} done"]
        parts += [f"{name} failed: {error} [{error.code}]" for name, error in self.failures]
        parts += [f"{name} left out: its issuer chain is neither in there nor held" for name in self.left_out]
        return "; ".join(parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class CollateralService:
    """All of it; made by ``create``. ``now`` returns the time in UTC."""

    cache: CollateralCache
    queue: PlatformQueue
    policies: AppraisalPolicies
    bundles: Bundles
    guard: Guard
    now: Callable[[], dt.datetime]

    @classmethod
    def create(cls, cache: CollateralCache, guard: Guard, now: Callable[[], dt.datetime]) -> Self:
        """Put the service together around a cache, in the database of its store."""
        database = cache.store.database
        return cls(
            cache=cache,
            queue=PlatformQueue(database, now),
            policies=AppraisalPolicies(database),
            bundles=Bundles(database, cache.store, cache.anchor),
            guard=guard,
            now=now,
        )

    @property
    def anchor(self) -> TrustAnchor:
        """The root under which everything is verified."""
        return self.cache.anchor

    @property
    def store(self) -> Store:
        """What is held."""
        return self.cache.store

    def take_in(self, brought: PlatformCollateral) -> Outcome:
        """Verify and store what was brought: all of it, or nothing.

        A revocation list without the chain of its issuer is judged by the chain that is held, and left out where there
        is none. Raises what ``intake.verified`` and ``Store.put`` raise.
        """
        chained, left_out = self._chained(brought.chainless)
        held = self.store.get(ROOT_CRL)
        items = verified(
            (*brought.offered, *chained), held, anchor=self.anchor, now=self.now(), source="platformcollateral"
        )
        self.store.put_all(items)
        return Outcome(good=len(items), left_out=left_out)

    async def renew(self) -> Outcome:
        """Renew every item that is held. Raises PlatformError ``collateral.offline`` where there is no source.

        Each goes its own way; only when none could be renewed the first error is raised.
        """
        if not self.cache.sources:
            raise PlatformError(
                "this service asks nobody: collateral is brought to it",
                code="collateral.offline",
                hint="kubenclave collateral bundle import, or PUT platformcollateral",
            )
        keys = await asyncio.to_thread(self.store.keys)
        first = [key for key in keys if key == ROOT_CRL]  # the others are judged by it
        outcome = await self._renewed(first, [key for key in keys if key != ROOT_CRL])
        if outcome.failures and not outcome.good:
            raise outcome.failures[0][1]
        return outcome

    async def _renewed(self, *groups: Iterable[ItemKey]) -> Outcome:
        turns = asyncio.Semaphore(_AT_ONCE)

        async def one(key: ItemKey) -> tuple[str, KubenclaveError] | None:
            async with turns:
                try:
                    await self.cache.refresh(key)
                except KubenclaveError as error:
                    return str(key), error
            return None

        results = [each for group in groups for each in await asyncio.gather(*map(one, group))]
        failures = tuple(each for each in results if each is not None)
        return Outcome(good=len(results) - len(failures), failures=failures)

    def _chained(self, chainless: Iterable[Offered]) -> tuple[list[Offered], tuple[str, ...]]:
        """Return lists with the chain that is held, and the names of those for which none is."""
        found, left_out = [], []
        for each in chainless:
            held = self.store.get(each.key)
            if held is None:
                left_out.append(str(each.key))
            else:
                found.append(Offered(each.key, each.body, held.issuer_chain, each.fetched))
        return found, tuple(left_out)
