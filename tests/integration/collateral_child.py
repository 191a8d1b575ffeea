# SPDX-License-Identifier: Apache-2.0
"""A cache that renews all it has, again and again, and says what is committed; its parent kills it in the middle."""

import asyncio
import datetime as dt
import logging
import sys
from pathlib import Path

import structlog

from kubenclave.dcap.anchor import TrustAnchor
from kubenclave.platform.simulated.tcb import FMSPC
from kubenclave.services.collateral.cache import CollateralCache
from kubenclave.services.collateral.items import EARLY, ROOT_CRL, ItemKey, Kind, Tee
from kubenclave.services.collateral.sources.intel import IntelSource
from kubenclave.services.collateral.store import Store
from kubenclave.services.database import Database
from tests.pcs_upstream import OTHER_FMSPC

KEYS = [
    ROOT_CRL,
    ItemKey.pck_crl("platform"),
    ItemKey.pck_crl("processor"),
    *(ItemKey.tcb_info(tee, each.hex()) for tee in Tee for each in (FMSPC, OTHER_FMSPC)),
    ItemKey.tcb_info(Tee.SGX, FMSPC.hex(), EARLY),
    ItemKey.identity(Tee.SGX),
    ItemKey(Kind.EVALUATION_NUMBERS),
]


def now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


async def main(path: Path, url: str, root: bytes) -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    source = IntelSource(url=url, root_crl_url=f"{url}/IntelSGXRootCA.der")
    anchor = TrustAnchor.from_certificate(root)
    cache = CollateralCache(Store(Database(path), now), [source], anchor, now=now)

    async def renew(key: ItemKey) -> None:
        item = await cache.refresh(key)
        sys.stdout.write(f"{KEYS.index(key)} {int(item.issued.timestamp())}\n")
        sys.stdout.flush()

    while True:
        await renew(KEYS[0])
        await asyncio.gather(*(renew(key) for key in KEYS[1:]))


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]).read_bytes()))
