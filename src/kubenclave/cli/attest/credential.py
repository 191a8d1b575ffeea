# SPDX-License-Identifier: Apache-2.0
"""``kubenclave attest credential``: tokens and client certificates of a service, in its state directory."""

import datetime as dt
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kubenclave.cli import evidence, kit
from kubenclave.cli.parameters import Duration
from kubenclave.cli.state import ATTESTATION, opened, state_option

if TYPE_CHECKING:
    from kubenclave.services.web.credentials import Credentials

_ROLES = ("attest", "register", "collateral-admin", "policy-admin", "key-admin", "release-admin")


@click.group(
    "credential",
    epilog=kit.examples(
        "kubenclave attest credential create ops --role policy-admin --expires 90d",
        "kubenclave attest credential trust ci --role attest --certificate client.crt",
        "kubenclave attest credential list",
        "kubenclave attest credential revoke ops",
    ),
)
def command() -> None:
    """Say who may do what. Changes count at once, also while the service runs."""


def _place(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command the option that says whose credentials are meant."""
    state = state_option(ATTESTATION, "State directory of the service, attestation or collateral.")
    return state(kit.output_option(function))


def _terms(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of a new credential."""
    role = click.option(
        "--role", "roles", type=click.Choice(_ROLES), multiple=True, required=True, help="What it allows; repeatable."
    )
    expires = click.option("--expires", type=Duration(), metavar="DURATION", help="Life (default: until revoked).")
    return role(expires(function))


@command.command("create", epilog=kit.examples("kubenclave attest credential create ops --role policy-admin"))
@click.argument("name")
@_terms
@_place
def create(*, name: str, roles: tuple[str, ...], expires: dt.timedelta | None, **place: Any) -> None:
    """Make a token and print it: nobody can ever see it again."""
    from kubenclave.services.web.credentials import Role

    with _credentials(**place) as credentials:
        token = credentials.create(name, map(Role, roles), expires=_end(expires))
    kit.emit({"name": name, "roles": list(roles), "token": token}, token)


@command.command(
    "trust", epilog=kit.examples("kubenclave attest credential trust ci --role attest --certificate c.crt")
)
@click.argument("name")
@click.option("--certificate", type=click.Path(allow_dash=True), required=True, metavar="FILE", help="PEM or DER.")
@_terms
@_place
def trust(*, name: str, certificate: str, roles: tuple[str, ...], expires: dt.timedelta | None, **place: Any) -> None:
    """Know a client certificate by its key; the service needs --client-ca with the CA that issued it."""
    from kubenclave.services.web.credentials import Role, spki_digest

    der = _der(kit.read_input(certificate, what="certificate", limit=1 << 16))
    with _credentials(**place) as credentials:
        credentials.trust(name, map(Role, roles), der, expires=_end(expires))
    kit.emit({"name": name, "roles": list(roles), "spki_sha256": spki_digest(der).hex()}, f"{name} is known")


@command.command("list", epilog=kit.examples("kubenclave attest credential list --output json"))
@_place
def show(**place: Any) -> None:
    """Show all credentials, without what they are checked against."""
    with _credentials(**place) as credentials:
        found = credentials.list()
    documents: list[dict[str, Any]] = [
        {
            "name": each.name,
            "kind": each.kind.value,
            "roles": sorted(each.roles),
            "created": evidence.zulu(each.created),
            "expires": None if each.expires is None else evidence.zulu(each.expires),
        }
        for each in found
    ]
    rows = [("NAME", "KIND", "ROLES", "UNTIL")]
    rows += [(d["name"], d["kind"], " ".join(d["roles"]), d["expires"] or "revoked") for d in documents]
    kit.emit({"credentials": documents}, kit.table(rows) if documents else "no credentials")


@command.command("revoke", epilog=kit.examples("kubenclave attest credential revoke ops"))
@click.argument("name")
@_place
def revoke(*, name: str, **place: Any) -> None:
    """Forget a credential, at once and for every worker."""
    with _credentials(**place) as credentials:
        credentials.revoke(name)
    kit.emit({"revoked": name}, f"{name} is revoked")


@command.command("new", epilog=kit.examples("kubenclave attest credential new"))
@kit.output_option
def new() -> None:
    """Print a token that no service knows yet, for a file of --credentials."""
    from kubenclave.services.web.credentials import new_token

    token = new_token()
    kit.emit({"token": token}, token)


@contextmanager
def _credentials(*, state: Path) -> "Iterator[Credentials]":
    """Open the credentials of a service that has run: a collateral service by itself keeps its own."""
    from kubenclave.services.attestation import service as attestation
    from kubenclave.services.collateral import service as collateral
    from kubenclave.services.web.credentials import Credentials

    with opened(state, attestation.DATABASE, collateral.DATABASE) as database:
        yield Credentials(database, lambda: dt.datetime.now(dt.UTC))


def _end(life: dt.timedelta | None) -> dt.datetime | None:
    return None if life is None else dt.datetime.now(dt.UTC) + life


def _der(content: bytes) -> bytes:
    """Return a certificate in DER, whichever form its file has; what is none is told by whoever reads it."""
    if b"-----BEGIN" not in content:
        return content
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    try:
        return x509.load_pem_x509_certificate(content).public_bytes(Encoding.DER)
    except ValueError:
        return b""
