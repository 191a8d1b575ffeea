# SPDX-License-Identifier: Apache-2.0
"""The node agent: finds SGX, offers it to the kubelet, and follows both. One process, one task group.

The platform is looked at again whenever a name changes beside the device nodes (or the sockets of a SIMULATED
platform) and every few seconds. EPC counts only while the kubelet holds healthy enclave devices: a pod with one and
without the other could not start.
"""

import argparse
import asyncio
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Never

import structlog

from kubenclave import log
from kubenclave.errors import KubenclaveError, first_error
from kubenclave.node.arguments import new_parser, whole_number
from kubenclave.node.deviceplugin import EpcMode, Offer, ResourcePlugin, resources
from kubenclave.node.health import HealthServer
from kubenclave.node.kubelet import Session, Timing
from kubenclave.node.status import Condition, Offering, StatusPage
from kubenclave.node.watch import Signal, watch_directories
from kubenclave.platform.base import Inventory, Platform

SETTLE: Final = 0.05
"""Seconds between a change and the look at it: udev makes several names in a row."""
STALE_AFTER: Final = 60.0

_log = structlog.get_logger()

_EXAMPLES: Final = """examples:
  kubenclave node agent --plugin-dir /var/lib/kubelet/device-plugins --status-socket /run/kubenclave/agent.sock
  kubenclave node agent ... --aesm-dir /var/run/aesmd          containers with an enclave device get this, read-only
  kubenclave node agent ... --simulated-cpu DIR/cpu/cpu.sock   a SIMULATED platform instead of hardware
"""


@dataclass(frozen=True, slots=True)
class Settings:
    """How the agent runs. ``watched`` are the folders in which hardware comes and goes, ``interval`` in seconds."""

    platform: Platform
    plugin_directory: Path
    status_socket: Path
    watched: tuple[Path, ...] = ()
    offer: Offer = field(default_factory=Offer)
    interval: float = 2.0
    timing: Timing = field(default_factory=Timing)


class Agent:
    """Everything the agent keeps in memory."""

    def __init__(self, settings: Settings) -> None:
        self.condition = Condition()
        self._settings = settings
        self._page = StatusPage(self.condition, stale=STALE_AFTER + settings.interval)
        self._told: tuple[Inventory | None, str] = (None, "")

    async def run(self) -> Never:
        """Serve until cancelled.

        Raises PlatformError when what is to be offered cannot be (too much EPC by the MiB, a list too long for a
        kubelet), or the status socket cannot be made.
        """
        settings = self._settings
        hardware, plugins = Signal(), Signal()
        with ExitStack() as stack:
            stack.enter_context(watch_directories(settings.watched, hardware))
            stack.enter_context(watch_directories([settings.plugin_directory], plugins))
            seen = hardware.generation
            await self._look()
            self.condition.offerings = self._offerings(plugins)
            server = HealthServer(self._page.routes(asyncio.get_running_loop().time))
            async with server.on_unix_socket(settings.status_socket), asyncio.TaskGroup() as group:
                for offering in self.condition.offerings:
                    group.create_task(offering.session.run())
                await self._follow(hardware, seen)

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
    return options


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
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the agent until SIGTERM or SIGINT and return the exit code: 0, or that of what stopped it."""
    arguments = parser().parse_args(argv)
    log.configure("node-agent", simulated=arguments.simulated_cpu is not None)
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
    task = asyncio.create_task(agent.run())
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
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
