# SPDX-License-Identifier: Apache-2.0
"""Reading and changing pods whose shape nobody has checked."""

from collections.abc import Mapping
from typing import Any

from kubenclave.cluster.admission.asks import CONTAINER_LISTS
from kubenclave.cluster.admission.table import AESM_PATHS
from kubenclave.errors import FormatError


def objects(parent: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    """Return the list of objects under ``key``, an empty one where it is absent or null."""
    entries = parent.get(key)
    if entries is None:
        return []
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise wrong(key, "a list of objects", entries)
    return entries


def mapping(parent: Mapping[str, Any], *path: str) -> Mapping[str, Any]:
    """Return the object at ``path``, an empty one where it is absent or null."""
    current: Any = parent
    for key in path:
        current = current.get(key)
        if current is None:
            return {}
        if not isinstance(current, dict):
            raise wrong(".".join(path), "an object", current)
    return dict(current)


def annotation(pod: Mapping[str, Any], name: str) -> str | None:
    """Return an annotation of the pod."""
    value = mapping(pod, "metadata", "annotations").get(name)
    if value is not None and not isinstance(value, str):
        raise wrong(f"metadata.annotations.{name}", "a string", value)
    return value


def annotate(pod: dict[str, Any], name: str, value: str) -> None:
    """Set an annotation of the pod."""
    annotations = {**mapping(pod, "metadata", "annotations"), name: value}
    pod["metadata"] = {**mapping(pod, "metadata"), "annotations": annotations}


def replace(parent: dict[str, Any], key: str, entries: list[Any]) -> None:
    """Set a list, or remove it where nothing is left."""
    if entries:
        parent[key] = entries
    else:
        parent.pop(key, None)


def aesm_volumes(spec: Mapping[str, Any]) -> frozenset[str]:
    """Return the names of volumes that are the host's AESM directory."""
    return frozenset(
        name
        for volume in objects(spec, "volumes")
        if isinstance(name := volume.get("name"), str)
        if isinstance(host := volume.get("hostPath"), dict) and str(host.get("path", "")).rstrip("/") in AESM_PATHS
    )


def is_aesm_mount(mount: Mapping[str, Any], volumes: frozenset[str]) -> bool:
    """Tell whether a mount is what the enclave device brings anyway: the same directory at the same place."""
    return (
        str(mount.get("name")) in volumes
        and str(mount.get("mountPath", "")).rstrip("/") in AESM_PATHS
        and not mount.get("subPath")
    )


def mounted(spec: Mapping[str, Any]) -> frozenset[str]:
    """Return the names of the volumes that a container mounts."""
    return frozenset(
        name
        for key in CONTAINER_LISTS
        for container in objects(spec, key)
        for mount in objects(container, "volumeMounts")
        if isinstance(name := mount.get("name"), str)
    )


def wrong(field: str, expected: str, found: object) -> FormatError:
    """Return the error for what is not the shape of a Pod."""
    return FormatError(
        "not the shape of a Pod",
        code="admission.shape",
        field=field,
        expected=expected,
        found="nothing" if found is None else f"a value of type {type(found).__name__}",
        hint="kubectl create --dry-run=client -f FILE checks the whole manifest",
    )
