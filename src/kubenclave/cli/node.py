# SPDX-License-Identifier: Apache-2.0
"""``kubenclave node``: the daemons of a node, which read their own arguments so that they need no more than that."""

from typing import Final

import click

from kubenclave.cli import kit

_PASS_ON: Final = {"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []}


@click.group(
    "node",
    epilog=kit.examples(
        "kubenclave node agent --plugin-dir /var/lib/kubelet/device-plugins --status-socket /run/kubenclave/agent.sock",
        "kubenclave node quote-helper --socket /var/run/aesmd/aesm.socket --backend dcap",
    ),
)
def command() -> None:
    """Run the daemons of a node in the foreground."""


@command.command("agent", context_settings=_PASS_ON, add_help_option=False)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def agent(arguments: tuple[str, ...]) -> None:
    """Publish EPC and device nodes to the kubelet (--help for its options)."""
    from kubenclave.node import agent as daemon

    kit.finish(daemon.main(list(arguments)))


@command.command("quote-helper", context_settings=_PASS_ON, add_help_option=False)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def quote_helper(arguments: tuple[str, ...]) -> None:
    """Serve quotes on the AESM socket (--help for its options)."""
    from kubenclave.node import helper as daemon

    kit.finish(daemon.main(list(arguments)))
