# SPDX-License-Identifier: Apache-2.0
"""What becomes of a pod that asks for SGX. Pure: a pod in, the pod that runs and what it takes out.

One table of dialects and three rules, whoever applies them (policies, the webhook, one machine without a cluster):

1. EPC in any dialect becomes ``sgx.intel.com/epc`` in bytes, in limits and requests alike: the API server has copied
   one to the other by the time it asks.
2. A container with EPC gets one enclave device. The provisioning key only goes to whom it was granted.
3. On the annotation ``sgx.intel.com/quote-provider: aesmd`` it is told to get quotes over the AESM socket, unless its
   author said something else. The socket itself comes with the enclave device, so an old hostPath mount of it goes.

Whatever cannot be meant is refused, every reason at once. Applying the rules again changes nothing. Other pods, and
containers that do not ask for SGX, pass untouched.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from kubenclave.errors import Finding, FormatError, PolicyError
from kubenclave.sgx.epc import (
    ALIBABA_EPC_RESOURCE,
    AZURE_EPC_RESOURCE,
    ENCLAVE_RESOURCE,
    EPC_RESOURCE,
    MAX_AMOUNT,
    MIB,
    PROVISION_RESOURCE,
    Quantity,
)

QUOTE_PROVIDER: Final = "sgx.intel.com/quote-provider"
AESMD: Final = "aesmd"
AESM_VARIABLE: Final = "SGX_AESM_ADDR"
AESM_PATHS: Final = frozenset({"/var/run/aesmd", "/run/aesmd"})


@dataclass(frozen=True, slots=True)
class Dialect:
    """One name under which people ask for EPC; an amount of 1 means ``unit`` bytes."""

    resource: str
    unit: int
    origin: str


DIALECTS: Final = (
    Dialect(EPC_RESOURCE, 1, "Intel, and ours"),
    Dialect(AZURE_EPC_RESOURCE, MIB, "Azure confcom"),
    Dialect("sgx.intel.com/sgx_epc_mem_in_MiB", MIB, "a slip in Azure's questions and answers"),
    Dialect(ALIBABA_EPC_RESOURCE, MIB, "Alibaba Cloud"),
)
"""A new dialect is one row."""

DEVICES: Final = (ENCLAVE_RESOURCE, PROVISION_RESOURCE)
_ASKS_FOR_SGX: Final = frozenset({*(dialect.resource for dialect in DIALECTS), *DEVICES})


class EpcMode(StrEnum):
    """Which resource is the cluster's ledger of EPC: one, so that nothing is promised twice."""

    CAPACITY = "capacity"
    DEVICES = "devices"


class EnclaveWithoutEpc(StrEnum):
    """What becomes of an enclave device that is asked for without EPC."""

    REFUSE = "refuse"
    WARN = "warn"


@dataclass(frozen=True, slots=True)
class Rules:
    """What a site decides about admission."""

    epc_mode: EpcMode = EpcMode.CAPACITY
    enclave_without_epc: EnclaveWithoutEpc = EnclaveWithoutEpc.REFUSE


DEFAULT_RULES: Final = Rules()


class ContainerKind(StrEnum):
    """When a container runs."""

    INIT = "init"
    SIDECAR = "sidecar"
    MAIN = "main"


@dataclass(frozen=True, slots=True)
class Ask:
    """What one container takes: bytes of EPC and numbers of devices."""

    name: str
    kind: ContainerKind
    epc: int = 0
    enclave: int = 0
    provision: int = 0

    @property
    def sgx(self) -> bool:
        """Tell whether it takes anything of ours."""
        return bool(self.epc or self.enclave or self.provision)


@dataclass(frozen=True, slots=True)
class Admitted:
    """The pod that may run. ``asks`` has one entry per container, init containers first, in the pod's order."""

    pod: dict[str, Any]
    asks: tuple[Ask, ...]
    notes: tuple[str, ...]

    @property
    def epc(self) -> int:
        """Bytes of EPC the pod needs at any moment, as the scheduler counts them.

        Main containers and sidecars run together; an init container runs alone with the sidecars before it.
        """
        sidecars = most = 0
        for ask in self.asks:
            if ask.kind is ContainerKind.SIDECAR:
                sidecars += ask.epc
            elif ask.kind is ContainerKind.INIT:
                most = max(most, sidecars + ask.epc)
        main = sum(ask.epc for ask in self.asks if ask.kind is ContainerKind.MAIN)
        return max(most, sidecars + main)


