# SPDX-License-Identifier: Apache-2.0
"""EPC sizes as options."""

from typing import Any

import click

from kubenclave.errors import FormatError
from kubenclave.sgx.epc import PAGE_SIZE, Quantity


class EpcSize(click.ParamType[int]):
    """An amount of EPC such as 64Mi, at least a page."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the bytes; fails as click wants it."""
        if isinstance(value, int):
            return value
        try:
            size = Quantity.parse(value).whole()
        except FormatError as error:
            self.fail(f"{error}; give it as in 64Mi", param, ctx)
        if size < PAGE_SIZE:
            self.fail(f"{value} is less than a page: give 4Ki or more", param, ctx)
        return size
