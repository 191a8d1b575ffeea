# SPDX-License-Identifier: Apache-2.0
"""``kubenclave policy``: read a policy as the verifier reads it, and try it on a quote."""

import datetime as dt
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

import click

from kubenclave.cli import evidence, kit, parameters
from kubenclave.errors import PolicyError

if TYPE_CHECKING:
    from kubenclave.dcap.policy import EnclaveRule, Policy

_RELAXING: Final = {
    "dangerously_allow_debug": "debug enclaves are let through: their host can read their memory",
    "dangerously_allow_provision_key": "enclaves with platform-identifying keys are let through",
}


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
    policy = evidence.load_policy(file)
    normalised = _normalised(policy)
    relaxations = list(_relaxations(policy))
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


def _relaxations(policy: "Policy") -> Iterator[str]:
    from kubenclave.dcap.tcb import TcbStatus

    for member, meaning in _RELAXING.items():
        if getattr(policy, member):
            yield f"{member}: {meaning}"
    if days := policy.dangerously_accept_expired_collateral_days:
        yield f"dangerously_accept_expired_collateral_days: collateral counts for {days} days after its end"
    for status in policy.tcb_statuses:
        if status is not TcbStatus.UP_TO_DATE:
            yield f"tcb_statuses: platforms that are {status.value} are let through"


def _text(policy: "Policy", relaxations: list[str]) -> str:
    rows = [("policy", kit.printable(policy.name) or "without a name")]
    rows += [("enclave" if not number else "  or", _rule(rule)) for number, rule in enumerate(policy.enclaves)]
    rows.append(("TCB statuses", ", ".join(policy.tcb_statuses)))
    rows.append(("refused advisories", kit.printable(", ".join(policy.refused_advisories)) or "none"))
    for name, bits in (("ATTRIBUTES", policy.attributes), ("MISCSELECT", policy.misc_select)):
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
    wanted = [
        (name, value.hex() if isinstance(value, bytes) else str(value))
        for name, value in (
            ("MRENCLAVE", rule.mr_enclave),
            ("MRTD", rule.mr_td),
            ("MRSIGNER", rule.mr_signer),
            ("ISVPRODID", rule.isv_prod_id),
            ("ISVSVN >=", rule.min_isv_svn),
        )
        if value is not None
    ]
    return ", ".join(f"{name} {value}" for name, value in wanted) + (
        f"  ({kit.printable(rule.name)})" if rule.name else ""
    )
