# SPDX-License-Identifier: Apache-2.0
"""Cases about TCB info, QE identity, their dates and their binding, and about the JSON that carries it all."""

import copy
import datetime as dt
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Final

from kubenclave.dcap.pckext import PckCa
from kubenclave.platform.simulated.documents import compact
from kubenclave.sgx.attributes import Attributes
from vectors.case import Before, Case, both, make, part, put
from vectors.scene import AT, Evidence, Scene, scene

_SECOND: Final = dt.timedelta(seconds=1)
_TCB_INFO: Final = "reject tcb-info.malformed"
_IDENTITY: Final = "reject qe-identity.malformed"
_MISMATCH: Final = "reject qe-identity.mismatch"
_NO_LEVEL: Final = "reject tcb.not-supported"
_DOCUMENTS: Final = {"tcb_info": "tcb-info", "qe_identity": "qe-identity"}


def cases() -> Iterator[Case]:
    """Yield them all."""
    for name, label in _DOCUMENTS.items():
        yield from _any_document(name, label)
    yield from _tcb_info()
    yield from _version_2()
    yield from _binding()
    yield from _qe_identity()
    yield from _json_object()
    yield from _generations()


def _any_document(name: str, label: str) -> Iterator[Case]:
    signature = f"{name}_signature"
    code = f"reject {label}.signature"
    yield make(f"{label}-signature-flipped", code, after=part(signature, lambda text: text[:-1] + _other(text[-1])))
    yield make(f"{label}-signature-zero", code, after=part(signature, "00" * 64))
    yield make(f"{label}-changed", code, after=part(name, lambda text: text.replace("2026", "2027", 1)))
    yield make(f"{label}-re-indented", code, after=part(name, lambda text: json.dumps(json.loads(text), indent=1)))
    yield make(f"{label}-keys-in-another-order", code, after=part(name, _reordered))
    yield make(f"{label}-trailing-blank", code, after=part(name, lambda text: text + " "))
    yield make(
        f"{label}-signed-re-indented", "UpToDate", _text(name, lambda text: json.dumps(json.loads(text), indent=1))
    )
    yield make(f"{label}-signed-with-an-unknown-key", "UpToDate", _set(name, somethingNew={"a": [1]}))
    yield make(f"{label}-expired", "reject collateral.expired", _set(name, nextUpdate=_time(AT - _SECOND)))
    yield make(f"{label}-ends-now", "UpToDate", _set(name, nextUpdate=_time(AT)))
    yield make(f"{label}-not-yet-valid", "reject collateral.not-yet-valid", _set(name, issueDate=_time(AT + _SECOND)))
    yield make(f"{label}-begins-now", "UpToDate", _set(name, issueDate=_time(AT)))
    week: dict[str, Any] = {"options": {"dangerously_accept_expired_collateral": 7}}
    for days, expect in ((7, "UpToDate"), (8, "reject collateral.expired")):
        change = _set(name, nextUpdate=_time(AT - dt.timedelta(days=days)))
        yield make(f"{label}-expired-{days}-days-ago-grace-7", expect, change, **week)
    malformed = f"reject {label}.malformed"
    for what, text, expect in (
        (
            "duplicate-key",
            lambda text: text.replace('"version"', '"id":"QE","version"', 1),
            "reject json.duplicate-key",
        ),
        (
            "duplicate-deep-key",
            lambda text: text.replace('"tcbStatus"', '"tcbStatus":"UpToDate","tcbStatus"', 1),
            "reject json.duplicate-key",
        ),
        ("nan", lambda text: text.replace('"version":', '"a":NaN,"version":', 1), "reject json.malformed"),
        (
            "nested-deeply",
            lambda text: text.replace('"version":', f'"a":{"[" * 40}{"]" * 40},"version":', 1),
            "malformed json.depth",
        ),
        (
            "nested-endlessly",
            lambda text: text.replace('"version":', f'"a":{"[" * 20000},"version":', 1),
            "malformed json.depth",
        ),
        ("trailing-text", lambda text: text + "{}", "reject json.malformed"),
        ("truncated", lambda text: text[:-1], "reject json.malformed"),
        ("empty", lambda text: "", "reject json.malformed"),
        ("byte-order-mark", lambda text: "\ufeff" + text, "reject json.malformed"),
        ("an-array", lambda text: f"[{text}]", malformed),
        (
            "huge-number",
            lambda text: text.replace('"tcbEvaluationDataNumber":17', f'"tcbEvaluationDataNumber":{"9" * 5000}'),
            "reject json.malformed",
        ),
        ("lone-surrogate", lambda text: text.replace('"UpToDate"', '"\\ud800"', 1), malformed),
    ):
        yield make(f"{label}-{what}", expect, _text(name, text))
    for key in scene("sgx-v3").tcb_info if name == "tcb_info" else scene("sgx-v3").qe_identity:
        yield make(f"{label}-without-{key}", malformed, _unset(name, key))
    for what, changes in (
        ("version-1", {"version": 1}),
        ("version-4", {"version": 4}),
        ("version-text", {"version": "3"}),
        ("id-unknown", {"id": "QVE"}),
        ("date-without-zone", {"issueDate": "2026-01-14T00:00:00"}),
        ("date-without-time", {"nextUpdate": "2026-02-14"}),
        ("date-number", {"nextUpdate": 1800000000}),
        ("evaluation-number-negative", {"tcbEvaluationDataNumber": -1}),
        ("evaluation-number-fraction", {"tcbEvaluationDataNumber": 17.5}),
        ("evaluation-number-true", {"tcbEvaluationDataNumber": True}),
        ("without-levels", {"tcbLevels": []}),
        ("levels-null", {"tcbLevels": None}),
    ):
        yield make(f"{label}-{what}", malformed, _set(name, **changes))
    for what, changes in (
        ("unknown-status", {"tcbStatus": "Fine"}),
        ("status-in-another-case", {"tcbStatus": "uptodate"}),
        ("relaunch-status", {"tcbStatus": "TDRelaunchAdvised"}),
        ("advisories-text", {"advisoryIDs": "INTEL-SA-00001"}),
        ("date-of-level", {"tcbDate": "today"}),
    ):
        yield make(f"{label}-level-{what}", malformed, _level(name, 0, **changes))
    yield make(f"{label}-unsorted-levels", "UpToDate", _levels(name, lambda levels: levels[::-1]))
    yield make(f"{label}-equal-levels", malformed, _levels(name, lambda levels: [*levels, levels[0]]))
    yield make(f"{label}-upper-case", "UpToDate", _in_case(name, str.upper))
    yield make(f"{label}-lower-case", "UpToDate", _in_case(name, str.lower))


