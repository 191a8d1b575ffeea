# SPDX-License-Identifier: Apache-2.0
"""The exporter as a program: follows nodes and pods, answers scrapes, keeps the ConfigMap for admission."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Final, Never

import structlog

from kubenclave import serving
from kubenclave.cluster.admission.table import CAPACITY_CONFIG, LARGEST_KEY
from kubenclave.cluster.api import CONFIG_MAPS, NODES, PODS, ClusterApi, Event, Kind, Listing, follow
from kubenclave.cluster.exporter.figures import Figures
from kubenclave.cluster.exporter.view import Records, View, reduced
from kubenclave.errors import ClusterError, UnreachableError
from kubenclave.platform.signals import stop_signal

MANAGER: Final = "kubenclave-exporter"

_REPEAT: Final = 600.0
"""Seconds after which the ConfigMap is written again even without a change: somebody may have."""
_SETTLE: Final = 1.0
_RUNNING: Final = "status.phase!=Succeeded,status.phase!=Failed"

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Settings:
    """How the exporter runs; ``namespace`` is where its ConfigMap is."""

    namespace: str
    port: int = 9445
    per_pod: bool = True


async def serve(api: ClusterApi, settings: Settings) -> None:
    """Run until SIGTERM or SIGINT. Raises PlatformError when the port cannot be had."""
    stop = stop_signal()
    view, changed = View(), asyncio.Event()
    figures = Figures(view, per_pod=settings.per_pod)
    server = serving.server(serving.health_app(lambda: view.missing, figures.render))
    listening = serving.listen(settings.port)
    async with asyncio.TaskGroup() as tasks:
        work = [
            tasks.create_task(_watch(follow(api, NODES), NODES, view.nodes, figures, changed)),
            tasks.create_task(
                _watch(follow(api, PODS, fields=_RUNNING, keep=reduced), PODS, view.pods, figures, changed)
            ),
            tasks.create_task(_keep_capacity(api, settings.namespace, view, changed)),
        ]
        tasks.create_task(server.serve([listening]))
        _log.info("exporter.started", port=settings.port)
        _log.info("exporter.stopping", signal=await stop)
        for task in work:
            task.cancel()
        server.should_exit = True


async def _watch(
    changes: AsyncIterator[Listing | Event],
    kind: Kind,
    records: Records[Any],
    figures: Figures,
    changed: asyncio.Event,
) -> None:
    async for seen in changes:
        records.see(seen)
        if isinstance(seen, Listing):
            figures.lists.inc(kind.plural)
            _log.info("exporter.listed", kind=kind.plural, count=len(records.held))
        changed.set()


async def _keep_capacity(api: ClusterApi, namespace: str, view: View, changed: asyncio.Event) -> Never:
    """Write the largest node's EPC whenever it changes."""
    written: int | None = None
    while True:
        try:
            async with asyncio.timeout(_REPEAT):
                while not view.nodes.known or view.largest == written:
                    changed.clear()
                    await changed.wait()
                    await asyncio.sleep(_SETTLE)
        except TimeoutError:
            if not view.nodes.known:
                continue
        largest = view.largest
        try:
            await api.apply(CONFIG_MAPS, capacity_map(namespace, largest), manager=MANAGER, force=True)
        except (ClusterError, UnreachableError) as error:
            _log.warning("capacity.not-written", code=error.code, error=str(error), hint=error.hint)
            await asyncio.sleep(10 * _SETTLE)
            continue
        if largest != written:
            _log.info("capacity.written", largest=largest)
        written = largest


def capacity_map(namespace: str, largest: int) -> dict[str, Any]:
    """Return the ConfigMap by which admission warns of pods that no node can hold; ``largest`` in bytes."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": CAPACITY_CONFIG, "namespace": namespace},
        "data": {LARGEST_KEY: str(largest)},
    }
