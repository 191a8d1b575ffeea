# SPDX-License-Identifier: Apache-2.0
"""``kubenclave cluster issuer``: the root of a cluster's SIMULATED platforms."""

from typing import TYPE_CHECKING

import click

from kubenclave.cli import kit
from kubenclave.cli.connection import connection_options, run_daemon
from kubenclave.cli.parameters import PORT

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from kubenclave.cluster.api_lightkube import LightkubeApi


@click.command(
    "issuer",
    epilog=kit.examples(
        "kubenclave cluster issuer",
        "kubenclave cluster issuer --namespace kubenclave --account kubenclave-simulator",
    ),
)
@click.option("--port", type=PORT, default=8080, show_default=True, help="HTTP, health as well.")
@click.option(
    "--namespace", metavar="NAME", help="Where Secret, ConfigMap and simulators are; this pod's when left out."
)
@click.option(
    "--account", metavar="NAME", default="kubenclave-simulator", show_default=True, help="Who may ask for certificates."
)
@click.option(
    "--secret",
    metavar="NAME",
    default="kubenclave-simulated-root",
    show_default=True,
    help="Secret for the root's seed.",
)
@click.option(
    "--config-map",
    metavar="NAME",
    default="kubenclave-simulated-collateral",
    show_default=True,
    help="ConfigMap for root and collateral.",
)
@connection_options
def command(
    *,
    port: int,
    namespace: str | None,
    account: str,
    secret: str,
    config_map: str,
    kubeconfig: str | None,
    context: str | None,
) -> None:
    """Certify the SIMULATED platforms of a cluster. It proves nothing about hardware.

    The root is made once and stays in a Secret; nodes send public keys and get certificates. Root and current
    collateral are in a ConfigMap, for 'kubenclave quote verify'.
    """
    from kubenclave import log
    from kubenclave.cluster.issuer.daemon import Settings, serve

    log.configure("issuer", simulated=True)
    kit.warn("SIMULATED root: it proves nothing about hardware")

    def daemon(api: "LightkubeApi") -> "Awaitable[None]":
        where = namespace or api.namespace
        settings = Settings(namespace=where, port=port, account=account, secret=secret, config_map=config_map)
        return serve(api, settings)

    run_daemon(kubeconfig, context, daemon)