def _tcb_info() -> Iterator[Case]:
    for what, changes in (
        ("tcb-type-1", {"tcbType": 1}),
        ("fmspc-5-bytes", {"fmspc": "0011223344"}),
        ("fmspc-not-hex", {"fmspc": "00112233445g"}),
        ("fmspc-with-blanks", {"fmspc": "00 11 22 33 4"}),
        ("pce-id-number", {"pceId": 0}),
        ("id-qe", {"id": "QE"}),
    ):
        yield make(f"tcb-info-{what}", _TCB_INFO, _set("tcb_info", **changes))
    yield make("tcb-info-version-2-in-name-only", _TCB_INFO, _set("tcb_info", version=2))
    yield make("tcb-info-version-3-without-id", _TCB_INFO, _unset("tcb_info", "id"))
    for what, change in (
        ("15-components", lambda tcb: tcb["sgxtcbcomponents"].pop()),
        ("17-components", lambda tcb: tcb["sgxtcbcomponents"].append({"svn": 0})),
        ("component-256", lambda tcb: tcb["sgxtcbcomponents"][0].update(svn=256)),
        ("component-negative", lambda tcb: tcb["sgxtcbcomponents"][0].update(svn=-1)),
        ("component-fraction", lambda tcb: tcb["sgxtcbcomponents"][0].update(svn=1.5)),
        ("component-without-svn", lambda tcb: tcb["sgxtcbcomponents"][0].pop("svn")),
        ("components-missing", lambda tcb: tcb.pop("sgxtcbcomponents")),
        ("pcesvn-65536", lambda tcb: tcb.update(pcesvn=65536)),
        ("pcesvn-missing", lambda tcb: tcb.pop("pcesvn")),
    ):
        yield make(f"tcb-info-{what}", _TCB_INFO, _tcb(change))
    for what, change in (
        ("15-tdx-components", lambda tcb: tcb["tdxtcbcomponents"].pop()),
        ("17-tdx-components", lambda tcb: tcb["tdxtcbcomponents"].append({"svn": 0})),
        ("tdx-components-missing", lambda tcb: tcb.pop("tdxtcbcomponents")),
    ):
        yield make(f"tcb-info-{what}", _TCB_INFO, _tcb(change), base="tdx-v4")
    yield make("tcb-info-without-tdxModule", _TCB_INFO, _unset("tcb_info", "tdxModule"), base="tdx-v4")
    for what, change in (
        ("without-levels", lambda identity: identity.update(tcbLevels=[])),
        ("attributes-7-bytes", lambda identity: identity.update(attributes="00" * 7)),
        (
            "status-configuration-needed",
            lambda identity: identity["tcbLevels"][0].update(tcbStatus="ConfigurationNeeded"),
        ),
        ("twice", lambda identity: identity.update(id="tdx_03")),
    ):
        yield make(f"tdx-module-identity-{what}", _TCB_INFO, _module_identity(change), base="tdx-v4")


