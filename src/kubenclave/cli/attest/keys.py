# SPDX-License-Identifier: Apache-2.0
"""``kubenclave attest keys``: the signing keys of a service, in its state directory; its workers need no restart."""

import datetime as dt
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from kubenclave.cli import evidence, kit
from kubenclave.cli.state import ATTESTATION, opened, state_option

if TYPE_CHECKING:
    from kubenclave.services.attestation.keys.store import KeyRing, SigningKey

_ALGORITHMS: Final = ("RS256", "ES256")
_state_option = state_option(ATTESTATION, "State directory of the service.")


@click.group(
    "keys",
    epilog=kit.examples(
        "kubenclave attest keys list --state /var/lib/kubenclave/attestation",
        "kubenclave attest keys rotate --state /var/lib/kubenclave/attestation --algorithm RS256",
    ),
)
def command() -> None:
    """Show, rotate, import and revoke the service's signing keys."""


@command.command("list", epilog=kit.examples("kubenclave attest keys list --state DIR --output json"))
@_state_option
@kit.output_option
def list_keys(state: Path) -> None:
    """Show all keys that ever were, and which of them are published and which sign."""
    with _key_ring(state) as ring:
        rows = [{"state": str(each), **_described(key)} for each, key in ring.states()]
    text = kit.table([("STATE", "ALGORITHM", "FROM", "KID"), *(_row(each) for each in rows)])
    kit.emit({"keys": rows}, text)


@command.command("rotate", epilog=kit.examples("kubenclave attest keys rotate --state DIR --algorithm ES256"))
@_state_option
@click.option("--algorithm", type=click.Choice(_ALGORITHMS), required=True, help="Which key is to have a successor.")
@kit.output_option
def rotate(state: Path, algorithm: str) -> None:
    """Make the next key. It is published at once and signs after 15 minutes, when clients have fetched it."""
    from kubenclave.services.attestation.keys.store import Algorithm

    with _key_ring(state) as ring:
        _show(ring.rotate(Algorithm(algorithm)))


@command.command("import", epilog=kit.examples("kubenclave attest keys import key.pem --state DIR"))
@click.argument("file", type=evidence.FILE)
@_state_option
@kit.output_option
def import_key(file: str, state: Path) -> None:
    """Take the private key in FILE (PEM, - for stdin) as the next key."""
    with _key_ring(state) as ring:
        _show(ring.import_pem(kit.read_input(file, what="private key")))


@command.command("revoke", epilog=kit.examples("kubenclave attest keys revoke KID --state DIR"))
@click.argument("kid")
@_state_option
@kit.output_option
def revoke(kid: str, state: Path) -> None:
    """Withdraw the key KID this instant: every token it signed stops counting, and another key signs."""
    with _key_ring(state) as ring:
        _show(ring.revoke(kid))


@contextmanager
def _key_ring(state: Path) -> "Iterator[KeyRing]":
    from kubenclave.services.attestation.keys.store import KeyRing
    from kubenclave.services.attestation.service import DATABASE

    with opened(state, DATABASE) as database:
        yield KeyRing.existing(database, lambda: dt.datetime.now(dt.UTC))


def _described(key: "SigningKey") -> dict[str, Any]:
    return {**key.as_dict(), "file": key.file}


def _row(described: dict[str, Any]) -> tuple[str, ...]:
    return tuple(str(described[name]) for name in ("state", "algorithm", "active_from", "kid"))


def _show(key: "SigningKey") -> None:
    described = _described(key)
    kit.emit({"key": described}, f"{described['kid']} signs from {described['active_from']}")
