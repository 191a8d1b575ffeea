# SPDX-License-Identifier: Apache-2.0
"""One machine without Kubernetes: the real daemons, a stand-in for the kubelet, and a ledger for the scheduler."""

import asyncio
import sys
from collections.abc import Callable, Collection
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import structlog

from kubenclave.cluster.admission import Ask, ContainerKind, admit
from kubenclave.errors import FormatError, KubenclaveError, PlatformError, UnreachableError, first_error
from kubenclave.local import agentstatus, control
from kubenclave.local.allotment import Allotment
from kubenclave.local.attestation import Attestation
from kubenclave.local.control import Container, Granted, HeldLease, Status
from kubenclave.local.controlserver import ControlServer
from kubenclave.local.kubelet import Kubelet
from kubenclave.local.ledger import Holder, Lease, Ledger
from kubenclave.local.processes import Service, Services
from kubenclave.local.state import StateDirectory, owned
from kubenclave.platform.base import DeviceKind
from kubenclave.platform.linux.discover import LinuxPlatform
from kubenclave.platform.signals import held, stop_signal
from kubenclave.sgx.epc import ENCLAVE_RESOURCE, PROVISION_RESOURCE, amount

EPC_POLL: Final = 1.0
EPC_FIRST_POLL: Final = 0.02
EPC_DEADLINE: Final = 5.0
REGISTRATION_DEADLINE: Final = 15.0
DEFAULT_SIMULATED_EPC: Final = 128 << 20

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Options:
    """How to run; ``simulated_epc`` in bytes, ``provision`` grants the provisioning key to whoever asks for it.

    ``attestation_port`` is the port of the attestation service, 0 for any free one, None for no such service.
    """

    state: StateDirectory
    simulated: bool
    simulated_epc: int = DEFAULT_SIMULATED_EPC
    provision: bool = False
    attestation_port: int | None = None


def has_sgx() -> bool:
    """Tell whether enclaves can run on this machine's own SGX."""
    inventory = LinuxPlatform().inventory()
    return inventory.offers(DeviceKind.ENCLAVE) and inventory.epc_bytes > 0


class Machine:
    """What the control socket answers from: admission, ledger and devices of this machine."""

    def __init__(self, options: Options, kubelet: Kubelet, attestation_url: str | None = None) -> None:
        self.ledger = Ledger()
        self._attestation_url = attestation_url
        self._options = options
        self._kubelet = kubelet

    async def answer(self, request: control.Request, pid: int) -> tuple[control.Reply, Callable[[], None] | None]:
        """Answer one request of process ``pid``. Raises the error that refuses it."""
        if isinstance(request, control.StatusRequest):
            return self.status(), None
        return await self._lease(request.pod, pid)

    def status(self) -> Status:
        """Return what there is and who holds it."""
        state = self._options.state
        counts = {name: self._kubelet.count(name) for name in self._kubelet.resources()}
        return Status(
            simulated=self._options.simulated,
            epc_capacity=self.ledger.capacity,
            epc_free=self.ledger.free,
            leases=tuple(HeldLease(one.holder.name, one.holder.pid, one.size) for one in self.ledger.leases),
            devices={name: (count.healthy, count.free) for name, count in counts.items()},
            aesm_socket=str(state.aesm_socket),
            cpu_socket=str(state.cpu_socket) if self._options.simulated else None,
            provision_socket=str(state.provision_socket) if self._options.simulated else None,
            attestation_url=self._attestation_url,
        )

    async def _lease(self, pod: dict[str, Any], pid: int) -> tuple[Granted, Callable[[], None]]:
        admitted = admit(pod, provision_granted=self._options.provision)
        holder = Holder(_name(admitted.pod), pid)
        lease = self.ledger.take(admitted.epc, holder) if admitted.epc else None
        allotments: list[Allotment] = []
        reusable: set[str] = set()
        try:
            containers = []
            for ask in admitted.asks:
                got = await self._allocate(ask, reusable)
                allotments += got
                containers.append(Container(ask.name, ask.kind.value, tuple(got)))
                names = {name for allotment in got for name in allotment.devices_ids}
                reusable = reusable | names if ask.kind is ContainerKind.INIT else reusable - names
        except BaseException:
            self._release(lease, allotments)
            raise
        _log.info("lease.granted", holder=holder.name, pid=pid, epc=admitted.epc, free=self.ledger.free)

        def release() -> None:
            self._release(lease, allotments)
            _log.info("lease.released", holder=holder.name, pid=pid, epc=admitted.epc, free=self.ledger.free)

        granted = Granted(
            pod=admitted.pod,
            containers=tuple(containers),
            epc=admitted.epc,
            state=str(self._options.state.path),
            simulated=self._options.simulated,
            notes=admitted.notes,
            attestation_url=self._attestation_url,
        )
        return granted, release

    async def _allocate(self, ask: Ask, reusable: Collection[str]) -> list[Allotment]:
        """Take one container's devices; none are kept when one of its resources is short."""
        got: list[Allotment] = []
        try:
            for resource, number in ((ENCLAVE_RESOURCE, ask.enclave), (PROVISION_RESOURCE, ask.provision)):
                if number:
                    got.append(await self._kubelet.allocate(resource, number, reusable=reusable))
        except BaseException:
            self._release(None, got)
            raise
        return got

    def _release(self, lease: Lease | None, allotments: list[Allotment]) -> None:
        for allotment in allotments:
            self._kubelet.release(allotment)
        if lease is not None:
            self.ledger.release(lease)


