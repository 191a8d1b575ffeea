# SPDX-License-Identifier: Apache-2.0
"""The webhook over HTTP: ``/mutate`` for the API server; health and metrics on a port of their own, without TLS."""

import asyncio
import time
from typing import Final

import structlog
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from kubenclave.cluster.webhook.review import Site, answer
from kubenclave.errors import FormatError, KubenclaveError, PlatformError
from kubenclave.wire.metrics import Metrics

MAX_BODY: Final = 3 << 20
"""Bytes of a review. The API server stores no object above 1.5 MiB, and takes no request above 3 MiB."""
MAX_READING: Final = 32 << 20
"""Bytes of all reviews that are being read: whoever can reach the port must not be able to use up the memory."""
BODY_TIMEOUT: Final = 5.0
"""Seconds in which a review has to be there; the API server waits no longer for its answer."""
_BUCKETS: Final = (0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.1, 1)

log = structlog.get_logger(__name__)


class Reviews:
    """Answers and counts reviews. ``draining`` asks clients for other connections, before this server ends."""

    def __init__(self, site: Site, metrics: Metrics) -> None:
        self.draining = False
        self._reading = 0
        self._site = site
        self._answered = metrics.counter(
            "kubenclave_admission_reviews_total", "Pods reviewed, dry runs left out, by what became of them.", "outcome"
        )
        self._refusals = metrics.counter(
            "kubenclave_admission_refusals_total", "Pods refused, dry runs left out, by reason.", "code"
        )
        self._malformed = metrics.counter(
            "kubenclave_admission_malformed_total", "Requests that held no review of a pod."
        )
        self._seconds = metrics.histogram(
            "kubenclave_admission_seconds", "Time from a whole request to its answer.", _BUCKETS
        )

    def app(self) -> Starlette:
        """Return the application for the HTTPS port."""
        return Starlette(routes=[Route("/mutate", self.mutate, methods=["POST"])])

    async def mutate(self, request: Request) -> Response:
        """Answer one review. What is none gets a 4xx: the API server fails closed on that."""
        try:
            async with asyncio.timeout(BODY_TIMEOUT):
                body = await self._body(request)
        except TimeoutError:
            return self._bad(408, FormatError("the review did not arrive in time", code="review.slow"))
        except ClientDisconnect:
            return self._bad(400, FormatError("the client went away", code="review.slow"))
        except PlatformError as error:
            return self._bad(503, error)
        except FormatError as error:
            return self._bad(413, error)
        begun = time.perf_counter()
        try:
            given = answer(body, self._site)
        except FormatError as error:
            return self._bad(400, error)
        self._seconds.observe(time.perf_counter() - begun)
        if not given.dry_run:
            self._answered.inc(given.outcome.value)
            for code in given.codes:
                self._refusals.inc(code)
        return Response(given.body, media_type="application/json", headers=self._headers())

    async def _body(self, request: Request) -> bytes:
        """Read a body piece by piece. Raises FormatError as soon as it is too large, PlatformError when all are."""
        pieces, size = [], 0
        try:
            async for piece in request.stream():
                size += len(piece)
                self._reading += len(piece)
                if size > MAX_BODY:
                    raise FormatError(
                        "the review is too large", code="review.size", expected=f"at most {MAX_BODY} bytes"
                    )
                if self._reading > MAX_READING:
                    raise PlatformError("too many reviews at once", code="review.busy")
                pieces.append(piece)
            return b"".join(pieces)
        finally:
            self._reading -= size

    def _bad(self, status: int, error: KubenclaveError) -> Response:
        self._malformed.inc()
        log.warning("review.not-taken", error=str(error), code=error.code)
        return JSONResponse({"error": error.as_dict()}, status, headers=self._headers())

    def _headers(self) -> dict[str, str]:
        return {"Connection": "close"} if self.draining else {}
