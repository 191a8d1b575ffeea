# SPDX-License-Identifier: Apache-2.0
"""Items of collateral: what there is to fetch, keep and serve, each with a name of its own."""

import datetime as dt
import enum
from dataclasses import dataclass, field
from typing import Self


class Kind(enum.StrEnum):
    """Kinds of items. ``subject`` of a key says which one of the kind."""

    ROOT_CRL = "root-crl"  # subject: empty
    PCK_CRL = "pck-crl"  # subject: processor or platform
    TCB_INFO = "tcb-info"  # subject: FMSPC, 12 hex digits in lower case
    IDENTITY = "identity"  # subject: qe, qve or qae
    EVALUATION_NUMBERS = "tcb-evaluation-data-numbers"  # subject: empty
    FMSPCS = "fmspcs"  # subject: empty; not signed, so never part of a verdict


class Tee(enum.StrEnum):
    """Whose item it is; what belongs to both goes under SGX."""

    SGX = "sgx"
    TDX = "tdx"


STANDARD = "standard"
EARLY = "early"


@dataclass(frozen=True, slots=True, order=True)
class ItemKey:
    """Name of an item.

    ``update`` is ``standard``, ``early`` or a TCB evaluation data number in decimal, for TCB info and identities; empty
    for all others.
    """

    kind: Kind
    subject: str = ""
    tee: Tee = Tee.SGX
    update: str = ""

    def __str__(self) -> str:
        return ":".join(each for each in (self.tee, self.kind, self.subject, self.update) if each)

    @classmethod
    def tcb_info(cls, tee: Tee, fmspc: str, update: str = STANDARD) -> Self:
        """TCB info of an FMSPC (12 hex digits in whatever case)."""
        return cls(Kind.TCB_INFO, fmspc.lower(), tee, update)

    @classmethod
    def identity(cls, tee: Tee, enclave: str = "qe", update: str = STANDARD) -> Self:
        """Identity of the quoting (``qe``), quote verification (``qve``) or quote appraisal enclave (``qae``)."""
        return cls(Kind.IDENTITY, enclave, tee, update)

    @classmethod
    def pck_crl(cls, ca: str) -> Self:
        """Revocation list of the ``processor`` or ``platform`` CA."""
        return cls(Kind.PCK_CRL, ca.lower())


ROOT_CRL = ItemKey(Kind.ROOT_CRL)


@dataclass(frozen=True, slots=True)
class Item:
    """One item as its signer wrote it.

    ``body``: CRLs in DER; signed JSON documents whole, as PCS answers (``{"tcbInfo":{...},"signature":"..."}``), byte
    for byte. ``issuer_chain``: PEM, signer then root, empty for the root CRL and the list of FMSPCs.
    ``issued`` and ``next_update``: CRLs thisUpdate and nextUpdate; documents issueDate and nextUpdate.
    ``number``: TCB evaluation data number, 0 where there is none.
    """

    key: ItemKey
    body: bytes = field(repr=False)
    issuer_chain: bytes = field(repr=False)
    issued: dt.datetime
    next_update: dt.datetime
    number: int
    source: str
    fetched: dt.datetime
