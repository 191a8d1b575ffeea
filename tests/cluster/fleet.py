# SPDX-License-Identifier: Apache-2.0
"""A fleet of nodes that kwok plays, in mixed pools, and the pods that fill it: for the real scheduler to place."""

from __future__ import annotations

import collections
import contextlib
import http.client
import json
import random
import ssl
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import yaml

from kubenclave.sgx.epc import AZURE_EPC_RESOURCE, ENCLAVE_RESOURCE, EPC_RESOURCE, MIB, Quantity
from tests.chart import CHART, render
from tests.cluster.harness.cluster import Cluster
from tests.cluster.harness.parts import HarnessError, Part
from tests.cluster.harness.progress import phase
from tools.kubernetes.build import TOOLS, place

Object = dict[str, Any]

NAMESPACE: Final = "fleet"
LABEL: Final = "kubenclave.test/fleet"
FAKE: Final = {"kwok.x-k8s.io/node": "fake"}
ORDINARY_SHARE: Final = 0.3
PLAYED: Final = ("node/fast/node-initialize", "pod/fast/pod-ready", "pod/fast/pod-delete")
SIZES_MIB: Final = (2, 4, 8, 16, 32, 64)
"""EPC of pods on old pools; on new ones `LARGER` times as much."""
LARGER: Final = 8
CALLERS: Final = 8


@dataclass(frozen=True)
class Outcome:
    """What became of the pods. ``over_committed`` names nodes with more EPC requested than they have."""

    scheduled: int
    pending: int
    over_committed: tuple[str, ...]
    misplaced: tuple[str, ...]
    largest_room: int
    """Bytes of the largest piece of EPC that is still free on a node with room for a pod."""
    smallest_pending: int
    """Bytes of EPC that the smallest pending pod asks for, 0 without one."""
    epc_used: float
    """Share of all EPC that pods hold."""


def nodes(count: int) -> list[Object]:
    """Return nodes of mixed pools, each SGX size of the chart's table in turn, after the ordinary ones."""
    table = yaml.safe_load((CHART / "files/skus.yaml").read_text(encoding="utf-8"))["series"]
    sizes = [size for series in ("DCsv2", "DCsv3") for size in table[series]["sizes"] if size["epcMiB"] <= 8192]
    ordinary = int(count * ORDINARY_SHARE)
    made = [
        _node(f"ordinary-{number}", {"name": "Standard_D4s_v5", "vcpus": 4, "memoryGiB": 16})
        for number in range(ordinary)
    ]
    return made + [_node(f"sgx-{number}", sizes[number % len(sizes)]) for number in range(count - ordinary)]


def _node(name: str, size: Object) -> Object:
    resources = {"cpu": size["vcpus"], "memory": f"{size['memoryGiB']}Gi", "pods": 110}
    taints = [{"key": "kwok.x-k8s.io/node", "value": "fake", "effect": "NoSchedule"}]
    if "epcMiB" in size:
        resources |= {EPC_RESOURCE: str(size["epcMiB"] * MIB), ENCLAVE_RESOURCE: 110}
        taints.append({"key": EPC_RESOURCE, "effect": "NoSchedule"})
    labels = {LABEL: "", "node.kubernetes.io/instance-type": size["name"], "kubernetes.io/os": "linux"}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": f"fleet-{name}", "labels": labels, "annotations": FAKE},
        "spec": {"taints": taints},
        "status": {"capacity": resources, "allocatable": resources},
    }


def pods(fleet: Sequence[Object], count: int, demand: float) -> list[Object]:
    """Return pods of both dialects that ask together for ``demand`` (1 is all) of the fleet's EPC."""
    generator = random.Random(count)
    wanted = demand * sum(_epc(node["status"]["allocatable"]) for node in fleet)
    sizes = [generator.choice(SIZES_MIB) * generator.choice((1, LARGER)) for _ in range(count)]
    factor = wanted / MIB / sum(sizes)
    return [_pod(number, max(1, round(size * factor))) for number, size in enumerate(sizes)]


