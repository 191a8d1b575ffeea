# SPDX-License-Identifier: Apache-2.0
"""Formats of Intel's Provisioning Certification Service, API version 4, and of its caching service (PCCS).

Chains travel in headers, percent-encoded PEM; signed documents as JSON whose inner text must stay as it was signed;
CRLs as DER, PEM or, with PCCS, hexadecimal digits. Parsers raise FormatError (codes ``pcs.*``) and nothing else.
"""

import base64
import binascii
import datetime as dt
import re
import urllib.parse
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec

from kubenclave.errors import FormatError

TCB_INFO_CHAIN: Final = "TCB-Info-Issuer-Chain"
TCB_INFO_CHAIN_V3: Final = "SGX-TCB-Info-Issuer-Chain"
IDENTITY_CHAIN: Final = "SGX-Enclave-Identity-Issuer-Chain"
EVALUATION_NUMBERS_CHAIN: Final = "TCB-Evaluation-Data-Numbers-Issuer-Chain"
PCK_CRL_CHAIN: Final = "SGX-PCK-CRL-Issuer-Chain"
PCK_CHAIN: Final = "SGX-PCK-Certificate-Issuer-Chain"
PCK_TCBM: Final = "SGX-TCBm"
PCK_FMSPC: Final = "SGX-FMSPC"
PCK_CA_TYPE: Final = "SGX-PCK-Certificate-CA-Type"
API_KEY: Final = "Ocp-Apim-Subscription-Key"

TCB_INFO: Final = "tcbInfo"
ENCLAVE_IDENTITY: Final = "enclaveIdentity"
EVALUATION_NUMBERS: Final = "tcbEvaluationDataNumbers"

MAX_DOCUMENT_AND_CHAIN: Final = 65_533
"""Bytes that a document and its chain may have together: above, a 16-bit size in Intel's client wraps and it aborts."""

MAX_BODY: Final = 4 * 1024 * 1024  # of any answer; PCK certificates of one platform are the longest, some 100 kB
NOT_AVAILABLE: Final = "Not available"
CHAIN_LENGTH: Final = 2  # signer, root

_MAX_CHAIN: Final = 64 * 1024
_TCBM: Final = 36
_COMPONENTS: Final = 16
_MAX_NUMBER: Final = 0xFFFFFFFF
_CERTIFICATE: Final = re.compile(rb"-----BEGIN CERTIFICATE-----[^-]*-----END CERTIFICATE-----")
_CRL: Final = re.compile(rb"\s*-----BEGIN X509 CRL-----([^-]*)-----END X509 CRL-----\s*")
_TAIL: Final = re.compile(rb"\s*,\s*\"signature\"\s*:\s*\"([0-9a-fA-F]{128})\"\s*\}\s*\Z")
_HEX: Final = re.compile(r"[0-9a-fA-F]*")
_HEX_BYTES: Final = re.compile(rb"[0-9a-fA-F]+")
_T = TypeVar("_T")


# Chains


def split_chain(pem: bytes) -> list[bytes]:
    """Return the certificates of a chain, each PEM with LF and without anything around it. Nothing is decoded."""
    if len(pem) > _MAX_CHAIN:
        raise _malformed("chain", "pcs.chain", f"{_MAX_CHAIN} bytes at most", f"{len(pem)} bytes")
    blocks = _CERTIFICATE.findall(pem)
    if not blocks or pem.count(b"-----BEGIN") != len(blocks):
        raise _malformed("chain", "pcs.chain", "certificates in PEM", "something else")
    return [block.replace(b"\r\n", b"\n") + b"\n" for block in blocks]


def encode_chain(pem: bytes) -> str:
    """Return a chain as the value of a header: signer and root, everything but unreserved characters escaped.

    Exactly two certificates and one escaped newline at the end: without it Intel's client cuts the PEM and crashes.
    """
    blocks = split_chain(pem)
    if len(blocks) != CHAIN_LENGTH:
        raise _malformed("chain", "pcs.chain", "signer and root", f"{len(blocks)} certificates")
    return urllib.parse.quote(b"".join(blocks), safe="")


def decode_chain(text: str) -> bytes:
    """Return the PEM that a header holds, with LF; a plus sign is one, not a blank."""
    if len(text) > 3 * _MAX_CHAIN or not text.isascii():
        raise _malformed("chain", "pcs.chain", "percent-encoded PEM", f"{len(text)} characters")
    return b"".join(split_chain(urllib.parse.unquote_to_bytes(text)))


# Signed documents


def split_signed(body: bytes, member: str) -> tuple[bytes, bytes]:
    """Return the inner text of a signed document, byte for byte as signed, and its signature (64 bytes r‖s).

    ``body`` is ``{"<member>":{...},"signature":"<hex>"}`` in this order, as the service sends it, white space aside.
    """
    if len(body) > MAX_BODY:
        raise _malformed(member, "pcs.document", f"{MAX_BODY} bytes at most", f"{len(body)} bytes")
    head = re.match(rb"\s*\{\s*\"" + member.encode() + rb"\"\s*:\s*(?=\{)", body)
    end = body.rfind(b"}", 0, body.rfind(b"}")) + 1  # of the inner object
    tail = _TAIL.match(body, end)
    if head is None or tail is None or end <= head.end():
        raise _malformed(member, "pcs.document", f'{{"{member}":{{...}},"signature":"<hex>"}}', _shown(body))
    inner = body[head.end() : end]
    _decode(inner, dict[str, Any], member)  # one object and nothing behind it
    return inner, bytes.fromhex(tail[1].decode())


