# SPDX-License-Identifier: Apache-2.0
"""Claims as an EAT attestation result (EAR), with the trustworthiness vector of AR4SI, in either of two spellings.

``draft``: draft-ietf-rats-ear-03, names with underscores. ``veraison``: what deployed code reads, names with dots and
dashes. A token has one of them, never names of both. The vector's numbers are those of draft-ietf-rats-ar4si-09; which
SGX finding becomes which number is this project's choice (docs/tokens.md).
"""

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from kubenclave.dcap.describe import describe_body
from kubenclave.dcap.judgement import Judgement
from kubenclave.dcap.tcb import TcbStatus
from kubenclave.dcap.token.azure import base64url
from kubenclave.dcap.token.common import NAMESPACE, LogReceipt, service_claims
from kubenclave.errors import FormatError
from kubenclave.sgx.report import ReportBody

DEVELOPER: Final = "https://github.com/kubenclave/kubenclave"
_NONCE: Final = range(8, 89)  # characters of eat_nonce in JSON (RFC 9711, section 4.1)


class Dialect(enum.StrEnum):
    """Which spelling a token has."""

    DRAFT = "draft"
    VERAISON = "veraison"


@dataclass(frozen=True, slots=True)
class _Names:
    profile: str
    verifier_id: str
    status: str
    vector: str


_NAMES: Final = {
    Dialect.DRAFT: _Names(
        "tag:ietf.org,2026:rats/ear#03", "ear_verifier_id", "ear_status", "ear_trustworthiness_vector"
    ),
    Dialect.VERAISON: _Names(
        "tag:github.com,2023:veraison/ear", "ear.verifier-id", "ear.status", "ear.trustworthiness-vector"
    ),
}

_GOOD: Final = 2
_VULNERABLE: Final = 32
_UNRECOGNISED: Final = 33  # of executables
_CANNOT_SEE: Final = 36  # of configuration
_BAD: Final = 96

_S = TcbStatus
_HARDWARE: Final[Mapping[TcbStatus, int]] = {
    _S.UP_TO_DATE: _GOOD,
    _S.SW_HARDENING_NEEDED: _GOOD,
    _S.CONFIGURATION_NEEDED: _GOOD,
    _S.CONFIGURATION_AND_SW_HARDENING_NEEDED: _GOOD,
    _S.OUT_OF_DATE: _VULNERABLE,
    _S.OUT_OF_DATE_CONFIGURATION_NEEDED: _VULNERABLE,
    _S.TD_RELAUNCH_ADVISED: _VULNERABLE,
    _S.TD_RELAUNCH_ADVISED_CONFIGURATION_NEEDED: _VULNERABLE,
    _S.REVOKED: _BAD,
}
_CONFIGURATION: Final[Mapping[TcbStatus, int]] = {
    _S.SW_HARDENING_NEEDED: _VULNERABLE,
    _S.CONFIGURATION_NEEDED: _CANNOT_SEE,
    _S.CONFIGURATION_AND_SW_HARDENING_NEEDED: _CANNOT_SEE,
    _S.OUT_OF_DATE_CONFIGURATION_NEEDED: _CANNOT_SEE,
    _S.TD_RELAUNCH_ADVISED_CONFIGURATION_NEEDED: _CANNOT_SEE,
}


def ear_claims(judgement: Judgement, dialect: Dialect, *, build: str, log: LogReceipt | None = None) -> dict[str, Any]:
    """Return all claims but the issuer's own; ``build`` names this version of the verifier.

    Raises FormatError ``token.nonce`` for a nonce that ``eat_nonce`` cannot hold.
    """
    names, body = _NAMES[dialect], judgement.verdict.quote.body
    claims: dict[str, Any] = {
        "eat_profile": names.profile,
        names.verifier_id: {"developer": DEVELOPER, "build": build},
        "submods": {"sgx" if isinstance(body, ReportBody) else "tdx": _submodule(judgement, dialect)},
        **service_claims(judgement, log),
    }
    if judgement.nonce is not None:
        claims["eat_nonce"] = _nonce(judgement.nonce)
    return claims


def trustworthiness(judgement: Judgement) -> dict[str, int]:
    """Return the categories of AR4SI that this service can say something about.

    An enclave counts as approved when a policy document of ours named it: an Azure policy may permit anything at all,
    and nothing shows whether it looked. Overdue collateral may not know the latest vulnerability.
    """
    verdict = judgement.verdict
    hardware = _HARDWARE[verdict.tcb_status]
    return {
        "configuration": _CONFIGURATION.get(verdict.tcb_status, _GOOD),
        "executables": _UNRECOGNISED if verdict.enclave is None else _GOOD,
        "hardware": max(hardware, _VULNERABLE) if verdict.collateral_expired else hardware,
        "runtime-opaque": _BAD if verdict.quote.body.debug else _GOOD,
    }


def tier(vector: Mapping[str, int]) -> str:
    """Return the worst tier of a vector (draft-ietf-rats-ar4si-09, section 2.3.2); all numbers here are positive."""
    worst = max(vector.values())
    if worst >= _BAD:
        return "contraindicated"
    return "warning" if worst >= _VULNERABLE else "affirming"


def _submodule(judgement: Judgement, dialect: Dialect) -> dict[str, Any]:
    names, vector, policy = _NAMES[dialect], trustworthiness(judgement), judgement.policy
    submodule: dict[str, Any] = {names.status: tier(vector), names.vector: vector}
    policy_id = f"policy:{policy.format}/{policy.name}/{policy.version}/{policy.digest.hex()}" if policy else None
    if dialect is Dialect.VERAISON:
        return {
            **submodule,
            **({"ear.appraisal-policy-id": policy_id} if policy_id else {}),
            "ear.veraison.annotated-evidence": _evidence(judgement),
            **({"ear.veraison.policy-claims": dict(judgement.issued)} if judgement.issued else {}),
        }
    return {
        **submodule,
        **({"ear_appraisal_policy_ids": [policy_id]} if policy_id else {}),
        NAMESPACE: {
            "evidence": _evidence(judgement),
            **({"policy_claims": dict(judgement.issued)} if judgement.issued else {}),
        },
    }


def _evidence(judgement: Judgement) -> dict[str, Any]:
    """Return the report's fields under the names of its specification, and held data in base64url."""
    quote = judgement.verdict.quote
    held = {"runtime_data": judgement.runtime_data, "init_data": judgement.init_data}
    return {
        "tee": quote.header.tee_type.name,
        **describe_body(quote.body),
        **{name: base64url(each.data) for name, each in held.items() if each is not None},
    }


def _nonce(nonce: str) -> str:
    if len(nonce) not in _NONCE:
        raise FormatError(
            "the nonce does not fit into eat_nonce",
            code="token.nonce",
            expected="8 to 88 characters",
            found=f"{len(nonce)} characters",
        )
    return nonce
