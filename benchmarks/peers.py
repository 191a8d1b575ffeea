# SPDX-License-Identifier: Apache-2.0
"""Intel's device plugin, epchook and webhook for SGX, as processes of their own, for the benchmarks to compare with.

They look for things at fixed places (`/dev/sgx_*`, `/var/lib/kubelet/device-plugins`, the service account's folder,
port 9443), so each runs in mount and network namespaces of its own where those places are ours. Linux and root only.
"""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks import apistub, node
from tools.kubernetes.build import TOOLS, built, place

_INTEL: Final = TOOLS["intel"]
VERSION: Final = _INTEL.version
PLUGIN_NAME: Final = f"Intel plugin {VERSION}"
PATIENCE: Final = 10.0
WEBHOOK_PORT: Final = 9443
_LISTEN: Final = "0A"  # in /proc/net/tcp
_KUBECONFIG: Final = """
apiVersion: v1
kind: Config
clusters: [{name: none, cluster: {server: "https://127.0.0.1:1"}}]
users: [{name: none, user: {}}]
contexts: [{name: none, context: {cluster: none, user: none}}]
current-context: none
"""

# $1: the device-plugin directory. Device nodes without a driver: the plugin only looks whether they exist.
_FURNISH: Final = """
ip link set lo up
mount -t tmpfs -o mode=755 none /var/lib && mkdir -p /var/lib/kubelet/device-plugins
mount --bind "$1" /var/lib/kubelet/device-plugins
mount -t tmpfs -o mode=755 none /run && mkdir -p /run/secrets/kubernetes.io/serviceaccount
mount -t tmpfs -o mode=755 none /dev
mknod -m 666 /dev/null c 1 3 && mknod -m 666 /dev/urandom c 1 9 && mknod -m 666 /dev/random c 1 8
mknod -m 666 /dev/sgx_enclave c 10 125 && mknod -m 660 /dev/sgx_provision c 10 126
echo furnished && exec cat
"""


def absent() -> str:
    """Tell why the peers cannot run here; empty when they can."""
    return no_room() or ("" if built(_INTEL) else "not built")


def no_room() -> str:
    """Tell why there can be no room here; empty when there can."""
    if not all(map(shutil.which, ("unshare", "nsenter", "ip"))):
        return "no util-linux, iproute2"
    return "" if os.geteuid() == 0 else "needs root"


def intel(name: str) -> str:
    """Return the path of one of Intel's programs."""
    return str(place(_INTEL) / "bin" / name)


@dataclass(frozen=True, slots=True)
class Room:
    """Namespaces of its own, held by a process that waits for the end of its input."""

    pid: int

    def inside(self, *command: str) -> tuple[str, ...]:
        """Return the command that runs ``command`` in the room; it is the same process to signal and look at."""
        return ("nsenter", "--target", str(self.pid), "--mount", "--net", f"--wdns={Path.cwd()}", "--", *command)

    def write(self, path: str, content: bytes) -> None:
        """Put a file into the room."""
        subprocess.run(self.inside("tee", path), input=content, check=True, stdout=subprocess.DEVNULL)


@contextmanager
def room(plugins: Path) -> Iterator[Room]:
    """Make a room whose kubelet directory is ``plugins``."""
    command = ("unshare", "--mount", "--net", "--", "sh", "-ec", _FURNISH, "sh", str(plugins))
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None, "asked for"
        if holder.stdout.readline() != b"furnished\n":
            raise RuntimeError(f"no room of its own: unshare ended with {holder.wait(PATIENCE)}")
        yield Room(holder.pid)


@contextmanager
def plugin(where: node.Places) -> Iterator[node.Daemon]:
    """Run Intel's plugin, registered with the kubelet of ``where``; ready means that its socket answers."""
    with (
        room(where.plugins) as its_room,
        node.started(
            its_room.inside(intel("sgx_plugin"), "-enclave-limit", "110"), lambda: node.accepts(socket_of_plugin(where))
        ) as daemon,
    ):
        yield daemon


def socket_of_plugin(where: node.Places) -> Path:
    """Return where Intel's plugin serves sgx.intel.com/enclave."""
    return where.plugins / "sgx.intel.com-enclave.sock"


@contextmanager
def epchook(where: node.Places) -> Iterator[node.Daemon]:
    """Run Intel's epchook after it has patched its Node, which a stand-in for the API server holds."""
    with room(where.plugins) as its_room, apistub.serving(its_room, where.root / "apistub") as stub:
        account = "/run/secrets/kubernetes.io/serviceaccount"
        its_room.write(f"{account}/token", b"token")
        its_room.write(f"{account}/ca.crt", stub.ca)
        environment = {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": str(stub.port)}
        command = its_room.inside(intel("sgx_epchook"), "-register", "-daemon")
        with node.started(command, stub.patched, {**environment, "NODE_NAME": apistub.NODE}) as daemon:
            time.sleep(0.1)  # it has yet to read the answer
            yield daemon


@contextmanager
def webhook(folder: Path, certificate: tuple[bytes, bytes]) -> Iterator[node.Daemon]:
    """Run Intel's webhook with a certificate and its key, in these namespaces; it needs no API server to answer."""
    certificates = folder / "k8s-webhook-server" / "serving-certs"
    certificates.mkdir(parents=True)
    for name, content in zip(("tls.crt", "tls.key"), certificate, strict=True):
        (certificates / name).write_bytes(content)
    kubeconfig = folder / "kubeconfig"
    kubeconfig.write_text(_KUBECONFIG, encoding="utf-8")
    environment = {"TMPDIR": str(folder), "KUBECONFIG": str(kubeconfig)}
    with node.started([intel("sgx_admissionwebhook")], lambda: listens(WEBHOOK_PORT), environment) as daemon:
        yield daemon


def listens(port: int) -> bool:
    """Tell whether somebody accepts TCP connections at this port of this network namespace."""
    lines = [
        line.split()
        for table in ("tcp", "tcp6")
        for line in Path(f"/proc/self/net/{table}").read_text(encoding="ascii").splitlines()[1:]
    ]
    return any(words[3] == _LISTEN and words[1].endswith(f":{port:04X}") for words in lines)
