# SPDX-License-Identifier: Apache-2.0
"""What the containers of a pod take, and what the pod takes with it."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class ContainerKind(StrEnum):
    """When a container runs."""

    INIT = "init"
    SIDECAR = "sidecar"
    MAIN = "main"


@dataclass(frozen=True, slots=True)
class Ask:
    """What one container takes: bytes of EPC and numbers of devices."""

    name: str
    kind: ContainerKind
    epc: int = 0
    enclave: int = 0
    provision: int = 0

    @property
    def sgx(self) -> bool:
        """Tell whether it takes anything of ours."""
        return bool(self.epc or self.enclave or self.provision)


@dataclass(frozen=True, slots=True)
class Admitted:
    """The pod that may run. ``asks`` has one entry per container, init containers first, in the pod's order."""

    pod: dict[str, Any]
    asks: tuple[Ask, ...]
    notes: tuple[str, ...]

    @property
    def epc(self) -> int:
        """Bytes of EPC the pod needs at any moment, as the scheduler counts them.

        Main containers and sidecars run together; an init container runs alone with the sidecars before it.
        """
        sidecars = most = 0
        for ask in self.asks:
            if ask.kind is ContainerKind.SIDECAR:
                sidecars += ask.epc
            elif ask.kind is ContainerKind.INIT:
                most = max(most, sidecars + ask.epc)
        main = sum(ask.epc for ask in self.asks if ask.kind is ContainerKind.MAIN)
        return max(most, sidecars + main)
