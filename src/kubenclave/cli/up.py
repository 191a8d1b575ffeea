# SPDX-License-Identifier: Apache-2.0
"""``kubenclave up``: the daemons of a node on this machine, without Kubernetes."""

import os
import sys
from typing import Any

import click

from kubenclave import log
from kubenclave.cli import kit
from kubenclave.cli.parameters import EpcSize
from kubenclave.errors import PlatformError
from kubenclave.local import up
from kubenclave.local.control import Status
from kubenclave.local.state import StateDirectory, locate
from kubenclave.sgx.epc import amount


@click.command(
    "up",
    epilog=kit.examples(
        "kubenclave up",
        "kubenclave up --simulated --epc 1Gi --state /tmp/kubenclave",
        "kubenclave run --epc 64Mi -- ./app            in another terminal",
    ),
)
@click.option("--state", metavar="DIR", help="Keep everything here (default: kubenclave in the user's state folder).")
@click.option(
    "--simulated/--hardware",
    default=None,
    help="Use the SIMULATED platform, or insist on SGX (default: SGX if it is there).",
)
@click.option(
    "--epc",
    type=EpcSize(),
    default="128Mi",
    show_default=True,
    metavar="SIZE",
    help="EPC of the SIMULATED platform.",
)
@click.option("--grant-provision", is_flag=True, help="Grant the provisioning key to whoever asks for it.")
@click.option(
    "--attestation-port",
    type=click.IntRange(0, 65535),
    default=0,
    help="Port of the attestation service on the loopback interface (default: a free one, for good).",
)
@click.option("--no-attestation", is_flag=True, help="Leave the attestation service out.")
@click.option("-v", "--verbose", is_flag=True, help="Show every event on a terminal, not only what is wrong.")
@kit.output_option
def command(
    *,
    state: str | None,
    simulated: bool | None,
    epc: int,
    grant_provision: bool,
    attestation_port: int,
    no_attestation: bool,
    verbose: bool,
) -> None:
    """Run agent, quote helper, a stand-in for the kubelet and the attestation service until Ctrl-C.

    With --output json one document on stdout says that everything is ready and where. The log goes to stderr: all of it
    as JSON lines, on a terminal only what is wrong unless --verbose or KUBENCLAVE_LOG_LEVEL says otherwise.
    """
    if sys.stderr.isatty() and not verbose:
        os.environ.setdefault(log.LEVEL_VARIABLE, "warning")  # the daemons inherit it
    directory = locate(state, os.environ)
    usable = up.has_sgx()
    if simulated is False and not usable:
        raise PlatformError(
            "no usable SGX on this machine",
            code="up.no-sgx",
            hint="kubenclave doctor node tells which layer is missing; --simulated needs none",
        )
    simulating = not usable if simulated is None else simulated
    options = up.Options(
        directory,
        simulated=simulating,
        simulated_epc=epc,
        provision=grant_provision,
        attestation_port=_port(attestation_port, wanted=not no_attestation),
    )
    log.configure("up", simulated=simulating)
    if simulating:
        reason = "as asked" if simulated else "no usable SGX here"
        kit.warn(f"SIMULATED platform ({reason}): nothing is protected by hardware")
    up.serve(options, lambda status: kit.emit(_document(directory, status), _text(directory, status)))


def _port(port: int, *, wanted: bool) -> int | None:
    """Return the port of the attestation service, None where there is to be none."""
    from kubenclave.local.attestation import installed

    if wanted and not installed():
        kit.warn("no attestation service: it needs pip install 'kubenclave[services]'")
        return None
    return port if wanted else None


def _document(directory: StateDirectory, status: Status) -> dict[str, Any]:
    return {
        "ready": True,
        "simulated": status.simulated,
        "state": str(directory.path),
        "aesm_socket": status.aesm_socket,
        "cpu_socket": status.cpu_socket,
        "provision_socket": status.provision_socket,
        "epc_bytes": status.epc_capacity,
        "devices": {name: healthy for name, (healthy, _) in status.devices.items()},
        "attestation_url": status.attestation_url,
    }


def _text(directory: StateDirectory, status: Status) -> str:
    rows = [("EPC", amount(status.epc_capacity) + (" SIMULATED" if status.simulated else ""))]
    rows += [(name, f"{healthy} devices") for name, (healthy, _) in status.devices.items()]
    rows += [("AESM socket", status.aesm_socket), ("state", str(directory.path))]
    rows += [] if status.attestation_url is None else [("attestation", status.attestation_url)]
    return f"ready\n{kit.table(rows)}\nnext: kubenclave run --state {directory.path} --epc 64Mi --quote -- COMMAND"
