# SPDX-License-Identifier: Apache-2.0
"""A whole cluster: control plane, nodes, images, and what tests do with them."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, TypeVar

from tests.cluster.harness import enclose, images, network, parts, pythonimage
from tests.cluster.harness.control import SERVER, ControlPlane
from tests.cluster.harness.node import Node
from tests.cluster.harness.parts import HarnessError, Part, run
from tests.cluster.harness.progress import phase
from tools.kubernetes.build import TOOLS, place

T = TypeVar("T")

LINES: Final = ("1.36", "1.34")
"""The Kubernetes lines that are tested, the main one first; keys of `tools.kubernetes.build.TOOLS`."""

LINE: Final = "KUBENCLAVE_TEST_KUBERNETES"
"""Environment variable with the Kubernetes line of the tests' cluster; the first of LINES where it is not set."""


class Cluster:
    """A real cluster inside an enclosure; at most one in each, for it takes the network namespace.

    ``nodes`` names the nodes; ``version`` is a key of `tools.kubernetes.build.TOOLS`; ``admission`` and ``gates`` are
    further admission plugins and feature gates (`Name=true`).
    """

    def __init__(
        self,
        nodes: Sequence[str] = ("sgx-1", "plain-1"),
        version: str = LINES[0],
        *,
        admission: Sequence[str] = (),
        gates: Sequence[str] = (),
    ) -> None:
        folder = enclose.folder()
        if folder is None:
            raise HarnessError("a cluster runs in an enclosure only: make test-cluster, or python -m tests.cluster")
        self.folder = folder
        self.logs = folder / "logs"
        self.tool = place(TOOLS[version])
        self.version = TOOLS[version].version
        etcd = place(TOOLS["etcd"]) / "bin/etcd"
        self.control = ControlPlane(folder, self.tool / "bin", etcd, self.logs, admission=admission, gates=gates)
        self.kubeconfig = self.control.admin
        self.by_digest: dict[str, str] = {}
        containerd = place(TOOLS["containerd"])
        self.nodes = {
            name: Node(
                name, number, folder / "nodes" / name, kubernetes=self.tool, containerd=containerd, logs=self.logs
            )
            for number, name in enumerate(nodes, 1)
        }

    def start(self) -> None:
        """Start everything and return once all nodes are ready. Raises HarnessError."""
        with phase("network"):
            network.make(len(self.nodes))
        with phase(f"control plane {self.version}"):
            self.control.start()
        with phase(f"{len(self.nodes)} nodes ready"):
            for node in self.nodes.values():
                node.start(self.control.authority)
            self.wait_nodes()
        with phase("images loaded"):
            self.load(*images.small(self.folder), pythonimage.kubenclave())
        with phase("services"):
            self.control.start_proxy(next(iter(self.nodes)))
            self.wait(lambda: self.get("serviceaccount", "default"), 30, "the default service account")

    def stop(self) -> None:
        """Kill kubelets, containers, containerd and the control plane. The enclosure's end does as much."""
        for node in self.nodes.values():
            node.stop()
        for part in reversed(self.control.parts):
            part.stop()

    def node(self, name: str) -> Node:
        """The node of this name."""
        return self.nodes[name]

    def load(self, *archives: Path) -> None:
        """Import images (OCI layouts as tar files) on every node; ``by_digest`` has their names by digest then."""
        self.by_digest |= dict(map(images.reference, archives))
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda node: [node.load(archive) for archive in archives], self.nodes.values()))

    def kubectl(self, *arguments: str | Path, text: str | None = None, timeout: float = 60) -> str:
        """Run kubectl as cluster administrator; return what it wrote. Raises HarnessError with its stderr."""
        command = [self.tool / "bin" / "kubectl", "--kubeconfig", self.kubeconfig, *arguments]
        return run(command, text=text, timeout=timeout)

    def helm(self, *arguments: str | Path, timeout: float = 300) -> str:
        """Run helm as cluster administrator; return what it wrote. Raises HarnessError with its stderr."""
        command = [place(TOOLS["helm"]) / "bin" / "helm", "--kubeconfig", self.kubeconfig, *arguments]
        return run(command, timeout=timeout)

    def apply(self, manifest: str | Path | dict[str, Any] | list[dict[str, Any]], namespace: str = "default") -> str:
        """Apply YAML, a file or folder, or objects. Raises HarnessError with the server's answer."""
        if isinstance(manifest, Path):
            return self.kubectl("apply", "-n", namespace, "-f", manifest)
        if isinstance(manifest, list):
            manifest = {"apiVersion": "v1", "kind": "List", "items": manifest}
        text = manifest if isinstance(manifest, str) else json.dumps(manifest)
        return self.kubectl("apply", "-n", namespace, "-f", "-", text=text)

    def get(self, kind: str, name: str, namespace: str = "default") -> dict[str, Any]:
        """One object. Raises HarnessError when there is none."""
        found: dict[str, Any] = json.loads(self.kubectl("get", kind, name, "-n", namespace, "-o", "json"))
        return found

    def items(self, kind: str, namespace: str = "default", selector: str = "") -> list[dict[str, Any]]:
        """All objects of a kind; ``namespace`` "" is every namespace."""
        where = ["-n", namespace] if namespace else ["-A"]
        more = ["-l", selector] if selector else []
        found: list[dict[str, Any]] = json.loads(self.kubectl("get", kind, *where, *more, "-o", "json"))["items"]
        return found

    def delete(self, kind: str, name: str, namespace: str = "default") -> None:
        """Delete an object at once and wait until it is gone; nothing happens when there is none."""
        now = ["--grace-period=0", "--force"] if kind in {"pod", "pods"} else []
        self.kubectl("delete", kind, name, "-n", namespace, "--ignore-not-found", *now)

    def wait(
        self,
        condition: Callable[[], T],
        timeout: float,
        why: str,
        namespace: str = "default",
        *,
        programs: Sequence[Part] = (),
    ) -> T:
        """Wait until ``condition`` returns something true, and return that.

        HarnessError, KeyError and IndexError inside it count as not yet. Raises HarnessError after ``timeout`` seconds
        with the state of the namespace (events, unhappy pods, ends of logs), or at once when one of ``programs`` ends.
        """
        try:
            return parts.wait(condition, timeout, why, programs)
        except HarnessError as failure:
            raise HarnessError(f"{failure}\n{self.report(namespace)}") from None

    def wait_nodes(self, timeout: float = 60) -> None:
        """Wait until every node is ready."""
        programs = [part for node in self.nodes.values() for part in node.parts]

        def all_ready() -> bool:
            return all(_ready(self.get("node", name)) for name in self.nodes)

        self.wait(all_ready, timeout, "nodes to be ready", programs=programs)

    def wait_pod(
        self, name: str, namespace: str = "default", phase: str = "Running", timeout: float = 60
    ) -> dict[str, Any]:
        """Wait until a pod is in a phase (and ready, if that is Running); return the pod."""

        def there() -> dict[str, Any]:
            pod = self.get("pod", name, namespace)
            good = pod["status"]["phase"] == phase and (phase != "Running" or _ready(pod))
            return pod if good else {}

        return self.wait(there, timeout, f"pod {namespace}/{name} to be {phase}", namespace)

    def exec(self, pod: str, *command: str, namespace: str = "default", container: str = "") -> str:
        """Run a program in a pod; return what it wrote. Raises HarnessError."""
        which = ["-c", container] if container else []
        return self.kubectl("exec", "-n", namespace, pod, *which, "--", *command)

    def token_for(self, account: str, namespace: str = "default") -> str:
        """A token of a service account."""
        return self.kubectl("create", "token", account, "-n", namespace).strip()

    def kubeconfig_for(self, account: str, namespace: str = "default") -> Path:
        """A kubeconfig that acts as a service account."""
        file = self.folder / f"{namespace}-{account}.kubeconfig"
        return self.control.authority.kubeconfig(file, SERVER, None, self.token_for(account, namespace))

    def audit(self) -> list[dict[str, Any]]:
        """The API server's audit events: every write but leases and events, with annotations."""
        return self.control.audit()

    def stop_apiserver(self) -> None:
        """Kill the API server."""
        self.control.apiserver.stop(signal.SIGKILL)

    def start_apiserver(self) -> None:
        """Start it again and return once it is ready."""
        self.control.start_apiserver()

    def report(self, namespace: str = "default") -> str:
        """What helps with a failure: pods and events of a namespace, unhappy pods in full, ends of all logs."""
        told = [self._try("get", "pods", "-A", "-o", "wide"), self._try("get", "events", "-n", namespace)]
        try:
            unhappy = [pod for pod in self.items("pods", "") if not _happy(pod)]
        except (HarnessError, subprocess.TimeoutExpired):
            unhappy = []
        for pod in unhappy[:5]:
            name, where = pod["metadata"]["name"], pod["metadata"]["namespace"]
            told.append(self._try("describe", "pod", name, "-n", where))
            told.append(self._try("logs", name, "-n", where, "--all-containers", "--tail=25"))
        return "\n".join([*told, *(part.tail() for part in self.parts)])

    @property
    def parts(self) -> list[Part]:
        """Every program of the cluster."""
        return [*self.control.parts, *(part for node in self.nodes.values() for part in node.parts)]

    def _try(self, *arguments: str) -> str:
        try:
            return f"--- kubectl {' '.join(arguments)}\n{self.kubectl(*arguments, timeout=20)}"
        except (HarnessError, subprocess.TimeoutExpired) as problem:
            return f"--- {problem}"


def _ready(thing: dict[str, Any]) -> bool:
    conditions = thing.get("status", {}).get("conditions", [])
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def _happy(pod: dict[str, Any]) -> bool:
    return _ready(pod) or bool(pod["status"].get("phase") == "Succeeded")
