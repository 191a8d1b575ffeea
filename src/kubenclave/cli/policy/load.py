# SPDX-License-Identifier: Apache-2.0
"""Policies from files, in either language; and what the commands have in common to show them."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from kubenclave.cli import evidence, kit
from kubenclave.errors import Finding, FormatError

if TYPE_CHECKING:
    from kubenclave.dcap.azurepolicy import AzurePolicy
    from kubenclave.dcap.policy import Policy

AZURE: Final = "azure"
KUBENCLAVE: Final = "kubenclave"
_AZURE_ENDINGS: Final = (".azurepolicy", ".txt")
_Function = TypeVar("_Function", bound=Callable[..., Any])


def format_option(function: _Function) -> _Function:
    """Give a command ``--format``."""
    return click.option(
        "--format",
        "form",
        type=click.Choice([KUBENCLAVE, AZURE]),
        help=f"Language of the policy; by default {AZURE} for {' and '.join(_AZURE_ENDINGS)}, else {KUBENCLAVE}.",
    )(function)


def form_of(path: str, form: str | None) -> str:
    """Return the language of a policy: what ``--format`` says, else what the file is called."""
    return form or (AZURE if path.endswith(_AZURE_ENDINGS) else KUBENCLAVE)


def load(path: str, form: str | None) -> "Policy | AzurePolicy":
    """Read a policy. Raises UsageError for a file, FormatError for its content."""
    if form_of(path, form) != AZURE:
        return evidence.load_policy(path)
    from kubenclave.dcap.azurepolicy import parse

    try:
        return parse(kit.read_input(path, what="policy").decode())
    except UnicodeDecodeError:
        raise FormatError("not a policy", code="azure-policy.syntax", expected="UTF-8", found="other bytes") from None


def refusal(name: str, findings: "tuple[Finding, ...]") -> str:
    """Return a refusal as text: by which policy, and every finding."""
    mark = click.style("REFUSED", fg="red", bold=True)
    count = f"{len(findings)} finding{'s' if len(findings) > 1 else ''}"
    return f"{mark}  by policy {kit.printable(name) or 'without a name'}: {count}\n{kit.finding_lines(findings)}"
