# SPDX-License-Identifier: Apache-2.0
"""``kubenclave collateral fetch``: the collateral of a quote, or of a family of platforms, into a file."""

import asyncio
import datetime as dt
from typing import TYPE_CHECKING, Any

import click

from kubenclave.cli import evidence, kit
from kubenclave.cli.trust import Trust, trust_options
from kubenclave.errors import UsageError

if TYPE_CHECKING:
    from kubenclave.dcap.collateral import Collateral
    from kubenclave.services.collateral.assemble import Needs


@click.command(
    "fetch",
    epilog=kit.examples(
        "kubenclave collateral fetch --quote quote.bin --out collateral.json",
        "kubenclave collateral fetch --fmspc 00906ed50000 --ca processor --update early --out early.json",
        "kubenclave collateral fetch --quote q.bin --source pccs=https://localhost:8081 --out c.json",
        "kubenclave collateral fetch --quote q.bin --simulated-state DIR --out c.json      SIMULATED",
    ),
)
@click.option("--quote", "quote_path", type=evidence.FILE, metavar="FILE", help="Whose collateral: what it needs.")
@evidence.pck_chain_option
@click.option("--fmspc", metavar="HEX", help="Whose collateral: a family of platforms, 12 hex digits.")
@click.option("--ca", type=click.Choice(["processor", "platform"]), help="Which CA certifies them; with --fmspc.")
@click.option("--tee", type=click.Choice(["sgx", "tdx"]), default="sgx", show_default=True, help="With --fmspc.")
@click.option(
    "--update",
    default="standard",
    show_default=True,
    metavar="GENERATION",
    help="standard, early, or a TCB evaluation data number.",
)
@trust_options
@click.option("--out", type=evidence.FILE, default="-", metavar="FILE", help="Where it goes (default: stdout).")
@kit.output_option
def command(*, quote_path: str | None, update: str, trust: Trust, out: str, **whose: Any) -> None:
    """Fetch collateral into one JSON object, the form that 'quote verify --collateral' takes.

    All of it is verified before it is written. Exit code 1 when it does not hold, 4 when no source answers.
    """
    from kubenclave.wire import pcs

    number = update if update.isdecimal() else None
    generation = pcs.parse_update(None if number else update, number)
    needs = _needs(quote_path, **whose)
    collateral = asyncio.run(_fetch(trust, needs, generation))
    kit.write_output(out, collateral.to_json().encode() + b"\n", what="collateral")
    if out == "-":
        return
    document = {
        "out": out,
        "tee": needs.tee.value,
        "fmspc": needs.fmspc,
        "ca": needs.ca,
        "update": generation,
        "digest": collateral.digest.hex(),
    }
    kit.emit(document, f"collateral of {needs.tee.upper()} family {needs.fmspc} ({needs.ca} CA) in {out}")


def _needs(
    quote_path: str | None, *, pck_chain_path: str | None, fmspc: str | None, ca: str | None, tee: str
) -> "Needs":
    """Return what to fetch. Raises UsageError unless a quote or a family is named."""
    from kubenclave.services.collateral.assemble import Needs, needs_of
    from kubenclave.services.collateral.items import Tee
    from kubenclave.wire import pcs

    if (quote_path is None) is (fmspc is None) or (fmspc is None) is not (ca is None):
        raise UsageError(
            "say whose collateral", code="cli.misuse", hint="--quote FILE, or --fmspc HEX with --ca processor|platform"
        )
    if quote_path is not None:
        chain = None if pck_chain_path is None else kit.read_input(pck_chain_path, what="PCK certificate chain")
        return needs_of(kit.read_input(quote_path, what="quote"), chain)
    return Needs(Tee(tee), pcs.parse_fmspc(fmspc or ""), ca or "")


async def _fetch(trust: Trust, needs: "Needs", update: str) -> "Collateral":
    from kubenclave.services.collateral.assemble import collateral_for
    from kubenclave.services.collateral.direct import Direct, verified_under

    anchor = evidence.load_anchor(trust.root)
    direct = Direct(trust.make(), verified_under(anchor, dt.datetime.now(dt.UTC)))
    try:
        return await collateral_for(direct.get, tee=needs.tee, fmspc=needs.fmspc, ca=needs.ca, update=update)
    finally:
        await direct.close()
