# SPDX-License-Identifier: Apache-2.0
"""Checked items of a SIMULATED world, SGX and TDX, for tests of the collateral service."""

import datetime as dt
from dataclasses import replace

from kubenclave.dcap.anchor import TrustAnchor
from kubenclave.platform.simulated.documents import qe_identity, signed
from kubenclave.platform.simulated.issuer import Issuer, Periods
from kubenclave.platform.simulated.pki import Pki, Role
from kubenclave.platform.simulated.tcb import FMSPC, PlatformTcb
from kubenclave.services.collateral import ingest
from kubenclave.services.collateral.items import EARLY, ROOT_CRL, Item, ItemKey, Kind, Tee
from kubenclave.services.collateral.sources.base import Fetched
from kubenclave.services.collateral.sources.flat import items_of
from kubenclave.sgx.quote import TeeType
from kubenclave.wire import pcs
from tests.evidence import NOW, SEED

ISSUER = Issuer(Pki.from_seed(SEED))
ANCHOR = TrustAnchor.from_certificate(ISSUER.root_der)
FMSPC_TEXT = FMSPC.hex()


def offered(now: dt.datetime = NOW) -> dict[ItemKey, Fetched]:
    """Everything that the routes serve, as a source would hand it out."""
    sgx = ISSUER.collateral(PlatformTcb.UP_TO_DATE, now)
    tdx = ISSUER.collateral(PlatformTcb.UP_TO_DATE, now, tee=TeeType.TDX)
    periods = Periods.around(now)
    found = {
        **items_of(sgx),
        **items_of(sgx, update=EARLY),
        **items_of(tdx),
        ItemKey.pck_crl("processor"): Fetched(
            ISSUER.pki.crl(Role.PROCESSOR_CA, periods.issued, periods.ends),
            _pem(Role.PROCESSOR_CA) + _pem(Role.ROOT),
        ),
        ItemKey(Kind.FMSPCS): Fetched(
            f'[{{"fmspc":"{FMSPC_TEXT}","platform":"E5"}},{{"fmspc":"00606a000000","platform":"client"}}]'.encode(), b""
        ),
    }
    for enclave, name in (("qve", "QVE"), ("qae", "QAE")):
        document = {**qe_identity(periods.issued, periods.ends, bytes(32)), "id": name}
        found[ItemKey.identity(Tee.SGX, enclave)] = _fetched(document, pcs.ENCLAVE_IDENTITY)
    for tee in Tee:
        found[ItemKey(Kind.EVALUATION_NUMBERS, tee=tee)] = _fetched(_numbers(tee, periods), pcs.EVALUATION_NUMBERS)
    return found


def items(now: dt.datetime = NOW) -> dict[ItemKey, Item]:
    """The same, checked."""
    found = offered(now)
    root_crl = _checked(ROOT_CRL, found[ROOT_CRL], None, now)
    return {key: _checked(key, each, root_crl, now) for key, each in found.items()}


def older(item: Item, by: dt.timedelta = dt.timedelta(days=3)) -> Item:
    """The item as if it had been issued earlier; its bytes stay."""
    return replace(item, issued=item.issued - by)


def _checked(key: ItemKey, fetched: Fetched, root_crl: Item | None, now: dt.datetime) -> Item:
    return ingest.check(
        key,
        fetched.body,
        fetched.issuer_chain,
        anchor=ANCHOR,
        now=now,
        root_crl=root_crl,
        source="test",
        fetched=now,
    )


def _fetched(document: dict[str, object], member: str) -> Fetched:
    text, signature = signed(ISSUER.pki, document)
    return Fetched(pcs.join_signed(member, text, signature), _pem(Role.TCB_SIGNER) + _pem(Role.ROOT))


def _numbers(tee: Tee, periods: Periods) -> dict[str, object]:
    return {
        "id": tee.upper(),
        "version": 1,
        "issueDate": f"{periods.issued:%Y-%m-%dT%H:%M:%SZ}",
        "nextUpdate": f"{periods.ends:%Y-%m-%dT%H:%M:%SZ}",
        "tcbEvalNumbers": [
            {
                "tcbEvaluationDataNumber": 17,
                "tcbRecoveryEventDate": "2025-05-13T00:00:00Z",
                "tcbDate": "2025-05-14T00:00:00Z",
            }
        ],
    }


def _pem(role: Role) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding

    return ISSUER.pki.certificates[role].public_bytes(Encoding.PEM)
