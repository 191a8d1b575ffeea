# SPDX-License-Identifier: Apache-2.0
"""The node agent: finds SGX, offers it to the kubelet, and follows both. One process, one task group.

The platform is looked at again whenever a name changes beside the device nodes (or the sockets of a SIMULATED
platform) and every few seconds. EPC counts only while the kubelet holds healthy enclave devices: a pod with one and
without the other could not start.
"""

import argparse
import asyncio
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, Never

from kubenclave.errors import KubenclaveError, first_error
from kubenclave.node.arguments import new_parser, whole_number
from kubenclave.node.deviceplugin import EpcMode, Offer, ResourcePlugin, resources
from kubenclave.node.health import HealthServer
from kubenclave.node.kubelet import KUBELET_SOCKET, Session, Timing
from kubenclave.node.log import Logger, configure
from kubenclave.node.status import Condition, Offering, StatusPage
from kubenclave.node.watch import Signal, watch_directories
from kubenclave.platform.base import Inventory, Platform
from kubenclave.platform.sockets import AESM_NAME

SETTLE: Final = 0.05
"""Seconds between a change and the look at it: udev makes several names in a row."""
STALE_AFTER: Final = 60.0

if TYPE_CHECKING:  # what belongs to a cluster is loaded only there
    from kubenclave.node.podresources import PodDevices
    from kubenclave.node.publisher import Publisher

_log = Logger()

_EXAMPLES: Final = """examples:
  kubenclave node agent --plugin-dir /var/lib/kubelet/device-plugins --status-socket /run/kubenclave/agent.sock
  kubenclave node agent ... --aesm-dir /var/run/aesmd          containers with an enclave device get this, read-only
  kubenclave node agent ... --node-name "$NODE_NAME"           in a cluster: publish EPC and readiness on the Node
  kubenclave node agent ... --simulated-cpu DIR/cpu/cpu.sock   a SIMULATED platform instead of hardware
"""


@dataclass(frozen=True, slots=True)
class Settings:
    """How the agent runs. ``watched`` are the folders in which hardware comes and goes, ``interval`` in seconds.

    ``publisher`` tells the Node of a cluster, ``pod_devices`` knows which pods have devices; ``health_port`` serves
    probes and metrics on all addresses (0: any port).
    """

    platform: Platform
    plugin_directory: Path
    status_socket: Path
    watched: tuple[Path, ...] = ()
    offer: Offer = field(default_factory=Offer)
    interval: float = 2.0
    timing: Timing = field(default_factory=Timing)
    publisher: "Publisher | None" = None
    pod_devices: "PodDevices | None" = None
    health_port: int | None = None


