# SPDX-License-Identifier: Apache-2.0
"""A verdict as text: what was decided first, then what it rests on."""

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

import click

from kubenclave.cli import kit
from kubenclave.cli.evidence import zulu

if TYPE_CHECKING:
    from kubenclave.dcap.documents import TcbLevel
    from kubenclave.dcap.verdict import QuoteVerdict

NOT_CHECKED: Final = "IDENTITY NOT CHECKED: no policy said which enclave is wanted (--policy FILE)"


def emit(document: dict[str, Any], verdict: "QuoteVerdict") -> None:
    """Print a verdict; what nobody should overlook goes to stderr too where stdout is for a program."""
    if kit.wants_json():
        for warning in warnings(verdict):
            kit.warn(warning)
    kit.emit(document, verdict_text(verdict))


def verdict_text(verdict: "QuoteVerdict") -> str:
    """Return everything a person may want to know of a quote that was accepted."""
    blocks = [_headline(verdict), _identity(verdict), _levels(verdict), _terms(verdict), _dates(verdict)]
    return "\n\n".join(blocks)


def warnings(verdict: "QuoteVerdict") -> Iterator[str]:
    """Yield what nobody should overlook in a quote that was accepted."""
    if not verdict.appraised:
        yield NOT_CHECKED
    if verdict.simulated:
        yield f"SIMULATED: root {verdict.verified.anchor.digest[:16]}... is not Intel's, no hardware vouches for this"
    for relaxation in verdict.relaxations:
        if not relaxation.startswith(("root:", "minimum_")):  # said already; a floor that holds is nothing to overlook
            yield f"RELAXED: {relaxation}"


def colour_of(status: str) -> str:
    """Return the colour in which a TCB status is shown."""
    return {"UpToDate": "green", "Revoked": "red"}.get(status, "yellow")


def _headline(verdict: "QuoteVerdict") -> str:
    status = verdict.tcb_status.value
    mark = click.style("ACCEPTED", fg="green" if verdict.appraised else "yellow", bold=True)
    lines = [f"{mark}  TCB status {click.style(status, fg=colour_of(status))}"]
    lines += [click.style(warning, fg="yellow", bold=True) for warning in warnings(verdict)]
    return "\n".join(lines)


def _identity(verdict: "QuoteVerdict") -> str:
    from kubenclave.sgx.report import ReportBody

    body = verdict.quote.body
    rows = [("TEE", f"{verdict.quote.header.tee_type.name}, quote version {verdict.quote.header.version}")]
    if isinstance(body, ReportBody):
        rows += [
            ("MRENCLAVE", body.mr_enclave.hex()),
            ("MRSIGNER", body.mr_signer.hex()),
            ("ISVPRODID, ISVSVN", f"{body.isv_prod_id}, {body.isv_svn}"),
            ("ATTRIBUTES", " ".join(body.attributes.names())),
        ]
    else:
        rows += [("MRTD", body.mr_td.hex()), ("TDATTRIBUTES", hex(body.td_attributes))]
    checked = "" if verdict.report_data_checked else "  (not checked)"
    data = body.report_data.hex()
    rows += [("REPORTDATA", data[:64]), ("", data[64:] + checked)]
    return kit.table(rows)


def _levels(verdict: "QuoteVerdict") -> str:
    parts = [("platform", verdict.platform), ("quoting enclave", verdict.qe)]
    if verdict.tdx_module is not None:
        parts.append(("TDX module", verdict.tdx_module))
    rows = [("TCB OF", "STATUS", "TCB DATE", "ADVISORIES"), *(_level(name, level) for name, level in parts)]
    return kit.table(rows)


def _level(name: str, level: "TcbLevel") -> tuple[str, str, str, str]:
    status = click.style(level.status.value, fg=colour_of(level.status.value))
    return name, status, level.tcb_date.date().isoformat(), kit.printable(", ".join(level.advisories)) or "none"


def _terms(verdict: "QuoteVerdict") -> str:
    extension = verdict.verified.chain.extension
    platform = f"FMSPC {extension.fmspc.hex()}, PCE-ID {extension.pce_id.hex()}, PCESVN {extension.pce_svn}"
    named = f"policy {kit.printable(verdict.policy_name or 'without a name')}" if verdict.appraised else "no policy"
    return kit.table(
        [
            ("appraised under", named),
            ("enclave wanted", kit.printable(verdict.enclave or "not said")),
            *zip(itertools.chain(["relaxations"], itertools.repeat("")), verdict.relaxations or ["none"], strict=False),
            ("platform", f"{platform}, {verdict.verified.chain.ca_kind.value} CA"),
            ("root", f"{verdict.verified.anchor.digest} ({'SIMULATED' if verdict.simulated else 'Intel'})"),
            ("collateral", f"TCB evaluation data number {verdict.tcb_evaluation_data_number}"),
            ("verified at", zulu(verdict.verified.at)),
        ]
    )


def _dates(verdict: "QuoteVerdict") -> str:
    first = verdict.earliest_expiration
    rows = [("VALID", "FROM", "TO", "")]
    for what, (start, end) in verdict.dates.items():
        rows.append((what, zulu(start), zulu(end), "<- first to expire" if end == first else ""))
    return kit.table(rows)
