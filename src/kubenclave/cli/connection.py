# SPDX-License-Identifier: Apache-2.0
"""How commands come to a cluster: the options that say which, and the client while they use it."""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from kubenclave.cluster.api_lightkube import LightkubeApi

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


def ask(
    kubeconfig: str | None, context: str | None, question: "Callable[[LightkubeApi], Awaitable[_Result]]"
) -> _Result:
    """Put a question to the cluster and return the answer. Raises UsageError where no cluster is configured."""
    import asyncio

    from kubenclave.cluster.api_lightkube import LightkubeApi

    async def asked() -> _Result:
        async with LightkubeApi.connect(kubeconfig=kubeconfig, context=context) as api:
            return await question(api)

    return asyncio.run(asked())


def run_daemon(
    kubeconfig: str | None, context: str | None, daemon: "Callable[[LightkubeApi], Awaitable[None]]"
) -> None:
    """Run a daemon of the cluster, which itself ends on SIGINT and SIGTERM. Raises UsageError as ``ask`` does."""
    from kubenclave.platform import signals

    with signals.held():
        ask(kubeconfig, context, daemon)