class Agent:
    """Everything the agent keeps in memory."""

    def __init__(self, settings: Settings) -> None:
        self.condition = Condition()
        self._settings = settings
        self._page = StatusPage(
            self.condition, settings.publisher, settings.pod_devices, stale=STALE_AFTER + settings.interval
        )
        self._told: tuple[Inventory | None, str] = (None, "")
        self._publishing: asyncio.Task[Never] | None = None

    async def run(self) -> Never:
        """Serve until cancelled.

        Raises PlatformError when what is to be offered cannot be (too much EPC by the MiB, a list too long for a
        kubelet), or the status socket cannot be made.
        """
        settings, clock = self._settings, asyncio.get_running_loop().time
        hardware, plugins = Signal(), Signal()
        async with AsyncExitStack() as stack:
            stack.enter_context(watch_directories(settings.watched, hardware))
            stack.enter_context(watch_directories([settings.plugin_directory], plugins))
            seen = hardware.generation
            await self._look()
            self.condition.offerings = self._offerings(plugins)
            server = HealthServer(self._page.routes(clock))
            await stack.enter_async_context(server.on_unix_socket(settings.status_socket))
            if settings.health_port is not None:
                probes = HealthServer(self._page.probes(clock))
                await stack.enter_async_context(probes.on_tcp(None, settings.health_port))
            group = await stack.enter_async_context(asyncio.TaskGroup())
            for offering in self.condition.offerings:
                group.create_task(offering.session.run())
            if settings.publisher is not None:
                self._publishing = group.create_task(settings.publisher.run())
                group.create_task(self._attend(plugins))
            await self._follow(hardware, seen)

    async def farewell(self) -> None:
        """Tell the Node of the cluster that nobody looks after it any more, as the last thing that it is told."""
        if self._settings.publisher is not None and self._publishing is not None:
            self._publishing.cancel()
            await self._settings.publisher.farewell()

    async def _attend(self, plugins: Signal) -> Never:
        """Let the Node know when a kubelet has come or gone."""
        while True:
            seen = plugins.generation
            self._consider()
            await plugins.wait(seen, self._settings.interval)
            await asyncio.sleep(SETTLE)

    def _consider(self) -> None:
        condition = self.condition
        if self._settings.publisher is not None:
            self._settings.publisher.consider(condition.inventory, condition.problem, held=condition.held)

    async def _follow(self, hardware: Signal, seen: int) -> Never:
        """Look again after each change, and every so often."""
        while True:
            await hardware.wait(seen, self._settings.interval)
            await asyncio.sleep(SETTLE)
            seen = hardware.generation
            await self._look()
            by_name = {one.name: one for one in resources(self.condition.inventory, self._settings.offer)}
            for offering in self.condition.offerings:
                offering.plugin.update(by_name[offering.plugin.resource])
            self._consider()

    async def _look(self) -> None:
        """Look the machine over. Where nobody can tell, there is nothing."""
        condition = self.condition
        try:
            condition.inventory = await _aside(self._settings.platform.inventory)
            condition.problem = None
        except KubenclaveError as error:
            condition.inventory, condition.problem = Inventory(), error
        condition.looked = asyncio.get_running_loop().time()
        self._tell()

    def _tell(self) -> None:
        """Log what is there when that is not what was told before."""
        inventory, problem = self.condition.inventory, self.condition.problem
        told = (inventory, "" if problem is None else str(problem))
        if told == self._told:
            return
        self._told = told
        if problem is not None:
            _log.warning("platform.unreadable", code=problem.code, error=str(problem), hint=problem.hint)
            return
        _log.info(
            "platform.found",
            driver=inventory.driver.value,
            devices=[node.path for node in inventory.nodes],
            epc_bytes=inventory.epc_bytes,
            epc_source=inventory.epc_source.value,
        )

    def _offerings(self, signal: Signal) -> tuple[Offering, ...]:
        settings = self._settings
        made = []
        for resource in resources(self.condition.inventory, settings.offer):
            plugin = ResourcePlugin(resource, self._page.answers)
            session = Session(plugin, settings.plugin_directory, plugin.endpoint, signal, settings.timing)
            made.append(Offering(plugin, session))
        return tuple(made)


def parser() -> argparse.ArgumentParser:
    """Return the options of the program."""
    options = new_parser(
        "agent", "Offer the SGX of this node to its kubelet, and tell on a socket what there is.", _EXAMPLES
    )
    options.add_argument("--plugin-dir", metavar="DIR", required=True, help="the kubelet's device-plugin directory")
    options.add_argument(
        "--status-socket", metavar="PATH", required=True, help="serve /status /healthz /readyz /metrics"
    )
    options.add_argument("--aesm-dir", metavar="DIR", help="mount this directory of the AESM socket into containers")
    options.add_argument(
        "--simulated-cpu",
        metavar="PATH",
        help="socket of a SIMULATED CPU, instead of hardware; containers with an enclave device get its folder",
    )
    options.add_argument(
        "--simulated-provision",
        metavar="PATH",
        help="its provision socket; containers with the provision resource get its folder",
    )
    options.add_argument(
        "--epc-mode",
        choices=[mode.value for mode in EpcMode],
        default=EpcMode.CAPACITY.value,
        help="count EPC by the node's capacity (default), or as one device for each MiB (up to 4096)",
    )
    default = Offer()
    for kind, limit in (("enclave", default.enclave_limit), ("provision", default.provision_limit)):
        options.add_argument(
            f"--{kind}-limit",
            metavar="N",
            type=whole_number(0),
            default=limit,
            help=f"containers that may have the {kind} device at a time (default {limit})",
        )
    options.add_argument("--root", metavar="DIR", default="/", help="where the node's file system is (default /)")
    _add_cluster_options(options)
    return options


def _add_cluster_options(options: argparse.ArgumentParser) -> None:
    cluster = options.add_argument_group("as part of a cluster")
    cluster.add_argument("--node-name", metavar="NAME", help="publish EPC, labels and readiness on this Node")
    cluster.add_argument("--api-server", metavar="HOST:PORT", help="where the API server is, when not as in any pod")
    cluster.add_argument(
        "--service-account",
        metavar="DIR",
        default="/var/run/secrets/kubernetes.io/serviceaccount",
        help="folder with token and ca.crt (default: where every pod has it)",
    )
    cluster.add_argument("--startup-taint", metavar="KEY", help="taint to take away once the Node is ready")
    cluster.add_argument(
        "--await-aesm", action="store_true", help="ready only while somebody answers in the directory of --aesm-dir"
    )
    cluster.add_argument(
        "--pod-resources", metavar="SOCKET", help="ask the kubelet here which containers have the devices, for /metrics"
    )
    cluster.add_argument(
        "--health-port", metavar="N", type=whole_number(0), help="serve /healthz /readyz /metrics on this TCP port too"
    )


