# SPDX-License-Identifier: Apache-2.0
"""TCB info (versions 2 and 3) and enclave identity (version 2) as typed documents (Intel PCS API, v3 and v4).

They are read from the very bytes whose signature was checked. Unknown keys are left alone: Intel adds some.
Levels come out sorted from the highest SVNs down, whatever their order in the document.
"""

import datetime as dt
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Any, Final, Literal, Self, TypeVar

import msgspec

from kubenclave.dcap.collateral import load_json
from kubenclave.dcap.tcb import MODULE_STATUSES, PLATFORM_STATUSES, QE_STATUSES, TcbStatus
from kubenclave.errors import FormatError
from kubenclave.sgx.quote import TeeType

COMPONENTS: Final = 16
_Svn8 = Annotated[int, msgspec.Meta(ge=0, le=0xFF)]
_Svn16 = Annotated[int, msgspec.Meta(ge=0, le=0xFFFF)]
_Number = Annotated[int, msgspec.Meta(ge=0, le=0xFFFFFFFF)]
_Time = Annotated[dt.datetime, msgspec.Meta(tz=True)]


class _Component(msgspec.Struct, frozen=True):
    svn: _Svn8


_Components = Annotated[tuple[_Component, ...], msgspec.Meta(min_length=COMPONENTS, max_length=COMPONENTS)]


class _Tcb(msgspec.Struct, frozen=True):
    sgxtcbcomponents: _Components
    pcesvn: _Svn16
    tdxtcbcomponents: _Components | None = None


class _IsvSvn(msgspec.Struct, frozen=True):
    isvsvn: _Svn16


class _AnyLevel(msgspec.Struct, frozen=True, rename="camel"):
    tcb_date: _Time
    tcb_status: TcbStatus
    advisory_ids: tuple[str, ...] = msgspec.field(default=(), name="advisoryIDs")

    def __post_init__(self) -> None:
        _refuse_edge_of_time(self.tcb_date)


class _TcbLevel(_AnyLevel, frozen=True, kw_only=True):
    tcb: _Tcb


class _IsvLevel(_AnyLevel, frozen=True, kw_only=True):
    tcb: _IsvSvn


class _Module(msgspec.Struct, frozen=True, rename="camel"):
    mrsigner: str
    attributes: str
    attributes_mask: str


class _ModuleIdentity(_Module, frozen=True):
    id: str
    tcb_levels: Annotated[tuple[_IsvLevel, ...], msgspec.Meta(min_length=1)]


class _Signed(msgspec.Struct, frozen=True, rename="camel"):
    issue_date: _Time
    next_update: _Time
    tcb_evaluation_data_number: _Number

    def __post_init__(self) -> None:
        _refuse_edge_of_time(self.issue_date)
        _refuse_edge_of_time(self.next_update)


class _TcbInfo(_Signed, frozen=True, kw_only=True):
    version: Literal[2, 3]
    id: Literal["SGX", "TDX"]
    fmspc: str
    pce_id: str
    tcb_type: Literal[0]
    tdx_module: _Module | None = None
    tdx_module_identities: tuple[_ModuleIdentity, ...] = ()
    tcb_levels: Annotated[tuple[_TcbLevel, ...], msgspec.Meta(min_length=1)]


class _EnclaveIdentity(_Signed, frozen=True, kw_only=True):
    version: Literal[2]
    id: Literal["QE", "TD_QE"]
    miscselect: str
    miscselect_mask: str
    attributes: str
    attributes_mask: str
    mrsigner: str
    isvprodid: _Svn16
    tcb_levels: Annotated[tuple[_IsvLevel, ...], msgspec.Meta(min_length=1)]


@dataclass(frozen=True, slots=True)
class TcbLevel:
    """A level: the SVNs a TCB must reach, and what Intel says of one that does.

    ``svns`` are 16 SGX components and the PCE SVN, for TDX 16 more components; for an enclave its ISV SVN alone.
    """

    svns: tuple[int, ...]
    status: TcbStatus
    advisories: tuple[str, ...]
    tcb_date: dt.datetime


