# SPDX-License-Identifier: Apache-2.0
"""PCK certificates: the right one for a TCB, kept per platform, looked for again where there was none."""

import datetime as dt
import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import kubenclave
from kubenclave.dcap.documents import TcbInfo
from kubenclave.errors import KubenclaveError, PlatformError, TrustError
from kubenclave.platform.simulated import documents
from kubenclave.platform.simulated.issuer import Issuer
from kubenclave.platform.simulated.pki import Role, pem_chain
from kubenclave.platform.simulated.tcb import FMSPC, PCE_ID, PlatformTcb
from kubenclave.services.collateral import pck as module
from kubenclave.services.collateral.assemble import read_leaf
from kubenclave.services.collateral.items import ItemKey
from kubenclave.services.collateral.pck import REVISIT, PckCerts, Standing, alias_of
from kubenclave.services.collateral.pckselection import PckCertificate, choose
from kubenclave.services.collateral.platforms import CERTIFICATE, EVIDENCE, KnownPlatforms
from kubenclave.services.collateral.sources.base import PckAnswer, PckRequest, SourceError, unknown
from kubenclave.services.collateral.store import Store
from kubenclave.services.web.limits import Rate, TooFastError
from kubenclave.wire.pcs import PckEntry
from tests import evidence
from tests.asynchronous import in_a_loop
from tests.clock import Clock
from tests.collateral_world import DAY, NOW, WorldSource, cache_of, clock, source, store
from tests.pcs_upstream import ENCRYPTED_PPID, QE_ID, World, tcbm_of

__all__ = ["clock", "source", "store"]

UP_TO_DATE, OLD = PlatformTcb.UP_TO_DATE, PlatformTcb.OUT_OF_DATE


def request(tcb: PlatformTcb = UP_TO_DATE, **changes: Any) -> PckRequest:
    tcbm = tcbm_of(tcb)
    return replace(PckRequest(QE_ID, PCE_ID, tcbm[:16], tcbm[16:], ENCRYPTED_PPID), **changes)


def certs_of(store: Store, source: WorldSource, clock: Clock) -> tuple[PckCerts, KnownPlatforms]:
    platforms = KnownPlatforms(store.database, clock)
    return PckCerts(cache_of(store, source, clock=clock), platforms, now=clock), platforms


def certificates(world: World) -> list[PckCertificate]:
    found = []
    for tcbm, leaf in world.pck().items():
        assert leaf is not None
        extension, ca = read_leaf(leaf)
        found.append(PckCertificate(leaf, b"", tcbm, extension, ca.value))
    return found


def test_the_highest_that_is_not_above_the_platform(clock: Clock):
    held = certificates(World(clock))
    for tcb in PlatformTcb:
        chosen = choose(held, tcb.svns.cpu_svn, 13, None)
        assert chosen is not None
        assert chosen.tcbm == tcbm_of(tcb)
        assert chosen.fmspc == FMSPC.hex()
    newer = bytes([200, 200, *UP_TO_DATE.svns.cpu_svn[2:]])
    best = choose(held, newer, 14, None)
    assert best is not None
    assert best.tcbm == tcbm_of(UP_TO_DATE)
    assert choose(held, bytes(16), 13, None) is None
    assert choose(held, newer, 12, None) is None  # the PCE's SVN counts as well
    assert choose([], newer, 12, None) is None


def test_a_level_goes_before_larger_numbers(clock: Clock):
    """Of two that are not above the platform, the one that TCB info thinks more of, not the one with higher SVNs."""
    held = certificates(World(clock))
    hardened, plain = PlatformTcb.CONFIGURATION_NEEDED, PlatformTcb.SW_HARDENING_NEEDED  # ...0,1 and ...1,0
    two = [each for each in held if each.tcbm in {tcbm_of(hardened), tcbm_of(plain)}]
    by_numbers = choose(two, UP_TO_DATE.svns.cpu_svn, 13, None)
    levels = [each for each in documents.LEVELS if each.svns in (hardened.svns, OLD.svns)]
    text = documents.compact(documents.tcb_info(NOW, NOW + DAY, levels=levels))
    by_level = choose(two, UP_TO_DATE.svns.cpu_svn, 13, TcbInfo.parse(text))
    assert by_numbers is not None
    assert by_level is not None
    assert by_numbers.tcbm == tcbm_of(plain)
    assert by_level.tcbm == tcbm_of(hardened)


