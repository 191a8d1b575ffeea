# SPDX-License-Identifier: Apache-2.0
"""The table of admission: names, units and amounts, and what a site decides. Every rendering of the rules reads it."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from kubenclave.platform.base import SGX_LABEL
from kubenclave.sgx.epc import (
    ALIBABA_EPC_RESOURCE,
    AZURE_EPC_RESOURCE,
    ENCLAVE_RESOURCE,
    EPC_RESOURCE,
    MIB,
    PROVISION_RESOURCE,
    EpcMode,
    mib_for,
)

QUOTE_PROVIDER: Final = "sgx.intel.com/quote-provider"
AESMD: Final = "aesmd"
AESM_VARIABLE: Final = "SGX_AESM_ADDR"
AESM_PATHS: Final = ("/run/aesmd", "/var/run/aesmd")

TOTAL_ANNOTATION: Final = EPC_RESOURCE
"""Pod annotation with the bytes of EPC of the whole pod, by which Kata sizes its guest."""

MAX_EPC: Final = 64 << 40
"""Bytes of EPC a container may ask for: more than any machine has.

Sums stay below 64 bits, and CEL can read the amounts: of quantities above 100Ti it makes no integer.
"""


@dataclass(frozen=True, slots=True)
class Dialect:
    """One name under which people ask for EPC; an amount of 1 means ``unit`` bytes."""

    resource: str
    unit: int
    origin: str

    @property
    def most(self) -> int:
        """The largest amount."""
        return MAX_EPC // self.unit


DIALECTS: Final = (
    Dialect(EPC_RESOURCE, 1, "Intel, and ours"),
    Dialect(AZURE_EPC_RESOURCE, MIB, "Azure confcom"),
    Dialect("sgx.intel.com/sgx_epc_mem_in_MiB", MIB, "a slip in Azure's questions and answers"),
    Dialect(ALIBABA_EPC_RESOURCE, MIB, "Alibaba Cloud"),
)
"""A new dialect is one row."""

DEVICES: Final = (ENCLAVE_RESOURCE, PROVISION_RESOURCE)

SGX_RESOURCES: Final = (*(dialect.resource for dialect in DIALECTS), *DEVICES)
"""A pod that asks for none of these never meets us."""

TOLERATED: Final = (EPC_RESOURCE, AZURE_EPC_RESOURCE)
"""Keys of the taints that keep other pods off SGX nodes, in either of the two habits."""

SELECTED: Final = SGX_LABEL
"""Node label, ``true`` while EPC and devices can be had, that a pod has to select which names its node itself.

It passes the scheduler by, and a kubelet takes resources that its node does not have for somebody else's business: on
any other node the pod would run, without its device. Selectors it looks at.
"""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a pod cannot be meant: a stable code, what would have been right, and the next step.

    ``expected`` may name ``{canonical}``, the resource that is counted, and ``{most}``, the largest amount.
    """

    code: str
    expected: str
    hint: str


