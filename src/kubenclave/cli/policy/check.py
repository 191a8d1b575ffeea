# SPDX-License-Identifier: Apache-2.0
"""``kubenclave policy check``: what a policy comes to."""

from typing import TYPE_CHECKING, Any

import click

from kubenclave.cli import evidence, kit
from kubenclave.cli.policy import load

if TYPE_CHECKING:
    from kubenclave.dcap.azurepolicy import AzurePolicy
    from kubenclave.dcap.policy import EnclaveRule, Policy


@click.command(
    "check",
    short_help="Show what a policy comes to.",
    epilog=kit.examples(
        "kubenclave policy check policy.toml",
        "kubenclave policy check policy.json --output json | jq .relaxations",
        "kubenclave policy check sgx.azurepolicy",
    ),
)
@click.argument("file", type=evidence.FILE)
@load.format_option
@kit.output_option
def command(file: str, form: str | None) -> None:
    """Read the policy in FILE (- for stdin) and show what it comes to, every default and relaxation.

    A typed document is JSON or TOML; Azure's grammar is read from .azurepolicy and .txt, or with --format azure.
    Exit code 3 when it is not a policy.
    """
    from kubenclave.dcap.policy import Policy
    from kubenclave.dcap.relaxations import relaxations_of

    policy = load.load(file, form)
    if not isinstance(policy, Policy):
        _emit_azure(policy)
        return
    relaxations = list(relaxations_of(policy))
    kit.emit({"policy": _normalised(policy), "relaxations": relaxations}, _text(policy, relaxations))


def _emit_azure(policy: "AzurePolicy") -> None:
    from kubenclave.dcap.azurepolicy.appraise import ACCEPTED_STATUS, PROPERTIES
    from kubenclave.dcap.token.azure import base64url

    tree, properties = policy.tree, policy.properties
    relaxations = [
        f"{name}: platforms that are {'of a status that a rule finds' if value is None else value} are let through"
        for name, value in properties
        if name == ACCEPTED_STATUS
    ]
    counts = {
        "configurationrules": len(tree.configuration),
        "authorizationrules": len(tree.authorization),
        "issuancerules": len(tree.issuance),
    }
    document = {
        "format": load.AZURE,
        "version": policy.version,
        "x-ms-policy-hash": base64url(policy.digest),
        "rules": counts,
        "issues": list(policy.issues),
        "properties": [list(each) for each in properties],
        "permits": policy.permits,
    }
    rows = [("policy", f"Azure's grammar, version {policy.version}"), ("x-ms-policy-hash", base64url(policy.digest))]
    rows += [(name, str(count)) for name, count in counts.items()]
    rows.append(("issues", kit.printable(", ".join(policy.issues)) or "nothing"))
    rows += [
        (kit.printable(name), "by a rule" if value is None else kit.printable(str(value))) for name, value in properties
    ]
    lines = [
        kit.table(rows),
        *(click.style(f"RELAXED  {kit.printable(each)}", fg="yellow", bold=True) for each in relaxations),
    ]
    kit.emit({"policy": document, "relaxations": relaxations}, "\n".join(lines))
    for name in dict.fromkeys(name for name, _ in properties if name not in PROPERTIES):
        kit.warn(f"the property {kit.printable(name)} has no effect here")
    if not policy.permits:
        kit.warn("no rule permits: this policy refuses everything")


def _normalised(policy: "Policy") -> dict[str, Any]:
    """Return the whole policy as JSON values, defaults filled in, hex in lower case."""
    import msgspec

    normalised: dict[str, Any] = msgspec.to_builtins(policy, enc_hook=lambda value: value.hex())
    return normalised


def _text(policy: "Policy", relaxations: list[str]) -> str:
    rows = [("policy", kit.printable(policy.name) or "without a name")]
    rows += [("enclave" if not number else "  or", _rule(rule)) for number, rule in enumerate(policy.enclaves)]
    rows.append(("TCB statuses", ", ".join(policy.tcb_statuses)))
    rows.append(("refused advisories", kit.printable(", ".join(policy.refused_advisories)) or "none"))
    masked = (policy.attributes, policy.misc_select, policy.td_attributes)
    for name, bits in zip(("ATTRIBUTES", "MISCSELECT", "TDATTRIBUTES"), masked, strict=True):
        rows.append((name, "any" if bits is None else f"& {bits.mask.hex()} == {bits.value.hex()}"))
    data = policy.expected_report_data
    rows.append(("REPORTDATA", "not checked, unless the challenge says" if data is None else data.hex()))
    age = policy.max_collateral_age_days
    rows.append(("collateral", "current" if age is None else f"current and at most {age} days old"))
    rows.append(("TCB evaluation data", f"number {policy.min_tcb_evaluation_data_number} or more"))
    lines = [kit.table(rows)]
    lines += [click.style(f"RELAXED  {relaxation}", fg="yellow", bold=True) for relaxation in relaxations]
    return "\n".join(lines if relaxations else [*lines, "no relaxation"])


def _rule(rule: "EnclaveRule") -> str:
    wanted = ", ".join(f"{pin.title}{' >=' if pin.is_minimum else ''} {_value(value)}" for pin, value in rule.pinned)
    return f"{wanted}  ({kit.printable(rule.name)})" if rule.name else wanted


def _value(value: bytes | int) -> str:
    return value.hex() if isinstance(value, bytes) else str(value)
