#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Build the Kubernetes, etcd, containerd, Helm, kwok and Intel binaries that tests/cluster and the benchmarks run.

What Debian has a package of is installed from there (as root), or named where it is missing.

Each folder beside this file is a Go module that pins one tool and its dependencies by hash. A tool is built once per
content of its go.mod and go.sum, build options and Go version, into a cache outside the repository: by default
`$XDG_CACHE_HOME/kubenclave/tools` (or ~/.cache), or the folder that KUBENCLAVE_TOOLS names. Standard library only,
so that it runs before anything is installed.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Tool:
    """One Go module of this folder, and what `go build` needs to know beyond it."""

    name: str
    """Folder beside this file."""
    module: str
    """The module whose version is the tool's version."""
    stamps: tuple[str, ...] = ()
    """Variables that are set to the version, without which the binary says v0.0.0."""
    tags: tuple[str, ...] = ()
    shares: tuple[str, ...] = ()
    """Folders of the module that are copied to share/ beside bin/."""
    program: str = ""
    """What the one program is called, where its package has another name."""

    @property
    def folder(self) -> Path:
        """The Go module that pins the tool."""
        return HERE / self.name

    @property
    def version(self) -> str:
        """The pinned version, such as v1.36.3."""
        for line in (self.folder / "go.mod").read_text().splitlines():
            words = line.removeprefix("require").split()
            if len(words) >= 2 and words[0] == self.module and words[1].startswith("v"):
                return words[1]
        raise SystemExit(f"{self.folder / 'go.mod'} requires no {self.module}")

    @property
    def packages(self) -> list[str]:
        """The commands of the module's `tool` lines."""
        lines = (self.folder / "go.mod").read_text().splitlines()
        words = [line.strip().removeprefix("tool ").strip() for line in lines]
        return [word for word in words if word.startswith(self.module) and " " not in word]

    def ldflags(self) -> str:
        """Linker options: no symbols, and the version where the program looks for it."""
        major, minor, *_ = self.version.removeprefix("v").split(".")
        values = {"version": self.version, "major": major, "minor": minor}
        return " ".join(["-s", "-w", *(f"-X {stamp.format(**values)}" for stamp in self.stamps)])


_KUBERNETES = (
    "k8s.io/component-base/version.gitVersion={version}",
    "k8s.io/component-base/version.gitMajor={major}",
    "k8s.io/component-base/version.gitMinor={minor}",
)

# In the order in which they are wanted: what the main suite needs comes first.
TOOLS = {
    tool.name: tool
    for tool in (
        Tool("containerd", "github.com/containerd/containerd/v2", tags=("no_btrfs",),
             stamps=("github.com/containerd/containerd/v2/version.Version={version}",)),
        Tool("etcd", "go.etcd.io/etcd/server/v3", program="etcd"),
        Tool("1.36", "k8s.io/kubernetes", stamps=_KUBERNETES),
        Tool("helm", "helm.sh/helm/v4", stamps=("helm.sh/helm/v4/internal/version.version={version}",)),
        Tool("intel", "github.com/intel/intel-device-plugins-for-kubernetes"),
        Tool("kwok", "sigs.k8s.io/kwok", shares=("kustomize/stage",),
             stamps=("sigs.k8s.io/kwok/pkg/consts.Version={version}",)),
        Tool("metrics-server", "sigs.k8s.io/metrics-server"),
        Tool("1.34", "k8s.io/kubernetes", stamps=_KUBERNETES),
    )
}  # fmt: skip


# A program of each Debian package that a cluster needs, and the package.
PACKAGES = {
    "runc": "runc",
    "host-local": "containernetworking-plugins",
    "busybox": "busybox-static",
    "iptables": "iptables",
    "ip": "iproute2",
    "nsenter": "util-linux",
}
PROGRAMS = "/usr/sbin:/usr/bin:/sbin:/bin:/usr/lib/cni"
"""Where Debian puts them."""


def missing_packages() -> list[str]:
    """Name the packages whose program is not there."""
    return [package for program, package in PACKAGES.items() if not shutil.which(program, path=PROGRAMS)]


