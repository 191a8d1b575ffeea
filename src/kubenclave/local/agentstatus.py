# SPDX-License-Identifier: Apache-2.0
"""What the node agent says about this machine on its status socket."""

import asyncio
from pathlib import Path
from typing import Final

import msgspec

from kubenclave.errors import FormatError, UnreachableError

MAX_STATUS: Final = 1 << 20
DEADLINE: Final = 3.0


class AgentStatus(msgspec.Struct, frozen=True):
    """The part of the agent's status that matters here; ``epc_bytes`` is 0 while something is missing."""

    epc_bytes: int
    simulated: bool = False


async def fetch(path: Path) -> AgentStatus:
    """Ask the agent at ``path``. Raises UnreachableError, FormatError when the answer makes no sense."""
    try:
        async with asyncio.timeout(DEADLINE):
            answer = await _get(path, "/status")
    except (OSError, TimeoutError) as error:
        raise UnreachableError(
            f"the node agent does not answer at {path}: {str(error) or 'too slow'}", code="agent.unreachable"
        ) from error
    head, _, body = answer.partition(b"\r\n\r\n")
    status = head.split(b" ", 2)[1:2]
    try:
        if status != [b"200"]:
            raise FormatError(
                "not a status", code="agent.status", expected="200", found=repr(head[:60].decode("latin-1"))
            )
        return msgspec.json.decode(body, type=AgentStatus)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise FormatError(f"not a status: {error}", code="agent.status") from error


async def _get(path: Path, target: str) -> bytes:
    """Return head and body of one response; the agent closes each connection."""
    reader, writer = await asyncio.open_unix_connection(str(path), limit=MAX_STATUS)
    try:
        writer.write(f"GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        answer = bytearray()
        while part := await reader.read(65536):
            answer += part
            if len(answer) > MAX_STATUS:
                raise OSError("the answer does not end")
        return bytes(answer)
    finally:
        writer.close()
