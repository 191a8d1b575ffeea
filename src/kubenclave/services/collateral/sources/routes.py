# SPDX-License-Identifier: Apache-2.0
"""Where PCS and PCCS have an item, and how it is read out of their answer."""

from typing import Final

from kubenclave.errors import FormatError
from kubenclave.services.collateral.items import EARLY, STANDARD, ItemKey, Kind
from kubenclave.services.collateral.sources.base import Fetched, PckAnswer
from kubenclave.services.collateral.sources.http import Answer
from kubenclave.wire import pcs
from kubenclave.wire.pcs import PckEntry

_CHAINS: Final = {
    Kind.PCK_CRL: (pcs.PCK_CRL_CHAIN,),
    Kind.TCB_INFO: (pcs.TCB_INFO_CHAIN, pcs.TCB_INFO_CHAIN_V3),
    Kind.IDENTITY: (pcs.IDENTITY_CHAIN,),
    Kind.EVALUATION_NUMBERS: (pcs.EVALUATION_NUMBERS_CHAIN,),
}
_CRLS: Final = frozenset({Kind.ROOT_CRL, Kind.PCK_CRL})


def route_of(key: ItemKey, version: str = "v4") -> tuple[str, dict[str, str]]:
    """Return path and query parameters of an item; the root CRL is where PCCS has it."""
    base = f"/{key.tee}/certification/{version}"
    if key.kind is Kind.ROOT_CRL:
        return f"{base}/rootcacrl", {}
    if key.kind is Kind.PCK_CRL:
        return f"{base}/pckcrl", {"ca": key.subject, "encoding": "der"}
    if key.kind is Kind.TCB_INFO:
        return f"{base}/tcb", {"fmspc": key.subject.upper(), **_generation(key)}
    if key.kind is Kind.IDENTITY:
        return f"{base}/{key.subject}/identity", _generation(key)
    if key.kind is Kind.EVALUATION_NUMBERS:
        return f"{base}/tcbevaluationdatanumbers", {}
    return f"{base}/fmspcs", {"platform": "all"}


def item_of(key: ItemKey, answer: Answer) -> Fetched:
    """Return the item in an answer: CRLs in DER whatever they came as. Raises FormatError."""
    body = pcs.crl_der(answer.body) if key.kind in _CRLS else answer.body
    names = _CHAINS.get(key.kind)
    return Fetched(body, pcs.decode_chain(_present(answer, *names)) if names else b"")


def pck_answer(answer: Answer) -> PckAnswer:
    """Return the one certificate that ``pckcert`` answers with. Raises FormatError."""
    leaf = pcs.decode_leaf(answer.body.decode("latin-1"))
    tcbm = pcs.parse_tcbm(_present(answer, pcs.PCK_TCBM))
    return PckAnswer((PckEntry(tcbm, leaf),), pcs.decode_chain(_present(answer, pcs.PCK_CHAIN)))


def _present(answer: Answer, *names: str) -> str:
    if value := answer.header(*names):
        return value
    raise FormatError(
        "the answer of the source lacks a header", code="source.header", field=names[0], hint="is it a PCS or a PCCS?"
    )


def _generation(key: ItemKey) -> dict[str, str]:
    if key.update in (STANDARD, EARLY):
        return {"update": key.update}
    return {"tcbEvaluationDataNumber": key.update}
