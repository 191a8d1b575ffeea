# SPDX-License-Identifier: Apache-2.0
"""Tests that are coroutines."""

import asyncio
import functools
from collections.abc import Awaitable, Callable


def in_a_loop(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Run a test, with its fixtures, in an event loop of its own."""

    @functools.wraps(test)
    def run(**arguments: object) -> None:
        async def whole() -> None:
            await test(**arguments)

        asyncio.run(whole())

    return run
