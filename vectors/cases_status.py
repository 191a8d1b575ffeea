# SPDX-License-Identifier: Apache-2.0
"""Cases about TCB levels: every status of platform, quoting enclave and TDX module, and what they come to."""

from collections.abc import Iterator
from typing import Any, Final

from kubenclave.dcap.tcb import TcbStatus
from kubenclave.platform.simulated.documents import BROKEN_MICROCODE
from kubenclave.platform.simulated.tcb import PlatformSvns, PlatformTcb, svns
from vectors.case import Before, Case, both, make, put
from vectors.scene import Scene

_NO_LEVEL: Final = "reject tcb.not-supported"
_MODULE: Final = "reject tdx-module.mismatch"
_REVOKED: Final = "reject tcb.revoked"
_STATES: Final = {
    TcbStatus.UP_TO_DATE: PlatformTcb.UP_TO_DATE.svns,
    TcbStatus.SW_HARDENING_NEEDED: PlatformTcb.SW_HARDENING_NEEDED.svns,
    TcbStatus.CONFIGURATION_NEEDED: PlatformTcb.CONFIGURATION_NEEDED.svns,
    TcbStatus.CONFIGURATION_AND_SW_HARDENING_NEEDED: PlatformTcb.CONFIGURATION_AND_SW_HARDENING_NEEDED.svns,
    TcbStatus.OUT_OF_DATE: PlatformTcb.OUT_OF_DATE.svns,
    TcbStatus.OUT_OF_DATE_CONFIGURATION_NEEDED: PlatformTcb.OUT_OF_DATE_CONFIGURATION_NEEDED.svns,
    TcbStatus.REVOKED: svns(BROKEN_MICROCODE, configured=False, hardened=False),
}
_WITH_OLD_QE: Final = {
    TcbStatus.UP_TO_DATE: "OutOfDate",
    TcbStatus.SW_HARDENING_NEEDED: "OutOfDate",
    TcbStatus.CONFIGURATION_NEEDED: "OutOfDateConfigurationNeeded",
    TcbStatus.CONFIGURATION_AND_SW_HARDENING_NEEDED: "OutOfDateConfigurationNeeded",
    TcbStatus.OUT_OF_DATE: "OutOfDate",
    TcbStatus.OUT_OF_DATE_CONFIGURATION_NEEDED: "OutOfDateConfigurationNeeded",
    TcbStatus.REVOKED: _REVOKED,
}
_CURRENT, _OLD, _BROKEN = (5, 1, 8), (3, 1, 8), (1, 1, 8)
"""TEE_TCB_SVN of a TDX module of version 1 at each level of its identity: UpToDate, OutOfDate, Revoked."""


def cases() -> Iterator[Case]:
    """Yield them all."""
    for base in ("sgx-v3", "sgx-v4", "sgx-v5", "tdx-v4", "tdx-v5"):
        yield from _statuses(base)
    yield from _matching()
    for base in ("tdx-v4", "tdx-v5"):
        yield from _modules(base)
    yield from _relaunch()


def _statuses(base: str) -> Iterator[Case]:
    with_tdx = base.startswith("tdx")
    for status, platform in _STATES.items():
        expect = _REVOKED if status is TcbStatus.REVOKED else status.value
        name = status.value.lower()
        yield make(f"platform-{name}", expect, _platform(platform), base=base)
        old_qe = both(_platform(platform), put(qe={"isv_svn": 2}))
        yield make(f"platform-{name}-qe-outofdate", _WITH_OLD_QE[status], old_qe, base=base)
    yield make("qe-revoked", _REVOKED, put(qe={"isv_svn": 1}), base=base)
    yield make("qe-ahead", "UpToDate", put(qe={"isv_svn": 9}), base=base)
    between = 3 if with_tdx else 7
    yield make("qe-between-levels", "OutOfDate", put(qe={"isv_svn": between}), base=base)
    # The 2026 library lets these pass unchanged; the older, stricter reading is ours.
    for identity_status, expect in (
        ("ConfigurationNeeded", "OutOfDate"),
        ("OutOfDateConfigurationNeeded", "OutOfDate"),
        ("SWHardeningNeeded", "reject qe-identity.malformed"),
        ("ConfigurationAndSWHardeningNeeded", "reject qe-identity.malformed"),
    ):
        yield make(f"qe-{identity_status.lower()}", expect, _first_qe_level(identity_status), base=base)


