# SPDX-License-Identifier: Apache-2.0
"""``kubenclave doctor cluster``: what a cluster lacks for confidential pods."""

import datetime as dt

import click

from kubenclave.cli import kit
from kubenclave.cli.doctor import report
from kubenclave.cluster.diagnose import examine


@click.command(
    "cluster",
    epilog=kit.examples(
        "kubenclave doctor cluster",
        "kubenclave doctor cluster --context production --output json",
        "kubectl kubenclave doctor cluster",
    ),
)
@report.connection_options
@kit.output_option
def command(kubeconfig: str | None, context: str | None) -> None:
    """Examine a cluster: API server, add-on, admission, nodes, capacity.

    Only reads. What the account may not read is named, and the rest examined. Exit code 5 when there is a problem.
    """
    snapshot = report.ask(kubeconfig, context, examine.read)
    report.conclude(examine.judge_cluster(snapshot, dt.datetime.now(dt.UTC)))
