# SPDX-License-Identifier: Apache-2.0
"""How ``doctor cluster`` and ``doctor pod`` show what they found."""

from collections.abc import Mapping, Sequence
from typing import Final, NoReturn

import click

from kubenclave.cli import kit
from kubenclave.cluster.diagnose.model import Diagnosis, State, worst

_COLOURS: Final[Mapping[State, str]] = {
    State.OK: "green",
    State.WARNING: "yellow",
    State.PROBLEM: "red",
    State.UNKNOWN: "yellow",
}


def conclude(findings: Sequence[Diagnosis]) -> NoReturn:
    """Show the findings and end: exit code 5 when there is a problem."""
    first = worst(findings)
    document = {
        "first_problem": None if first is None else first.as_dict(),
        "findings": [finding.as_dict() for finding in findings],
    }
    kit.emit(document, _text(findings, first))
    kit.finish(kit.ExitCode.GOOD if first is None else kit.ExitCode.PLATFORM)


def _text(findings: Sequence[Diagnosis], first: Diagnosis | None) -> str:
    rows = []
    layer = None
    for one in findings:
        shown = "" if one.layer is layer else one.layer.value
        layer = one.layer
        mark = click.style(one.state.value, fg=_COLOURS[one.state])
        code = f" [{one.code}]" if one.code else ""
        rows.append((shown, mark, kit.printable(one.subject), f"{kit.printable(one.found)}{code}"))
    lines = [kit.table(rows), ""]
    steps = {one.code: one for one in reversed(findings) if one.next_step and one is not first}
    lines += [f"{one.subject}: {kit.printable(one.next_step)}" for one in reversed(steps.values())]
    if first is None:
        lines.append("nothing is missing" if not steps else "no problem; see above for what to watch")
    else:
        lines.append(f"first problem: {kit.printable(first.subject)}: {kit.printable(first.found)} [{first.code}]")
        lines.append(f"next step: {kit.printable(first.next_step)}")
    return "\n".join(lines)
