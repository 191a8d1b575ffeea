# SPDX-License-Identifier: Apache-2.0
"""The image kubenclave.test/kubenclave:test: this machine's Python, the locked dependencies and our wheel, in layers.

It is what the Dockerfile at the root makes, as far as that goes without a container engine. Layers are kept in
.cache/images under a name that covers what they are made of, so that after a change of ours only the last is made anew.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from tests.cluster.harness import images
from tests.cluster.harness.parts import run

ROOT: Final = Path(__file__).parents[3]
CACHE: Final = ROOT / ".cache" / "images"
REQUIREMENTS: Final = ROOT / "requirements" / "image.txt"

_NAME: Final = f"python{sys.version_info.major}.{sys.version_info.minor}"
_SITE: Final = f"usr/local/lib/{_NAME}/site-packages"
# Not in the image: tests, what draws windows, and modules whose libraries nothing of ours needs.
_LEFT_OUT: Final = shutil.ignore_patterns(
    "test", "tests", "idlelib", "tkinter", "turtledemo", "lib2to3", "ensurepip", "distutils", "pydoc_data", "config-*",
    "site-packages", "dist-packages", "__pycache__", "_tkinter*", "_test*", "nis.*", "_gdbm*", "_dbm*", "_curses*",
    "readline*", "_ctypes_test*", "xx*",
)  # fmt: skip
# What wheels may link besides the C library: its former parts, now empty, and the compiler's library.
_FOR_WHEELS: Final = ("libdl.so.2", "libgcc_s.so.1", "libpthread.so.0", "librt.so.1", "libutil.so.1")
_SCRIPT: Final = f"#!/usr/local/bin/{_NAME}\nfrom kubenclave.cli.main import main\n\nmain()\n"


def kubenclave() -> Path:
    """The image as an OCI layout in a tar file, made where it is not there yet (which needs a package index once)."""
    CACHE.mkdir(parents=True, exist_ok=True)
    recipe = Path(__file__).read_bytes() + Path(images.__file__).read_bytes()
    base = _layer("base", [sys.version.encode(), sys.base_prefix.encode(), recipe], _base)
    dependencies = _layer("dependencies", [base.name.encode(), REQUIREMENTS.read_bytes()], _dependencies)
    ours = _layer("kubenclave", [dependencies.name.encode(), *_sources()], _wheel)
    target = CACHE / f"image-{ours.stem.rpartition('-')[2]}.tar"
    if not target.exists():
        with _unfinished(target) as file:
            images.Image(
                "kubenclave",
                [layer.read_bytes() for layer in (base, dependencies, ours)],
                entrypoint=["kubenclave"],
                environment={"PATH": "/usr/local/bin:/bin", "LANG": "C.UTF-8", "PYTHONUNBUFFERED": "1"},
            ).write(file)
    _forget_old(target, ours)
    return target


def _layer(name: str, made_of: list[bytes], make: Callable[[Path], None]) -> Path:
    """The layer's tar file; ``make`` fills the folder that becomes it."""
    digest = hashlib.sha256()
    for content in made_of:
        digest.update(hashlib.sha256(content).digest())
    target = CACHE / f"{name}-{digest.hexdigest()[:16]}.tar"
    if not target.exists():
        with tempfile.TemporaryDirectory() as stage, _unfinished(target) as file:
            make(Path(stage))
            with tarfile.open(file, "w") as archive:
                if name == "base":
                    images.base_folders(archive)
                    images.busybox(archive)
                _add_tree(archive, Path(stage))
    target.touch()
    return target


@contextlib.contextmanager
def _unfinished(target: Path) -> Iterator[Path]:
    """A file beside ``target`` that takes its place once it is whole."""
    file = target.with_suffix(f".{secrets.token_hex(4)}.unfinished")  # enclosures number their processes alike
    try:
        yield file
        file.rename(target)
    finally:
        file.unlink(missing_ok=True)


