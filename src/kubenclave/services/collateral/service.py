# SPDX-License-Identifier: Apache-2.0
"""The collateral service: what its routes work on, and what administrators have it do."""

import asyncio
import datetime as dt
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from kubenclave.dcap.anchor import TrustAnchor
from kubenclave.errors import KubenclaveError, PlatformError, TrustError, UsageError
from kubenclave.services.collateral.appraisal import AppraisalPolicies
from kubenclave.services.collateral.assemble import read_leaf
from kubenclave.services.collateral.cache import CollateralCache
from kubenclave.services.collateral.ingest import check_pck_leaf
from kubenclave.services.collateral.intake import Bundles, Offered, keep, verified
from kubenclave.services.collateral.items import ROOT_CRL, Item, ItemKey
from kubenclave.services.collateral.pck import PckCerts, Standing
from kubenclave.services.collateral.platformcollateral import PckOffer, PlatformCollateral
from kubenclave.services.collateral.platforms import KnownPlatforms
from kubenclave.services.collateral.queue import Platform, PlatformQueue
from kubenclave.services.collateral.sources.base import PckAnswer, PckRequest
from kubenclave.services.collateral.store import Store
from kubenclave.services.database import Database
from kubenclave.services.web.guard import Guard
from kubenclave.wire import pcs

DATABASE: Final = "collateral.db"
"""The file in the state directory of a service."""

