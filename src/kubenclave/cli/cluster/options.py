# SPDX-License-Identifier: Apache-2.0
"""Options by which a site says its rules of admission: the same for policies and webhook."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

from kubenclave.cluster.admission import EnclaveWithoutEpc
from kubenclave.sgx.epc import EpcMode

_Function = TypeVar("_Function", bound=Callable[..., Any])


class Account(click.ParamType[tuple[str, str]]):
    """A service account as ``NAMESPACE/NAME``."""

    name = "NAMESPACE/ACCOUNT"

    def convert(
        self, value: str | tuple[str, str], param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        """Return the pair; fails as click wants it."""
        if isinstance(value, tuple):
            return value
        namespace, _, account = value.partition("/")
        if not namespace or not account or "/" in account:
            self.fail(f"{value!r} is no NAMESPACE/ACCOUNT", param, ctx)
        return namespace, account


def site_options(function: _Function) -> _Function:
    """Add ``epc_mode``, ``enclave_without_epc`` and ``allow`` (pairs of namespace and account) to a command."""
    options = (
        click.option(
            "--epc-mode",
            type=click.Choice([mode.value for mode in EpcMode]),
            callback=lambda _context, _option, value: EpcMode(value),
            default=EpcMode.CAPACITY.value,
            show_default=True,
            help="How the cluster counts EPC.",
        ),
        click.option(
            "--enclave-without-epc",
            type=click.Choice([rule.value for rule in EnclaveWithoutEpc]),
            callback=lambda _context, _option, value: EnclaveWithoutEpc(value),
            default=EnclaveWithoutEpc.REFUSE.value,
            show_default=True,
            help="What becomes of devices without EPC.",
        ),
        click.option("--allow", type=Account(), multiple=True, help="Who may have the provisioning key; repeatable."),
    )
    for option in reversed(options):
        function = option(function)
    return function
