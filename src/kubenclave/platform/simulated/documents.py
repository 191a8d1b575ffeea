# SPDX-License-Identifier: Apache-2.0
"""TCB info (version 3) and QE identity (version 2) of the simulated platform (Intel PCS API v4).

Documents are plain dictionaries in the key order of Intel's service, so that a test may change any of it before
``signed`` writes the compact text and signs exactly those bytes.
"""

import datetime as dt
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from kubenclave.dcap.tcb import TcbStatus
from kubenclave.platform.simulated.pki import Pki, Role
from kubenclave.platform.simulated.tcb import (
    FMSPC,
    PCE_ID,
    PlatformSvns,
    PlatformTcb,
    svns,
)
from kubenclave.sgx.quote import TeeType

EVALUATION_NUMBER: Final = 17
QE_ISV_SVN: Final = 8
TD_QE_ISV_SVN: Final = 4
QE_PROD_ID: Final = 1
TD_QE_PROD_ID: Final = 2
BROKEN_MICROCODE: Final = 4
"""Microcode of the level that is revoked; no state of the platform has it."""

_CATEGORIES: Final = (
    {"category": "BIOS", "type": "Early Microcode Update"},
    {"category": "OS/VMM", "type": "SGX Late Microcode Update"},
    {"category": "OS/VMM", "type": "TXT SINIT"},
    {"category": "BIOS"},
)


@dataclass(frozen=True, slots=True)
class Level:
    """A level of TCB info; ``tdx`` are its 16 TDX components."""

    svns: PlatformSvns
    status: TcbStatus
    tcb_date: dt.datetime
    advisories: tuple[str, ...] = ()
    tdx: tuple[int, ...] = (0,) * 16

    def as_dict(self, *, with_tdx: bool) -> dict[str, Any]:
        """Shape of the level in the document."""
        tcb: dict[str, Any] = {
            "sgxtcbcomponents": [
                {"svn": svn} | (_CATEGORIES[number] if number < len(_CATEGORIES) else {})
                for number, svn in enumerate(self.svns.components)
            ],
            "pcesvn": self.svns.pce_svn,
        }
        if with_tdx:
            tcb["tdxtcbcomponents"] = [{"svn": svn} for svn in self.tdx]
        return {"tcb": tcb, **_verdict(self.status, self.tcb_date, self.advisories)}


