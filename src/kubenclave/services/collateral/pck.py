# SPDX-License-Identifier: Apache-2.0
"""PCK certificates of platforms: where they are kept, and when they are looked for again.

A platform has a certificate for each TCB that Intel knows of it; a quoting enclave needs the one for the highest TCB
that is not above the platform's own. Where Intel has none for a TCB yet, that is looked at again.

Anybody may ask, under whatever QE-ID, for the certificates of whatever platform. So what is held for a QE-ID gives way
to those of another platform only when somebody says so who stands higher than who said so before.
"""

import asyncio
import datetime as dt
import enum
import re
import sqlite3
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from typing import Final

import structlog

from kubenclave.dcap.documents import TcbInfo
from kubenclave.errors import KubenclaveError, TrustError
from kubenclave.services.collateral.assemble import read_leaf
from kubenclave.services.collateral.cache import CollateralCache, forget
from kubenclave.services.collateral.ingest import check_pck_leaf
from kubenclave.services.collateral.items import ROOT_CRL, ItemKey, Tee
from kubenclave.services.collateral.pckselection import PckCertificate, choose
from kubenclave.services.collateral.platforms import CERTIFICATE, KnownPlatforms
from kubenclave.services.collateral.sources.base import PckAnswer, PckRequest, UnknownError, most_telling, unknown
from kubenclave.services.web.limits import Buckets, Rate
from kubenclave.wire import pcs

MIGRATIONS: Final = (
    """
CREATE TABLE pck_platforms (
    platform TEXT PRIMARY KEY, issuer_chain BLOB NOT NULL, source TEXT NOT NULL, fetched INTEGER NOT NULL,
    pce_id BLOB NOT NULL, encrypted_ppid BLOB, manifest TEXT
) WITHOUT ROWID;
CREATE TABLE pck_certs (
    platform TEXT NOT NULL REFERENCES pck_platforms ON DELETE CASCADE, tcbm BLOB NOT NULL, cert BLOB,
    PRIMARY KEY (platform, tcbm)
) WITHOUT ROWID;
CREATE TABLE pck_tcbs (
    platform TEXT NOT NULL, tcb BLOB NOT NULL, next_try INTEGER NOT NULL, PRIMARY KEY (platform, tcb)
) WITHOUT ROWID;
""",
    "ALTER TABLE pck_platforms ADD COLUMN standing INTEGER NOT NULL DEFAULT 0;",
)

REVISIT: Final = dt.timedelta(hours=6)
"""How long a TCB for which there is no certificate of its own is left alone before the sources are asked again."""

_NEW_PLATFORMS: Final = Rate(per_second=20.0, burst=500)  # that strangers may have the sources asked for
_MOST_STRANGERS: Final = 10_000  # platforms kept that nobody has registered; some 20 kB each
_INCOMPLETE: Final = """
SELECT platform, pce_id, encrypted_ppid, manifest FROM pck_platforms
WHERE fetched < ? AND coalesce(encrypted_ppid, manifest) IS NOT NULL
AND platform IN (SELECT platform FROM pck_certs WHERE cert IS NULL)
AND platform NOT IN (SELECT platform FROM pck_tcbs WHERE tcb = x'' AND next_try > ?)
ORDER BY standing DESC, fetched LIMIT 64
"""
_RENEWABLE: Final = """
SELECT platform, pce_id, encrypted_ppid, manifest,
(SELECT cert FROM pck_certs WHERE pck_certs.platform = pck_platforms.platform AND cert IS NOT NULL LIMIT 1) AS cert
FROM pck_platforms WHERE coalesce(encrypted_ppid, manifest) IS NOT NULL ORDER BY fetched, platform
"""
_STRANGERS_TOO_MANY: Final = """
DELETE FROM pck_platforms WHERE platform IN
(SELECT platform FROM pck_platforms WHERE standing = 0 ORDER BY fetched DESC LIMIT -1 OFFSET ?)
"""
_ALIAS: Final = re.compile(r"known-([0-9a-f]{32})")  # what stands in place of a QE-ID that is not held
_log = structlog.get_logger()


class Standing(enum.IntEnum):
    """Who says that certificates are those of a QE-ID."""

    STRANGER = 0  # whoever asked for them first
    REGISTERED = 1  # a platform, with the role ``register``
    BROUGHT = 2  # an administrator


