# SPDX-License-Identifier: Apache-2.0
"""``kubenclave collateral forecast``: which platforms a TCB recovery will change, and when."""

from typing import Any

import click

from kubenclave.cli import kit
from kubenclave.cli.remote import Remote, remote_options


@click.command(
    "forecast",
    epilog=kit.examples(
        "kubenclave collateral forecast --url https://collateral.example:8081 --token-file admin-token",
        "kubenclave collateral forecast --url http://localhost:8081 --token-file t --output json | jq .platforms",
    ),
)
@remote_options()
@kit.output_option
def command(*, remote: Remote) -> None:
    """Show each platform that the service has seen: its verdict today, under early TCB info, and when that changes.

    Platforms are known from PCK certificates that were served and from evidence; their names are keyed hashes. The date
    is an estimate, and says how sure it is. Exit code 1 when some platform's verdict will change.
    """
    document = remote.get("/v1/collateral/forecast")
    kit.emit(document, _text(document))
    changes = any(each["changes"] for each in document["platforms"])
    kit.finish(kit.ExitCode.REFUSED if changes else kit.ExitCode.GOOD)


def _text(document: dict[str, Any]) -> str:
    rows: list[tuple[str, ...]] = [("PLATFORM", "FMSPC", "TODAY", "EARLY", "CHANGES", "WHY")]
    rows += [
        (
            each["platform"][:12],
            each["fmspc"],
            _status(each["today"]),
            _status(each["early"]),
            click.style(each["date"] or each["certainty"], fg="yellow") if each["changes"] else "no",
            kit.printable(each["reason"]),
        )
        for each in document["platforms"]
    ]
    lines = [kit.table(rows)] if document["platforms"] else ["no platform was seen yet"]
    lines += [kit.printable(f"{one['fmspc']}: {one['message']} [{one['code']}]") for one in document["failures"]]
    return "\n".join(lines)


def _status(outlook: dict[str, Any] | None) -> str:
    return "-" if outlook is None else outlook["status"] or "no level"
