# SPDX-License-Identifier: Apache-2.0
"""Items are checked on entry: each thing that can be wrong with one is refused, and told apart."""

import datetime as dt
from typing import Any

import pytest

from kubenclave.dcap.anchor import intel_root
from kubenclave.errors import FormatError, KubenclaveError, TrustError, UsageError
from kubenclave.platform.simulated import documents
from kubenclave.platform.simulated.enclaves import MR_SIGNER
from kubenclave.platform.simulated.pki import Role, pem_chain
from kubenclave.platform.simulated.tcb import FMSPC
from kubenclave.services.collateral.ingest import UNSIGNED_PERIOD, check_key
from kubenclave.services.collateral.items import EARLY, ROOT_CRL, ItemKey, Kind, Tee
from kubenclave.wire import pcs
from tests.collateral_world import NOW, anchor_of, fetched_of, item
from tests.pcs_upstream import Fault, World

WORLD = World(lambda: NOW)
TCB_INFO = ItemKey.tcb_info(Tee.SGX, FMSPC.hex())
IDENTITY = ItemKey.identity(Tee.SGX)
PCK_CRL = ItemKey.pck_crl("platform")
NUMBERS = ItemKey(Kind.EVALUATION_NUMBERS)
SIGNED = [PCK_CRL, TCB_INFO, IDENTITY, NUMBERS, ItemKey.identity(Tee.SGX, "qve"), ItemKey.identity(Tee.TDX)]


def refusal(key: ItemKey, fault: Fault | None = None, **changes: Any) -> KubenclaveError:
    with pytest.raises(KubenclaveError) as caught:
        item(WORLD, key, fault, **changes)
    return caught.value


@pytest.mark.parametrize("key", [ROOT_CRL, *SIGNED], ids=str)
def test_an_item_that_is_good(key: ItemKey):
    found = item(WORLD, key)
    fetched = fetched_of(WORLD, key)
    assert found.body == fetched.body
    assert found.issued <= NOW <= found.next_update
    assert found.number == (17 if key.update else 0)
    assert found.issuer_chain == (b"" if key == ROOT_CRL else fetched.issuer_chain)


def test_the_list_of_fmspcs_has_no_signature_and_counts_for_a_week():
    found = item(WORLD, ItemKey(Kind.FMSPCS))
    assert (found.issued, found.next_update) == (NOW, NOW + UNSIGNED_PERIOD)
    assert isinstance(refusal(ItemKey(Kind.FMSPCS), body=b"[1]"), FormatError)


@pytest.mark.parametrize("key", [ROOT_CRL, *SIGNED], ids=str)
def test_signatures(key: ItemKey):
    error = refusal(key, Fault.WRONG_SIGNATURE)
    assert isinstance(error, TrustError)
    assert error.code.endswith(".signature")


@pytest.mark.parametrize("key", [ROOT_CRL, *SIGNED], ids=str)
def test_dates(key: ItemKey):
    assert refusal(key, Fault.STALE).code == "collateral.expired"
    assert refusal(key, now=NOW - dt.timedelta(days=3)).code == "collateral.not-yet-valid"
    assert refusal(key, now=dt.datetime(2050, 1, 1, tzinfo=dt.UTC)).code == "certificate.expired"
    assert refusal(key, now=dt.datetime(2018, 1, 1, tzinfo=dt.UTC)).code == "certificate.not-yet-valid"


@pytest.mark.parametrize("key", [ROOT_CRL, *SIGNED], ids=str)
def test_another_root(key: ItemKey):
    assert isinstance(refusal(key, anchor=intel_root()), TrustError)
    other = World(lambda: NOW, seed=bytes(32))
    assert isinstance(refusal(key, anchor=anchor_of(other)), TrustError)


@pytest.mark.parametrize("key", SIGNED, ids=str)
def test_nothing_counts_without_the_roots_list(key: ItemKey):
    assert refusal(key, root_crl=None).code == "collateral.no-root-crl"


@pytest.mark.parametrize("key", SIGNED, ids=str)
def test_a_signer_that_is_revoked(key: ItemKey):
    pki, root = WORLD.pki, item(WORLD, ROOT_CRL)
    revoked = [pki.certificates[role].serial_number for role in (Role.TCB_SIGNER, Role.PLATFORM_CA)]
    body = pki.crl(Role.ROOT, root.issued, root.next_update, revoked=revoked)
    with_revoked = item(WORLD, ROOT_CRL, body=body)
    assert refusal(key, root_crl=with_revoked).code in {"tcb-signer.revoked", "pck-ca.revoked"}


@pytest.mark.parametrize("key", [TCB_INFO, IDENTITY], ids=str)
def test_what_was_not_asked_for(key: ItemKey):
    assert refusal(key, Fault.OTHER_PLATFORM).code == "collateral.other"


