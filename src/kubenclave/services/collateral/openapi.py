# SPDX-License-Identifier: Apache-2.0
"""The OpenAPI document of the collateral service: PCS's and PCCS's routes, and those of its own."""

from collections.abc import Sequence
from typing import Any, Final

from starlette.routing import Route

from kubenclave.services.collateral.pcs import SGX_V3, SGX_V4, TDX_V4
from kubenclave.services.collateral.replies import DER, JSON, PEM
from kubenclave.services.collateral.status import PREFIX
from kubenclave.services.web import openapi, problems
from kubenclave.services.web.credentials import Role
from kubenclave.services.web.openapi import (
    ANY_OBJECT,
    COUNT,
    FLAG,
    HEX,
    TEXT,
    TIME,
    Operation,
    Schema,
    listed,
    members,
    ref,
)

PATH: Final = f"{PREFIX}/openapi.json"
_PLAIN: Final = "text/plain"
_ERRORS: Final[Schema] = {_PLAIN: TEXT, problems.CONTENT_TYPE: ref("Problem")}
_STATUSES: Final = (410, 460, 461, 462)  # withdrawn; not genuine; platform unknown; no certificate for its TCB


def openapi_route() -> Route:
    """Return the route of the document."""
    made = openapi.document(
        _operations(),
        title="kubenclave collateral service",
        description="What Intel publishes about platforms, verified on entry, as PCS and PCCS serve it.",
        schemas={},
    )
    return openapi.route(PATH, made)


def _parameter(name: str, schema: Schema, *, required: bool = False) -> Schema:
    return {"name": name, "in": "query", "required": required, "schema": schema}


def _hex(size: int) -> Schema:
    return {"type": "string", "pattern": f"^[0-9A-Fa-f]{{{2 * size}}}$"}


_FMSPC: Final = _parameter("fmspc", _hex(6), required=True)
_UPDATE: Final = (
    _parameter("update", {"enum": ["standard", "early"]}),
    _parameter("tcbEvaluationDataNumber", {"type": "integer", "minimum": 1}),
)
_ENCODING: Final = _parameter("encoding", {"enum": ["hex", "pem", "der"]})
_CA: Final = _parameter("ca", {"enum": ["processor", "platform"]}, required=True)
_PLATFORM: Final = (
    _parameter("qeid", {"type": "string", "maxLength": 260}),
    _parameter("encrypted_ppid", _hex(384)),
    _parameter("cpusvn", _hex(16)),
    _parameter("pcesvn", _hex(2)),
    _parameter("pceid", _hex(2), required=True),
)
_SIGNED_INFO: Final = members(tcbInfo=ANY_OBJECT, signature=HEX)
_SIGNED_IDENTITY: Final = members(enclaveIdentity=ANY_OBJECT, signature=HEX)
_SIGNED_NUMBERS: Final = members(tcbEvaluationDataNumbers=ANY_OBJECT, signature=HEX)
_CERTIFICATES: Final = listed(members(tcb=ANY_OBJECT, tcbm=TEXT, cert=TEXT))
_OF_BOTH: Final[Sequence[tuple[str, str, Sequence[Schema], Schema, Sequence[str]]]] = (
    ("tcb", "TCB info of an FMSPC", (_FMSPC, *_UPDATE), _SIGNED_INFO, (JSON,)),
    ("qe/identity", "Identity of the quoting enclave", _UPDATE, _SIGNED_IDENTITY, (JSON,)),
    ("tcbevaluationdatanumbers", "Generations that are on offer", (), _SIGNED_NUMBERS, (JSON,)),
)
_OF_SGX: Final[Sequence[tuple[str, str, Sequence[Schema], Schema, Sequence[str]]]] = (
    *_OF_BOTH,
    ("qve/identity", "Identity of the quote verification enclave", _UPDATE, _SIGNED_IDENTITY, (JSON,)),
    ("qae/identity", "Identity of the quote appraisal enclave", _UPDATE, _SIGNED_IDENTITY, (JSON,)),
    ("pckcrl", "Revocation list of a PCK CA", (_CA, _ENCODING), TEXT, (PEM, DER)),
    ("rootcacrl", "Revocation list of the root", (_ENCODING,), TEXT, (PEM, DER)),
    ("crl", "Revocation list by its address", (_parameter("uri", TEXT, required=True),), TEXT, (DER,)),
    (
        "fmspcs",
        "FMSPCs by kind of platform",
        (_parameter("platform", {"enum": ["all", "client", "E3", "E5"]}),),
        listed(members(fmspc=TEXT, platform=TEXT)),
        (JSON,),
    ),
    ("pckcert", "PCK certificate for a platform's TCB", _PLATFORM, TEXT, (PEM,)),
    ("pckcerts", "All PCK certificates of a platform", _PLATFORM, _CERTIFICATES, (JSON,)),
    ("pckcerts/config", "The same", _PLATFORM, _CERTIFICATES, (JSON,)),
    ("appraisalpolicy", "Appraisal policies of an FMSPC", (_FMSPC,), TEXT, (_PLAIN,)),
)
_MANIFEST: Final = members("platformManifest", "pceid", platformManifest=TEXT, pceid=TEXT, cpusvn=TEXT, pcesvn=TEXT)
_REGISTRATION: Final = members(
    "qe_id", "pce_id", qe_id=TEXT, pce_id=TEXT, cpu_svn=TEXT, pce_svn=TEXT, enc_ppid=TEXT, platform_manifest=TEXT
)
_WRITING: Final[Sequence[tuple[str, str, str, Role | None, Schema, Schema, str]]] = (
    ("POST", "pckcert", "PCK certificate by manifest", None, _MANIFEST, TEXT, PEM),
    ("POST", "pckcerts", "PCK certificates by manifest", None, _MANIFEST, _CERTIFICATES, JSON),
    ("POST", "pckcerts/config", "The same", None, _MANIFEST, _CERTIFICATES, JSON),
    ("POST", "platforms", "Register a platform", Role.REGISTER, _REGISTRATION, TEXT, _PLAIN),
    ("PUT", "platformcollateral", "Bring collateral", Role.COLLATERAL_ADMIN, ANY_OBJECT, TEXT, _PLAIN),
    ("PUT", "appraisalpolicy", "Keep an appraisal policy", Role.COLLATERAL_ADMIN, ANY_OBJECT, TEXT, _PLAIN),
)
_STATUS: Final = members(
    at=TIME, simulated=FLAG, root=HEX, items=listed(ANY_OBJECT), sources=listed(ANY_OBJECT), queue=ANY_OBJECT
)


