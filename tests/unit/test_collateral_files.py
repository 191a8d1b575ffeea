# SPDX-License-Identifier: Apache-2.0
"""Sources without a network: a directory of files, the SIMULATED platform."""

import asyncio
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from kubenclave.cli.trust import Trust
from kubenclave.dcap.anchor import TrustAnchor
from kubenclave.dcap.collateral import Collateral
from kubenclave.dcap.documents import TcbInfo
from kubenclave.dcap.pckext import PckCa
from kubenclave.dcap.tcb import TcbStatus
from kubenclave.errors import FormatError, KubenclaveError
from kubenclave.platform.simulated.issued import Issued
from kubenclave.platform.simulated.issuer import Issuer
from kubenclave.platform.simulated.pki import Pki
from kubenclave.platform.simulated.renewal import request_of
from kubenclave.platform.simulated.state import PlatformState
from kubenclave.platform.simulated.tcb import FMSPC, PCE_ID, PlatformTcb
from kubenclave.services.collateral import bundle
from kubenclave.services.collateral.assemble import collateral_for
from kubenclave.services.collateral.ingest import check
from kubenclave.services.collateral.items import EARLY, ROOT_CRL, Item, ItemKey, Kind, Tee
from kubenclave.services.collateral.sources.base import Fetched, PckRequest, Source, SourceError, UnknownError
from kubenclave.services.collateral.sources.directory import DirectorySource
from kubenclave.services.collateral.sources.flat import items_of
from kubenclave.services.collateral.sources.simulated import SimulatedSource
from kubenclave.sgx.quote import TeeType
from kubenclave.wire import pcs
from tests.collateral_world import NOW, anchor_of, fetched_of, item
from tests.pcs_upstream import QE_ID, World, tcbm_of

WORLD = World(lambda: NOW)
TCB_INFO = ItemKey.tcb_info(Tee.SGX, FMSPC.hex())
CRL = ItemKey.pck_crl("platform")
UP_TO_DATE = PlatformTcb.UP_TO_DATE


def fetch(source: Source, key: ItemKey) -> Fetched:
    return asyncio.run(_awaited(source.fetch(key)))  # type: ignore[no-any-return]


async def _awaited(coroutine: Any) -> Any:
    return await coroutine


def failure(source: Source, key: ItemKey) -> KubenclaveError:
    with pytest.raises(KubenclaveError) as caught:
        fetch(source, key)
    return caught.value


def pck_request(tcb: PlatformTcb = UP_TO_DATE, **changes: Any) -> PckRequest:
    return replace(PckRequest(QE_ID.upper(), PCE_ID, tcbm_of(tcb)[:16], tcbm_of(tcb)[16:]), **changes)


def collateral(world: World = WORLD) -> Collateral:
    return world.issuer.collateral(UP_TO_DATE, NOW)


# A directory


def test_items_in_files_of_their_own(tmp_path: Path):
    info, crl, listed = (fetched_of(WORLD, key) for key in (TCB_INFO, CRL, ItemKey(Kind.FMSPCS)))
    (tmp_path / f"sgx-tcb-info-{FMSPC.hex()}-standard.json").write_bytes(info.body)
    (tmp_path / f"sgx-tcb-info-{FMSPC.hex()}-standard.pem").write_bytes(info.issuer_chain)
    (tmp_path / "sgx-pck-crl-platform.crl").write_bytes(pcs.crl_hex(crl.body))
    (tmp_path / "sgx-root-crl.crl").write_bytes(pcs.crl_pem(fetched_of(WORLD, ROOT_CRL).body))
    (tmp_path / "sgx-fmspcs.json").write_bytes(listed.body)
    source = DirectorySource("files", tmp_path)
    assert fetch(source, TCB_INFO) == info
    assert fetch(source, ROOT_CRL) == fetched_of(WORLD, ROOT_CRL)
    assert fetch(source, ItemKey(Kind.FMSPCS)) == listed
    assert failure(source, CRL).code == "source.file"  # its chain is missing
    (tmp_path / "sgx-pck-crl-platform.pem").write_bytes(crl.issuer_chain)
    assert fetch(source, CRL) == crl
    assert isinstance(failure(source, ItemKey.identity(Tee.SGX)), UnknownError)
    asyncio.run(source.close())


def test_flat_collateral_as_the_issuer_of_a_cluster_publishes_it(tmp_path: Path):
    (tmp_path / "collateral.json").write_text(collateral().to_json())
    (tmp_path / "revoked.json").write_text("{}")
    source = DirectorySource("mounted", tmp_path)
    for key in (ROOT_CRL, CRL, TCB_INFO, ItemKey.identity(Tee.SGX)):
        fetched = fetch(source, key)
        root_crl = None if key == ROOT_CRL else item(WORLD, ROOT_CRL)
        found = check(
            key,
            fetched.body,
            fetched.issuer_chain,
            anchor=anchor_of(WORLD),
            now=NOW,
            root_crl=root_crl,
            source="mounted",
            fetched=NOW,
        )
        assert found.key == key
    error = failure(source, replace(TCB_INFO, update=EARLY))
    assert isinstance(error, UnknownError)
    assert "revoked.json" in str(error)


