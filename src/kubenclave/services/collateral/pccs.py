# SPDX-License-Identifier: Apache-2.0
"""What platforms and administrators ask of PCCS: registration and its queue, collateral that is brought, policies.

Registration needs the role ``register`` (header ``user-token``), everything else but reading policies
``collateral-admin`` (``admin-token``); a bearer token or a client certificate does as well.
"""

import asyncio
import datetime as dt
import json
import re
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final, TypeAlias

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from kubenclave.dcap.collateral import load_json
from kubenclave.services.collateral import platformcollateral, queries, replies
from kubenclave.services.collateral.appraisal import AppraisalPolicy
from kubenclave.services.collateral.pck import alias_of
from kubenclave.services.collateral.pcs import SGX_V3, SGX_V4
from kubenclave.services.collateral.queue import Platform, QueueState
from kubenclave.services.collateral.service import CollateralService
from kubenclave.services.web.credentials import Role

Endpoint: TypeAlias = Callable[[CollateralService, Request], Awaitable[Response]]

PLATFORM_COUNT: Final = "platform-count"
_MAX_LEASE: Final = 86_400  # seconds
_FAMILIES: Final = re.compile(r"\[(.*)\]")


def pccs_routes(service: CollateralService) -> list[Route]:
    """Return the routes of platforms and administrators."""
    table: tuple[tuple[str, str, Endpoint], ...] = (
        ("POST", "platforms", register),
        ("GET", "platforms", platforms),
        ("PUT", "platformcollateral", put_collateral),
        ("GET", "refresh", refresh),
        ("POST", "refresh", refresh),
        ("GET", "appraisalpolicy", policies),
        ("PUT", "appraisalpolicy", put_policy),
    )
    return [
        Route(f"{mount}/{path}", replies.answering(partial(endpoint, service)), methods=[method])
        for mount in (SGX_V4, SGX_V3)
        for method, path, endpoint in table
    ]


async def register(service: CollateralService, request: Request) -> Response:
    """Queue a platform; where a source can be asked, ask it for the certificates at once."""
    await service.guard.require(request, Role.REGISTER)
    queries.choice(request, "update", ("standard", "early", "all"), default="standard")
    platform = Platform.from_json(load_json(await request.body(), "platform"))
    if await service.register(platform):
        return PlainTextResponse("The platform is registered, and its PCK certificates are here.\n")
    return PlainTextResponse("The platform is registered and waits for its PCK certificates.\n")


async def platforms(service: CollateralService, request: Request) -> Response:
    """Return the platforms that wait (``source=reg``), or that Intel has nothing for (``reg_na``).

    ``lease`` in seconds keeps other readers from those that wait for so long; they stay in the queue. ``[FMSPC,...]``
    are those of these families that have certificates, ``[]`` all of them: with what Intel knows them by, and in place
    of the QE-ID, which is not held, something that ``PUT platformcollateral`` takes for it.
    """
    await service.guard.require(request, Role.COLLATERAL_ADMIN)
    source = queries.first(request, "source") or QueueState.NEW.value
    if source in set(QueueState):
        lease = dt.timedelta(seconds=queries.number(request, "lease", most=_MAX_LEASE))
        found = await asyncio.to_thread(service.queue.waiting, QueueState(source), lease=lease)
    elif (families := _FAMILIES.fullmatch(source)) is not None:
        found = await asyncio.to_thread(_with_certificates, service, queries.families(families[1]))
    else:
        raise queries.wrong("source", "reg, reg_na or [FMSPC,...]", source)
    body = json.dumps([each.as_dict() for each in found]).encode()
    return Response(body, headers={PLATFORM_COUNT: str(len(found))}, media_type=replies.JSON)


def _with_certificates(service: CollateralService, fmspcs: frozenset[str]) -> list[Platform]:
    return [
        Platform(
            alias_of(name),
            asked.pce_id.hex().upper(),
            enc_ppid=(asked.encrypted_ppid or b"").hex().upper(),
            manifest=asked.manifest or "",
        )
        for name, asked in service.pck_certs.renewable(fmspcs)
    ]


async def put_collateral(service: CollateralService, request: Request) -> Response:
    """Take in collateral and certificates that were fetched elsewhere: all of it, or nothing."""
    await service.guard.require(request, Role.COLLATERAL_ADMIN)
    body = await request.body()
    brought = await asyncio.to_thread(platformcollateral.parse, body, service.now())
    return PlainTextResponse(f"{await service.take_in(brought)}\n")


async def refresh(service: CollateralService, request: Request) -> Response:
    """Renew every item that is held, or the PCK certificates of platforms (``type=certs``), all or of some FMSPCs."""
    await service.guard.require(request, Role.COLLATERAL_ADMIN)
    if queries.choice(request, "type", ("collateral", "certs"), default="collateral") == "certs":
        return PlainTextResponse(f"{await service.renew_certificates(queries.fmspcs(request))}\n")
    return PlainTextResponse(f"{await service.renew()}\n")


async def policies(service: CollateralService, request: Request) -> Response:
    """Return the default appraisal policies of an FMSPC, with commas between them."""
    fmspc = queries.fmspc(request)
    found = await asyncio.to_thread(service.policies.defaults, fmspc)
    if not found:
        raise queries.absent("appraisal policy", fmspc)
    return PlainTextResponse(",".join(found))


async def put_policy(service: CollateralService, request: Request) -> Response:
    """Keep an appraisal policy; the answer is its id."""
    await service.guard.require(request, Role.COLLATERAL_ADMIN)
    policy = AppraisalPolicy.from_json(await request.body())
    await asyncio.to_thread(service.policies.put, policy)
    return PlainTextResponse(policy.id)
