# SPDX-License-Identifier: Apache-2.0
"""PCK certificates over HTTP: the one for a platform's TCB, as PCCS and PCS answer, and all of a platform, as PCS does.

Platforms go by their QE-ID, as with every cache. Who asks as one asks Intel, without one, goes by the platform manifest
or the encrypted PPID: that is good for a single answer, as the encryption differs each time.
"""

import hashlib
import re
from functools import partial
from typing import Any, Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from kubenclave.dcap.collateral import load_json
from kubenclave.errors import FormatError
from kubenclave.services.collateral import queries, replies
from kubenclave.services.collateral.pckselection import PckCertificate
from kubenclave.services.collateral.queue import MAX_MANIFEST
from kubenclave.services.collateral.service import CollateralService
from kubenclave.services.collateral.sources.base import PckRequest, UnknownError
from kubenclave.services.web.limits import waiting
from kubenclave.wire import pcs

MAX_QE_ID: Final = 260
_NO_CACHE: Final = {"Cache-Control": "no-store"}  # who asks tells who they are, and the answer is theirs
_QE_ID: Final = re.compile(r"[\x21-\x7e]+")
_HEX: Final = re.compile(r"[0-9A-Fa-f]+")


class _Body(msgspec.Struct, frozen=True, rename="camel"):
    """What a POST says instead of the query."""

    platform_manifest: str
    pceid: str
    cpusvn: str = ""
    pcesvn: str = ""


def pckcert_routes(service: CollateralService, mount: str) -> list[Route]:
    """Return the routes below ``mount``."""
    table = {"pckcert": pckcert, "pckcerts": pckcerts, "pckcerts/config": pckcerts}
    return [
        Route(f"{mount}/{path}", replies.answering(partial(endpoint, service)), methods=["GET", "POST"])
        for path, endpoint in table.items()
    ]


async def pckcert(service: CollateralService, request: Request) -> Response:
    """Return the certificate for a platform's TCB."""
    asked = await _asked(request, tcb=True)
    try:
        with waiting():
            found = await service.pck_certs.certificate(asked)
    except UnknownError as error:
        raise _told(error) from error
    return Response(found.leaf, headers={**_headers(found), **_NO_CACHE}, media_type=replies.PEM)


async def pckcerts(service: CollateralService, request: Request) -> Response:
    """Return all certificates of a platform."""
    try:
        asked = await _asked(request, tcb=False)
        with waiting():
            answer = await service.pck_certs.answer(asked)
    except UnknownError as error:
        raise _told(error) from error
    chain = {pcs.PCK_CHAIN: pcs.encode_chain(answer.issuer_chain)}
    return Response(pcs.encode_pck_certs(answer.entries), headers={**chain, **_NO_CACHE}, media_type=replies.JSON)


def _headers(found: PckCertificate) -> dict[str, str]:
    return {
        pcs.PCK_CHAIN: pcs.encode_chain(found.issuer_chain),
        pcs.PCK_TCBM: found.tcbm.hex().upper(),
        pcs.PCK_FMSPC: found.fmspc.upper(),
        pcs.PCK_CA_TYPE: found.ca,
    }


async def _asked(request: Request, *, tcb: bool) -> PckRequest:
    """Return which platform is meant. Raises FormatError ``pcs.parameter``; ids that came are not repeated in it."""
    if request.method == "POST":
        return _posted(await request.body(), tcb=tcb)
    ppid = _bytes(queries.first(request, "encrypted_ppid"), "encrypted_ppid", 384, needed=False)
    qe_id = queries.first(request, "qeid") or (_digest(ppid) if any(ppid) else "")
    if not 1 <= len(qe_id) <= MAX_QE_ID or not _QE_ID.fullmatch(qe_id):
        raise queries.wrong("qeid", f"1 to {MAX_QE_ID} characters", "")
    return PckRequest(
        qe_id,
        _bytes(queries.first(request, "pceid"), "pceid", 2),
        _bytes(queries.first(request, "cpusvn"), "cpusvn", 16, needed=tcb),
        _bytes(queries.first(request, "pcesvn"), "pcesvn", 2, needed=tcb),
        ppid if any(ppid) else None,
    )


def _posted(body: bytes, *, tcb: bool) -> PckRequest:
    try:
        given = msgspec.convert(load_json(body, "request"), _Body)
    except msgspec.ValidationError as error:
        raise FormatError("not a request for PCK certificates", code="pcs.parameter", found=str(error)[:200]) from None
    if len(given.platform_manifest) > MAX_MANIFEST or not _HEX.fullmatch(given.platform_manifest):
        raise queries.wrong("platformManifest", f"at most {MAX_MANIFEST} hex digits", "")
    return PckRequest(
        _digest(given.platform_manifest.upper().encode()),
        _bytes(given.pceid, "pceid", 2),
        _bytes(given.cpusvn, "cpusvn", 16, needed=tcb),
        _bytes(given.pcesvn, "pcesvn", 2, needed=tcb),
        manifest=given.platform_manifest,
    )


def _bytes(text: str | None, name: str, size: int, *, needed: bool = True) -> bytes:
    if not text and not needed:
        return b""
    if text is None or len(text) != 2 * size or not _HEX.fullmatch(text):
        raise queries.wrong(name, f"{2 * size} hexadecimal digits", f"{len(text or '')} characters")
    return bytes.fromhex(text)


def _digest(identifier: bytes) -> str:
    return hashlib.sha256(identifier).hexdigest()


def _told(error: UnknownError) -> UnknownError:
    """Return the same as clients of PCCS know it: a platform that nobody knows is 461, where an item would be 404."""
    if error.code != "collateral.unknown":
        return error
    members: dict[str, Any] = {"expected": error.expected, "found": error.found}
    return UnknownError(
        "nobody knows this platform",
        code="pck.unknown-platform",
        hint="register it: POST platforms, or have its certificates brought",
        **members,
    )
