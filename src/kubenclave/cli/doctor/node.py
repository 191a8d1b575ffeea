# SPDX-License-Identifier: Apache-2.0
"""``kubenclave doctor node``: which layer of this machine is missing, and the next step."""

import os
from pathlib import Path
from typing import Any, Final

import click

from kubenclave.cli import kit
from kubenclave.local.examine import Examination, examine
from kubenclave.local.state import locate
from kubenclave.platform.base import LayerFinding, LayerState, first_missing

_COLOURS: Final = {LayerState.OK: "green", LayerState.MISSING: "red", LayerState.UNKNOWN: "yellow"}


@click.command(
    "node",
    epilog=kit.examples(
        "kubenclave doctor node",
        "kubenclave doctor node --state /tmp/kubenclave        what 'kubenclave up' runs there",
        "kubenclave doctor node --root /host                   from a container",
    ),
)
@click.option("--root", default="/", show_default=True, metavar="DIR", help="Where the node's file system is.")
@click.option("--state", metavar="DIR", help="The --state of 'kubenclave up'; it is asked where it runs.")
@kit.output_option
def command(root: str, state: str | None) -> None:
    """Examine this machine, layer by layer from the processor up.

    Exit code 5 when a layer is missing.
    """
    examination = examine(Path(root), locate(state, os.environ) if root == "/" else None)
    missing = first_missing(examination.findings)
    kit.emit(_document(examination, missing), _text(examination, missing))
    kit.finish(kit.ExitCode.GOOD if missing is None else kit.ExitCode.PLATFORM)


def _document(examination: Examination, missing: LayerFinding | None) -> dict[str, Any]:
    return {
        "simulated": examination.simulated,
        "through": examination.through,
        "first_missing": None if missing is None else missing.layer.value,
        "next_step": None if missing is None else missing.next_step,
        "layers": [
            {
                "layer": finding.layer.value,
                "state": finding.state.value,
                "found": finding.found,
                "next_step": finding.next_step,
            }
            for finding in examination.findings
        ],
    }


def _text(examination: Examination, missing: LayerFinding | None) -> str:
    title = f"{examination.through}{', SIMULATED' if examination.simulated else ''}"
    rows = [
        (finding.layer.value, click.style(finding.state.value, fg=_COLOURS[finding.state]), finding.found)
        for finding in examination.findings
    ]
    lines = [title, kit.table(rows)]
    lines += [
        f"{one.layer}: {one.next_step}"
        for one in examination.findings
        if one.next_step and one.state is not LayerState.MISSING
    ]
    if missing is None:
        lines.append("nothing is missing")
    else:
        lines.append(f"first missing layer: {missing.layer}")
        lines.append(f"next step: {missing.next_step}")
        if not examination.simulated:
            lines.append("without hardware: 'kubenclave up' runs a SIMULATED platform")
    return "\n".join(lines)
