# SPDX-License-Identifier: Apache-2.0
"""``kubenclave collateral refresh``: have a collateral service renew what it holds, now."""

from typing import Any

import click

from kubenclave.cli import kit
from kubenclave.cli.remote import Remote, remote_options


@click.command(
    "refresh",
    epilog=kit.examples(
        "kubenclave collateral refresh --url https://collateral.example:8081 --token-file admin-token",
    ),
)
@remote_options()
@kit.output_option
def command(*, remote: Remote) -> None:
    """Have a collateral service ask its sources for everything that it holds; needs the role collateral-admin.

    Exit code 1 when some item could not be renewed: the copy that was held is served on.
    """
    outcome = remote.send("POST", "/v1/collateral/refresh")
    kit.emit(outcome, "\n".join([f"{outcome['renewed']} items renewed", *map(_line, outcome["failures"])]))
    kit.finish(kit.ExitCode.REFUSED if outcome["failures"] else kit.ExitCode.GOOD)


def _line(failure: dict[str, Any]) -> str:
    return kit.printable(f"{failure['item']} not renewed: {failure['message']} [{failure['code']}]")