@dataclass(frozen=True, slots=True)
class ModuleIdentity:
    """Who a TDX module of one major version has to be. Sizes: 48, 8 and 8 bytes."""

    mr_signer: bytes
    attributes: bytes
    attributes_mask: bytes
    levels: tuple[TcbLevel, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TcbInfo:
    """TCB info of one platform family (``fmspc``, 6 bytes) and PCE (``pce_id``, 2 bytes)."""

    tee: TeeType
    issue_date: dt.datetime
    next_update: dt.datetime
    fmspc: bytes
    pce_id: bytes
    tcb_evaluation_data_number: int
    levels: tuple[TcbLevel, ...]
    module: ModuleIdentity | None
    module_identities: Mapping[str, ModuleIdentity]

    @classmethod
    def parse(cls, text: bytes) -> Self:
        """Read the inner object. Raises FormatError (codes ``json.*`` and ``tcb-info.malformed``)."""
        raw = _convert(_version_3(load_json(text, "TCB info")), _TcbInfo, "TCB info")
        with_tdx = raw.id == "TDX"
        levels = [_platform_level(level, with_tdx=with_tdx) for level in raw.tcb_levels]
        if with_tdx and raw.tdx_module is None:
            raise _malformed("TCB info", "tdxModule is absent")
        return cls(
            tee=TeeType.TDX if with_tdx else TeeType.SGX,
            issue_date=raw.issue_date,
            next_update=raw.next_update,
            fmspc=_hex(raw.fmspc, 6, "TCB info", "fmspc"),
            pce_id=_hex(raw.pce_id, 2, "TCB info", "pceId"),
            tcb_evaluation_data_number=raw.tcb_evaluation_data_number,
            levels=_descending(levels, PLATFORM_STATUSES, "TCB info"),
            module=_module(raw.tdx_module, ()) if raw.tdx_module is not None else None,
            module_identities=_module_identities(raw.tdx_module_identities),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class EnclaveIdentity:
    """Who a quoting enclave has to be. Masks select the bits that count; ``mr_signer`` is 32 bytes."""

    tee: TeeType
    issue_date: dt.datetime
    next_update: dt.datetime
    tcb_evaluation_data_number: int
    misc_select: int
    misc_select_mask: int
    attributes: int
    attributes_mask: int
    mr_signer: bytes
    isv_prod_id: int
    levels: tuple[TcbLevel, ...]

    @classmethod
    def parse(cls, text: bytes) -> Self:
        """Read the inner object. Raises FormatError (codes ``json.*`` and ``qe-identity.malformed``)."""
        what = "QE identity"
        raw = _convert(load_json(text, what), _EnclaveIdentity, what)
        levels = [_isv_level(level) for level in raw.tcb_levels]
        return cls(
            tee=TeeType.SGX if raw.id == "QE" else TeeType.TDX,
            issue_date=raw.issue_date,
            next_update=raw.next_update,
            tcb_evaluation_data_number=raw.tcb_evaluation_data_number,
            misc_select=int.from_bytes(_hex(raw.miscselect, 4, what, "miscselect"), "little"),
            misc_select_mask=int.from_bytes(_hex(raw.miscselect_mask, 4, what, "miscselectMask"), "little"),
            attributes=int.from_bytes(_hex(raw.attributes, 16, what, "attributes"), "little"),
            attributes_mask=int.from_bytes(_hex(raw.attributes_mask, 16, what, "attributesMask"), "little"),
            mr_signer=_hex(raw.mrsigner, 32, what, "mrsigner"),
            isv_prod_id=raw.isvprodid,
            levels=_descending(levels, QE_STATUSES, what),
        )


_T = TypeVar("_T")


def _convert(document: Any, kind: type[_T], what: str) -> _T:
    try:
        return msgspec.convert(document, kind)
    except ValueError as error:  # msgspec.ValidationError, and UnicodeEncodeError of a lone surrogate
        raise _malformed(what, str(error)) from None


def _refuse_edge_of_time(moment: dt.datetime) -> None:
    """Raise ValueError, which msgspec adds the place to, for a time so near year 1 or 9999 that UTC has no name."""
    try:
        moment.astimezone(dt.UTC)
    except OverflowError:
        raise ValueError(f"{moment.isoformat()} cannot be told in UTC") from None


def _version_3(document: Any) -> Any:
    """Return a version 2 document in the shape of version 3: named components become a list, SGX an explicit id.

    Anything that does not look like version 2 comes back as it is, for the typed reading to judge.
    """
    if (
        not isinstance(document, dict)
        or document.get("version") != 2
        or not isinstance(document.get("tcbLevels"), list)
    ):
        return document
    if document.get("id", "SGX") != "SGX":
        raise _malformed("TCB info", "version 2 for another TEE than SGX")
    levels = [
        {**level, "tcb": _named_components(level["tcb"])}
        if isinstance(level, dict) and isinstance(level.get("tcb"), dict)
        else level
        for level in document["tcbLevels"]
    ]
    return {**document, "id": "SGX", "tcbLevels": levels}


def _named_components(tcb: dict[str, Any]) -> dict[str, Any]:
    names = [f"sgxtcbcomp{number:02d}svn" for number in range(1, COMPONENTS + 1)]
    return {"sgxtcbcomponents": [{"svn": tcb.get(name)} for name in names], "pcesvn": tcb.get("pcesvn")}


def _platform_level(raw: _TcbLevel, *, with_tdx: bool) -> TcbLevel:
    svns = [component.svn for component in raw.tcb.sgxtcbcomponents]
    svns.append(raw.tcb.pcesvn)
    if with_tdx:
        if raw.tcb.tdxtcbcomponents is None:
            raise _malformed("TCB info", "tdxtcbcomponents are absent")
        svns += [component.svn for component in raw.tcb.tdxtcbcomponents]
    return TcbLevel(tuple(svns), raw.tcb_status, raw.advisory_ids, raw.tcb_date)


def _isv_level(raw: _IsvLevel) -> TcbLevel:
    return TcbLevel((raw.tcb.isvsvn,), raw.tcb_status, raw.advisory_ids, raw.tcb_date)


def _module_identities(identities: Iterable[_ModuleIdentity]) -> Mapping[str, ModuleIdentity]:
    found: dict[str, ModuleIdentity] = {}
    for identity in identities:
        name = identity.id.upper()
        if name in found:
            raise _malformed("TCB info", f"two TDX module identities are called {name[:16]!a}")
        found[name] = _module(identity, identity.tcb_levels)
    return MappingProxyType(found)  # verdicts share it


def _module(raw: _Module, levels: Iterable[_IsvLevel]) -> ModuleIdentity:
    return ModuleIdentity(
        _hex(raw.mrsigner, 48, "TCB info", "mrsigner"),
        _hex(raw.attributes, 8, "TCB info", "attributes"),
        _hex(raw.attributes_mask, 8, "TCB info", "attributesMask"),
        _descending([_isv_level(level) for level in levels], MODULE_STATUSES, "TCB info"),
    )


def _descending(levels: list[TcbLevel], allowed: frozenset[TcbStatus], what: str) -> tuple[TcbLevel, ...]:
    for level in levels:
        if level.status not in allowed:
            raise _malformed(what, f"status {level.status} has no place here")
    if len({level.svns for level in levels}) != len(levels):
        raise _malformed(what, "two levels have the same SVNs")
    return tuple(sorted(levels, key=lambda level: level.svns, reverse=True))


def _hex(text: str, size: int, what: str, name: str) -> bytes:
    try:
        data = bytes.fromhex(text)
    except ValueError:
        data = b""
    if len(data) != size or len(text) != 2 * size:
        raise _malformed(what, f"{name} is {text[:64]!a}, not {2 * size} hexadecimal digits")
    return data


def _malformed(what: str, found: str) -> FormatError:
    code = f"{what.lower().replace(' ', '-')}.malformed"  # tcb-info.malformed, qe-identity.malformed
    return FormatError("signed document is not of the specified form", code=code, field=what, found=found)
