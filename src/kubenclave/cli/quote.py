# SPDX-License-Identifier: Apache-2.0
"""``kubenclave quote``: get quotes over AESM, show what they say, verify what they say."""

import datetime as dt
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kubenclave.cli import evidence, kit, origin, parameters
from kubenclave.errors import PlatformError, UsageError

if TYPE_CHECKING:
    from kubenclave.sgx.report import TargetInfo


@click.group(
    "quote",
    epilog=kit.examples(
        "kubenclave quote get --report-data 00ff --out quote.bin",
        "kubenclave quote show quote.bin",
        "kubenclave quote verify quote.bin --collateral collateral.json --at now --policy policy.toml",
    ),
)
def command() -> None:
    """Get, show and verify quotes."""


@command.command(
    "verify",
    short_help="Say whether a quote is genuine, current and wanted.",
    epilog=kit.examples(
        "kubenclave quote verify quote.bin --collateral collateral.json --at 2025-06-19T10:15:00Z",
        "kubenclave quote verify quote.bin --collateral collateral.json --at now --policy policy.toml",
        "kubenclave quote verify quote.bin --collateral c.json --at now --root root.der    a SIMULATED platform",
        "kubenclave quote verify quote.bin --pccs https://localhost:8081 --at now --policy policy.toml",
        "kubenclave quote verify quote.bin --offline --bundle site.bundle --trusted-key public.pem --at now",
        "kubenclave quote verify - --collateral c.json --at 1750328100 --output json < quote.bin",
    ),
)
@click.argument("quote", type=evidence.FILE)
@origin.options
@evidence.at_option()
@evidence.root_option
@evidence.pck_chain_option
@click.option("--policy", "policy_path", type=evidence.FILE, metavar="FILE", help="Which enclaves: JSON or TOML.")
@click.option("--report-data", type=parameters.ReportData(), metavar="HEX", help="REPORTDATA this challenge expects.")
@click.option(
    "--minimum-tcb-evaluation-data-number",
    "minimum_number",
    type=click.IntRange(min=0),
    default=0,
    metavar="N",
    help="Refuse collateral of an older generation.",
)
@click.option("--dangerously-allow-debug", is_flag=True, help="Accept an enclave whose memory its host can read.")
@click.option(
    "--dangerously-accept-expired-collateral",
    "grace",
    type=parameters.Duration(),
    default="0d",
    metavar="DURATION",
    help="Accept collateral this long after its end, as in 7d or 12h.",
)
@kit.output_option
def verify(
    *,
    quote: str,
    collateral: origin.Origin,
    at: dt.datetime,
    root_path: str | None,
    pck_chain_path: str | None,
    policy_path: str | None,
    report_data: bytes | None,
    minimum_number: int,
    dangerously_allow_debug: bool,
    grace: dt.timedelta,
) -> None:
    """Say whether QUOTE (a file, - for stdin) is genuine, current and, under a policy, the enclave that is wanted.

    Exit code 0 accepted, 1 refused, 3 not a quote or not collateral, 4 when nobody gives the collateral. Without a
    policy nobody has said which enclave is wanted: the answer is then about the platform alone, and says so.
    """
    from kubenclave.cli.show import verdict as shown
    from kubenclave.dcap.verdict import verify_quote

    given = evidence.load_evidence(quote, collateral, root_path, pck_chain_path)
    policy = None if policy_path is None else evidence.load_policy(policy_path)
    with evidence.simulated_said(given.root):
        verdict = verify_quote(
            given.quote,
            given.collateral,
            at=at,
            root=given.root,
            pck_chain=given.pck_chain,
            policy=policy,
            report_data=report_data,
            minimum_tcb_evaluation_data_number=minimum_number,
            dangerously_allow_debug=dangerously_allow_debug,
            dangerously_accept_expired_collateral=grace,
        )
    shown.emit(verdict.as_dict(), verdict)


@command.command(
    "show",
    short_help="Show every field of a quote; nothing is verified.",
    epilog=kit.examples(
        "kubenclave quote show quote.bin",
        "kubenclave quote show quote.bin --output json | jq -r .mr_enclave",
    ),
)
@click.argument("quote", type=evidence.FILE)
@kit.output_option
def show(quote: str) -> None:
    """Show every field of QUOTE (a file, - for stdin), SGX or TDX, of any version. Nothing is verified.

    Exit code 3 when it is not a quote.
    """
    from kubenclave.cli.show import quote as shown
    from kubenclave.sgx.quote import Quote

    content = kit.read_input(quote, what="quote")
    described = shown.describe(Quote.parse(content), size=len(content))
    kit.emit(described, shown.text(described))


