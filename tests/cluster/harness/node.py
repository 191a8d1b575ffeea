# SPDX-License-Identifier: Apache-2.0
"""A node: containerd and kubelet in a mount namespace of their own, with folders and a /dev that are the node's."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tests.cluster.harness import dns, enclose, images, network
from tests.cluster.harness.control import SERVER
from tests.cluster.harness.parts import HarnessError, Part, run, wait
from tests.cluster.harness.pki import Authority

# Folders of the machine that are the node's own inside its mount namespace, under `Node.folder`.
OWN: Final = ("run", "etc/cni", "etc/cdi", "var/lib/kubelet", "var/lib/kubenclave", "var/lib/containerd", "var/lib/cni",
              "var/log")  # fmt: skip
# containerd waits for the disk at every image layer and container, which nobody needs of a cluster this short-lived.
_IN_MEMORY: Final = ("run", "var/lib/containerd")
_DEVICES: Final = ("null", "zero", "full", "random", "urandom", "tty", "kmsg")
_SGX: Final = {"sgx_enclave": "fuse", "sgx_provision": "userfaultfd"}
_SANDBOX: Final = "kubenclave.test/pause:test"
_SOCKET: Final = "unix:///run/containerd/containerd.sock"

_CONTAINERD: Final = """\
version = 4
[plugins.'io.containerd.cri.v1.runtime']
restrict_oom_score_adj = true
[plugins.'io.containerd.cri.v1.runtime'.cni]
bin_dirs = ['/usr/lib/cni', '/opt/cni/bin']
conf_dir = '/etc/cni/net.d'
[plugins.'io.containerd.cri.v1.images'.pinned_images]
sandbox = '{sandbox}'
"""


class Node:
    """One node of a test cluster. Paths of its own folders are the usual ones inside, ``folder``/... outside."""

    def __init__(self, name: str, number: int, folder: Path, *, kubernetes: Path, containerd: Path, logs: Path) -> None:
        self.name = name
        self.folder = folder
        self.address = network.node_address(number)
        self._number = number
        self._kubernetes = kubernetes
        self._containerd = containerd
        self._holder: subprocess.Popen[bytes] | None = None
        run_id = enclose.folder()
        self.cgroup = f"/{run_id.name if run_id else enclose.PREFIX}/{name}"
        self._logs = logs
        self.containerd: Part
        self.kubelet: Part

    @property
    def parts(self) -> list[Part]:
        """Its programs."""
        return [self.containerd, self.kubelet]

    def start(self, authority: Authority) -> None:
        """Make the namespace and start both programs; returns before the node is ready. Raises HarnessError."""
        self._make_cgroups()
        self._hold()
        (self.folder / "etc/cni/net.d").mkdir(parents=True)
        (self.folder / "etc/cni/net.d/10-test.conflist").write_text(network.cni(self._number))
        (self.folder / "containerd.toml").write_text(_CONTAINERD.format(sandbox=_SANDBOX))
        environment = ["env", f"PATH={self._containerd / 'bin'}:{os.environ['PATH']}"]
        command = [*environment, "containerd", "--config", str(self.folder / "containerd.toml")]
        self.containerd = Part(f"{self.name}.containerd", self.inside(command), self._logs)
        self.kubelet = Part(f"{self.name}.kubelet", self.inside(self._kubelet(authority)), self._logs)
        self.start_containerd()
        self.kubelet.start()

    def stop(self) -> None:
        """Kill kubelet and containerd and leave the mount namespace; the containers end with the enclosure."""
        self.kubelet.stop()
        self.containerd.stop()
        if self._holder and self._holder.stdout:
            self._holder.kill()
            self._holder.wait()
            self._holder.stdout.close()

    def inside(self, command: Sequence[str | Path]) -> list[str | Path]:
        """The command line that runs ``command`` in the node's mount namespace."""
        assert self._holder
        return ["nsenter", f"--mount=/proc/{self._holder.pid}/ns/mnt", "--", *command]

    def run(self, *command: str | Path, text: str | None = None, timeout: float = 60) -> str:
        """Run a program on the node; return what it wrote. Raises HarnessError."""
        return run(self.inside(command), text=text, timeout=timeout)

    def ctr(self, *arguments: str | Path, timeout: float = 120) -> str:
        """Run containerd's ctr in the namespace of the kubelet's containers."""
        return self.run(self._containerd / "bin" / "ctr", "-n", "k8s.io", *arguments, timeout=timeout)

    def load(self, archive: Path) -> None:
        """Import an OCI layout (a tar file) into containerd, also under its digest. Raises HarnessError."""
        self.ctr("images", "import", archive)
        self.ctr("images", "tag", "--force", *images.reference(archive))

    def start_containerd(self) -> None:
        """Start containerd and return once it answers for the kubelet. Raises HarnessError."""
        self.containerd.start()
        plugins = wait(lambda: self.ctr("plugins", "ls"), 60, f"containerd of {self.name}", [self.containerd])
        if not re.search(r"^io.containerd.grpc.v1 +cri .* ok", plugins, re.MULTILINE):
            instances = Path("/proc/sys/fs/inotify/max_user_instances").read_text().strip()
            hint = f"many clusters on one machine? fs.inotify.max_user_instances is {instances}"
            raise HarnessError(f"containerd of {self.name} came up without CRI ({hint})\n{self.containerd.tail(60)}")

    def restart_containerd(self) -> None:
        """Kill containerd, not the containers, and start it again."""
        self.containerd.stop()
        self.start_containerd()

    def stop_kubelet(self) -> None:
        """Kill the kubelet; containers live on."""
        self.kubelet.stop()

    def start_kubelet(self) -> None:
        """Start the kubelet again; returns before it is ready."""
        self.kubelet.start()

    def make_sgx_devices(self) -> None:
        """Make /dev/sgx_enclave and /dev/sgx_provision in the node's own /dev.

        They are other, harmless drivers' numbers, so that a pod that was given one can open it and one that was not
        cannot: the device cgroup knows it by number. Where the machine has no such driver, those of /dev/null.
        """
        lines = (line.split() for line in Path("/proc/misc").read_text().splitlines())
        misc = {name: minor for minor, name in lines}
        for name, stand_in in _SGX.items():
            major, minor = ("10", misc[stand_in]) if stand_in in misc else ("1", "3")
            self.run("sh", "-c", f"test -e /dev/{name} || mknod -m 666 /dev/{name} c {major} {minor}")

    def remove_sgx_devices(self) -> None:
        """Remove them again, as when the driver goes."""
        self.run("rm", "-f", *(f"/dev/{name}" for name in _SGX))

    def _hold(self) -> None:
        """Start the process that keeps the node's mount namespace."""
        script = ["set -e"]
        for path in OWN:
            (self.folder / path).mkdir(parents=True, exist_ok=True)
            if path in _IN_MEMORY:
                run(["mount", "-t", "tmpfs", "-o", "mode=755", "node", self.folder / path])
            script += [f"mkdir -p /{path}", f"mount --bind {self.folder / path} /{path}"]
        dev = self.folder / "dev"
        dev.mkdir()
        script += [f"mount -t tmpfs -o mode=755,nosuid dev {dev}"]
        script += [f"cp -a /dev/{name} {dev}/" for name in _DEVICES]
        script += [f"mkdir {dev}/shm {dev}/pts {dev}/mqueue", f"mount --move {dev} /dev"]
        script += ["mount -t tmpfs -o mode=1777 shm /dev/shm", "ln -s /proc/self/fd /dev/fd"]
        script += ["mount -t devpts -o newinstance,ptmxmode=0666 devpts /dev/pts", "ln -s pts/ptmx /dev/ptmx"]
        script += ["mount --make-rshared /", "echo held", "exec sleep infinity"]
        self._holder = subprocess.Popen(
            ["unshare", "--mount", "sh", "-c", "\n".join(script)],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        assert self._holder.stdout
        if self._holder.stdout.readline() != b"held\n":
            raise OSError(f"no mount namespace for {self.name}")

    def _make_cgroups(self) -> None:
        """Make the kubelet's cgroup root in every hierarchy.

        A new cpuset of version 1 has neither CPUs nor memory of its own; a group of version 2 has no controllers.
        """
        for hierarchy in enclose.hierarchies():
            group = hierarchy
            for part in self.cgroup.strip("/").split("/"):
                parent, group = group, group / part
                group.mkdir(exist_ok=True)
                for file in ("cpuset.cpus", "cpuset.mems"):
                    if (parent / file).exists() and not (parent / "cgroup.controllers").exists():
                        (group / file).write_text((parent / file).read_text())
                if (parent / "cgroup.controllers").exists():
                    controllers = (parent / "cgroup.controllers").read_text().split()
                    (parent / "cgroup.subtree_control").write_text(" ".join(f"+{name}" for name in controllers))

    def _kubelet(self, authority: Authority) -> list[str | Path]:
        client = authority.issue(f"kubelet-{self.name}", f"system:node:{self.name}", "system:nodes")
        serving = authority.issue(f"serving-{self.name}", self.name, names=(self.name, self.address))
        kubeconfig = authority.kubeconfig(self.folder / "kubelet.kubeconfig", SERVER, client)
        resolv = self.folder / "resolv.conf"
        resolv.touch()
        configuration = {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": self.address,
            "healthzBindAddress": self.address,
            "tlsCertFile": str(serving),
            "tlsPrivateKeyFile": str(serving.with_suffix(".key")),
            "authentication": {"anonymous": {"enabled": False}, "webhook": {"enabled": True},
                               "x509": {"clientCAFile": str(authority.certificate)}},
            "authorization": {"mode": "Webhook"},
            "containerRuntimeEndpoint": _SOCKET,
            "cgroupRoot": self.cgroup,
            "cgroupDriver": "cgroupfs",
            "failCgroupV1": False,
            "clusterDNS": [network.CONTROL_PLANE],
            "clusterDomain": dns.DOMAIN,
            "failSwapOn": False,
            "makeIPTablesUtilChains": False,
            "resolvConf": str(resolv),
            "nodeStatusUpdateFrequency": "2s",
            "syncFrequency": "10s",
            "serializeImagePulls": False,
            "volumePluginDir": str(self.folder / "volume-plugins"),
            "evictionHard": {"memory.available": "50Mi", "nodefs.available": "1%", "nodefs.inodesFree": "1%",
                             "imagefs.available": "1%", "imagefs.inodesFree": "1%"},
            "imageGCHighThresholdPercent": 100,
            "logging": {"verbosity": 2},
        }  # fmt: skip
        file = self.folder / "kubelet.json"
        file.write_text(json.dumps(configuration))
        options = [f"--config={file}", f"--kubeconfig={kubeconfig}", f"--hostname-override={self.name}"]
        return [self._kubernetes / "bin" / "kubelet", *options, f"--node-ip={self.address}"]
