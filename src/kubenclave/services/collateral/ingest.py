# SPDX-License-Identifier: Apache-2.0
"""What an item must pass before it is stored or served: signature, role, chain, dates, and being what was asked for.

Everything is judged under the one configured root. Pure: bytes and the time in, an ``Item`` or a refusal out.
"""

import datetime as dt
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from kubenclave.dcap.anchor import TrustAnchor
from kubenclave.dcap.cache import Cache
from kubenclave.dcap.chain import (
    Certificate,
    Dated,
    verify_issuer_chain,
    verify_pck_chain,
    verify_raw_signature,
    verify_tcb_signer,
)
from kubenclave.dcap.collateral import load_json
from kubenclave.dcap.crl import verify_crl
from kubenclave.dcap.describe import zulu
from kubenclave.dcap.documents import EnclaveIdentity, TcbInfo
from kubenclave.dcap.pckext import PckCa, PckExtension
from kubenclave.errors import FormatError, TrustError, UsageError
from kubenclave.services.collateral.items import EARLY, STANDARD, Item, ItemKey, Kind, Tee
from kubenclave.wire import pcs

UNSIGNED_PERIOD: Final = dt.timedelta(days=7)
"""How long the list of FMSPCs counts as current: it carries no date."""

IDENTITIES: Final = {
    (Tee.SGX, "qe"): "QE",
    (Tee.TDX, "qe"): "TD_QE",
    (Tee.SGX, "qve"): "QVE",
    (Tee.SGX, "qae"): "QAE",
}
"""What an identity calls itself, by the key's TEE and subject."""

_FMSPC: Final = re.compile("[0-9a-f]{12}")
_Time = Annotated[dt.datetime, msgspec.Meta(tz=True)]


class _Identity(msgspec.Struct, frozen=True, rename="camel"):
    """What every enclave identity has; those of the quoting enclaves are read whole besides."""

    id: Literal["QE", "TD_QE", "QVE", "QAE"]
    version: Literal[2]
    issue_date: _Time
    next_update: _Time
    tcb_evaluation_data_number: Annotated[int, msgspec.Meta(ge=0, le=0xFFFFFFFF)]


def is_judged_by_root_crl(key: ItemKey) -> bool:
    """Tell whether an item is held against the root's list: all that somebody signed, but that list itself."""
    return key.kind not in (Kind.ROOT_CRL, Kind.FMSPCS)


def check(  # each keyword is something else that the outcome rests on
    key: ItemKey,
    body: bytes,
    issuer_chain: bytes,
    *,
    anchor: TrustAnchor,
    now: dt.datetime,
    root_crl: Item | None,
    source: str,
    fetched: dt.datetime,
) -> Item:
    """Return the item that ``body`` is, once all of it holds.

    ``body`` is DER for CRLs and a whole document as PCS sends it for the others, ``issuer_chain`` PEM. ``root_crl``
    is the root's list, which every other signed item is held against.
    Raises FormatError for what cannot be read, TrustError (codes ``collateral.*``, and those of the verifier) for
    what is not genuine, not current or not what was asked for, UsageError for a key that names nothing.
    """
    check_key(key)
    if key.kind is Kind.FMSPCS:
        pcs.parse_fmspcs(body)
        return Item(key, body, b"", fetched, fetched + UNSIGNED_PERIOD, 0, source, fetched)
    issued, ends, number, chain, dated = _CHECKS[key.kind](_Given(key, body, issuer_chain, anchor, root_crl))
    root = Dated("root certificate", anchor.not_before, anchor.not_after)
    judge_dates([root, *dated, Dated(str(key), issued, ends, is_collateral=True)], now)
    return Item(key, body, chain, issued, ends, number, source, fetched)


def check_key(key: ItemKey) -> None:
    """Raise UsageError for a key that names no item."""
    versioned = key.kind in (Kind.TCB_INFO, Kind.IDENTITY)
    numbered = key.update.isascii() and key.update.isdecimal()
    of_either_tee = versioned or key.kind is Kind.EVALUATION_NUMBERS
    named = (
        (key.update in (STANDARD, EARLY) or numbered if versioned else not key.update)
        and (of_either_tee or key.tee is Tee.SGX)
        and _is_subject(key)
    )
    if not named:
        raise UsageError(
            "there is no such item of collateral", code="collateral.no-such-item", found=ascii(str(key))[:120]
        )


