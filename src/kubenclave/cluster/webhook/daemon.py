# SPDX-License-Identifier: Apache-2.0
"""One replica of the webhook: two listening ports and the upkeep of its certificates in one process."""

import asyncio
import os
import ssl
from dataclasses import dataclass, field
from typing import Final

import structlog

from kubenclave import serving
from kubenclave.cluster.admission import Site
from kubenclave.cluster.api import ClusterApi
from kubenclave.cluster.webhook.certificates import Credentials, Lifetimes
from kubenclave.cluster.webhook.keeper import Keeper, Place
from kubenclave.cluster.webhook.server import Reviews
from kubenclave.platform.signals import stop_signal
from kubenclave.wire.metrics import Metrics

_KEEP_ALIVE: Final = 120  # longer than the 90 s after which an API server drops an idle connection: it never meets ours

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Settings:
    """How one replica runs. ``drain`` is for how many seconds it still answers after it was asked to end."""

    site: Site
    place: Place
    port: int = 9443
    health_port: int = 9444
    lifetimes: Lifetimes = field(default_factory=Lifetimes)
    drain: float = 5.0


async def serve(api: ClusterApi, settings: Settings) -> None:
    """Run until SIGTERM or SIGINT. Raises PlatformError when a port cannot be had."""
    stop = stop_signal()
    metrics = Metrics()
    reviews = Reviews(settings.site, metrics)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    keeper = Keeper(api, settings.place, lambda held: load(context, held), metrics, lifetimes=settings.lifetimes)
    health = serving.health_app(lambda: "draining" if reviews.draining else keeper.missing(), metrics.render)
    servers = (serving.server(reviews.app(), context, keep_alive=_KEEP_ALIVE), serving.server(health))
    # Before anything else: without its ports nothing of it is of use.
    sockets = [serving.listen(port) for port in (settings.port, settings.health_port)]
    async with asyncio.TaskGroup() as tasks:
        upkeep = tasks.create_task(keeper.run())
        for server, listening in zip(servers, sockets, strict=True):
            tasks.create_task(server.serve([listening]))
        _log.info("webhook.started", port=settings.port, health_port=settings.health_port)
        reason = await stop
        _log.info("webhook.draining", signal=reason, seconds=settings.drain)
        reviews.draining = True
        await asyncio.sleep(settings.drain)
        upkeep.cancel()
        for server in servers:
            server.should_exit = True
    _log.info("webhook.stopped")


def load(context: ssl.SSLContext, held: Credentials) -> None:
    """Use a leaf for the connections to come; those that are open stay as they are. Its key touches no disk."""
    descriptor = os.memfd_create("webhook")
    try:
        os.write(descriptor, held.leaf.pem)
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)
