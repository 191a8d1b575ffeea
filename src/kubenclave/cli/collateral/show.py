# SPDX-License-Identifier: Apache-2.0
"""``kubenclave collateral show``: what a file of collateral holds, who signed it and how long it is good."""

import datetime as dt
from typing import TYPE_CHECKING, Any, Final

import click

from kubenclave.cli import evidence, kit
from kubenclave.errors import FormatError, TrustError

if TYPE_CHECKING:
    from kubenclave.dcap.anchor import TrustAnchor
    from kubenclave.dcap.collateral import Collateral
    from kubenclave.dcap.documents import TcbLevel

_CHAINS: Final = {
    "pck_crl_issuer_chain": "PCK CRL issuer chain",
    "tcb_info_issuer_chain": "TCB info issuer chain",
    "qe_identity_issuer_chain": "QE identity issuer chain",
}
_SIGNED: Final = {
    "root_ca_crl": "root CRL",
    "pck_crl": "PCK CRL",
    "tcb_info": "TCB info",
    "qe_identity": "QE identity",
}
_STATE_COLOURS: Final = {"current": "green", "expired": "red", "not valid yet": "yellow", "unreadable": "red"}


@click.command(
    "show",
    short_help="Show who signed it, when it ends, what it is about.",
    epilog=kit.examples(
        "kubenclave collateral show collateral.json",
        "kubenclave collateral show collateral.json --at 2025-06-19T10:15:00Z",
        "kubenclave collateral show collateral.json --root root.der            a SIMULATED platform",
        "kubenclave collateral show collateral.json --output json | jq -r .earliest_expiration",
    ),
)
@click.argument("file", type=evidence.FILE)
@evidence.at_option(now_by_default=True)
@evidence.root_option
@kit.output_option
def command(*, file: str, at: dt.datetime, root_path: str | None) -> None:
    """Show every part of FILE (- for stdin): who signed it, when it ends, what it is about.

    Exit code 1 when its signatures do not hold under the root, or something is not valid at that time; 3 when it is
    not collateral.
    """
    from kubenclave.dcap.collateral import Collateral

    anchor = evidence.load_anchor(None if root_path is None else evidence.load_root(root_path))
    collateral = Collateral.from_json(kit.read_input(file, what="collateral"))
    document = _document(collateral, anchor, at)
    kit.emit(document, _text(document))
    kit.finish(kit.ExitCode.GOOD if document["verified"] and document["current"] else kit.ExitCode.REFUSED)


def _document(collateral: "Collateral", anchor: "TrustAnchor", at: dt.datetime) -> dict[str, Any]:
    parts = _parts(collateral)
    for part in parts.values():
        _judge(part, at)
    windows = [each["valid"] for each in _dated(parts)]
    ends = [end for _, end in windows if end is not None]
    refusal = _refusal(collateral, anchor)
    return {
        "verified": refusal is None,
        "refusal": refusal,
        "simulated": not anchor.is_intel,
        "root": anchor.digest,
        "at": evidence.zulu(at),
        "current": all(state == "current" for state in _states(parts)),
        "earliest_expiration": min(ends) if ends else None,
        "digest": collateral.digest.hex(),
        **parts,
    }


def _refusal(collateral: "Collateral", anchor: "TrustAnchor") -> dict[str, Any] | None:
    """Return why the signatures do not hold under that root, None when they do."""
    from kubenclave.dcap.cache import Cache
    from kubenclave.dcap.trusted import verify_collateral

    try:
        verify_collateral(collateral, anchor, Cache())
    except TrustError as error:
        return error.as_dict()
    return None


def _parts(collateral: "Collateral") -> dict[str, dict[str, Any]]:
    """Return every part as it describes itself."""
    from kubenclave.cli.show.certificates import describe_chain, describe_crl, signer_of

    parts = {name: describe_chain(getattr(collateral, name)) for name in _CHAINS}
    parts["root_ca_crl"] = describe_crl(collateral.root_ca_crl)
    parts["pck_crl"] = describe_crl(collateral.pck_crl)
    parts["tcb_info"] = _tcb_info(collateral.tcb_info)
    parts["qe_identity"] = _qe_identity(collateral.qe_identity)
    for name in ("tcb_info", "qe_identity"):
        parts[name]["signed_by"] = signer_of(parts[f"{name}_issuer_chain"])
    return parts


def _tcb_info(text: bytes) -> dict[str, Any]:
    from kubenclave.dcap.documents import TcbInfo

    try:
        info = TcbInfo.parse(text)
    except FormatError as error:
        return {"unreadable": str(error)}
    return {
        "tee": info.tee.name,
        "fmspc": info.fmspc.hex(),
        "pce_id": info.pce_id.hex(),
        "tcb_evaluation_data_number": info.tcb_evaluation_data_number,
        "valid": [evidence.zulu(info.issue_date), evidence.zulu(info.next_update)],
        "levels": [_level(level) for level in info.levels],
        "tdx_module_levels": {
            name: [_level(level) for level in module.levels] for name, module in info.module_identities.items()
        },
    }


def _qe_identity(text: bytes) -> dict[str, Any]:
    from kubenclave.dcap.documents import EnclaveIdentity

    try:
        identity = EnclaveIdentity.parse(text)
    except FormatError as error:
        return {"unreadable": str(error)}
    return {
        "tee": identity.tee.name,
        "mr_signer": identity.mr_signer.hex(),
        "isv_prod_id": identity.isv_prod_id,
        "tcb_evaluation_data_number": identity.tcb_evaluation_data_number,
        "valid": [evidence.zulu(identity.issue_date), evidence.zulu(identity.next_update)],
        "levels": [_level(level) for level in identity.levels],
    }


