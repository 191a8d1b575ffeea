# SPDX-License-Identifier: Apache-2.0
"""``kubenclave policy``: read policies as the verifier reads them, try them, compare them."""

from typing import Final

import click

from kubenclave.cli import kit
from kubenclave.cli.lazy import LazyGroup

COMMANDS: Final = {
    "check": "Show what a policy comes to.",
    "test": "Try a policy on a quote.",
    "diff": "Show what another policy would change.",
}


@click.group(
    "policy",
    cls=LazyGroup,
    package=__name__,
    table=COMMANDS,
    epilog=kit.examples(
        "kubenclave policy check policy.toml",
        "kubenclave policy test policy.toml --quote quote.bin --collateral collateral.json --at now",
        "kubenclave policy diff today.azurepolicy proposed.azurepolicy --evidence /var/lib/kubenclave/attest",
    ),
)
def command() -> None:
    """Check, try and compare appraisal policies: typed documents, and texts in Azure's grammar."""