def _matching() -> Iterator[Case]:
    components = PlatformTcb.UP_TO_DATE.svns.components
    for number in range(16):
        # One component far ahead, another one behind all levels: nothing makes up for the one behind.
        if components[number] in (0, 255):
            continue
        ahead = tuple(255 if each != number else 0 for each in range(16))
        expect = "ConfigurationNeeded" if number == 6 else "SWHardeningNeeded" if number == 7 else _NO_LEVEL
        yield make(f"component-{number + 1}-zero-others-ahead", expect, _platform(PlatformSvns(ahead)))
    yield make("platform-ahead-of-every-level", "UpToDate", _platform(PlatformSvns((255,) * 16, 65535)))
    yield make("platform-behind-every-level", _NO_LEVEL, _platform(PlatformSvns((0,) * 16)))
    yield make("pcesvn-behind-every-level", _NO_LEVEL, _platform(PlatformSvns(components, 12)))
    yield make("pcesvn-ahead", "UpToDate", _platform(PlatformSvns(components, 14)))
    microcode = (*components[:1], 13, *components[2:])
    yield make("component-2-one-behind", "OutOfDate", _platform(PlatformSvns(microcode)))
    # Of two levels that both fit, the lexicographically higher one counts, wherever it stands.
    yield make("first-component-decides", "OutOfDate", _two_levels((9, 1), (8, 200)))
    yield make("second-component-decides-among-equals", "UpToDate", _two_levels((9, 1), (9, 200)))
    # The certificate's SVNs count; what the enclave's report or the header say does not.
    yield make("report-cpusvn-is-not-looked-at", "UpToDate", put(body={"cpu_svn": b"\xff" * 16}))


def _modules(base: str) -> Iterator[Case]:
    for name, tee_tcb_svn, expect in (
        ("version-0", (5, 0, 8), "UpToDate"),
        ("version-0-old", (4, 0, 8), "OutOfDate"),
        ("version-0-microcode-old", (5, 0, 7), "OutOfDate"),
        ("version-1", _CURRENT, "UpToDate"),
        ("version-1-outofdate", _OLD, "OutOfDate"),
        ("version-1-between-levels", (4, 1, 8), "OutOfDate"),
        ("version-1-revoked", _BROKEN, _REVOKED),
        ("version-1-without-a-level", (0, 1, 8), _NO_LEVEL),
        ("version-1-microcode-old", (5, 1, 7), "OutOfDate"),
        ("version-1-microcode-behind-every-level", (5, 1, 0), _REVOKED),
        ("version-3", (5, 3, 8), "UpToDate"),
        ("version-2-unknown", (5, 2, 8), _MODULE),
        ("version-255-unknown", (5, 255, 8), _MODULE),
    ):
        yield make(f"module-{name}", expect, _tee(tee_tcb_svn), base=base)
    yield make("module-of-another-signer", _MODULE, put(body={"mr_signer_seam": b"\x01" * 48}), base=base)
    yield make("module-attributes", _MODULE, put(body={"seam_attributes": b"\x01" + bytes(7)}), base=base)
    both_set = both(
        put(body={"seam_attributes": b"\x01" + bytes(7)}),
        put(tcb_info={"tdxModule": {"mrsigner": "00" * 48, "attributes": "01" + "00" * 7, "attributesMask": "FF" * 8}}),
    )
    yield make("module-attributes-as-described-but-not-zero", _MODULE, both_set, base=base)
    described = {"tdxModule": {"mrsigner": "00" * 48, "attributes": "01" + "00" * 7, "attributesMask": "FF" * 8}}
    yield make("module-attributes-zero-but-described", _MODULE, put(tcb_info=described), base=base)
    for version in (0, 1):
        change = both(_tee((5, version, 8)), _module_signer)
        yield make(f"module-version-{version}-described-with-a-signer", _MODULE, change, base=base)
    lower = both(_tee(_CURRENT), _lower_case_ids)
    yield make("module-identity-in-lower-case", "UpToDate", lower, base=base)