def _level(level: "TcbLevel") -> dict[str, Any]:
    return {
        "svns": list(level.svns),
        "status": level.status.value,
        "tcb_date": evidence.zulu(level.tcb_date),
        "advisories": list(level.advisories),
    }


def _judge(part: dict[str, Any], at: dt.datetime) -> None:
    """Note in a part, and in each of its certificates, whether it is valid at that time."""
    from kubenclave.cli.show.certificates import state_at

    for each in part.get("certificates", [part]):
        each["state"] = state_at(each["valid"], at) if "valid" in each else "unreadable"


def _dated(parts: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    return [each for part in parts.values() for each in part.get("certificates", [part]) if "valid" in each]


def _states(parts: dict[str, dict[str, Any]]) -> list[str]:
    return [each["state"] for part in parts.values() for each in part.get("certificates", [part])]


def _text(document: dict[str, Any]) -> str:
    return "\n\n".join([_headline(document), _about(document), _windows(document), *_all_levels(document)])


def _headline(document: dict[str, Any]) -> str:
    root = "the root given, which is not Intel's: SIMULATED" if document["simulated"] else "Intel's root"
    refusal = document["refusal"]
    if refusal is None:
        colour = "yellow" if document["simulated"] else "green"
        lines = [click.style(f"VERIFIED under {root}", fg=colour, bold=True)]
    else:
        lines = [click.style(f"NOT VERIFIED under {root}", fg="red", bold=True)]
        lines.append(f"{kit.printable(refusal['message'])} [{refusal['code']}]")
        hint = refusal.get("hint") or (
            "" if document["simulated"] else "a SIMULATED platform has its own root (--root)"
        )
        lines += [f"hint: {hint}"] if hint else []
    state = (
        "everything is valid" if document["current"] else click.style("NOT EVERYTHING IS VALID", fg="red", bold=True)
    )
    lines.append(f"{state} at {document['at']}; the first part ends {document['earliest_expiration']}")
    return "\n".join(lines)


def _about(document: dict[str, Any]) -> str:
    info, identity, crl = document["tcb_info"], document["qe_identity"], document["pck_crl"]
    rows = []
    if "fmspc" in info:
        rows.append(("platform", f"{info['tee']}, FMSPC {info['fmspc']}, PCE-ID {info['pce_id']}"))
        rows.append(("TCB evaluation data number", f"{info['tcb_evaluation_data_number']} (TCB info)"))
    if "mr_signer" in identity:
        rows.append(("", f"{identity['tcb_evaluation_data_number']} (QE identity)"))
        rows.append(("quoting enclave", f"ISVPRODID {identity['isv_prod_id']}, MRSIGNER {identity['mr_signer']}"))
    if "revoked" in crl:
        rows.append(("revoked PCK certificates", str(len(crl["revoked"]))))
    if "revoked" in document["root_ca_crl"]:
        rows.append(("revoked CA certificates", str(len(document["root_ca_crl"]["revoked"]))))
    return kit.table(rows)


def _windows(document: dict[str, Any]) -> str:
    rows: list[tuple[str, ...]] = [("PART", "SIGNED BY", "FROM", "TO", "STATE")]
    for name, title in (_SIGNED | _CHAINS).items():
        part = document[name]
        if "unreadable" in part:
            rows.append((title, kit.printable(part["unreadable"])[:60], "", "", _coloured("unreadable")))
            continue
        if "certificates" not in part:
            rows.append((title, _signer(part), *_window(part)))
            continue
        rows.append((f"{title}:",))
        rows += [
            (f"  {kit.printable(each['name'])}", _name(each["issuer"]), *_window(each)) for each in part["certificates"]
        ]
    return kit.table(rows)


def _window(part: dict[str, Any]) -> tuple[str, str, str]:
    start, end = part["valid"]
    return start, end or "no end", _coloured(part["state"])


def _signer(part: dict[str, Any]) -> str:
    return kit.printable(part["signed_by"]) if "signed_by" in part else _name(part["issuer"])


def _name(subject: str) -> str:
    """Return the common name in an RFC 4514 name."""
    return kit.printable(subject.rpartition("CN=")[2])


def _coloured(state: str) -> str:
    return click.style(state, fg=_STATE_COLOURS[state])


def _all_levels(document: dict[str, Any]) -> list[str]:
    tables = [("TCB info", document["tcb_info"].get("levels")), ("QE identity", document["qe_identity"].get("levels"))]
    tables += [
        (f"TDX module {name}", levels) for name, levels in document["tcb_info"].get("tdx_module_levels", {}).items()
    ]
    return [_levels(title, levels) for title, levels in tables if levels]


def _levels(title: str, levels: list[dict[str, Any]]) -> str:
    from kubenclave.cli.show.verdict import colour_of

    rows = [(f"{kit.printable(title).upper()}: AT LEAST", "STATUS", "TCB DATE", "ADVISORIES")]
    for level in levels:
        status = click.style(level["status"], fg=colour_of(level["status"]))
        rows.append((_svns(level["svns"]), status, level["tcb_date"][:10], _shortened(level["advisories"])))
    return kit.table(rows)


def _svns(svns: list[int]) -> str:
    """Return SVNs of a level: components, PCE SVN, TDX components; an enclave has but one."""
    if len(svns) == 1:
        return f"ISVSVN {svns[0]}"
    parts = [".".join(map(str, svns[:16])), f"PCE {svns[16]}"]
    return " ".join(parts + ([f"TDX {'.'.join(map(str, svns[17:]))}"] if svns[17:] else []))


def _shortened(advisories: list[str]) -> str:
    most = 3
    more = f" and {len(advisories) - most} more" if len(advisories) > most else ""
    return (kit.printable(", ".join(advisories[:most])) or "none") + more
