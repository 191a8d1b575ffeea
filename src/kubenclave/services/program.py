# SPDX-License-Identifier: Apache-2.0
"""What one worker of a service is made of: the attestation service, the collateral service, or both in one process.

An attestation service has a cache of collateral of its own either way; ``serve_collateral`` says whether others may
read it.
"""

import asyncio
import datetime as dt
import time
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeAlias

import structlog
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from kubenclave.dcap.anchor import TrustAnchor
from kubenclave.dcap.describe import zulu
from kubenclave.errors import KubenclaveError, PlatformError, UsageError
from kubenclave.log import fault
from kubenclave.services.attestation.app import attestation_app
from kubenclave.services.attestation.azure.http import error_response, is_azure_path
from kubenclave.services.attestation.keys.store import Algorithm, KeyRing
from kubenclave.services.attestation.provider import CachedCollateral
from kubenclave.services.attestation.service import AttestationService
from kubenclave.services.attestation.settings import Settings
from kubenclave.services.collateral.app import BODIES, PREFIXES, collateral_routes
from kubenclave.services.collateral.cache import CacheSettings, CollateralCache
from kubenclave.services.collateral.items import STANDARD
from kubenclave.services.collateral.replies import failure
from kubenclave.services.collateral.service import DATABASE, CollateralService
from kubenclave.services.collateral.sources.base import Source
from kubenclave.services.collateral.status import PREFIX as STATUS
from kubenclave.services.collateral.store import Store
from kubenclave.services.database import Database
from kubenclave.services.figures import attestation_figures, collateral_figures, count_verdicts
from kubenclave.services.web import problems
from kubenclave.services.web.credentials import Credentials, Role
from kubenclave.services.web.guard import Guard
from kubenclave.services.web.lease import Lease
from kubenclave.services.web.limits import Buckets, Rate
from kubenclave.services.web.server import Parts
from kubenclave.wire.metrics import Metrics

MAX_BODIES: Final = BODIES
"""Bytes of a body by path, where they are more than elsewhere."""

_LOOK: Final = 3600.0  # seconds between looks at the age of what is kept

Work: TypeAlias = Callable[[], Coroutine[Any, Any, None]]

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class CollateralOptions:
    """Where collateral comes from, and how it is kept. ``sources`` is called in each worker."""

    sources: Callable[[], list[Source]]
    cache: CacheSettings
    update: str = STANDARD


def attestation_parts(
    settings: Settings,
    options: CollateralOptions,
    metrics: Metrics,
    *,
    rate: Rate,
    serve_collateral: bool,
    rotate_keys: dt.timedelta | None = None,
) -> Parts:
    """Return an attestation service, with the routes of the collateral service where wanted.

    ``rate`` is for each credential; ``rotate_keys`` is the age at which a signing key gets a successor, None for never.
    Raises UsageError, PlatformError.
    """
    service, collateral, database = _both(settings, options, rate)
    count_verdicts(service, metrics)
    cache = collateral.cache
    app: ASGIApp = attestation_app(service)
    if serve_collateral:
        app = _beside(_collateral_app(collateral), app, settings.path)

    def figures() -> bytes:
        told = Metrics()
        attestation_figures(service, told)
        collateral_figures(collateral, told)
        return told.render()

    async def close() -> None:
        await collateral.close()
        service.close()
        database.close()

    return Parts(
        app=app,
        answer=lambda request, error: _answer(request, error, settings.path),
        figures=figures,
        background=_together(cache.run, *_chores(service, rotate_keys)),
        lease=Lease(service.database, "background", _now),
        close=close,
    )


def _both(
    settings: Settings, options: CollateralOptions, rate: Rate
) -> tuple[AttestationService, CollateralService, Database]:
    """Return both services, who ask the same guard, and the database of the second, which has no owner yet."""
    settings.state.mkdir(mode=0o700, parents=True, exist_ok=True)
    cache, database = _cache(settings.state, settings.anchor, options)
    try:
        service = AttestationService.create(settings, CachedCollateral(cache.get, options.update), _now)
    except BaseException:
        database.close()
        raise
    anybody = [Role.ATTEST] if settings.open else []
    service.guard = Guard(service.credentials, anybody=anybody, buckets=Buckets(rate, time.monotonic))
    collateral = CollateralService.create(cache, service.guard, _now)
    service.seen = collateral.platforms.saw_evidence
    return service, collateral, database


