# SPDX-License-Identifier: Apache-2.0
"""Microsoft Azure Attestation (MAA): what its clients send and read, of API versions 2020-10-01 to 2025-06-01.

Everything here takes decoded JSON and gives values, or the other way round: who may ask and what is true stands
elsewhere. Names are those of Azure's REST specification. Every function raises FormatError (codes ``maa.*``) only.
"""

import base64
import json
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from kubenclave.errors import FormatError

API_VERSIONS: Final = ("2020-10-01", "2022-08-01", "2022-09-01-preview", "2025-06-01")
"""What ``?api-version=`` may say. The requests that exist in several versions have the same form in all of them."""

EVIDENCE_FIELDS: Final = {"SgxEnclave": "quote", "OpenEnclave": "report", "TdxVm": "quote"}
"""Types of attestation that are judged here: the member that holds the evidence."""

OTHER_TYPES: Final = ("SevSnpVm", "AzureGuest", "Tpm")
"""Types that Azure knows too, for which a quote of Intel's is not enough or not the thing."""

MAX_QUOTE: Final = 64 * 1024
MAX_DATA: Final = 128 * 1024
MAX_NONCE: Final = 256
"""Bounds, in bytes of the decoded quote and held data, and in characters of the nonce."""

_MAX_TOKEN: Final = 256 * 1024
_REPORT: Final = struct.Struct("<IIQ")
_REPORT_VERSION: Final = 1
_REPORT_REMOTE: Final = 2  # OE_REPORT_TYPE_SGX_REMOTE
_BASE64: Final = re.compile(r"[A-Za-z0-9+/_-]*={0,2}")
_TO_STANDARD: Final = str.maketrans("-_", "+/")
_SURROGATE: Final = re.compile("[\ud800-\udfff]")  # JSON can escape half a pair, which no encoding can hold
_UNSECURED: Final = "eyJhbGciOiJub25lIn0"  # {"alg":"none"}
_DATA_TYPES: Final = {"binary": False, "json": True}
_CERTIFICATE_NAMES: Final = ("policyCertificate", "maa-policyCertificate", "x-ms-policyCertificate")
_WRAPPERS: Final = ("policyCertificateToAdd", "policyCertificateToRemove")


@dataclass(frozen=True, slots=True)
class SuppliedData:
    """Runtime or init-time data: ``data`` as it was sent, which is what is hashed; ``is_json`` says how to show it."""

    data: bytes = field(repr=False)
    is_json: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class AttestRequest:
    """Body of ``POST /attest/{type}``. ``draft_policy`` is text, or a token that holds text."""

    quote: bytes = field(repr=False)
    runtime_data: SuppliedData | None = None
    init_time_data: SuppliedData | None = None
    draft_policy: str | None = None
    nonce: str | None = None


@dataclass(frozen=True, slots=True)
class Token:
    """The parts of a JSON Web Signature in compact form, not verified; ``signed`` is what its signature covers."""

    header: bytes
    payload: bytes
    signed: bytes
    signature: bytes
    text: str


def check_api_version(values: Sequence[str]) -> str:
    """Return the one ``api-version`` of a query."""
    if len(values) == 1 and values[0] in API_VERSIONS:
        return values[0]
    raise FormatError(
        "the api-version is not one that is served here" if values else "the query has no api-version",
        code="maa.api-version",
        field="api-version",
        expected="one of " + ", ".join(API_VERSIONS),
        found=_shown(", ".join(values)) if values else None,
        hint=f"append ?api-version={API_VERSIONS[-1]} to the URL",
    )


def check_type(name: str) -> str:
    """Return a type of attestation that is judged here."""
    if name in EVIDENCE_FIELDS:
        return name
    known = name in OTHER_TYPES
    raise FormatError(
        f"{name} is not judged by this service" if known else "no such type of attestation",
        code="maa.unsupported-type" if known else "maa.type",
        field="type",
        expected=" or ".join(EVIDENCE_FIELDS),
        found=_shown(name),
        hint="this service judges quotes of Intel SGX and TDX" if known else None,
    )


