# SPDX-License-Identifier: Apache-2.0
"""Pods and what becomes of them: one table for `admit`, for the policies on a real API server and for the webhook."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any

from kubenclave.cluster.admission import EnclaveWithoutEpc, Rules
from kubenclave.cluster.admission.table import QUOTE_PROVIDER
from kubenclave.sgx.epc import EpcMode, Quantity

EPC = "sgx.intel.com/epc"
ENCLAVE = "sgx.intel.com/enclave"
PROVISION = "sgx.intel.com/provision"
AZURE = "kubernetes.azure.com/sgx_epc_mem_in_MiB"
ALIBABA = "alibabacloud.com/sgx_epc_MiB"
SLIP = "sgx.intel.com/sgx_epc_mem_in_MiB"

NAMESPACE = "admission-cases"
GRANTED = "granted"
"""Service account in NAMESPACE with the provisioning key, where the test installs that grant."""

CAPACITY = Rules()
DEVICES = Rules(epc_mode=EpcMode.DEVICES)
MIGRATING = Rules(enclave_without_epc=EnclaveWithoutEpc.WARN)

Limits = Mapping[str, str | int]
"""Amounts by resource, as people write them."""

AESM_VOLUME = {"name": "aesm", "hostPath": {"path": "/var/run/aesmd"}}
AESM_MOUNT = {"name": "aesm", "mountPath": "/var/run/aesmd"}


@dataclass(frozen=True)
class Case:
    """A pod, and either the limits of each container that asks for SGX (and more), or the codes of its refusal.

    ``by_server`` tells that the API server refuses it in words of its own before a validating policy is asked.
    """

    pod: dict[str, Any]
    limits: Mapping[str, Limits] = field(default_factory=dict)
    codes: tuple[str, ...] = ()
    rules: Rules = CAPACITY
    granted: bool = False
    total: str | None = None
    aesm: Mapping[str, str | None] = field(default_factory=dict)
    volumes: tuple[str, ...] = ()
    selects: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    by_server: bool = False


def container(
    name: str = "app", limits: Limits | None = None, requests: Limits | None = None, **more
) -> dict[str, Any]:
    lists = (("limits", limits), ("requests", requests))
    resources = {key: dict(value) for key, value in lists if value is not None}
    return {"name": name, "image": "kubenclave.test/busybox:test", "resources": resources, **more}


def pod(*containers: dict[str, Any], provider: str | None = None, annotations=None, **spec) -> dict[str, Any]:
    notes = {**({QUOTE_PROVIDER: provider} if provider is not None else {}), **(annotations or {})}
    metadata = {"name": "case", **({"annotations": notes} if notes else {})}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"containers": [*containers], **spec}}


def one(limits: Limits | None = None, requests: Limits | None = None, **more) -> dict[str, Any]:
    return pod(container("app", limits, requests), **more)


def one_on_a_node(limits: Limits, **spec) -> dict[str, Any]:
    return pod(container("app", limits), nodeName="sgx-1", **spec)


def granted(made: dict[str, Any]) -> dict[str, Any]:
    return {**made, "spec": {**made["spec"], "serviceAccountName": GRANTED}}


def essence(made: Mapping[str, Any]) -> dict[str, Any]:
    """What admission decides about in a pod, whatever defaults and spellings the API server has put into it."""
    spec = made["spec"]
    return {
        "containers": {
            each["name"]: {
                **{
                    key: {name: Quantity.parse(amount).nanos for name, amount in entries.items()}
                    for key, entries in each.get("resources", {}).items()
                    if entries
                },
                "env": [(entry["name"], entry.get("value", "")) for entry in each.get("env", [])],
                "mounts": [
                    (mount["name"], mount["mountPath"])
                    for mount in each.get("volumeMounts", [])
                    if not mount["name"].startswith("kube-api-access-")
                ],
            }
            for key in ("initContainers", "containers")
            for each in spec.get(key, [])
        },
        "volumes": [one["name"] for one in spec.get("volumes", []) if not one["name"].startswith("kube-api-access-")],
        "tolerations": sorted(
            (one.get("key", ""), one.get("operator", "Equal"), one.get("effect", ""))
            for one in spec.get("tolerations", [])
            if one.get("effect") != "NoExecute"
        ),
        "selector": spec.get("nodeSelector", {}),
        "annotations": made["metadata"].get("annotations", {}),
    }


def defaulted(made: dict[str, Any]) -> dict[str, Any]:
    """The pod as the API server has it when it asks: requests hold what the limits hold."""
    spec = dict(made["spec"])
    for key in ("initContainers", "containers"):
        if key in spec:
            spec[key] = [_defaulted(each) for each in spec[key]]
    return {**made, "spec": spec}


def _defaulted(each: dict[str, Any]) -> dict[str, Any]:
    resources = each.get("resources", {})
    if "limits" not in resources:
        return each
    both = {**resources, "requests": {**resources["limits"], **resources.get("requests", {})}}
    return {**each, "resources": both}


SIDECAR: dict[str, Any] = {"restartPolicy": "Always"}
AMOUNTS: Mapping[str, tuple[str, ...]] = {
    EPC: ("1Mi", "1048576", "2Mi", "0", "1.5Gi", "100k", "70Ti"),
    AZURE: ("1", "2", "0", "1k", "1E"),
    ALIBABA: ("1", "2"),
    SLIP: ("1",),
    ENCLAVE: ("1", "0", "3"),
    PROVISION: ("1", "0"),
    "cpu": ("1",),
}
MOUNTS = (AESM_MOUNT, *({"name": "aesm", "mountPath": path} for path in ("/run/aesmd/", "/elsewhere")))


def random_pod(random: Random) -> dict[str, Any]:
    """A pod of one to six containers that ask for anything in any mixture, most of it nonsense."""

    def some(name: str) -> dict[str, Any]:
        limits = {key: random.choice(AMOUNTS[key]) for key in random.sample([*AMOUNTS], random.choice([0, 1, 1, 2, 3]))}
        others = {key: random.choice(AMOUNTS[key]) for key in limits} if random.random() < 0.15 else None
        env = [{"name": random.choice(["A", "SGX_AESM_ADDR"]), "value": "x"}] if random.random() < 0.3 else []
        return container(name, limits, others, env=env, volumeMounts=random.sample(MOUNTS, random.choice([0, 0, 1, 2])))

    spec: dict[str, Any] = {"volumes": [AESM_VOLUME, {"name": "data", "emptyDir": {}}]}
    if inits := random.choice([0, 0, 1, 3]):
        spec["initContainers"] = [{**some(f"i{i}"), **random.choice([SIDECAR, {}])} for i in range(inits)]
    if random.random() < 0.3:
        effect = random.choice([{"effect": "NoSchedule"}, {}])
        spec["tolerations"] = [{"key": random.choice([EPC, AZURE, "x"]), "operator": "Exists", **effect}]
    if random.random() < 0.3:
        spec["serviceAccountName"] = GRANTED
    if random.random() < 0.2:
        spec["nodeName"] = "sgx-1"
        spec["nodeSelector"] = random.choice([{}, {"kubenclave.dev/sgx": "true"}, {"disk": "fast"}])
    provider = random.choice([None, None, "aesmd", "c0", "i0", "nobody"])
    total = {EPC: "7"} if random.random() < 0.1 else None
    return pod(
        *(some(f"c{i}") for i in range(random.choice([1, 1, 2, 3]))), provider=provider, annotations=total, **spec
    )


CASES: dict[str, Case] = {
    # one name, whichever they wrote
    "Intel": Case(one({EPC: "10Mi"}), {"app": {EPC: "10Mi", ENCLAVE: "1"}}, total="10485760"),
    "Azure": Case(one({AZURE: 10}), {"app": {EPC: "10485760", ENCLAVE: "1"}}, total="10485760"),
    "Azure beside a cpu": Case(
        one({AZURE: "10", "cpu": "1"}, {AZURE: 10, "cpu": "500m"}), {"app": {"cpu": "1", EPC: "10Mi", ENCLAVE: "1"}}
    ),
    "Azure in thousands": Case(one({AZURE: "1k"}), {"app": {EPC: "1048576000", ENCLAVE: "1"}}),
    "a fraction that makes whole bytes": Case(one({EPC: "1.5Gi"}), {"app": {EPC: "1536Mi", ENCLAVE: "1"}}),
    "Azure with an exponent": Case(one({AZURE: "1e2"}), {"app": {EPC: "100Mi", ENCLAVE: "1"}}),
    "Alibaba": Case(one({ALIBABA: "2"}), {"app": {EPC: "2Mi", ENCLAVE: "1"}}),
    "the slip": Case(one({SLIP: "3"}), {"app": {EPC: "3Mi", ENCLAVE: "1"}}),
    "dialects that agree": Case(one({AZURE: 5, EPC: "5Mi", ALIBABA: 5}), {"app": {EPC: "5Mi", ENCLAVE: "1"}}),
    "enclaves of its own": Case(one({EPC: "1Mi", ENCLAVE: 2}), {"app": {EPC: "1Mi", ENCLAVE: "2"}}),
    "equal in other words": Case(one({EPC: "1Mi"}, {EPC: "1024Ki"}), {"app": {EPC: "1Mi", ENCLAVE: "1"}}),
    "the most there may be": Case(one({EPC: "64Ti"}), {"app": {EPC: "64Ti", ENCLAVE: "1"}}, total=str(64 << 40)),
    "already as it should be": Case(
        one({EPC: "1Mi", ENCLAVE: 1}, annotations={EPC: "1048576"}),
        {"app": {EPC: "1Mi", ENCLAVE: "1"}},
        total="1048576",
    ),
    # the ledger of devices
    "devices: Intel": Case(one({EPC: "10Mi"}), {"app": {AZURE: "10", ENCLAVE: "1"}}, rules=DEVICES, total="10485760"),
    "devices: Azure": Case(one({AZURE: 10}), {"app": {AZURE: "10", ENCLAVE: "1"}}, rules=DEVICES, total="10485760"),
    "devices: rounded up": Case(
        one({EPC: "10485761"}), {"app": {AZURE: "11", ENCLAVE: "1"}}, rules=DEVICES, total="11534336"
    ),
    "devices: Alibaba": Case(one({ALIBABA: 3}), {"app": {AZURE: "3", ENCLAVE: "1"}}, rules=DEVICES),
    "devices: dialects that agree": Case(
        one({AZURE: 5, EPC: "5Mi"}), {"app": {AZURE: "5", ENCLAVE: "1"}}, rules=DEVICES
    ),
    "devices: enclave without EPC": Case(one({ENCLAVE: 1}), codes=("admission.epc-missing",), rules=DEVICES),
    # several containers
    "init container, sidecar and main": Case(
        pod(
            container("app", {EPC: "20Mi"}),
            container("plain", {"cpu": "1"}),
            initContainers=[
                container("first", {AZURE: 25}),
                container("side", {AZURE: 10}, **SIDECAR),
                container("second", {EPC: "21Mi"}),
                container("setup"),
            ],
        ),
        {
            "first": {EPC: "25Mi", ENCLAVE: "1"},
            "side": {EPC: "10Mi", ENCLAVE: "1"},
            "second": {EPC: "21Mi", ENCLAVE: "1"},
            "app": {EPC: "20Mi", ENCLAVE: "1"},
        },
        total=str(31 << 20),
    ),
    "a sidecar only": Case(
        pod(container("app"), initContainers=[container("side", {AZURE: 10}, **SIDECAR)]),
        {"side": {EPC: "10Mi", ENCLAVE: "1"}},
        total="10485760",
    ),
    "many containers": Case(
        pod(*(container(f"app-{i}", {AZURE: 1}) for i in range(40)), provider="aesmd"),
        {f"app-{i}": {EPC: "1Mi", ENCLAVE: "1"} for i in range(40)},
        total=str(40 << 20),
        aesm={f"app-{i}": "1" for i in range(40)},
    ),
    # what is none of ours
    "no resources at all": Case(pod({"name": "app", "image": "kubenclave.test/busybox:test"})),
    "requests only, of others": Case(one(None, {"cpu": "1m"})),
    "an annotation alone": Case(one({}, provider="aesmd")),
    # quotes
    "quotes on request": Case(
        pod(container("app", {EPC: "1Mi"}), container("plain"), provider="aesmd"),
        {"app": {EPC: "1Mi", ENCLAVE: "1"}},
        aesm={"app": "1", "plain": None},
    ),
    "quotes: the author's own word": Case(
        pod(container("app", {EPC: "1Mi"}, env=[{"name": "SGX_AESM_ADDR", "value": "0"}]), provider="aesmd"),
        {"app": {EPC: "1Mi", ENCLAVE: "1"}},
        aesm={"app": "0"},
    ),
    "quotes: beside other variables": Case(
        pod(container("app", {EPC: "1Mi"}, env=[{"name": "A", "value": "b"}]), provider="aesmd"),
        {"app": {EPC: "1Mi", ENCLAVE: "1"}},
        aesm={"app": "1"},
    ),
    "quotes: an unknown provider": Case(
        one({EPC: "1Mi"}, provider="nobody"), {"app": {EPC: "1Mi", ENCLAVE: "1"}}, notes=("neither 'aesmd' nor",)
    ),
    "Azure's volume of the AESM directory": Case(
        pod(
            container("app", {AZURE: 10}, volumeMounts=[AESM_MOUNT, {"name": "data", "mountPath": "/data"}]),
            volumes=[AESM_VOLUME, {"name": "data", "emptyDir": {}}],
        ),
        {"app": {EPC: "10Mi", ENCLAVE: "1"}},
        volumes=("data",),
    ),
    "AESM's volume in its other spelling, the only one": Case(
        pod(
            container("app", {AZURE: 10}, volumeMounts=[{"name": "aesm", "mountPath": "/run/aesmd/"}]),
            volumes=[{"name": "aesm", "hostPath": {"path": "/var/run/aesmd/"}}],
            automountServiceAccountToken=False,
        ),
        {"app": {EPC: "10Mi", ENCLAVE: "1"}},
    ),
    "AESM's volume mounted elsewhere too": Case(
        pod(
            container("app", {AZURE: 10}, volumeMounts=[AESM_MOUNT, {"name": "aesm", "mountPath": "/elsewhere"}]),
            container("plain", volumeMounts=[AESM_MOUNT]),
            volumes=[AESM_VOLUME],
        ),
        {"app": {EPC: "10Mi", ENCLAVE: "1"}},
        volumes=("aesm",),
    ),
    # tolerations and total
    "tolerations of its own": Case(
        pod(container("app", {EPC: "1Mi"}), tolerations=[{"operator": "Exists"}]), {"app": {EPC: "1Mi", ENCLAVE: "1"}}
    ),
    "one of the tolerations": Case(
        pod(
            container("app", {AZURE: "1"}),
            tolerations=[{"key": AZURE, "operator": "Exists", "effect": "NoSchedule"}, {"key": "pool", "value": "a"}],
        ),
        {"app": {EPC: "1Mi", ENCLAVE: "1"}},
    ),
    "a node of its own choice": Case(
        one_on_a_node({AZURE: "1"}), {"app": {EPC: "1Mi", ENCLAVE: "1"}}, selects={"kubenclave.dev/sgx": "true"}
    ),
    "a node of its own choice, and a selector": Case(
        one_on_a_node({EPC: "1Mi"}, nodeSelector={"kubenclave.dev/sgx": "no", "disk": "fast"}),
        {"app": {EPC: "1Mi", ENCLAVE: "1"}},
        selects={"kubenclave.dev/sgx": "true", "disk": "fast"},
    ),
    "a node of its own choice, without SGX": Case(one_on_a_node({"cpu": "1m"})),
    "a total of its own": Case(
        one({EPC: "1Mi"}, annotations={EPC: "2097152"}), {"app": {EPC: "1Mi", ENCLAVE: "1"}}, total="2097152"
    ),
    "a total that is too small": Case(
        one({AZURE: "1"}, annotations={EPC: "7"}), {"app": {EPC: "1Mi", ENCLAVE: "1"}}, total="1048576"
    ),
    "a total that is none": Case(
        one({AZURE: "1"}, annotations={EPC: "much"}), {"app": {EPC: "1Mi", ENCLAVE: "1"}}, total="1048576"
    ),
    # provisioning key
    "provision by name": Case(
        granted(one({EPC: "1Mi", PROVISION: 1})), {"app": {EPC: "1Mi", ENCLAVE: "1", PROVISION: "1"}}, granted=True
    ),
    "provision by annotation": Case(
        granted(one({AZURE: "1"}, provider="app")), {"app": {EPC: "1Mi", ENCLAVE: "1", PROVISION: "1"}}, granted=True
    ),
    "provision not granted": Case(one({EPC: "1Mi", PROVISION: 1}), codes=("admission.provision-refused",)),
    "provision not granted, by annotation": Case(
        one({EPC: "1Mi"}, provider="app"), codes=("admission.provision-refused",)
    ),
    "provision not wanted after all": Case(
        one({EPC: "1Mi", PROVISION: 0}, provider="app"), {"app": {EPC: "1Mi", ENCLAVE: "1", PROVISION: "0"}}
    ),
    "a container called aesmd": Case(
        pod(container("aesmd", {EPC: "1Mi"}), provider="aesmd"), {"aesmd": {EPC: "1Mi", ENCLAVE: "1"}}
    ),
    # devices without EPC
    "an enclave without EPC": Case(one({ENCLAVE: 1}), codes=("admission.epc-missing",)),
    "an enclave without EPC, migrating": Case(
        one({ENCLAVE: 1}), {"app": {ENCLAVE: "1"}}, rules=MIGRATING, notes=("no EPC is asked for",)
    ),
    "migrating: everybody else": Case(one({AZURE: 1}), {"app": {EPC: "1Mi", ENCLAVE: "1"}}, rules=MIGRATING),
    "migrating: the provisioning key remains a privilege": Case(
        one({PROVISION: 1}), codes=("admission.provision-refused",), rules=MIGRATING
    ),
    "an enclave of the init container without EPC": Case(
        pod(container("app", {EPC: "1Mi"}), initContainers=[container("first", {ENCLAVE: 1})]),
        codes=("admission.epc-missing",),
    ),
    # what cannot be meant
    "EPC without an enclave": Case(one({EPC: "1Mi", ENCLAVE: 0}), codes=("admission.enclave-missing",)),
    "no EPC": Case(one({EPC: "0"}), codes=("admission.epc-amount",)),
    "no EPC, in MiB": Case(one({AZURE: "0"}), codes=("admission.epc-amount",)),
    "more than any machine has": Case(one({AZURE: "1E"}), codes=("admission.epc-amount",)),
    "one byte too much": Case(one({EPC: str((64 << 40) + 1)}), codes=("admission.epc-amount",)),
    "more than CEL can count": Case(one({EPC: "1Pi"}), codes=("admission.epc-amount",)),
    "dialects that disagree": Case(one({AZURE: 10, EPC: "5Mi"}), codes=("admission.dialects-disagree",)),
    "requests differ": Case(one({EPC: "10Mi"}, {EPC: "5Mi"}), codes=("admission.requests-differ",), by_server=True),
    "requests differ in a dialect": Case(
        one({AZURE: 10}, {AZURE: 5}), codes=("admission.requests-differ",), by_server=True
    ),
    "requests only": Case(one(None, {EPC: "10Mi"}), codes=("admission.no-limit",), by_server=True),
    "a fraction": Case(one({EPC: "0.5"}), codes=("admission.amount",), by_server=True),
    "a negative amount": Case(one({AZURE: "-1"}), codes=("admission.amount",), by_server=True),
    "all reasons at once": Case(
        pod(
            container("app", {EPC: "1Mi", ENCLAVE: 0}), container("other", {ENCLAVE: 1}), container("third", {AZURE: 0})
        ),
        codes=("admission.enclave-missing", "admission.epc-missing", "admission.epc-amount"),
    ),
    "asked for by the pod as a whole": Case(
        pod(container("app", {EPC: "64Mi"}), resources={"limits": {EPC: "64Mi"}}),
        codes=("admission.misplaced",),
        by_server=True,
    ),
}
"""Name, and what becomes of the pod; a new rule is a row or two here."""