def _pod(number: int, mib: int) -> Object:
    azure = number % 2
    epc = {AZURE_EPC_RESOURCE: mib} if azure else {EPC_RESOURCE: f"{mib}Mi"}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": f"{'azure' if azure else 'intel'}-{number}"},
        "spec": {
            "automountServiceAccountToken": False,
            "tolerations": [{"key": "kwok.x-k8s.io/node", "operator": "Exists"}],
            "containers": [
                {
                    "name": "main",
                    "image": "fleet.test/none",
                    "resources": {"requests": {"cpu": "5m", "memory": "8Mi"}, "limits": epc},
                }
            ],
        },
    }


@contextlib.contextmanager
def admission(cluster: Cluster) -> Iterator[None]:
    """Have the chart's policies at work, and nothing else of it; return once they change pods."""
    group = "admissionregistration.k8s.io/"
    policies = [each for each in render({"admission": {"mode": "policies"}}) if each["apiVersion"].startswith(group)]
    cluster.apply(policies)
    probe = json.dumps(_pod(1, 1))
    try:
        dry_run = ["create", "--dry-run=server", "-o", "json", "-f", "-"]
        cluster.wait(
            lambda: ENCLAVE_RESOURCE in cluster.kubectl(*dry_run, text=probe), 60, "the policies to be at work"
        )
        yield
    finally:
        for each in policies:
            cluster.kubectl("delete", each["kind"], each["metadata"]["name"])


@contextlib.contextmanager
def played(cluster: Cluster, fleet: Sequence[Object]) -> Iterator[Api]:
    """Have kwok play these nodes, ready; delete them and all pods at the end."""
    tool = place(TOOLS["kwok"])
    stages = [f"--config={tool / 'share/stage' / name}.yaml" for name in PLAYED]
    options = ["--manage-all-nodes=false", "--manage-nodes-with-annotation-selector=kwok.x-k8s.io/node=fake"]
    options += [f"--kubeconfig={cluster.kubeconfig}", "--node-ip=10.88.99.1", "--node-lease-duration-seconds=120"]
    kwok = Part("kwok", [tool / "bin/kwok", *options, *stages], cluster.logs)
    api = Api(cluster.kubeconfig)
    kwok.start()
    try:
        cluster.kubectl("create", "namespace", NAMESPACE)
        with phase(f"kwok: {len(fleet)} nodes ready"):
            api.create_all("/api/v1/nodes", fleet)
            cluster.wait(lambda: _all_ready(api, len(fleet)), 300, "the nodes that kwok plays")
        yield api
    finally:
        kwok.stop()
        with phase("kwok: gone"):
            api.delete_all(f"/api/v1/namespaces/{NAMESPACE}/pods")
            api.delete_all("/api/v1/nodes", LABEL)
            cluster.kubectl("delete", "namespace", NAMESPACE, timeout=600)


def fill(api: Api, wanted: Sequence[Object], patience: float = 900) -> tuple[Outcome, float, float]:
    """Create the pods and wait until the scheduler has judged each.

    Returns the outcome, and the seconds from the first creation to the last creation and to the last judgement.
    Raises HarnessError after ``patience`` seconds.
    """
    begin = time.monotonic()
    api.create_all(f"/api/v1/namespaces/{NAMESPACE}/pods", wanted)
    created = time.monotonic() - begin
    while True:
        pods = api.list(f"/api/v1/namespaces/{NAMESPACE}/pods")
        unjudged = [pod for pod in pods if not _judged(pod)]
        if not unjudged:
            return outcome(api.list("/api/v1/nodes"), pods), created, time.monotonic() - begin
        if time.monotonic() - begin > patience:
            raise HarnessError(f"{len(unjudged)} pods are neither scheduled nor unschedulable after {patience:.0f} s")
        time.sleep(1 + len(wanted) / 10_000)  # a list of all pods is a load of its own


def outcome(nodes: Iterable[Object], pods: Iterable[Object]) -> Outcome:
    """Return where the pods are, counted anew from what the API server has."""
    room = {node["metadata"]["name"]: _epc(node["status"]["allocatable"]) for node in nodes}
    total = sum(room.values())
    seats = collections.Counter(dict.fromkeys(room, 110))
    pending, misplaced = [], []
    for pod in pods:
        limits = pod["spec"]["containers"][0]["resources"]["limits"]
        where = pod["spec"].get("nodeName")
        if AZURE_EPC_RESOURCE in limits or ENCLAVE_RESOURCE not in limits:
            misplaced.append(pod["metadata"]["name"])
        elif where:
            room[where] -= _epc(limits)
            seats[where] -= 1
        else:
            pending.append(_epc(limits))
    free = [left for node, left in room.items() if seats[node] > 0]
    return Outcome(
        scheduled=sum(110 - left for left in seats.values()),
        pending=len(pending),
        over_committed=tuple(node for node, left in room.items() if left < 0),
        misplaced=tuple(misplaced),
        largest_room=max(free, default=0),
        smallest_pending=min(pending, default=0),
        epc_used=1 - sum(room.values()) / total,
    )