@pytest.mark.parametrize(
    ("asked", "came"),
    [
        (ItemKey.tcb_info(Tee.TDX, FMSPC.hex()), TCB_INFO),
        (ItemKey.tcb_info(Tee.SGX, FMSPC.hex(), "18"), TCB_INFO),
        (ItemKey.identity(Tee.SGX, "qve"), IDENTITY),
        (ItemKey.identity(Tee.SGX, "qae"), ItemKey.identity(Tee.SGX, "qve")),
        (ItemKey.identity(Tee.TDX), IDENTITY),
        (ItemKey.identity(Tee.SGX, "qe", "18"), IDENTITY),
        (ItemKey(Kind.EVALUATION_NUMBERS, tee=Tee.TDX), NUMBERS),
        (ItemKey.pck_crl("processor"), PCK_CRL),
    ],
    ids=str,
)
def test_another_item_in_its_place(asked: ItemKey, came: ItemKey):
    fetched = fetched_of(WORLD, came)
    assert refusal(asked, body=fetched.body, issuer_chain=fetched.issuer_chain).code == "collateral.other"


def test_a_generation_by_its_number():
    assert item(WORLD, ItemKey.tcb_info(Tee.SGX, FMSPC.hex(), "18")).number == 18
    assert item(WORLD, ItemKey.tcb_info(Tee.SGX, FMSPC.hex(), EARLY)).number == 18


def test_the_role_of_the_signer():
    certificates = WORLD.pki.certificates
    as_ca = pem_chain(certificates[Role.PLATFORM_CA], certificates[Role.ROOT])
    as_signer = pem_chain(certificates[Role.TCB_SIGNER], certificates[Role.ROOT])
    assert refusal(TCB_INFO, issuer_chain=as_ca).code == "tcb-signer.role"
    assert refusal(PCK_CRL, issuer_chain=as_signer).code == "pck-ca.role"


def test_a_chain_is_kept_signer_first_and_whole():
    certificates = WORLD.pki.certificates
    signer, root = certificates[Role.TCB_SIGNER], certificates[Role.ROOT]
    turned = item(WORLD, TCB_INFO, issuer_chain=pem_chain(root, signer))
    assert turned.issuer_chain == pem_chain(signer, root)
    assert refusal(TCB_INFO, issuer_chain=pem_chain(signer)).code == "collateral.other"
    assert isinstance(refusal(TCB_INFO, issuer_chain=b""), TrustError)


@pytest.mark.parametrize("key", [ROOT_CRL, *SIGNED], ids=str)
@pytest.mark.parametrize("body", [b"", b"{}", b"\x30\x00", b"<html>"])
def test_garbage(key: ItemKey, body: bytes):
    assert isinstance(refusal(key, body=body), TrustError | FormatError)


@pytest.mark.parametrize(
    "changes",
    [{"id": "XX"}, {"version": 3}, {"issueDate": "yesterday"}, {"issueDate": "0001-01-01T00:00:00+01:00"}],
)
def test_an_identity_that_is_signed_and_yet_none(changes: dict[str, Any]):
    document = documents.qe_identity(NOW, NOW + dt.timedelta(days=1), MR_SIGNER) | changes
    body = WORLD.document(pcs.ENCLAVE_IDENTITY, document, None)
    assert refusal(IDENTITY, body=body).code == "qe-identity.malformed"


def test_tcb_info_that_is_signed_and_yet_none():
    body = WORLD.document(pcs.TCB_INFO, {"id": "SGX"}, None)
    assert refusal(TCB_INFO, body=body).code == "tcb-info.malformed"


@pytest.mark.parametrize(
    "key",
    [
        ItemKey(Kind.ROOT_CRL, "x"),
        ItemKey(Kind.ROOT_CRL, tee=Tee.TDX),
        ItemKey(Kind.ROOT_CRL, update="standard"),
        ItemKey(Kind.PCK_CRL, "root"),
        ItemKey(Kind.PCK_CRL, "platform", Tee.TDX),
        ItemKey(Kind.TCB_INFO, "00906ED50000", Tee.SGX, "standard"),
        ItemKey(Kind.TCB_INFO, "00906ed50000", Tee.SGX, ""),
        ItemKey(Kind.TCB_INFO, "../../etc", Tee.SGX, "standard"),
        ItemKey(Kind.TCB_INFO, "00906ed50000", Tee.SGX, "late"),
        ItemKey(Kind.IDENTITY, "qve", Tee.TDX, "standard"),
        ItemKey(Kind.IDENTITY, "pce", Tee.SGX, "standard"),
        ItemKey(Kind.FMSPCS, "x"),
    ],
    ids=str,
)
def test_keys_that_name_nothing(key: ItemKey):
    with pytest.raises(UsageError) as caught:
        check_key(key)
    assert caught.value.code == "collateral.no-such-item"