def collateral_parts(state: Path, anchor: TrustAnchor, options: CollateralOptions, *, rate: Rate) -> Parts:
    """Return a collateral service that runs by itself; credentials are in its own database. Raises PlatformError."""
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    cache, database = _cache(state, anchor, options)
    guard = Guard(Credentials(database, _now), buckets=Buckets(rate, time.monotonic))
    service = CollateralService.create(cache, guard, _now)

    def figures() -> bytes:
        told = Metrics()
        collateral_figures(service, told)
        return told.render()

    async def close() -> None:
        await service.close()
        database.close()

    return Parts(
        app=_collateral_app(service),
        answer=lambda request, error: _answer(request, error, ""),
        figures=figures,
        background=cache.run,
        lease=Lease(database, "background", _now),
        close=close,
    )


def _collateral_app(service: CollateralService) -> Starlette:
    app = Starlette(routes=collateral_routes(service), exception_handlers=_HANDLERS)
    app.router.redirect_slashes = False  # a redirect would go where a Host header says
    return app


def _beside(collateral: ASGIApp, attestation: ASGIApp, base: str) -> ASGIApp:
    """Return both: each answers for all that is below its paths, so that what is wrong there has its shape.

    The collateral service lies at the root, where its clients look, and below ``base`` too: one URL names both.
    """

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"].removeprefix(base)
        if path.startswith((*PREFIXES, f"{STATUS}/")):
            await collateral({**scope, "path": path}, receive, send)
        else:
            await attestation(scope, receive, send)

    return app


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


def _cache(state: Path, anchor: TrustAnchor, options: CollateralOptions) -> tuple[CollateralCache, Database]:
    database = Database(state / DATABASE)
    try:
        store = Store(database, _now)
        return CollateralCache(store, options.sources(), anchor, now=_now, settings=options.cache), database
    except BaseException:
        database.close()
        raise


def _together(*works: Work) -> Work:
    """Return as one what is done side by side, without an end."""

    async def run() -> None:
        async with asyncio.TaskGroup() as tasks:
            for work in works:
                tasks.create_task(work())

    return run


def _chores(service: AttestationService, rotate_keys: dt.timedelta | None) -> Iterator[Work]:
    """Yield what one worker does for all: drop evidence that is too old, and rotate keys where that is wanted."""
    yield partial(_hourly, "drop old evidence", service.kept.prune)
    if rotate_keys is not None:
        yield partial(_hourly, "rotate keys", partial(_rotate, service.keyring, rotate_keys))


def _rotate(keyring: KeyRing, age: dt.timedelta) -> None:
    """Give each signing key in the database a successor when it is so old. Keys in files are the operator's."""
    for algorithm in set(Algorithm) - set(keyring.settings.files):
        rotate_if_due(keyring, algorithm, age, _now())


async def _hourly(name: str, chore: Callable[[], object]) -> None:
    """Do something every hour, in a thread; where the database does not let us, the log says so by its name."""
    while True:
        try:
            await asyncio.to_thread(chore)
        except PlatformError as error:  # full, or locked for too long
            _log.error("chore.failed", chore=name, error=str(error), code=error.code, hint=error.hint)
        await asyncio.sleep(_LOOK)


def rotate_if_due(keyring: KeyRing, algorithm: Algorithm, age: dt.timedelta, now: dt.datetime) -> bool:
    """Make the next key of an algorithm when the active one is so old and none is waiting; tell whether it was due."""
    if now - keyring.active(algorithm).active_from < age:
        return False
    waiting = keyring.rotate(algorithm)
    if waiting.created >= now:
        _log.info("key.rotated", algorithm=algorithm.value, kid=waiting.kid, signs_from=zulu(waiting.active_from))
    return True


def _answer(request: Request, error: KubenclaveError, path: str) -> Response:
    """Answer for an error in front of the routes, in the shape of the API that was asked."""
    asked = request.url.path.removeprefix(path)
    if asked.startswith(PREFIXES):
        return failure(request, error)
    if is_azure_path(asked):
        return error_response(error)
    return problems.problem(error)


async def _failed(request: Request, error: Exception) -> Response:
    """Answer for what the routes of the collateral service do not know, in their shape."""
    if isinstance(error, HTTPException):
        code = "request.no-route" if error.status_code == 404 else "request.method"
        refusal: KubenclaveError = UsageError("no such route, or not with this method", code=code)
        response = failure(request, refusal)
        response.status_code = error.status_code
        response.headers.update(error.headers or {})
        return response
    if not isinstance(error, KubenclaveError):
        _log.error("request.failed", **fault(error))
        error = PlatformError("the service failed", code="request.failed")
    return failure(request, error)


_HANDLERS: Final = {KubenclaveError: _failed, HTTPException: _failed, Exception: _failed}
