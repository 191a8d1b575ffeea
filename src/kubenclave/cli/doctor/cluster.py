# SPDX-License-Identifier: Apache-2.0
"""``kubenclave doctor cluster``: what a cluster lacks for confidential pods."""

import click

from kubenclave.cli import kit
from kubenclave.cli.connection import ask, connection_options


@click.command(
    "cluster",
    epilog=kit.examples(
        "kubenclave doctor cluster",
        "kubenclave doctor cluster --context production --output json",
        "kubectl kubenclave doctor cluster",
    ),
)
@connection_options
@kit.output_option
def command(kubeconfig: str | None, context: str | None) -> None:
    """Examine a cluster: API server, add-on, admission, nodes, capacity.

    Only reads. What the account may not read is named, and the rest examined. Exit code 5 when there is a problem.
    """
    import datetime as dt

    from kubenclave.cli.doctor import report
    from kubenclave.cluster.diagnose import examine

    snapshot = ask(kubeconfig, context, examine.read)
    report.conclude(examine.judge_cluster(snapshot, dt.datetime.now(dt.UTC)))
