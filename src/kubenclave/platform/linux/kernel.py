# SPDX-License-Identifier: Apache-2.0
"""Kernel and distribution: version, CONFIG_X86_SGX, processor flags."""

import re
import zlib
from pathlib import Path

from kubenclave.platform.linux.files import read_bytes, read_text

FIRST_RELEASE = (5, 11)
"""First kernel with a driver of its own."""

_SGX_OPTION = re.compile(r"^(?:CONFIG_X86_SGX=([ym])|# CONFIG_X86_SGX is not set)$", re.MULTILINE)
_RELEASE = re.compile(r"(\d{1,4})\.(\d{1,4})")
_MAX_CONFIG = 8 << 20


def release(root: Path) -> str | None:
    """Return the running kernel's release, for example ``6.8.0-1010-azure``."""
    return (read_text(root / "proc/sys/kernel/osrelease") or "").strip() or None


def version(text: str) -> tuple[int, int] | None:
    """Return major and minor number of a release."""
    match = _RELEASE.match(text)
    return (int(match[1]), int(match[2])) if match else None


def config_sgx(root: Path, kernel_release: str | None) -> bool | None:
    """Tell whether the running kernel has CONFIG_X86_SGX; None when its configuration is not to be found.

    A configuration that does not mention the option belongs to a kernel that does not know it.
    """
    text = read_text(root / f"boot/config-{kernel_release}") if kernel_release else None
    if text is None:
        text = _unpacked(read_bytes(root / "proc/config.gz"))
    if text is None:
        return None
    match = _SGX_OPTION.search(text)
    return bool(match and match[1])


def _unpacked(data: bytes | None) -> str | None:
    if data is None:
        return None
    try:
        return zlib.decompressobj(wbits=31).decompress(data, _MAX_CONFIG).decode(errors="replace")
    except zlib.error:
        return None


def cpu_flags(root: Path) -> tuple[str | None, frozenset[str] | None]:
    """Return model name and flags of the first processor; the kernel hides ``sgx`` if BIOS or itself lacks it."""
    fields: dict[str, str] = {}
    for line in (read_text(root / "proc/cpuinfo") or "").splitlines():
        name, colon, value = line.partition(":")
        if not colon and fields:
            break
        fields[name.strip()] = value.strip()
    flags = fields.get("flags")
    return fields.get("model name"), None if flags is None else frozenset(flags.split())


def system_name(root: Path) -> str | None:
    """Return the distribution's name for itself, for example ``Ubuntu 18.04.6 LTS``."""
    for path in ("etc/os-release", "usr/lib/os-release"):
        match = re.search(r'^PRETTY_NAME="?([^"\n]*)"?$', read_text(root / path) or "", re.MULTILINE)
        if match:
            return match[1]
    return None