@dataclass(frozen=True, slots=True)
class IsvLevel:
    """A level of an enclave identity or of a TDX module."""

    isv_svn: int
    status: TcbStatus
    tcb_date: dt.datetime
    advisories: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Shape of the level in the document."""
        return {"tcb": {"isvsvn": self.isv_svn}, **_verdict(self.status, self.tcb_date, self.advisories)}


_NEW: Final = dt.datetime(2025, 5, 14, tzinfo=dt.UTC)
_OLD: Final = dt.datetime(2023, 8, 9, tzinfo=dt.UTC)
_OLDEST: Final = dt.datetime(2018, 1, 4, tzinfo=dt.UTC)
_TDX_NEW: Final = (5, 0, 8, *[0] * 13)  # module SVN, module version, microcode
_TDX_OLD: Final = (3, 0, 6, *[0] * 13)
_HARDENING: Final = ("INTEL-SA-00615",)
_CONFIGURATION: Final = ("INTEL-SA-00289",)
_BEHIND: Final = ("INTEL-SA-00828", "INTEL-SA-00837")

LEVELS: Final = (
    Level(PlatformTcb.UP_TO_DATE.svns, TcbStatus.UP_TO_DATE, _NEW, (), _TDX_NEW),
    Level(PlatformTcb.SW_HARDENING_NEEDED.svns, TcbStatus.SW_HARDENING_NEEDED, _NEW, _HARDENING, _TDX_NEW),
    Level(PlatformTcb.CONFIGURATION_NEEDED.svns, TcbStatus.CONFIGURATION_NEEDED, _NEW, _CONFIGURATION, _TDX_NEW),
    Level(
        PlatformTcb.CONFIGURATION_AND_SW_HARDENING_NEEDED.svns,
        TcbStatus.CONFIGURATION_AND_SW_HARDENING_NEEDED,
        _NEW,
        _CONFIGURATION + _HARDENING,
        _TDX_NEW,
    ),
    Level(PlatformTcb.OUT_OF_DATE.svns, TcbStatus.OUT_OF_DATE, _OLD, _BEHIND + _HARDENING, _TDX_OLD),
    Level(
        PlatformTcb.OUT_OF_DATE_CONFIGURATION_NEEDED.svns,
        TcbStatus.OUT_OF_DATE_CONFIGURATION_NEEDED,
        _OLD,
        _BEHIND + _CONFIGURATION + _HARDENING,
        _TDX_OLD,
    ),
    Level(svns(BROKEN_MICROCODE, configured=False, hardened=False), TcbStatus.REVOKED, _OLDEST, ("INTEL-SA-00088",)),
)
"""From the highest SVNs down: one for each status, the last for platforms that no state of the simulation reaches."""

QE_LEVELS: Final = (
    IsvLevel(QE_ISV_SVN, TcbStatus.UP_TO_DATE, _NEW),
    IsvLevel(6, TcbStatus.OUT_OF_DATE, _OLD, ("INTEL-SA-00615",)),
    IsvLevel(2, TcbStatus.OUT_OF_DATE, _OLDEST, ("INTEL-SA-00334", "INTEL-SA-00477", "INTEL-SA-00615")),
    IsvLevel(1, TcbStatus.REVOKED, _OLDEST, ("INTEL-SA-00202",)),
)
TD_QE_LEVELS: Final = (
    IsvLevel(TD_QE_ISV_SVN, TcbStatus.UP_TO_DATE, _NEW),
    IsvLevel(2, TcbStatus.OUT_OF_DATE, _OLD, ("INTEL-SA-01036",)),
    IsvLevel(1, TcbStatus.REVOKED, _OLDEST, ("INTEL-SA-01036",)),
)
MODULE_LEVELS: Final = (
    IsvLevel(5, TcbStatus.UP_TO_DATE, _NEW),
    IsvLevel(3, TcbStatus.OUT_OF_DATE, _OLD, ("INTEL-SA-01099",)),
    IsvLevel(1, TcbStatus.REVOKED, _OLDEST, ("INTEL-SA-01099",)),
)


def tcb_info(
    issue_date: dt.datetime,
    next_update: dt.datetime,
    *,
    tee: TeeType = TeeType.SGX,
    fmspc: bytes = FMSPC,
    pce_id: bytes = PCE_ID,
    levels: Iterable[Level] = LEVELS,
    evaluation_number: int = EVALUATION_NUMBER,
) -> dict[str, Any]:
    """Return TCB info, version 3, of the family ``fmspc`` (6 bytes) and ``pce_id`` (2 bytes).

    For TDX it describes the modules of version 0, 1 and 3, whose MRSIGNER and attributes are zero.
    """
    with_tdx = tee is TeeType.TDX
    document: dict[str, Any] = {
        "id": tee.name,
        "version": 3,
        "issueDate": _time(issue_date),
        "nextUpdate": _time(next_update),
        "fmspc": fmspc.hex(),
        "pceId": pce_id.hex(),
        "tcbType": 0,
        "tcbEvaluationDataNumber": evaluation_number,
    }
    if with_tdx:
        module = {"mrsigner": "00" * 48, "attributes": "00" * 8, "attributesMask": "FF" * 8}
        module_levels = [level.as_dict() for level in MODULE_LEVELS]
        document["tdxModule"] = module
        document["tdxModuleIdentities"] = [
            {"id": name, **module, "tcbLevels": module_levels} for name in ("TDX_01", "TDX_03")
        ]
    return {**document, "tcbLevels": [level.as_dict(with_tdx=with_tdx) for level in levels]}


def qe_identity(
    issue_date: dt.datetime,
    next_update: dt.datetime,
    mr_signer: bytes,
    *,
    tee: TeeType = TeeType.SGX,
    levels: Iterable[IsvLevel] | None = None,
    evaluation_number: int = EVALUATION_NUMBER,
) -> dict[str, Any]:
    """Return the identity, version 2, of the quoting enclave that ``mr_signer`` (32 bytes) signs for that TEE.

    The masks are Intel's: MODE64BIT and all of XFRM may differ, DEBUG may not.
    """
    sgx = tee is TeeType.SGX
    chosen = levels if levels is not None else QE_LEVELS if sgx else TD_QE_LEVELS
    return {
        "id": "QE" if sgx else "TD_QE",
        "version": 2,
        "issueDate": _time(issue_date),
        "nextUpdate": _time(next_update),
        "tcbEvaluationDataNumber": evaluation_number,
        "miscselect": "00000000",
        "miscselectMask": "FFFFFFFF",
        "attributes": "11000000000000000000000000000000",
        "attributesMask": "FBFFFFFFFFFFFFFF0000000000000000",
        "mrsigner": mr_signer.hex().upper(),
        "isvprodid": QE_PROD_ID if sgx else TD_QE_PROD_ID,
        "tcbLevels": [level.as_dict() for level in chosen],
    }


def compact(document: dict[str, Any]) -> bytes:
    """Return the text as Intel's service sends it: no white space."""
    return json.dumps(document, separators=(",", ":")).encode()


def signed(pki: Pki, document: dict[str, Any], role: Role = Role.TCB_SIGNER) -> tuple[bytes, bytes]:
    """Return the compact text and the signature r‖s (64 bytes) over it."""
    text = compact(document)
    return text, pki.sign(role, text)


def _verdict(status: TcbStatus, tcb_date: dt.datetime, advisories: tuple[str, ...]) -> dict[str, Any]:
    verdict: dict[str, Any] = {"tcbDate": _time(tcb_date), "tcbStatus": str(status)}
    return verdict | ({"advisoryIDs": list(advisories)} if advisories else {})


def _time(moment: dt.datetime) -> str:
    return moment.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
