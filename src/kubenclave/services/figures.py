# SPDX-License-Identifier: Apache-2.0
"""What the databases of services say of themselves, as metrics, whenever somebody asks; and verdicts as they come."""

from kubenclave.errors import FormatError, KubenclaveError, PolicyError, TrustError
from kubenclave.services.attestation.service import AttestationService
from kubenclave.services.collateral.service import CollateralService
from kubenclave.wire.metrics import Metrics


def count_verdicts(service: AttestationService, metrics: Metrics) -> None:
    """Have the verdicts of a service counted from now on."""
    verdicts = metrics.counter("kubenclave_attestation_verdicts_total", "Evidence judged.", "outcome")
    service.judge.tell = lambda outcome: verdicts.inc(_outcome(outcome))


def _outcome(error: KubenclaveError | None) -> str:
    if error is None:
        return "accepted"
    if isinstance(error, PolicyError):
        return "refused"
    if isinstance(error, TrustError):
        return "not-genuine"
    return "unreadable" if isinstance(error, FormatError) else "not-judged"


def collateral_figures(service: CollateralService, metrics: Metrics) -> None:
    """Add what a collateral service holds. The label ``item`` has a value for each item that there is a copy of."""
    ends = metrics.gauge(
        "kubenclave_collateral_next_update_timestamp_seconds", "When a copy ends, in Unix time.", "item"
    )
    fetched = metrics.gauge(
        "kubenclave_collateral_fetched_timestamp_seconds", "When a copy was fetched, in Unix time.", "item"
    )
    failures = metrics.gauge(
        "kubenclave_collateral_renewal_failures",
        "Attempts to renew a copy that failed since the last good one.",
        "item",
    )
    for each in service.cache.status():
        if each.next_update is not None and each.fetched is not None:
            ends.set(each.next_update.timestamp(), str(each.key))
            fetched.set(each.fetched.timestamp(), str(each.key))
            failures.set(each.failures, str(each.key))
    sources = metrics.gauge(
        "kubenclave_collateral_source_failures", "Times in a row that a source gave no answer.", "source"
    )
    for source in service.cache.source_status():
        sources.set(source.failures, source.name)
    waiting = metrics.gauge("kubenclave_collateral_platforms_waiting", "Platforms in the registration queue.", "state")
    for state, length in service.queue.lengths().items():
        waiting.set(length, state.value)


def attestation_figures(service: AttestationService, metrics: Metrics) -> None:
    """Add how far an attestation service has come."""
    metrics.gauge("kubenclave_attestation_log_entries", "Entries of the log of verdicts.").set(service.log.size())
    created = metrics.gauge(
        "kubenclave_attestation_key_created_timestamp_seconds",
        "When the youngest signing key of a state was made, in Unix time.",
        "algorithm",
        "state",
    )
    for state, key in service.keyring.states():
        created.set(key.created.timestamp(), key.algorithm.value, state.value)
