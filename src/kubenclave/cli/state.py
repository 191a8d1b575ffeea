# SPDX-License-Identifier: Apache-2.0
"""State directories of services on this machine, for commands that work on them beside the running service."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from kubenclave.errors import UsageError

if TYPE_CHECKING:
    from kubenclave.services.database import Database

ATTESTATION: Final = "kubenclave-attestation"
"""Where ``attest serve`` keeps its state, unless it is told otherwise."""

COLLATERAL: Final = "kubenclave-collateral"
"""The same of ``collateral serve``."""

_Function = TypeVar("_Function", bound=Callable[..., Any])


def state_option(default: str | None, text: str) -> Callable[[_Function], _Function]:
    """Give a command ``--state``."""
    return click.option(
        "--state",
        type=click.Path(path_type=Path),
        default=default,
        show_default=default is not None,
        metavar="DIR",
        help=text,
    )


@contextmanager
def opened(state: Path, *databases: str) -> "Iterator[Database]":
    """Open the database of a service that has run, the first there is of these; none is begun from here.

    Raises UsageError ``cli.input`` where there is none, PlatformError (codes ``database.*``).
    """
    from kubenclave.services.database import Database

    path = next((state / name for name in databases if (state / name).is_file()), None)
    if path is None:
        raise UsageError(
            "no service has run with this state directory",
            code="cli.input",
            field=str(state),
            expected=" or ".join(databases),
            hint="give the directory that the service was started with",
        )
    database = Database(path)
    try:
        yield database
    finally:
        database.close()
