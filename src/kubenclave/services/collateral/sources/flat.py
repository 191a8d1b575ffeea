# SPDX-License-Identifier: Apache-2.0
"""Items out of the flat JSON object of collateral that verifiers exchange."""

import msgspec

from kubenclave.dcap.collateral import Collateral, load_json
from kubenclave.errors import FormatError
from kubenclave.services.collateral.items import ROOT_CRL, STANDARD, ItemKey, Tee
from kubenclave.services.collateral.sources.base import Fetched
from kubenclave.wire import pcs


class _Head(msgspec.Struct, frozen=True):
    """What tells which item a document is; version 2 of TCB info has no id."""

    id: str = "SGX"
    fmspc: str = ""


def items_of(collateral: Collateral, ca: str, *, update: str = STANDARD) -> dict[ItemKey, Fetched]:
    """Return the items in it, unverified; ``ca`` is the PCK CA whose CRL it holds. Raises FormatError."""
    tee = Tee.TDX if _head(collateral.tcb_info, "TCB info").id == "TDX" else Tee.SGX
    fmspc = pcs.parse_fmspc(_head(collateral.tcb_info, "TCB info").fmspc)
    info = pcs.join_signed(pcs.TCB_INFO, collateral.tcb_info, collateral.tcb_info_signature)
    identity = pcs.join_signed(pcs.ENCLAVE_IDENTITY, collateral.qe_identity, collateral.qe_identity_signature)
    return {
        ROOT_CRL: Fetched(collateral.root_ca_crl, b""),
        ItemKey.pck_crl(ca): Fetched(collateral.pck_crl, collateral.pck_crl_issuer_chain),
        ItemKey.tcb_info(tee, fmspc, update): Fetched(info, collateral.tcb_info_issuer_chain),
        ItemKey.identity(tee, update=update): Fetched(identity, collateral.qe_identity_issuer_chain),
    }


def _head(text: bytes, what: str) -> _Head:
    try:
        return msgspec.convert(load_json(text, what), _Head)
    except msgspec.ValidationError as error:
        raise FormatError(
            "not a signed document of collateral", code="collateral.malformed", field=what, found=str(error)[:200]
        ) from None
