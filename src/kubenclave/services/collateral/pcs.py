# SPDX-License-Identifier: Apache-2.0
"""What clients ask of Intel's certification service (PCS v4) or of its cache (PCCS v3 and v4), byte for byte.

Where the two differ the cache's way holds, for that is what clients of a cache expect: a revocation list comes in hex
unless ``encoding`` says otherwise. Paths of version 3 serve the same documents as those of version 4.
"""

import functools
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Final, TypeAlias

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from kubenclave.errors import KubenclaveError, PlatformError
from kubenclave.services.collateral import queries, replies
from kubenclave.services.collateral.items import ROOT_CRL, Item, ItemKey, Kind, Tee
from kubenclave.services.collateral.pckcert import pckcert_routes
from kubenclave.services.collateral.service import CollateralService
from kubenclave.services.collateral.sources.base import UnknownError
from kubenclave.wire import pcs

Endpoint: TypeAlias = Callable[[CollateralService, Tee, Request], Awaitable[Response]]

SGX_V4: Final = "/sgx/certification/v4"
SGX_V3: Final = "/sgx/certification/v3"
TDX_V4: Final = "/tdx/certification/v4"

_chain_header: Final = functools.lru_cache(maxsize=64)(pcs.encode_chain)  # escaping takes longer than all the rest


def pcs_routes(service: CollateralService) -> list[Route]:
    """Return the routes of clients."""
    mounts: tuple[tuple[str, Tee, Mapping[str, Endpoint]], ...] = (
        (SGX_V4, Tee.SGX, _SGX),
        (SGX_V3, Tee.SGX, _SGX),
        (TDX_V4, Tee.TDX, _TDX),
    )
    documents = [
        Route(f"{mount}/{path}", replies.answering(partial(endpoint, service, tee)), methods=["GET"])
        for mount, tee, endpoints in mounts
        for path, endpoint in endpoints.items()
    ]
    return documents + pckcert_routes(service, SGX_V4) + pckcert_routes(service, SGX_V3)


async def tcb(service: CollateralService, tee: Tee, request: Request) -> Response:
    """Return TCB info of an FMSPC, its chain under both names that clients look for."""
    item = await _generation(service, ItemKey.tcb_info(tee, queries.fmspc(request), queries.update(request)))
    return _document(service, item, pcs.TCB_INFO_CHAIN, pcs.TCB_INFO_CHAIN_V3)


async def identity(enclave: str, service: CollateralService, tee: Tee, request: Request) -> Response:
    """Return the identity of an enclave of Intel's."""
    item = await _generation(service, ItemKey.identity(tee, enclave, queries.update(request)))
    return _document(service, item, pcs.IDENTITY_CHAIN)


async def evaluation_numbers(service: CollateralService, tee: Tee, _request: Request) -> Response:
    """Return the TCB evaluation data numbers that are on offer."""
    item = await service.cache.get(ItemKey(Kind.EVALUATION_NUMBERS, tee=tee))
    return _document(service, item, pcs.EVALUATION_NUMBERS_CHAIN)


async def fmspcs(service: CollateralService, _tee: Tee, request: Request) -> Response:
    """Return the FMSPCs of one kind of platform, or of all."""
    wanted = queries.choice(request, "platform", queries.PLATFORMS, default="all")
    item = await service.cache.get(ItemKey(Kind.FMSPCS))
    listed = [each for each in pcs.parse_fmspcs(item.body) if wanted in ("all", each.platform)]
    return _answer(service, item, msgspec.json.encode(listed), replies.JSON)


async def pck_crl(service: CollateralService, _tee: Tee, request: Request) -> Response:
    """Return the revocation list of a PCK CA."""
    ca, encoding = queries.ca(request), queries.encoding(request)
    item = await service.cache.get(ItemKey.pck_crl(ca))
    body, media_type = _crl(item, encoding, of_hex=replies.PEM)
    return _answer(service, item, body, media_type, pcs.PCK_CRL_CHAIN)


async def root_crl(service: CollateralService, _tee: Tee, request: Request) -> Response:
    """Return the revocation list of the root; its label is that of DER even in hex, as PCCS has it."""
    encoding = queries.encoding(request)
    item = await service.cache.get(ROOT_CRL)
    body, media_type = _crl(item, encoding, of_hex=replies.DER)
    return _answer(service, item, body, media_type)


async def crl(service: CollateralService, _tee: Tee, request: Request) -> Response:
    """Return a revocation list by its distribution point, in DER."""
    key = queries.crl_by_uri(request, simulated=not service.anchor.is_intel)
    item = await service.cache.get(key)
    return _answer(service, item, item.body, replies.DER)


async def _generation(service: CollateralService, key: ItemKey) -> Item:
    """Return an item of which there are several generations.

    Raises UnknownError, with the code ``collateral.withdrawn`` for a number that is older than others on Intel's list
    and not on it itself.
    """
    try:
        return await service.cache.get(key)
    except UnknownError:
        if key.update.isdecimal() and await _is_withdrawn(service, key.tee, int(key.update)):
            raise UnknownError(
                "Intel has withdrawn this generation",
                code="collateral.withdrawn",
                field=str(key),
                hint="see which there are: tcbevaluationdatanumbers",
            ) from None
        raise


async def _is_withdrawn(service: CollateralService, tee: Tee, number: int) -> bool:
    try:
        item = await service.cache.get(ItemKey(Kind.EVALUATION_NUMBERS, tee=tee))
    except KubenclaveError:
        return False  # nobody can tell: then it is unknown
    inner, _ = pcs.split_signed(item.body, pcs.EVALUATION_NUMBERS)
    listed = [each.number for each in pcs.parse_evaluation_numbers(inner).numbers]
    return number not in listed and number < max(listed)


def _document(service: CollateralService, item: Item, *chain_headers: str) -> Response:
    """Return a signed document as it is. Raises PlatformError ``collateral.too-long`` where it would crash a client."""
    size = len(item.body) + len(_chain_header(item.issuer_chain))
    if size > pcs.MAX_DOCUMENT_AND_CHAIN:
        raise PlatformError(
            "this document is so long that Intel's client would crash",
            code="collateral.too-long",
            field=str(item.key),
            expected=f"{pcs.MAX_DOCUMENT_AND_CHAIN} bytes with its issuer chain",
            found=f"{size} bytes",
            hint="put it into a file for clients that can: kubenclave collateral fetch",
        )
    return _answer(service, item, item.body, replies.JSON, *chain_headers)


def _answer(service: CollateralService, item: Item, body: bytes, media_type: str, *chain_headers: str) -> Response:
    chain = {name: _chain_header(item.issuer_chain) for name in chain_headers}
    return replies.cacheable(body, media_type, until=item.next_update, now=service.now(), headers=chain)


def _crl(item: Item, encoding: str, *, of_hex: str) -> tuple[bytes, str]:
    if encoding == "der":
        return item.body, replies.DER
    if encoding == "pem":
        return pcs.crl_pem(item.body), replies.PEM
    return pcs.crl_hex(item.body), of_hex


_BOTH: Final[Mapping[str, Endpoint]] = {
    "tcb": tcb,
    "qe/identity": partial(identity, "qe"),
    "tcbevaluationdatanumbers": evaluation_numbers,
}
_TDX: Final = _BOTH
_SGX: Final[Mapping[str, Endpoint]] = {
    **_BOTH,
    "qve/identity": partial(identity, "qve"),
    "qae/identity": partial(identity, "qae"),
    "pckcrl": pck_crl,
    "rootcacrl": root_crl,
    "crl": crl,
    "fmspcs": fmspcs,
}