def install_packages() -> str | None:
    """Install the missing packages where this is Debian and root; return what stays missing as a line, or None."""
    if missing_packages() and os.geteuid() == 0 and shutil.which("apt-get"):
        quiet = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        for command in (["update", "-qq"], ["install", "-y", "-qq", "--no-install-recommends", *missing_packages()]):
            subprocess.run(["apt-get", *command], env=quiet, check=False, capture_output=True)
    missing = missing_packages()
    return f"missing packages; install them with: sudo apt-get install {' '.join(missing)}" if missing else None


def cache() -> Path:
    """Return the folder that holds all built tools."""
    named = os.environ.get("KUBENCLAVE_TOOLS")
    if named:
        return Path(named).expanduser().resolve()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kubenclave" / "tools"


def go_version() -> str | None:
    """Name the Go toolchain on PATH, such as go1.26.8, or None."""
    if not shutil.which("go"):
        return None
    return subprocess.run(["go", "env", "GOVERSION"], check=True, capture_output=True, text=True).stdout.strip()


def place(tool: Tool) -> Path:
    """Where the tool's bin/ and share/ are, built or not: another pin, option or compiler is another place."""
    digest = hashlib.sha256()
    for name in ("go.mod", "go.sum"):
        digest.update((tool.folder / name).read_bytes())
    digest.update(repr((tool.ldflags(), tool.tags, tool.shares, tool.packages, go_version())).encode())
    return cache() / f"{tool.name}-{tool.version}-{digest.hexdigest()[:12]}"


def built(tool: Tool) -> bool:
    """Whether the tool is there, whole."""
    return place(tool).is_dir()


def build(tool: Tool) -> None:
    """Build one tool in a folder of its own and move it into place at the end, so that half a tool is never found."""
    target = place(tool)
    unfinished = target.with_name(f"{target.name}.{os.getpid()}.unfinished")
    try:
        (unfinished / "bin").mkdir(parents=True)
        environment = os.environ | {"CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly -trimpath", "GOWORK": "off"}
        command = ["go", "build", "-ldflags", tool.ldflags(), "-tags", ",".join(tool.tags)]
        command += ["-o", f"{unfinished / 'bin'}/{tool.program}", *tool.packages]
        subprocess.run(command, cwd=tool.folder, env=environment, check=True)
        for share in tool.shares:
            where = subprocess.run(
                ["go", "list", "-m", "-f", "{{.Dir}}", tool.module],
                cwd=tool.folder, env=environment, check=True, capture_output=True, text=True,
            ).stdout.strip()  # fmt: skip
            shutil.copytree(Path(where) / share, unfinished / "share" / Path(share).name, copy_function=shutil.copy)
        if not target.is_dir():
            unfinished.rename(target)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def main(arguments: list[str] | None = None) -> int:
    """Build what is missing, one line for each tool."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("tools", nargs="*", choices=[*TOOLS, []], help="which ones (default: all)")
    parser.add_argument("--check", action="store_true", help="build nothing; exit 1 if one is missing")
    options = parser.parse_args(arguments)
    chosen = [TOOLS[name] for name in options.tools or TOOLS]
    if go_version() is None:
        print("cluster tools: no `go` on PATH; install Go 1.26 or newer", file=sys.stderr)
        return 1
    if not options.check and (without := install_packages()):
        print(f"cluster tools: {without}", file=sys.stderr)
        return 1
    if options.check:
        missing = [tool for tool in chosen if not built(tool)]
        for tool in missing:
            print(f"{tool.name} {tool.version} is not built")
        return 1 if missing else 0
    with alone():
        build_missing(chosen)
    return 0


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Wait until no other process builds into the cache, for two would build the same thing at half the speed."""
    cache().mkdir(parents=True, exist_ok=True)
    with (cache() / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("    another process is building cluster tools; waiting for it", flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def build_missing(chosen: list[Tool]) -> None:
    """Build those that are not there, with a line before and after each."""
    missing = [tool for tool in chosen if not built(tool)]
    for number, tool in enumerate(missing, 1):
        print(f"    building {tool.name} {tool.version} ({number} of {len(missing)})", flush=True)
        began = time.monotonic()
        build(tool)
        print(f"    built in {time.monotonic() - began:.0f} s", flush=True)


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except subprocess.CalledProcessError as failure:
        raise SystemExit(f"cluster tools: {' '.join(failure.cmd[:3])} … failed ({failure.returncode})") from None
