# SPDX-License-Identifier: Apache-2.0
"""A cache that renews all it has, again and again, and says what is committed; its parent kills it in the middle."""

import asyncio
import datetime as dt
import logging
import sys
from pathlib import Path

import structlog

from kubenclave.dcap.anchor import TrustAnchor
from kubenclave.services.collateral.cache import CollateralCache
from kubenclave.services.collateral.items import ItemKey
from kubenclave.services.collateral.sources.intel import IntelSource
from kubenclave.services.collateral.store import Store
from kubenclave.services.database import Database
from tests.integration.test_collateral_crash import KEYS


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
