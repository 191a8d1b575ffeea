# SPDX-License-Identifier: Apache-2.0
"""``GET /v1/collateral/status``: what is held of every item, how old it is, and why it is not newer."""

import asyncio
import datetime as dt
import json
from functools import partial
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from kubenclave.dcap.describe import zulu
from kubenclave.services.collateral import replies
from kubenclave.services.collateral.service import CollateralService
from kubenclave.services.collateral.store import ItemStatus, SourceStatus

PATH: Final = "/v1/collateral/status"


def status_routes(service: CollateralService) -> list[Route]:
    """Return the route; nothing in the answer identifies a machine, so anybody may read it."""
    return [Route(PATH, replies.answering(partial(status, service)), methods=["GET"])]


async def status(service: CollateralService, _request: Request) -> Response:
    """Answer with the status as JSON."""
    body = json.dumps(await asyncio.to_thread(describe, service)).encode()
    return Response(body, headers={"Cache-Control": "no-store"}, media_type=replies.JSON)


def describe(service: CollateralService) -> dict[str, Any]:
    """Return the status: root, items, sources in the order in which they are asked, and the registration queue."""
    now = service.now()
    return {
        "at": zulu(now),
        "simulated": not service.anchor.is_intel,
        "root": service.anchor.digest,
        "items": [_item(each, now) for each in service.cache.status()],
        "sources": [_source(each) for each in service.cache.source_status()],
        "queue": {state.name.lower().replace("_", "-"): length for state, length in service.queue.lengths().items()},
    }


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
    """Return ``absent``, ``expired``, ``failing`` (still current, but not renewed) or ``current``."""
    if status.next_update is None:
        return "absent"
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