@command.command(
    "get",
    epilog=kit.examples(
        "kubenclave sim run -- kubenclave quote get --report-data 00ff --out quote.bin    SIMULATED enclave",
        "kubenclave quote get --target-info-out target.bin                                first step by hand",
        "kubenclave quote get --report report.bin --out quote.bin                         second step",
    ),
)
@click.option("--report-data", type=parameters.ReportData(), metavar="HEX", help="What the enclave shall vouch for.")
@click.option("--report", "report_path", type=evidence.FILE, metavar="FILE", help="A REPORT, 432 bytes, as made.")
@click.option("--target-info-out", type=evidence.FILE, metavar="FILE", help="Only write whom a REPORT is to be for.")
@click.option("--out", type=evidence.FILE, metavar="FILE", help="Where the quote goes (default: stdout).")
@click.option("--aesm-socket", type=click.Path(), metavar="PATH", help="Another AESM socket than the usual one.")
@kit.output_option
def get(
    *,
    report_data: bytes | None,
    report_path: str | None,
    target_info_out: str | None,
    out: str | None,
    aesm_socket: str | None,
) -> None:
    """Get a quote over the AESM socket.

    The REPORT comes from the SIMULATED enclave that 'kubenclave sim run' started this command in, or from a file that
    your own enclave wrote; then --target-info-out tells it first for whom.
    """
    from kubenclave.platform.aesmclient import AesmClient, socket_path

    client = AesmClient(socket_path(os.environ) if aesm_socket is None else Path(aesm_socket))
    if target_info_out is not None:
        if report_path or report_data or out:
            raise UsageError("--target-info-out is a step of its own", code="cli.misuse", hint="give it alone")
        kit.write_output(target_info_out, client.target_info().build(), what="target info")
        if target_info_out != "-":
            kit.say(f"TARGETINFO of the quoting enclave in {kit.printable(target_info_out)}")
        return
    if (report_path is None) == (report_data is None):
        raise UsageError(
            "give what the enclave shall vouch for, or a REPORT that says it",
            code="cli.misuse",
            hint="either --report-data HEX or --report FILE",
        )
    if out is None and not kit.wants_json() and sys.stdout.isatty():
        raise UsageError("a quote is no text for a terminal", code="cli.misuse", hint="--out FILE, or --output json")
    make_report = _report_from_file(report_path) if report_path else _report_from_enclave(report_data or b"")
    _deliver(client.quote(make_report), out)


def _report_from_file(path: str) -> "Callable[[TargetInfo], bytes]":
    from kubenclave.sgx.layout import wrong_size
    from kubenclave.sgx.report import REPORT_SIZE

    report = kit.read_input(path, what="REPORT")
    if len(report) != REPORT_SIZE:
        raise wrong_size("REPORT", REPORT_SIZE, len(report))
    return lambda _: report


def _report_from_enclave(report_data: bytes) -> "Callable[[TargetInfo], bytes]":
    """Return how the enclave that this process was started in makes a REPORT. Raises PlatformError without one."""
    from kubenclave.platform.simcpu import Enclave

    enclave = Enclave.inherited(os.environ)
    if enclave is None:
        raise PlatformError(
            "there is no enclave here to make a REPORT",
            code="quote.no-enclave",
            hint="kubenclave sim run -- kubenclave quote get ..., or make one in your own enclave and give --report",
        )
    click.get_current_context().with_resource(enclave)
    kit.warn("SIMULATED enclave: nothing is protected by hardware")
    return lambda target: enclave.report(target, report_data)


def _deliver(quote: bytes, out: str | None) -> None:
    """Write the quote where it was asked for; in JSON it is part of the document unless it went to a file."""
    document: dict[str, Any] = {"bytes": len(quote), "out": out}
    if out is None and kit.wants_json():
        kit.emit({**document, "quote": quote.hex()}, "")
        return
    kit.write_output(out or "-", quote, what="quote")
    if kit.wants_json():
        kit.emit(document, "")
    elif out not in (None, "-"):
        kit.say(f"quote of {len(quote)} bytes in {out}")
