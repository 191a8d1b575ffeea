# SPDX-License-Identifier: Apache-2.0
"""The attestation service of this machine: for its own platform, on the loopback interface, without credentials.

We hold its socket, so that nobody is refused while it starts, and so that its port stays when it is started again.
"""

import asyncio
import contextlib
import importlib.util
import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from kubenclave.errors import PlatformError
from kubenclave.local.processes import Service
from kubenclave.local.state import StateDirectory

_PACKAGES: Final = ("starlette", "uvicorn", "httpx2", "joserfc", "jmespath")
_HOST: Final = "127.0.0.1"
_PATIENCE: Final = 2.0


def installed() -> bool:
    """Tell whether the packages of the extra ``services`` are here."""
    return all(importlib.util.find_spec(name) is not None for name in _PACKAGES)


@dataclass(frozen=True, slots=True)
class Attestation:
    """The service of one machine on a socket that listens; ``url`` is its issuer as well."""

    state: StateDirectory
    listening: socket.socket
    simulated: bool

    @classmethod
    def on(cls, state: StateDirectory, port: int, *, simulated: bool) -> "Attestation":
        """Take a port; 0 for the one that this state had before, or any free one the first time.

        The port is part of the name of the service, which its log and its tokens carry for life. Raises PlatformError
        ``up.attestation-port``.
        """
        remembered = state.attestation / "port"
        wanted = port or _read(remembered)
        try:
            listening = socket.create_server((_HOST, wanted), backlog=1024)
            state.attestation.mkdir(mode=0o700, exist_ok=True)
            remembered.write_text(f"{listening.getsockname()[1]}\n", encoding="ascii")
        except OSError as error:
            raise PlatformError(
                f"port {wanted} cannot be served",
                code="up.attestation-port",
                found=error.strerror or str(error),
                hint=f"end what has it, or begin anew without {state.attestation}; or give --no-attestation",
            ) from error
        return cls(state, listening, simulated)

    @property
    def url(self) -> str:
        """Where the service is."""
        return f"http://{_HOST}:{self._port}" + ("/simulated" if self.simulated else "")

    @property
    def _port(self) -> int:
        port: int = self.listening.getsockname()[1]
        return port

    def service(self) -> Service:
        """Return the daemon."""
        argv = [sys.executable, "-m", "kubenclave", "attest", "serve", "--open", "--with-collateral"]
        argv += ["--state", str(self.state.attestation), "--listen-fd", str(self.listening.fileno())]
        argv += ["--issuer", self.url]
        if self.simulated:
            argv += ["--simulated-state", str(self.state.platform)]
        return Service("attestation service", tuple(argv), self._answers, (self.listening.fileno(),))

    async def _answers(self) -> bool:
        """Tell whether it answers: that connections are taken says nothing, as the socket is ours."""
        path = "/simulated/v1/certs" if self.simulated else "/v1/certs"
        try:
            async with asyncio.timeout(_PATIENCE):
                reader, writer = await asyncio.open_connection(_HOST, self._port)
                with contextlib.closing(writer):
                    writer.write(f"GET {path} HTTP/1.1\r\nHost: {_HOST}\r\nConnection: close\r\n\r\n".encode())
                    return b" 200 " in await reader.readline()
        except (OSError, TimeoutError):
            return False


def _read(remembered: Path) -> int:
    """Return the port of the last time, 0 where there was none."""
    try:
        port = int(remembered.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return 0
    return port if 0 < port < 1 << 16 else 0
