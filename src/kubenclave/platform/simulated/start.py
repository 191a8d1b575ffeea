# SPDX-License-Identifier: Apache-2.0
"""What ``kubenclave sim start`` runs: a SIMULATED CPU with the state of its directory, behind two sockets."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import structlog

from kubenclave.errors import KubenclaveError
from kubenclave.platform import sockets
from kubenclave.platform.signals import stop_signal
from kubenclave.platform.simulated.cpu import SoftwareCpu
from kubenclave.platform.simulated.faults import CpuError
from kubenclave.platform.simulated.keys import BaseKeys
from kubenclave.platform.simulated.places import cpu_socket, make_folders, provision_socket
from kubenclave.platform.simulated.server import CpuServer
from kubenclave.platform.simulated.state import PlatformState, StateFile, owned
from kubenclave.wire.simcpu import Code

if TYPE_CHECKING:
    from kubenclave.platform.simulated.provisioning import Provisioning
    from kubenclave.platform.simulated.renewal import IssuerAddress

SOCKET_MODE: Final = 0o666

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Ready:
    """What has come up."""

    directory: Path
    cpu_socket: Path
    provision_socket: Path
    state: PlatformState


class Machine:
    """A CPU that follows its state file, and the provisioning service behind it."""

    def __init__(self, directory: Path, state: PlatformState, *, boot: bytes) -> None:
        self._directory: Final = directory
        self._file: Final = StateFile(directory, state)
        self._state = state
        self.cpu: Final = SoftwareCpu(
            BaseKeys.from_fuses(state.fuses), epc=state.epc, cpu_svn=state.tcb.svns.cpu_svn, boot=boot
        )
        self._provisioning: Provisioning | None = None

    def refresh(self) -> None:
        """Follow a change of the TCB's state. Fuses, seed and EPC stay what they were at the start."""
        try:
            tcb = self._file.current().tcb
        except KubenclaveError as error:
            _log.error("state.unreadable", code=error.code, error=str(error))
            return
        if tcb is not self._state.tcb:
            _log.info("tcb.changed", before=self._state.tcb.value, now=tcb.value)
            self._state = self._state.with_tcb(tcb)
            self.cpu.cpu_svn = tcb.svns.cpu_svn

    def pck_chain(self) -> bytes:
        """Return the PCK certificate chain (PEM) for the state as it is. Raises CpuError when there is none."""
        # Certificates take modules that a CPU without quotes never needs.
        from kubenclave.platform.simulated.provisioning import provisioning_of  # noqa: PLC0415

        try:
            if self._provisioning is None:
                self._provisioning = provisioning_of(self._state, self._directory)
            return self._provisioning.pck_chain(self._state.tcb)
        except KubenclaveError as error:
            raise CpuError(Code.NOT_AVAILABLE, str(error)) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How to run. ``state`` is the directory of the platform, ``sockets`` that of its sockets.

    ``epc`` is in bytes for each NUMA node; None means as before, or the default for a new platform. With ``issuer``
    the certificates come from there, and the platform has no root of its own.
    """

    state: Path
    sockets: Path
    epc: tuple[int, ...] | None = None
    issuer: "IssuerAddress | None" = None


async def run(settings: Settings, on_ready: Callable[[Ready], None]) -> None:
    """Run the platform until SIGINT or SIGTERM; ``on_ready`` is called once it answers.

    Raises UsageError when another simulator has the directory, or a platform with a root of its own is there and an
    issuer given; PlatformError when it cannot be used, FormatError when it is not ours.
    """
    stop = stop_signal()
    directory = settings.state
    with owned(directory):
        state = PlatformState.open(directory, settings.epc, own_root=settings.issuer is None)
        machine = Machine(directory, state, boot=os.urandom(32))
        server = CpuServer(machine.cpu, machine.pck_chain, refresh=machine.refresh)
        make_folders(settings.sockets)
        cpu, provision = cpu_socket(settings.sockets), provision_socket(settings.sockets)
        async with AsyncExitStack() as stack:
            if settings.issuer is not None:
                await stack.enter_async_context(_certified(directory, state, settings.issuer))
            stack.push_async_callback(server.close)
            for path in (provision, cpu):  # the CPU comes last: where it answers, all is there
                listener, who = sockets.take(path, SOCKET_MODE)
                stack.callback(sockets.remove, path, who)
                await server.start(listener, may_provision=path == provision)
            _log.info("sim.ready", socket=str(cpu), epc=list(state.epc), tcb=state.tcb.value)
            on_ready(Ready(directory, cpu, provision, state))
            _log.info("sim.stopping", signal=await stop)


@asynccontextmanager
async def _certified(directory: Path, state: PlatformState, issuer: "IssuerAddress") -> AsyncIterator[None]:
    """Keep the platform's certificates current inside the block."""
    from kubenclave.platform.simulated.renewal import forget_others, keep_current  # noqa: PLC0415  # as above

    try:
        forget_others(directory, state, issuer)
    except KubenclaveError as error:
        _log.warning("issuer.kept", code=error.code, error=str(error))
    task = asyncio.create_task(keep_current(directory, state, issuer))
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
