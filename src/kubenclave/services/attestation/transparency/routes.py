# SPDX-License-Identifier: Apache-2.0
"""The log over HTTP, under /v1/log: signed head, entries, proofs, and the tiles of https://c2sp.org/tlog-tiles.

Beside them the collateral that its verdicts rested on.

Whoever may attest may read all of it: the entries name nobody's machine.
"""

import re
from collections.abc import Sequence
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from kubenclave.errors import FormatError
from kubenclave.services.attestation.native import answer
from kubenclave.services.attestation.service import AttestationService
from kubenclave.services.attestation.transparency.log import MAX_PAGE
from kubenclave.services.attestation.transparency.tiles import Tile
from kubenclave.services.web.credentials import Role

_NUMBER: Final = re.compile(r"[0-9]{1,15}", re.ASCII)
_DIGEST: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)
_FOR_EVER: Final = "private, max-age=31536000, immutable"


def log_routes(service: AttestationService) -> Sequence[Route]:
    """Return the routes of the log of a service."""
    api = _Log(service)
    return (
        Route("/v1/log/head", api.head, methods=["GET"]),
        Route("/v1/log/entries", api.entries, methods=["GET"]),
        Route("/v1/log/proof/inclusion", api.inclusion, methods=["GET"]),
        Route("/v1/log/proof/consistency", api.consistency, methods=["GET"]),
        Route("/v1/log/checkpoint", api.checkpoint, methods=["GET"]),
        Route("/v1/log/tile/{path:path}", api.tile, methods=["GET"]),
        Route("/v1/log/collateral/{digest}", api.collateral, methods=["GET"]),
    )


class _Log:
    def __init__(self, service: AttestationService) -> None:
        self._service = service
        self._log = service.log

    async def head(self, request: Request) -> Response:
        await self._service.guard.require(request, Role.ATTEST)
        head = self._log.head()
        return answer(
            {
                "origin": head.checkpoint.origin,
                "size": head.checkpoint.size,
                "root": head.checkpoint.root.hex(),
                "note": head.note,
                "key": str(self._log.key),
            }
        )

    async def checkpoint(self, request: Request) -> Response:
        """Answer with the head as a signed note and nothing else."""
        await self._service.guard.require(request, Role.ATTEST)
        return Response(
            self._log.head().note, headers={"Cache-Control": "no-store"}, media_type="text/plain; charset=utf-8"
        )

    async def tile(self, request: Request) -> Response:
        """Answer with a tile; what it holds never changes."""
        await self._service.guard.require(request, Role.ATTEST)
        body = self._log.tile(Tile.parse(request.path_params["path"]))
        return Response(body, headers={"Cache-Control": _FOR_EVER}, media_type="application/octet-stream")

    async def collateral(self, request: Request) -> Response:
        """Answer with collateral as the flat JSON object, as ``quote verify`` takes it."""
        await self._service.guard.require(request, Role.ATTEST)
        body = self._service.archive.get(_digest(request.path_params["digest"]))
        return Response(body, headers={"Cache-Control": _FOR_EVER}, media_type="application/json")

    async def entries(self, request: Request) -> Response:
        """Answer with a page of entries, each as the text that was hashed; ``size`` is that of the whole log."""
        await self._service.guard.require(request, Role.ATTEST)
        size = self._log.size()
        start = _number(request, "start", 0)
        found = self._log.entries(start, _number(request, "end", max(start, min(start + MAX_PAGE, size))))
        return answer({"size": size, "start": start, "entries": [entry.decode() for entry in found]})

    async def inclusion(self, request: Request) -> Response:
        await self._service.guard.require(request, Role.ATTEST)
        index, size = _number(request, "index"), _number(request, "size", self._log.size())
        proof = self._log.inclusion(index, size)
        return answer({"index": index, "size": size, "proof": [each.hex() for each in proof]})

    async def consistency(self, request: Request) -> Response:
        await self._service.guard.require(request, Role.ATTEST)
        first, second = _number(request, "first"), _number(request, "second", self._log.size())
        proof = self._log.consistency(first, second)
        return answer({"first": first, "second": second, "proof": [each.hex() for each in proof]})


def _digest(text: str) -> bytes:
    """Read a digest in a path. Raises FormatError ``log.parameter``."""
    if not _DIGEST.fullmatch(text):
        raise FormatError(
            "not a digest",
            code="log.parameter",
            field="digest",
            expected="64 hex digits in lower case",
            found=f"{len(text)} characters",
        )
    return bytes.fromhex(text)


def _number(request: Request, name: str, default: int | None = None) -> int:
    """Return a parameter of the query. Raises FormatError ``log.parameter``."""
    values = request.query_params.getlist(name)
    if not values and default is not None:
        return default
    if len(values) != 1 or not _NUMBER.fullmatch(values[0]):
        raise FormatError(
            "not a place in the log",
            code="log.parameter",
            field=name,
            expected="one whole number",
            found=", ".join(values)[:60] or "none",
        )
    return int(values[0])
