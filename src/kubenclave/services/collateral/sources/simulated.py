# SPDX-License-Identifier: Apache-2.0
"""The SIMULATED platform of ``kubenclave sim`` as a source: its state directory holds the seed of its root.

It has one FMSPC, and two generations of documents: the early one is a TCB recovery ahead, in which a platform that
needs software hardening is out of date and all others are what they were. A platform without a root of its own has what
its issuer has sent: SGX alone, one generation, and the list of its own CA.
"""

import asyncio
import datetime as dt
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from kubenclave.dcap.pckext import PckCa
from kubenclave.dcap.tcb import TcbStatus
from kubenclave.errors import KubenclaveError
from kubenclave.platform.simulated.documents import EVALUATION_NUMBER, LEVELS, qe_identity, signed, tcb_info
from kubenclave.platform.simulated.enclaves import MR_SIGNER
from kubenclave.platform.simulated.issuer import Issuer, Periods
from kubenclave.platform.simulated.pki import Pki, Role, pem_chain
from kubenclave.platform.simulated.provisioning import provisioning_of
from kubenclave.platform.simulated.state import PlatformState
from kubenclave.platform.simulated.tcb import FMSPC, PCE_ID, PlatformTcb
from kubenclave.services.collateral.items import EARLY, STANDARD, ItemKey, Kind, Tee
from kubenclave.services.collateral.sources.base import Fetched, PckAnswer, PckRequest, SourceError, unknown
from kubenclave.services.collateral.sources.flat import items_of
from kubenclave.sgx.quote import TeeType
from kubenclave.wire import pcs

NEXT_NUMBER: Final = EVALUATION_NUMBER + 1
"""TCB evaluation data number of the early generation."""
NEXT_LEVELS: Final = tuple(
    replace(level, status=TcbStatus.OUT_OF_DATE) if level.status is TcbStatus.SW_HARDENING_NEEDED else level
    for level in LEVELS
)
_EARLY: Final = frozenset({EARLY, str(NEXT_NUMBER)})
_GENERATIONS: Final = _EARLY | {"", STANDARD, str(EVALUATION_NUMBER)}
_OTHER_ENCLAVES: Final = {"qve": ("QVE", 2), "qae": ("QAE", 3)}
"""Id and ISVPRODID of the identities beside the quoting enclaves'. No enclave of the simulation has them."""


class SimulatedSource:
    """What the provisioning service of a SIMULATED platform, kept in ``directory``, knows."""

    def __init__(self, directory: Path, *, now: Callable[[], dt.datetime], name: str = "simulated") -> None:
        self.name: Final = name
        self._directory: Final = directory
        self._now: Final = now

    async def fetch(self, key: ItemKey) -> Fetched:
        """Return one item, made anew for the state of the platform's TCB as it is."""
        items = await asyncio.to_thread(self._items, key)
        if key not in items:
            raise unknown(str(key), self.name, f"the SIMULATED platform has FMSPC {FMSPC.hex()} alone")
        return items[key]

    async def pck_certs(self, request: PckRequest) -> PckAnswer:
        """Return the certificates of the platform in all states; it is one platform, whoever asks."""
        if request.pce_id != PCE_ID:
            raise unknown("PCK certificates", self.name, f"PCE-ID {request.pce_id.hex()}")
        return await asyncio.to_thread(self._pck_certs)

    async def close(self) -> None:
        """Nothing is open."""

    def _items(self, key: ItemKey) -> dict[ItemKey, Fetched]:
        if key.update not in _GENERATIONS:
            return {}
        state = self._state()
        if state.seed is None:
            collateral = provisioning_of(state, self._directory).collateral(state.tcb, self._now())
            return items_of(collateral, update=key.update or STANDARD)
        return {key: found} if (found := OwnItems(state.seed, state.tcb, self._now()).get(key)) else {}

    def _pck_certs(self) -> PckAnswer:
        provisioning = provisioning_of(self._state(), self._directory)
        entries, issuers = {}, b""
        for tcb in PlatformTcb:
            leaf, *others = pcs.split_chain(provisioning.pck_chain(tcb))
            tcbm = tcb.svns.cpu_svn + tcb.svns.pce_svn.to_bytes(2, "little")
            entries[tcbm] = pcs.PckEntry(tcbm, leaf)
            issuers = b"".join(others)
        return PckAnswer(tuple(entries.values()), issuers)

    def _state(self) -> PlatformState:
        try:
            return PlatformState.load(self._directory)
        except KubenclaveError as error:
            raise SourceError(
                f"the SIMULATED platform cannot be read: {error}",
                code="source.unreachable",
                field=self.name,
                hint=error.hint,
            ) from error


