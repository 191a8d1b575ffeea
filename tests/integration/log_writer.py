# SPDX-License-Identifier: Apache-2.0
"""Appends to a log without end and prints what was acknowledged: run by the test, several at once, and killed."""

import asyncio
import sys
from pathlib import Path

from kubenclave.services.attestation.transparency.log import VerdictLog
from kubenclave.services.database import Database


async def write(log: VerdictLog, name: str) -> None:
    number = 0
    while True:
        batch = [log.append({"writer": name, "number": number + each}) for each in range(4)]
        for receipt in await asyncio.gather(*batch):
            sys.stdout.write(f"{receipt.index} {receipt.entry.decode()}\n")
        sys.stdout.flush()
        number += 4


asyncio.run(write(VerdictLog(Database(Path(sys.argv[1])), origin="attest.example"), sys.argv[2]))
