# SPDX-License-Identifier: Apache-2.0
"""Container images without a container engine: OCI image layouts as tar files, made of what this machine has.

Layers are plain tar files with fixed times and owners, so that the same content has the same digest everywhere.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

REGISTRY: Final = "kubenclave.test"
_CONFIG: Final = "application/vnd.oci.image.config.v1+json"
_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
_INDEX: Final = "application/vnd.oci.image.index.v1+json"
_LAYER: Final = "application/vnd.oci.image.layer.v1.tar"
_BUSYBOX: Final = Path("/bin/busybox")


@dataclass(frozen=True)
class Image:
    """What an image consists of: layers (tar files' bytes), and how it is started."""

    name: str
    layers: Sequence[bytes]
    entrypoint: Sequence[str] = ()
    command: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    user: str = "65532:65532"
    working_folder: str = "/"

    def write(self, target: Path) -> str:
        """Write the OCI layout as a tar file and return the image's digest, sha256:..."""
        layers = [_descriptor(_LAYER, layer) for layer in self.layers]
        config = {
            "architecture": "amd64",
            "os": "linux",
            "config": {
                "User": self.user,
                "WorkingDir": self.working_folder,
                "Env": [f"{name}={value}" for name, value in self.environment.items()],
                **({"Entrypoint": list(self.entrypoint)} if self.entrypoint else {}),
                **({"Cmd": list(self.command)} if self.command else {}),
            },
            "rootfs": {"type": "layers", "diff_ids": [layer["digest"] for layer in layers]},
        }
        blob = _json(config)
        manifest = {"schemaVersion": 2, "mediaType": _MANIFEST, "config": _descriptor(_CONFIG, blob), "layers": layers}
        manifest_blob = _json(manifest)
        descriptor = _descriptor(_MANIFEST, manifest_blob)
        descriptor |= {"annotations": {"io.containerd.image.name": f"{REGISTRY}/{self.name}:test"}}
        index = {"schemaVersion": 2, "mediaType": _INDEX, "manifests": [descriptor]}
        with tarfile.open(target, "w") as archive:
            add(archive, "oci-layout", _json({"imageLayoutVersion": "1.0.0"}))
            for content in {blob, manifest_blob, *self.layers}:
                add(archive, f"blobs/sha256/{hashlib.sha256(content).hexdigest()}", content)
            add(archive, "index.json", _json(index))
        return str(descriptor["digest"])


def reference(archive: Path) -> tuple[str, str]:
    """The names of the image in a tar file: by tag, and by digest."""
    with tarfile.open(archive) as layout:
        file = layout.extractfile("index.json")
        assert file
        manifest = json.load(file)["manifests"][0]
    tagged: str = manifest["annotations"]["io.containerd.image.name"]
    return tagged, f"{tagged.rpartition(':')[0]}@{manifest['digest']}"


def add(archive: tarfile.TarFile, name: str, content: bytes, mode: int = 0o644) -> None:
    """Add a file with no time and no owner."""
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(content), mode
    archive.addfile(member, io.BytesIO(content))


def link(archive: tarfile.TarFile, name: str, target: str) -> None:
    """Add a symbolic link."""
    member = tarfile.TarInfo(name)
    member.type, member.linkname = tarfile.SYMTYPE, target
    archive.addfile(member)


def folder(archive: tarfile.TarFile, name: str, mode: int = 0o755) -> None:
    """Add a folder."""
    member = tarfile.TarInfo(name)
    member.type, member.mode = tarfile.DIRTYPE, mode
    archive.addfile(member)


def busybox_layer() -> bytes:
    """A root file system of busybox alone: /bin with its applets, /tmp, /etc/passwd."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        base_folders(archive)
        busybox(archive)
    return buffer.getvalue()


def base_folders(archive: tarfile.TarFile) -> None:
    """Add what every root file system has."""
    for name in ("bin", "dev", "etc", "proc", "sys", "run", "var"):
        folder(archive, name)
    folder(archive, "tmp", 0o1777)
    link(archive, "var/run", "/run")
    add(archive, "etc/passwd", b"root:x:0:0:root:/:/bin/sh\nnonroot:x:65532:65532:nonroot:/:/bin/sh\n")
    add(archive, "etc/group", b"root:x:0:\nnonroot:x:65532:\n")


def busybox(archive: tarfile.TarFile) -> None:
    """Add busybox and the links to it that a shell script expects."""
    add(archive, "bin/busybox", _BUSYBOX.read_bytes(), 0o755)
    for applet in _APPLETS.split():
        link(archive, f"bin/{applet}", "busybox")


_APPLETS: Final = (
    "sh ash cat ls sleep echo printf test true false env id stat head tail grep sed awk wget nc dd date mkdir rm cp mv "
    "ln touch chmod chown find wc sort uniq cut tr xargs ps kill hostname ip ping mount df du od sha256sum timeout seq "
    "httpd"
)


def small(folder_: Path) -> list[Path]:
    """Write the pause and busybox images; return the tar files."""
    layer = busybox_layer()
    # A pod sandbox is killed, never asked; and there is nobody in it to reap.
    pause = Image("pause", [layer], ["/bin/busybox", "sleep", "2147483647"])
    shell = Image("busybox", [layer], command=["/bin/sh"], environment={"PATH": "/bin"})
    files = []
    for image in (pause, shell):
        files.append(folder_ / f"{image.name}.tar")
        image.write(files[-1])
    return files


def _json(document: object) -> bytes:
    return json.dumps(document, sort_keys=True).encode()


def _descriptor(media_type: str, content: bytes) -> dict[str, object]:
    return {"mediaType": media_type, "digest": f"sha256:{hashlib.sha256(content).hexdigest()}", "size": len(content)}
