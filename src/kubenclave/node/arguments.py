# SPDX-License-Identifier: Apache-2.0
"""Command lines of the node's daemons, read with the standard library so that a node carries no more than that."""

import argparse
from collections.abc import Callable
from typing import Final

_WIDTH: Final = 110


def new_parser(daemon: str, description: str, epilog: str) -> argparse.ArgumentParser:
    """Return a parser for ``kubenclave node <daemon>``; ``epilog`` keeps its lines. Options are not abbreviated."""
    return argparse.ArgumentParser(
        prog=f"kubenclave node {daemon}",
        description=description,
        epilog=epilog,
        formatter_class=_help,
        allow_abbrev=False,
    )


def whole_number(least: int) -> Callable[[str], int]:
    """Return what reads a number of at least ``least``; argparse reports its ArgumentTypeError."""

    def read(text: str) -> int:
        if not (text.isascii() and text.isdecimal()) or len(text) > 18 or (number := int(text)) < least:
            raise argparse.ArgumentTypeError(f"not a number of at least {least}: {text}")
        return number

    return read


def _help(prog: str) -> argparse.HelpFormatter:
    """Format help in a width of ours: to ask the terminal for its own loads seven modules that stay."""
    return argparse.RawDescriptionHelpFormatter(prog, width=_WIDTH)
