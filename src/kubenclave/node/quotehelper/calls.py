# SPDX-License-Identifier: Apache-2.0
"""Requests that wait for an answer, and whoever waits for it."""

import time
from typing import Final, Protocol

from kubenclave.wire import aesm

_REPORT_BODY_SIZE: Final = 384


class Caller(Protocol):
    """Whoever sent a request."""

    @property
    def peer(self) -> int:
        """A number for its process; negative where it cannot be told from others."""

    def answer(self, frame: bytes | None) -> None:
        """Send the one reply, or close without."""


class Call:
    """A request that is not answered yet: ``asked`` when the worker knows of it, ``over`` once it is answered.

    ``begun`` is when it came, by the monotonic clock.
    """

    __slots__ = ("asked", "begun", "caller", "over", "peer", "request")

    def __init__(self, request: aesm.GetQuote | aesm.InitQuote, caller: Caller) -> None:
        self.request = request
        self.caller = caller
        self.peer = caller.peer
        self.begun = time.monotonic()
        self.over = False
        self.asked = False

    @property
    def who(self) -> int | bytes:
        """What stands for the client: its process, or, where that cannot be seen, the body of its REPORT.

        A client that tries again has the same REPORT body, and another one that a client with other data of its own.
        """
        if self.peer > 0 or not isinstance(self.request, aesm.GetQuote):
            return self.peer
        return (self.request.report or b"")[:_REPORT_BODY_SIZE]