@dataclass(frozen=True, slots=True)
class OwnItems:
    """Items of a SIMULATED world: the seed of its PKI, the state of its platform, and the time."""

    seed: bytes
    tcb: PlatformTcb
    now: dt.datetime

    def get(self, key: ItemKey) -> Fetched | None:
        """Return an item, None where that world has no such thing."""
        issuer = Issuer(Pki.from_seed(self.seed))
        if key.kind is Kind.FMSPCS:
            return Fetched(json.dumps([{"fmspc": FMSPC.hex().upper(), "platform": "E5"}]).encode(), b"")
        if key.kind is Kind.PCK_CRL and key.subject == PckCa.PROCESSOR:
            return self._processor_crl(issuer.pki)
        if key.kind is Kind.EVALUATION_NUMBERS:
            return self._signed(issuer.pki, pcs.EVALUATION_NUMBERS, self._numbers(key.tee))
        if key.kind is Kind.IDENTITY and key.subject in _OTHER_ENCLAVES and key.tee is Tee.SGX:
            return self._signed(issuer.pki, pcs.ENCLAVE_IDENTITY, self._other_identity(key.subject))
        tee = TeeType.TDX if key.tee is Tee.TDX else TeeType.SGX
        if key.update in _EARLY:
            return self._early(issuer.pki, key, tee)
        collateral = issuer.collateral(self.tcb, self.now, tee=tee)
        return items_of(collateral, update=key.update or STANDARD).get(key)

    def _early(self, pki: Pki, key: ItemKey, tee: TeeType) -> Fetched | None:
        """Return a document of the generation that is a recovery ahead."""
        periods = self._periods()
        if key.kind is Kind.IDENTITY and key.subject == "qe":
            identity = qe_identity(periods.issued, periods.ends, MR_SIGNER, tee=tee, evaluation_number=NEXT_NUMBER)
            return self._signed(pki, pcs.ENCLAVE_IDENTITY, identity)
        if key.kind is Kind.TCB_INFO and key.subject == FMSPC.hex():
            info = tcb_info(periods.issued, periods.ends, tee=tee, levels=NEXT_LEVELS, evaluation_number=NEXT_NUMBER)
            return self._signed(pki, pcs.TCB_INFO, info)
        return None

    def _periods(self) -> Periods:
        return Periods.around(self.now, expired=self.tcb is PlatformTcb.EXPIRED)

    def _processor_crl(self, pki: Pki) -> Fetched:
        periods, role = self._periods(), Role.PROCESSOR_CA
        chain = pem_chain(pki.certificates[role], pki.certificates[Role.ROOT])
        return Fetched(pki.crl(role, periods.issued, periods.ends), chain)

    def _numbers(self, tee: Tee) -> dict[str, Any]:
        periods, newest = self._periods(), LEVELS[0].tcb_date
        recovery = periods.issued.replace(day=1)
        return {
            "id": tee.value.upper(),
            "version": 1,
            "issueDate": _time(periods.issued),
            "nextUpdate": _time(periods.ends),
            "tcbEvalNumbers": [
                {"tcbEvaluationDataNumber": number, "tcbRecoveryEventDate": _time(date), "tcbDate": _time(date)}
                for number, date in ((NEXT_NUMBER, recovery), (EVALUATION_NUMBER, newest))
            ],
        }

    def _other_identity(self, enclave: str) -> dict[str, Any]:
        periods = self._periods()
        name, product = _OTHER_ENCLAVES[enclave]
        return qe_identity(periods.issued, periods.ends, MR_SIGNER) | {"id": name, "isvprodid": product}

    def _signed(self, pki: Pki, member: str, document: dict[str, Any]) -> Fetched:
        text, signature = signed(pki, document)
        chain = pem_chain(pki.certificates[Role.TCB_SIGNER], pki.certificates[Role.ROOT])
        return Fetched(pcs.join_signed(member, text, signature), chain)


def _time(moment: dt.datetime) -> str:
    return moment.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