def _relaunch() -> Iterator[Case]:
    configuration, hardening = PlatformTcb.CONFIGURATION_NEEDED.svns, PlatformTcb.SW_HARDENING_NEEDED.svns
    old_platform = PlatformTcb.OUT_OF_DATE.svns
    for name, launch, current, platform, expect in (
        ("advised", _OLD, _CURRENT, None, "TDRelaunchAdvised"),
        ("advised-hardening", _OLD, _CURRENT, hardening, "TDRelaunchAdvised"),
        ("advised-configuration", _OLD, _CURRENT, configuration, "TDRelaunchAdvisedConfigurationNeeded"),
        ("not-needed", _CURRENT, _CURRENT, None, "UpToDate"),
        ("of-no-use", _OLD, _OLD, None, "OutOfDate"),
        ("of-no-use-platform-old", _OLD, _CURRENT, old_platform, "OutOfDate"),
        ("current-revoked", _OLD, _BROKEN, None, "OutOfDate"),
        ("current-older", _CURRENT, _OLD, None, "UpToDate"),
        ("launch-revoked", _BROKEN, _CURRENT, None, _REVOKED),
        ("current-without-a-level", _CURRENT, (0, 1, 8), None, _NO_LEVEL),
        ("current-unknown-module", _CURRENT, (5, 2, 8), None, _MODULE),
        ("to-another-version", (4, 0, 8), (5, 3, 8), None, "TDRelaunchAdvised"),
    ):
        change = _tee(launch, current)
        if platform is not None:
            change = both(change, _platform(platform))
        yield make(f"relaunch-{name}", expect, change, base="tdx-v5")
    old_qe = both(_tee(_OLD, _CURRENT), put(qe={"isv_svn": 2}))
    yield make("relaunch-of-no-use-qe-old", "OutOfDate", old_qe, base="tdx-v5")


def _platform(platform: PlatformSvns) -> Before:
    return lambda staged: staged.platform(platform)


def _tee(launch: tuple[int, ...], current: tuple[int, ...] | None = None) -> Before:
    fields = {"tee_tcb_svn": bytes(launch).ljust(16, b"\0")}
    if current is not None:
        fields["tee_tcb_svn_2"] = bytes(current).ljust(16, b"\0")
    return put(body=fields)


def _first_qe_level(status: str) -> Before:
    def change(staged: Scene) -> None:
        levels: list[dict[str, Any]] = staged.qe_identity["tcbLevels"]
        staged.qe_identity["tcbLevels"] = [{**levels[0], "tcbStatus": status}, *levels[1:]]

    return change


def _two_levels(out_of_date: tuple[int, int], up_to_date: tuple[int, int]) -> Before:
    """Leave two levels, by their first two components, that the platform reaches both."""

    def change(staged: Scene) -> None:
        level = staged.tcb_info["tcbLevels"][0]

        def with_components(start: tuple[int, int], status: str) -> dict[str, Any]:
            components = [{"svn": svn} for svn in (*start, *[0] * 14)]
            return {**level, "tcb": {"sgxtcbcomponents": components, "pcesvn": 1}, "tcbStatus": status}

        staged.tcb_info["tcbLevels"] = [
            with_components(out_of_date, "OutOfDate"),
            with_components(up_to_date, "UpToDate"),
        ]
        staged.platform(PlatformSvns((255,) * 16))

    return change


def _module_signer(staged: Scene) -> None:
    staged.tcb_info["tdxModule"] = {**staged.tcb_info["tdxModule"], "mrsigner": "11" * 48}
    identities = staged.tcb_info["tdxModuleIdentities"]
    staged.tcb_info["tdxModuleIdentities"] = [{**each, "mrsigner": "11" * 48} for each in identities]


def _lower_case_ids(staged: Scene) -> None:
    identities = staged.tcb_info["tdxModuleIdentities"]
    staged.tcb_info["tdxModuleIdentities"] = [{**each, "id": each["id"].lower()} for each in identities]
