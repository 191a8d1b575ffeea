# SPDX-License-Identifier: Apache-2.0
"""Private keys as such: made, read from PEM, read from files that nobody else can read."""

import base64
import os
import stat
from pathlib import Path
from typing import Any, Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from joserfc.jwk import ECKey, RSAKey

from kubenclave.errors import FormatError, PlatformError
from kubenclave.services import private_files
from kubenclave.services.attestation.keys import jwk
from kubenclave.services.attestation.keys.certificates import PrivateKey

RS256: Final = "RS256"
ES256: Final = "ES256"
_RSA_BITS: Final = range(2048, 4097)
_LARGEST: Final = 16 * 1024


def generate(algorithm: str, rsa_bits: int) -> PrivateKey:
    """Make a new key: RSA with exponent 65537 for RS256, P-256 for ES256."""
    if algorithm == RS256:
        return rsa.generate_private_key(65537, rsa_bits)
    return ec.generate_private_key(ec.SECP256R1())


def parse(pem: bytes) -> PrivateKey:
    """Read a private key in PEM (PKCS #8, PKCS #1 or SEC 1, not encrypted).

    Raises FormatError ``signing-key.malformed`` for anything else, ``signing-key.kind`` for a key of another kind.
    """
    try:
        key = load_pem_private_key(pem[: _LARGEST + 1], password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise FormatError(
            "not a private key",
            code="signing-key.malformed",
            expected="an unencrypted private key in PEM",
            hint="openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 makes one",
        ) from error
    if isinstance(key, rsa.RSAPrivateKey) and key.key_size in _RSA_BITS:
        return key
    if isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, ec.SECP256R1):
        return key
    raise _other_kind("RSA of 2048 to 4096 bits, or EC on P-256", key)


def read(path: Path, algorithm: str) -> PrivateKey:
    """Read the private key for an algorithm from a file that nobody else can read.

    Raises PlatformError ``signing-key.missing`` or ``signing-key.exposed``, and FormatError as ``parse`` does.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe would be waited for
    except OSError as error:
        raise missing(path, error.strerror or str(error)) from error
    try:
        status = os.fstat(descriptor)  # of what was opened, not of what has the name by now
        if not private_files.is_private(status):
            raise _exposed(path, status)
        key = parse(os.read(descriptor, _LARGEST + 1))
    finally:
        os.close(descriptor)
    if algorithm_of(key) != algorithm:
        raise _other_kind(f"a key for {algorithm}", key)
    return key


def _other_kind(expected: str, key: object) -> FormatError:
    return FormatError(
        "a key of this kind does not sign here",
        code="signing-key.kind",
        expected=expected,
        found=f"{type(key).__name__.removesuffix('PrivateKey')} of {getattr(key, 'key_size', 'unknown')} bits",
    )


def _exposed(path: Path, status: os.stat_result) -> PlatformError:
    return PlatformError(
        "others can read or replace the file of a signing key",
        code="signing-key.exposed",
        field=str(path),
        expected=private_files.EXPECTED,
        found=f"{stat.filemode(status.st_mode)}, owner {status.st_uid}",
        hint=f"chown it to the service's user and chmod 0400 {path}; make a new key if others could read it",
    )


def missing(path: Path | str, found: str) -> PlatformError:
    """Return the error for a key that should be in a file and is not."""
    return PlatformError(
        "the file of a signing key cannot be read",
        code="signing-key.missing",
        field=str(path),
        found=found,
        hint="restore the file; a key is never made anew where there was one",
    )


def to_pem(key: PrivateKey) -> bytes:
    """Return PKCS #8 in PEM."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def algorithm_of(key: PrivateKey) -> str:
    """Return what a key signs with."""
    return RS256 if isinstance(key, rsa.RSAPrivateKey) else ES256


def to_jose(key: PrivateKey) -> RSAKey | ECKey:
    """Return the key as the JOSE library takes it."""
    return RSAKey.import_key(to_pem(key)) if isinstance(key, rsa.RSAPrivateKey) else ECKey.import_key(to_pem(key))


def public_members(key: RSAKey | ECKey) -> dict[str, Any]:
    """Return the members of the public JWK, without any that is optional."""
    public = key.as_dict(private=False)
    return {name: public[name] for name in jwk.REQUIRED[str(public["kty"])]}


def thumbprint(key: RSAKey | ECKey) -> str:
    """Return the RFC 7638 thumbprint."""
    return jwk.thumbprint(public_members(key))


def public_jwk(key: RSAKey | ECKey, kid: str, algorithm: str, certificate: bytes) -> dict[str, Any]:
    """Return the public key with everything that some client insists on (RFC 7517): ``x5c`` in standard base64."""
    return {
        "kid": kid,
        "alg": algorithm,
        "use": "sig",
        **public_members(key),
        "x5c": [base64.b64encode(certificate).decode()],
    }
