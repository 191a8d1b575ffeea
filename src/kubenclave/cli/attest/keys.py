# SPDX-License-Identifier: Apache-2.0
"""``kubenclave attest keys``: the signing keys of a service, in its state directory; its workers need no restart."""

import datetime as dt
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from kubenclave.cli import evidence, kit
from kubenclave.errors import UsageError

if TYPE_CHECKING:
    from kubenclave.services.attestation.keys import KeyRing, SigningKey

_ALGORITHMS: Final = ("RS256", "ES256")
_Function = TypeVar("_Function", bound=Callable[..., Any])


def _state_option(function: _Function) -> _Function:
    return click.option(
        "--state",
        type=click.Path(path_type=Path),
        required=True,
        metavar="FOLDER",
        help="State directory of the service, with attestation.db in it.",
    )(function)


@click.group(
    "keys",
    epilog=kit.examples(
        "kubenclave attest keys list --state /var/lib/kubenclave/attest",
        "kubenclave attest keys rotate --state /var/lib/kubenclave/attest --algorithm RS256",
    ),
)
def command() -> None:
    """Show, rotate, import and revoke the service's signing keys."""


@command.command("list", epilog=kit.examples("kubenclave attest keys list --state FOLDER --output json"))
@_state_option
@kit.output_option
def list_keys(state: Path) -> None:
    """Show all keys that ever were, and which of them are published and which sign."""
    with _opened(state) as ring:
        rows = [{"state": str(each), **_described(key)} for each, key in ring.states()]
    text = kit.table([("STATE", "ALGORITHM", "FROM", "KID"), *(_row(each) for each in rows)])
    kit.emit({"keys": rows}, text)


@command.command("rotate", epilog=kit.examples("kubenclave attest keys rotate --state FOLDER --algorithm ES256"))
@_state_option
@click.option("--algorithm", type=click.Choice(_ALGORITHMS), required=True, help="Which key is to have a successor.")
@kit.output_option
def rotate(state: Path, algorithm: str) -> None:
    """Make the next key. It is published at once and signs after 15 minutes, when clients have fetched it."""
    from kubenclave.services.attestation.keys import Algorithm

    with _opened(state) as ring:
        _show(ring.rotate(Algorithm(algorithm)))


@command.command("import", epilog=kit.examples("kubenclave attest keys import key.pem --state FOLDER"))
@click.argument("file", type=evidence.FILE)
@_state_option
@kit.output_option
def import_key(file: str, state: Path) -> None:
    """Take the private key in FILE (PEM, - for stdin) as the next key."""
    with _opened(state) as ring:
        _show(ring.import_pem(kit.read_input(file, what="private key")))


@command.command("revoke", epilog=kit.examples("kubenclave attest keys revoke KID --state FOLDER"))
@click.argument("kid")
@_state_option
@kit.output_option
def revoke(kid: str, state: Path) -> None:
    """Withdraw the key KID this instant: every token it signed stops counting, and another key signs."""
    with _opened(state) as ring:
        _show(ring.revoke(kid))


@contextmanager
def _opened(state: Path) -> "Iterator[KeyRing]":
    """Open the key ring of a service that has run; one is never begun from here."""
    from kubenclave.services.attestation.keys import KeyRing
    from kubenclave.services.database import Database

    path = state / "attestation.db"
    if not path.is_file():
        raise UsageError(
            "no attestation service has run with this state directory",
            code="cli.input",
            field=str(path),
            hint="kubenclave attest serve makes it",
        )
    database = Database(path)
    try:
        yield KeyRing.existing(database, lambda: dt.datetime.now(dt.UTC))
    finally:
        database.close()


def _described(key: "SigningKey") -> dict[str, Any]:
    from kubenclave.dcap.describe import zulu

    return {
        "kid": key.kid,
        "algorithm": str(key.algorithm),
        "created": zulu(key.created),
        "active_from": zulu(key.active_from),
        "revoked": None if key.revoked is None else zulu(key.revoked),
        "file": key.file,
    }


def _row(described: dict[str, Any]) -> tuple[str, ...]:
    return tuple(str(described[name]) for name in ("state", "algorithm", "active_from", "kid"))


def _show(key: "SigningKey") -> None:
    described = _described(key)
    kit.emit({"key": described}, f"{described['kid']} signs from {described['active_from']}")
