# SPDX-License-Identifier: Apache-2.0
"""HTTP on one connection: who is at the other end of TLS, and a bound on the time that a request's head may take."""

import asyncio
import ssl
from typing import Any, Final

from uvicorn.protocols.http.h11_impl import H11Protocol

from kubenclave.services.web.guard import CERTIFICATE

HEAD: Final = 10.0
"""Seconds for the head of a request, the first one's from the connection on."""


class Protocol(H11Protocol):
    """uvicorn's protocol, which knows client certificates and gives nobody all the time in the world.

    What is behind TLS comes here after the handshake, for which asyncio has a bound of its own.
    """

    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin: note the client certificate for every request of the connection."""
        super().connection_made(transport)
        secured: ssl.SSLObject | None = transport.get_extra_info("ssl_object")
        certificate = None if secured is None else secured.getpeercert(binary_form=True)
        self.app_state: dict[str, Any] = {**self.app_state, CERTIFICATE: certificate}
        self._wait_for_head()

    def data_received(self, data: bytes) -> None:
        """Read on: a head that is complete has become a request."""
        before = self.cycle
        super().data_received(data)
        if self.cycle is not before:
            self._stop_waiting()
        elif self._late is None and getattr(before, "response_complete", True):
            self._wait_for_head()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP; nobody hears the answer to a request that it was the body of."""
        if not getattr(self.cycle, "response_complete", True):
            self.cycle.disconnected = True
            self.cycle.message_event.set()
            if self.cycle.response_started:
                self.transport.abort()
                return
        super().send_400_response(msg)

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        self._stop_waiting()
        super().connection_lost(exc)

    def _wait_for_head(self) -> None:
        self._late = self.loop.call_later(HEAD, self.transport.abort)

    def _stop_waiting(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None
