# SPDX-License-Identifier: Apache-2.0
"""``kubenclave collateral``: show it, fetch it, serve it, carry it. Each command is a module of this folder."""

from typing import Final

import click

from kubenclave.cli import kit
from kubenclave.cli.lazy import LazyGroup

COMMANDS: Final = {
    "show": "Show who signed it, when it ends, what it is about.",
    "fetch": "Fetch the collateral of a quote or a family into a file.",
    "serve": "Run the collateral service.",
    "status": "Show what a collateral service holds, and why it is not newer.",
    "refresh": "Have a collateral service renew what it holds.",
    "forecast": "Show which platforms a TCB recovery will change, and when.",
    "bundle": "Carry collateral to a site without a way out, signed.",
}


@click.group(
    "collateral",
    cls=LazyGroup,
    package=__name__,
    table=COMMANDS,
    epilog=kit.examples(
        "kubenclave collateral show collateral.json",
        "kubenclave collateral fetch --quote quote.bin --out collateral.json",
        "kubenclave collateral serve --source intel",
        "kubenclave sim collateral --state DIR --out collateral.json --root root.der    of a SIMULATED platform",
    ),
)
def command() -> None:
    """Show and fetch collateral, serve it to others, carry it to sites without a way out."""
