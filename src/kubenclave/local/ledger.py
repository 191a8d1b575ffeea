# SPDX-License-Identifier: Apache-2.0
"""Who holds how much EPC of this machine. Pure; the scheduler's part of the one-machine mode.

Nothing else limits EPC: no mainline kernel does per container. So what is not leased is not there.
"""

from dataclasses import dataclass

from kubenclave.errors import PlatformError
from kubenclave.sgx.epc import EPC_RESOURCE, amount

_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Holder:
    """Somebody who runs something; ``pid`` of the process that asked."""

    name: str
    pid: int


@dataclass(frozen=True, slots=True)
class Lease:
    """``size`` bytes of EPC, from ``Ledger.take`` to ``Ledger.release``."""

    number: int
    holder: Holder
    size: int


class Ledger:
    """EPC of one machine in bytes. What is leased stays leased when the capacity shrinks below it."""

    def __init__(self, capacity: int = 0) -> None:
        self.capacity = capacity
        self._leases: dict[int, Lease] = {}
        self._next = 1

    @property
    def leases(self) -> tuple[Lease, ...]:
        """All leases, oldest first."""
        return tuple(self._leases.values())

    @property
    def used(self) -> int:
        """Bytes leased."""
        return sum(lease.size for lease in self._leases.values())

    @property
    def free(self) -> int:
        """Bytes that may still be leased."""
        return max(0, self.capacity - self.used)

    def take(self, size: int, holder: Holder) -> Lease:
        """Lease ``size`` bytes to ``holder``. Raises PlatformError, saying who holds the EPC, when it is short."""
        if size > self.free:
            raise PlatformError(
                f"not enough EPC: asked {amount(size)}, free {amount(self.free)} of {amount(self.capacity)}; "
                f"{self._held_by()}",
                code="epc.short",
                field=EPC_RESOURCE,
                expected=f"at most {amount(self.free)}",
                found=amount(size),
                hint=self._hint(size),
            )
        lease = Lease(self._next, holder, size)
        self._next += 1
        self._leases[lease.number] = lease
        return lease

    def release(self, lease: Lease) -> None:
        """Give a lease back; doing it again changes nothing."""
        self._leases.pop(lease.number, None)

    def _held_by(self) -> str:
        largest = sorted(self._leases.values(), key=lambda lease: lease.size, reverse=True)
        if not largest:
            return "nobody holds any"
        parts = [f"{lease.holder.name} (pid {lease.holder.pid}) {amount(lease.size)}" for lease in largest[:_SHOWN]]
        if len(largest) > _SHOWN:
            rest = largest[_SHOWN:]
            parts.append(f"{len(rest)} more {amount(sum(lease.size for lease in rest))}")
        return "held by " + ", ".join(parts)

    def _hint(self, size: int) -> str:
        if not self.capacity:
            return "kubenclave doctor node tells why there is no EPC"
        if size > self.capacity:
            return "this machine will never have that much: ask for less"
        return "wait until a holder ends, or ask for less"
