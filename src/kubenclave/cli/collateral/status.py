# SPDX-License-Identifier: Apache-2.0
"""``kubenclave collateral status``: what a collateral service holds, how old it is, and why it is not newer."""

from typing import Any, Final

import click

from kubenclave.cli import kit
from kubenclave.cli.remote import Remote, remote_options

_COLOURS: Final = {"current": "green", "failing": "yellow", "unknown": "yellow", "expired": "red", "absent": "red"}


@click.command(
    "status",
    epilog=kit.examples(
        "kubenclave collateral status --url https://collateral.example:8081 --ca ca.pem",
        "kubenclave collateral status --url http://localhost:8081 --output json | jq '.items[].state'",
    ),
)
@remote_options()
@kit.output_option
def command(*, remote: Remote) -> None:
    """Show every item of a collateral service. Exit code 1 when something has ended, or could not be got.

    What no source knows is listed and does not count: anybody can ask for anything.
    """
    document = remote.get("/v1/collateral/status")
    kit.emit(document, _text(document))
    bad = [each for each in document["items"] if each["state"] in {"expired", "absent"}]
    kit.finish(kit.ExitCode.REFUSED if bad else kit.ExitCode.GOOD)


def _text(document: dict[str, Any]) -> str:
    rows: list[tuple[str, ...]] = [("ITEM", "STATE", "ISSUED", "NEXT UPDATE", "NUMBER", "SOURCE")]
    rows += [
        (
            kit.printable(each["item"]),
            click.style(each["state"], fg=_COLOURS.get(each["state"])),
            each["issued"] or "-",
            each["next_update"] or "-",
            str(each["tcb_evaluation_data_number"] or "-"),
            kit.printable(each["source"] or "-"),
        )
        for each in document["items"]
    ]
    lines = [f"root {document['root']}{' (SIMULATED)' if document['simulated'] else ''} at {document['at']}"]
    lines += ["", kit.table(rows)]
    lines += [_failure(each["item"], each) for each in document["items"] if each["failures"]]
    lines += [_failure(f"source {each['source']}", each) for each in document["sources"] if each["failures"]]
    queue = ", ".join(f"{count} {state}" for state, count in document["queue"].items())
    return "\n".join([*lines, "", f"registration queue: {queue}"])


def _failure(name: str, each: dict[str, Any]) -> str:
    error = each["last_error"]
    return kit.printable(
        f"{name}: {each['failures']} failures, last at {error['at']}: {error['message']} [{error['code']}]"
    )
