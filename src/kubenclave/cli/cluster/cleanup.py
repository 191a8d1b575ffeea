# SPDX-License-Identifier: Apache-2.0
"""``kubenclave cluster cleanup``: the last act of an uninstallation."""

import click

from kubenclave.cli import kit
from kubenclave.cli.connection import ask, connection_options


@click.command("cleanup", epilog=kit.examples("kubenclave cluster cleanup --namespace kubenclave"))
@click.option("--namespace", metavar="NAME", help="Where the node agents ran; this pod's namespace when left out.")
@click.option("--startup-taint", metavar="KEY", help="Startup taint to take away too.")
@click.option(
    "--patience",
    type=click.FloatRange(0, 3600),
    default=60,
    show_default=True,
    help="Seconds that node agents have to be gone.",
)
@connection_options
@kit.output_option
def command(
    *, namespace: str | None, startup_taint: str | None, patience: float, kubeconfig: str | None, context: str | None
) -> None:
    """Take labels, annotations, EPC, condition and startup taint of the add-on from all Nodes."""
    from kubenclave import log
    from kubenclave.cluster.cleanup import clean

    log.configure("cleanup")
    cleaned = ask(
        kubeconfig,
        context,
        lambda api: clean(api, namespace=namespace or api.namespace, taint=startup_taint, patience=patience),
    )
    kit.emit({"nodes_cleaned": cleaned}, f"{cleaned} nodes cleaned")
