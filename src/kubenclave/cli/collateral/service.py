# SPDX-License-Identifier: Apache-2.0
"""The option that names a collateral service."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

_Function = TypeVar("_Function", bound=Callable[..., Any])


def url_option(function: _Function) -> _Function:
    """Give a command ``--url``."""
    return click.option("--url", required=True, metavar="URL", help="The service, as https://collateral.example:8081.")(
        function
    )
