# SPDX-License-Identifier: Apache-2.0
"""The verbs of an API server over a dict: versions, conflicts, patches and watches as the real one has them.

It knows no schema, defaults or rights. What depends on those is tested on a real server, in tests/cluster.
"""

import asyncio
import copy
from collections.abc import AsyncIterator, Mapping

from kubenclave.cluster.api import CONFLICT, EXISTS, NOT_FOUND, Event, Kind, Listing, Object
from kubenclave.errors import ClusterError, UnreachableError


class FakeCluster:
    """Objects by path. ``away`` makes every verb fail; ``calls`` are the verbs used, oldest first."""

    def __init__(self) -> None:
        self.objects: dict[str, Object] = {}
        self.away = False
        self.calls: list[tuple[str, str]] = []
        self._version = 0
        self._events: list[tuple[int, str, Event]] = []
        self._changed = asyncio.Event()

    def put(self, kind: Kind, stored: Object) -> Object:
        """Store an object as it is, with the next version."""
        metadata = stored["metadata"]
        path = kind.path(metadata.get("namespace"), metadata["name"])
        self._version += 1
        seen = copy.deepcopy(stored)
        seen["metadata"]["resourceVersion"] = str(self._version)
        event = Event("MODIFIED" if path in self.objects else "ADDED", seen)
        self.objects[path] = seen
        self._tell(path, event)
        return copy.deepcopy(seen)

    def _tell(self, path: str, event: Event) -> None:
        self._events.append((self._version, path, event))
        self._changed.set()
        self._changed = asyncio.Event()

    async def _call(self, verb: str, path: str) -> None:
        """Let others go first, as on a network."""
        await asyncio.sleep(0)
        self.calls.append((verb, path))
        if self.away:
            raise UnreachableError("away", code="cluster.unreachable")

    def _found(self, path: str) -> Object:
        if path not in self.objects:
            raise ClusterError(f"{path} not found", code=NOT_FOUND)
        return self.objects[path]

    async def get(self, kind: Kind, name: str, *, namespace=None, subresource=None) -> Object:
        path = kind.path(namespace, name, subresource)
        await self._call("get", path)
        return copy.deepcopy(self._found(path))

    async def list(self, kind: Kind, *, namespace=None, labels=None, fields=None, keep=None) -> Listing:
        path = kind.path(namespace)
        await self._call("list", path)
        chosen = [each for where, each in self.objects.items() if where.startswith(path) and _matches(each, fields)]
        kept = (keep(each) if keep else each for each in copy.deepcopy(chosen))
        return Listing([each for each in kept if each is not None], str(self._version))

    async def watch(
        self, kind: Kind, *, version: str, namespace=None, labels=None, fields=None
    ) -> AsyncIterator[Event]:
        path = kind.path(namespace)
        await self._call("watch", path)
        at = int(version)
        while True:
            changed = self._changed
            for number, where, event in [entry for entry in self._events if entry[0] > at]:
                at = number
                if where.startswith(path) and _matches(event.object, fields):
                    yield copy.deepcopy(event)
            await changed.wait()

    async def create(
        self, kind: Kind, new: Object, *, namespace=None, name=None, subresource=None, dry_run=False
    ) -> Object:
        path = kind.path(namespace, new["metadata"]["name"])
        await self._call("create", path)
        if path in self.objects:
            raise ClusterError(f"{path} exists", code=EXISTS)
        return self.put(kind, new)

    async def apply(self, kind: Kind, wanted: Object, *, manager: str, force: bool = False) -> Object:
        path = kind.path(wanted["metadata"].get("namespace"), wanted["metadata"]["name"])
        await self._call("apply", path)
        return self.put(kind, _merged(self.objects.get(path, {}), wanted))

    async def patch(self, kind: Kind, name: str, change, *, namespace=None, subresource=None) -> Object:
        path = kind.path(namespace, name)
        await self._call("patch", path)
        old = self._found(path)
        new = _merged(old, change) if isinstance(change, Mapping) else _patched(old, change)
        if new["metadata"]["resourceVersion"] != old["metadata"]["resourceVersion"]:
            raise ClusterError(f"{path} has changed", code=CONFLICT)
        return copy.deepcopy(old) if new == old else self.put(kind, new)

    async def delete(self, kind: Kind, name: str, *, namespace=None) -> None:
        path = kind.path(namespace, name)
        await self._call("delete", path)
        old = self._found(path)
        del self.objects[path]
        self._version += 1
        gone = copy.deepcopy(old)
        gone["metadata"]["resourceVersion"] = str(self._version)
        self._tell(path, Event("DELETED", gone))

    async def read(self, path: str) -> Object:
        await self._call("read", path)
        return copy.deepcopy(self._found(path))


def _matches(stored: Object, fields: str | None) -> bool:
    return fields is None or fields == f"metadata.name={stored['metadata']['name']}"


def _merged(old, change):
    """RFC 7396."""
    if not isinstance(change, Mapping):
        return copy.deepcopy(change)
    merged = dict(old) if isinstance(old, Mapping) else {}
    for key, value in change.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = _merged(merged.get(key), value)
    return merged


def _patched(document, operations):
    """RFC 6902, as much of it as is used here."""
    document = copy.deepcopy(document)
    for operation in operations:
        *parents, last = [part.replace("~1", "/").replace("~0", "~") for part in operation["path"].split("/")[1:]]
        holder = document
        for part in parents:
            holder = holder[int(part)] if isinstance(holder, list) else holder[part]
        if operation["op"] == "remove":
            del holder[int(last) if isinstance(holder, list) else last]
        elif isinstance(holder, list) and last == "-":
            holder.append(operation["value"])
        elif isinstance(holder, list) and operation["op"] == "add":
            holder.insert(int(last), operation["value"])
        else:
            holder[int(last) if isinstance(holder, list) else last] = operation["value"]
    return document


patched = _patched
