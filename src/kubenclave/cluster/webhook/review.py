# SPDX-License-Identifier: Apache-2.0
"""An AdmissionReview in, the answer to it out. Pure, and total: any bytes get an answer or a FormatError."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import msgspec

from kubenclave.cluster.admission import Admitted, Site, admit
from kubenclave.cluster.webhook.jsonpatch import difference
from kubenclave.errors import Finding, FormatError, KubenclaveError, PolicyError

API_VERSION: Final = "admission.k8s.io/v1"
MAX_VALUES: Final = 100_000
"""Values in a review, about: 3 bytes of text can be a list of 64 in memory, and a second of work for a megabyte."""


class Outcome(StrEnum):
    """What became of a pod."""

    CHANGED = "changed"
    UNCHANGED = "unchanged"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer as JSON, and what it says: ``codes`` are those of a refusal; a dry run counts nowhere."""

    body: bytes
    outcome: Outcome
    codes: tuple[str, ...] = ()
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class _Request:
    uid: str
    namespace: str
    pod: dict[str, Any]
    dry_run: bool

    @property
    def account(self) -> str | None:
        """Service account of the pod, None where it names none."""
        spec = self.pod.get("spec")
        name = spec.get("serviceAccountName") if isinstance(spec, dict) else None
        return name if isinstance(name, str) else None


def answer(body: bytes, site: Site) -> Answer:
    """Answer the review in ``body``. Raises FormatError (code ``review.malformed``) when there is none in it."""
    request = _request(body)
    granted = site.grants.allow(request.namespace, request.account)
    try:
        admitted = admit(request.pod, provision_granted=granted, rules=site.rules)
        patch = difference(request.pod, admitted.pod)
    except PolicyError as error:
        return _refused(request, error.findings)
    except FormatError as error:
        return _refused(request, (_as_finding(error),), status=400, reason="BadRequest")
    except RecursionError:
        raise _malformed("nested too deeply") from None
    response: dict[str, Any] = {"uid": request.uid, "allowed": True}
    if patch:
        response |= {"patchType": "JSONPatch", "patch": base64.b64encode(msgspec.json.encode(patch)).decode()}
    if admitted.notes:
        response["warnings"] = list(admitted.notes)
    if audit := _audit(admitted):
        response["auditAnnotations"] = audit
    outcome = Outcome.CHANGED if patch else Outcome.UNCHANGED
    return Answer(_encoded(response), outcome, dry_run=request.dry_run)


def _request(body: bytes) -> _Request:
    # Each value but the first follows one of these; what stands in texts counts too, as nobody writes so much of it.
    if (values := sum(map(body.count, (b",", b"[", b"{")))) > MAX_VALUES:
        raise FormatError(
            "the review holds too much", code="review.size", expected=f"at most {MAX_VALUES} values", found=str(values)
        )
    try:
        review = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _malformed(str(error)) from error
    if not isinstance(review, dict) or (review.get("apiVersion"), review.get("kind")) != (
        API_VERSION,
        "AdmissionReview",
    ):
        raise _malformed("another document")
    request = review.get("request")
    if not isinstance(request, dict) or not isinstance(uid := request.get("uid"), str):
        raise _malformed("no request with a uid")
    if not isinstance(pod := request.get("object"), dict):
        raise _malformed("no object")
    namespace = request.get("namespace")
    return _Request(uid, namespace if isinstance(namespace, str) else "", pod, request.get("dryRun") is True)


def _malformed(found: str) -> FormatError:
    return FormatError(
        "not a review of a pod", code="review.malformed", expected=f"an AdmissionReview of {API_VERSION}", found=found
    )


def _as_finding(error: KubenclaveError) -> Finding:
    field = error.field or "pod"
    return Finding(error.code, field, error.expected or error.message, error.found or "something else", error.hint)


def _refused(
    request: _Request, findings: tuple[Finding, ...], *, status: int = 403, reason: str = "Forbidden"
) -> Answer:
    codes = tuple(dict.fromkeys(finding.code for finding in findings))
    response = {
        "uid": request.uid,
        "allowed": False,
        "status": {"code": status, "reason": reason, "message": "; ".join(map(_sentence, findings))},
        "auditAnnotations": {"refused": ",".join(codes)},
    }
    return Answer(_encoded(response), Outcome.REFUSED, codes, request.dry_run)


def _sentence(finding: Finding) -> str:
    hint = f" ({finding.hint})" if finding.hint else ""
    return f"[{finding.code}] {finding}{hint}"


def _audit(admitted: Admitted) -> Mapping[str, str]:
    """Return what an auditor wants to know later: how much EPC, and whether the provisioning key."""
    found = {"epc": str(admitted.epc)} if admitted.epc else {}
    holders = [ask.name for ask in admitted.asks if ask.provision]
    return {**found, "provision": ",".join(holders)} if holders else found


def _encoded(response: Mapping[str, Any]) -> bytes:
    return msgspec.json.encode({"apiVersion": API_VERSION, "kind": "AdmissionReview", "response": response})
