# SPDX-License-Identifier: Apache-2.0
"""The webhook over HTTP: ``/mutate`` for the API server; health and metrics on a port of their own, without TLS."""

import time
from typing import Final

import structlog
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from kubenclave import serving
from kubenclave.cluster.admission import Site
from kubenclave.cluster.webhook.review import answer
from kubenclave.errors import KubenclaveError
from kubenclave.wire.metrics import Metrics

MAX_BODY: Final = 3 << 20
"""Bytes of a review. The API server stores no object above 1.5 MiB, and takes no request above 3 MiB."""
MAX_READING: Final = 32 << 20
"""Bytes of all reviews that are being read."""
BODY_TIMEOUT: Final = 5.0
"""Seconds in which a review has to be there; the API server waits no longer for its answer."""
_BUCKETS: Final = (0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.1, 1)

_log = structlog.get_logger()


class Reviews:
    """Answers and counts reviews. ``draining`` asks clients for other connections, before this server ends."""

    def __init__(self, site: Site, metrics: Metrics) -> None:
        self.draining = False
        self._site = site
        self._bodies = serving.Bodies(MAX_BODY, MAX_READING, BODY_TIMEOUT)
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
            body = await self._bodies.read(request)
            begun = time.perf_counter()
            given = answer(body, self._site)
        except KubenclaveError as error:
            return self._bad(error)
        self._seconds.observe(time.perf_counter() - begun)
        if not given.dry_run:
            self._answered.inc(given.outcome.value)
            for code in given.codes:
                self._refusals.inc(code)
        return Response(given.body, media_type="application/json", headers=self._headers())

    def _bad(self, error: KubenclaveError) -> Response:
        self._malformed.inc()
        _log.warning("review.not-taken", error=str(error), code=error.code)
        return JSONResponse({"error": error.as_dict()}, serving.status_of(error), headers=self._headers())

    def _headers(self) -> dict[str, str]:
        return {"Connection": "close"} if self.draining else {}
