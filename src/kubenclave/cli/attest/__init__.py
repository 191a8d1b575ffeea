# SPDX-License-Identifier: Apache-2.0
"""``kubenclave attest``: the attestation service and what it hands out. Each command is a module of this folder."""

from typing import Final

import click

from kubenclave.cli import kit
from kubenclave.cli.lazy import LazyGroup

COMMANDS: Final = {
    "serve": "Run the attestation service, alone or with the collateral service.",
    "credential": "Say who may do what.",
    "token": "Get, read and check tokens.",
    "policy": "Show, set and reset the policies of a service.",
    "log": "Check receipts, and watch that the log of verdicts only grows.",
    "secret": "Keep secrets for enclaves, and get them from within one.",
    "keys": "Show, rotate, import and revoke the service's signing keys.",
}


@click.group(
    "attest",
    cls=LazyGroup,
    package=__name__,
    table=COMMANDS,
    epilog=kit.examples(
        "kubenclave attest token get quote.bin --url https://attest.example --out token.jwt",
        "kubenclave attest token verify token.jwt --issuer https://attest.example",
    ),
)
def command() -> None:
    """Attestation service: tokens, signing keys, policies, the log of verdicts."""
