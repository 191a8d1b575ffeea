# SPDX-License-Identifier: Apache-2.0
"""``kubenclave cluster exporter``: EPC of the whole cluster as metrics."""

import click

from kubenclave.cli import kit


@click.command(
    "exporter",
    epilog=kit.examples(
        "kubenclave cluster exporter --namespace kubenclave",
        "kubenclave cluster exporter --no-per-pod              no series for single pods",
    ),
)
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    default=9445,
    show_default=True,
    help="HTTP: /healthz, /readyz, /metrics.",
)
@click.option("--namespace", help="Namespace of the ConfigMap kubenclave-capacity; this pod's when left out.")
@click.option("--per-pod/--no-per-pod", default=True, show_default=True, help="A series for each pod with EPC.")
@click.option("--kubeconfig", type=click.Path(), help="How to reach the cluster from outside.")
def command(*, port: int, namespace: str | None, per_pod: bool, kubeconfig: str | None) -> None:
    """Export EPC of nodes and pods for Prometheus, and tell admission how large the largest node is."""
    import asyncio

    from kubenclave import log
    from kubenclave.cluster.api_lightkube import LightkubeApi
    from kubenclave.cluster.exporter.daemon import Settings, serve
    from kubenclave.platform import signals

    log.configure("exporter")

    async def run() -> None:
        async with LightkubeApi.connect(kubeconfig=kubeconfig) as api:
            await serve(api, Settings(namespace or api.namespace, port, per_pod))

    with signals.held():
        asyncio.run(run())
