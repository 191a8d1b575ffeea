# SPDX-License-Identifier: Apache-2.0
"""Bundles: what is read is what was signed, by somebody who is trusted, and it is taken in whole or not at all."""

import base64
import datetime as dt
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from kubenclave.dcap.anchor import intel_root
from kubenclave.errors import FormatError, KubenclaveError, TrustError, UsageError
from kubenclave.services.collateral import bundle
from kubenclave.services.collateral.intake import Bundles
from kubenclave.services.collateral.items import ROOT_CRL, ItemKey, Kind, Tee
from kubenclave.services.collateral.store import Store
from kubenclave.services.database import Database
from tests.bundle_keys import KEYS, private_pem, public_pem
from tests.collateral_items import ANCHOR, FMSPC_TEXT, items
from tests.evidence import NOW

ITEMS = {key: item for key, item in items().items() if key.kind is not Kind.FMSPCS}
DAY = dt.timedelta(days=1)
KEY = bundle.signing_key(private_pem(KEYS["Ed25519"]))
TRUSTED = bundle.trusted_key(public_pem(KEYS["Ed25519"]))


def make(chosen=None, created: dt.datetime = NOW) -> bytes:
    return bundle.write((chosen or ITEMS).values(), KEY, anchor=ANCHOR, created=created)


@pytest.mark.parametrize("name", KEYS)
def test_what_was_written_is_read(name: str):
    key = bundle.signing_key(private_pem(KEYS[name]))
    content = bundle.write(ITEMS.values(), key, anchor=ANCHOR, created=NOW)
    read = bundle.read(content, [bundle.trusted_key(public_pem(KEYS[name]))])
    assert {item.key: item for item in read.items} == ITEMS
    assert (read.signer, read.created, read.root, read.simulated) == (key.thumbprint(), NOW, ANCHOR.digest, True)
    assert read.horizon == min(item.next_update for item in ITEMS.values())


def test_every_blob_stands_there_once():
    content = make()
    lines = content.split(b"\n")
    assert lines.pop() == b""  # the text ends in a newline
    assert len(lines) == len(set(lines))
    assert len(lines) < 1 + 2 * len(ITEMS)


def test_what_nobody_has_signed_stays_out():
    content = bundle.write(items().values(), KEY, anchor=ANCHOR, created=NOW)
    assert {item.key for item in bundle.read(content, [TRUSTED]).items} == ITEMS.keys()


def test_a_bundle_of_nothing_is_not_made():
    with pytest.raises(UsageError) as caught:
        bundle.write([], KEY, anchor=ANCHOR, created=NOW)
    assert caught.value.code == "bundle.empty"


def test_a_bundle_of_somebody_else_is_refused():
    other = bundle.trusted_key(public_pem(ed25519.Ed25519PrivateKey.generate()))
    for trusted in ([], [other]):
        with pytest.raises(TrustError) as caught:
            bundle.read(make(), trusted)
        assert caught.value.code == "bundle.signer"


def test_a_name_of_a_trusted_signer_is_no_signature():
    header, payload, signature = make().split(b"\n")[0].split(b".")
    other = base64.urlsafe_b64encode(bytes(64)).rstrip(b"=")
    assert other != signature
    content = b".".join((header, payload, other)) + b"\n" + make().split(b"\n", 1)[1]
    with pytest.raises(TrustError) as caught:
        bundle.read(content, [TRUSTED])
    assert caught.value.code == "bundle.signature"


def test_an_algorithm_of_none_is_no_signature():
    _, payload, _ = make().split(b"\n")[0].split(b".")
    header = base64.urlsafe_b64encode(f'{{"alg":"none","kid":"{KEY.thumbprint()}"}}'.encode()).rstrip(b"=")
    with pytest.raises(KubenclaveError):
        bundle.read(b".".join((header, payload, b"")) + b"\n", [TRUSTED])


@pytest.mark.parametrize("change", ["left out", "changed", "added"])
def test_blobs_that_are_not_those_signed_are_refused(change: str):
    lines = make().split(b"\n")
    changed = {
        "left out": [lines[0], *lines[2:]],
        "changed": [lines[0], base64.b64encode(b"another"), *lines[2:]],
        "added": [*lines[:-1], base64.b64encode(b"another"), b""],
    }[change]
    with pytest.raises(TrustError) as caught:
        bundle.read(b"\n".join(changed), [TRUSTED])
    assert caught.value.code == "bundle.digest"


@pytest.mark.parametrize(
    "content",
    [b"", b"\n", b"a.b.c\n", b"{}\n", b"\xff.\xff.\xff\n", b"e30.e30.\n", make()[:-2], make() + b"!\n"],
    ids=["empty", "line", "letters", "json", "bytes", "no kid", "cut", "not base64"],
)
def test_what_is_no_bundle_is_a_format_error(content: bytes):
    with pytest.raises(FormatError) as caught:
        bundle.read(content, [TRUSTED])
    assert caught.value.code == "bundle.malformed"