_AT_ONCE: Final = 4
_PATIENCE: Final = 10.0  # seconds that a platform which registers waits for the sources
_TURN: Final = 20.0  # seconds that one renewal of certificates takes at most; an answer may take 30
_BROUGHT: Final = "platformcollateral"  # what status calls the source of what was brought


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of several things: how many went well, what failed, by name, and how many there was no time for."""

    good: int
    failures: tuple[tuple[str, KubenclaveError], ...] = ()
    left_out: tuple[str, ...] = ()
    rest: int = 0

    def __str__(self) -> str:
        parts = [f"{self.good} done"]
        parts += [f"{name} failed: {error} [{error.code}]" for name, error in self.failures]
        parts += [f"{name} left out: its issuer chain is neither in there nor held" for name in self.left_out]
        parts += [f"{self.rest} left for the next time: ask again"] if self.rest else []
        return "; ".join(parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class CollateralService:
    """All of it; made by ``create``. ``now`` returns the time in UTC."""

    cache: CollateralCache
    platforms: KnownPlatforms
    pck_certs: PckCerts
    queue: PlatformQueue
    policies: AppraisalPolicies
    bundles: Bundles
    guard: Guard
    now: Callable[[], dt.datetime]

    @classmethod
    def create(cls, cache: CollateralCache, guard: Guard, now: Callable[[], dt.datetime]) -> Self:
        """Put the service together around a cache, in the database of its store."""
        database = cache.store.database
        platforms = KnownPlatforms(database, now)
        return cls(
            cache=cache,
            platforms=platforms,
            pck_certs=PckCerts(cache, platforms, now=now),
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

    async def register(self, platform: Platform) -> bool:
        """Queue a platform, and ask the sources for its certificates; tell whether they are here now.

        What the sources answer is not the platform's concern: it is registered, and stands in the queue until somebody
        brings the certificates. Raises PlatformError ``registration.full``.
        """
        await asyncio.to_thread(self.queue.add, platform)
        try:
            async with asyncio.timeout(_PATIENCE):
                await self.pck_certs.answer(_request(platform), Standing.REGISTERED)
        except TimeoutError:
            return False
        except KubenclaveError as error:
            if error.code == "pck.not-available":
                await asyncio.to_thread(self.queue.not_available, platform.qe_id, platform.pce_id, error.code)
            return False
        await asyncio.to_thread(self.queue.done, [(platform.qe_id, platform.pce_id)])
        return True

    async def take_in(self, brought: PlatformCollateral) -> Outcome:
        """Verify and store what was brought: all of it, or nothing. Platforms with certificates leave the queue.

        A revocation list without the chain of its issuer is judged by the chain that is held, and left out where there
        is none. Raises what ``intake.verified`` and ``intake.keep`` raise.
        """
        chained, left_out = await asyncio.to_thread(self._chained, brought.chainless)
        items = await asyncio.to_thread(self._verified, (*brought.offered, *chained))
        answers = await asyncio.to_thread(self._answers, brought.pck_certs, items)
        await asyncio.to_thread(keep, self.store, items, self.now())
        for offer, answer in answers:
            told = Platform(offer.qe_id, offer.pce_id, enc_ppid=offer.enc_ppid, manifest=offer.manifest)
            await self.pck_certs.put(_request(told), answer, _BROUGHT)
        await asyncio.to_thread(self.queue.done, [(offer.qe_id, offer.pce_id) for offer, _ in answers])
        for offer in brought.pck_certs:
            if not offer.available:
                await asyncio.to_thread(self.queue.not_available, offer.qe_id, offer.pce_id, pcs.NOT_AVAILABLE)
        return Outcome(good=len(items) + len(answers), left_out=left_out)

    async def close(self) -> None:
        """End what is under way and let go of the sources; the database is for whoever opened it."""
        await self.pck_certs.close()
        await self.cache.close()

    async def renew(self) -> Outcome:
        """Renew every item that is held. Raises PlatformError ``collateral.offline`` where there is no source.

        Each goes its own way; only when none could be renewed the first error is raised.
        """
        self._need_sources()
        keys = await asyncio.to_thread(self.store.keys)
        first = [key for key in keys if key == ROOT_CRL]  # the others are judged by it
        return _some_good(await self._renewed(first, [key for key in keys if key != ROOT_CRL]))

    async def renew_certificates(self, fmspcs: Collection[str] = ()) -> Outcome:
        """Ask the sources again for the PCK certificates of platforms of these families, of all without any.

        As many as there is time for, those first that were fetched longest ago. Raises as ``renew`` does.
        """
        self._need_sources()
        due = await asyncio.to_thread(self.pck_certs.renewable, fmspcs)
        good, failures = 0, list[tuple[str, KubenclaveError]]()
        with suppress(TimeoutError):
            async with asyncio.timeout(_TURN):
                for name, request in due:
                    try:
                        await self.pck_certs.renew(name, request)
                    except KubenclaveError as error:
                        failures.append((f"platform {name[:12]}", error))
                    else:
                        good += 1
        rest = len(due) - good - len(failures)
        return _some_good(Outcome(good=good, failures=tuple(failures), rest=rest))

    def _need_sources(self) -> None:
        if not self.cache.sources:
            raise PlatformError(
                "this service asks nobody: collateral is brought to it",
                code="collateral.offline",
                hint="kubenclave collateral bundle import, or PUT platformcollateral",
            )

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

    def _verified(self, offered: Sequence[Offered]) -> list[Item]:
        held = self.store.get(ROOT_CRL)
        return verified(offered, held, anchor=self.anchor, now=self.now(), source=_BROUGHT)

    def _answers(self, offers: Iterable[PckOffer], items: Sequence[Item]) -> list[tuple[PckOffer, PckAnswer]]:
        return [(offer, self._answer(offer, items)) for offer in offers if offer.available]

    def _answer(self, offer: PckOffer, items: Sequence[Item]) -> PckAnswer:
        """Return a platform's certificates once each of them holds by the lists that come with it, or are held."""
        fresh, chain = {item.key: item for item in items}, b""
        for leaf in (entry.cert for entry in offer.entries if entry.cert is not None):
            _, ca = read_leaf(leaf)
            chain = offer.issuer_chains.get(ca.value, b"")
            root_crl, pck_crl = (self._crl(key, fresh) for key in (ROOT_CRL, ItemKey.pck_crl(ca.value)))
            check_pck_leaf(leaf, chain, anchor=self.anchor, now=self.now(), root_crl=root_crl, pck_crl=pck_crl)
        return PckAnswer(offer.entries, chain)

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

    def _crl(self, key: ItemKey, fresh: Mapping[ItemKey, Item]) -> Item:
        """Return a revocation list that was brought along, or is held."""
        found = fresh.get(key) or self.store.get(key)
        if found is None:
            raise TrustError(
                "without the revocation lists nobody can tell whether a PCK certificate is good",
                code="collateral.no-crl",
                field=str(key),
                hint="bring the list along",
            )
        return found


def _request(platform: Platform) -> PckRequest:
    """Return what to ask the sources: by the manifest where there is one, which tells the TCB as well."""
    ppid = bytes.fromhex(platform.enc_ppid)
    return PckRequest(
        platform.qe_id,
        bytes.fromhex(platform.pce_id),
        bytes.fromhex(platform.cpu_svn),
        bytes.fromhex(platform.pce_svn),
        ppid if any(ppid) else None,
        platform.manifest or None,
    )


def items_in(state: Path) -> list[Item]:
    """Return what a collateral service that keeps its state there holds. Raises UsageError where there is none."""
    path = state / DATABASE
    if not path.is_file():
        raise UsageError(
            "no collateral service keeps its state there", code="collateral.no-state", field=str(path), found="no file"
        )
    database = Database(path)
    try:
        return Store(database, lambda: dt.datetime.now(dt.UTC)).items()
    finally:
        database.close()


def _some_good(outcome: Outcome) -> Outcome:
    """Return an outcome; raises its first error where nothing went well."""
    if outcome.failures and not outcome.good:
        raise outcome.failures[0][1]
    return outcome
