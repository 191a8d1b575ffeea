# SPDX-License-Identifier: Apache-2.0
"""Waiting for conditions, never for a time: long patience on a loaded machine costs nothing when all is well."""

import asyncio
import time
from collections.abc import Callable

PATIENCE = 30.0
STEP = 0.005


def eventually(
    condition: Callable[[], object], seconds: float = PATIENCE, what: str | Callable[[], str] = "the condition"
) -> None:
    """Wait until a condition holds; ``what`` says in a failure what did not come about, as it is by then."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited too long for {what if isinstance(what, str) else what()}"
        time.sleep(STEP)


async def eventually_async(condition: Callable[[], object], seconds: float = PATIENCE) -> None:
    """Wait until a condition holds, and let the event loop work on it."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110  # what is waited for has no event
            await asyncio.sleep(STEP)