class Api:
    """As much of a client as many objects need: several connections that stay open."""

    def __init__(self, kubeconfig: Path) -> None:
        document = json.loads(kubeconfig.read_text())
        cluster, user = document["clusters"][0]["cluster"], document["users"][0]["user"]
        self._address = urlsplit(cluster["server"])
        self._trust = ssl.create_default_context(cafile=cluster["certificate-authority"])
        self._trust.load_cert_chain(user["client-certificate"], user["client-key"])

    def create_all(self, path: str, objects: Iterable[Object]) -> None:
        """Create objects, several at a time. Raises HarnessError with the first refusal."""
        everything = list(objects)
        parts = [everything[start::CALLERS] for start in range(CALLERS)]
        with ThreadPoolExecutor(CALLERS) as callers:
            for _ in callers.map(lambda part: self._create(path, part), parts):
                pass

    def list(self, path: str) -> list[Object]:
        """Return all objects of a collection, as the API server has them in its cache."""
        with self._connection() as connection:
            found: list[Object] = _call(connection, "GET", f"{path}?resourceVersion=0")["items"]
            return found

    def get(self, path: str) -> Object:
        """Return one object. Raises HarnessError."""
        with self._connection() as connection:
            return _call(connection, "GET", path)

    @contextlib.contextmanager
    def posting(self, path: str) -> Iterator[Callable[[Object], Object]]:
        """Yield what creates objects one after the other on one connection."""
        with self._connection() as connection:
            yield lambda body: _call(connection, "POST", path, body)

    def delete_all(self, path: str, selector: str = "") -> None:
        """Delete a collection at once, without grace."""
        with self._connection(timeout=600) as connection:
            _call(connection, "DELETE", f"{path}?gracePeriodSeconds=0&labelSelector={selector}")

    def _create(self, path: str, objects: Sequence[Object]) -> None:
        with self._connection() as connection:
            for each in objects:
                _call(connection, "POST", path, each)

    @contextlib.contextmanager
    def _connection(self, timeout: float = 60) -> Iterator[http.client.HTTPSConnection]:
        host, port = str(self._address.hostname), self._address.port
        connection = http.client.HTTPSConnection(host, port, context=self._trust, timeout=timeout)
        try:
            yield connection
        finally:
            connection.close()


def _call(connection: http.client.HTTPSConnection, method: str, path: str, body: Object | None = None) -> Object:
    text = None if body is None else json.dumps(body)
    connection.request(method, path, text, {"Content-Type": "application/json"})
    response = connection.getresponse()
    content = response.read()
    if response.status >= http.HTTPStatus.BAD_REQUEST:
        raise HarnessError(f"{method} {path}: {response.status} {content[:500].decode(errors='replace')}")
    answer: Object = json.loads(content)
    return answer


def _epc(resources: Object) -> int:
    return Quantity.parse(resources.get(EPC_RESOURCE, 0)).whole()


def _conditions(thing: Object, kind: str) -> list[Object]:
    return [one for one in thing["status"].get("conditions", []) if one["type"] == kind]


def _all_ready(api: Api, count: int) -> bool:
    fleet = [node for node in api.list("/api/v1/nodes") if LABEL in node["metadata"]["labels"]]
    return len(fleet) == count and all(_is_ready(node) for node in fleet)


def _is_ready(node: Object) -> bool:
    keys = {taint["key"] for taint in node["spec"].get("taints", [])}
    ready = any(one["status"] == "True" for one in _conditions(node, "Ready"))
    return ready and "node.kubernetes.io/not-ready" not in keys


def _judged(pod: Object) -> bool:
    scheduled = _conditions(pod, "PodScheduled")
    return bool(pod["spec"].get("nodeName")) or any(one.get("reason") == "Unschedulable" for one in scheduled)
