# SPDX-License-Identifier: Apache-2.0
"""Pods as they are written: from a YAML file or made from a command, and what a container's process is to be."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import yaml

from kubenclave.cluster.admission.table import AESMD, QUOTE_PROVIDER
from kubenclave.errors import FormatError, UsageError
from kubenclave.sgx.epc import EPC_RESOURCE, PROVISION_RESOURCE

MAX_MANIFEST: Final = 512 * 1024
DEFAULT_GRACE: Final = 10.0
MAX_GRACE: Final = 60.0

_REFERENCE: Final = re.compile(r"\$\$|\$\(([A-Za-z_.-][A-Za-z0-9_.-]*)\)")


@dataclass(frozen=True, slots=True)
class Program:
    """What one container runs; ``env`` holds the variables of the manifest only."""

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd: str | None = None


def from_command(
    command: Sequence[str],
    *,
    epc: int | None,
    quote: bool = False,
    provision: bool = False,
    env: Mapping[str, str] | None = None,
    name: str | None = None,
) -> dict[str, Any]:
    """Return the Pod that somebody would have written for one command."""
    label = name or re.sub(r"[^a-z0-9-]+", "-", command[0].rpartition("/")[2].lower()).strip("-") or "command"
    limits: dict[str, Any] = {}
    if epc is not None:
        limits[EPC_RESOURCE] = epc
    if provision:
        limits[PROVISION_RESOURCE] = "1"
    container: dict[str, Any] = {
        "name": label,
        "command": [_literal(word) for word in command],
        "resources": {"limits": limits},
    }
    if env:
        container["env"] = [{"name": key, "value": _literal(value)} for key, value in env.items()]
    annotations = {QUOTE_PROVIDER: AESMD} if quote else {}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": label, "annotations": annotations},
        "spec": {"restartPolicy": "Never", "containers": [container]},
    }


def from_yaml(text: bytes) -> dict[str, Any]:
    """Return the one Pod in a manifest. Raises FormatError when it is not YAML or holds something else."""
    if len(text) > MAX_MANIFEST:
        raise FormatError(
            "the manifest is too large",
            code="manifest.size",
            expected=f"at most {MAX_MANIFEST} bytes",
            found=str(len(text)),
        )
    try:
        # CSafeLoader is not everywhere, and manifests are small
        documents = [document for document in yaml.load_all(text, _Loader) if document is not None]
    except (yaml.YAMLError, RecursionError, ValueError, LookupError, AttributeError) as error:
        # the last three are what PyYAML makes of a tag and a value that do not fit, as in !!bool maybe
        reason = " ".join(str(error).split())
        raise FormatError(f"not a YAML manifest: {reason}", code="manifest.yaml") from error
    kinds = [document.get("kind") if isinstance(document, dict) else None for document in documents]
    if kinds != ["Pod"]:
        raise FormatError(
            "not one Pod",
            code="manifest.kind",
            expected="one document of kind Pod",
            found=", ".join(str(kind) for kind in kinds) or "nothing",
            hint="take the pod template out of a Deployment or Job and give it kind Pod",
        )
    pod: dict[str, Any] = documents[0]
    return pod


class _Loader(yaml.SafeLoader):
    """The safe loader for what JSON can hold: keys are texts and differ.

    Without aliases: a few lines of them can stand for more than any memory.
    """

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases are not read; write the value again")
        node: yaml.Node | None = super().compose_node(parent, index)
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        if odd := [key for key in keys if not isinstance(key, str)]:
            raise yaml.YAMLError(f"not a text: the key {odd[0]!r} (quote it)")
        if len(set(keys)) < len(keys):
            twice = next(key for key in keys if keys.count(key) > 1)
            raise yaml.YAMLError(f"the key {twice!r} is there twice")
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        return mapping

    def construct_scalar(self, node: yaml.ScalarNode | yaml.MappingNode) -> Any:
        value = super().construct_scalar(node)
        if isinstance(value, str):
            value.encode()  # "\ud800" is half a character; raises ValueError
        return value


def programs(pod: Mapping[str, Any]) -> tuple[Program, ...]:
    """Return what the containers of an admitted pod run, init containers first, in the pod's order.

    Raises UsageError for what cannot be had without a cluster, FormatError for a wrong shape.
    """
    spec = pod["spec"]
    found = [_program(pod, container) for key in ("initContainers", "containers") for container in spec.get(key) or []]
    names = [program.name for program in found]
    if len(set(names)) != len(names) or "" in names:
        raise _wrong("containers", "a name of its own for each container", ", ".join(names))
    return tuple(found)


def remarks(pod: Mapping[str, Any]) -> Iterator[str]:
    """Yield what of an admitted pod has no effect on one machine."""
    spec = pod["spec"]
    containers = [*(spec.get("initContainers") or []), *(spec.get("containers") or [])]
    if spec.get("ephemeralContainers"):
        yield "ephemeral containers are not started"
    if any("image" in container for container in containers):
        yield "images are not pulled: the commands run from this machine's own file system"
    if any(container.get("volumeMounts") for container in containers):
        yield "volumes are not mounted"
    if any(f"{kind}Probe" in container for container in containers for kind in ("liveness", "readiness", "startup")):
        yield "probes are not run"
    if spec.get("restartPolicy", "Always") != "Never":
        yield "containers run once (restartPolicy has no effect)"


def grace(pod: Mapping[str, Any]) -> float:
    """Return the seconds a container has between SIGTERM and SIGKILL, at most a minute."""
    seconds = pod["spec"].get("terminationGracePeriodSeconds")
    if seconds is None:
        return DEFAULT_GRACE
    if isinstance(seconds, bool) or not isinstance(seconds, int) or seconds < 0:
        raise _wrong("terminationGracePeriodSeconds", "a number of seconds", repr(seconds))
    return min(float(seconds), MAX_GRACE)


def _program(pod: Mapping[str, Any], container: Mapping[str, Any]) -> Program:
    name = container.get("name")
    if not isinstance(name, str):
        raise _wrong("name", "a string", type(name).__name__)
    if container.get("envFrom"):
        raise UsageError(
            f"container {name}: envFrom needs a cluster", code="run.unsupported", hint="write the values under env"
        )
    env: dict[str, str] = {}
    entries = container.get("env") or []
    if not isinstance(entries, list):
        raise _wrong(f"container {name}: env", "a list of objects", type(entries).__name__)
    for entry in entries:
        key, value = _variable(pod, name, entry)
        if "\0" in value:
            raise _wrong(f"container {name}: env {key}", "a text without zero bytes", repr(value)[:100])
        env[key] = expand(value, env)
    words = [*_words(container, "command"), *_words(container, "args")]
    if not container.get("command"):
        raise UsageError(
            f"container {name} has no command",
            code="run.no-command",
            hint="images are not pulled here, so their entrypoint is not known: write it under command",
        )
    cwd = container.get("workingDir")
    if cwd is not None and (not isinstance(cwd, str) or "\0" in cwd):
        raise _wrong(f"container {name}: workingDir", "a path", repr(cwd)[:100])
    return Program(name, tuple(expand(word, env) for word in words), env, cwd)


def _variable(pod: Mapping[str, Any], container: str, entry: object) -> tuple[str, str]:
    if not isinstance(entry, dict):
        raise _wrong(f"container {container}: env", "a list of objects", repr(entry)[:100])
    key, value, source = entry.get("name"), entry.get("value"), entry.get("valueFrom")
    where = f"container {container}: env {key}"
    if not isinstance(key, str) or not key or "=" in key or "\0" in key:
        raise _wrong(where, "a name", repr(key))
    if source is not None:
        return key, _downward(pod, where, source)
    if value is None:
        return key, ""
    if not isinstance(value, str):
        raise _wrong(where, "a string (quote it, as the API server wants it)", repr(value))
    return key, value


def _downward(pod: Mapping[str, Any], where: str, source: object) -> str:
    """Return a field of the pod's own metadata, the only source there is without a cluster."""
    metadata = pod.get("metadata") or {}
    known = {"metadata.name": metadata.get("name", ""), "metadata.namespace": metadata.get("namespace", "default")}
    reference = source.get("fieldRef") if isinstance(source, dict) else None
    path = reference.get("fieldPath") if isinstance(reference, dict) else None
    if path not in known:
        raise UsageError(
            f"{where}: its source needs a cluster",
            code="run.unsupported",
            expected=" or ".join(known),
            found=str(path or source)[:100],
            hint="write the value itself",
        )
    return str(known[path])


def _literal(text: str) -> str:
    """Return what ``expand`` makes into ``text``: a shell has done its part already."""
    return text.replace("$", "$$")


def expand(text: str, env: Mapping[str, str]) -> str:
    """Replace ``$(NAME)`` as Kubernetes does: unknown names stay, ``$$`` is one dollar sign."""
    return _REFERENCE.sub(
        lambda match: "$" if match[0] == "$$" else env.get(match[1], match[0]),
        text,
    )


def _words(container: Mapping[str, Any], key: str) -> list[str]:
    words = container.get(key)
    if words is None:
        return []
    if not isinstance(words, list) or not all(isinstance(word, str) and "\0" not in word for word in words):
        raise _wrong(f"container {container.get('name')}: {key}", "a list of strings", repr(words)[:100])
    return words


def _wrong(field: str, expected: str, found: str) -> FormatError:
    return FormatError("not what a Pod has here", code="manifest.shape", field=field, expected=expected, found=found)
