# SPDX-License-Identifier: Apache-2.0
"""Items out of the flat JSON object of collateral that verifiers exchange."""

import msgspec
from cryptography import x509
from cryptography.x509.oid import NameOID

from kubenclave.dcap.anchor import UNREADABLE
from kubenclave.dcap.collateral import Collateral, load_json
from kubenclave.dcap.pckext import PckCa
from kubenclave.errors import FormatError
from kubenclave.services.collateral.items import ROOT_CRL, STANDARD, ItemKey, Tee
from kubenclave.services.collateral.sources.base import Fetched
from kubenclave.wire import pcs


class _Head(msgspec.Struct, frozen=True):
    """What tells which item TCB info is; version 2 has no id."""

    fmspc: str
    id: str = "SGX"


def items_of(collateral: Collateral, *, update: str = STANDARD) -> dict[ItemKey, Fetched]:
    """Return the items in it, unverified, its documents as those of the generation ``update``. Raises FormatError."""
    head = _head(collateral.tcb_info)
    tee = Tee.TDX if head.id == "TDX" else Tee.SGX
    info = pcs.join_signed(pcs.TCB_INFO, collateral.tcb_info, collateral.tcb_info_signature)
    identity = pcs.join_signed(pcs.ENCLAVE_IDENTITY, collateral.qe_identity, collateral.qe_identity_signature)
    ca = _ca_of(collateral.pck_crl_issuer_chain)
    return {
        ROOT_CRL: Fetched(collateral.root_ca_crl, b""),
        ItemKey.pck_crl(ca): Fetched(collateral.pck_crl, collateral.pck_crl_issuer_chain),
        ItemKey.tcb_info(tee, pcs.parse_fmspc(head.fmspc), update): Fetched(info, collateral.tcb_info_issuer_chain),
        ItemKey.identity(tee, update=update): Fetched(identity, collateral.qe_identity_issuer_chain),
    }


def _head(text: bytes) -> _Head:
    try:
        return msgspec.convert(load_json(text, "TCB info"), _Head)
    except msgspec.ValidationError as error:
        raise _malformed("tcb_info", "an FMSPC", str(error)[:200]) from None


def _ca_of(chain: bytes) -> PckCa:
    """Return whose revocation list it is, by the names in its issuer's chain."""
    try:
        certificates = x509.load_pem_x509_certificates(b"".join(pcs.split_chain(chain)))
        names = [
            str(each.value) for one in certificates for each in one.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        ]
    except UNREADABLE:
        names = []
    for ca in PckCa:
        if f"Intel SGX PCK {ca.capitalize()} CA" in names:
            return ca
    raise _malformed("pck_crl_issuer_chain", "a PCK CA", ", ".join(names)[:200] or "no certificate that can be read")


def _malformed(field: str, expected: str, found: str) -> FormatError:
    return FormatError(
        "not collateral of a platform", code="collateral.malformed", field=field, expected=expected, found=found
    )
