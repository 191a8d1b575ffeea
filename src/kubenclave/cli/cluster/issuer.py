# SPDX-License-Identifier: Apache-2.0
"""``kubenclave cluster issuer``: the root of a cluster's SIMULATED platforms."""

import click

from kubenclave.cli import kit


@click.command(
    "issuer",
    epilog=kit.examples(
        "kubenclave cluster issuer",
        "kubenclave cluster issuer --namespace kubenclave --account kubenclave-simulator",
    ),
)
@click.option("--port", type=click.IntRange(1, 65535), default=8080, show_default=True, help="HTTP, health as well.")
@click.option("--namespace", help="Where Secret, ConfigMap and simulators are; this pod's when left out.")
@click.option("--account", default="kubenclave-simulator", show_default=True, help="Who may ask for certificates.")
@click.option("--secret", default="kubenclave-simulated-root", show_default=True, help="Secret for the root's seed.")
@click.option(
    "--config-map",
    default="kubenclave-simulated-collateral",
    show_default=True,
    help="ConfigMap for root and collateral.",
)
@click.option("--kubeconfig", type=click.Path(), help="How to reach the cluster from outside.")
def command(
    *, port: int, namespace: str | None, account: str, secret: str, config_map: str, kubeconfig: str | None
) -> None:
    """Certify the SIMULATED platforms of a cluster. It proves nothing about hardware.

    The root is made once and stays in a Secret; nodes send public keys and get certificates. Root and current
    collateral are in a ConfigMap, for 'kubenclave quote verify'.
    """
    import asyncio

    from kubenclave import log
    from kubenclave.cluster.api_lightkube import LightkubeApi
    from kubenclave.cluster.issuer.daemon import Settings, serve
    from kubenclave.platform import signals

    log.configure("issuer", simulated=True)
    kit.warn("SIMULATED root: it proves nothing about hardware")

    async def run() -> None:
        async with LightkubeApi.connect(kubeconfig=kubeconfig) as api:
            where = namespace or api.namespace
            await serve(
                api, Settings(namespace=where, port=port, account=account, secret=secret, config_map=config_map)
            )

    with signals.held():
        asyncio.run(run())
