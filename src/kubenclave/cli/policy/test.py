# SPDX-License-Identifier: Apache-2.0
"""``kubenclave policy test``: a policy tried on a quote."""

import datetime as dt
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from kubenclave.cli import evidence, kit, origin, parameters
from kubenclave.cli.policy import load
from kubenclave.errors import PolicyError, UsageError

if TYPE_CHECKING:
    from kubenclave.dcap.azurepolicy import AzurePolicy
    from kubenclave.dcap.policy import Policy


@click.command(
    "test",
    short_help="Try a policy on a quote.",
    epilog=kit.examples(
        "kubenclave policy test policy.toml --quote quote.bin --collateral collateral.json --at now",
        "kubenclave policy test policy.toml --quote quote.bin --pccs https://localhost:8081 --at now",
        "kubenclave policy test sgx.azurepolicy --quote q.bin --collateral c.json --at now --output json",
        "kubenclave policy test p.json --quote q.bin --collateral c.json --root root.der --at now    SIMULATED",
    ),
)
@click.argument("file", type=evidence.FILE)
@load.format_option
@click.option("--quote", "quote_path", type=evidence.FILE, metavar="FILE", required=True, help="Quote to try it on.")
@origin.options
@evidence.at_option()
@evidence.root_option
@evidence.pck_chain_option
@click.option("--report-data", type=parameters.ReportData(), metavar="HEX", help="REPORTDATA this challenge expects.")
@kit.output_option
def command(
    *,
    file: str,
    form: str | None,
    quote_path: str,
    collateral: origin.Origin,
    at: dt.datetime,
    root_path: str | None,
    pck_chain_path: str | None,
    report_data: bytes | None,
) -> None:
    """Try the policy in FILE on a quote and show everything it finds at once.

    Of one in Azure's grammar the rules that apply are listed, and the claims it would issue.
    Exit code 0 when it accepts the quote, 1 when it does not, or when the quote is not genuine in the first place.
    """
    from kubenclave.dcap.policy import Policy

    policy = load.load(file, form)
    given = evidence.load_evidence(quote_path, collateral, root_path, pck_chain_path)
    if isinstance(policy, Policy):
        _try_typed(policy, given, at, report_data)
        return
    if report_data is not None:
        raise UsageError(
            "a policy in Azure's grammar compares claims",
            code="cli.misuse",
            hint="write a rule about x-ms-sgx-report-data, or give a typed policy",
        )
    _try_azure(policy, given, at)


def _try_typed(policy: "Policy", given: evidence.Evidence, at: dt.datetime, report_data: bytes | None) -> None:
    from kubenclave.cli.show import verdict as shown
    from kubenclave.dcap.verdict import verify_quote

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
        kit.emit(document, load.refusal(policy.name, error.findings))
        if error.hint and not kit.wants_json():
            kit.say(kit.hint_text(error.hint))
        kit.finish(kit.ExitCode.REFUSED)
    document = {"accepted": True, "policy": policy.name, "findings": [], "verdict": verdict.as_dict()}
    shown.emit(document, verdict)


def _try_azure(policy: "AzurePolicy", given: evidence.Evidence, at: dt.datetime) -> None:
    from kubenclave.cli.show import verdict as shown
    from kubenclave.dcap.azurepolicy.appraise import try_on
    from kubenclave.services.attestation.evidence_store import StoredEvidence
    from kubenclave.services.attestation.policies.compare import Terms, verified

    piece = StoredEvidence(
        tee_type=load.AZURE, quote=given.quote, pck_chain=given.pck_chain, collateral=given.collateral, at=at
    )
    trace: tuple[str, ...] = ()
    try:
        with evidence.simulated_said(given.root):
            judgement = verified(policy, piece, Terms(root=given.root))
            evaluation = try_on(policy, judgement)
            trace = evaluation.trace
            evaluation.check()
    except PolicyError as error:
        findings = error.as_dict()["findings"]
        document = {"accepted": False, "policy": load.AZURE, "findings": findings, "issued": {}, "trace": list(trace)}
        kit.emit({**document, "verdict": None}, f"{load.refusal(load.AZURE, error.findings)}\n{_applied(trace, {})}")
        kit.finish(kit.ExitCode.REFUSED)
    verdict, issued = judgement.verdict, dict(evaluation.issued)
    document = {"accepted": True, "policy": load.AZURE, "findings": [], "issued": issued, "trace": list(trace)}
    document["relaxations"] = [*verdict.relaxations, *evaluation.relaxations]
    mark = click.style("ACCEPTED", fg="green", bold=True)
    text = f"{mark}  by a policy in Azure's grammar, TCB status {verdict.tcb_status.value}\n{_applied(trace, issued)}"
    kit.emit({**document, "verdict": verdict.as_dict()}, text)
    for warning in shown.warnings(verdict):
        if warning != shown.NOT_CHECKED:  # this policy has said which enclave is wanted
            kit.warn(warning)
    for relaxation in evaluation.relaxations:
        kit.warn(f"RELAXED: {relaxation}")


def _applied(trace: Sequence[str], issued: Mapping[str, Any]) -> str:
    """Return the rules that applied, and what they issue, as text."""
    rows = [("  rule" if number else "rules", each) for number, each in enumerate(trace)] or [("rules", "none applied")]
    rows += [("issues", kit.printable(f"{name} = {json.dumps(value)}")) for name, value in issued.items()]
    return kit.table(rows)
