# SPDX-License-Identifier: Apache-2.0
"""Tokens that come with requests about policies and their signers: unsecured, or signed by a certificate in the header.

Pure: the certificate says who signed, and the caller decides whether that somebody counts. Nothing that a header points
to (``jku``, ``x5u``) is ever fetched.
"""

import base64
import datetime as dt
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA1, SHA256
from cryptography.hazmat.primitives.serialization import Encoding

from kubenclave.dcap.collateral import load_json
from kubenclave.errors import FormatError, TrustError
from kubenclave.wire import maa

_MIN_RSA: Final = 2048
_P256_SIGNATURE: Final = 64


@dataclass(frozen=True, slots=True)
class Signer:
    """Who signed a token, by the certificate that it brought: RSA, or a key on P-256."""

    certificate: x509.Certificate

    @property
    def jwk(self) -> dict[str, Any]:
        """The public key (RFC 7517) with the certificate as ``x5c``, which Azure's clients need.

        Signers are told apart by the key alone: one whose certificate is renewed with the same key is the same signer.
        """
        key: Any = self.certificate.public_key()
        chain = {"x5c": [base64.b64encode(self.certificate.public_bytes(Encoding.DER)).decode()]}
        if isinstance(key, rsa.RSAPublicKey):
            numbers = key.public_numbers()
            size = (numbers.e.bit_length() + 7) // 8
            return {"kty": "RSA", "n": _number(numbers.n, key.key_size // 8), "e": _number(numbers.e, size), **chain}
        point = key.public_numbers()
        return {"kty": "EC", "crv": "P-256", "x": _number(point.x, 32), "y": _number(point.y, 32), **chain}

    @property
    def thumbprint(self) -> str:
        """SHA-1 of the certificate in hex, by which Azure names certificates."""
        return self.certificate.fingerprint(SHA1()).hex().upper()  # noqa: S303 - a name, no protection


@dataclass(frozen=True, slots=True)
class Opened:
    """A token whose signature holds, if it has one. ``claims`` is None where the payload is empty.

    ``signed`` is what the signature covers. It tells tokens apart; ``text`` does not, as anybody can write the same
    signature otherwise (padding, or the other of ECDSA's two).
    """

    claims: Any
    signer: Signer | None
    signed: bytes
    text: str


def open_token(text: str, at: dt.datetime) -> Opened:
    """Read a token and verify its signature with the certificate that it brings.

    Raises FormatError (``maa.*``, ``json.*``) and TrustError (``maa.signature``, ``maa.signer-expired``).
    """
    token = maa.split_token(text)
    header = load_json(token.header, "the token's header")
    if not isinstance(header, dict):
        raise FormatError("the token's header is not an object", code="maa.object", expected="a JSON object")
    claims = load_json(token.payload, "the token's payload") if token.payload else None
    if header.get("alg") == "none":
        if token.signature:
            raise TrustError("an unsecured token has a signature", code="maa.signature", expected="an empty last part")
        return Opened(claims, None, token.signed, token.text)
    signer = Signer(_certificate(header))
    _verify(header.get("alg"), signer.certificate, token)
    if not signer.certificate.not_valid_before_utc <= at <= signer.certificate.not_valid_after_utc:
        raise TrustError(
            "the signer's certificate is not valid now",
            code="maa.signer-expired",
            expected="a certificate within its dates",
            found=f"valid until {signer.certificate.not_valid_after_utc:%Y-%m-%d}",
        )
    return Opened(claims, signer, token.signed, token.text)


def read_certificate(der: bytes) -> x509.Certificate:
    """Read a signer's certificate. Raises FormatError ``maa.certificate`` for one whose key signs no tokens."""
    try:
        certificate = x509.load_der_x509_certificate(der)
        key = certificate.public_key()
        _ = certificate.not_valid_after_utc
    except Exception:  # noqa: BLE001 - whatever the parser says of it
        raise _unfit("no certificate") from None
    if isinstance(key, rsa.RSAPublicKey) and key.key_size >= _MIN_RSA and key.key_size % 8 == 0:
        return certificate
    if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1):
        return certificate
    raise _unfit("one with another key")


def _certificate(header: Mapping[str, Any]) -> x509.Certificate:
    """Return the certificate of a header: in Microsoft's samples ``x5c``, of its clients a ``jwk`` with ``x5c``."""
    jwk = header.get("jwk")
    return read_certificate(maa.first_certificate(jwk if isinstance(jwk, dict) and "x5c" not in header else header))


def _verify(algorithm: Any, certificate: x509.Certificate, token: maa.Token) -> None:
    check = _CHECKS.get(algorithm) if isinstance(algorithm, str) else None
    if check is None:
        raise FormatError(
            "the token is signed in a way that is not known here",
            code="maa.algorithm",
            field="alg",
            expected="RS256 (also spelled RSA256) or ES256",
            found=repr(algorithm)[:40],
        )
    try:
        check(certificate.public_key(), token.signature, token.signed)
    except (InvalidSignature, TypeError):
        raise TrustError(
            "the signature of the token is not good", code="maa.signature", hint="sign header.payload as it is sent"
        ) from None


def _rsa(key: Any, signature: bytes, signed: bytes) -> None:
    if not isinstance(key, rsa.RSAPublicKey):
        raise TypeError("another kind of key")
    key.verify(signature, signed, padding.PKCS1v15(), SHA256())


def _ecdsa(key: Any, signature: bytes, signed: bytes) -> None:
    """Verify r and s of 32 bytes each, as RFC 7518 has them."""
    if not isinstance(key, ec.EllipticCurvePublicKey) or len(signature) != _P256_SIGNATURE:
        raise TypeError("another kind of key or signature")
    r, s = (int.from_bytes(half) for half in (signature[:32], signature[32:]))
    key.verify(encode_dss_signature(r, s), signed, ec.ECDSA(SHA256()))


# Azure's Python client spells RS256 in its own way.
_CHECKS: Final[Mapping[str, Callable[[Any, bytes, bytes], None]]] = {"RS256": _rsa, "RSA256": _rsa, "ES256": _ecdsa}


def _number(value: int, size: int) -> str:
    return maa.encode_base64(value.to_bytes(size))


def _unfit(found: str) -> FormatError:
    return FormatError(
        "not a certificate that can sign policies",
        code="maa.certificate",
        field="x5c",
        expected=f"an X.509 certificate with RSA of {_MIN_RSA} bits or more, or P-256",
        found=found,
    )