def parse_attest(document: Any, attestation_type: str) -> AttestRequest:
    """Read the body of an attest request. Members of other names are not looked at, as Azure does not."""
    members = _object(document, "the request")
    name = EVIDENCE_FIELDS[attestation_type]
    evidence = decode_base64(_required(members, name, name), name, MAX_QUOTE)
    if not evidence:
        raise _missing(name, "evidence in base64url")
    return AttestRequest(
        quote=open_enclave_quote(evidence) if name == "report" else evidence,
        runtime_data=_supplied(members, "runtimeData"),
        init_time_data=_supplied(members, "initTimeData"),
        draft_policy=_optional(members, "draftPolicyForAttestation", _MAX_TOKEN) or None,
        nonce=_optional(members, "nonce", MAX_NONCE),
    )


def open_enclave_quote(report: bytes) -> bytes:
    """Return the quote in a remote report of Open Enclave (``oe_report_header_t``: version 1, type 2, length)."""
    if len(report) < _REPORT.size:
        raise _wrong_report(f"a header of {_REPORT.size} bytes", f"{len(report)} bytes")
    version, kind, length = _REPORT.unpack_from(report)
    if version != _REPORT_VERSION:
        raise _wrong_report("version 1", f"version {version}")
    if kind != _REPORT_REMOTE:
        raise _wrong_report("type 2 (SGX remote)", f"type {kind}")
    if length != len(report) - _REPORT.size:
        raise _wrong_report(f"{length} bytes behind the header", f"{len(report) - _REPORT.size}")
    return report[_REPORT.size :]


def decode_base64(text: str, name: str, limit: int) -> bytes:
    """Decode base64 of either alphabet, padded or not, of ``limit`` bytes at most: Azure's clients send all of it."""
    if len(text) > limit // 3 * 4 + 4:
        raise FormatError(
            f"{name} is too long", code="maa.size", field=name, expected=f"{limit} bytes at most, in base64"
        )
    bare = text.rstrip("=")
    if not _BASE64.fullmatch(text) or len(bare) % 4 == 1:
        raise FormatError(
            f"{name} is not base64",
            code="maa.base64",
            field=name,
            expected="base64url (RFC 4648 section 5) without line breaks",
            found=f"{len(text)} characters" if _BASE64.fullmatch(text) else "other characters",
        )
    decoded = base64.b64decode(bare.translate(_TO_STANDARD) + "=" * (-len(bare) % 4))
    if len(decoded) > limit:
        raise FormatError(
            f"{name} is too long",
            code="maa.size",
            field=name,
            expected=f"{limit} bytes at most",
            found=f"{len(decoded)} bytes",
        )
    return decoded


def encode_base64(data: bytes) -> str:
    """Encode as base64url without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def split_token(text: str) -> Token:
    """Take a JSON Web Signature in compact form apart; header and payload are bytes still, either may be empty."""
    parts = text.strip().split(".") if len(text) <= _MAX_TOKEN else []
    if len(parts) != 3:
        raise FormatError(
            "not a JSON Web Token",
            code="maa.token",
            expected="header.payload.signature, each in base64url",
            found=f"{len(text)} characters" if not parts else f"{len(parts)} parts",
        )
    header, payload, signature = (
        decode_base64(part, name, _MAX_TOKEN)
        for part, name in zip(parts, ("header", "payload", "signature"), strict=True)
    )
    return Token(header, payload, f"{parts[0]}.{parts[1]}".encode(), signature, ".".join(parts))


def unsecured_token(payload: Mapping[str, Any]) -> str:
    """Return an unsecured JSON Web Token (RFC 7519 section 6) of such claims."""
    body = json.dumps(payload, separators=(",", ":")).encode()
    return f"{_UNSECURED}.{encode_base64(body)}."


def policy_claims(text: str) -> dict[str, str]:
    """Return the claims of a token that holds a policy."""
    return {"AttestationPolicy": encode_base64(text.encode())}


def policy_text(document: Any, limit: int) -> str:
    """Return the text of a policy from the claims of the token that holds it; ``limit`` is in bytes."""
    members = _object(document, "the policy's token")
    name = "AttestationPolicy"
    try:
        return decode_base64(_required(members, name, name), name, limit).decode()
    except UnicodeDecodeError:
        raise FormatError("the policy is not text", code="maa.text", field=name, expected="UTF-8") from None


def certificate_token(document: Any) -> str:
    """Return the token of ``POST /certificates:add`` and ``:remove``: a bare string until 2022, a member since."""
    if isinstance(document, str):
        return document
    members = _object(document, "the request")
    found = [members[name] for name in _WRAPPERS if isinstance(members.get(name), str)]
    if len(found) != 1:
        raise _missing(_WRAPPERS[0], "a JSON Web Token, as a string or in " + " or ".join(_WRAPPERS))
    return str(found[0])


def signer_certificate(document: Any) -> bytes:
    """Return the certificate (DER) of the policy signer that the claims of a token are about."""
    members = _object(document, "the token")
    found = [members[name] for name in _CERTIFICATE_NAMES if name in members]
    if len(found) != 1:
        raise _missing(_CERTIFICATE_NAMES[0], "a JSON Web Key with x5c")
    return first_certificate(_object(found[0], _CERTIFICATE_NAMES[0]))


def first_certificate(jwk: Mapping[str, Any]) -> bytes:
    """Return the first certificate (DER) of the ``x5c`` of a key or header."""
    chain = jwk.get("x5c")
    if not isinstance(chain, list) or not chain or not isinstance(chain[0], str):
        raise _missing("x5c", "a list of certificates in base64")
    return decode_base64(chain[0], "x5c", MAX_DATA)


def error_document(code: str, message: str, *, inner: Mapping[str, Any], target: str | None = None) -> dict[str, Any]:
    """Return the body of an error: Azure's code for its clients, ours with what was found in ``innererror``."""
    told = {"code": code, "message": message, "innererror": dict(inner)}
    return {"error": told if target is None else {**told, "target": target}}


