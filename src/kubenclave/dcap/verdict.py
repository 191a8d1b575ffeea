# SPDX-License-Identifier: Apache-2.0
"""The public call: verify, then appraise, and everything a relying party may want to know of the outcome."""

import datetime as dt
import functools
from collections.abc import Mapping
from dataclasses import InitVar, dataclass
from typing import Any, Final

from kubenclave.dcap.anchor import TrustAnchor, intel_root
from kubenclave.dcap.appraise import (
    default_findings,
    generation_findings,
    policy_findings,
    report_data_findings,
    wanted_enclave,
)
from kubenclave.dcap.cache import Cache
from kubenclave.dcap.collateral import Collateral
from kubenclave.dcap.describe import describe_quote, zulu
from kubenclave.dcap.documents import TcbLevel
from kubenclave.dcap.policy import Policy
from kubenclave.dcap.relaxations import relaxations_used
from kubenclave.dcap.tcb import TcbStatus
from kubenclave.dcap.verify import Verified, verify
from kubenclave.errors import PolicyError, UsageError
from kubenclave.sgx.quote import Quote
from kubenclave.sgx.report import REPORT_DATA_SIZE

_SHARED_CACHE: Final = Cache()
_SEAL: Final = object()
_ARGUMENTS: Final[dict[str, Any]] = {
    "quote": bytes,
    "collateral": Collateral,
    "at": dt.datetime,
    "root": bytes | None,
    "pck_chain": bytes | None,
    "policy": Policy | None,
    "report_data": bytes | None,
    "minimum_tcb_evaluation_data_number": int,
    "dangerously_accept_expired_collateral": dt.timedelta,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class QuoteVerdict:
    """A quote that was accepted; only ``verify_quote`` makes one.

    ``appraised`` is False when no policy said which enclave was wanted. ``enclave`` is the rule of the policy that it
    met, the first of several: its name, or ``enclaves[0]`` for one without; None without a policy.
    ``relaxations`` names, by keyword or member, everything the caller or the policy decided otherwise than the default
    rules do and without which the answer or its meaning would be another; an empty tuple means none.
    ``minimum_tcb_evaluation_data_number`` is the floor that was set, by the caller or the policy; 0 for none.
    """

    verified: Verified
    appraised: bool
    policy_name: str | None
    enclave: str | None
    report_data_checked: bool
    minimum_tcb_evaluation_data_number: int
    relaxations: tuple[str, ...]
    seal: InitVar[object]

    def __post_init__(self, seal: object) -> None:
        if seal is not _SEAL:
            raise TypeError("only kubenclave.verify_quote makes a QuoteVerdict")

    @property
    def quote(self) -> Quote:
        """The parsed quote."""
        return self.verified.quote

    @property
    def tcb_status(self) -> TcbStatus:
        """Converged status, in Intel's spelling."""
        return self.verified.evaluation.status

    @property
    def advisories(self) -> tuple[str, ...]:
        """Advisory ids of all parts in order, without repeats."""
        return tuple(dict.fromkeys(each for level in self.verified.evaluation.levels for each in level.advisories))

    @property
    def platform(self) -> TcbLevel:
        """Level of the platform: status, advisories and TCB date of its own."""
        return self.verified.evaluation.platform

    @property
    def qe(self) -> TcbLevel:
        """Level of the quoting enclave."""
        return self.verified.evaluation.qe

    @property
    def tdx_module(self) -> TcbLevel | None:
        """Level of the TDX module; None for SGX."""
        return self.verified.evaluation.tdx_module

    @property
    def tcb_date(self) -> dt.datetime:
        """The oldest TCB date of the parts."""
        return min(level.tcb_date for level in self.verified.evaluation.levels)

    @property
    def dates(self) -> dict[str, tuple[dt.datetime, dt.datetime]]:
        """From when to when each dated thing is valid, both included."""
        return {each.what: (each.not_before, each.not_after) for each in self.verified.dated}

    @property
    def earliest_expiration(self) -> dt.datetime:
        """When the first of the dated things expires."""
        return min(each.not_after for each in self.verified.dated)

    @property
    def collateral_expired(self) -> bool:
        """Whether something was overdue and only accepted for the grace period granted."""
        return bool(self.verified.overdue)

    @property
    def tcb_evaluation_data_number(self) -> int:
        """Generation of the collateral."""
        return self.verified.collateral.tcb_evaluation_data_number

    @property
    def simulated(self) -> bool:
        """Whether the root was another one than Intel's."""
        return not self.verified.anchor.is_intel

    def as_dict(self) -> dict[str, Any]:
        """Everything as JSON values: the shape of ``quote verify --output json``."""
        return {
            "accepted": True,
            "appraised": self.appraised,
            "policy": self.policy_name,
            "enclave": self.enclave,
            "report_data_checked": self.report_data_checked,
            "simulated": self.simulated,
            "tcb_status": self.tcb_status.value,
            "advisories": list(self.advisories),
            "tcb_date": zulu(self.tcb_date),
            "tcb_evaluation_data_number": self.tcb_evaluation_data_number,
            "minimum_tcb_evaluation_data_number": self.minimum_tcb_evaluation_data_number,
            "platform": _level(self.platform),
            "qe": _level(self.qe),
            "tdx_module": _level(self.tdx_module) if self.tdx_module else None,
            "relaxations": list(self.relaxations),
            "verified_at": zulu(self.verified.at),
            "earliest_expiration": zulu(self.earliest_expiration),
            "collateral_expired": self.collateral_expired,
            "dates": {what: [zulu(start), zulu(end)] for what, (start, end) in self.dates.items()},
            "root": self.verified.anchor.digest,
            "collateral": self.verified.collateral_digest.hex(),
            "platform_identity": self._platform_identity(),
            "quote": describe_quote(self.quote),
        }

    def _platform_identity(self) -> dict[str, Any]:
        extension = self.verified.chain.extension
        return {
            "fmspc": extension.fmspc.hex(),
            "pce_id": extension.pce_id.hex(),
            "pce_svn": extension.pce_svn,
            "cpu_svn": extension.cpu_svn.hex(),
            "ppid": extension.ppid.hex(),
            "pck_ca": self.verified.chain.ca_kind.value,
            "sgx_type": extension.sgx_type.name,
            "platform_instance_id": extension.platform_instance_id.hex() if extension.platform_instance_id else None,
            "dynamic_platform": extension.dynamic_platform,
            "cached_keys": extension.cached_keys,
            "smt_enabled": extension.smt_enabled,
        }


def verify_quote(  # every keyword is a decision of the caller's
    quote: bytes,
    collateral: Collateral,
    *,
    at: dt.datetime,
    root: bytes | None = None,
    pck_chain: bytes | None = None,
    policy: Policy | None = None,
    report_data: bytes | None = None,
    minimum_tcb_evaluation_data_number: int = 0,
    dangerously_allow_debug: bool = False,
    dangerously_accept_expired_collateral: dt.timedelta = dt.timedelta(0),
    cache: Cache | None = None,
) -> QuoteVerdict:
    """Say whether a quote is genuine, current and (under a policy) from the enclave that is wanted.

    - ``at``: the time of the decision, with a zone; the verifier's own, never one taken from the evidence.
    - ``root``: another root than Intel's, a certificate in DER; marks the verdict as simulated.
    - ``pck_chain``: PEM, for a quote that carries none; beside one that does it is left unread.
    - ``report_data``: the 64 bytes this challenge expects; those of a policy have to hold as well.
    - ``minimum_tcb_evaluation_data_number``: oldest generation of collateral; two of them are served side by side,
      and the older one may know less that speaks against a platform.
    - ``dangerously_allow_debug``: accept an enclave whose memory its host can read.
    - ``dangerously_accept_expired_collateral``: how long after its end collateral still counts.
    - ``cache``: where successful checks are kept; one for the process by default.

    Raises UsageError for arguments of another type (``bytes`` means ``bytes``: nothing that could change meanwhile).
    Raises FormatError when the bytes are not a quote (or ``root`` is no certificate), VerificationError when the
    answer is no: TrustError for the first thing that is not genuine or not current, PolicyError with all findings.
    """
    _check_arguments(locals())  # at the top, where these are the arguments and nothing else
    anchor, kept = intel_root() if root is None else _anchor(root), _SHARED_CACHE if cache is None else cache
    grace = max(dangerously_accept_expired_collateral, policy.grace if policy else dt.timedelta(0))
    verified = verify(quote, collateral, at=at, anchor=anchor, cache=kept, pck_chain=pck_chain, grace=grace)
    allow_debug = dangerously_allow_debug or (policy is not None and policy.dangerously_allow_debug)
    findings = [
        *default_findings(verified, allow_debug=allow_debug),
        *(policy_findings(verified, policy, report_data) if policy else report_data_findings(verified, report_data)),
        *generation_findings(verified, minimum_tcb_evaluation_data_number),
    ]
    if findings:
        raise PolicyError(findings)
    return _verdict(verified, policy, report_data, minimum_tcb_evaluation_data_number)


def _verdict(verified: Verified, policy: Policy | None, report_data: bytes | None, minimum: int) -> QuoteVerdict:
    """Return the verdict on a quote that nothing speaks against."""
    return QuoteVerdict(
        verified=verified,
        appraised=policy is not None,
        policy_name=policy.name if policy else None,
        enclave=wanted_enclave(policy, verified.quote.body) if policy else None,
        report_data_checked=report_data is not None or (policy is not None and policy.report_data is not None),
        minimum_tcb_evaluation_data_number=max(minimum, policy.min_tcb_evaluation_data_number if policy else 0),
        relaxations=relaxations_used(verified, policy, minimum),
        seal=_SEAL,
    )


def _check_arguments(given: Mapping[str, Any]) -> None:
    """Raise UsageError where an argument is not what it has to be, before anything rests on it."""
    for name, kind in _ARGUMENTS.items():
        value = given[name]
        if not isinstance(value, kind):
            wanted, found = kind.__name__ if isinstance(kind, type) else str(kind), type(value).__name__
        elif kind is int and value < 0:
            wanted, found = "a number from 0 up", str(value)[:20]
        else:
            continue
        raise UsageError(
            "an argument is not of the kind that verify_quote takes",
            code="usage.argument",
            field=name,
            expected=wanted,
            found=found,
        )
    report_data = given["report_data"]
    if report_data is not None and len(report_data) != REPORT_DATA_SIZE:
        raise UsageError(
            "report data has the wrong size",
            code="usage.report-data",
            field="report_data",
            expected=f"{REPORT_DATA_SIZE} bytes",
            found=f"{len(report_data)} bytes",
        )


@functools.lru_cache(maxsize=64)
def _anchor(root: bytes) -> TrustAnchor:
    return TrustAnchor.from_certificate(root)


def _level(level: TcbLevel) -> dict[str, Any]:
    return {
        "status": level.status.value,
        "advisories": list(level.advisories),
        "tcb_date": zulu(level.tcb_date),
        "svns": list(level.svns),
    }