def _add_tree(archive: tarfile.TarFile, stage: Path) -> None:
    for path in sorted(stage.rglob("*")):
        name = str(path.relative_to(stage))
        if path.is_symlink():
            images.link(archive, name, str(path.readlink()))
        elif path.is_dir():
            images.folder(archive, name)
        else:
            images.add(archive, name, path.read_bytes(), 0o755 if os.access(path, os.X_OK) else 0o644)


def _base(stage: Path) -> None:
    """The interpreter that runs this, its standard library and the shared libraries of both."""
    local = stage / "usr" / "local"
    (local / "bin").mkdir(parents=True)
    executable = Path(sys.base_prefix) / "bin" / _NAME
    shutil.copy(executable, local / "bin" / _NAME)
    for link in ("python", "python3"):
        (local / "bin" / link).symlink_to(_NAME)
    (stage / "usr" / "bin").mkdir()
    (stage / "usr" / "bin" / "env").symlink_to("/bin/env")  # busybox has it elsewhere than scripts look for it
    library = local / "lib" / _NAME
    shutil.copytree(sysconfig.get_path("stdlib"), library, ignore=_LEFT_OUT, symlinks=True)
    (library / "site-packages").mkdir()
    # Debian's Python looks there instead.
    (library / "dist-packages").symlink_to("site-packages")
    libraries = _libraries([executable, *library.glob("lib-dynload/*.so")])
    beside = libraries["libc.so.6"].parent
    libraries |= {name: beside / name for name in _FOR_WHEELS if (beside / name).exists()}
    for name, path in libraries.items():
        standard = str(path).startswith(("/lib", "/usr/lib"))
        target = stage / str(path).lstrip("/") if standard else local / "lib" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    (stage / "etc").mkdir()
    (stage / "etc" / "ld.so.conf").write_text("/usr/local/lib\n/usr/lib/x86_64-linux-gnu\n")
    run(["ldconfig", "-r", stage])
    _compile(library, str(library.relative_to(stage)))


def _libraries(programs: list[Path]) -> dict[str, Path]:
    """The shared libraries that the programs load, by name, with the loader itself."""
    listed = run(["ldd", *programs])
    found = {Path(path).name: Path(path) for path in re.findall(r"(?:=> |^\s+)(/\S+) \(0x", listed, re.MULTILINE)}
    return dict(sorted(found.items()))


def _dependencies(stage: Path) -> None:
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--require-hashes"]
    command += ["--no-compile", "--only-binary=:all:", "--target", str(stage / _SITE), "-r", str(REQUIREMENTS)]
    subprocess.run(command, check=True)
    shutil.rmtree(stage / _SITE / "bin", ignore_errors=True)
    _compile(stage / _SITE)


def _wheel(stage: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder], folder=ROOT)
        (wheel,) = Path(folder).glob("*.whl")
        zipfile.ZipFile(wheel).extractall(stage / _SITE)
    _compile(stage / _SITE)
    script = stage / "usr" / "local" / "bin" / "kubenclave"
    script.parent.mkdir(parents=True)
    script.write_text(_SCRIPT)
    script.chmod(0o755)


def _compile(folder: Path, installed: str = _SITE) -> None:
    """Compile ahead, for the image is read-only; never checked against the sources, whose times a layer drops."""
    command = [sys.executable, "-m", "compileall", "-q", "-j", "2", "--invalidation-mode", "unchecked-hash"]
    run([*command, "-s", folder, "-p", f"/{installed}", folder], timeout=300)


def _sources() -> list[bytes]:
    files = [ROOT / "pyproject.toml", *sorted((ROOT / "src").rglob("*"))]
    files = [file for file in files if file.is_file() and "__pycache__" not in file.parts]
    return [str(file.relative_to(ROOT)).encode() + b"\0" + file.read_bytes() for file in files]


def _forget_old(*current: Path) -> None:
    """Keep the newest few of the images and layers that are ours."""
    for kind in ("image", "kubenclave"):
        files = sorted(CACHE.glob(f"{kind}-*.tar"), key=lambda file: file.stat().st_mtime, reverse=True)
        for file in files[4:]:
            if file not in current:
                file.unlink(missing_ok=True)
