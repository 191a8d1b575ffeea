# SPDX-License-Identifier: Apache-2.0
"""Options by which a site says its rules of admission: the same for policies and webhook."""

import functools
from collections.abc import Callable
from typing import Any

import click

from kubenclave.cluster.admission import EnclaveWithoutEpc, Grants, Rules, Site
from kubenclave.sgx.epc import EpcMode


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


def site_options(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options that say what a site decided, and hand that to it as ``site``."""

    @click.option(
        "--epc-mode",
        type=click.Choice([mode.value for mode in EpcMode]),
        default=EpcMode.CAPACITY.value,
        show_default=True,
        help="How the cluster counts EPC.",
    )
    @click.option(
        "--enclave-without-epc",
        type=click.Choice([rule.value for rule in EnclaveWithoutEpc]),
        default=EnclaveWithoutEpc.REFUSE.value,
        show_default=True,
        help="What becomes of devices without EPC.",
    )
    @click.option("--allow", type=Account(), multiple=True, help="Who may have the provisioning key; repeatable.")
    @functools.wraps(function)
    def command(*, epc_mode: str, enclave_without_epc: str, allow: tuple[tuple[str, str], ...], **others: Any) -> None:
        rules = Rules(EpcMode(epc_mode), EnclaveWithoutEpc(enclave_without_epc))
        function(site=Site(rules, Grants(frozenset(allow))), **others)

    return command
