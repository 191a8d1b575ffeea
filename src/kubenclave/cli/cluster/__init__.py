# SPDX-License-Identifier: Apache-2.0
"""``kubenclave cluster``: what a cluster needs once. Each command is a module of this folder."""

from typing import Final

import click

from kubenclave.cli import kit
from kubenclave.cli.lazy import LazyGroup

COMMANDS: Final = {
    "policies": "Print the admission policies as YAML.",
    "issuer": "Certify the SIMULATED platforms of a cluster.",
    "webhook": "Complete SGX pods when they are created, over HTTPS.",
    "exporter": "Export EPC of nodes and pods for Prometheus.",
    "cleanup": "Take what the add-on put on Nodes away again.",
}


@click.group(
    "cluster",
    cls=LazyGroup,
    package=__name__,
    table=COMMANDS,
    epilog=kit.examples(
        "kubenclave cluster policies --allow attestation/quote-server | kubectl apply --server-side -f -",
    ),
)
def command() -> None:
    """Run and print what a cluster needs once: policies, webhook, exporter."""
