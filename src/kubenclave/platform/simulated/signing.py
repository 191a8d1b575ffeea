# SPDX-License-Identifier: Apache-2.0
"""Keys that sign SIMULATED enclaves: one given as a file, or a development key that is made when first needed."""

import os
import secrets
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from kubenclave.errors import FormatError, PlatformError, UsageError
from kubenclave.platform.home import home
from kubenclave.sgx.sigstruct import EXPONENT, KEY_SIZE, Sigstruct, assemble

_LIMIT: Final = 64 * 1024
_HINT: Final = "openssl genrsa -3 3072 makes one"


def development_key_path(env: Mapping[str, str]) -> Path:
    """Return where the user's development key is: kubenclave/sim-enclave-key.pem in the user's config folder."""
    base = env.get("XDG_CONFIG_HOME") or Path(home(env), ".config")
    return Path(base, "kubenclave", "sim-enclave-key.pem")


def load_key(path: Path) -> rsa.RSAPrivateKey:
    """Read an RSA-3072 key with exponent 3 from a PEM file without passphrase. Raises UsageError or FormatError."""
    try:
        with path.open("rb") as file:
            content = file.read(_LIMIT)
    except OSError as error:
        raise UsageError(
            f"cannot read the signing key {path}: {error.strerror or error}", code="simkey.unreadable", hint=_HINT
        ) from error
    try:
        key = serialization.load_pem_private_key(content, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise _not_a_key(path, "no private key in PEM, or one with a passphrase") from None
    if not isinstance(key, rsa.RSAPrivateKey):
        raise _not_a_key(path, "a key of another kind")
    exponent = key.public_key().public_numbers().e
    if key.key_size != 8 * KEY_SIZE or exponent != EXPONENT:
        raise _not_a_key(path, f"RSA-{key.key_size} with exponent {exponent}")
    return key


def development_key(path: Path) -> rsa.RSAPrivateKey:
    """Return the key in ``path``, made (mode 0600) if there is none. Raises as ``load_key``, and PlatformError."""
    if not path.exists():
        _make_key(path)
    return load_key(path)


def sign(template: Sigstruct, key: rsa.RSAPrivateKey) -> Sigstruct:
    """Return the template signed with the key."""
    signature = key.sign(template.signed_bytes(), padding.PKCS1v15(), hashes.SHA256())
    return assemble(template, key.public_key().public_numbers().n, int.from_bytes(signature, "big"))


def _make_key(path: Path) -> None:
    key = rsa.generate_private_key(public_exponent=EXPONENT, key_size=8 * KEY_SIZE)
    content = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
            file.write(content)
        with suppress(FileExistsError):  # somebody else was first: theirs it is
            path.hardlink_to(beside)
        beside.unlink()
    except OSError as error:
        with suppress(OSError):
            beside.unlink()
        raise PlatformError(
            f"cannot make the development key {path}: {error.strerror or error}",
            code="simkey.unusable",
            hint="give a key of your own with --key",
        ) from error


def _not_a_key(path: Path, found: str) -> FormatError:
    return FormatError(
        f"{path} does not sign enclaves",
        code="simkey.malformed",
        expected=f"RSA-{8 * KEY_SIZE} with exponent {EXPONENT}, in PEM, without passphrase",
        found=found,
        hint=_HINT,
    )
