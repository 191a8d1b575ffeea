# SPDX-License-Identifier: Apache-2.0
"""Native routes: what is held of every item, how old it is and why it is not newer; renewal; what is to come.

``GET /v1/collateral/status``, ``POST /v1/collateral/refresh``, ``GET /v1/collateral/forecast``. Errors are problem
documents.
"""

import asyncio
import datetime as dt
import json
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final, TypeAlias

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from kubenclave.dcap.describe import zulu
from kubenclave.errors import KubenclaveError
from kubenclave.services.collateral import replies
from kubenclave.services.collateral.forecast import forecast_all
from kubenclave.services.collateral.service import CollateralService
from kubenclave.services.collateral.store import ItemStatus, SourceStatus
from kubenclave.services.web.credentials import Role
from kubenclave.services.web.problems import problem

Endpoint: TypeAlias = Callable[[CollateralService, Request], Awaitable[Response]]

PREFIX: Final = "/v1/collateral"
_MOST_ABSENT: Final = 100  # items told of that were asked for and never were here


def status_routes(service: CollateralService) -> list[Route]:
    """Return the routes. Nothing in the status identifies a machine: anybody may read it."""
    table: tuple[tuple[str, str, Endpoint], ...] = (
        ("GET", "status", status),
        ("POST", "refresh", refresh),
        ("GET", "forecast", forecast),
    )
    return [
        Route(f"{PREFIX}/{path}", _answering(partial(endpoint, service)), methods=[method])
        for method, path, endpoint in table
    ]


async def status(service: CollateralService, _request: Request) -> Response:
    """Answer with the status."""
    return _json(await asyncio.to_thread(describe, service))


async def refresh(service: CollateralService, request: Request) -> Response:
    """Renew every item that is held, and tell what became of it."""
    await service.guard.require(request, Role.COLLATERAL_ADMIN)
    outcome = await service.renew()
    failures = [{"item": name, **error.as_dict()} for name, error in outcome.failures]
    return _json({"renewed": outcome.good, "failures": failures})


async def forecast(service: CollateralService, request: Request) -> Response:
    """Answer with what is to come for every platform that was seen."""
    await service.guard.require(request, Role.COLLATERAL_ADMIN)
    platforms = await asyncio.to_thread(service.platforms.all)
    found = await forecast_all(service.cache.get, platforms, now=service.now())
    failed = [{"tee": tee.value, "fmspc": fmspc, **error.as_dict()} for tee, fmspc, error in found.failed]
    return _json(
        {
            "at": zulu(service.now().replace(microsecond=0)),
            "simulated": not service.anchor.is_intel,
            "platforms": [each.as_dict() for each in found.made],
            "failures": failed,
        }
    )


def _answering(handler: replies.Handler) -> replies.Handler:
    async def answer(request: Request) -> Response:
        try:
            return await handler(request)
        except KubenclaveError as error:
            return problem(error)

    return answer


def _json(document: dict[str, Any]) -> Response:
    body = json.dumps(document).encode()
    return Response(body, headers={"Cache-Control": "no-store"}, media_type=replies.JSON)


def describe(service: CollateralService) -> dict[str, Any]:
    """Return the status: root, items, sources in the order in which they are asked, and the registration queue."""
    now = service.now().replace(microsecond=0)
    return {
        "at": zulu(now),
        "simulated": not service.anchor.is_intel,
        "root": service.anchor.digest,
        "items": [_item(each, now) for each in _told(service.cache.status())],
        "sources": [_source(each) for each in service.cache.source_status()],
        "queue": {state.name.lower().replace("_", "-"): length for state, length in service.queue.lengths().items()},
    }


def _told(items: list[ItemStatus]) -> list[ItemStatus]:
    """Return what there is a copy of, and of what never was here the latest: anybody can make names up."""
    absent = sorted((each for each in items if each.issued is None), key=lambda each: each.last_used, reverse=True)
    left_out = {each.key for each in absent[_MOST_ABSENT:]}
    return [each for each in items if each.key not in left_out]


def _item(status: ItemStatus, now: dt.datetime) -> dict[str, Any]:
    key = status.key
    return {
        "item": str(key),
        "kind": key.kind.value,
        "subject": key.subject,
        "tee": key.tee.value,
        "update": key.update,
        "state": _state(status, now),
        "issued": _time(status.issued),
        "next_update": _time(status.next_update),
        "tcb_evaluation_data_number": status.number or None,
        "source": status.source,
        "fetched": _time(status.fetched),
        "last_used": _time(status.last_used),
        "last_success": _time(status.last_success),
        "next_try": _time(status.next_try),
        "failures": status.failures,
        "last_error": _error(status.error_code, status.error, status.failed),
    }


def _state(status: ItemStatus, now: dt.datetime) -> str:
    """Return ``absent``, ``unknown`` (no source has it), ``expired``, ``failing`` (not renewed) or ``current``."""
    if status.next_update is None:
        return "unknown" if status.error_code == "collateral.unknown" else "absent"
    if status.next_update < now:
        return "expired"
    return "failing" if status.failures else "current"


def _source(status: SourceStatus) -> dict[str, Any]:
    return {
        "source": status.name,
        "last_success": _time(status.last_success),
        "failures": status.failures,
        "last_error": _error(status.error_code, status.error, status.failed),
    }


def _error(code: str | None, text: str | None, at: dt.datetime | None) -> dict[str, Any] | None:
    return None if code is None else {"code": code, "message": text, "at": _time(at)}


def _time(moment: dt.datetime | None) -> str | None:
    return None if moment is None else zulu(moment)