def settings_of(arguments: argparse.Namespace) -> Settings:
    """Return the settings that the options stand for."""
    root = Path(arguments.root)
    watched: tuple[Path, ...] = (root / "dev", root / "dev/sgx")
    platform: Platform
    if arguments.simulated_cpu is None:
        from kubenclave.platform.linux.discover import LinuxPlatform  # noqa: PLC0415  # one of the two costs memory

        platform = LinuxPlatform(root)
    else:
        from kubenclave.platform.simcpu import SimulatedPlatform  # noqa: PLC0415  # the same

        cpu, provision = Path(arguments.simulated_cpu).absolute(), arguments.simulated_provision
        provision = None if provision is None else Path(provision).absolute()
        platform = SimulatedPlatform(cpu, provision)
        watched = (cpu.parent,) if provision is None else (cpu.parent, provision.parent)
    return Settings(
        platform=platform,
        plugin_directory=Path(arguments.plugin_dir).absolute(),
        status_socket=Path(arguments.status_socket).absolute(),
        watched=watched,
        offer=Offer(
            enclave_limit=arguments.enclave_limit,
            provision_limit=arguments.provision_limit,
            epc_mode=EpcMode(arguments.epc_mode),
            aesm_directory=None if arguments.aesm_dir is None else str(Path(arguments.aesm_dir).absolute()),
        ),
        publisher=None if arguments.node_name is None else _publisher_of(arguments),
        pod_devices=None if arguments.pod_resources is None else _pod_devices_at(Path(arguments.pod_resources)),
        health_port=arguments.health_port,
    )


def _publisher_of(arguments: argparse.Namespace) -> "Publisher":
    from kubenclave.node.api import NodeApi, place_of  # noqa: PLC0415  # only in a cluster
    from kubenclave.node.publisher import Publisher, Target  # noqa: PLC0415  # the same
    from kubenclave.node.reconcile import Wishes  # noqa: PLC0415  # the same

    target = Target(
        name=arguments.node_name,
        kubelet=Path(arguments.plugin_dir).absolute() / KUBELET_SOCKET,
        wishes=Wishes(EpcMode(arguments.epc_mode), arguments.startup_taint or None),
        aesm=None if arguments.aesm_dir is None else Path(arguments.aesm_dir).absolute() / AESM_NAME,
        await_aesm=arguments.await_aesm,
    )
    place = place_of(arguments.api_server, Path(arguments.service_account), os.environ)
    return Publisher(NodeApi(place), target)


def _pod_devices_at(path: Path) -> "PodDevices":
    from kubenclave.node.podresources import PodDevices  # noqa: PLC0415  # only in a cluster

    return PodDevices(path.absolute())


def main(argv: Sequence[str] | None = None) -> int:
    """Run the agent until SIGTERM or SIGINT and return the exit code: 0, or that of what stopped it."""
    arguments = parser().parse_args(argv)
    configure("node-agent", simulated=arguments.simulated_cpu is not None)
    stopped: KubenclaveError | None = None
    try:
        asyncio.run(_until_signal(Agent(settings_of(arguments))))
    except* KubenclaveError as group:
        stopped = first_error(group)
    if stopped is None:
        _log.info("agent.ended")
        return 0
    _log.error("agent.failed", code=stopped.code, error=str(stopped), hint=stopped.hint)
    return stopped.exit_code


async def _until_signal(agent: Agent) -> None:
    task, stop, loop = asyncio.create_task(agent.run()), asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    told = asyncio.create_task(stop.wait())
    await asyncio.wait((task, told), return_when=asyncio.FIRST_COMPLETED)
    if told.done():
        await agent.farewell()  # first, for the scheduler to send no more pods to devices that are about to go
        task.cancel()
    told.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def _aside(look: Callable[[], Inventory]) -> Inventory:
    """Return what ``look`` returns, from a thread that nobody waits for: a CPU that hangs must not hold us up."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[Inventory] = loop.create_future()

    def settle(inventory: Inventory | None, error: Exception | None) -> None:
        if answer.done():  # cancelled meanwhile
            return
        if error is not None:
            answer.set_exception(error)
        elif inventory is not None:
            answer.set_result(inventory)

    def work() -> None:
        inventory, error = None, None
        try:
            inventory = look()
        except Exception as caught:  # noqa: BLE001  # raised again where it is waited for
            error = caught
        with suppress(RuntimeError):  # the loop has closed
            loop.call_soon_threadsafe(settle, inventory, error)

    threading.Thread(target=work, name="look", daemon=True).start()
    return await answer


if __name__ == "__main__":
    sys.exit(main())
