# SPDX-License-Identifier: Apache-2.0
"""``kubenclave cluster policies``: the admission policies of Kubernetes itself, without a webhook."""

import click

from kubenclave.cli import kit
from kubenclave.cli.cluster.options import site_options
from kubenclave.cluster.admission import Site


@click.command(
    "policies",
    epilog=kit.examples(
        "kubenclave cluster policies --allow attestation/quote-server | kubectl apply --server-side -f -",
        "kubenclave cluster policies --validating-only      for Kubernetes 1.30 to 1.35, beside the webhook",
    ),
)
@site_options
@click.option("--namespace", metavar="NAME", default="kubenclave", show_default=True, help="Namespace of the add-on.")
@click.option("--validating-only", is_flag=True, help="Leave out the mutating half, which needs Kubernetes 1.36.")
@kit.output_option
def command(*, site: Site, namespace: str, validating_only: bool) -> None:
    """Print the admission policies as YAML, as the Helm chart has them."""
    from kubenclave.cluster.policies import Settings, mutating_objects, validating_objects
    from kubenclave.cluster.policies.render import to_yaml

    settings = Settings.of(site, namespace)
    objects = [*([] if validating_only else mutating_objects(settings)), *validating_objects(settings)]
    kit.emit({"apiVersion": "v1", "kind": "List", "items": objects}, to_yaml(objects).rstrip("\n"))