def join_signed(member: str, inner: bytes, signature: bytes) -> bytes:
    """Return a signed document as the service sends it."""
    return b'{"' + member.encode() + b'":' + inner + b',"signature":"' + signature.hex().encode() + b'"}'


# CRLs


def crl_der(body: bytes) -> bytes:
    """Return the DER of a CRL that came as DER, PEM or hexadecimal digits. What it says is not looked at."""
    if len(body) > MAX_BODY:
        raise _malformed("CRL", "pcs.crl", f"{MAX_BODY} bytes at most", f"{len(body)} bytes")
    if pem := _CRL.fullmatch(body):
        try:
            return base64.b64decode(b"".join(pem[1].split()), validate=True)
        except binascii.Error:
            raise _malformed("CRL", "pcs.crl", "base64 in PEM", _shown(pem[1])) from None
    text = body.strip()
    if _HEX_BYTES.fullmatch(text) and len(text) % 2 == 0:
        return bytes.fromhex(text.decode())
    if not body.startswith(b"\x30"):
        raise _malformed("CRL", "pcs.crl", "DER, PEM or hexadecimal digits", _shown(body))
    return body


def crl_hex(der: bytes) -> bytes:
    """Return a CRL as PCCS sends it: lower-case hexadecimal digits."""
    return der.hex().encode()


def crl_pem(der: bytes) -> bytes:
    """Return a CRL in PEM, lines of 64 characters."""
    text = base64.b64encode(der)
    lines = [text[at : at + 64] for at in range(0, len(text), 64)]
    return b"\n".join((b"-----BEGIN X509 CRL-----", *lines, b"-----END X509 CRL-----", b""))


# Parameters of queries


def parse_hex(text: str, size: int, name: str) -> bytes:
    """Read a parameter of ``size`` bytes in hexadecimal digits."""
    if len(text) != 2 * size or not _HEX.fullmatch(text):
        raise _parameter(name, f"{2 * size} hexadecimal digits", text)
    return bytes.fromhex(text)


def parse_fmspc(text: str) -> str:
    """Read an FMSPC; lower case comes back."""
    return parse_hex(text, 6, "fmspc").hex()


def parse_ca(text: str) -> Literal["processor", "platform"]:
    """Read which PCK CA is meant, in any case."""
    folded = text.lower()
    if folded == "processor":
        return "processor"
    if folded == "platform":
        return "platform"
    raise _parameter("ca", "processor or platform", text)


def parse_update(update: str | None, number: str | None = None) -> str:
    """Read which generation of a document is meant: ``standard`` (where nothing is said), ``early``, or a number.

    ``number`` is the parameter ``tcbEvaluationDataNumber``: beside ``update`` it is a mistake.
    """
    if number is not None:
        if update is not None:
            raise _parameter("update", "either update or tcbEvaluationDataNumber", "both")
        if not (number.isascii() and number.isdecimal()) or len(number) > 10 or int(number) > _MAX_NUMBER:
            raise _parameter("tcbEvaluationDataNumber", f"a number up to {_MAX_NUMBER}", number)
        return str(int(number))
    folded = "standard" if update is None else update.lower()
    if folded not in {"standard", "early"}:
        raise _parameter("update", "standard or early", update or "nothing")
    return folded


# TCB evaluation data numbers


class _Number(msgspec.Struct, frozen=True, rename="camel"):
    tcb_evaluation_data_number: Annotated[int, msgspec.Meta(ge=0, le=_MAX_NUMBER)]
    tcb_recovery_event_date: Annotated[dt.datetime, msgspec.Meta(tz=True)]
    tcb_date: Annotated[dt.datetime, msgspec.Meta(tz=True)]


class _Numbers(msgspec.Struct, frozen=True, rename="camel"):
    id: Literal["SGX", "TDX"]
    version: Literal[1]
    issue_date: Annotated[dt.datetime, msgspec.Meta(tz=True)]
    next_update: Annotated[dt.datetime, msgspec.Meta(tz=True)]
    tcb_eval_numbers: tuple[_Number, ...] | None = None
    tcb_numbers: tuple[_Number, ...] | None = None  # as a transcript of the specification calls them


@dataclass(frozen=True, slots=True, order=True)
class EvaluationNumber:
    """A generation of TCB info: its number, when Intel made the recovery public, and the date of its TCB."""

    number: int
    recovery_event: dt.datetime
    tcb_date: dt.datetime


@dataclass(frozen=True, slots=True)
class EvaluationNumbers:
    """The generations that are on offer for a TEE (``SGX`` or ``TDX``), the newest first."""

    tee: Literal["SGX", "TDX"]
    issued: dt.datetime
    next_update: dt.datetime
    numbers: tuple[EvaluationNumber, ...]


