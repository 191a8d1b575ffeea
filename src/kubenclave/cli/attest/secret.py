# SPDX-License-Identifier: Apache-2.0
"""``kubenclave attest secret``: secrets for enclaves, kept by administrators and fetched from within an enclave."""

import base64
import contextlib
import datetime as dt
import functools
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote as quoted

import click

from kubenclave.cli import evidence, kit
from kubenclave.cli.parameters import TEE_TYPE
from kubenclave.cli.remote import Remote, remote_options
from kubenclave.cli.state import opened, state_option
from kubenclave.errors import UsageError

if TYPE_CHECKING:
    from kubenclave.services.attestation.release.secrets import SecretStore
    from kubenclave.services.database import Database

_MAX_SECRET: Final = 64 << 10


def _where(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command ``--state``, or ``--url`` with what belongs to it, as ``state`` or ``remote``: exactly one."""

    @functools.wraps(function)
    def command(*, state: Path | None, remote: Remote | None, **given: Any) -> None:
        if (state is None) == (remote is None):
            raise UsageError(
                "say which service: by its URL, or by its state directory",
                code="cli.misuse",
                hint="either --url URL or --state DIR",
            )
        function(state=state, remote=remote, **given)

    state = state_option(None, "State directory of a service, here.")
    return state(remote_options(required=False)(command))


@click.group(
    "secret",
    epilog=kit.examples(
        "kubenclave attest secret keygen secrets.key",
        "kubenclave attest secret put database password.txt --url https://attest.example --token-file admin.token",
        "kubenclave sim run -- kubenclave attest secret get database --url URL --out password.txt",
    ),
)
def command() -> None:
    """Keep secrets for enclaves that meet a policy, and get them from within an enclave."""


@command.command("keygen", epilog=kit.examples("kubenclave attest secret keygen /etc/kubenclave/secrets.key"))
@click.argument("file", type=click.Path(path_type=Path))
@kit.output_option
def keygen(file: Path) -> None:
    """Make the key that seals secrets, in a new FILE of mode 0600. Who loses it loses the secrets."""
    from kubenclave.services.attestation.release.secrets import make_key

    make_key(file)
    kit.emit({"file": str(file)}, f"key in {kit.printable(str(file))}")


@command.command(
    "put",
    epilog=kit.examples(
        "kubenclave attest secret put database password.txt --url URL --token-file admin.token",
        "kubenclave attest secret put database - --state DIR --key-file secrets.key --simulated < password.txt",
    ),
)
@click.argument("name")
@click.argument("file", type=evidence.FILE)
@_where
@click.option(
    "--key-file", type=click.Path(path_type=Path), metavar="FILE", help="With --state: key that seals secrets."
)
@click.option("--tee-type", type=TEE_TYPE, default="SgxEnclave", show_default=True, help="Whose policy.")
@click.option("--policy-version", type=click.IntRange(min=1), help="Refuse when another version is in force.")
@click.option("--simulated", is_flag=True, help="Fit for SIMULATED enclaves, which protect nothing.")
@kit.output_option
def put(
    *,
    name: str,
    file: str,
    state: Path | None,
    remote: Remote | None,
    key_file: Path | None,
    tee_type: str,
    policy_version: int | None,
    simulated: bool,
) -> None:
    """Store the content of FILE (- for stdin) as secret NAME, for enclaves that the policy now in force accepts."""
    value = kit.read_input(file, what="secret", limit=_MAX_SECRET)
    if remote is None:
        with _secrets(state, key_file) as (database, store):
            policy = _policy(database, tee_type, policy_version)
            by = f"uid {os.getuid()}, in the state directory"
            made = store.put(name, value, tee_type=tee_type, policy=policy, by=by, simulated=simulated).as_dict()
    else:
        body = {
            "value": base64.urlsafe_b64encode(value).decode(),
            "tee_type": tee_type,
            "simulated": simulated,
            **({} if policy_version is None else {"policy_version": policy_version}),
        }
        made = remote.send("PUT", f"/v1/secrets/{quoted(name, safe='')}", document=body)
    kit.emit(made, _rows([made]))


@command.command("list", epilog=kit.examples("kubenclave attest secret list --url URL --token-file admin.token"))
@_where
@kit.output_option
def list_secrets(*, state: Path | None, remote: Remote | None) -> None:
    """Show which secrets there are, never what they are."""
    if remote is None:
        with _secrets(state, None) as (_, store):
            found = [info.as_dict() for info in store.list()]
    else:
        found = remote.get("/v1/secrets")["secrets"]
    kit.emit({"secrets": found}, _rows(found))


@command.command("delete", epilog=kit.examples("kubenclave attest secret delete database --state DIR"))
@click.argument("name")
@_where
@kit.output_option
def delete(*, name: str, state: Path | None, remote: Remote | None) -> None:
    """Delete secret NAME; enclaves that have it keep it."""
    if remote is None:
        with _secrets(state, None) as (_, store):
            store.delete(name)
    else:
        remote.send("DELETE", f"/v1/secrets/{quoted(name, safe='')}")
    kit.emit({"deleted": name}, f"{kit.printable(name)} is deleted")


@command.command(
    "get",
    epilog=kit.examples(
        "kubenclave sim run -- kubenclave attest secret get database --url URL --out password.txt    SIMULATED enclave",
    ),
)
@click.argument("name")
@remote_options()
@click.option("--out", type=evidence.FILE, metavar="FILE", help="Where the secret goes (default: stdout).")
@click.option("--receipt-out", type=evidence.FILE, metavar="FILE", help="Where the answer with the receipt goes.")
@click.option("--aesm-socket", type=click.Path(path_type=Path), metavar="PATH", help="Another AESM socket.")
@kit.output_option
def get(
    *,
    name: str,
    remote: Remote,
    out: str | None,
    receipt_out: str | None,
    aesm_socket: Path | None,
) -> None:
    """Get secret NAME into the enclave around this command: Gramine's, or a SIMULATED one of 'kubenclave sim run'.

    A new key pair, a challenge of the service, a quote over both; the secret comes back encrypted to that key.
    """
    from kubenclave.cli.attest.ask import ask, quote_over

    answer, value = ask(remote, name, quote_over(aesm_socket))
    if receipt_out is not None:
        kit.write_output(receipt_out, json.dumps(answer, indent=2).encode(), what="receipt")
    document = {**{each: answer.get(each) for each in ("secret", "version", "simulated", "receipt")}, "out": out}
    if out is None and kit.wants_json():
        kit.emit({**document, "value": base64.b64encode(value).decode()}, "")
        return
    kit.write_output(out or "-", value, what="secret", private=True)
    if kit.wants_json():
        kit.emit(document, "")


@contextlib.contextmanager
def _secrets(state: Path | None, key_file: Path | None) -> "Iterator[tuple[Database, SecretStore]]":
    """Open the secrets of a service that has run; none is begun from here."""
    from kubenclave.services.attestation.release.secrets import SecretStore, load_key
    from kubenclave.services.attestation.service import DATABASE, is_simulated

    assert state is not None
    key = None if key_file is None else load_key(key_file)
    with opened(state, DATABASE) as database:
        yield database, SecretStore(database, _now, key=key, simulated=is_simulated(database))


def _policy(database: "Database", tee_type: str, version: int | None) -> bytes:
    from kubenclave.services.attestation.policies.store import PolicyStore
    from kubenclave.services.attestation.release.rules import policy_for

    return policy_for(PolicyStore(database, _now).current(tee_type), version).digest


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


def _rows(secrets: list[dict[str, Any]]) -> str:
    rows = [("NAME", "VERSION", "FOR", "POLICY", "CREATED", "BY", "")]
    for each in secrets:
        marks = "SIMULATED" if each["simulated"] else ""
        names = ("name", "version", "tee_type", "policy", "created", "by")
        name, version, tee_type, policy, created, by = (kit.printable(str(each[name])) for name in names)
        rows.append((name, version, tee_type, policy[:16], created, by, marks))
    return kit.table(rows)
