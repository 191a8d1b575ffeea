# SPDX-License-Identifier: Apache-2.0
"""Being asked to end, for programs with an event loop."""

import asyncio
import signal


def stop_signal() -> "asyncio.Future[str]":
    """Return what will hold the name of the first SIGINT or SIGTERM, whatever comes later. Needs a running loop."""
    loop = asyncio.get_running_loop()
    stop: asyncio.Future[str] = loop.create_future()

    def arrived(name: str) -> None:
        if not stop.done():
            stop.set_result(name)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, arrived, number.name)
    return stop
