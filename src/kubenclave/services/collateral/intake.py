# SPDX-License-Identifier: Apache-2.0
"""Collateral that somebody brings: all of it is verified before any is stored, and then all of it is, or nothing."""

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from kubenclave.dcap.anchor import TrustAnchor
from kubenclave.dcap.describe import zulu
from kubenclave.errors import KubenclaveError, TrustError
from kubenclave.services.collateral import ingest
from kubenclave.services.collateral.bundle import Bundle
from kubenclave.services.collateral.items import ROOT_CRL, Item, ItemKey
from kubenclave.services.collateral.store import Store
from kubenclave.services.database import Database

_AHEAD: Final = dt.timedelta(hours=1)  # that the clock of whoever makes bundles may be
MIGRATIONS: Final = (
    """CREATE TABLE bundles (
        signer TEXT PRIMARY KEY,
        created TEXT NOT NULL,
        imported TEXT NOT NULL
    );""",
)


@dataclass(frozen=True, slots=True)
class Offered:
    """An item as it was brought; ``issuer_chain`` in PEM, empty where the kind has none."""

    key: ItemKey
    body: bytes = field(repr=False)
    issuer_chain: bytes = field(repr=False)
    fetched: dt.datetime


def verified(
    offered: Sequence[Offered], held: Item | None, *, anchor: TrustAnchor, now: dt.datetime, source: str
) -> list[Item]:
    """Return the items once every one of them holds; ``held`` is the root's list that is stored.

    The root's list among them, where there is one, is what the others are held against.
    Raises what ``ingest.check`` raises for the first that does not hold, with its name as the field.
    """
    root_crl, items = held, []
    for each in sorted(offered, key=lambda one: one.key != ROOT_CRL):
        try:
            item = ingest.check(
                each.key,
                each.body,
                each.issuer_chain,
                anchor=anchor,
                now=now,
                root_crl=root_crl,
                source=source,
                fetched=each.fetched,
            )
        except KubenclaveError as error:
            error.field = f"{each.key}: {error.field}" if error.field else str(each.key)
            raise
        root_crl = item if each.key == ROOT_CRL else root_crl
        items.append(item)
    return items


def keep(store: Store, items: Sequence[Item], now: dt.datetime, *, allow_rollback: bool = False) -> None:
    """Store all of the items, or none; sources, where there are any, are asked for newer ones as for all others.

    Raises what ``Store.put`` raises.
    """
    store.put_all(items, allow_rollback=allow_rollback)
    for item in items:
        store.succeeded(item.key, now + (item.next_update - now) / 2)


class Bundles:
    """Takes in signed bundles, and remembers how new the last one of each signer was.

    Raises UsageError ``collateral.other-root`` where the store is for another root.
    """

    def __init__(self, database: Database, store: Store, anchor: TrustAnchor) -> None:
        store.keep_to(anchor.digest)
        database.migrate("bundles", MIGRATIONS)
        self._database: Final = database
        self._store: Final = store
        self._anchor: Final = anchor

    def take_in(self, bundle: Bundle, now: dt.datetime, *, dangerously_allow_rollback: bool = False) -> list[Item]:
        """Verify and store all of a bundle whose signature holds; return what was stored.

        Raises TrustError ``bundle.root`` for one of another root, ``bundle.ahead`` for one that is to be made only,
        ``bundle.expired`` once its first item has ended,
        ``bundle.rollback`` for one older than the last of its signer, and what ``verified`` and ``keep`` raise.
        """
        self._judge(bundle, now, dangerously_allow_rollback)
        offered = [Offered(item.key, item.body, item.issuer_chain, item.fetched) for item in bundle.items]
        source = f"bundle of {bundle.created.astimezone(dt.UTC):%Y-%m-%dT%H:%M:%SZ}, signed by {bundle.signer}"
        items = verified(offered, self._store.get(ROOT_CRL), anchor=self._anchor, now=now, source=source)
        keep(self._store, items, now, allow_rollback=dangerously_allow_rollback)
        with self._database.transaction() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO bundles VALUES (?, ?, ?)",
                (bundle.signer, bundle.created.isoformat(), now.isoformat()),
            )
        return items

    def _judge(self, bundle: Bundle, now: dt.datetime, allow_rollback: bool) -> None:
        if bundle.root != self._anchor.digest:
            raise TrustError(
                "the bundle is of another root",
                code="bundle.root",
                expected=self._anchor.digest,
                found=f"{bundle.root}{' (SIMULATED)' if bundle.simulated else ''}",
            )
        if bundle.created > now + _AHEAD:
            raise TrustError(
                "the bundle was made at a time that is still to come",
                code="bundle.ahead",
                expected=f"made before {zulu(now)}",
                found=zulu(bundle.created),
                hint="check the clocks: once it is taken in, all that are made until then would be too old",
            )
        if now > bundle.horizon:
            raise TrustError(
                "something in the bundle has ended",
                code="bundle.expired",
                expected=f"before {zulu(bundle.horizon)}",
                found=zulu(now),
                hint="have a new one made: kubenclave collateral bundle create",
            )
        last = self._last(bundle.signer)
        if last is not None and bundle.created < last and not allow_rollback:
            raise TrustError(
                "the bundle is older than the last one of the same signer",
                code="bundle.rollback",
                expected=f"made at {zulu(last)} or later",
                found=zulu(bundle.created),
                hint="where that is meant: --dangerously-allow-rollback",
            )

    def _last(self, signer: str) -> dt.datetime | None:
        rows = self._database.read("SELECT created FROM bundles WHERE signer = ?", (signer,))
        return dt.datetime.fromisoformat(rows[0]["created"]) if rows else None
