# SPDX-License-Identifier: Apache-2.0
"""``kubenclave doctor pod``: why a pod is pending, has no device or gets no quote."""

from typing import TYPE_CHECKING

import click

from kubenclave.cli import kit
from kubenclave.cli.connection import ask, connection_options

if TYPE_CHECKING:
    from kubenclave.cluster.api_lightkube import LightkubeApi
    from kubenclave.cluster.diagnose.model import Diagnosis


@click.command(
    "pod",
    epilog=kit.examples(
        "kubenclave doctor pod web-0",
        "kubenclave doctor pod web-0 -n shop --output json",
        "kubectl kubenclave doctor pod web-0 -n shop",
    ),
)
@click.argument("name")
@click.option("-n", "--namespace", metavar="NAME", help="Its namespace (default: that of the context).")
@connection_options
@kit.output_option
def command(name: str, namespace: str | None, kubeconfig: str | None, context: str | None) -> None:
    """Find out why a pod is pending, has no device or gets no quote.

    NAME may also be a Deployment, Job or other controller whose pods were never made. Only reads. Exit code 5 when
    there is a problem.
    """
    from kubenclave.cli.doctor import report
    from kubenclave.cluster.diagnose import examine

    async def question(api: "LightkubeApi") -> "list[Diagnosis]":
        where = namespace or api.namespace or "default"
        pod = await examine.read_pod(api, where, name)
        return examine.judge_pod(where, name, pod, await examine.read(api, namespace=where))

    report.conclude(ask(kubeconfig, context, question))
