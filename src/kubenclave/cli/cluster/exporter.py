# SPDX-License-Identifier: Apache-2.0
"""``kubenclave cluster exporter``: EPC of the whole cluster as metrics."""

import click

from kubenclave.cli import kit
from kubenclave.cli.connection import connection_options, run_daemon
from kubenclave.cli.parameters import PORT


@click.command(
    "exporter",
    epilog=kit.examples(
        "kubenclave cluster exporter --namespace kubenclave",
        "kubenclave cluster exporter --no-per-pod              no series for single pods",
    ),
)
@click.option(
    "--port",
    type=PORT,
    default=9445,
    show_default=True,
    help="HTTP: /healthz, /readyz, /metrics.",
)
@click.option(
    "--namespace", metavar="NAME", help="Namespace of the ConfigMap kubenclave-capacity; this pod's when left out."
)
@click.option("--per-pod/--no-per-pod", default=True, show_default=True, help="A series for each pod with EPC.")
@connection_options
def command(*, port: int, namespace: str | None, per_pod: bool, kubeconfig: str | None, context: str | None) -> None:
    """Export EPC of nodes and pods for Prometheus, and tell admission how large the largest node is."""
    from kubenclave import log
    from kubenclave.cluster.exporter.daemon import Settings, serve

    log.configure("exporter")
    run_daemon(kubeconfig, context, lambda api: serve(api, Settings(namespace or api.namespace, port, per_pod)))