def test_the_youngest_of_several_files(tmp_path: Path):
    older, newer = tmp_path / "a.json", tmp_path / "b.json"
    older.write_text(collateral().to_json())
    newer.write_text(collateral(World(lambda: NOW, seed=bytes(32))).to_json())
    os.utime(older, (1, 1))
    assert fetch(DirectorySource("x", tmp_path), ROOT_CRL).body != collateral().root_ca_crl
    os.utime(newer, (0, 0))
    assert fetch(DirectorySource("x", tmp_path), ROOT_CRL).body == collateral().root_ca_crl


def test_a_bundle_counts_where_its_signer_is_trusted(tmp_path: Path):
    key = ed25519.Ed25519PrivateKey.generate()
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    items: list[Item] = [item(WORLD, each) for each in (ROOT_CRL, TCB_INFO)]
    content = bundle.write(items, bundle.signing_key(private), anchor=anchor_of(WORLD), created=NOW)
    (tmp_path / "one.bundle").write_bytes(content)
    assert isinstance(failure(DirectorySource("x", tmp_path), TCB_INFO), UnknownError)
    source = DirectorySource("x", tmp_path, bundle_keys=[public])
    assert fetch(source, TCB_INFO).body == items[1].body
    stranger = ed25519.Ed25519PrivateKey.generate().public_key()
    other = stranger.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    assert "one.bundle" in str(failure(DirectorySource("x", tmp_path, bundle_keys=[other]), TCB_INFO))


def test_a_directory_that_cannot_be_read(tmp_path: Path):
    absent = DirectorySource("x", tmp_path / "absent")
    assert failure(absent, ROOT_CRL).code == "source.unreachable"
    (tmp_path / "sgx-root-crl.crl").mkdir()
    error = failure(DirectorySource("x", tmp_path), ROOT_CRL)
    assert isinstance(error, SourceError)
    assert error.code == "source.unreachable"
    (tmp_path / "sgx-fmspcs.json").write_bytes(bytes(pcs.MAX_BODY + 1))
    assert failure(DirectorySource("x", tmp_path), ItemKey(Kind.FMSPCS)).code == "source.file"


def test_pck_certificates_in_files(tmp_path: Path):
    (tmp_path / "pck").mkdir()
    entries = tuple(pcs.PckEntry(tcbm, leaf) for tcbm, leaf in WORLD.pck().items())
    (tmp_path / "pck" / f"{QE_ID}_0000.json").write_bytes(pcs.encode_pck_certs(entries))
    (tmp_path / "pck" / f"{QE_ID}_0000.pem").write_bytes(fetched_of(WORLD, CRL).issuer_chain)
    source = DirectorySource("x", tmp_path)
    answer = asyncio.run(_awaited(source.pck_certs(pck_request())))
    assert answer.entries == entries
    for qe_id in ("00", "../../x", ""):
        with pytest.raises(UnknownError):
            asyncio.run(_awaited(source.pck_certs(pck_request(qe_id=qe_id))))


