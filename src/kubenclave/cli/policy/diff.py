# SPDX-License-Identifier: Apache-2.0
"""``kubenclave policy diff``: what a second policy would change, on evidence that was kept or on one quote."""

import datetime as dt
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from kubenclave.cli import evidence, kit, parameters
from kubenclave.cli.origin import Origin
from kubenclave.cli.policy import load
from kubenclave.cli.state import opened
from kubenclave.errors import UsageError

if TYPE_CHECKING:
    from kubenclave.services.attestation.evidence_store import StoredEvidence
    from kubenclave.services.attestation.policies.compare import Difference

_OTHER_ROOT: Final = "pck.untrusted-root"
_SHOWN: Final = 20  # pieces in text; JSON has all


@click.command(
    "diff",
    short_help="Show what another policy would change.",
    epilog=kit.examples(
        "kubenclave policy diff today.azurepolicy proposed.azurepolicy --evidence /var/lib/kubenclave/attestation",
        "kubenclave policy diff old.toml new.toml --quote quote.bin --collateral collateral.json --at now",
        "kubenclave policy diff a.toml b.azurepolicy --evidence DIR --output json | jq .changes",
    ),
)
@click.argument("first", type=evidence.FILE)
@click.argument("second", type=evidence.FILE)
@click.option(
    "--evidence",
    "state",
    type=click.Path(),
    metavar="DIR",
    help="State directory of an attestation service that keeps evidence.",
)
@click.option(
    "--quote", "quote_path", type=evidence.FILE, metavar="FILE", help="One quote instead, judged --at a time."
)
@click.option("--collateral", "collateral_path", type=evidence.FILE, metavar="FILE", help="Its collateral.")
@evidence.at_option(now_by_default=True)
@evidence.root_option
@evidence.pck_chain_option
@click.option("--count", type=click.IntRange(1, 100_000), default=1000, show_default=True, help="Latest pieces to try.")
@click.option(
    "--dangerously-allow-debug", is_flag=True, help="Let enclaves reach the policies whose memory hosts read."
)
@click.option(
    "--dangerously-accept-expired-collateral",
    "grace",
    type=parameters.Duration(),
    default="0d",
    metavar="DURATION",
    help="As the service was told, as in 7d or 12h.",
)
@kit.output_option
def command(
    *,
    first: str,
    second: str,
    state: str | None,
    quote_path: str | None,
    collateral_path: str | None,
    at: dt.datetime,
    root_path: str | None,
    pck_chain_path: str | None,
    count: int,
    dangerously_allow_debug: bool,
    grace: dt.timedelta,
) -> None:
    """Try the policies FIRST (in force) and SECOND (proposed) on the same evidence and show where they differ.

    Kept evidence is judged as of the time it was judged first. Exit code 0 when nothing changes, 1 when something does.
    """
    from kubenclave.services.attestation.policies.compare import Change, Terms, diff

    policies = load.load(first, None), load.load(second, None)
    if (state is None) == (quote_path is None) or (quote_path is None) != (collateral_path is None):
        raise UsageError(
            "say on which evidence", code="cli.misuse", hint="--evidence DIR, or --quote with --collateral"
        )
    root = None if root_path is None else evidence.load_root(root_path)
    pieces = _kept(Path(state), count) if state is not None else [_one(quote_path, collateral_path, pck_chain_path, at)]
    terms = Terms(
        root=root, dangerously_allow_debug=dangerously_allow_debug, dangerously_accept_expired_collateral=grace
    )
    difference = diff(*policies, pieces, terms)
    if pieces and all(_OTHER_ROOT in outcome.codes for outcome in difference.first.outcomes):
        raise UsageError("the evidence is of another root", code="cli.misuse", hint="give its certificate with --root")
    kit.emit(difference.as_dict(), _text(difference))
    if any(change is not Change.SAME for change in difference.changes):
        kit.finish(kit.ExitCode.REFUSED)


def _one(quote: str | None, collateral: str | None, pck_chain: str | None, at: dt.datetime) -> "StoredEvidence":
    from kubenclave.services.attestation.evidence_store import StoredEvidence

    assert quote is not None
    assert collateral is not None
    given = evidence.load_evidence(quote, Origin(file=collateral), None, pck_chain)
    return StoredEvidence(
        tee_type="quote", quote=given.quote, pck_chain=given.pck_chain, collateral=given.collateral, at=at
    )


def _kept(state: Path, count: int) -> "list[StoredEvidence]":
    """Read what a service keeps; the service may be running. Raises UsageError where there is no such directory."""
    from kubenclave.services.attestation.evidence_store import EvidenceStore
    from kubenclave.services.attestation.service import DATABASE

    with opened(state, DATABASE) as database:
        return EvidenceStore(database, lambda: dt.datetime.now(dt.UTC)).latest(count=count)


def _text(difference: "Difference") -> str:
    from kubenclave.services.attestation.policies.compare import Change

    document = difference.as_dict()
    rows = [("evidence", str(document["evidence"]))]
    rows += [(name, str(number)) for name, number in document["changes"].items()]
    changed = [piece for piece in document["pieces"] if piece["change"] != Change.SAME.value]
    lines = [kit.table(rows), *map(_piece, changed[:_SHOWN])]
    if len(changed) > _SHOWN:
        lines.append(f"and {len(changed) - _SHOWN} more; --output json has all")
    return "\n".join(lines if document["evidence"] else ["no evidence is kept there", *lines])


def _piece(piece: dict[str, Any]) -> str:
    head = (
        f"{click.style(piece['change'].upper(), bold=True)}  {piece['digest'][:16]}  {piece['tee_type']}  {piece['at']}"
    )
    sides = [(f"  {side}", kit.printable(_side(piece[side]))) for side in ("first", "second")]
    return f"{head}\n{kit.table(sides)}"


def _side(outcome: dict[str, Any]) -> str:
    if not outcome["accepted"]:
        return "refuses: " + "; ".join(outcome["reasons"])
    issued = ", ".join(f"{name} = {value}" for name, value in outcome["issued"].items())
    return f"accepts, issues {issued}" if issued else "accepts"