def _version_2() -> Iterator[Case]:
    yield make("tcb-info-version-2", "UpToDate", _as_version_2)
    yield make("tcb-info-version-2-with-id", "UpToDate", both(_as_version_2, _set("tcb_info", id="SGX")))
    yield make("tcb-info-version-2-tdx", _TCB_INFO, both(_as_version_2, _set("tcb_info", id="TDX")))
    for what, change in (
        ("component-16-missing", lambda tcb: tcb.pop("sgxtcbcomp16svn")),
        ("component-256", lambda tcb: tcb.update(sgxtcbcomp01svn=256)),
        ("component-null", lambda tcb: tcb.update(sgxtcbcomp01svn=None)),
        ("pcesvn-missing", lambda tcb: tcb.pop("pcesvn")),
    ):
        yield make(f"tcb-info-version-2-{what}", _TCB_INFO, both(_as_version_2, _tcb(change)))
    for what, levels in (("level-text", ["level"]), ("tcb-text", [{"tcb": "tcb"}]), ("levels-text", "levels")):
        yield make(f"tcb-info-version-2-{what}", _TCB_INFO, both(_as_version_2, _set("tcb_info", tcbLevels=levels)))


def _binding() -> Iterator[Case]:
    code = "reject tcb-info.mismatch"
    yield make("tcb-info-of-another-fmspc", code, _set("tcb_info", fmspc="00906ED50000"))
    yield make("tcb-info-of-another-pce", code, _set("tcb_info", pceId="0001"))
    sgx, tdx = scene("sgx-v3"), scene("tdx-v4")
    for base, other in (("sgx-v3", tdx), ("tdx-v4", sgx), ("sgx-v4", tdx), ("tdx-v5", sgx)):
        yield make("tcb-info-of-the-other-tee", code, put(tcb_info=other.tcb_info), base=base)
        yield make("qe-identity-of-the-other-tee", _MISMATCH, put(qe_identity=other.qe_identity), base=base)
        everything = put(tcb_info=other.tcb_info, qe_identity=other.qe_identity)
        yield make("collateral-of-the-other-tee", _MISMATCH, everything, base=base)
    swap = _swapped("tcb_info", "qe_identity")
    yield make("tcb-info-and-qe-identity-swapped", _TCB_INFO, after=swap)
    processor = scene("sgx-v3", PckCa.PROCESSOR).build()
    yield make(
        "collateral-of-the-other-ca",
        "reject crl.other-ca",
        after=lambda evidence: replace(evidence, collateral=processor.collateral),
    )


