# SPDX-License-Identifier: Apache-2.0
"""The chart on a test cluster: installed for the length of a `with`, and gone without a trace after it."""

import contextlib
from collections.abc import Iterator
from typing import Any

import yaml

from tests.chart import CHART, NAMESPACE
from tests.cluster.harness.cluster import Cluster

Values = dict[str, Any]

EPC = "sgx.intel.com/epc"
AZURE = "kubernetes.azure.com/sgx_epc_mem_in_MiB"
POOL = "kubenclave.test/pool"
TEST_IMAGE: Values = {"repository": "kubenclave.test/kubenclave", "tag": "test", "pullPolicy": "Never"}

SIMULATED: Values = {
    "image": TEST_IMAGE,
    "simulated": {"enabled": True, "nodeSelector": {POOL: "sgx"}},
}
"""The add-on on the SIMULATED platform of the nodes that `pool` made one."""


def pool(cluster: Cluster, *nodes: str) -> None:
    """Make these nodes the pool that SIMULATED selects."""
    for node in nodes:
        cluster.kubectl("label", "node", node, f"{POOL}=sgx", "--overwrite")


def pod(name: str, limits: dict[str, str], namespace: str = "default") -> dict[str, Any]:
    """A pod of busybox that asks for these resources and sleeps."""
    container = {
        "name": "main",
        "image": "kubenclave.test/busybox:test",
        "imagePullPolicy": "Never",
        "command": ["sleep", "100000"],
        "resources": {"limits": limits},
    }
    spec = {"containers": [container], "terminationGracePeriodSeconds": 0}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": namespace}, "spec": spec}


@contextlib.contextmanager
def installed(cluster: Cluster, values: Values) -> Iterator[None]:
    """Install the chart and wait until all of it is ready; uninstall it at the end, also after a failure."""
    try:
        helm(cluster, "install", values, "--create-namespace")
        yield
    finally:
        uninstall(cluster)


def helm(cluster: Cluster, verb: str, values: Values, *options: str) -> None:
    """`helm install` or `helm upgrade`, with values as from a file, until everything is ready."""
    file = cluster.folder / "values.yaml"
    file.write_text(yaml.safe_dump(values))
    more = ["--namespace", NAMESPACE, "--values", str(file), "--wait", "--timeout", "120s", *options]
    _told(cluster, verb, "kubenclave", str(CHART), *more)


def rollback(cluster: Cluster) -> None:
    """Back to the release before."""
    _told(cluster, "rollback", "kubenclave", "--namespace", NAMESPACE, "--wait", "--timeout", "120s")


def uninstall(cluster: Cluster) -> None:
    """Uninstall, if it is installed, and delete the namespace."""
    _told(
        cluster,
        "uninstall",
        "kubenclave",
        "--namespace",
        NAMESPACE,
        "--ignore-not-found",
        "--wait",
        "--timeout",
        "120s",
    )
    cluster.kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found", timeout=120)


def digest(cluster: Cluster) -> str:
    """The digest of the test image, under which the nodes have it from now on as if it had been pulled by it."""
    name = f"{TEST_IMAGE['repository']}:{TEST_IMAGE['tag']}"
    found = ""
    for node in cluster.nodes.values():
        (line,) = [text for text in node.ctr("images", "ls").splitlines() if text.startswith(f"{name} ")]
        found = line.split()[2]
        node.ctr("images", "tag", "--force", name, f"{TEST_IMAGE['repository']}@{found}")
    return found


def _told(cluster: Cluster, *arguments: str) -> None:
    """Run helm; when it fails, say with it how the namespace is."""
    try:
        cluster.helm(*arguments, timeout=240)
    except Exception as failure:
        failure.add_note(cluster.report(NAMESPACE))
        raise
