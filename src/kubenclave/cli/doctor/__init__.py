# SPDX-License-Identifier: Apache-2.0
"""``kubenclave doctor``: what is missing, and the next step. Each command is a module of this folder."""

from typing import Final

import click

from kubenclave.cli import kit
from kubenclave.cli.lazy import LazyGroup

COMMANDS: Final = {
    "node": "Examine this machine, layer by layer from the processor up.",
    "cluster": "Examine a cluster, from the API server to its capacity.",
    "pod": "Find out why a pod is pending, has no device or gets no quote.",
}


@click.group(
    "doctor",
    cls=LazyGroup,
    package=__name__,
    table=COMMANDS,
    epilog=kit.examples(
        "kubenclave doctor node",
        "kubenclave doctor cluster",
        "kubenclave doctor pod web-0 -n shop --output json",
    ),
)
def command() -> None:
    """Find out what is missing between a processor, or a pod, and a quote."""