def _qe_identity() -> Iterator[Case]:
    for what, changes in (
        ("version-3", {"version": 3}),
        ("id-qae", {"id": "QAE"}),
        ("mrsigner-31-bytes", {"mrsigner": "00" * 31}),
        ("mrsigner-blank", {"mrsigner": "0" * 62 + " 0"}),
        ("miscselect-3-bytes", {"miscselect": "000000"}),
        ("isvprodid-65536", {"isvprodid": 65536}),
    ):
        yield make(f"qe-identity-{what}", _IDENTITY, _set("qe_identity", **changes))
    for what, changes in (
        ("of-another-signer", {"mrsigner": "00" * 32}),
        ("of-another-product", {"isvprodid": 2}),
        ("miscselect", {"miscselect": "01000000"}),
        ("attributes", {"attributes": "15" + "00" * 15}),  # MODE64BIT, which the mask leaves out: can never match
        ("xfrm", {"attributesMask": "FB" + "FF" * 15}),
    ):
        yield make(f"qe-identity-{what}", _MISMATCH, _set("qe_identity", **changes))
    reports: tuple[tuple[str, dict[str, Any]], ...] = (
        ("debug", {"attributes": Attributes(0x17, 3)}),
        ("without-provision-key", {"attributes": Attributes(0x05, 3)}),
        ("not-initialised", {"attributes": Attributes(0x14, 3)}),
        ("miscselect", {"misc_select": 1}),
        ("of-another-signer", {"mr_signer": bytes(32)}),
        ("of-another-product", {"isv_prod_id": 9}),
    )
    for what, report in reports:
        yield make(f"qe-{what}", _MISMATCH, put(qe=report))
    yield make("qe-in-32-bit-mode", "UpToDate", put(qe={"attributes": Attributes(0x11, 3)}))
    yield make("qe-with-more-xfrm", "UpToDate", put(qe={"attributes": Attributes(0x15, 0xE7)}))
    yield make("qe-without-a-level", _NO_LEVEL, put(qe={"isv_svn": 0}))


def _json_object() -> Iterator[Case]:
    good = scene("sgx-v3").build().collateral
    for name in good:
        yield make(f"collateral-without-{name}", "malformed collateral.malformed", after=_dropped(name))
    for what, name, value in (
        ("null", "pck_crl", None),
        ("number", "tcb_info", 1),
        ("object-in-place-of-text", "tcb_info", json.loads(good["tcb_info"])),
        ("odd-hex", "pck_crl", good["pck_crl"][:-1]),
        ("hex-with-blanks", "pck_crl", f"{good['pck_crl'][:2]} {good['pck_crl'][2:]}"),
        ("base64", "pck_crl", "MIIB"),
        ("signature-63-bytes", "tcb_info_signature", good["tcb_info_signature"][2:]),
        ("signature-65-bytes", "qe_identity_signature", good["qe_identity_signature"] + "00"),
        ("lone-surrogate", "tcb_info", "\ud800"),
    ):
        yield make(f"collateral-{what}", "malformed collateral.malformed", after=part(name, value))
    text = json.dumps(good)
    for what, content, code in (
        ("empty", "", "json.malformed"),
        ("array", f"[{text}]", "collateral.malformed"),
        ("trailing-text", f"{text} {{}}", "json.malformed"),
        ("truncated", text[:-1], "json.malformed"),
        ("duplicate-key", text.replace('"pck_crl":', '"pck_crl": "", "pck_crl":'), "json.duplicate-key"),
        ("nan", text.replace("{", '{"a": NaN,', 1), "json.malformed"),
        ("infinity", text.replace("{", '{"a": -Infinity,', 1), "json.malformed"),
        ("nested-deeply", text.replace("{", f'{{"a": {"[" * 40}{"]" * 40},', 1), "json.depth"),
        (
            "nested-behind-closing-brackets",
            text.replace("{", f'{{"a": "{"]" * 9000}", "b": {"[" * 9000},', 1),
            "json.depth",
        ),
    ):
        yield make(f"collateral-{what}", f"malformed {code}", after=_as_text(content))
    yield make("collateral-unknown-key", "UpToDate", after=_as_text(text.replace("{", '{"a note": "of somebody",', 1)))
    yield make("collateral-indented", "UpToDate", after=_as_text(json.dumps(good, indent=4)))