def admit(pod: Mapping[str, Any], *, provision_granted: bool = False, rules: Rules = DEFAULT_RULES) -> Admitted:  # noqa: ARG001
    """Return the pod as it may run, a changed copy; ``provision_granted`` by its namespace and service account.

    Raises FormatError when ``pod`` has not the shape of a Pod, PolicyError with every reason when it cannot be meant.
    """
    try:
        changed = copy.deepcopy(dict(pod))
    except RecursionError:
        raise FormatError("the pod is nested too deeply", code="admission.shape", field="pod") from None
    review = _Review(changed, provision_granted=provision_granted)
    containers = _containers(changed)
    review.provider = _annotation(changed, QUOTE_PROVIDER)
    asks = tuple(review.container(kind, container) for kind, container in containers)
    review.pod(asks)
    if review.findings:
        raise PolicyError(review.findings)
    return Admitted(changed, asks, tuple(review.notes))


class _Review:
    """One application of the rules: changes the pod in place and gathers what is wrong."""

    def __init__(self, pod: dict[str, Any], *, provision_granted: bool) -> None:
        self.findings: list[Finding] = []
        self.notes: list[str] = []
        self.provider: str | None = None
        self._spec: dict[str, Any] = pod["spec"] if isinstance(pod.get("spec"), dict) else {}
        self._granted = provision_granted

    def container(self, kind: ContainerKind, container: dict[str, Any]) -> Ask:
        """Apply the rules to one container."""
        name = str(container.get("name", ""))
        lists = {key: _mapping(container, "resources", key) for key in ("limits", "requests")}
        if _ASKS_FOR_SGX.isdisjoint({*lists["limits"], *lists["requests"]}):
            return Ask(name, kind)
        before = len(self.findings)
        epc = self._epc(name, lists)
        devices = {resource: self._amount(name, resource, lists) for resource in DEVICES}
        if len(self.findings) == before:
            self._check_devices(name, epc, devices)
        if len(self.findings) > before or epc is None:
            return Ask(name, kind)
        enclave, provision = devices[ENCLAVE_RESOURCE], devices[PROVISION_RESOURCE]
        ask = Ask(
            name,
            kind,
            epc,
            enclave=1 if enclave is None else enclave,
            provision=int(self._is_provider(name)) if provision is None else provision,
        )
        self._write(container, lists, ask)
        self._quotes(container)
        return ask

    def pod(self, asks: Sequence[Ask]) -> None:
        """Apply what concerns the pod as a whole."""
        self._check_elsewhere()
        names = {ask.name for ask in asks}
        if self.provider is None:
            return
        if self.provider not in {AESMD, *names}:
            self.notes.append(
                f"annotation {QUOTE_PROVIDER}: neither '{AESMD}' nor the name of a container: {self.provider}"
            )
        elif not any(ask.sgx for ask in asks) and not self.findings:
            self.notes.append(f"annotation {QUOTE_PROVIDER}: no container asks for EPC, so nothing gets quotes")

    def _check_elsewhere(self) -> None:
        """Refuse what is asked for where neither kubelet nor scheduler look: it would run without."""
        places = [("pod", self._spec)]
        places += [
            (f"ephemeral container {container.get('name', '')}", container)
            for container in _objects(self._spec, "ephemeralContainers")
        ]
        for where, holder in places:
            for key in ("limits", "requests"):
                for resource in sorted(_ASKS_FOR_SGX.intersection(_mapping(holder, "resources", key))):
                    field = f"{where}: {key}.{resource}"
                    expected = "among the resources of a container or init container"
                    self.findings.append(Finding("admission.misplaced", field, expected, "where nobody counts it"))

    def _epc(self, name: str, lists: Mapping[str, Mapping[str, object]]) -> int | None:
        """Return the bytes of EPC asked for, in whichever dialects; None when that cannot be told."""
        sizes: dict[str, int] = {}
        for dialect in DIALECTS:
            amount = self._amount(name, dialect.resource, lists)
            if amount is None:
                continue
            if not 0 < amount <= MAX_AMOUNT // dialect.unit:
                expected = f"more than zero and at most {MAX_AMOUNT // dialect.unit}"
                self._refuse("admission.epc-amount", name, dialect.resource, expected, str(amount))
                continue
            sizes[dialect.resource] = amount * dialect.unit
        if len(set(sizes.values())) > 1:
            first, *others = sizes
            found = ", ".join(f"{resource} meaning {sizes[resource]} bytes" for resource in others)
            self._refuse("admission.dialects-disagree", name, first, f"{sizes[first]} bytes in every dialect", found)
            return None
        return next(iter(sizes.values()), None)

    def _amount(self, name: str, resource: str, lists: Mapping[str, Mapping[str, object]]) -> int | None:
        """Return the whole amount of one resource, None when it is not there or makes no sense."""
        amounts: dict[str, int] = {}
        for key, entries in lists.items():
            if resource not in entries:
                continue
            try:
                amounts[key] = Quantity.parse(entries[resource]).whole()
            except FormatError as error:
                field = _field(name, f"{key}.{resource}")
                self.findings.append(
                    Finding("admission.amount", field, error.expected or "a quantity", error.found or "")
                )
                return None
        if "limits" not in amounts and amounts:
            self._refuse("admission.no-limit", name, resource, "the same in limits", "requests only")
            return None
        if "requests" in amounts and amounts["requests"] != amounts["limits"]:
            expected = f"requests equal to limits, {lists['limits'][resource]}"
            self._refuse("admission.requests-differ", name, resource, expected, str(lists["requests"][resource]))
            return None
        return amounts.get("limits")

    def _check_devices(self, name: str, epc: int | None, devices: Mapping[str, int | None]) -> None:
        resource = next((resource for resource, count in devices.items() if count), None)
        if epc is None and resource is not None:
            expected = f"an amount of {EPC_RESOURCE} beside it: what is not asked for is not counted"
            self._refuse("admission.epc-missing", name, resource, expected, "none")
        if epc is not None and devices[ENCLAVE_RESOURCE] == 0:
            self._refuse("admission.enclave-missing", name, ENCLAVE_RESOURCE, "1, or left out", "0")
        by_annotation = epc is not None and devices[PROVISION_RESOURCE] is None and self._is_provider(name)
        if (devices[PROVISION_RESOURCE] or by_annotation) and not self._granted:
            expected = "the provisioning key granted to this namespace and service account"
            found = "not granted" + (f"; asked for by annotation {QUOTE_PROVIDER}" if by_annotation else "")
            hint = "it identifies the platform: who may have it is granted, on one machine with up --grant-provision"
            field = _field(name, PROVISION_RESOURCE)
            self.findings.append(Finding("admission.provision-refused", field, expected, found, hint))

    def _is_provider(self, name: str) -> bool:
        """Tell whether the annotation makes this container the quote provider, Intel's way to ask for provision."""
        return self.provider == name and name != AESMD

    def _write(self, container: dict[str, Any], lists: Mapping[str, Mapping[str, object]], ask: Ask) -> None:
        """Put the canonical resources into limits and, where there are any, into requests."""
        wanted = {EPC_RESOURCE: ask.epc, ENCLAVE_RESOURCE: ask.enclave, PROVISION_RESOURCE: ask.provision}
        aliases = {dialect.resource for dialect in DIALECTS} - {EPC_RESOURCE}
        for key, entries in lists.items():
            if key == "requests" and "requests" not in container["resources"]:
                continue  # not defaulted yet: the API server copies the limits
            kept = {resource: amount for resource, amount in entries.items() if resource not in aliases}
            for resource, amount in wanted.items():
                if amount:
                    kept.setdefault(resource, str(amount))
            container["resources"][key] = kept

    def _quotes(self, container: dict[str, Any]) -> None:
        """Wire a container to the AESM socket that comes with its enclave device."""
        volumes = _aesm_volumes(self._spec)
        mounts = _objects(container, "volumeMounts")
        kept = [mount for mount in mounts if not _is_aesm_mount(mount, volumes)]
        if len(kept) != len(mounts):
            _replace(container, "volumeMounts", kept)
            self._drop_unused(volumes)
        env = _objects(container, "env")
        if self.provider == AESMD and not any(entry.get("name") == AESM_VARIABLE for entry in env):
            container["env"] = [*env, {"name": AESM_VARIABLE, "value": "1"}]

    def _drop_unused(self, volumes: frozenset[str]) -> None:
        """Drop AESM volumes that nothing mounts any more."""
        used = {
            str(mount.get("name"))
            for key in ("initContainers", "containers")
            for container in _objects(self._spec, key)
            for mount in _objects(container, "volumeMounts")
        }
        kept = [
            volume
            for volume in _objects(self._spec, "volumes")
            if str(volume.get("name")) not in volumes or str(volume.get("name")) in used
        ]
        _replace(self._spec, "volumes", kept)

    def _refuse(self, code: str, name: str, resource: str, expected: str, found: str) -> None:
        self.findings.append(Finding(code, _field(name, resource), expected, found))


