# SPDX-License-Identifier: Apache-2.0
"""Pods that are created while something else happens: who was refused, and whether anyone slipped through."""

import asyncio
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from kubenclave.cluster.api import PODS, Object
from kubenclave.cluster.api_lightkube import LightkubeApi
from kubenclave.errors import KubenclaveError
from tests.cluster.release import AZURE, EPC
from tests.waiting import eventually

ENCLAVE = "sgx.intel.com/enclave"


def sgx_pod(limits: dict[str, str] | None = None) -> Object:
    """A pod of the Azure dialect that no node takes: only its admission matters."""
    resources = {"limits": limits or {AZURE: "1"}}
    container = {"name": "main", "image": "kubenclave.test/busybox:test", "resources": resources}
    spec = {"containers": [container], "nodeSelector": {"nowhere": "true"}, "terminationGracePeriodSeconds": 0}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"generateName": "throughout-"}, "spec": spec}


@dataclass
class Throughout:
    """Creates a pod every ``pause`` seconds from a thread of its own, for the length of a ``with``."""

    kubeconfig: Path
    pause: float = 0.05
    created: int = 0
    refused: list[tuple[float, str]] = field(default_factory=list)
    untreated: list[Object] = field(default_factory=list)
    slowest: float = 0
    _rows: list[tuple[float, float]] = field(default_factory=list)
    _in_row: bool = False

    def __enter__(self) -> Self:
        self._end = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._create()))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def more(self, count: int) -> None:
        """Wait until so many more have been tried."""
        wanted = self.created + len(self.refused) + count
        eventually(lambda: self.created + len(self.refused) >= wanted, 60, f"{count} more pods")

    @property
    def longest_refusal(self) -> float:
        """Seconds from the first to the last refusal of a row without a pod admitted in between."""
        return max((last - first for first, last in self._rows), default=0)

    async def _create(self) -> None:
        async with LightkubeApi.connect(kubeconfig=str(self.kubeconfig)) as api:
            while not self._end.is_set():
                begun = time.monotonic()
                await self._one(api)
                self.slowest = max(self.slowest, time.monotonic() - begun)
                await asyncio.sleep(self.pause)

    async def _one(self, api: LightkubeApi) -> None:
        try:
            made = await api.create(PODS, sgx_pod(), namespace="default")
        except KubenclaveError as error:
            now = time.monotonic()
            self.refused.append((now, str(error)))
            first = self._rows.pop()[0] if self._in_row else now
            self._rows.append((first, now))
            self._in_row = True
            return
        self._in_row = False
        self.created += 1
        if not treated(made):
            self.untreated.append(made)
        await api.delete(PODS, made["metadata"]["name"], namespace="default")


def treated(made: Object) -> bool:
    """Tell whether a pod of `sgx_pod` is as admission leaves it, once and not twice."""
    resources: dict[str, Any] = made["spec"]["containers"][0]["resources"]
    return bool(resources["limits"] == resources["requests"] == {EPC: "1048576", ENCLAVE: "1"})