def _is_subject(key: ItemKey) -> bool:
    if key.kind is Kind.PCK_CRL:
        return key.subject in set(PckCa)
    if key.kind is Kind.IDENTITY:
        return (key.tee, key.subject) in IDENTITIES
    if key.kind is Kind.TCB_INFO:
        return _FMSPC.fullmatch(key.subject) is not None
    return not key.subject


@dataclass(frozen=True, slots=True)
class _Given:
    """What a check goes by."""

    key: ItemKey
    body: bytes
    chain: bytes
    anchor: TrustAnchor
    root_crl: Item | None

    def signed(self, member: str, what: str, code: str) -> tuple[bytes, Certificate]:
        """Return the inner text of a document and who signed it."""
        inner, signature = pcs.split_signed(self.body, member)
        name = f"signer of the {what}"
        signer = verify_tcb_signer(self.chain, self.anchor, name, Cache()).called(name)
        _refuse_revoked(signer, self.root_crl, self.anchor, "tcb-signer.revoked")
        verify_raw_signature(signer.key, signature, inner, what, code)
        return inner, signer


_Parts = tuple[dt.datetime, dt.datetime, int, bytes, Iterable[Dated]]
"""Issue date, next update, number, issuer chain as it is kept, and what else has dates."""


def _root_crl(given: _Given) -> _Parts:
    crl = verify_crl(given.body, "root CRL", given.anchor.subject, given.anchor.key)
    return crl.dated.not_before, crl.dated.not_after, 0, b"", ()


def _pck_crl(given: _Given) -> _Parts:
    issuer = verify_issuer_chain(given.chain, given.anchor, Cache()).called("PCK CRL issuer")
    _refuse_revoked(issuer, given.root_crl, given.anchor, "pck-ca.revoked")
    _compare("issuer of the PCK CRL", f"Intel SGX PCK {given.key.subject.capitalize()} CA", issuer.link.common_name)
    crl = verify_crl(given.body, "PCK CRL", issuer.subject, issuer.key)
    return crl.dated.not_before, crl.dated.not_after, 0, _two(given.chain, issuer), (issuer.dated,)


def _tcb_info(given: _Given) -> _Parts:
    inner, signer = given.signed(pcs.TCB_INFO, "TCB info", "tcb-info.signature")
    info = TcbInfo.parse(inner)
    _compare("TEE of TCB info", given.key.tee, info.tee.name.lower())
    _compare("FMSPC of TCB info", given.key.subject, info.fmspc.hex())
    number = info.tcb_evaluation_data_number
    _compare_number(given.key, number)
    return info.issue_date, info.next_update, number, _two(given.chain, signer), (signer.dated,)


def _identity(given: _Given) -> _Parts:
    inner, signer = given.signed(pcs.ENCLAVE_IDENTITY, "enclave identity", "qe-identity.signature")
    head = _head(inner)
    _compare("id of the identity", IDENTITIES[given.key.tee, given.key.subject], head.id)
    if given.key.subject == "qe":
        EnclaveIdentity.parse(inner)
    number = head.tcb_evaluation_data_number
    _compare_number(given.key, number)
    return head.issue_date, head.next_update, number, _two(given.chain, signer), (signer.dated,)


def _head(inner: bytes) -> _Identity:
    try:
        head = msgspec.convert(load_json(inner, "enclave identity"), _Identity)
        _ = head.issue_date.astimezone(dt.UTC), head.next_update.astimezone(dt.UTC)
    except (ValueError, OverflowError) as error:  # OverflowError: so near year 1 or 9999 that UTC has no name for it
        raise FormatError(
            "signed document is not of the specified form", code="qe-identity.malformed", found=str(error)[:200]
        ) from None
    return head


