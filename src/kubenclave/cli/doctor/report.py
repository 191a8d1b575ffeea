# SPDX-License-Identifier: Apache-2.0
"""What ``doctor cluster`` and ``doctor pod`` share: the way to the cluster, and how findings look."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, NoReturn, TypeVar

import click

from kubenclave.cli import kit
from kubenclave.cluster.api_lightkube import LightkubeApi
from kubenclave.cluster.diagnose.model import Diagnosis, State, worst

_COLOURS: Final[Mapping[State, str]] = {
    State.OK: "green",
    State.WARNING: "yellow",
    State.PROBLEM: "red",
    State.UNKNOWN: "yellow",
}

_Function = TypeVar("_Function", bound=Callable[..., Any])
_Result = TypeVar("_Result")


def connection_options(function: _Function) -> _Function:
    """Give a command ``--kubeconfig`` and ``--context``."""
    for option in (
        click.option("--context", metavar="NAME", help="Context of the kubeconfig (default: its current one)."),
        click.option(
            "--kubeconfig",
            type=click.Path(),
            metavar="FILE",
            help="How to reach the cluster (default: the one this runs in, else KUBECONFIG or ~/.kube/config).",
        ),
    ):
        function = option(function)
    return function


def ask(kubeconfig: str | None, context: str | None, question: Callable[[LightkubeApi], Awaitable[_Result]]) -> _Result:
    """Put a question to the cluster and return the answer."""

    async def asked() -> _Result:
        async with LightkubeApi.connect(kubeconfig=kubeconfig, context=context) as api:
            return await question(api)

    return asyncio.run(asked())


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
