# SPDX-License-Identifier: Apache-2.0
"""Whether pods with EPC meet our admission: the half that changes them and the half that refuses."""

import base64
import binascii
import datetime as dt
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from cryptography import x509

from kubenclave.cluster import api as cluster
from kubenclave.cluster.api import Object
from kubenclave.cluster.diagnose.model import (
    Diagnosis,
    Layer,
    Snapshot,
    State,
    name_of,
    ours,
)
from kubenclave.cluster.diagnose.parts import POLICIES_SINCE

_DUE: Final = 0.1
"""Part of a certificate's life at whose beginning it should have been replaced long ago."""

_SAID: Final = 200
"""Characters of the server's warning that are quoted."""


def check_mutation(snapshot: Snapshot) -> Iterator[Diagnosis]:
    """Look for what turns dialects into one and adds the enclave device."""
    policies, webhooks = ours(snapshot.of(cluster.MUTATING_POLICIES)), ours(snapshot.of(cluster.MUTATING_WEBHOOKS))
    if not policies and not webhooks:
        half = "policies" if snapshot.version >= POLICIES_SINCE else "webhook"
        step = f"install the chart with admission.mode {half}: pods in other dialects are not translated, none is wired"
        yield Diagnosis(
            Layer.ADMISSION, State.PROBLEM, "mutation", "neither policy nor webhook", "doctor.no-admission", step
        )
    yield from _bound(policies, ours(snapshot.of(cluster.MUTATING_BINDINGS)), "MutatingAdmissionPolicy")


def check_validation(snapshot: Snapshot) -> Iterator[Diagnosis]:
    """Look for what refuses half-equipped pods, and the provisioning key to whom it was not granted."""
    policies = ours(snapshot.of(cluster.VALIDATING_POLICIES))
    if not policies:
        step = "install the chart anew: pods could run without their device, and anybody could ask for the key"
        yield Diagnosis(Layer.ADMISSION, State.PROBLEM, "validation", "no policy", "doctor.no-validation", step)
    yield from _bound(policies, ours(snapshot.of(cluster.VALIDATING_BINDINGS)), "ValidatingAdmissionPolicy")


def check_webhooks(snapshot: Snapshot, now: dt.datetime) -> Iterator[Diagnosis]:
    """Look at how the API server reaches our webhook."""
    for configuration in ours(snapshot.of(cluster.MUTATING_WEBHOOKS)):
        for webhook in configuration.get("webhooks") or ():
            subject = f"webhook {webhook.get('name', '')}"
            if webhook.get("failurePolicy", "Fail") != "Fail":
                step = "set failurePolicy: Fail; only pods that ask for SGX meet it"
                found = "lets pods pass when it does not answer"
                yield Diagnosis(Layer.ADMISSION, State.PROBLEM, subject, found, "doctor.webhook-fails-open", step)
            yield from _authorities(subject, str((webhook.get("clientConfig") or {}).get("caBundle") or ""), now)


def _bound(policies: Iterable[Object], bindings: Sequence[Object], kind: str) -> Iterator[Diagnosis]:
    """Tell which policies are in force: one without a binding does nothing."""
    names = {str((one.get("spec") or {}).get("policyName", "")) for one in bindings}
    for policy in policies:
        subject = f"{kind} {name_of(policy)}"
        if name_of(policy) not in names:
            step = "install the chart anew, which brings the binding"
            yield Diagnosis(Layer.ADMISSION, State.PROBLEM, subject, "not bound", "doctor.policy-unbound", step)
        elif warnings := ((policy.get("status") or {}).get("typeChecking") or {}).get("expressionWarnings"):
            first = " ".join(str(warnings[0].get("warning", "")).split())
            found = f"expressions that do not type-check: {len(warnings)}: {first[:_SAID]}"
            step = "the policy is of another version than the server expects: report it with this text"
            yield Diagnosis(Layer.ADMISSION, State.WARNING, subject, found, "doctor.policy-warning", step)
        else:
            yield Diagnosis(Layer.ADMISSION, State.OK, subject, "bound")


def _authorities(subject: str, bundle: str, now: dt.datetime) -> Iterator[Diagnosis]:
    """Look at the certificates by which the API server knows the webhook; of several the best counts."""
    step = "see the log of kubenclave-webhook, which makes and replaces its certificates itself"
    if not bundle:
        yield Diagnosis(
            Layer.ADMISSION, State.PROBLEM, subject, "no CA yet, so SGX pods are refused", "doctor.webhook-no-ca", step
        )
        return
    try:
        certificates = x509.load_pem_x509_certificates(base64.b64decode(bundle, validate=True))
    except (ValueError, binascii.Error):
        yield Diagnosis(
            Layer.ADMISSION, State.PROBLEM, subject, "its CA bundle cannot be read", "doctor.webhook-no-ca", step
        )
        return
    best = max(certificates, key=lambda one: one.not_valid_after_utc)
    ends, life = best.not_valid_after_utc, best.not_valid_after_utc - best.not_valid_before_utc
    found = f"CA good until {ends:%Y-%m-%dT%H:%M:%SZ}"
    if ends <= now:
        yield Diagnosis(Layer.ADMISSION, State.PROBLEM, subject, found, "doctor.certificate-expired", step)
    elif ends - now < life * _DUE:
        yield Diagnosis(Layer.ADMISSION, State.WARNING, subject, found, "doctor.certificate-overdue", step)
    else:
        yield Diagnosis(Layer.ADMISSION, State.OK, subject, found)