def test_keys_of_other_kinds_are_refused():
    key = rsa.generate_private_key(65537, 2048)
    for read, pem in (
        (bundle.signing_key, private_pem(key)),
        (bundle.trusted_key, public_pem(key)),
        (bundle.trusted_key, private_pem(KEYS["ES256"])),
        (bundle.signing_key, public_pem(KEYS["ES256"])),
        (bundle.signing_key, b"no key"),
        (bundle.trusted_key, public_pem(ec.generate_private_key(ec.SECP384R1()))),
    ):
        with pytest.raises(FormatError) as caught:
            read(pem)
        assert caught.value.code == "bundle.wrong-key"


@pytest.fixture
def store(tmp_path: Path):
    database = Database(tmp_path / "collateral.db")
    yield Store(database, lambda: NOW)
    database.close()


@pytest.fixture
def bundles(store: Store):
    return Bundles(store.database, store, ANCHOR)


def read(content: bytes) -> bundle.Bundle:
    return bundle.read(content, [TRUSTED])


def test_a_bundle_is_taken_in_with_where_it_came_from(store: Store, bundles: Bundles):
    taken = bundles.take_in(read(make()), NOW)
    assert len(taken) == len(ITEMS) == len(store.items())
    for item in store.items():
        assert (item.body, item.issuer_chain) == (ITEMS[item.key].body, ITEMS[item.key].issuer_chain)
        assert item.source == f"bundle of 2026-03-05T12:00:00Z, signed by {KEY.thumbprint()}"


def test_one_item_that_does_not_hold_keeps_out_all(store: Store, bundles: Bundles):
    key = ItemKey.tcb_info(Tee.SGX, FMSPC_TEXT)
    forged = {**ITEMS, key: replace(ITEMS[key], body=ITEMS[key].body.replace(b"UpToDate", b"UpToDatE"))}
    with pytest.raises(TrustError) as caught:
        bundles.take_in(read(make(forged)), NOW)
    assert str(key) in str(caught.value.field)
    assert store.items() == []


def test_one_item_that_is_older_than_what_is_held_keeps_out_all(store: Store, bundles: Bundles):
    key = ItemKey.tcb_info(Tee.SGX, FMSPC_TEXT)
    store.put(replace(ITEMS[key], number=99))
    with pytest.raises(TrustError) as caught:
        bundles.take_in(read(make()), NOW)
    assert caught.value.code == "collateral.rollback"
    assert [item.key for item in store.items()] == [key]
    bundles.take_in(read(make()), NOW, dangerously_allow_rollback=True)
    assert len(store.items()) == len(ITEMS)


def test_an_older_bundle_of_the_same_signer_is_refused(bundles: Bundles):
    bundles.take_in(read(make()), NOW)
    bundles.take_in(read(make()), NOW)
    with pytest.raises(TrustError) as caught:
        bundles.take_in(read(make(created=NOW - DAY)), NOW)
    assert caught.value.code == "bundle.rollback"
    bundles.take_in(read(make(created=NOW - DAY)), NOW, dangerously_allow_rollback=True)


def test_a_bundle_from_a_clock_that_is_ahead_locks_out_no_later_one(bundles: Bundles):
    with pytest.raises(TrustError) as caught:
        bundles.take_in(read(make(created=NOW + DAY)), NOW)
    assert caught.value.code == "bundle.ahead"
    bundles.take_in(read(make()), NOW)


def test_a_bundle_of_another_root_is_refused(bundles: Bundles):
    content = bundle.write(ITEMS.values(), KEY, anchor=intel_root(), created=NOW)
    with pytest.raises(TrustError) as caught:
        bundles.take_in(read(content), NOW)
    assert caught.value.code == "bundle.root"


def test_a_bundle_beyond_its_horizon_is_refused(bundles: Bundles):
    with pytest.raises(TrustError) as caught:
        bundles.take_in(read(make()), NOW + 40 * DAY)
    assert caught.value.code == "bundle.expired"


def test_without_a_root_crl_nothing_is_taken_in(store: Store, bundles: Bundles):
    chosen = {key: item for key, item in ITEMS.items() if key != ROOT_CRL}
    with pytest.raises(TrustError) as caught:
        bundles.take_in(read(make(chosen)), NOW)
    assert caught.value.code == "collateral.no-root-crl"
    store.put(ITEMS[ROOT_CRL])
    assert len(bundles.take_in(read(make(chosen)), NOW)) == len(chosen)
