# SPDX-License-Identifier: Apache-2.0
"""``kubenclave completion``: the script that makes a shell complete our commands."""

from typing import Final

import click
from click.shell_completion import get_completion_class

from kubenclave.cli import kit

SHELLS: Final = ("bash", "zsh", "fish")


@click.command(
    "completion",
    epilog=kit.examples(
        'eval "$(kubenclave completion bash)"     in ~/.bashrc',
        'eval "$(kubenclave completion zsh)"      in ~/.zshrc',
        "kubenclave completion fish > ~/.config/fish/completions/kubenclave.fish",
    ),
)
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def command(context: click.Context, shell: str) -> None:
    """Print the completion script of SHELL."""
    root = context.find_root()
    maker = get_completion_class(shell)
    assert maker is not None, "click knows the three shells"
    name = root.info_name or "kubenclave"
    click.echo(maker(root.command, {}, name, f"_{name.upper()}_COMPLETE").source())
