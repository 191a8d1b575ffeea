# SPDX-License-Identifier: Apache-2.0
"""``kubenclave cluster webhook``: admission over HTTPS, one replica."""

import datetime as dt
from typing import TYPE_CHECKING

import click

from kubenclave.cli import kit
from kubenclave.cli.cluster.options import site_options
from kubenclave.cli.connection import connection_options, run_daemon
from kubenclave.cli.parameters import PORT, Duration
from kubenclave.cluster.admission import Site

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from kubenclave.cluster.api_lightkube import LightkubeApi


@click.command(
    "webhook",
    epilog=kit.examples("kubenclave cluster webhook --namespace kubenclave --allow attestation/quote-server"),
)
@click.option("--port", type=PORT, default=9443, show_default=True, help="HTTPS, /mutate.")
@click.option(
    "--health-port",
    type=PORT,
    default=9444,
    show_default=True,
    help="HTTP: /healthz, /readyz, /metrics.",
)
@click.option("--namespace", metavar="NAME", help="Namespace of the Service and the Secret; this pod's when left out.")
@click.option(
    "--service", metavar="NAME", default="kubenclave-webhook", show_default=True, help="Service that leads here."
)
@click.option(
    "--secret", metavar="NAME", default="kubenclave-webhook-tls", show_default=True, help="Secret for the certificates."
)
@click.option(
    "--configuration",
    metavar="NAME",
    default="kubenclave-webhook",
    show_default=True,
    help="MutatingWebhookConfiguration that gets the CA.",
)
@site_options
@click.option("--ca-lifetime", type=Duration(), default="365d", show_default=True, help="Life of its CA.")
@click.option("--leaf-lifetime", type=Duration(), default="30d", show_default=True, help="Life of its certificate.")
@click.option("--settle", type=Duration(), default="2m", show_default=True, help="Trust a new CA before using it.")
@click.option("--drain", type=click.FloatRange(0, 300), default=5, show_default=True, help="Seconds, at the end.")
@connection_options
def command(
    *,
    port: int,
    health_port: int,
    namespace: str | None,
    service: str,
    secret: str,
    configuration: str,
    site: Site,
    ca_lifetime: dt.timedelta,
    leaf_lifetime: dt.timedelta,
    settle: dt.timedelta,
    drain: float,
    kubeconfig: str | None,
    context: str | None,
) -> None:
    """Complete SGX pods when they are created, over HTTPS with certificates of its own."""
    from kubenclave import log
    from kubenclave.cluster.webhook.certificates import Lifetimes
    from kubenclave.cluster.webhook.daemon import Settings, serve
    from kubenclave.cluster.webhook.keeper import Place

    log.configure("webhook")
    lifetimes = Lifetimes(ca_lifetime, leaf_lifetime, settle)

    def daemon(api: "LightkubeApi") -> "Awaitable[None]":
        place = Place(namespace or api.namespace, service, secret, configuration)
        return serve(api, Settings(site, place, port, health_port, lifetimes, drain))

    run_daemon(kubeconfig, context, daemon)
