# SPDX-License-Identifier: Apache-2.0
"""``kubenclave cluster policies``: the admission policies of Kubernetes itself, without a webhook."""

import click

from kubenclave.cli import kit


@click.command("policies", epilog=kit.examples("kubenclave cluster policies | kubectl apply --server-side -f -"))
@kit.output_option
def command() -> None:
    """Print the admission policies as YAML."""
