# SPDX-License-Identifier: Apache-2.0
"""Options that several commands of ``kubenclave sim`` share."""

import os
from pathlib import Path
from typing import Any

import click

from kubenclave.cli.parameters import EpcSize

state_option = click.option(
    "--state", metavar="DIR", help="Where the platform is kept (default: kubenclave/sim in the user's state folder)."
)


def state_directory(state: str | None) -> Path:
    """Return the directory that ``--state`` names, or the user's own."""
    from kubenclave.local.state import locate

    return locate(None, os.environ).platform if state is None else Path(state).absolute()


class EpcSizes(click.ParamType[tuple[int, ...]]):
    """EPC of each NUMA node, as in 64Mi,64Mi."""

    name = "sizes"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        """Return the bytes of each; fails as click wants it."""
        from kubenclave.wire.simcpu import MAX_SECTIONS

        if isinstance(value, tuple):
            return value
        sizes = value.split(",")
        if len(sizes) > MAX_SECTIONS:
            self.fail(f"{len(sizes)} NUMA nodes are more than {MAX_SECTIONS}", param, ctx)
        return tuple(EpcSize().convert(size, param, ctx) for size in sizes)
