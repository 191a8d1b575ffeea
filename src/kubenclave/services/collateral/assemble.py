# SPDX-License-Identifier: Apache-2.0
"""Collateral of a platform, put together from items, and what a quote says about which platform that is."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple, TypeAlias

from cryptography import x509
from cryptography.x509.oid import NameOID

from kubenclave.dcap.anchor import UNREADABLE, unreadable
from kubenclave.dcap.collateral import Collateral
from kubenclave.dcap.pckext import SGX_EXTENSION, PckCa, PckExtension
from kubenclave.errors import FormatError, TrustError
from kubenclave.services.collateral.items import ROOT_CRL, STANDARD, Item, ItemKey, Tee
from kubenclave.sgx.quote import Quote, TeeType
from kubenclave.wire import pcs

Getter: TypeAlias = Callable[[ItemKey], Awaitable[Item]]
"""Returns an item, or raises what ``CollateralCache.get`` does."""

_PCK_NAME: Final = "SGX PCK Certificate"


class Needs(NamedTuple):
    """Which collateral a quote needs: ``fmspc`` 12 hexadecimal digits, ``ca`` processor or platform."""

    tee: Tee
    fmspc: str
    ca: str


async def collateral_for(get: Getter, *, tee: Tee, fmspc: str, ca: str, update: str = STANDARD) -> Collateral:
    """Return the collateral of the platforms of an FMSPC under a CA; ``update`` is the generation.

    The items are asked for at once. Raises what ``get`` raises, of the first that failed in the order root CRL, PCK
    CRL, TCB info, identity.
    """
    keys = (
        ROOT_CRL,
        ItemKey.pck_crl(ca),
        ItemKey.tcb_info(tee, fmspc, update),
        ItemKey.identity(tee, update=update),
    )
    found = await asyncio.gather(*(get(key) for key in keys), return_exceptions=True)
    for each in found:
        if isinstance(each, BaseException):
            raise each
    root_crl, pck_crl, info, identity = (each for each in found if isinstance(each, Item))
    return collateral_of(root_crl=root_crl, pck_crl=pck_crl, tcb_info=info, identity=identity)


def collateral_of(*, root_crl: Item, pck_crl: Item, tcb_info: Item, identity: Item) -> Collateral:
    """Return four items as one. Raises FormatError for a document that is none."""
    info, info_signature = pcs.split_signed(tcb_info.body, pcs.TCB_INFO)
    qe, qe_signature = pcs.split_signed(identity.body, pcs.ENCLAVE_IDENTITY)
    return Collateral(
        pck_crl_issuer_chain=pck_crl.issuer_chain,
        root_ca_crl=root_crl.body,
        pck_crl=pck_crl.body,
        tcb_info_issuer_chain=tcb_info.issuer_chain,
        tcb_info=info,
        tcb_info_signature=info_signature,
        qe_identity_issuer_chain=identity.issuer_chain,
        qe_identity=qe,
        qe_identity_signature=qe_signature,
    )


def needs_of(quote: bytes | Quote, pck_chain: bytes | None = None) -> Needs:
    """Return which collateral a quote needs, as its PCK certificate says; nothing is verified.

    ``pck_chain`` (PEM) is for a quote that carries no chain. Raises FormatError for what cannot be read, TrustError
    ``pck.missing`` where there is no chain.
    """
    parsed = Quote.parse(quote) if isinstance(quote, bytes) else quote
    chain = parsed.signature.certification_data.pck_chain or pck_chain
    if chain is None:
        raise TrustError(
            "the quote carries no PCK certificate",
            code="pck.missing",
            hint="fetch the PCK certificate of that platform and pass it beside the quote",
        )
    extension, ca = read_leaf(chain)
    tee = Tee.TDX if parsed.header.tee_type is TeeType.TDX else Tee.SGX
    return Needs(tee, extension.fmspc.hex(), ca.value)


def read_leaf(chain: bytes) -> tuple[PckExtension, PckCa]:
    """Return what the PCK certificate in a chain (PEM) says of its platform, unverified. Raises FormatError."""
    try:
        certificates = x509.load_pem_x509_certificates(b"".join(pcs.split_chain(chain)))
        leaf = next(each for each in certificates if _PCK_NAME in _common_name(each.subject))
        value = leaf.extensions.get_extension_for_oid(SGX_EXTENSION).value
        assert isinstance(value, x509.UnrecognizedExtension)
        ca = PckCa.PLATFORM if "Platform" in _common_name(leaf.issuer) else PckCa.PROCESSOR
        return PckExtension.parse(value.value, ca), ca
    except StopIteration:
        raise _no_leaf("other certificates") from None
    except UNREADABLE as error:
        raise _no_leaf(unreadable(error)) from None


def _common_name(name: x509.Name) -> str:
    return str(next((each.value for each in name.get_attributes_for_oid(NameOID.COMMON_NAME)), ""))


def _no_leaf(found: str) -> FormatError:
    return FormatError(
        "no PCK certificate can be read",
        code="pck.unreadable",
        expected="PEM with a PCK certificate in it",
        found=found,
    )