def openid_configuration(issuer: str, claims: Sequence[str]) -> dict[str, Any]:
    """Return the document of ``/.well-known/openid-configuration``."""
    return {
        "issuer": issuer,
        "jwks_uri": f"{issuer}/certs",
        "response_types_supported": ["token", "none"],
        "id_token_signing_alg_values_supported": ["RS256"],
        "revocation_endpoint": f"{issuer}/revoke",
        "claims_supported": list(claims),
    }


def _supplied(members: Mapping[str, Any], name: str) -> SuppliedData | None:
    """Read held data; a client of Intel's sends empty strings where it has none."""
    value = members.get(name)
    if value is None:
        return None
    inner = _object(value, name)
    if inner.get("data") == "" and inner.get("dataType") in {"", None}:
        return None
    data = decode_base64(_required(inner, "data", f"{name}.data"), f"{name}.data", MAX_DATA)
    kind = inner.get("dataType")
    if not isinstance(kind, str) or kind.lower() not in _DATA_TYPES:
        raise FormatError(
            "the type of the data is not known",
            code="maa.data-type",
            field=f"{name}.dataType",
            expected="Binary or JSON",
            found=_shown(kind),
        )
    return SuppliedData(data, _DATA_TYPES[kind.lower()])


def _object(value: Any, what: str) -> Mapping[str, Any]:
    if isinstance(value, dict):
        return value
    raise FormatError(f"{what} is not an object", code="maa.object", expected="a JSON object", found=_kind(value))


def _required(members: Mapping[str, Any], name: str, path: str) -> str:
    value = members.get(name)
    if isinstance(value, str):
        return value
    raise _missing(path, "a string", None if value is None else _kind(value))


def _optional(members: Mapping[str, Any], name: str, limit: int) -> str | None:
    value = members.get(name)
    if value is None:
        return None
    if not isinstance(value, str):
        raise _missing(name, "a string", _kind(value))
    if len(value) > limit:
        raise FormatError(
            f"{name} is too long",
            code="maa.size",
            field=name,
            expected=f"{limit} characters at most",
            found=f"{len(value)} characters",
        )
    if _SURROGATE.search(value):
        raise FormatError(f"{name} is not text", code="maa.text", field=name, expected="Unicode", found="half a pair")
    return value


def _missing(name: str, expected: str, found: str | None = None) -> FormatError:
    text = "a member is missing" if found is None else "a member is not what it should be"
    return FormatError(text, code="maa.member", field=name, expected=expected, found=found)


def _wrong_report(expected: str, found: str) -> FormatError:
    return FormatError(
        "not a remote report of Open Enclave",
        code="maa.report",
        field="report",
        expected=expected,
        found=found,
        hint="a bare quote goes to /attest/SgxEnclave as quote",
    )


def _kind(value: Any) -> str:
    """Say what a JSON value is, without saying the value."""
    kinds = {"dict": "an object", "list": "a list", "str": "a string", "NoneType": "nothing"}
    return kinds.get(type(value).__name__, "a literal")


def _shown(value: Any) -> str:
    return repr(value)[:80]