@in_a_loop
async def test_certificates_are_fetched_once_and_then_served(store: Store, source: WorldSource, clock: Clock):
    certs, platforms = certs_of(store, source, clock)
    for tcb in (UP_TO_DATE, OLD, UP_TO_DATE):
        found = await certs.certificate(request(tcb))
        assert (found.tcbm, found.ca) == (tcbm_of(tcb), "platform")
        assert found.issuer_chain.count(b"BEGIN") == 2
    assert len(source.pck_asked) == 1
    assert certs.knows(QE_ID.upper(), PCE_ID)
    assert not certs.knows("00", PCE_ID)
    (known,) = platforms.all()
    assert (known.fmspc, known.origin, known.ca) == (FMSPC.hex(), CERTIFICATE, "platform")
    assert known.components == UP_TO_DATE.svns.components
    assert len((await certs.answer(request())).entries) == 6
    await certs.close()


@in_a_loop
async def test_nothing_that_identifies_a_machine_is_in_the_database(
    store: Store, source: WorldSource, clock: Clock, tmp_path: Path
):
    certs, _ = certs_of(store, source, clock)
    await certs.certificate(request())
    ppid = source.world.issuer.extension(UP_TO_DATE).ppid
    store.database.close()
    with sqlite3.connect(tmp_path / "collateral.db") as connection:
        rows = [
            str(value)
            for (table,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")
            if table != "pck_certs"  # the certificates themselves name it
            for row in connection.execute(f"SELECT * FROM {table}")
            for value in row
        ]
    connection.close()
    assert rows
    assert not [each for each in rows if QE_ID in each or ppid.hex() in each or str(ppid) in each]


@in_a_loop
async def test_a_tcb_without_a_certificate_is_looked_for_again(store: Store, source: WorldSource, clock: Clock):
    source.world.not_available = frozenset({UP_TO_DATE, PlatformTcb.REVOKED, PlatformTcb.EXPIRED})
    certs, _ = certs_of(store, source, clock)
    lower = await certs.certificate(request())
    assert lower.tcbm == tcbm_of(PlatformTcb.SW_HARDENING_NEEDED)
    await certs.certificate(request())
    assert len(source.pck_asked) == 1
    source.world.not_available = frozenset()
    clock.advance(REVISIT)
    assert (await certs.certificate(request())).tcbm == tcbm_of(UP_TO_DATE)
    assert len(source.pck_asked) == 2
    await certs.close()


@in_a_loop
async def test_it_is_looked_for_though_nobody_asks(store: Store, source: WorldSource, clock: Clock):
    source.world.not_available = frozenset({OLD})
    certs, _ = certs_of(store, source, clock)
    await certs.certificate(request())
    await certs.refresh_due()
    assert len(source.pck_asked) == 1
    clock.advance(REVISIT + dt.timedelta(seconds=1))
    source.pck_failure = SourceError("down", code="source.dns")
    await certs.refresh_due()
    await certs.refresh_due()
    assert len(source.pck_asked) == 2
    clock.advance(REVISIT)
    source.pck_failure = None
    source.world.not_available = frozenset()
    await certs.refresh_due()
    assert source.pck_asked[-1].encrypted_ppid == ENCRYPTED_PPID
    assert (await certs.certificate(request(OLD))).tcbm == tcbm_of(OLD)
    clock.advance(2 * REVISIT)
    await certs.refresh_due()  # nothing is lacking any more
    assert len(source.pck_asked) == 3
    await certs.close()


@in_a_loop
async def test_what_was_available_once_stays(store: Store, source: WorldSource, clock: Clock):
    certs, _ = certs_of(store, source, clock)
    await certs.certificate(request())
    source.world.not_available = frozenset(set(PlatformTcb) - {OLD})
    await certs.answer(request())
    assert (await certs.certificate(request())).tcbm == tcbm_of(UP_TO_DATE)
    await certs.close()


@in_a_loop
async def test_a_source_that_fails_does_not_take_away_what_is_held(store: Store, source: WorldSource, clock: Clock):
    certs, _ = certs_of(store, source, clock)
    await certs.certificate(request())
    source.pck_failure = SourceError("down", code="source.dns")
    above = request(cpu_svn=bytes([200, 200, *UP_TO_DATE.svns.cpu_svn[2:]]))
    assert (await certs.certificate(above)).tcbm == tcbm_of(UP_TO_DATE)
    assert (await certs.certificate(above)).tcbm == tcbm_of(UP_TO_DATE)
    assert len(source.pck_asked) == 2
    await certs.close()


async def refused(certs: PckCerts, asked: PckRequest) -> KubenclaveError:
    with pytest.raises(KubenclaveError) as caught:
        await certs.certificate(asked)
    return caught.value


@in_a_loop
async def test_refusals(store: Store, source: WorldSource, clock: Clock):
    certs, _ = certs_of(store, source, clock)
    stranger = request(pce_id=b"\1\0")
    assert (await refused(certs, stranger)).code == "collateral.unknown"
    assert (await refused(certs, stranger)).code == "collateral.unknown"
    assert len(source.pck_asked) == 1
    assert (await refused(certs, request(cpu_svn=bytes(16)))).code == "pck.not-available"
    source.pck_failure = SourceError("down", code="source.tls")
    assert (await refused(certs, request(qe_id="00"))).code == "source.tls"
    await certs.close()
    nobody = PckCerts(cache_of(store, clock=clock), KnownPlatforms(store.database, clock), now=clock)
    assert (await refused(nobody, request(qe_id="11"))).code == "collateral.unknown"


@in_a_loop
async def test_certificates_that_somebody_brings_are_checked(store: Store, source: WorldSource, clock: Clock):
    certs, _ = certs_of(store, source, clock)
    world, other = source.world, World(clock, seed=bytes(32))
    chain = pem_chain(world.pki.certificates[Role.PLATFORM_CA], world.pki.certificates[Role.ROOT])
    tcbm, wrong = tcbm_of(UP_TO_DATE), tcbm_of(OLD)
    leaf, stranger = world.pck()[tcbm], other.pck()[tcbm]
    processor = pem_chain(world.pki.certificates[Role.PROCESSOR_CA], world.pki.certificates[Role.ROOT])
    offers = [
        (PCE_ID, PckAnswer((PckEntry(wrong, leaf),), chain), "collateral.other"),
        (b"\1\0", PckAnswer((PckEntry(tcbm, leaf),), chain), "collateral.other"),
        (PCE_ID, PckAnswer((PckEntry(tcbm, stranger),), chain), "pck.signature"),
        (PCE_ID, PckAnswer((PckEntry(tcbm, leaf),), processor), "pck.chain"),
        (PCE_ID, PckAnswer((PckEntry(tcbm, None),), chain), "pck.not-available"),
    ]
    for pce_id, answer, code in offers:
        with pytest.raises(KubenclaveError) as caught:
            await certs.put(PckRequest(QE_ID, pce_id, b"", b""), answer, "x")
        assert caught.value.code == code
    assert not certs.knows(QE_ID, PCE_ID)
    await certs.put(PckRequest(QE_ID, PCE_ID, b"", b""), PckAnswer((PckEntry(tcbm, leaf),), chain), "x")
    assert (await certs.certificate(request())).leaf == leaf
    assert source.pck_asked == []
    await certs.close()


def become_another(world: World) -> None:
    """From now on the upstream answers for another platform under the same root, whoever is asked for."""
    world.issuer = Issuer(world.pki, platform=b"another")


@in_a_loop
async def test_nobody_can_put_certificates_of_another_platform_in_place_of_a_platforms_own(
    store: Store, source: WorldSource, clock: Clock
):
    """QE-IDs are in every quote: whoever has seen one asks under it, with the encrypted PPID of a machine of theirs."""
    certs, _ = certs_of(store, source, clock)
    own = await certs.certificate(request(OLD))
    become_another(source.world)
    higher = request(cpu_svn=bytes([200, 200, *UP_TO_DATE.svns.cpu_svn[2:]]))
    theirs = replace(higher, encrypted_ppid=bytes(383) + b"1")
    found = await certs.certificate(theirs)
    assert found.extension.ppid == own.extension.ppid
    with pytest.raises(TrustError) as caught:
        await certs.answer(theirs)
    assert caught.value.code == "pck.other-platform"
    assert (await certs.certificate(request(OLD))).leaf == own.leaf
    source.world.issuer = Issuer(source.world.pki)
    asked = len(source.pck_asked)
    await certs.certificate(higher)
    assert len(source.pck_asked) == asked + 1, "what others tried keeps no platform from new certificates of its own"
    await certs.close()


@in_a_loop
async def test_what_strangers_say_a_platform_is_known_by_misleads_no_administrator(
    store: Store, source: WorldSource, clock: Clock
):
    """Sources that go by the QE-ID answer whatever encrypted PPID comes along; an administrator fetches by that one."""
    certs, _ = certs_of(store, source, clock)
    own = await certs.certificate(request())
    await certs.answer(request(encrypted_ppid=bytes(383) + b"1"))
    ((name, asked),) = certs.renewable()
    assert asked.encrypted_ppid == ENCRYPTED_PPID
    await certs.answer(request(encrypted_ppid=bytes(383) + b"2"), Standing.REGISTERED)
    assert certs.renewable()[0][1].encrypted_ppid == bytes(383) + b"2"
    become_another(source.world)
    world, tcbm = source.world, tcbm_of(UP_TO_DATE)
    chain = pem_chain(world.pki.certificates[Role.PLATFORM_CA], world.pki.certificates[Role.ROOT])
    brought = PckAnswer((PckEntry(tcbm, world.pck()[tcbm]),), chain)
    with pytest.raises(TrustError) as caught:
        await certs.put(request(qe_id=alias_of(name)), brought, "x")
    assert caught.value.code == "pck.other-platform"
    assert (await certs.certificate(request())).leaf == own.leaf
    await certs.close()


@in_a_loop
async def test_a_platform_that_registers_takes_its_place_from_strangers_and_an_administrator_from_all(
    store: Store, source: WorldSource, clock: Clock
):
    certs, _ = certs_of(store, source, clock)
    first = source.world.issuer
    become_another(source.world)
    squatted = await certs.certificate(request())
    source.world.issuer = first
    await certs.answer(request(), Standing.REGISTERED)
    own = await certs.certificate(request())
    assert own.extension.ppid != squatted.extension.ppid
    assert all(each.extension.ppid == own.extension.ppid for each in certs._held(certs._name(QE_ID, PCE_ID)))
    become_another(source.world)
    with pytest.raises(TrustError):
        await certs.answer(request(), Standing.REGISTERED)
    world = source.world
    chain = pem_chain(world.pki.certificates[Role.PLATFORM_CA], world.pki.certificates[Role.ROOT])
    tcbm = tcbm_of(UP_TO_DATE)
    await certs.put(PckRequest(QE_ID, PCE_ID, b"", b""), PckAnswer((PckEntry(tcbm, world.pck()[tcbm]),), chain), "x")
    assert (await certs.certificate(request())).extension.ppid == squatted.extension.ppid
    await certs.close()


@in_a_loop
async def test_platforms_that_are_made_up_do_not_become_a_flood_for_the_sources(
    store: Store, source: WorldSource, clock: Clock, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "_NEW_PLATFORMS", Rate(per_second=0.001, burst=5))
    certs, _ = certs_of(store, source, clock)
    await certs.certificate(request())
    source.pck_failure = unknown("PCK certificates", "x")
    failures = [await refused(certs, request(qe_id=f"{number:032x}")) for number in range(10)]
    assert [each.code for each in failures] == ["collateral.unknown"] * 4 + ["limits.rate"] * 6
    with pytest.raises(TooFastError):
        await certs.answer(request())
    assert len(source.pck_asked) == 5
    assert (await certs.certificate(request())).tcbm == tcbm_of(UP_TO_DATE), "what is held is served"
    source.pck_failure = None
    await certs.answer(request(), Standing.REGISTERED)
    await certs.close()


@in_a_loop
async def test_platforms_that_strangers_name_are_bounded(
    store: Store, source: WorldSource, clock: Clock, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "_MOST_STRANGERS", 3)
    certs, _ = certs_of(store, source, clock)
    await certs.answer(request(), Standing.REGISTERED)
    for number in range(6):
        clock.advance(dt.timedelta(seconds=1))
        await certs.certificate(request(qe_id=f"{number:032x}"))
    (platforms,) = store.database.read("SELECT count(*) AS n FROM pck_platforms")
    (leaves,) = store.database.read("SELECT count(DISTINCT platform) AS n FROM pck_certs")
    assert (platforms["n"], leaves["n"]) == (4, 4)
    assert certs.knows(QE_ID, PCE_ID)
    assert certs.knows(f"{5:032x}", PCE_ID)
    await certs.close()


@in_a_loop
async def test_a_certificate_that_is_revoked_is_not_taken_in(store: Store, source: WorldSource, clock: Clock):
    certs, _ = certs_of(store, source, clock)
    world = source.world
    crl = await cache_of(store, source, clock=clock).get(ItemKey.pck_crl("platform"))
    revoked = world.pki.crl(Role.PLATFORM_CA, crl.issued, crl.next_update, revoked=sorted(world.issuer.serials))
    store.put(replace(crl, body=revoked))
    with pytest.raises(TrustError) as caught:
        await certs.certificate(request())
    assert caught.value.code == "pck.revoked"
    await certs.close()


def test_platforms_go_by_their_last_tcb(store: Store, clock: Clock):
    platforms = KnownPlatforms(store.database, clock)
    issuer = World(clock).issuer
    platforms.saw(issuer.extension(UP_TO_DATE), "platform", tdx_svns=bytes(range(16)))
    clock.advance(dt.timedelta(minutes=5))
    platforms.saw(issuer.extension(UP_TO_DATE), "platform")
    (first,) = platforms.all()
    assert (first.origin, first.last_seen) == (EVIDENCE, NOW)  # the same again, within the hour
    platforms.saw(issuer.extension(OLD), "platform")
    (second,) = platforms.all()
    assert second.components == OLD.svns.components
    assert (second.first_seen, second.last_seen) == (NOW, clock())
    assert second.tdx_svns == tuple(range(16))
    assert platforms.all(seen_since=clock() + DAY) == []
    again = KnownPlatforms(store.database, clock)
    assert again.name_of(b"x") == platforms.name_of(b"x")


@in_a_loop
async def test_platforms_of_evidence(store: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch):
    platforms = KnownPlatforms(store.database, clock)
    made = evidence.make()
    verified = kubenclave.verify_quote(made.quote, made.collateral, at=NOW, root=made.root).verified
    await platforms.saw_evidence(verified)
    await platforms.saw_evidence(verified)
    (known,) = platforms.all()
    assert (known.fmspc, known.origin, known.tdx_svns) == (FMSPC.hex(), EVIDENCE, None)
    clock.advance(2 * DAY)
    full = PlatformError("disk full", code="database.unusable")
    monkeypatch.setattr(type(store.database), "transaction", lambda _self: _raise(full))
    await platforms.saw_evidence(verified)  # nothing fails for it
    assert platforms.all() == [known]


def _raise(error: Exception) -> None:
    raise error
