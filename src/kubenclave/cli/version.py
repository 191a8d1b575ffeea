# SPDX-License-Identifier: Apache-2.0
"""``kubenclave version``."""

import platform

import click

from kubenclave import __version__
from kubenclave.cli import kit


@click.command("version", epilog=kit.examples("kubenclave version", "kubenclave version --output json"))
@kit.output_option
def command() -> None:
    """Print the version of kubenclave and of the Python underneath."""
    python = platform.python_version()
    kit.emit({"kubenclave": __version__, "python": python}, f"kubenclave {__version__} (Python {python})")