EPC_AMOUNT: Final = Refusal(
    "admission.epc-amount",
    "more than zero and at most {most}",
    "leave it out where no EPC is needed",
)
DIALECTS_DISAGREE: Final = Refusal(
    "admission.dialects-disagree",
    "the same bytes in every dialect",
    "keep one of the names, the others are added up by nobody",
)
ENCLAVE_MISSING: Final = Refusal(
    "admission.enclave-missing", "1 or more, or left out", "admission adds it where it is left out"
)
EPC_MISSING: Final = Refusal(
    "admission.epc-missing",
    "an amount of {canonical} beside it: what is not asked for is not counted",
    "ask for EPC; a site that migrates such pods sets admission.enclaveWithoutEpc to warn",
)
MISPLACED: Final = Refusal(
    "admission.misplaced",
    "among the resources of a container or init container",
    "nobody counts it elsewhere: move it there",
)
PROVISION_REFUSED: Final = Refusal(
    "admission.provision-refused",
    "the provisioning key granted to this namespace and service account",
    "it identifies the platform: a cluster grants it under provision.allowed, one machine with up --grant-provision",
)
NO_LIMIT: Final = Refusal("admission.no-limit", "the same in limits", "what is requested only is never handed out")
REQUESTS_DIFFER: Final = Refusal(
    "admission.requests-differ", "limits and requests that are equal", "leave the requests out, they follow the limits"
)
UNTRANSLATED: Final = Refusal(
    "admission.untranslated",
    "{canonical}, which this cluster counts",
    "the mutating half of admission did not see it: another one added it later, or kubenclave doctor cluster says why",
)
NODE_UNCHECKED: Final = Refusal(
    "admission.node-unchecked",
    f"{SELECTED}: true in nodeSelector, so that its kubelet looks whether there is EPC",
    "leave nodeName out and the scheduler finds a node, or add the selector",
)
"""These two only where admission is in two halves: the validating one finds what the mutating one should change."""
EXCEEDS_NODES: Final = Refusal(
    "admission.exceeds-nodes",
    "at most {most} bytes, which the largest node has",
    "until a larger node joins it stays Pending",
)
"""A warning, no refusal: a larger node may be on its way."""

CAPACITY_CONFIG: Final = "kubenclave-capacity"
"""ConfigMap of the add-on's namespace in which the exporter says how large the largest node is."""
LARGEST_KEY: Final = "largestNodeEpc"
"""Its key: bytes of EPC, a decimal number."""

UNCOUNTED: Final = "no EPC is asked for, so nobody counts what it takes"
UNKNOWN_PROVIDER: Final = f"annotation {QUOTE_PROVIDER}: neither '{AESMD}' nor the name of a container: "


class EnclaveWithoutEpc(StrEnum):
    """What becomes of a device that is asked for without EPC, which then nobody counts."""

    REFUSE = "refuse"
    WARN = "warn"


@dataclass(frozen=True, slots=True)
class Rules:
    """What a site decides about admission. One EPC mode per cluster: one ledger, so nothing is promised twice."""

    epc_mode: EpcMode = EpcMode.CAPACITY
    enclave_without_epc: EnclaveWithoutEpc = EnclaveWithoutEpc.REFUSE

    @property
    def canonical(self) -> str:
        """The resource that every dialect becomes."""
        return EPC_RESOURCE if self.epc_mode is EpcMode.CAPACITY else AZURE_EPC_RESOURCE

    def counted(self, size: int) -> int:
        """Return the amount of ``canonical`` that holds ``size`` bytes."""
        return size if self.epc_mode is EpcMode.CAPACITY else mib_for(size)

    def promised(self, size: int) -> int:
        """Return the bytes that ``counted`` stands for: whole MiB where those are counted."""
        return size if self.epc_mode is EpcMode.CAPACITY else mib_for(size) * MIB


DEFAULT_RULES: Final = Rules()


def covers(toleration: object, key: str) -> bool:
    """Tell whether a pod's toleration holds for a ``NoSchedule`` taint of ``key``, whatever its value."""
    return (
        isinstance(toleration, dict)
        and toleration.get("operator") == "Exists"
        and (toleration.get("key") or key) == key
        and (toleration.get("effect") or "NoSchedule") == "NoSchedule"
    )


def toleration(key: str) -> dict[str, str]:
    """Return the toleration that Kubernetes' own ExtendedResourceToleration would write."""
    return {"key": key, "operator": "Exists", "effect": "NoSchedule"}


@dataclass(frozen=True, slots=True)
class Grants:
    """Who may have the provisioning key: pairs of namespace and service account."""

    allowed: frozenset[tuple[str, str]] = frozenset()

    def allow(self, namespace: str, service_account: str | None) -> bool:
        """Tell whether pods of this service account may have it; a pod that names none runs as ``default``."""
        return (namespace, service_account or "default") in self.allowed


@dataclass(frozen=True, slots=True)
class Site:
    """What a site decided: its rules, and whom it gives the provisioning key."""

    rules: Rules = field(default_factory=Rules)
    grants: Grants = field(default_factory=Grants)
