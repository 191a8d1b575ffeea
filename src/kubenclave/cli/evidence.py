# SPDX-License-Identifier: Apache-2.0
"""Options and files that commands about quotes and collateral share: quotes, collateral, roots, policies."""

import datetime as dt
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from kubenclave.cli import kit, parameters
from kubenclave.cli.origin import Origin
from kubenclave.errors import FormatError, UsageError, VerificationError

if TYPE_CHECKING:
    from kubenclave.dcap.anchor import TrustAnchor
    from kubenclave.dcap.collateral import Collateral
    from kubenclave.dcap.policy import Policy

FILE: Final = click.Path(allow_dash=True)  # completes file names; kit.read_input says what is wrong with them

_Function = TypeVar("_Function", bound=Callable[..., Any])


def at_option(*, now_by_default: bool = False) -> Callable[[_Function], _Function]:
    """Give a command ``--at TIME``, required unless ``now_by_default``."""
    kind: dict[str, Any] = {"default": "now", "show_default": True} if now_by_default else {"required": True}
    return click.option(
        "--at",
        type=parameters.Moment(),
        metavar="TIME",
        help="Time of the decision: 2025-06-19T10:15:00Z, Unix seconds, or now.",
        **kind,
    )


def root_option(function: _Function) -> _Function:
    """Give a command ``--root FILE``."""
    return click.option(
        "--root",
        "root_path",
        type=FILE,
        metavar="FILE",
        help="Another root certificate than Intel's, DER or PEM: the result is SIMULATED.",
    )(function)


def pck_chain_option(function: _Function) -> _Function:
    """Give a command ``--pck-chain FILE``."""
    return click.option(
        "--pck-chain",
        "pck_chain_path",
        type=FILE,
        metavar="FILE",
        help="PCK certificate chain in PEM, for a quote that carries none.",
    )(function)


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a verdict rests on: ``quote`` in bytes, ``root`` in DER (None: Intel's), ``pck_chain`` in PEM."""

    quote: bytes
    collateral: "Collateral"
    root: bytes | None
    pck_chain: bytes | None


def load_evidence(quote: str, collateral: Origin, root: str | None, pck_chain: str | None) -> Evidence:
    """Read all of it. Raises UsageError for a file, FormatError for its content, and what ``Origin.load`` raises."""
    if [quote, collateral.file, collateral.bundle, root, pck_chain].count("-") > 1:
        raise UsageError("stdin can be read only once", code="cli.misuse", hint="give the others as files")
    content = kit.read_input(quote, what="quote")
    chain = None if pck_chain is None else kit.read_input(pck_chain, what="PCK certificate chain")
    found = collateral.load(content, chain)
    return Evidence(content, found, None if root is None else load_root(root), chain)


def load_root(path: str) -> bytes:
    """Return a root certificate as DER, whichever form its file has. Raises FormatError when it is none."""
    content = kit.read_input(path, what="root certificate")
    if b"-----BEGIN" not in content:
        return content
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    from kubenclave.dcap.anchor import UNREADABLE, unreadable

    try:
        certificates = x509.load_pem_x509_certificates(content)
        found = f"{len(certificates)} certificates"
    except UNREADABLE as error:
        certificates, found = [], unreadable(error)
    if len(certificates) != 1:
        raise FormatError(
            "not a root certificate",
            code="root.malformed",
            field=path,
            expected="one certificate, in DER or PEM",
            found=found,
        )
    return certificates[0].public_bytes(Encoding.DER)


def load_anchor(root: bytes | None) -> "TrustAnchor":
    """Return the root as a trust anchor, Intel's for None. Raises FormatError when it is no certificate."""
    from kubenclave.dcap.anchor import TrustAnchor, intel_root

    return intel_root() if root is None else TrustAnchor.from_certificate(root)


@contextmanager
def simulated_said(root: bytes | None) -> Iterator[None]:
    """Say SIMULATED where something is refused under another root than Intel's; an accepted verdict says it itself.

    Raises FormatError when ``root`` is no certificate.
    """
    anchor = load_anchor(root)
    try:
        yield
    except VerificationError:
        if not anchor.is_intel:
            kit.warn("SIMULATED: judged under another root than Intel's")
        raise


def load_policy(path: str) -> "Policy":
    """Read a policy in JSON or TOML, told apart by the name's ending, else by the first character."""
    from kubenclave.dcap.policy import Policy

    content = kit.read_input(path, what="policy")
    is_json = path.endswith(".json") or (not path.endswith(".toml") and content.lstrip()[:1] == b"{")
    if is_json:
        return Policy.from_json(content)
    try:
        text = content.decode()
    except UnicodeDecodeError:
        raise FormatError("not a policy", code="policy.malformed", expected="UTF-8", found="other bytes") from None
    return Policy.from_toml(text)


def zulu(moment: dt.datetime) -> str:
    """Return a time in UTC, to the second, as people and RFC 3339 write it."""
    return moment.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
