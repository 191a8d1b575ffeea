# SPDX-License-Identifier: Apache-2.0
"""A quote taken apart, field by field: what ``quote show`` prints. Nothing in here is verified."""

import enum
from collections.abc import Callable, Iterator
from typing import Any, Final

import click

from kubenclave.cli import kit
from kubenclave.cli.show.certificates import describe_chain
from kubenclave.dcap.describe import describe_body, describe_quote
from kubenclave.sgx.attributes import MiscSelect
from kubenclave.sgx.certification import CertificationData, CertificationType
from kubenclave.sgx.quote import Quote
from kubenclave.sgx.report import ReportBody
from kubenclave.sgx.tdreport import TdAttributes

NOT_VERIFIED: Final = "NOT VERIFIED: these are the quote's own words (kubenclave quote verify says what they are worth)"
_WIDTH: Final = 64


def _flags(kind: type[enum.IntFlag]) -> Callable[[int], str]:
    """Return how bits of a kind are shown: the number, and the names of those that have one."""
    return lambda value: " ".join([hex(value), *(str(flag.name) for flag in kind if value & flag)])


_BITS: Final = {"td_attributes": _flags(TdAttributes), "misc_select": _flags(MiscSelect), "xfam": hex}


def describe(quote: Quote, *, size: int) -> dict[str, Any]:
    """Return a quote's fields as JSON values; ``size`` is that of the file it came in."""
    header, signature = quote.header, quote.signature
    return {
        "verified": False,
        **describe_quote(quote),
        "attestation_key_type": header.attestation_key_type.name,
        "qe_svn": header.qe_svn,
        "pce_svn": header.pce_svn,
        "size": len(quote.build()),
        "bytes_behind": size - len(quote.build()),
        "signature": {
            "signature": signature.signature.hex(),
            "attestation_key": signature.attestation_key.hex(),
            "qe_report": describe_body(ReportBody.parse(signature.qe_report)),
            "qe_report_signature": signature.qe_report_signature.hex(),
            "qe_auth_data": signature.qe_auth_data.hex(),
            "certification_data": _certification(signature.certification_data),
        },
    }


def _certification(data: CertificationData) -> dict[str, Any]:
    described: dict[str, Any] = {"type": int(data.kind), "name": data.kind.name, "size": len(data.data)}
    if (ppid := data.ppid) is not None:
        fields = {"ppid": ppid.ppid.hex(), "cpu_svn": ppid.cpu_svn.hex()}
        return {**described, **fields, "pce_svn": ppid.pce_svn, "pce_id": ppid.pce_id}
    if data.kind in (CertificationType.PCK_CERT_CHAIN, CertificationType.PCK_LEAF_CERT):
        return {**described, **describe_chain(data.data.rstrip(b"\0"))}
    return {**described, "bytes": data.data.hex()}


def text(described: dict[str, Any]) -> str:
    """Return a described quote as text: one field a line, long ones broken."""
    return "\n".join([click.style(NOT_VERIFIED, fg="yellow", bold=True), *_lines(described, "")])


def _lines(fields: dict[str, Any], indent: str) -> Iterator[str]:
    rows: list[tuple[str, str]] = []
    for name, value in fields.items():
        if isinstance(value, dict) or (isinstance(value, list) and value and isinstance(value[0], dict)):
            if rows:
                yield from _aligned(rows, indent)
            rows = []
            for number, each in enumerate(value if isinstance(value, list) else [value]):
                yield f"{indent}{name}{f'[{number}]' if isinstance(value, list) else ''}:"
                yield from _lines(each, indent + "  ")
        elif name != "verified":
            rows += _rows(name, value)
    if rows:
        yield from _aligned(rows, indent)


def _rows(name: str, value: Any) -> Iterator[tuple[str, str]]:
    if name in _BITS:
        yield name, _BITS[name](value)
        return
    shown = kit.printable(" ".join(map(str, value)) if isinstance(value, list) else str(value))
    if isinstance(value, bool):
        shown = "yes" if value else "no"
    if not shown.strip("0") and len(shown) > 2 * len("mr_enclave"):
        yield name, f"zero ({len(shown) // 2} bytes)"
        return
    broken = [shown[start : start + _WIDTH] for start in range(0, len(shown), _WIDTH)] if " " not in shown else [shown]
    for number, part in enumerate(broken or ["none"]):
        yield ("" if number else name), part


def _aligned(rows: list[tuple[str, str]], indent: str) -> Iterator[str]:
    yield from (indent + line for line in kit.table(rows).splitlines())
