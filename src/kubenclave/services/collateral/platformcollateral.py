# SPDX-License-Identifier: Apache-2.0
"""What ``PUT platformcollateral`` takes: the JSON that PCCS's administration tool carries to a site without a way out.

Pure: bytes in, items and certificates out, nothing of it verified. TCB infos come as JSON objects, taken apart and put
together by the tool: written compactly again they are what was signed, or their signature will not hold.
"""

import datetime as dt
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Final

import msgspec

from kubenclave.errors import FormatError
from kubenclave.services.collateral.intake import Offered
from kubenclave.services.collateral.items import EARLY, ROOT_CRL, STANDARD, ItemKey, Tee
from kubenclave.services.collateral.queue import MAX_MANIFEST
from kubenclave.wire import pcs

MAX_SIZE: Final = 64 << 20

_TCB_INFOS: Final = {
    "sgx_tcbinfo": (Tee.SGX, STANDARD),
    "sgx_tcbinfo_early": (Tee.SGX, EARLY),
    "tdx_tcbinfo": (Tee.TDX, STANDARD),
    "tdx_tcbinfo_early": (Tee.TDX, EARLY),
    "tcbinfo": (Tee.SGX, STANDARD),  # version 3 of the API
    "tcbinfo_early": (Tee.SGX, EARLY),
}
_IDENTITIES: Final = {
    "qeidentity": ItemKey.identity(Tee.SGX, "qe"),
    "qeidentity_early": ItemKey.identity(Tee.SGX, "qe", EARLY),
    "tdqeidentity": ItemKey.identity(Tee.TDX, "qe"),
    "tdqeidentity_early": ItemKey.identity(Tee.TDX, "qe", EARLY),
    "qveidentity": ItemKey.identity(Tee.SGX, "qve"),
    "qveidentity_early": ItemKey.identity(Tee.SGX, "qve", EARLY),
}
_CRLS: Final = {"processorCrl": "processor", "platformCrl": "platform"}

_Document = dict[str, Any] | str | None
_Digits = Annotated[str, msgspec.Meta(max_length=260)]
_EncryptedPpid = Annotated[str, msgspec.Meta(pattern=r"^([0-9A-Fa-f]{768})?\Z")]
_Manifest = Annotated[str, msgspec.Meta(pattern=r"^[0-9A-Fa-f]*\Z", max_length=MAX_MANIFEST)]
_QeId = Annotated[str, msgspec.Meta(pattern=r"^[\x21-\x7e]{1,260}\Z")]  # as platforms register with


class _Cert(msgspec.Struct, frozen=True):
    tcbm: str
    cert: str


class _PckCerts(msgspec.Struct, frozen=True):
    qe_id: _QeId
    pce_id: _Digits
    certs: tuple[_Cert, ...]
    enc_ppid: _EncryptedPpid | None = None
    platform_manifest: _Manifest | None = None


class _Collaterals(msgspec.Struct, frozen=True):
    pck_certs: tuple[_PckCerts, ...] = ()
    tcbinfos: tuple[dict[str, _Document], ...] = ()
    pckcacrl: dict[str, str] = {}
    certificates: dict[str, str | dict[str, str]] = {}
    qeidentity: _Document = None
    qeidentity_early: _Document = None
    tdqeidentity: _Document = None
    tdqeidentity_early: _Document = None
    qveidentity: _Document = None
    qveidentity_early: _Document = None
    rootcacrl: str = ""


class _Body(msgspec.Struct, frozen=True):
    collaterals: _Collaterals


@dataclass(frozen=True, slots=True)
class PckOffer:
    """PCK certificates of a platform; ``issuer_chains`` are CA and root in PEM, by CA, as far as they came along.

    ``enc_ppid`` (768 hexadecimal digits) and ``manifest`` are what Intel knows the platform by, empty where not told.
    """

    qe_id: str = field(repr=False)
    pce_id: str
    enc_ppid: str = field(repr=False)
    manifest: str = field(repr=False)
    entries: tuple[pcs.PckEntry, ...]
    issuer_chains: Mapping[str, bytes] = field(repr=False)

    @property
    def available(self) -> bool:
        """Whether there is any certificate among them: Intel may have none (yet)."""
        return any(entry.cert is not None for entry in self.entries)