def _generations() -> Iterator[Case]:
    for name in _DOCUMENTS:
        older = _set(name, tcbEvaluationDataNumber=16)
        label = f"{_DOCUMENTS[name]}-of-an-older-generation"
        yield make(label, "UpToDate", older)
        for minimum, expect in ((16, "UpToDate"), (17, "reject tcb.evaluation-data-number")):
            options = {"minimum_tcb_evaluation_data_number": minimum}
            yield make(f"{label}-minimum-{minimum}", expect, older, options=options)


def _time(moment: dt.datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _other(digit: str) -> str:
    return "0" if digit != "0" else "1"


def _reordered(text: str) -> str:
    return json.dumps(dict(reversed(json.loads(text).items())), separators=(",", ":"))


def _set(name: str, **values: Any) -> Before:
    return put(**{name: values})


def _unset(name: str, key: str) -> Before:
    return lambda staged: getattr(staged, name).pop(key)


def _levels(name: str, change: Callable[[list[Any]], list[Any]]) -> Before:
    def apply(staged: Scene) -> None:
        document = getattr(staged, name)
        document["tcbLevels"] = change(copy.deepcopy(document["tcbLevels"]))

    return apply


def _level(name: str, number: int, **values: Any) -> Before:
    return _levels(name, lambda levels: [*levels[:number], {**levels[number], **values}, *levels[number + 1 :]])


def _tcb(change: Callable[[dict[str, Any]], object]) -> Before:
    """Change the SVNs of the first level."""

    def apply(levels: list[Any]) -> list[Any]:
        change(levels[0]["tcb"])
        return levels

    return _levels("tcb_info", apply)


def _module_identity(change: Callable[[dict[str, Any]], object]) -> Before:
    def apply(staged: Scene) -> None:
        identities = copy.deepcopy(staged.tcb_info["tdxModuleIdentities"])
        change(identities[0])
        staged.tcb_info["tdxModuleIdentities"] = identities

    return apply


def _in_case(name: str, change: Callable[[str], str]) -> Before:
    keys = ("fmspc", "pceId") if name == "tcb_info" else ("mrsigner", "attributes", "attributesMask", "miscselectMask")

    def apply(staged: Scene) -> None:
        document = getattr(staged, name)
        document.update({key: change(document[key]) for key in keys})

    return apply


def _text(name: str, change: Callable[[str], str]) -> Before:
    """Change the text of one document before it is signed."""

    def apply(staged: Scene) -> None:
        document = getattr(staged, name)

        def write(each: dict[str, Any]) -> bytes:
            text = compact(each)
            return change(text.decode()).encode() if each is document else text

        staged.text = write

    return apply


def _as_version_2(staged: Scene) -> None:
    """Turn TCB info into version 2: no id, components by name."""
    document = staged.tcb_info
    document.pop("id")
    document["version"] = 2
    for level in document["tcbLevels"]:
        components = level["tcb"].pop("sgxtcbcomponents")
        names = {f"sgxtcbcomp{number:02d}svn": each["svn"] for number, each in enumerate(components, 1)}
        level["tcb"] = {**names, **level["tcb"]}


def _swapped(one: str, two: str) -> Callable[[Evidence], Evidence]:
    """Swap two documents with their signatures: both are genuine, in the wrong place."""

    def change(evidence: Evidence) -> Evidence:
        was = evidence.collateral
        return (
            evidence.part(one, was[two])
            .part(two, was[one])
            .part(f"{one}_signature", was[f"{two}_signature"])
            .part(f"{two}_signature", was[f"{one}_signature"])
        )

    return change


def _dropped(name: str) -> Callable[[Evidence], Evidence]:
    def change(evidence: Evidence) -> Evidence:
        rest = {key: value for key, value in evidence.collateral.items() if key != name}
        return replace(evidence, collateral=rest)

    return change


def _as_text(text: str) -> Callable[[Evidence], Evidence]:
    return lambda evidence: replace(evidence, text=text)
