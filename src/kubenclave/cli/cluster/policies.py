# SPDX-License-Identifier: Apache-2.0
"""``kubenclave cluster policies``: the admission policies of Kubernetes itself, without a webhook."""

import click

from kubenclave.cli import kit
from kubenclave.cluster.admission import EnclaveWithoutEpc, EpcMode, Grants, Rules


class _Account(click.ParamType[tuple[str, str]]):
    """A service account as ``NAMESPACE/NAME``."""

    name = "NAMESPACE/ACCOUNT"

    def convert(
        self, value: str | tuple[str, str], param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        """Return the pair."""
        if isinstance(value, tuple):
            return value
        namespace, _, account = value.partition("/")
        if not namespace or not account or "/" in account:
            self.fail(f"{value!r} is no NAMESPACE/ACCOUNT", param, ctx)
        return namespace, account


@click.command(
    "policies",
    epilog=kit.examples(
        "kubenclave cluster policies --allow attestation/quote-server | kubectl apply --server-side -f -",
        "kubenclave cluster policies --validating-only      for Kubernetes 1.30 to 1.35, beside the webhook",
    ),
)
@click.option("--epc-mode", type=click.Choice(EpcMode), default=EpcMode.CAPACITY, show_default=True)
@click.option(
    "--enclave-without-epc",
    type=click.Choice(EnclaveWithoutEpc),
    default=EnclaveWithoutEpc.REFUSE,
    show_default=True,
    help="What becomes of devices without EPC.",
)
@click.option("--allow", type=_Account(), multiple=True, help="Who may have the provisioning key; repeatable.")
@click.option("--namespace", default="kubenclave", show_default=True, help="Namespace of the add-on.")
@click.option("--validating-only", is_flag=True, help="Leave out the mutating half, which needs Kubernetes 1.36.")
@kit.output_option
def command(
    *,
    epc_mode: EpcMode,
    enclave_without_epc: EnclaveWithoutEpc,
    allow: tuple[tuple[str, str], ...],
    namespace: str,
    validating_only: bool,
) -> None:
    """Print the admission policies as YAML, as the Helm chart has them."""
    from kubenclave.cluster.policies import Settings, mutating_objects, validating_objects
    from kubenclave.cluster.policies.render import to_yaml

    settings = Settings.of(Rules(epc_mode, enclave_without_epc), Grants(frozenset(allow)), namespace)
    objects = [*([] if validating_only else mutating_objects(settings)), *validating_objects(settings)]
    kit.emit({"apiVersion": "v1", "kind": "List", "items": objects}, to_yaml(objects).rstrip("\n"))
