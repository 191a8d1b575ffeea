# SPDX-License-Identifier: Apache-2.0
"""What the examination of a cluster works on and with: objects as they were read, and what was found in them."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from kubenclave.cluster.api import Kind, Object

NODE_AGENT: Final = "kubenclave-node-agent"
QUOTE_HELPER: Final = "kubenclave-quote-helper"
OURS: Final = "kubenclave-"
"""How the names of our cluster-wide objects begin."""


class Layer(StrEnum):
    """What has to be in order, from the ground up: the first that is not is to be repaired first."""

    API = "api server"
    ADD_ON = "add-on"
    ADMISSION = "admission"
    NODES = "nodes"
    CAPACITY = "capacity"
    REQUEST = "request"
    SCHEDULING = "scheduling"
    START = "start"
    QUOTES = "quotes"


class State(StrEnum):
    """How bad it is. ``unknown``: nobody could tell, mostly for lack of a permission."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """One thing found. ``subject`` names the object; ``code`` and ``next_step`` are empty where all is well."""

    layer: Layer
    state: State
    subject: str
    found: str
    code: str = ""
    next_step: str = ""

    def as_dict(self) -> dict[str, str]:
        """Shape in JSON output."""
        return {
            "layer": self.layer.value,
            "state": self.state.value,
            "subject": self.subject,
            "code": self.code,
            "found": self.found,
            "next_step": self.next_step,
        }


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A cluster as it was read.

    ``objects`` has what could be read by its kind; ``denied`` why the rest could not. A kind that the server
    does not have is an empty list: whoever looks for our objects finds none, as it is.
    """

    version: tuple[int, int]
    objects: Mapping[Kind, Sequence[Object]] = field(default_factory=dict)
    denied: Mapping[Kind, str] = field(default_factory=dict)

    def of(self, kind: Kind) -> Sequence[Object]:
        """Return the objects of a kind, none where it could not be read."""
        return self.objects.get(kind, ())

    def can_tell(self, *kinds: Kind) -> bool:
        """Tell whether all of these were read, so that what is not among them does not exist."""
        return not any(kind in self.denied for kind in kinds)


def worst(findings: Iterable[Diagnosis]) -> Diagnosis | None:
    """Return the first problem: the one to repair first."""
    return next((one for one in findings if one.state is State.PROBLEM), None)


def name_of(found: Object) -> str:
    """Return an object's name."""
    return str((found.get("metadata") or {}).get("name", ""))


def namespace_of(found: Object) -> str:
    """Return an object's namespace, empty for what has none."""
    return str((found.get("metadata") or {}).get("namespace", ""))


def labels_of(found: Object) -> Mapping[str, str]:
    """Return an object's labels."""
    return dict((found.get("metadata") or {}).get("labels") or {})


def annotations_of(found: Object) -> Mapping[str, str]:
    """Return an object's annotations."""
    return dict((found.get("metadata") or {}).get("annotations") or {})


def named(objects: Iterable[Object], name: str) -> list[Object]:
    """Return the objects of that name, which may be in several namespaces."""
    return [one for one in objects if name_of(one) == name]


def ours(objects: Iterable[Object]) -> list[Object]:
    """Return the cluster-wide objects that are ours by their name."""
    return [one for one in objects if name_of(one).startswith(OURS)]


def owned(pods: Iterable[Object], owner: str, node: str) -> Iterator[Object]:
    """Yield the pods of a DaemonSet on a node."""
    for pod in pods:
        owners = (pod.get("metadata") or {}).get("ownerReferences") or ()
        if (pod.get("spec") or {}).get("nodeName") == node and any(
            one.get("kind") == "DaemonSet" and one.get("name") == owner for one in owners
        ):
            yield pod
