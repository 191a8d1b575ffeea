# SPDX-License-Identifier: Apache-2.0
"""A quote's own words as JSON values, and times as text. Nothing in here is verified."""

import datetime as dt
from typing import Any

from kubenclave.sgx.quote import Body, Quote
from kubenclave.sgx.report import ReportBody


def describe_quote(quote: Quote) -> dict[str, Any]:
    """Return what a quote says of its origin and its enclave or trust domain: fields of header and body by name."""
    header, certification = quote.header, quote.signature.certification_data
    return {
        "version": header.version,
        "tee": header.tee_type.name,
        "body_type": quote.body_type.name,
        "qe_vendor_id": header.qe_vendor_id.hex(),
        "qe_id": header.user_data[:16].hex(),
        "debug": quote.body.debug,
        "certification_data_type": int(certification.kind),
        **describe_body(quote.body),
    }


def describe_body(body: Body) -> dict[str, Any]:
    """Return the fields of a report body by name: bytes in hex, numbers as they are, ATTRIBUTES taken apart."""
    described: dict[str, Any] = {}
    if isinstance(body, ReportBody):
        described["attributes"] = {
            "flags": body.attributes.names(),
            "xfrm": hex(body.attributes.xfrm),
            "bytes": body.attributes.build().hex(),
        }
    for name in body.__dataclass_fields__:
        value = getattr(body, name)
        if isinstance(value, bytes):
            described[name] = value.hex()
        elif isinstance(value, int):
            described[name] = value
    return described


def zulu(moment: dt.datetime) -> str:
    """Return a time with a zone in UTC, exactly, as RFC 3339 writes it: 2025-07-19T10:01:00Z."""
    return moment.astimezone(dt.UTC).isoformat().replace("+00:00", "Z")
