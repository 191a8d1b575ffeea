# SPDX-License-Identifier: Apache-2.0
"""``kubenclave attest policy``: which policy is in force at a service, and putting another one in force."""

from typing import Any

import click

from kubenclave.cli import evidence, kit
from kubenclave.cli.parameters import TEE_TYPE
from kubenclave.cli.policy import load
from kubenclave.cli.remote import Remote, remote_options

_tee_option = click.option("--tee-type", type=TEE_TYPE, default="SgxEnclave", show_default=True, help="Whose policy.")
_expected_option = click.option(
    "--expected-version", type=click.IntRange(min=0), help="Refuse when another version is in force."
)


@click.group(
    "policy",
    epilog=kit.examples(
        "kubenclave attest policy show --url https://attest.example",
        "kubenclave attest policy set policy.toml --url https://attest.example --token-file admin.token",
    ),
)
def command() -> None:
    """Show, set and reset the policies of a service; 'kubenclave policy' checks and compares them."""


@command.command(
    "show",
    epilog=kit.examples(
        "kubenclave attest policy show --url URL --tee-type TdxVm",
        "kubenclave attest policy show --url URL --version 3 --output json | jq -r .text",
    ),
)
@remote_options()
@_tee_option
@click.option("--version", type=click.IntRange(min=0), help="Another than that in force; 0 is the default.")
@kit.output_option
def show(*, remote: Remote, tee_type: str, version: int | None) -> None:
    """Show the policy in force, with its text."""
    place = _place(tee_type) + ("" if version is None else f"/versions/{version}")
    found = remote.get(place)
    text = "\n".join(kit.printable(line) for line in str(found["text"]).splitlines())
    kit.emit(found, f"{_rows([found])}\n\n{text}")


@command.command("history", epilog=kit.examples("kubenclave attest policy history --url URL"))
@remote_options()
@_tee_option
@kit.output_option
def history(*, remote: Remote, tee_type: str) -> None:
    """Show the latest versions, and who set them."""
    found = remote.get(f"{_place(tee_type)}/history")
    kit.emit(found, _rows(found["versions"]))


@command.command(
    "set",
    epilog=kit.examples(
        "kubenclave attest policy set policy.toml --url URL --token-file admin.token",
        "kubenclave attest policy set sgx.azurepolicy --url URL --token-file admin.token --expected-version 3",
    ),
)
@click.argument("file", type=evidence.FILE)
@remote_options()
@_tee_option
@load.format_option
@_expected_option
@kit.output_option
def set_policy(
    *,
    file: str,
    remote: Remote,
    tee_type: str,
    form: str | None,
    expected_version: int | None,
) -> None:
    """Put the policy in FILE (- for stdin) in force. It takes the role policy-admin."""
    from kubenclave.services.attestation.policies.store import PolicyFormat, read_policy

    text = kit.read_input(file, what="policy").decode("utf-8", "replace")
    language = load.form_of(file, form)
    read_policy(text, PolicyFormat(language))
    body = {"text": text, "format": language, **_expecting(expected_version)}
    made = remote.send("PUT", _place(tee_type), document=body)
    kit.emit(made, _rows([made]))


@command.command("reset", epilog=kit.examples("kubenclave attest policy reset --url URL --token-file admin.token"))
@remote_options()
@_tee_option
@_expected_option
@kit.output_option
def reset(*, remote: Remote, tee_type: str, expected_version: int | None) -> None:
    """Put the default in force again, which lets every genuine enclave through."""
    made = remote.send("POST", f"{_place(tee_type)}/reset", document=_expecting(expected_version))
    kit.emit(made, _rows([made]))


def _place(tee_type: str) -> str:
    return f"/v1/policies/{tee_type}"


def _expecting(version: int | None) -> dict[str, int]:
    return {} if version is None else {"expected_version": version}


def _rows(policies: list[dict[str, Any]]) -> str:
    rows: list[tuple[str, ...]] = [("FOR", "VERSION", "FORMAT", "NAME", "SINCE", "BY", "DIGEST")]
    rows += [
        tuple(
            kit.printable(str(each[name] if each[name] is not None else "-"))
            for name in ("tee_type", "version", "format", "name", "created", "by", "digest")
        )
        for each in policies
    ]
    return kit.table(rows)