def serve(options: Options, on_ready: Callable[[Status], None]) -> None:
    """Run ``run`` in an event loop of its own, in the main thread, without losing a signal. Raises what it raises."""
    with held():
        asyncio.run(run(options, on_ready))


async def run(options: Options, on_ready: Callable[[Status], None]) -> None:
    """Run everything until SIGINT or SIGTERM; ``on_ready`` is called once all of it answers.

    Raises UsageError when the state directory is in use, PlatformError when a daemon does not come up.
    """
    state = options.state
    stop = stop_signal()
    async with AsyncExitStack() as stack:
        stack.enter_context(owned(state))
        kubelet = Kubelet(state.plugins)
        await stack.enter_async_context(kubelet.serving())
        services = await stack.enter_async_context(Services().running())
        attestation = _attestation(options, stack)
        machine = Machine(options, kubelet, None if attestation is None else attestation.url)
        starting = asyncio.create_task(_start(options, services, kubelet, machine))
        await _first_of(starting, stop)
        if stop.done():
            return
        server = ControlServer(machine.answer)
        await stack.enter_async_context(server.serving(state.control))
        watching = asyncio.create_task(_watch_epc(state, machine.ledger))
        stack.callback(watching.cancel)
        status = machine.status()
        _log.info("up.ready", epc=status.epc_capacity, devices=status.devices, aesm=status.aesm_socket)
        on_ready(status)
        if attestation is not None:  # after what programs need to run at all: it takes as long to start as all of that
            attesting = asyncio.create_task(_attest(attestation, services))
            stack.callback(attesting.cancel)
        await _first_of(watching, stop)
        _log.info("up.stopping", signal=stop.result())


async def _start(options: Options, services: Services, kubelet: Kubelet, machine: Machine) -> None:
    """Start the daemons, each as soon as what it needs is there, and wait for the plugin and for EPC."""
    state = options.state
    if options.simulated:
        await services.start(_simulator(options))
    async with asyncio.TaskGroup() as group:
        group.create_task(services.start(_quote_helper(options)))
        group.create_task(services.start(_agent(options)))
        group.create_task(kubelet.wait_for(ENCLAVE_RESOURCE, REGISTRATION_DEADLINE))
    machine.ledger.capacity = await _usable_epc(state)