def parse_evaluation_numbers(inner: bytes) -> EvaluationNumbers:
    """Read the inner text of the list of TCB evaluation data numbers."""
    raw = _decode(inner, _Numbers, EVALUATION_NUMBERS)
    listed = raw.tcb_numbers if raw.tcb_eval_numbers is None else raw.tcb_eval_numbers
    if not listed:
        raise _malformed(EVALUATION_NUMBERS, "pcs.document", "tcbEvalNumbers", "none")
    numbers = [
        EvaluationNumber(each.tcb_evaluation_data_number, _utc(each.tcb_recovery_event_date), _utc(each.tcb_date))
        for each in listed
    ]
    return EvaluationNumbers(raw.id, _utc(raw.issue_date), _utc(raw.next_update), tuple(sorted(numbers, reverse=True)))


# FMSPCs


class Fmspc(msgspec.Struct, frozen=True):
    """A platform family on the list of all: 12 hexadecimal digits, and what it is (``client``, ``E3``, ``E5``)."""

    fmspc: Annotated[str, msgspec.Meta(pattern="^[0-9a-fA-F]{12}$")]
    platform: str = ""


def parse_fmspcs(body: bytes) -> tuple[Fmspc, ...]:
    """Read the list of FMSPCs, which nobody signs."""
    return _decode(body, tuple[Fmspc, ...], "fmspcs")


# PCK certificates


class _PckEntry(msgspec.Struct, frozen=True):
    tcb: dict[str, Annotated[int, msgspec.Meta(ge=0, le=0xFFFF)]]
    tcbm: str
    cert: str


@dataclass(frozen=True, slots=True)
class PckEntry:
    """A PCK certificate of a platform for one TCB.

    ``tcbm`` are 18 bytes, CPUSVN and PCE SVN (little-endian). ``cert`` is the leaf in PEM, None where Intel has none
    for that TCB (``Not available``), which may change.
    """

    tcbm: bytes
    cert: bytes | None


def parse_pck_certs(body: bytes) -> tuple[PckEntry, ...]:
    """Read the answer of ``pckcerts``: an array of ``{tcb, tcbm, cert}``."""
    entries = _decode(body, tuple[_PckEntry, ...], "pckcerts")
    return tuple(
        PckEntry(parse_tcbm(each.tcbm), None if each.cert == NOT_AVAILABLE else decode_leaf(each.cert))
        for each in entries
    )


def parse_tcbm(text: str) -> bytes:
    """Read ``SGX-TCBm``: CPUSVN and PCE SVN (little-endian), 18 bytes in hexadecimal digits."""
    return parse_hex(text, _TCBM // 2, "tcbm")


def decode_leaf(text: str) -> bytes:
    """Return a PCK certificate (PEM, percent-encoded or not), with LF."""
    blocks = split_chain(decode_chain(text))
    if len(blocks) != 1:
        raise _malformed("PCK certificate", "pcs.chain", "one certificate", f"{len(blocks)}")
    return blocks[0]


def encode_pck_certs(entries: tuple[PckEntry, ...]) -> bytes:
    """Return the answer of ``pckcerts``. Component SVNs are the bytes of the CPUSVN, as on all platforms seen."""
    return msgspec.json.encode([_as_dict(entry) for entry in entries])


def _as_dict(entry: PckEntry) -> dict[str, Any]:
    tcb = {f"sgxtcbcomp{number + 1:02d}svn": entry.tcbm[number] for number in range(_COMPONENTS)}
    tcb["pcesvn"] = int.from_bytes(entry.tcbm[_COMPONENTS:], "little")
    cert = NOT_AVAILABLE if entry.cert is None else urllib.parse.quote(entry.cert, safe="")
    return {"tcb": tcb, "tcbm": entry.tcbm.hex(), "cert": cert}


def _decode(text: bytes, kind: type[_T], what: str) -> _T:
    if len(text) > MAX_BODY:
        raise _malformed(what, "pcs.document", f"{MAX_BODY} bytes at most", f"{len(text)} bytes")
    try:
        return msgspec.json.decode(text, type=kind)
    except (ValueError, RecursionError) as error:
        raise _malformed(what, "pcs.document", "JSON of the specified form", str(error)[:200]) from None


def _utc(moment: dt.datetime) -> dt.datetime:
    try:
        return moment.astimezone(dt.UTC)
    except OverflowError:
        raise _malformed("date", "pcs.document", "a time that UTC has a name for", moment.isoformat()) from None


def _parameter(name: str, expected: str, found: str) -> FormatError:
    return _malformed(name, "pcs.parameter", expected, ascii(found[:64]))


def _shown(data: bytes) -> str:
    return f"{len(data)} bytes, {data[:24]!r}..."


def _malformed(field: str, code: str, expected: str, found: str) -> FormatError:
    return FormatError(
        "not of the form that the provisioning certification service uses",
        code=code,
        field=field,
        expected=expected,
        found=found,
    )
