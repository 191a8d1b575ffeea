# SPDX-License-Identifier: Apache-2.0
"""What the containers of a pod take, and what the pod takes with it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, Self

CONTAINER_LISTS: Final = ("initContainers", "containers")
"""Members of a pod's spec, in the order in which their containers start."""


class ContainerKind(StrEnum):
    """When a container runs."""

    INIT = "init"
    SIDECAR = "sidecar"
    MAIN = "main"

    @classmethod
    def of(cls, key: str, container: Mapping[str, Any]) -> Self:
        """Return the kind of an entry of the list ``key`` of a pod's spec."""
        if key == "containers":
            return cls.MAIN
        return cls.SIDECAR if container.get("restartPolicy") == "Always" else cls.INIT


def at_once(amounts: Iterable[tuple[ContainerKind, int]]) -> int:
    """Return the most of a resource that is taken at any moment, as the scheduler counts; init containers come first.

    Main containers and sidecars run together; an init container runs alone with the sidecars before it.
    """
    sidecars = main = most = 0
    for kind, amount in amounts:
        if kind is ContainerKind.INIT:
            most = max(most, sidecars + amount)
        elif kind is ContainerKind.SIDECAR:
            sidecars += amount
        else:
            main += amount
    return max(most, sidecars + main)


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
        """Bytes of EPC the pod needs at any moment."""
        return at_once((ask.kind, ask.epc) for ask in self.asks)
