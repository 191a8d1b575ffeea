# SPDX-License-Identifier: Apache-2.0
"""Requests of the native API: what the OpenAPI document says of them and what reads them are the same structures."""

import base64
import re
from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec

from kubenclave.dcap.judgement import DataType, HeldData
from kubenclave.dcap.ratls import RaTlsCertificate
from kubenclave.errors import FormatError
from kubenclave.services.attestation.evidence import (
    MAX_HELD_DATA,
    MAX_NONCE,
    MAX_PCK_CHAIN,
    MAX_QUOTE,
    Evidence,
    read_json,
)
from kubenclave.wire.maa import open_enclave_quote

MAX_BODY: Final = 256 * 1024
_T = TypeVar("_T")
_ALPHABET: Final = r"^[A-Za-z0-9_+/\-]*={0,2}$"
_BASE64: Final = re.compile(r"[A-Za-z0-9_+/-]*={0,2}")
_WRONG_TYPE: Final = re.compile(r"Expected (?P<expected>.+?)(?:, got (?P<found>.+))?")


def _base64(limit: int, said: str) -> msgspec.Meta:
    text = f"{said}, in base64url or base64, padded or not"
    return msgspec.Meta(min_length=1, max_length=limit // 3 * 4 + 4, pattern=_ALPHABET, description=text)


_Quote = Annotated[str, _base64(MAX_QUOTE, "The quote as the quoting enclave wrote it")]
_Report = Annotated[str, _base64(MAX_QUOTE, "A remote report of Open Enclave: its header, then a quote")]
_Certificate = Annotated[
    str, msgspec.Meta(min_length=1, max_length=MAX_BODY, description="RA-TLS certificate: PEM, or DER in base64")
]
_Chain = Annotated[str, msgspec.Meta(max_length=MAX_PCK_CHAIN, description="PCK chain in PEM, for a quote without one")]
_Nonce = Annotated[
    str,
    msgspec.Meta(min_length=8, max_length=88, description="Goes into the token as it is; proves nothing by itself"),
]
_Challenge = Annotated[
    str, msgspec.Meta(max_length=MAX_NONCE, description="A nonce of /v1/challenge that is in the bound data")
]
MAX_VERSION: Final = (1 << 53) - 1  # beyond, not every JSON reader is exact, and no database counts as far
_Version = Annotated[int, msgspec.Meta(ge=0, le=MAX_VERSION)]


class Held(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Data that the quote speaks of by its SHA-256; it is hashed as it is, and JSON never written anew."""

    data: Annotated[str, _base64(MAX_HELD_DATA, "The bytes")]
    type: Literal["Binary", "JSON"] = "Binary"


class EvidenceRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Evidence: exactly one of ``quote``, ``open_enclave_report`` and ``ra_tls_certificate``."""

    quote: _Quote | None = None
    open_enclave_report: _Report | None = None
    ra_tls_certificate: _Certificate | None = None
    pck_chain: _Chain | None = None
    runtime_data: Held | None = None
    init_data: Held | None = None
    nonce: _Nonce | None = None


class AttestRequest(EvidenceRequest, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Body of ``POST /v1/attest``, and each item of a batch.

    ``policy_version`` is the version that the client counts on: another one in force is refused.
    """

    challenge: _Challenge | None = None
    policy_version: _Version | None = None
    token: Literal["ear", "ear-veraison", "azure", "none"] = "ear"  # noqa: S105 - the name of a dialect


class VerifyRequest(EvidenceRequest, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Body of ``POST /v1/verify``. ``policy_version`` may be any that is kept; without one the policy in force."""

    policy_version: _Version | None = None


class BatchRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of ``POST /v1/attest/batch``: items are read one by one, each as an ``AttestRequest``."""

    items: Annotated[list[Any], msgspec.Meta(min_length=1)]


def read(kind: type[_T], body: bytes, limit: int = MAX_BODY) -> _T:
    """Read a body strictly: no duplicate keys, no unknown members, bounded depth and size.

    Raises FormatError (codes ``json.*``, ``request.*``).
    """
    if len(body) > limit:
        raise FormatError(
            "the request is too long", code="request.size", expected=f"at most {limit} bytes", found=f"{len(body)}"
        )
    return convert(kind, read_json(body, "the request"))


def convert(kind: type[_T], document: Any) -> _T:
    """Take a JSON value for a request of that kind. Raises FormatError ``request.malformed``."""
    try:
        return msgspec.convert(document, kind)
    except msgspec.ValidationError as error:
        raise _unfit(error) from None


def evidence_of(request: EvidenceRequest) -> Evidence:
    """Decode the evidence of a request. Raises FormatError."""
    given = [name for name in ("quote", "open_enclave_report", "ra_tls_certificate") if getattr(request, name)]
    if len(given) != 1:
        expected = "one of quote, open_enclave_report and ra_tls_certificate"
        raise _malformed("evidence", expected, " and ".join(given) or "none of them")
    certificate, runtime_data = None, _held(request.runtime_data, "runtime_data")
    if request.ra_tls_certificate is not None:
        certificate = RaTlsCertificate.parse(_certificate(request.ra_tls_certificate))
        quote = certificate.quote
        runtime_data = runtime_data or HeldData(certificate.bound, DataType.BINARY)
    elif request.open_enclave_report is not None:
        quote = open_enclave_quote(decode(request.open_enclave_report, "open_enclave_report"))
    else:
        quote = decode(request.quote or "", "quote")
    return Evidence(
        quote=quote,
        pck_chain=None if request.pck_chain is None else _encoded(request.pck_chain, "pck_chain"),
        runtime_data=runtime_data,
        init_data=_held(request.init_data, "init_data"),
        nonce=request.nonce,
        challenge=request.challenge if isinstance(request, AttestRequest) else None,
        certificate=certificate,
    )


def decode(text: str, name: str) -> bytes:
    """Decode base64 of either alphabet, padded or not. Raises FormatError ``request.base64``."""
    bare = text.rstrip("=")
    if not _BASE64.fullmatch(text) or len(bare) % 4 == 1:
        raise FormatError(
            "not base64",
            code="request.base64",
            field=name,
            expected="base64url (RFC 4648, section 5), without line breaks",
            found="other characters" if not _BASE64.fullmatch(text) else f"{len(bare)} characters, which no bytes have",
        )
    return base64.urlsafe_b64decode(bare.replace("+", "-").replace("/", "_") + "=" * (-len(bare) % 4))


def _held(held: Held | None, name: str) -> HeldData | None:
    return None if held is None else HeldData(decode(held.data, f"{name}.data"), DataType(held.type))


def _certificate(text: str) -> bytes:
    name = "ra_tls_certificate"
    return _encoded(text, name) if text.lstrip().startswith("-----BEGIN") else decode(text, name)


def _encoded(text: str, name: str) -> bytes:
    try:
        return text.encode("ascii")
    except UnicodeEncodeError:
        raise _malformed(name, "PEM", "characters that are not ASCII") from None


def _unfit(error: msgspec.ValidationError) -> FormatError:
    """Say in our words what msgspec says, as "Expected `int`, got `str` - at `$.version`"."""
    text, _, path = str(error).partition(" - at `$")
    text, where = text.replace("`", ""), path.rstrip("`").removeprefix(".")
    if wrong := _WRONG_TYPE.fullmatch(text):
        return _malformed(where, wrong["expected"], wrong["found"] or "something else")
    return _malformed(where, None, f"{text[:1].lower()}{text[1:]}")


def _malformed(where: str, expected: str | None, found: str) -> FormatError:
    return FormatError(
        "not a request that this route takes",
        code="request.malformed",
        field=where[:100] or None,
        expected=expected,
        found=found[:200],
        hint="GET /v1/openapi.json lists every member",
    )
