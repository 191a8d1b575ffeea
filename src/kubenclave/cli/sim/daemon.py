# SPDX-License-Identifier: Apache-2.0
"""``kubenclave sim start``: the SIMULATED CPU as a program in the foreground."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kubenclave.cli import kit
from kubenclave.cli.parameters import PORT
from kubenclave.cli.sim.options import EpcSizes, state_directory, state_option
from kubenclave.errors import UsageError
from kubenclave.sgx.epc import amount

if TYPE_CHECKING:
    from kubenclave.node.health import Route
    from kubenclave.platform.simulated.renewal import IssuerAddress
    from kubenclave.platform.simulated.start import Ready, Settings


@click.command(
    "start",
    short_help="Run the SIMULATED CPU until Ctrl-C.",
    epilog=kit.examples(
        "kubenclave sim start",
        "kubenclave sim start --state /tmp/sim --epc 1Gi --output json",
        "kubenclave sim start --epc 128Mi,128Mi                  two NUMA nodes",
        "kubenclave sim start --issuer http://10.96.0.7:8080 --issuer-token-file /var/run/secrets/issuer/token",
    ),
)
@state_option
@click.option("--sockets", "folder", metavar="DIR", help="Where the sockets go (default: the state directory).")
@click.option(
    "--epc",
    type=EpcSizes(),
    metavar="SIZE[,SIZE...]",
    help="EPC, as in 64Mi; of several NUMA nodes, as in 64Mi,64Mi (default: as before, at first 128Mi).",
)
@click.option("--issuer", metavar="URL", help="Get certificates from here ('cluster issuer') in place of an own root.")
@click.option("--issuer-token-file", type=click.Path(), metavar="FILE", help="The token that says which node asks.")
@click.option("--health-port", type=PORT, metavar="N", help="Serve /healthz and /readyz here.")
@kit.output_option
def command(
    *,
    state: str | None,
    folder: str | None,
    epc: tuple[int, ...] | None,
    issuer: str | None,
    issuer_token_file: str | None,
    health_port: int | None,
) -> None:
    """Run the SIMULATED CPU until Ctrl-C, with its sockets in the state directory.

    Its fuses, on which all keys and certificates depend, are made once and kept there. With --issuer the platform has
    no root of its own: it sends public keys, and keeps what comes back. With --output json one document on stdout says
    that it is ready.
    """
    import asyncio

    from kubenclave import log
    from kubenclave.platform.signals import held
    from kubenclave.platform.simulated.start import Settings

    place = state_directory(state)
    settings = Settings(
        state=place,
        sockets=place if folder is None else Path(folder).absolute(),
        epc=epc,
        issuer=_issuer(issuer, issuer_token_file),
    )
    log.configure("sim", simulated=True)
    kit.warn("SIMULATED platform: nothing is protected by hardware")
    with held():
        asyncio.run(_serve(settings, health_port))


def _issuer(url: str | None, token_file: str | None) -> "IssuerAddress | None":
    if (url is None) != (token_file is None):
        raise UsageError("--issuer and --issuer-token-file belong together", code="cli.misuse")
    if url is None or token_file is None:
        return None
    from kubenclave.platform.simulated.renewal import IssuerAddress

    return IssuerAddress.parse(url, Path(token_file))


async def _serve(settings: "Settings", health_port: int | None) -> None:
    from contextlib import AsyncExitStack

    from kubenclave.platform.simulated import start as program

    ready = False

    def on_ready(what: "Ready") -> None:
        nonlocal ready
        ready = True
        _say_ready(what)

    async with AsyncExitStack() as stack:
        if health_port is not None:
            from kubenclave.node.health import HealthServer

            await stack.enter_async_context(HealthServer(_routes(lambda: ready)).on_tcp(None, health_port))
        await program.run(settings, on_ready)


def _routes(is_ready: Callable[[], bool]) -> dict[str, "Route"]:
    from kubenclave.node.health import TEXT

    return {
        "/healthz": lambda: (200, TEXT, b"ok, SIMULATED\n"),
        "/readyz": lambda: (200, TEXT, b"ready, SIMULATED\n") if is_ready() else (503, TEXT, b"starting\n"),
    }


def _say_ready(ready: "Ready") -> None:
    state = ready.state
    document = {
        "ready": True,
        "simulated": True,
        "state": str(ready.directory),
        "cpu_socket": str(ready.cpu_socket),
        "provision_socket": str(ready.provision_socket),
        "epc_bytes": state.epc_bytes,
        "epc_numa_bytes": list(state.epc),
        "tcb": state.tcb.value,
    }
    rows = [("CPU socket", str(ready.cpu_socket)), ("provision socket", str(ready.provision_socket))]
    rows += [("EPC", " + ".join(map(amount, state.epc))), ("TCB", state.tcb.value)]
    kit.emit(document, f"ready, SIMULATED\n{kit.table(rows)}")
