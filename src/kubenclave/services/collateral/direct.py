# SPDX-License-Identifier: Apache-2.0
"""Items straight from sources, for whoever needs some once: nothing is stored, and each item is asked for once."""

import asyncio
import datetime as dt
from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

from kubenclave.dcap.anchor import TrustAnchor
from kubenclave.errors import KubenclaveError
from kubenclave.services.collateral.ingest import check, check_key, is_judged_by_root_crl
from kubenclave.services.collateral.items import ROOT_CRL, Item, ItemKey
from kubenclave.services.collateral.sources.base import Fetched, Source, most_telling

Check: TypeAlias = Callable[[ItemKey, Fetched, Item | None, str], Item]
"""Makes an item of what a source gave: its name, what came, the root's list (None for kinds without), the source."""


class Direct:
    """Asks the sources in their order. For one event loop."""

    def __init__(self, sources: Sequence[Source], checked: Check) -> None:
        self._sources: Final = tuple(sources)
        self._checked: Final = checked
        self._asked: Final[dict[ItemKey, asyncio.Task[Item]]] = {}

    async def get(self, key: ItemKey) -> Item:
        """Return an item. Raises the most telling failure of the sources."""
        check_key(key)
        if key not in self._asked:
            self._asked[key] = asyncio.create_task(self._fetch(key), name=f"fetch {key}")
        return await asyncio.shield(self._asked[key])

    async def close(self) -> None:
        """End what is under way and let go of the sources."""
        for task in self._asked.values():
            task.cancel()
        await asyncio.gather(*self._asked.values(), return_exceptions=True)
        for source in self._sources:
            await source.close()

    async def _fetch(self, key: ItemKey) -> Item:
        root_crl = await self.get(ROOT_CRL) if is_judged_by_root_crl(key) else None
        failures: list[KubenclaveError] = []
        for source in self._sources:
            try:
                return self._checked(key, await source.fetch(key), root_crl, source.name)
            except KubenclaveError as error:
                failures.append(error)
        raise most_telling(failures, str(key))


def verified_under(anchor: TrustAnchor, now: dt.datetime) -> Check:
    """Return a check of everything, dates among it."""

    def checked(key: ItemKey, fetched: Fetched, root_crl: Item | None, source: str) -> Item:
        return check(
            key,
            fetched.body,
            fetched.issuer_chain,
            anchor=anchor,
            now=now,
            root_crl=root_crl,
            source=source,
            fetched=now,
        )

    return checked


def as_it_comes(now: dt.datetime) -> Check:
    """Return a check of nothing, for collateral that a verifier judges with the quote. Dates of items say nothing."""

    def unchecked(key: ItemKey, fetched: Fetched, _root_crl: Item | None, source: str) -> Item:
        return Item(key, fetched.body, fetched.issuer_chain, now, now, 0, source, now)

    return unchecked