def _field(name: str, rest: str) -> str:
    return f"container {name}: {rest}"


def _containers(pod: Mapping[str, Any]) -> list[tuple[ContainerKind, dict[str, Any]]]:
    """Return the containers in the order in which they start."""
    spec = pod.get("spec")
    if not isinstance(spec, dict):
        raise _shape("spec", "an object", spec)
    found = []
    for key in ("initContainers", "containers"):
        for entry in _objects(spec, key):
            kind = ContainerKind.MAIN
            if key == "initContainers":
                always = entry.get("restartPolicy") == "Always"
                kind = ContainerKind.SIDECAR if always else ContainerKind.INIT
            found.append((kind, entry))
    return found


def _objects(parent: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    """Return the list of objects under ``key``, an empty one where it is absent or null."""
    entries = parent.get(key)
    if entries is None:
        return []
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise _shape(key, "a list of objects", entries)
    return entries


def _annotation(pod: Mapping[str, Any], name: str) -> str | None:
    value = _mapping(pod, "metadata", "annotations").get(name)
    if value is not None and not isinstance(value, str):
        raise _shape(f"metadata.annotations.{name}", "a string", value)
    return value


def _mapping(parent: Mapping[str, Any], *path: str) -> Mapping[str, Any]:
    """Return the object at ``path``, an empty one where it is absent or null."""
    current: Any = parent
    for key in path:
        current = current.get(key)
        if current is None:
            return {}
        if not isinstance(current, dict):
            raise _shape(".".join(path), "an object", current)
    return dict(current)


def _aesm_volumes(spec: Mapping[str, Any]) -> frozenset[str]:
    """Return the names of volumes that are the host's AESM directory."""
    return frozenset(
        str(volume.get("name"))
        for volume in _objects(spec, "volumes")
        if isinstance(host := volume.get("hostPath"), dict) and str(host.get("path", "")).rstrip("/") in AESM_PATHS
    )


def _is_aesm_mount(mount: Mapping[str, Any], volumes: frozenset[str]) -> bool:
    """Tell whether a mount is what the enclave device brings anyway: the same directory at the same place."""
    return (
        str(mount.get("name")) in volumes
        and str(mount.get("mountPath", "")).rstrip("/") in AESM_PATHS
        and not mount.get("subPath")
    )


def _replace(parent: dict[str, Any], key: str, entries: list[Any]) -> None:
    """Set a list, or remove it where nothing is left."""
    if entries:
        parent[key] = entries
    else:
        parent.pop(key, None)


def _shape(field: str, expected: str, found: object) -> FormatError:
    return FormatError(
        "not the shape of a Pod",
        code="admission.shape",
        field=field,
        expected=expected,
        found="nothing" if found is None else f"a value of type {type(found).__name__}",
        hint="kubectl create --dry-run=client -f FILE checks the whole manifest",
    )
