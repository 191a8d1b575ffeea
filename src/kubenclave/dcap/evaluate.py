# SPDX-License-Identifier: Apache-2.0
"""Which TCB level a platform, its quoting enclave and its TDX module reach.

Steps 8, 11 and 13 of the recipe (Intel QVL, EnclaveReportVerifier and QuoteVerifier).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from kubenclave.dcap.documents import COMPONENTS, EnclaveIdentity, ModuleIdentity, TcbInfo, TcbLevel
from kubenclave.dcap.pckext import PckExtension
from kubenclave.dcap.tcb import TcbStatus, converge, relaunch
from kubenclave.errors import TrustError
from kubenclave.sgx.report import ReportBody
from kubenclave.sgx.tdreport import TdReport10, TdReport15

_PLATFORM_SVNS: Final = COMPONENTS + 1


@dataclass(frozen=True, slots=True)
class TcbEvaluation:
    """Level of each part, and what they come to together. ``tdx_module`` is None for SGX and old modules."""

    status: TcbStatus
    platform: TcbLevel
    qe: TcbLevel
    tdx_module: TcbLevel | None = None

    @property
    def levels(self) -> tuple[TcbLevel, ...]:
        """The levels that were reached, platform first."""
        return tuple(level for level in (self.platform, self.qe, self.tdx_module) if level is not None)


def evaluate_qe(report: ReportBody, identity: EnclaveIdentity) -> TcbLevel:
    """Hold a quoting enclave against its identity and return its level. Raises TrustError.

    The identity's own value is not masked: one with a bit outside its mask can never match, as with Intel.
    """
    attributes = report.attributes.flags | report.attributes.xfrm << 64
    rules = (
        ("MISCSELECT", identity.misc_select, report.misc_select & identity.misc_select_mask),
        ("ATTRIBUTES", identity.attributes, attributes & identity.attributes_mask),
        ("MRSIGNER", identity.mr_signer, report.mr_signer),
        ("ISVPRODID", identity.isv_prod_id, report.isv_prod_id),
    )
    for field, expected, found in rules:
        if expected != found:
            raise TrustError(
                "quoting enclave is not the one the QE identity describes",
                code="qe-identity.mismatch",
                field=field,
                expected=_show(expected),
                found=_show(found),
            )
    return _reached(identity.levels, (report.isv_svn,), "quoting enclave")


def evaluate_sgx(extension: PckExtension, tcb_info: TcbInfo, qe: TcbLevel) -> TcbEvaluation:
    """Return the levels of an SGX platform. Raises TrustError when no level matches."""
    platform = _reached(tcb_info.levels, (*extension.components, extension.pce_svn), "platform")
    return TcbEvaluation(converge(platform.status, [qe.status]), platform, qe)


def evaluate_tdx(body: TdReport10, extension: PckExtension, tcb_info: TcbInfo, qe: TcbLevel) -> TcbEvaluation:
    """Return the levels of a TDX platform and its module, at the TD's launch. Raises TrustError.

    From TD report 1.5 on the TCB running now is looked at as well; where it is better than at launch the status
    advises to relaunch the TD.
    """
    launch = _evaluate_tdx(body.tee_tcb_svn, body, extension, tcb_info, qe)
    if not isinstance(body, TdReport15):
        return launch
    current = _evaluate_tdx(body.tee_tcb_svn_2, body, extension, tcb_info, qe)
    return TcbEvaluation(relaunch(launch.status, current.status), launch.platform, qe, launch.tdx_module)


def _evaluate_tdx(
    tee_tcb_svn: bytes, body: TdReport10, extension: PckExtension, tcb_info: TcbInfo, qe: TcbLevel
) -> TcbEvaluation:
    module = _module_level(tee_tcb_svn, body, tcb_info)
    # From module version 1 on, the module's own SVNs (the first two) are judged by its identity instead.
    skipped = (_PLATFORM_SVNS, _PLATFORM_SVNS + 1) if tee_tcb_svn[1] else ()
    svns = (*extension.components, extension.pce_svn, *tee_tcb_svn)
    platform = _reached(tcb_info.levels, svns, "platform", skipped)
    components = [qe.status] + ([module.status] if module else [])
    return TcbEvaluation(converge(platform.status, components), platform, qe, module)


def _module_level(tee_tcb_svn: bytes, body: TdReport10, tcb_info: TcbInfo) -> TcbLevel | None:
    version = tee_tcb_svn[1]
    name = f"TDX_{version:02X}"
    identity: ModuleIdentity | None = tcb_info.module_identities.get(name) if version else tcb_info.module
    if identity is None:
        raise _module_mismatch("identity", name, "not in TCB info")
    if body.mr_signer_seam != identity.mr_signer:
        raise _module_mismatch("MRSIGNERSEAM", identity.mr_signer.hex(), body.mr_signer_seam.hex())
    if any(body.seam_attributes) or body.seam_attributes != identity.attributes:
        raise _module_mismatch("SEAMATTRIBUTES", identity.attributes.hex(), body.seam_attributes.hex())
    return _reached(identity.levels, (tee_tcb_svn[0],), "TDX module") if version else None


def _reached(levels: Sequence[TcbLevel], svns: tuple[int, ...], what: str, skipped: tuple[int, ...] = ()) -> TcbLevel:
    """Return the first (highest) level of which every SVN is reached; a higher one never makes up for a lower."""
    for level in levels:
        if all(
            have >= want or index in skipped for index, (have, want) in enumerate(zip(svns, level.svns, strict=True))
        ):
            return level
    raise TrustError(
        f"no TCB level matches the {what}",
        code="tcb.not-supported",
        field=f"SVNs of the {what}",
        expected=f"at least {'.'.join(map(str, levels[-1].svns))}",
        found=".".join(map(str, svns)),
    )


def _module_mismatch(field: str, expected: str, found: str) -> TrustError:
    return TrustError(
        "TDX module is not one that TCB info describes",
        code="tdx-module.mismatch",
        field=field,
        expected=expected,
        found=found,
    )


def _show(value: int | bytes) -> str:
    return value.hex() if isinstance(value, bytes) else hex(value)