def _attestation(options: Options, stack: AsyncExitStack) -> Attestation | None:
    """Take the port of the attestation service where there is to be one. Raises PlatformError."""
    if options.attestation_port is None:
        return None
    attestation = Attestation.on(options.state, options.attestation_port, simulated=options.simulated)
    stack.enter_context(attestation.listening)
    return attestation


async def _attest(attestation: Attestation, services: Services) -> None:
    """Start the attestation service; without it everything else goes on."""
    try:
        await services.start(attestation.service())
    except PlatformError as error:
        _log.error("attestation.not-started", error=str(error), code=error.code, hint=error.hint)
    else:
        _log.info("attestation.ready", url=attestation.url)


async def _usable_epc(state: StateDirectory) -> int:
    """Return the EPC the agent offers, which it does once it has seen the kubelet take its devices."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + EPC_DEADLINE
    while not (status := await agentstatus.fetch(state.agent_status)).epc_bytes:
        if loop.time() > deadline:
            raise PlatformError(
                "the node agent finds no EPC",
                code="up.no-epc",
                hint="kubenclave doctor node tells which layer is missing",
            )
        await asyncio.sleep(EPC_FIRST_POLL)
    return status.epc_bytes


def _simulator(options: Options) -> Service:
    state = options.state
    argv = (sys.executable, "-m", "kubenclave", "sim", "start", "--state", str(state.platform))
    return Service(
        "simulated platform", (*argv, "--epc", amount(options.simulated_epc)), lambda: _connects(state.cpu_socket)
    )


def _quote_helper(options: Options) -> Service:
    state = options.state
    argv = [sys.executable, "-m", "kubenclave.node.helper", "--socket", str(state.aesm_socket)]
    argv += ["--health-socket", str(state.helper_health)]
    answers = state.aesm_socket
    if options.simulated:
        argv += ["--backend", "simulated", "--provision-socket", str(state.provision_socket)]
    else:
        argv += ["--backend", "dcap"]
        answers = state.helper_health  # its AESM socket waits for certification data, which EPC can do without
    return Service("quote helper", tuple(argv), lambda: _connects(answers))


def _agent(options: Options) -> Service:
    state = options.state
    argv = [sys.executable, "-m", "kubenclave.node.agent", "--plugin-dir", str(state.plugins)]
    argv += ["--aesm-dir", str(state.aesm_directory), "--status-socket", str(state.agent_status)]
    if options.simulated:
        argv += ["--simulated-cpu", str(state.cpu_socket), "--simulated-provision", str(state.provision_socket)]
    return Service("node agent", tuple(argv), lambda: _answers(state))


async def _connects(path: Path) -> bool:
    return control.is_served(path)


async def _answers(state: StateDirectory) -> bool:
    try:
        await agentstatus.fetch(state.agent_status)
    except (UnreachableError, FormatError):
        return False
    return True


async def _watch_epc(state: StateDirectory, ledger: Ledger) -> None:
    """Keep the ledger at what the agent says; an agent that does not answer has none."""
    while True:
        await asyncio.sleep(EPC_POLL)
        try:
            capacity = (await agentstatus.fetch(state.agent_status)).epc_bytes
        except (UnreachableError, FormatError):
            capacity = 0
        if capacity != ledger.capacity:
            _log.warning("epc.changed", before=ledger.capacity, now=capacity)
            ledger.capacity = capacity


async def _first_of(work: "asyncio.Task[None]", stop: "asyncio.Future[str]") -> None:
    """Wait for ``work`` or for the signal; work that is not done by then is cancelled. Raises what work raises."""
    await asyncio.wait((work, stop), return_when=asyncio.FIRST_COMPLETED)
    if not work.done():
        work.cancel()
        await asyncio.wait((work,))
        return
    try:
        work.result()
    except BaseExceptionGroup as group:
        ours = group.subgroup(KubenclaveError)
        raise group if ours is None else first_error(ours) from group


def _name(pod: dict[str, Any]) -> str:
    metadata = pod.get("metadata")
    name = metadata.get("name") or metadata.get("generateName") if isinstance(metadata, dict) else None
    return str(name or "unnamed")[:63]
