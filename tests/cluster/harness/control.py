# SPDX-License-Identifier: Apache-2.0
"""The control plane: etcd, API server, controller manager, scheduler, and the network namespace's one kube-proxy."""

from __future__ import annotations

import http
import json
import sys
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from tests.cluster.harness import dns, network
from tests.cluster.harness.parts import Part, run, wait
from tests.cluster.harness.pki import Authority, signing_key

SERVER: Final = f"https://{network.CONTROL_PLANE}:6443"
_ETCD: Final = "http://127.0.0.1:2379"
_PROXY_HEALTH: Final = "127.0.0.1:10256"

# Every write with its annotations (admission policies audit there), but not the chatter of leases, events and reads.
_AUDIT_POLICY: Final = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [
        {
            "level": "None",
            "resources": [
                {"group": "coordination.k8s.io", "resources": ["leases"]},
                {"group": "", "resources": ["events"]},
                {"group": "events.k8s.io", "resources": ["events"]},
            ],
        },
        {"level": "None", "verbs": ["get", "list", "watch"]},
        {"level": "Metadata"},
    ],
}


class ControlPlane:
    """A real control plane on the enclosure's bridge."""

    def __init__(
        self,
        folder: Path,
        binaries: Path,
        etcd: Path,
        logs: Path,
        *,
        admission: Sequence[str] = (),
        gates: Sequence[str] = (),
    ) -> None:
        self.folder = folder
        self.binaries = binaries
        self.authority = Authority(folder / "pki")
        self.audit_log = logs / "audit.log"
        self.admin = self._kubeconfig("admin", "kubernetes-admin", "system:masters")
        self._proxy_file = folder / "proxy.json"
        self._gates = [f"--feature-gates={','.join(gates)}"] if gates else []
        logs.mkdir(parents=True, exist_ok=True)
        self.etcd = Part("etcd", self._etcd(etcd), logs)
        self.apiserver = Part("kube-apiserver", self._apiserver(admission), logs)
        # Both may end themselves when they lose the API server, and a kubelet restarts its static pods.
        self.controllers = Part("kube-controller-manager", self._controllers(), logs, kept=True)
        self.scheduler = Part("kube-scheduler", self._scheduler(), logs, kept=True)
        self.proxy = Part("kube-proxy", [binaries / "kube-proxy", f"--config={self._proxy_file}"], logs)
        self.dns = Part("dns", [sys.executable, "-m", dns.__name__, self.admin], logs)
        self.parts = [self.etcd, self.apiserver, self.controllers, self.scheduler, self.proxy, self.dns]

    def start(self) -> None:
        """Start all of it and return once the API server is ready. Raises HarnessError."""
        self.etcd.start()
        self.start_apiserver()
        self.controllers.start()
        self.scheduler.start()
        self.dns.start()

    def start_proxy(self, node: str) -> None:
        """Start kube-proxy, as of a node that is registered by now, and return once Services lead to their pods."""
        self._configure_proxy(node)
        self.proxy.start()
        wait(_proxy_healthy, 60, "kube-proxy to be in step", [self.proxy])

    def start_apiserver(self) -> None:
        """Start the API server, or start it again, and return once it is ready. Raises HarnessError."""
        self.apiserver.start()
        wait(self._ready, 60, "the API server to be ready", [self.etcd, self.apiserver])

    def audit(self) -> list[dict[str, Any]]:
        """The events of the audit log so far: every write but leases and events, with its annotations."""
        text = self.audit_log.read_text() if self.audit_log.exists() else ""
        return [json.loads(line) for line in text.splitlines() if line.endswith("}")]

    def _ready(self) -> bool:
        kubectl: list[str | Path] = [self.binaries / "kubectl", "--kubeconfig", self.admin]
        # The default namespace and the bootstrap roles are made after readyz says ok.
        run([*kubectl, "get", "--raw=/readyz"], timeout=5)
        run([*kubectl, "get", "namespace/default", "clusterrole/system:node"], timeout=5)
        return True

    def _kubeconfig(self, name: str, user: str, group: str = "") -> Path:
        certificate = self.authority.issue(name, user, group)
        return self.authority.kubeconfig(self.folder / f"{name}.kubeconfig", SERVER, certificate)

    def _etcd(self, program: Path) -> list[str | Path]:
        options = ["--listen-client-urls", _ETCD, "--advertise-client-urls", _ETCD, "--log-level", "warn"]
        # One member talks to no peer, and nothing here outlives the run.
        options += ["--listen-peer-urls", "http://127.0.0.1:2380", "--unsafe-no-fsync"]
        return [program, "--data-dir", self.folder / "etcd", *options]

    def _apiserver(self, admission: Sequence[str]) -> list[str | Path]:
        issue, authority = self.authority.issue, self.authority
        names: tuple[str, ...] = (
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
            "localhost",
            "127.0.0.1",
        )
        serving = issue(
            "apiserver", "kube-apiserver", names=(*names, network.CONTROL_PLANE, network.KUBERNETES_SERVICE)
        )
        kubelet = issue("apiserver-kubelet", "kube-apiserver-kubelet-client", "system:masters")
        tokens = signing_key(self.folder / "pki" / "service-accounts.key")
        policy = self.folder / "audit-policy.json"
        policy.write_text(json.dumps(_AUDIT_POLICY))
        options: dict[str, object] = {
            "etcd-servers": _ETCD,
            "bind-address": network.CONTROL_PLANE,
            "advertise-address": network.CONTROL_PLANE,
            "secure-port": 6443,
            "service-cluster-ip-range": network.SERVICES,
            "tls-cert-file": serving,
            "tls-private-key-file": serving.with_suffix(".key"),
            "client-ca-file": authority.certificate,
            "kubelet-certificate-authority": authority.certificate,
            "kubelet-client-certificate": kubelet,
            "kubelet-client-key": kubelet.with_suffix(".key"),
            "kubelet-preferred-address-types": "InternalIP",
            "service-account-issuer": "https://kubernetes.default.svc",
            "service-account-key-file": tokens.with_suffix(".pub"),
            "service-account-signing-key-file": tokens,
            "authorization-mode": "Node,RBAC",
            "enable-admission-plugins": ",".join(["NodeRestriction", *admission]),
            # Webhooks are dialled at their pods instead of the Service's address.
            "enable-aggregator-routing": "true",
            "allow-privileged": "true",
            "audit-policy-file": policy,
            "audit-log-path": self.audit_log,
        }
        return [self.binaries / "kube-apiserver", *(f"--{key}={value}" for key, value in options.items()), *self._gates]

    def _controllers(self) -> list[str | Path]:
        authority = self.authority
        options: dict[str, object] = {
            "kubeconfig": self._kubeconfig("controllers", "system:kube-controller-manager"),
            "use-service-account-credentials": "true",
            "service-account-private-key-file": self.folder / "pki" / "service-accounts.key",
            "root-ca-file": authority.certificate,
            "cluster-signing-cert-file": authority.certificate,
            "cluster-signing-key-file": authority.key,
            "leader-elect": "false",
            "bind-address": "127.0.0.1",
        }
        flags = [f"--{key}={value}" for key, value in options.items()]
        return [self.binaries / "kube-controller-manager", *flags, *self._gates]

    def _scheduler(self) -> list[str | Path]:
        kubeconfig = self._kubeconfig("scheduler", "system:kube-scheduler")
        options = [f"--kubeconfig={kubeconfig}", "--leader-elect=false", "--bind-address=127.0.0.1"]
        return [self.binaries / "kube-scheduler", *options, *self._gates]

    def _configure_proxy(self, node: str) -> None:
        configuration = {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "mode": "iptables",
            "clientConnection": {"kubeconfig": str(self._kubeconfig("proxy", "system:kube-proxy"))},
            "clusterCIDR": network.NETWORK,
            "hostnameOverride": node,
            "healthzBindAddress": _PROXY_HEALTH,
            "metricsBindAddress": "127.0.0.1:10249",
            # The whole-machine limits of connection tracking are none of ours.
            "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
            "iptables": {"minSyncPeriod": "0s", "masqueradeAll": False},
            "nodePortAddresses": ["127.0.0.0/8"],
        }
        self._proxy_file.write_text(json.dumps(configuration))


def _proxy_healthy() -> bool:
    with urllib.request.urlopen(f"http://{_PROXY_HEALTH}/healthz", timeout=2) as answer:
        return bool(answer.status == http.HTTPStatus.OK)