@dataclass(frozen=True, slots=True)
class PlatformCollateral:
    """What was brought. ``chainless`` are revocation lists that came without the chain of their issuer."""

    offered: tuple[Offered, ...]
    chainless: tuple[Offered, ...]
    pck_certs: tuple[PckOffer, ...]


def parse(body: bytes, now: dt.datetime) -> PlatformCollateral:
    """Read the body. Raises FormatError (``platform-collateral.malformed``, ``pcs.*``) and nothing else."""
    if len(body) > MAX_SIZE:
        raise _malformed(f"{len(body)} bytes")
    try:
        given = msgspec.json.decode(body, type=_Body).collaterals
    except (ValueError, RecursionError) as error:
        raise _malformed(str(error)) from None
    crls = tuple(_crls(given, now))
    pck_chains = {ca: chain for ca in _CRLS.values() if (chain := _pck_chain(given, ca))}
    return PlatformCollateral(
        (
            *([Offered(ROOT_CRL, pcs.crl_der(given.rootcacrl.encode()), b"", now)] if given.rootcacrl else []),
            *(each for each in crls if each.issuer_chain),
            *_tcb_infos(given, now),
            *_identities(given, now),
        ),
        tuple(each for each in crls if not each.issuer_chain),
        tuple(
            PckOffer(
                one.qe_id,
                pcs.parse_hex(one.pce_id, 2, "pce_id").hex(),
                one.enc_ppid or "",
                one.platform_manifest or "",
                _entries(one),
                pck_chains,
            )
            for one in given.pck_certs
        ),
    )


def _tcb_infos(given: _Collaterals, now: dt.datetime) -> Iterator[Offered]:
    chain = _chain(given, pcs.TCB_INFO_CHAIN) or _chain(given, pcs.TCB_INFO_CHAIN_V3)
    for each in given.tcbinfos:
        fmspc = each.get("fmspc")
        if not isinstance(fmspc, str):
            raise _malformed("a TCB info without its FMSPC")
        for name, (tee, update) in _TCB_INFOS.items():
            if document := each.get(name):
                key = ItemKey.tcb_info(tee, pcs.parse_fmspc(fmspc), update)
                yield Offered(key, _signed(document, pcs.TCB_INFO), chain, now)


def _identities(given: _Collaterals, now: dt.datetime) -> Iterator[Offered]:
    chain = _chain(given, pcs.IDENTITY_CHAIN)
    for name, key in _IDENTITIES.items():
        if document := getattr(given, name):
            yield Offered(key, _signed(document, pcs.ENCLAVE_IDENTITY), chain, now)


def _crls(given: _Collaterals, now: dt.datetime) -> Iterator[Offered]:
    for name, ca in _CRLS.items():
        if text := given.pckcacrl.get(name):
            yield Offered(ItemKey.pck_crl(ca), pcs.crl_der(text.encode()), _pck_chain(given, ca), now)


def _signed(document: dict[str, Any] | str, member: str) -> bytes:
    """Return a document as PCS sends it."""
    if isinstance(document, str):
        return document.encode()
    signature = document.get("signature")
    if member not in document or not isinstance(signature, str):
        raise _malformed(f"no {member} with its signature")
    return pcs.join_signed(member, msgspec.json.encode(document[member]), pcs.parse_hex(signature, 64, "signature"))


def _chain(given: _Collaterals, name: str) -> bytes:
    """Return a chain in PEM, empty where it did not come along."""
    text = given.certificates.get(name, "")
    return pcs.decode_chain(text) if isinstance(text, str) and text else b""


def _pck_chain(given: _Collaterals, ca: str) -> bytes:
    chains = given.certificates.get(pcs.PCK_CHAIN, {})
    text = chains.get(ca.upper(), "") if isinstance(chains, dict) else ""
    return pcs.decode_chain(text) if text else b""


def _entries(given: _PckCerts) -> tuple[pcs.PckEntry, ...]:
    return tuple(
        pcs.PckEntry(pcs.parse_tcbm(one.tcbm), None if one.cert == pcs.NOT_AVAILABLE else pcs.decode_leaf(one.cert))
        for one in given.certs
    )


def _malformed(found: str) -> FormatError:
    return FormatError(
        "not what pccsadmin fetches",
        code="platform-collateral.malformed",
        expected='{"platforms": [...], "collaterals": {...}}',
        found=found[:200],
    )