class PckCerts:
    """Certificates of platforms, from the database or the cache's sources. For one event loop."""

    def __init__(self, cache: CollateralCache, platforms: KnownPlatforms, *, now: Callable[[], dt.datetime]) -> None:
        self._cache: Final = cache
        self._platforms: Final = platforms
        self._database: Final = cache.store.database
        self._now: Final = now
        self._under_way: Final[dict[tuple[str, PckRequest, Standing], asyncio.Task[None]]] = {}
        self._new_platforms: Final = Buckets(_NEW_PLATFORMS, time.monotonic)
        self._database.migrate("pck", MIGRATIONS)
        cache.chores.append(self.refresh_due)

    async def certificate(self, request: PckRequest) -> PckCertificate:
        """Return the certificate for a platform's TCB.

        The sources are asked where the platform is not known, or where there was no certificate for that very TCB
        when they were asked some hours ago. Raises UnknownError where nobody knows the platform
        (``collateral.unknown``) or there is none for its TCB (``pck.not-available``), TooFastError where too many ask
        for platforms that nobody has heard of, and what sources raise where nothing is held.
        """
        name, tcb = self._name(request.qe_id, request.pce_id), request.cpu_svn + request.pce_svn
        held = self._held(name)
        if all(each.tcbm != tcb for each in held) and self._is_due(name, tcb):
            if not held:
                self._new_platforms.take("")
            try:
                await self.renew(name, request)
            except KubenclaveError as error:
                if not held:
                    raise
                if error.code != "pck.other-platform":  # else strangers could keep a platform from new certificates
                    await asyncio.to_thread(self._note_try, name, tcb, self._cache.settings.negative)
                _log.warning("pck.not-renewed", platform=name, code=error.code, error=str(error))
            held = self._held(name)
        if not held:
            raise unknown("PCK certificates", "any source")
        chosen = choose(held, request.cpu_svn, int.from_bytes(request.pce_svn, "little"), self._tcb_info(held))
        if chosen is None:
            raise _not_available(held)
        await asyncio.to_thread(self._platforms.saw, chosen.extension, chosen.ca, CERTIFICATE)
        return chosen

    async def answer(self, request: PckRequest, standing: Standing = Standing.STRANGER) -> PckAnswer:
        """Return all certificates of a platform, as the first source that knows it has them, verified and kept.

        Raises TrustError ``pck.other-platform`` where those that are held for the QE-ID are of another platform and
        stay, TooFastError where too many strangers ask, and what sources raise.
        """
        if standing is Standing.STRANGER:
            self._new_platforms.take("")
        name = self._name(request.qe_id, request.pce_id)
        await self.renew(name, request, standing)
        rows = self._database.read("SELECT tcbm, cert FROM pck_certs WHERE platform = ? ORDER BY tcbm DESC", (name,))
        chain = self._database.read("SELECT issuer_chain FROM pck_platforms WHERE platform = ?", (name,))
        return PckAnswer(tuple(pcs.PckEntry(row["tcbm"], row["cert"]) for row in rows), chain[0]["issuer_chain"])

    async def put(self, request: PckRequest, answer: PckAnswer, source: str) -> None:
        """Keep certificates of a platform that somebody brings, once all of them hold. Raises TrustError.

        The platform goes by its QE-ID, or by what ``alias_of`` put in its place: then it stays the platform that it is,
        as what it was fetched by may be what a stranger said.
        """
        checked = await self._checked(request.pce_id, answer)
        name, standing = self._name(request.qe_id, request.pce_id), Standing.BROUGHT
        if (alias := _ALIAS.fullmatch(request.qe_id.lower())) is not None and self._held(alias[1]):
            name, standing = alias[1], Standing.STRANGER
        await asyncio.to_thread(self._write, name, request, checked, source, standing)

    def knows(self, qe_id: str, pce_id: bytes) -> bool:
        """Tell whether certificates of that platform are held."""
        return bool(self._held(self._name(qe_id, pce_id)))

    async def refresh_due(self) -> None:
        """Ask again for platforms with a TCB for which there was no certificate; failures wait for the next time."""
        now = self._now()
        since = int((now - REVISIT).timestamp())
        for row in self._database.read(_INCOMPLETE, (since, int(now.timestamp()))):
            await asyncio.to_thread(self._note_try, row["platform"], b"", REVISIT)
            with suppress(KubenclaveError):
                await self.renew(row["platform"], _by_platform(row))

    def renewable(self, fmspcs: Collection[str] = ()) -> list[tuple[str, PckRequest]]:
        """Return the platforms of these families, of all without any, that Intel can be asked for again.

        By name; those that were fetched longest ago come first.
        """
        rows = self._database.read(_RENEWABLE)
        return [
            (row["platform"], _by_platform(row))
            for row in rows
            if not fmspcs or (row["cert"] is not None and read_leaf(row["cert"])[0].fmspc.hex() in fmspcs)
        ]

    async def close(self) -> None:
        """End what is under way."""
        tasks = list(self._under_way.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def renew(self, name: str, request: PckRequest, standing: Standing = Standing.STRANGER) -> None:
        """Ask the sources for the certificates of a platform, by its name here. Raises what ``answer`` raises."""
        key = (name, request, standing)
        task = self._under_way.get(key)
        if task is None:
            task = asyncio.create_task(self._from_sources(name, request, standing), name="renew PCK certificates")
            self._under_way[key] = task
            task.add_done_callback(lambda done: forget(self._under_way, key, done))
        await asyncio.shield(task)  # others who ask the same wait for it as well

    async def _from_sources(self, name: str, request: PckRequest, standing: Standing) -> None:
        failures: list[KubenclaveError] = []
        for source in self._cache.sources:
            try:
                answer = await self._checked(request.pce_id, await source.pck_certs(request))
            except KubenclaveError as error:
                failures.append(error)
                continue
            await asyncio.to_thread(self._write, name, request, answer, source.name, standing)
            await asyncio.to_thread(self._note_try, name, request.cpu_svn + request.pce_svn, REVISIT)
            _log.info("pck.renewed", platform=name, source=source.name, count=len(answer.entries))
            return
        if all(isinstance(each, UnknownError) for each in failures):
            tcb, pause = request.cpu_svn + request.pce_svn, self._cache.settings.negative
            await asyncio.to_thread(self._note_try, name, tcb, pause)
        raise most_telling(failures, "PCK certificates")

    async def _checked(self, pce_id: bytes, answer: PckAnswer) -> PckAnswer:
        """Refuse certificates that do not hold, or of which some is of another platform than the others."""
        root_crl, first, issuer_chain = await self._cache.get(ROOT_CRL), b"", b""
        for entry in answer.entries:
            if entry.cert is None:
                continue
            _, ca = read_leaf(entry.cert)
            extension, issuer_chain = check_pck_leaf(
                entry.cert,
                answer.issuer_chain,
                anchor=self._cache.anchor,
                now=self._now(),
                root_crl=root_crl,
                pck_crl=await self._cache.get(ItemKey.pck_crl(ca)),
            )
            if entry.tcbm != extension.cpu_svn + extension.pce_svn.to_bytes(2, "little"):
                found = f"{extension.cpu_svn.hex()}, PCE SVN {extension.pce_svn}"
                raise _another("SGX-TCBm", entry.tcbm.hex(), found)
            first = first or extension.ppid
            if extension.pce_id != pce_id or extension.ppid != first:
                raise _another("platform", f"PCE-ID {pce_id.hex()} and one PPID", f"PCE-ID {extension.pce_id.hex()}")
        if not first:
            raise _not_available([])
        return PckAnswer(answer.entries, issuer_chain)

    def _write(self, name: str, request: PckRequest, answer: PckAnswer, source: str, standing: Standing) -> None:
        """Keep what was checked, with what Intel knows the platform by: ciphertext that nobody else can read."""
        with self._database.transaction() as connection:
            _make_room(connection, name, answer, standing)
            connection.execute(
                "INSERT INTO pck_platforms VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (platform) DO UPDATE SET"
                " issuer_chain = excluded.issuer_chain, source = excluded.source, fetched = excluded.fetched,"
                " encrypted_ppid = CASE excluded.standing WHEN 0 THEN coalesce(encrypted_ppid, excluded.encrypted_ppid)"
                " ELSE coalesce(excluded.encrypted_ppid, encrypted_ppid) END,"
                " manifest = CASE excluded.standing WHEN 0 THEN coalesce(manifest, excluded.manifest)"
                " ELSE coalesce(excluded.manifest, manifest) END, standing = max(standing, excluded.standing)",
                (
                    name,
                    answer.issuer_chain,
                    source,
                    int(self._now().timestamp()),
                    request.pce_id,
                    request.encrypted_ppid,
                    request.manifest,
                    standing,
                ),
            )
            connection.executemany(
                "INSERT INTO pck_certs VALUES (?, ?, ?) ON CONFLICT (platform, tcbm) DO UPDATE SET"
                " cert = coalesce(excluded.cert, cert)",  # what is no longer available is still good
                [(name, entry.tcbm, entry.cert) for entry in answer.entries],
            )
            connection.execute(_STRANGERS_TOO_MANY, (_MOST_STRANGERS,))

    def _held(self, name: str) -> list[PckCertificate]:
        rows = self._database.read(
            "SELECT tcbm, cert, issuer_chain FROM pck_certs JOIN pck_platforms USING (platform)"
            " WHERE platform = ? AND cert IS NOT NULL ORDER BY tcbm",
            (name,),
        )
        return [
            PckCertificate(row["cert"], row["issuer_chain"], row["tcbm"], extension, ca.value)
            for row in rows
            for extension, ca in (read_leaf(row["cert"]),)
        ]

    def _is_due(self, name: str, tcb: bytes) -> bool:
        now = int(self._now().timestamp())
        query = "SELECT 1 FROM pck_tcbs WHERE platform = ? AND tcb = ? AND next_try > ?"
        return not self._database.read(query, (name, tcb, now))

    def _note_try(self, name: str, tcb: bytes, pause: dt.timedelta) -> None:
        now = self._now()
        with self._database.transaction() as connection:
            # What is due says no more than nothing would: so names that somebody makes up do not pile up.
            connection.execute("DELETE FROM pck_tcbs WHERE next_try <= ?", (int(now.timestamp()),))
            values = (name, tcb, int((now + pause).timestamp()))
            connection.execute("INSERT OR REPLACE INTO pck_tcbs VALUES (?, ?, ?)", values)

    def _tcb_info(self, held: Sequence[PckCertificate]) -> TcbInfo | None:
        """Return the TCB info of that family where it is held; where not, the SVNs alone decide."""
        if not held:
            return None
        item = self._cache.store.get(ItemKey.tcb_info(Tee.SGX, held[0].fmspc))
        return None if item is None else TcbInfo.parse(pcs.split_signed(item.body, pcs.TCB_INFO)[0])

    def _name(self, qe_id: str, pce_id: bytes) -> str:
        return self._platforms.name_of(b"QE-ID\0" + qe_id.lower().encode() + b"\0" + pce_id)


def alias_of(name: str) -> str:
    """Return what administrators are told of a platform that goes by this name here: no QE-ID is held."""
    return f"known-{name}".upper()


def _by_platform(row: sqlite3.Row) -> PckRequest:
    """Return the question for all certificates of a platform, by what Intel knows it by."""
    return PckRequest("", row["pce_id"], b"", b"", row["encrypted_ppid"], row["manifest"])


def _make_room(connection: sqlite3.Connection, name: str, answer: PckAnswer, standing: Standing) -> None:
    """Let go of certificates of another platform, where whoever brings these stands higher than who brought those.

    Raises TrustError ``pck.other-platform`` where not. What identifies a platform is not told.
    """
    row = connection.execute(
        "SELECT cert, standing FROM pck_platforms JOIN pck_certs USING (platform)"
        " WHERE platform = ? AND cert IS NOT NULL LIMIT 1",
        (name,),
    ).fetchone()
    brought = next(entry.cert for entry in answer.entries if entry.cert is not None)
    if row is None or read_leaf(row["cert"])[0].ppid == read_leaf(brought)[0].ppid:
        return
    if standing <= row["standing"] and standing is not Standing.BROUGHT:
        raise TrustError(
            "certificates of another platform are held for that QE-ID",
            code="pck.other-platform",
            hint="where this platform took its place: register it, or have its certificates brought",
        )
    connection.execute("DELETE FROM pck_platforms WHERE platform = ?", (name,))


def _another(field: str, expected: str, found: str) -> TrustError:
    return TrustError(
        "genuine, but not what was asked for", code="collateral.other", field=field, expected=expected, found=found
    )


def _not_available(held: Sequence[PckCertificate]) -> UnknownError:
    lowest = min((each.tcbm.hex() for each in held), default="none at all")
    return UnknownError(
        "there is no PCK certificate for that TCB of the platform",
        code="pck.not-available",
        field="cpusvn, pcesvn",
        expected=f"not below {lowest}",
        hint="the sources are asked again after some hours; register the platform anew after a change of its firmware",
    )
