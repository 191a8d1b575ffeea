# SPDX-License-Identifier: Apache-2.0
"""``kubenclave cluster cleanup``: the last act of an uninstallation."""

import click

from kubenclave.cli import kit


@click.command("cleanup", epilog=kit.examples("kubenclave cluster cleanup --namespace kubenclave"))
@click.option("--namespace", help="Where the node agents ran; this pod's namespace when left out.")
@click.option("--startup-taint", metavar="KEY", help="Startup taint to take away too.")
@click.option(
    "--patience",
    type=click.FloatRange(0, 3600),
    default=60,
    show_default=True,
    help="Seconds that node agents have to be gone.",
)
@click.option("--kubeconfig", type=click.Path(), help="How to reach the cluster from outside.")
def command(*, namespace: str | None, startup_taint: str | None, patience: float, kubeconfig: str | None) -> None:
    """Take labels, annotations, EPC, condition and startup taint of the add-on from all Nodes."""
    import asyncio

    from kubenclave import log
    from kubenclave.cluster.api_lightkube import LightkubeApi
    from kubenclave.cluster.cleanup import clean

    log.configure("cleanup")

    async def run() -> int:
        async with LightkubeApi.connect(kubeconfig=kubeconfig) as api:
            where = namespace or api.namespace
            return await clean(api, namespace=where, taint=startup_taint, patience=patience)

    click.echo(f"{asyncio.run(run())} nodes cleaned")
