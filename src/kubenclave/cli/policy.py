# SPDX-License-Identifier: Apache-2.0
"""``kubenclave policy``: read a policy as the verifier reads it, and try it on a quote."""

import datetime as dt
from typing import TYPE_CHECKING, Any

import click

from kubenclave.cli import evidence, kit, parameters
from kubenclave.errors import PolicyError

if TYPE_CHECKING:
    from kubenclave.dcap.policy import EnclaveRule, Policy


@click.group(
    "policy",
    epilog=kit.examples(
        "kubenclave policy check policy.toml",
        "kubenclave policy test policy.toml --quote quote.bin --collateral collateral.json --at now",
    ),
)
def command() -> None:
    """Check and test appraisal policies."""


@command.command(
    "check",
    short_help="Show what a policy comes to.",
    epilog=kit.examples(
        "kubenclave policy check policy.toml",
        "kubenclave policy check policy.json --output json | jq .relaxations",
    ),
)
@click.argument("file", type=evidence.FILE)
@kit.output_option
def check(file: str) -> None:
    """Read the policy in FILE (JSON or TOML, - for stdin) and show what it comes to, every default and relaxation.

    Exit code 3 when it is not a policy.
    """
    from kubenclave.dcap.relaxations import relaxations_of

    policy = evidence.load_policy(file)
    normalised = _normalised(policy)
    relaxations = list(relaxations_of(policy))
    kit.emit({"policy": normalised, "relaxations": relaxations}, _text(policy, relaxations))


@command.command(
    "test",
    short_help="Try a policy on a quote.",
    epilog=kit.examples(
        "kubenclave policy test policy.toml --quote quote.bin --collateral collateral.json --at now",
        "kubenclave policy test p.json --quote q.bin --collateral c.json --root root.der --at now    SIMULATED",
    ),
)
@click.argument("file", type=evidence.FILE)
@click.option("--quote", "quote_path", type=evidence.FILE, metavar="FILE", required=True, help="Quote to try it on.")
@evidence.collateral_option
@evidence.at_option()
@evidence.root_option
@evidence.pck_chain_option
@click.option("--report-data", type=parameters.ReportData(), metavar="HEX", help="REPORTDATA this challenge expects.")
@kit.output_option
def test(
    *,
    file: str,
    quote_path: str,
    collateral_path: str,
    at: dt.datetime,
    root_path: str | None,
    pck_chain_path: str | None,
    report_data: bytes | None,
) -> None:
    """Try the policy in FILE on a quote and show everything it finds at once.

    Exit code 0 when it accepts the quote, 1 when it does not, or when the quote is not genuine in the first place.
    """
    from kubenclave.cli.show import verdict as shown
    from kubenclave.dcap.verdict import verify_quote

    policy = evidence.load_policy(file)
    given = evidence.load_evidence(quote_path, collateral_path, root_path, pck_chain_path)
    try:
        with evidence.simulated_said(given.root):
            verdict = verify_quote(
                given.quote,
                given.collateral,
                at=at,
                root=given.root,
                pck_chain=given.pck_chain,
                policy=policy,
                report_data=report_data,
            )
    except PolicyError as error:
        document = {"accepted": False, "policy": policy.name, "findings": error.as_dict()["findings"], "verdict": None}
        kit.emit(document, _findings(policy, error))
        if error.hint and not kit.wants_json():
            kit.say(f"hint: {kit.printable(error.hint)}")
        kit.finish(kit.ExitCode.REFUSED)
    document = {"accepted": True, "policy": policy.name, "findings": [], "verdict": verdict.as_dict()}
    shown.emit(document, verdict)


def _findings(policy: "Policy", error: PolicyError) -> str:
    mark = click.style("REFUSED", fg="red", bold=True)
    count = f"{len(error.findings)} finding{'s' if len(error.findings) > 1 else ''}"
    name = kit.printable(policy.name) or "without a name"
    return f"{mark}  by policy {name}: {count}\n{kit.finding_lines(error.findings)}"


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