def _numbers(given: _Given) -> _Parts:
    what, code = "list of TCB evaluation data numbers", "evaluation-numbers.signature"
    inner, signer = given.signed(pcs.EVALUATION_NUMBERS, what, code)
    listed = pcs.parse_evaluation_numbers(inner)
    _compare("TEE of the list", given.key.tee, listed.tee.lower())
    return listed.issued, listed.next_update, 0, _two(given.chain, signer), (signer.dated,)


_CHECKS: Final[dict[Kind, Callable[[_Given], _Parts]]] = {
    Kind.ROOT_CRL: _root_crl,
    Kind.PCK_CRL: _pck_crl,
    Kind.TCB_INFO: _tcb_info,
    Kind.IDENTITY: _identity,
    Kind.EVALUATION_NUMBERS: _numbers,
}


def check_pck_leaf(
    leaf: bytes, issuer_chain: bytes, *, anchor: TrustAnchor, now: dt.datetime, root_crl: Item, pck_crl: Item
) -> tuple[PckExtension, bytes]:
    """Return what a PCK certificate (PEM) says of its platform, and its CA and root in PEM, once all of it holds.

    ``issuer_chain`` is CA and root, ``pck_crl`` the list of that CA. Raises TrustError, FormatError.
    """
    chain = verify_pck_chain(leaf + issuer_chain, anchor, Cache())
    _refuse_revoked(chain.ca, root_crl, anchor, "pck-ca.revoked")
    verify_crl(pck_crl.body, "PCK CRL", chain.ca.subject, chain.ca.key).refuse(chain.leaf, "pck.revoked")
    judge_dates([chain.ca.dated, chain.leaf.dated], now)
    return chain.extension, _two(issuer_chain, chain.ca)


def judge_dates(dated: Iterable[Dated], now: dt.datetime) -> None:
    """Raise TrustError for the first that is not valid now."""
    for each in dated:
        if each.not_before <= now <= each.not_after:
            continue
        early = now < each.not_before
        what = "collateral" if each.is_collateral else "certificate"
        codes = {
            ("collateral", True): "collateral.not-yet-valid",
            ("collateral", False): "collateral.expired",
            ("certificate", True): "certificate.not-yet-valid",
            ("certificate", False): "certificate.expired",
        }
        raise TrustError(
            f"{each.what} is {'not valid yet' if early else 'expired'}",
            code=codes[what, early],
            field=each.what,
            expected=f"{zulu(each.not_before)} to {zulu(each.not_after)}",
            found=zulu(now),
            hint="check the clock" if early else "the source serves old data: ask another",
        )


def _refuse_revoked(certificate: Certificate, root_crl: Item | None, anchor: TrustAnchor, code: str) -> None:
    if root_crl is None:
        raise TrustError(
            "without the root's CRL nobody can tell whether a signer is revoked",
            code="collateral.no-root-crl",
            hint="fetch the root CRL first",
        )
    verify_crl(root_crl.body, "root CRL", anchor.subject, anchor.key).refuse(certificate, code)


def _two(pem: bytes, signer: Certificate) -> bytes:
    """Return signer and root as PEM in this order: what every client of PCS expects of a chain."""
    der = signer.raw.public_bytes(Encoding.DER)
    blocks = pcs.split_chain(pem)
    own = [block for block in blocks if _der(block) == der]
    others = [block for block in blocks if _der(block) != der]
    if (len(own), len(others)) != (1, 1):
        raise _other("issuer chain", "signer and root", f"{len(blocks)} certificates")
    return own[0] + others[0]


def _der(block: bytes) -> bytes:
    return x509.load_pem_x509_certificate(block).public_bytes(Encoding.DER)


def _compare_number(key: ItemKey, number: int) -> None:
    if key.update not in (STANDARD, EARLY):
        _compare("TCB evaluation data number", key.update, str(number))


def _compare(field: str, expected: str, found: Any) -> None:
    if expected != found:
        raise _other(field, expected, str(found))


def _other(field: str, expected: str, found: str) -> TrustError:
    return TrustError(
        "genuine, but not what was asked for",
        code="collateral.other",
        field=field,
        expected=expected,
        found=found,
        hint="the source mixes items up, or somebody between does",
    )
