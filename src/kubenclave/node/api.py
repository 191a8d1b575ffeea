# SPDX-License-Identifier: Apache-2.0
"""The API server for a node daemon: one request per connection, with the service account's token, and no library.

Token and authority are read from their files for each request, because both are replaced while the daemon runs.
"""

import asyncio
import json
import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import h11

from kubenclave.errors import KubenclaveError, PlatformError, UnreachableError, UsageError

SERVICE_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
MAX_BODY: Final = 8 << 20
"""Bytes of an answer: a Node with many images has 100 kB."""

JSON_PATCH: Final = "application/json-patch+json"
MERGE_PATCH: Final = "application/merge-patch+json"
STRATEGIC_PATCH: Final = "application/strategic-merge-patch+json"
_JSON: Final = "application/json"
_CHUNK: Final = 65536


@dataclass(frozen=True, slots=True)
class Place:
    """Where the API server is, and the folder of the service account with ``token`` and the authority."""

    host: str
    port: int
    account: Path = SERVICE_ACCOUNT

    @property
    def authority(self) -> str:
        """Host and port as a URL has them."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def place_of(text: str | None, account: Path, env: Mapping[str, str]) -> Place:
    """Return the place that ``text`` (HOST:PORT) names, or, without it, the one a pod is told by its environment.

    Raises UsageError when neither says where.
    """
    if text is not None:
        host, _, port = text.rpartition(":")
    else:
        host, port = env.get("KUBERNETES_SERVICE_HOST", ""), env.get("KUBERNETES_SERVICE_PORT", "")
    if not host or not (port.isascii() and port.isdecimal() and 0 < int(port) < 65536):
        raise UsageError(
            "where is the API server?",
            code="kubeapi.place",
            expected="HOST:PORT",
            found=text or "no KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT",
            hint="run as a pod with a service account, or give --api-server HOST:PORT",
        )
    return Place(host.strip("[]"), int(port), account)


class NodeApi:
    """Sends requests; ``timeout`` in seconds for each. ``calls`` counts those that were answered or tried."""

    def __init__(self, place: Place, *, timeout: float = 10.0) -> None:
        self.calls = 0
        self._place = place
        self._timeout = timeout

    async def get(self, path: str) -> dict[str, Any]:
        """Return an object. Raises as ``request``."""
        return await self.request("GET", path)

    async def patch(self, path: str, kind: str, body: object) -> dict[str, Any]:
        """Change an object by a patch of a kind (a media type) and return it as it is then. Raises as ``request``."""
        return await self.request("PATCH", path, body, kind)

    async def create(self, path: str, body: object) -> dict[str, Any]:
        """Create an object and return it. Raises as ``request``."""
        return await self.request("POST", path, body)

    async def request(self, method: str, path: str, body: object = None, kind: str = _JSON) -> dict[str, Any]:
        """Send one request and return the object that answers it.

        Raises UnreachableError when nobody answers in time or the server has trouble of its own, PlatformError when
        it refuses; the codes ``kubeapi.not-found`` and ``kubeapi.conflict`` tell that the object is gone or another.
        """
        self.calls += 1
        try:
            async with asyncio.timeout(self._timeout):
                status, data = await self._exchange(method, path, body, kind)
        except (OSError, TimeoutError, h11.ProtocolError) as error:
            raise UnreachableError(
                f"the API server at {self._place.authority} does not answer: {str(error) or type(error).__name__}",
                code="kubeapi.unreachable",
                hint="it is tried again; what containers get does not depend on it",
            ) from error
        document = _document(data)
        if status >= 300:
            raise _refusal(status, f"{method} {path}", document)
        return document

    async def _exchange(self, method: str, path: str, body: object, kind: str) -> tuple[int, bytes]:
        place = self._place
        token = (place.account / "token").read_text(encoding="utf-8").strip()
        authority = ssl.create_default_context(cafile=os.fspath(place.account / "ca.crt"))
        # As bytes: for text Python loads the tables of international names, a megabyte.
        name: Any = place.host.encode()
        reader, writer = await asyncio.open_connection(place.host, place.port, ssl=authority, server_hostname=name)
        try:
            connection = h11.Connection(h11.CLIENT)
            data = b"" if body is None else json.dumps(body).encode()
            headers = {
                "Host": place.authority,
                "Authorization": f"Bearer {token}",
                "Accept": _JSON,
                "User-Agent": "kubenclave-node-agent",
                "Connection": "close",
            }
            if body is not None:
                headers |= {"Content-Type": kind, "Content-Length": str(len(data))}
            request = h11.Request(method=method, target=path, headers=list(headers.items()))
            for event in (request, *((h11.Data(data),) if data else ()), h11.EndOfMessage()):
                writer.write(connection.send(event) or b"")
            await writer.drain()
            return await _answer(connection, reader)
        finally:
            writer.transport.abort()  # the answer is complete; a farewell over TLS would only cost time


async def _answer(connection: h11.Connection, reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Return status and body. Raises ProtocolError for what is no HTTP, ends early or is too large."""
    status, parts, size = 0, [], 0
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await reader.read(_CHUNK))
        elif isinstance(event, h11.Response):
            status = event.status_code
        elif isinstance(event, h11.Data):
            size += len(event.data)
            if size > MAX_BODY:
                raise h11.RemoteProtocolError("the answer is too large")
            parts.append(bytes(event.data))
        elif isinstance(event, h11.EndOfMessage):
            return status, b"".join(parts)
        elif not isinstance(event, h11.InformationalResponse):
            raise h11.RemoteProtocolError("the connection ended early")


def _document(data: bytes) -> dict[str, Any]:
    """Return the JSON object, an empty one for anything else: a proxy may answer in words."""
    try:
        document = json.loads(data)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def _refusal(status: int, what: str, document: dict[str, Any]) -> KubenclaveError:
    message = str(document.get("message", ""))[:500] or f"status {status}"
    if status == 429 or status >= 500:
        return UnreachableError(f"the API server cannot answer {what} now: {message}", code="kubeapi.busy")
    if status == 404:
        return PlatformError(f"{what}: {message}", code="kubeapi.not-found")
    if status in (409, 422):
        return PlatformError(f"{what}: {message}", code="kubeapi.conflict", hint="somebody else changed it meanwhile")
    return PlatformError(
        f"the API server refused {what}: {message}",
        code="kubeapi.refused",
        hint="are role, binding and admission policy of the chart as installed?",
    )
