# SPDX-License-Identifier: Apache-2.0
"""The rules of admission, whoever applies them: policies, the webhook, one machine without a cluster.

1. EPC in any dialect becomes the one resource that the site's EPC mode counts, in limits and requests alike: the API
   server has copied one to the other by the time it asks.
2. A container with EPC gets one enclave device. The provisioning key only goes to whom it was granted.
3. On the annotation ``sgx.intel.com/quote-provider: aesmd`` it is told to get quotes over the AESM socket, unless its
   author said something else. The socket itself comes with the enclave device, so an old hostPath mount of it goes.
4. The pod tolerates the taints that keep others off SGX nodes, and says in an annotation how much EPC it takes. If it
   names its node itself, past the scheduler, it selects nodes with SGX, for the kubelet to refuse it on any other.

Whatever cannot be meant is refused, every reason at once. Applying the rules again changes nothing. Other pods, and
containers that do not ask for SGX, pass untouched.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

from kubenclave.cluster.admission import shape, table
from kubenclave.cluster.admission.asks import CONTAINER_LISTS, Admitted, Ask, ContainerKind
from kubenclave.cluster.admission.table import (
    AESM_VARIABLE,
    AESMD,
    DEFAULT_RULES,
    DEVICES,
    DIALECTS,
    QUOTE_PROVIDER,
    SELECTED,
    SGX_RESOURCES,
    TOLERATED,
    TOTAL_ANNOTATION,
    EnclaveWithoutEpc,
    Refusal,
    Rules,
    covers,
    toleration,
)
from kubenclave.errors import Finding, FormatError, PolicyError
from kubenclave.sgx.epc import ENCLAVE_RESOURCE, PROVISION_RESOURCE, Quantity


def admit(pod: Mapping[str, Any], *, provision_granted: bool = False, rules: Rules = DEFAULT_RULES) -> Admitted:
    """Return the pod as it may run, a changed copy; ``provision_granted`` by its namespace and service account.

    Raises FormatError when ``pod`` has not the shape of a Pod, PolicyError with every reason when it cannot be meant.
    """
    try:
        changed = copy.deepcopy(dict(pod))
    except RecursionError:
        raise FormatError("the pod is nested too deeply", code="admission.shape", field="pod") from None
    review = _Review(changed, provision_granted=provision_granted, rules=rules)
    containers = _containers(changed)
    review.provider = shape.annotation(changed, QUOTE_PROVIDER)
    asks = tuple(review.container(kind, container) for kind, container in containers)
    review.pod(asks)
    if review.findings:
        raise PolicyError(review.findings)
    admitted = Admitted(changed, asks, tuple(review.notes))
    if not any(ask.sgx for ask in asks):
        return admitted
    return replace(admitted, notes=(*admitted.notes, *_finish(changed, admitted.epc)))


def _finish(pod: dict[str, Any], epc: int) -> Iterator[str]:
    """Give an SGX pod, once it is known to be one, what concerns it as a whole; yield what its author should know."""
    spec = pod["spec"]
    tolerations = shape.objects(spec, "tolerations")
    missing = [key for key in TOLERATED if not any(covers(one, key) for one in tolerations)]
    shape.replace(spec, "tolerations", [*tolerations, *map(toleration, missing)])
    if spec.get("nodeName"):
        spec["nodeSelector"] = {**shape.mapping(spec, "nodeSelector"), SELECTED: "true"}
    volumes = shape.aesm_volumes(spec) - shape.mounted(spec)
    if volumes:
        kept = [one for one in shape.objects(spec, "volumes") if str(one.get("name")) not in volumes]
        shape.replace(spec, "volumes", kept)
    if not epc:
        return
    said = shape.annotation(pod, TOTAL_ANNOTATION)
    if said is not None and _holds(said, epc):
        return
    shape.annotate(pod, TOTAL_ANNOTATION, str(epc))
    if said is not None:
        yield f"annotation {TOTAL_ANNOTATION}: {said} became {epc}, the bytes that the containers ask for together"


def _holds(said: str, epc: int) -> bool:
    """Tell whether the author's word on the pod's EPC is enough; more is for what runs beside the containers."""
    try:
        return Quantity.parse(said).whole() >= epc
    except FormatError:
        return False


class _Review:
    """One application of the rules: changes the pod in place and gathers what is wrong."""

    def __init__(self, pod: dict[str, Any], *, provision_granted: bool, rules: Rules) -> None:
        self.findings: list[Finding] = []
        self.notes: list[str] = []
        self.provider: str | None = None
        self._spec: dict[str, Any] = pod["spec"] if isinstance(pod.get("spec"), dict) else {}
        self._granted = provision_granted
        self._rules = rules

    def container(self, kind: ContainerKind, container: dict[str, Any]) -> Ask:
        """Apply the rules to one container."""
        name = str(container.get("name", ""))
        lists = {key: shape.mapping(container, "resources", key) for key in ("limits", "requests")}
        if set(SGX_RESOURCES).isdisjoint({*lists["limits"], *lists["requests"]}):
            return Ask(name, kind)
        before = len(self.findings)
        epc = self._epc(name, lists)
        devices = {resource: self._amount(name, resource, lists) for resource in DEVICES}
        if len(self.findings) == before:
            self._check_devices(name, epc, devices)
        if len(self.findings) > before:
            return Ask(name, kind)
        enclave, provision = devices[ENCLAVE_RESOURCE], devices[PROVISION_RESOURCE]
        ask = Ask(
            name,
            kind,
            self._rules.promised(epc or 0),
            enclave=int(epc is not None) if enclave is None else enclave,
            provision=int(epc is not None and self._is_provider(name)) if provision is None else provision,
        )
        self._write(container, lists, ask)
        if ask.sgx:
            self._quotes(container)
        return ask

    def pod(self, asks: Sequence[Ask]) -> None:
        """Apply what concerns the pod as a whole."""
        self._check_elsewhere()
        names = {ask.name for ask in asks}
        if self.provider is None:
            return
        if self.provider not in {AESMD, *names}:
            self.notes.append(table.UNKNOWN_PROVIDER + self.provider)
        elif not any(ask.sgx for ask in asks) and not self.findings:
            self.notes.append(f"annotation {QUOTE_PROVIDER}: no container asks for EPC, so nothing gets quotes")

    @cached_property
    def _aesm_volumes(self) -> frozenset[str]:
        """Looked up once: a pod may have thousands of volumes and of containers."""
        return shape.aesm_volumes(self._spec)

    def _check_elsewhere(self) -> None:
        """Refuse what is asked for where neither kubelet nor scheduler look: it would run without."""
        places = [("pod", self._spec)]
        places += [
            (f"ephemeral container {container.get('name', '')}", container)
            for container in shape.objects(self._spec, "ephemeralContainers")
        ]
        for where, holder in places:
            for key in ("limits", "requests"):
                for resource in sorted(set(SGX_RESOURCES).intersection(shape.mapping(holder, "resources", key))):
                    field = f"{where}: {key}.{resource}"
                    refusal = table.MISPLACED
                    self.findings.append(
                        Finding(refusal.code, field, refusal.expected, "where nobody counts it", refusal.hint)
                    )

    def _epc(self, name: str, lists: Mapping[str, Mapping[str, object]]) -> int | None:
        """Return the bytes of EPC asked for, in whichever dialects; None when that cannot be told."""
        sizes: dict[str, int] = {}
        for dialect in DIALECTS:
            amount = self._amount(name, dialect.resource, lists)
            if amount is None:
                continue
            if not 0 < amount <= dialect.most:
                self._refuse(table.EPC_AMOUNT, name, dialect.resource, str(amount), most=dialect.most)
                continue
            sizes[dialect.resource] = amount * dialect.unit
        if len(set(sizes.values())) > 1:
            found = ", ".join(f"{resource} meaning {size}" for resource, size in sizes.items())
            self._refuse(table.DIALECTS_DISAGREE, name, next(iter(sizes)), found)
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
            self._refuse(table.NO_LIMIT, name, resource, "requests only")
            return None
        if "requests" in amounts and amounts["requests"] != amounts["limits"]:
            found = f"{lists['limits'][resource]} and {lists['requests'][resource]}"
            self._refuse(table.REQUESTS_DIFFER, name, resource, found)
            return None
        return amounts.get("limits")

    def _check_devices(self, name: str, epc: int | None, devices: Mapping[str, int | None]) -> None:
        resource = next((resource for resource, count in devices.items() if count), None)
        if epc is None and resource is not None:
            self._uncounted(name, resource)
        if epc is not None and devices[ENCLAVE_RESOURCE] == 0:
            self._refuse(table.ENCLAVE_MISSING, name, ENCLAVE_RESOURCE, "0")
        by_annotation = epc is not None and devices[PROVISION_RESOURCE] is None and self._is_provider(name)
        if (devices[PROVISION_RESOURCE] or by_annotation) and not self._granted:
            found = "not granted" + (f"; asked for by annotation {QUOTE_PROVIDER}" if by_annotation else "")
            self._refuse(table.PROVISION_REFUSED, name, PROVISION_RESOURCE, found)

    def _uncounted(self, name: str, resource: str) -> None:
        """Refuse a device without EPC, or let it pass with a warning where the site says so."""
        if self._rules.enclave_without_epc is EnclaveWithoutEpc.WARN:
            self.notes.append(f"{_field(name, resource)}: {table.UNCOUNTED}")
            return
        self._refuse(table.EPC_MISSING, name, resource, "none")

    def _is_provider(self, name: str) -> bool:
        """Tell whether the annotation makes this container the quote provider, Intel's way to ask for provision."""
        return self.provider == name and name != AESMD

    def _write(self, container: dict[str, Any], lists: Mapping[str, Mapping[str, object]], ask: Ask) -> None:
        """Put the canonical resources into limits and, where there are any, into requests."""
        canonical = self._rules.canonical
        wanted = {
            canonical: self._rules.counted(ask.epc),
            ENCLAVE_RESOURCE: ask.enclave,
            PROVISION_RESOURCE: ask.provision,
        }
        aliases = {dialect.resource for dialect in DIALECTS} - {canonical}
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
        mounts = shape.objects(container, "volumeMounts")
        kept = [mount for mount in mounts if not shape.is_aesm_mount(mount, self._aesm_volumes)]
        if len(kept) != len(mounts):
            shape.replace(container, "volumeMounts", kept)
        env = shape.objects(container, "env")
        if self.provider == AESMD and not any(entry.get("name") == AESM_VARIABLE for entry in env):
            container["env"] = [*env, {"name": AESM_VARIABLE, "value": "1"}]

    def _refuse(self, refusal: Refusal, name: str, resource: str, found: str, *, most: int = 0) -> None:
        expected = refusal.expected.format(canonical=self._rules.canonical, most=most)
        self.findings.append(Finding(refusal.code, _field(name, resource), expected, found, refusal.hint))


def _field(name: str, rest: str) -> str:
    return f"container {name}: {rest}"


def _containers(pod: Mapping[str, Any]) -> list[tuple[ContainerKind, dict[str, Any]]]:
    """Return the containers in the order in which they start."""
    spec = pod.get("spec")
    if not isinstance(spec, dict):
        raise shape.wrong("spec", "an object", spec)
    return [(ContainerKind.of(key, entry), entry) for key in CONTAINER_LISTS for entry in shape.objects(spec, key)]
