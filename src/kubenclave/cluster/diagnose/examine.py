# SPDX-License-Identifier: Apache-2.0
"""The examination as a whole: what is read, in which order it is judged. Only ``read`` does I/O."""

import asyncio
import datetime as dt
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from kubenclave.cluster import api as cluster
from kubenclave.cluster.api import ClusterApi, Kind, Object
from kubenclave.cluster.diagnose import admission, capacity, nodes, parts, pod
from kubenclave.cluster.diagnose.model import OURS, Diagnosis, Layer, Snapshot, labels_of
from kubenclave.errors import ClusterError

CLUSTER_KINDS: Final = (
    cluster.NODES,
    cluster.PODS,
    cluster.DAEMON_SETS,
    cluster.DEPLOYMENTS,
    cluster.MUTATING_POLICIES,
    cluster.MUTATING_BINDINGS,
    cluster.VALIDATING_POLICIES,
    cluster.VALIDATING_BINDINGS,
    cluster.MUTATING_WEBHOOKS,
)
NAMESPACE_KINDS: Final = (cluster.EVENTS, cluster.RESOURCE_QUOTAS)
"""Read for the namespace of one pod only."""

Check = Callable[[Snapshot], Iterator[Diagnosis]]

_CLUSTER_CHECKS: Final[Sequence[tuple[Check, Sequence[Kind]]]] = (
    (parts.check_version, ()),
    (parts.check_denied, ()),
    (parts.check_daemon_sets, (cluster.DAEMON_SETS,)),
    (parts.check_deployments, (cluster.DEPLOYMENTS,)),
    (pod.check_own, (cluster.PODS,)),
    (parts.check_foreign, (cluster.DAEMON_SETS,)),
    (admission.check_mutation, (cluster.MUTATING_POLICIES, cluster.MUTATING_BINDINGS, cluster.MUTATING_WEBHOOKS)),
    (admission.check_validation, (cluster.VALIDATING_POLICIES, cluster.VALIDATING_BINDINGS)),
    (nodes.check_nodes, (cluster.NODES,)),
    (capacity.check_commitments, (cluster.NODES, cluster.PODS)),
    (capacity.check_equipment, (cluster.NODES, cluster.PODS)),
)
"""Each check with what it must have read to be able to tell."""

_POD_CHECKS: Final = (pod.check_place, pod.check_start, pod.check_quotes)


def judge_cluster(snapshot: Snapshot, now: dt.datetime) -> list[Diagnosis]:
    """Examine a cluster layer by layer; ``now`` is what its certificates are held against."""
    found = [one for check, needs in _CLUSTER_CHECKS if snapshot.can_tell(*needs) for one in check(snapshot)]
    if snapshot.can_tell(cluster.MUTATING_WEBHOOKS):
        found += admission.check_webhooks(snapshot, now)
    order = {layer: position for position, layer in enumerate(Layer)}
    return sorted(found, key=lambda one: order[one.layer])


def judge_pod(namespace: str, name: str, wanted: Object | None, snapshot: Snapshot) -> list[Diagnosis]:
    """Examine one pod, ``wanted`` as the server has it, or None where it has none of that name."""
    found = [*parts.check_denied(snapshot)]
    if wanted is None:
        return [*found, *pod.missing_pod(namespace, name, snapshot)]
    found += pod.check_request(wanted, snapshot)
    if not pod.asks(wanted):
        return found
    return [*found, *pod.check_quota(snapshot), *(one for check in _POD_CHECKS for one in check(wanted, snapshot))]


async def read(api: ClusterApi, *, namespace: str | None = None) -> Snapshot:
    """Read what an examination needs; events and quotas of ``namespace`` where one is given.

    What the account may not read is left out and said. Raises ClusterError and UnreachableError for all else.
    """
    version = await api.read("/version")
    places: dict[Kind, str | None] = dict.fromkeys(CLUSTER_KINDS)
    if namespace is not None:
        places |= dict.fromkeys(NAMESPACE_KINDS, namespace)
    read_all = [_read(api, kind, where) for kind, where in places.items()]
    objects: dict[Kind, Sequence[Object]] = {}
    denied: dict[Kind, str] = {}
    for kind, result in zip(places, await asyncio.gather(*read_all), strict=True):
        if isinstance(result, str):
            denied[kind] = result
        else:
            objects[kind] = result
    return Snapshot(_version(version), objects, denied)


async def read_pod(api: ClusterApi, namespace: str, name: str) -> Object | None:
    """Return a pod, None where there is none of that name. Raises as ``read``."""
    try:
        return await api.get(cluster.PODS, name, namespace=namespace)
    except ClusterError as error:
        if error.code == cluster.NOT_FOUND:
            return None
        raise


async def _read(api: ClusterApi, kind: Kind, namespace: str | None) -> Sequence[Object] | str:
    """Return the objects of a kind, or why they could not be read. A kind that the server lacks has none."""
    try:
        keep = _kept if kind is cluster.PODS else None
        return (await api.list(kind, namespace=namespace, keep=keep)).items
    except ClusterError as error:
        if error.code == cluster.NOT_FOUND:
            return ()
        if error.code == cluster.FORBIDDEN:
            return f"may not be read: {error.message}"
        raise


def _kept(found: Object) -> Object | None:
    """Return a pod that asks for EPC or is ours, without its history; of the others a cluster may have very many."""
    owners = (found.get("metadata") or {}).get("ownerReferences") or ()
    own = labels_of(found).get(pod.PART_OF) or any(str(one.get("name", "")).startswith(OURS) for one in owners)
    if not own and not pod.asks(found):
        return None
    return {**found, "metadata": {key: value for key, value in found["metadata"].items() if key != "managedFields"}}


def _version(found: Object) -> tuple[int, int]:
    """Return major and minor version, without what distributors hang on to it."""
    digits = ["".join(one for one in str(found.get(key, "")) if one.isdigit()) for key in ("major", "minor")]
    return int(digits[0] or 0), int(digits[1] or 0)