@pytest.mark.parametrize(
    "changes",
    [
        {"tcb_info": b"[]"},
        {"tcb_info": b'{"fmspc":1}'},
        {"tcb_info": b'{"fmspc":"00"}'},
        {"tcb_info": b"{"},
        {"pck_crl_issuer_chain": b"nothing"},
        {"pck_crl_issuer_chain": b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"},
    ],
)
def test_flat_collateral_that_is_none(changes: dict[str, Any]):
    with pytest.raises(FormatError):
        items_of(replace(collateral(), **changes))


def test_flat_collateral_of_each_kind():
    for tee in Tee:
        for ca in PckCa:
            issuer = Issuer(WORLD.pki, ca=ca)
            made = issuer.collateral(UP_TO_DATE, NOW, tee=TeeType.TDX if tee is Tee.TDX else TeeType.SGX)
            assert set(items_of(made, update="17")) == {
                ROOT_CRL,
                ItemKey.pck_crl(ca),
                ItemKey.tcb_info(tee, FMSPC.hex(), "17"),
                ItemKey.identity(tee, update="17"),
            }


# The SIMULATED platform


def test_everything_that_the_simulated_platform_has(tmp_path: Path):
    state = PlatformState.open(tmp_path)
    assert state.seed is not None
    anchor = TrustAnchor.from_certificate(Pki.from_seed(state.seed).root_der)
    source = SimulatedSource(tmp_path, now=lambda: NOW)
    keys = [
        ItemKey.pck_crl("platform"),
        ItemKey.pck_crl("processor"),
        *(ItemKey.tcb_info(tee, FMSPC.hex(), update) for tee in Tee for update in ("standard", "early", "17", "18")),
        *(ItemKey.identity(tee, update=update) for tee in Tee for update in ("standard", "early", "18")),
        ItemKey.identity(Tee.SGX, "qve"),
        ItemKey.identity(Tee.SGX, "qae"),
        *(ItemKey(Kind.EVALUATION_NUMBERS, tee=tee) for tee in Tee),
        ItemKey(Kind.FMSPCS),
    ]
    root_crl = None
    for key in (ROOT_CRL, *keys):
        got = fetch(source, key)
        found = check(
            key,
            got.body,
            got.issuer_chain,
            anchor=anchor,
            now=NOW,
            root_crl=root_crl,
            source="simulated",
            fetched=NOW,
        )
        root_crl = root_crl or found
    for unknown in (ItemKey.tcb_info(Tee.SGX, "00" * 6), replace(TCB_INFO, update="16")):
        assert isinstance(failure(source, unknown), UnknownError)
    asyncio.run(source.close())


@pytest.mark.parametrize(
    ("tcb", "today", "early"),
    [
        (PlatformTcb.UP_TO_DATE, TcbStatus.UP_TO_DATE, TcbStatus.UP_TO_DATE),
        (PlatformTcb.SW_HARDENING_NEEDED, TcbStatus.SW_HARDENING_NEEDED, TcbStatus.OUT_OF_DATE),
    ],
)
def test_a_recovery_is_ahead_of_the_simulated_platform(tmp_path: Path, tcb, today, early):
    state = PlatformState.open(tmp_path).with_tcb(tcb)
    state.save(tmp_path)
    source = SimulatedSource(tmp_path, now=lambda: NOW)

    async def get(key: ItemKey) -> Item:
        got = await source.fetch(key)
        return Item(key, got.body, got.issuer_chain, NOW, NOW, 0, "simulated", NOW)

    statuses = []
    for update in ("standard", "early"):
        collateral = asyncio.run(collateral_for(get, tee=Tee.SGX, fmspc=FMSPC.hex(), ca="platform", update=update))
        info = TcbInfo.parse(collateral.tcb_info)
        statuses.append((info.tcb_evaluation_data_number, _status(info, tcb)))
    assert statuses == [(17, today), (18, early)]


def _status(info: TcbInfo, tcb: PlatformTcb) -> TcbStatus:
    """Status of the level that the state of the platform is."""
    (found,) = [each.status for each in info.levels if each.svns[:16] == tcb.svns.components]
    return found


def test_certificates_of_the_simulated_platform(tmp_path: Path):
    PlatformState.open(tmp_path)
    source = SimulatedSource(tmp_path, now=lambda: NOW)
    answer = asyncio.run(_awaited(source.pck_certs(pck_request())))
    assert {entry.tcbm for entry in answer.entries} == {tcbm_of(tcb) for tcb in PlatformTcb}
    with pytest.raises(UnknownError):
        asyncio.run(_awaited(source.pck_certs(pck_request(pce_id=b"\1\0"))))


def test_a_platform_whose_issuer_is_elsewhere(tmp_path: Path):
    state = PlatformState.open(tmp_path, own_root=False)
    source = SimulatedSource(tmp_path, now=lambda: NOW)
    assert failure(source, TCB_INFO).code == "simissuer.not-yet"
    asked, issuer = request_of(state), Issuer(WORLD.pki)
    root = pcs.split_chain(fetched_of(WORLD, CRL).issuer_chain)[1]
    Issued(
        platform=asked.platform,
        tcb=state.tcb,
        root=root.decode(),
        chains={tcb: issuer.pck_chain(tcb, asked.key(tcb)).decode() for tcb in PlatformTcb},
        collateral=json.loads(collateral().to_json()),
    ).save(tmp_path)
    assert fetch(source, TCB_INFO).body == items_of(collateral())[TCB_INFO].body
    assert isinstance(failure(source, ItemKey.identity(Tee.TDX)), UnknownError)


def test_no_simulated_platform(tmp_path: Path):
    error = failure(SimulatedSource(tmp_path, now=lambda: NOW), TCB_INFO)
    assert error.code == "source.unreachable"
    assert "sim start" in (error.hint or "")


def test_a_directory_is_known_by_its_last_name_as_anybody_may_read_the_status(tmp_path):
    (tmp_path / "site").mkdir()
    [source] = Trust(root=None, sources=[("dir", str(tmp_path / "site"))]).make()
    assert source.name == "dir=site"
