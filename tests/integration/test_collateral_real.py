# SPDX-License-Identifier: Apache-2.0
"""Real collateral passes the checks on entry, and what the cache puts together of it verifies real quotes."""

import asyncio
import datetime as dt
import json
import random
from pathlib import Path

import pytest

import kubenclave
from kubenclave.dcap.anchor import intel_root
from kubenclave.dcap.collateral import Collateral
from kubenclave.errors import PolicyError
from kubenclave.services.collateral.assemble import collateral_for, needs_of
from kubenclave.services.collateral.cache import CollateralCache
from kubenclave.services.collateral.sources.directory import DirectorySource
from kubenclave.services.collateral.store import Store
from kubenclave.services.database import Database
from kubenclave.wire import pcs

CASES = {
    "sgx-v3-outofdate": "OutOfDate",
    "sgx-v3-swhardening-b": "SWHardeningNeeded",
    "sgx-v3-tcbinfo-v2": "ConfigurationAndSWHardeningNeeded",
    "tdx-v4-uptodate": "UpToDate",
    "tdx-v4-uptodate-c": "UpToDate",
    "tdx-v5-relaunch-advised": "TDRelaunchAdvised",
}


async def collateral_from(folder: Path, database: Database, at: dt.datetime) -> Collateral:
    """Return what the cache puts together for a case's quote, of a directory that holds the case's collateral."""
    source = DirectorySource("case", folder)
    store = Store(database, lambda: at)
    cache = CollateralCache(store, [source], intel_root(), now=lambda: at, jitter=random.Random(1))
    tee, fmspc, ca = needs_of((folder / "quote.bin").read_bytes())
    try:
        collateral = await collateral_for(cache.get, tee=tee, fmspc=fmspc, ca=ca)
    finally:
        await cache.close()
    for item in store.items():
        if item.issuer_chain:
            assert len(item.body) + len(pcs.encode_chain(item.issuer_chain)) < pcs.MAX_DOCUMENT_AND_CHAIN
    return collateral


@pytest.mark.parametrize("name", CASES)
def test_real_collateral_by_way_of_the_cache(name: str, shared_data: Path, tmp_path: Path):
    folder = shared_data / "quotes" / name
    if not folder.is_dir():
        pytest.skip("no such case here")
    at = dt.datetime.fromtimestamp(json.loads((folder / "expected.json").read_text())["verify_at"], dt.UTC)
    database = Database(tmp_path / "collateral.db")
    try:
        collateral = asyncio.run(collateral_from(folder, database, at))
    finally:
        database.close()
    given = Collateral.from_json((folder / "collateral.json").read_text())
    assert (collateral.tcb_info, collateral.qe_identity) == (given.tcb_info, given.qe_identity)
    quote = (folder / "quote.bin").read_bytes()
    try:
        status = kubenclave.verify_quote(quote, collateral, at=at).tcb_status.value
    except PolicyError as refusal:  # genuine and current: a status that nobody allowed
        status = refusal.findings[0].found
    assert status == CASES[name]