def _operations() -> list[Operation]:
    mounts = ((SGX_V4, _OF_SGX), (SGX_V3, _OF_SGX), (TDX_V4, _OF_BOTH))
    reading = [
        _served("GET", mount, path, summary, query=query, answer=answer, media=media)
        for mount, table in mounts
        for path, summary, query, answer, media in table
    ]
    return [*reading, *_of_pccs(SGX_V4), *_of_pccs(SGX_V3), *_OWN]


def _of_pccs(mount: str) -> list[Operation]:
    """Return what platforms and administrators ask for below a mount."""
    writing = [
        _served(method, mount, path, summary, role=role, body={JSON: {"schema": body}}, answer=answer, media=media)
        for method, path, summary, role, body, answer, media in _WRITING
    ]
    admin = Role.COLLATERAL_ADMIN
    families = {**TEXT, "pattern": "^([0-9A-Fa-f]{12}(,[0-9A-Fa-f]{12})*)?$"}
    what = (_parameter("type", {"enum": ["collateral", "certs"]}), _parameter("fmspc", families))
    source = {**TEXT, "pattern": r"^(reg|reg_na|\[([0-9A-Fa-f]{12}(,[0-9A-Fa-f]{12})*)?\])$"}
    waiting = (_parameter("source", source), _parameter("lease", COUNT))
    return [
        *writing,
        _served(
            "GET", mount, "platforms", "The queue", role=admin, query=waiting, answer=listed(ANY_OBJECT), media=JSON
        ),
        *(
            _served(
                method,
                mount,
                "refresh",
                "Renew all items, or PCK certificates",
                role=admin,
                query=what,
                answer=TEXT,
                media=_PLAIN,
            )
            for method in ("GET", "POST")
        ),
    ]


def _served(method: str, mount: str, path: str, summary: str, **more: Any) -> Operation:
    name = "-".join((method.lower(), *mount.strip("/").split("/"), *path.split("/")))
    given = {"tag": "pcs", "errors": _ERRORS, "statuses": _STATUSES, **more}
    return Operation(method=method, path=f"{mount}/{path}", name=name, summary=summary, **given)


_OWN: Final = (
    Operation(
        method="GET", path=f"{PREFIX}/status", name="status", summary="State of every item", tag="own", answer=_STATUS
    ),
    Operation(
        method="POST",
        path=f"{PREFIX}/refresh",
        name="refresh",
        summary="Renew all items",
        tag="own",
        role=Role.COLLATERAL_ADMIN,
        answer=members(renewed={}, failures=listed(ANY_OBJECT)),
    ),
    Operation(
        method="GET",
        path=f"{PREFIX}/forecast",
        name="forecast",
        summary="What is to come for each platform",
        tag="own",
        role=Role.COLLATERAL_ADMIN,
        answer=members(at=TIME, simulated=FLAG, platforms=listed(ANY_OBJECT), failures=listed(ANY_OBJECT)),
    ),
    Operation(method="GET", path=PATH, name="openapi", summary="This document", tag="own", answer=ANY_OBJECT),
)
