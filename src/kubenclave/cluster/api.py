# SPDX-License-Identifier: Apache-2.0
"""What we want of a Kubernetes API server: a few verbs over plain objects, and what may go wrong.

Objects are the dicts that their JSON makes. Which client library stands behind the verbs is ``api_lightkube``'s
business; nobody else imports one.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import structlog

from kubenclave.errors import ClusterError, UnreachableError

Object = dict[str, Any]
Keep = Callable[[Object], Object | None]
"""What is kept of each object of a list as its page comes in (None: nothing), where all of it would be too much."""

NOT_FOUND: Final = "cluster.not-found"
EXISTS: Final = "cluster.exists"
CONFLICT: Final = "cluster.conflict"
FORBIDDEN: Final = "cluster.forbidden"
EXPIRED: Final = "cluster.expired"

_LONGEST_PAUSE: Final = 30.0

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of objects; ``group`` is empty for the core group."""

    group: str
    version: str
    plural: str
    namespaced: bool = False

    def path(self, namespace: str | None = None, name: str | None = None, subresource: str | None = None) -> str:
        """Return where the objects are; without ``namespace`` those of all namespaces."""
        parts = ["/apis", self.group, self.version] if self.group else ["/api", self.version]
        if self.namespaced and namespace is not None:
            parts += ["namespaces", namespace]
        return "/".join([*parts, self.plural, *(part for part in (name, subresource) if part)])

    def __str__(self) -> str:
        return f"{self.plural}.{self.group}" if self.group else self.plural


NODES: Final = Kind("", "v1", "nodes")
PODS: Final = Kind("", "v1", "pods", namespaced=True)
EVENTS: Final = Kind("", "v1", "events", namespaced=True)
SECRETS: Final = Kind("", "v1", "secrets", namespaced=True)
CONFIG_MAPS: Final = Kind("", "v1", "configmaps", namespaced=True)
RESOURCE_QUOTAS: Final = Kind("", "v1", "resourcequotas", namespaced=True)
DEPLOYMENTS: Final = Kind("apps", "v1", "deployments", namespaced=True)
DAEMON_SETS: Final = Kind("apps", "v1", "daemonsets", namespaced=True)
MUTATING_WEBHOOKS: Final = Kind("admissionregistration.k8s.io", "v1", "mutatingwebhookconfigurations")
MUTATING_POLICIES: Final = Kind("admissionregistration.k8s.io", "v1", "mutatingadmissionpolicies")
MUTATING_BINDINGS: Final = Kind("admissionregistration.k8s.io", "v1", "mutatingadmissionpolicybindings")
VALIDATING_POLICIES: Final = Kind("admissionregistration.k8s.io", "v1", "validatingadmissionpolicies")
VALIDATING_BINDINGS: Final = Kind("admissionregistration.k8s.io", "v1", "validatingadmissionpolicybindings")
TOKEN_REVIEWS: Final = Kind("authentication.k8s.io", "v1", "tokenreviews")


@dataclass(frozen=True, slots=True)
class Listing:
    """All objects of a kind at one moment; a watch from ``version`` on misses nothing."""

    items: Sequence[Object]
    version: str


@dataclass(frozen=True, slots=True)
class Event:
    """One change that a watch saw; ``type`` is ADDED, MODIFIED, DELETED or BOOKMARK (only a new version)."""

    type: str
    object: Object


class ClusterApi(Protocol):
    """The verbs. All raise ClusterError when the server refuses, UnreachableError when it does not answer.

    ``labels`` and ``fields`` are selectors as kubectl takes them; without ``namespace`` a list or a watch is of all
    namespaces. Codes worth telling apart are the constants above: NOT_FOUND, EXISTS, CONFLICT, FORBIDDEN, EXPIRED.
    """

    async def get(
        self, kind: Kind, name: str, *, namespace: str | None = None, subresource: str | None = None
    ) -> Object:
        """Return one object."""
        ...

    async def list(
        self,
        kind: Kind,
        *,
        namespace: str | None = None,
        labels: str | None = None,
        fields: str | None = None,
        keep: Keep | None = None,
    ) -> Listing:
        """Return all objects that the selectors match; read in pages, so the server never sends all at once."""
        ...

    def watch(
        self,
        kind: Kind,
        *,
        version: str,
        namespace: str | None = None,
        labels: str | None = None,
        fields: str | None = None,
    ) -> AsyncIterator[Event]:
        """Yield the changes after ``version`` until the server ends the watch, as it does every few minutes.

        Raises ClusterError with EXPIRED when the server no longer knows that version: list again.
        """
        ...

    async def create(
        self,
        kind: Kind,
        new: Object,
        *,
        namespace: str | None = None,
        name: str | None = None,
        subresource: str | None = None,
        dry_run: bool = False,
    ) -> Object:
        """Create an object; or a subresource of ``name``, as a token of a service account."""
        ...

    async def apply(self, kind: Kind, wanted: Object, *, manager: str, force: bool = False) -> Object:
        """Apply on the server what ``manager`` wants of the object that ``wanted`` names; CONFLICT unless forced."""
        ...

    async def patch(
        self,
        kind: Kind,
        name: str,
        change: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        *,
        namespace: str | None = None,
        subresource: str | None = None,
    ) -> Object:
        """Patch an object: a mapping is a JSON merge patch, a sequence a JSON patch.

        A merge patch with ``metadata.resourceVersion`` is refused as CONFLICT when the object has changed since.
        """
        ...

    async def delete(self, kind: Kind, name: str, *, namespace: str | None = None) -> None:
        """Delete an object, its dependents in the background."""
        ...

    async def read(self, path: str) -> Object:
        """Return what the server says under another path, such as ``/version`` or ``/apis``."""
        ...


async def follow(
    api: ClusterApi,
    kind: Kind,
    *,
    namespace: str | None = None,
    labels: str | None = None,
    fields: str | None = None,
    keep: Keep | None = None,
) -> AsyncIterator[Listing | Event]:
    """Yield all objects, then every change to them, for ever.

    A Listing replaces everything seen before: it comes first, and again whenever changes may have been missed. While
    the server is away or refuses it is tried again, less and less often; the log says so. Events have whole objects,
    whatever ``keep`` leaves of those in a Listing.
    """
    pause = 1.0
    while True:
        try:
            listing = await api.list(kind, namespace=namespace, labels=labels, fields=fields, keep=keep)
            yield listing
            pause, version = 1.0, listing.version
            while True:
                async for event in api.watch(kind, version=version, namespace=namespace, labels=labels, fields=fields):
                    version = event.object["metadata"]["resourceVersion"]
                    if event.type != "BOOKMARK":
                        yield event
        except (ClusterError, UnreachableError) as error:
            if error.code == EXPIRED:
                continue
            _log.warning("cluster.watch-failed", kind=str(kind), error=str(error), code=error.code)
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)
