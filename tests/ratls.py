# SPDX-License-Identifier: Apache-2.0
"""RA-TLS certificates as Gramine and others make them, around a quote of one's own."""

import datetime as dt
import hashlib
from collections.abc import Callable
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

LEGACY = "1.2.840.113741.1337.6"
GRAMINE = "0.6.9.42.840.113741.1337.6"
DICE = "2.23.133.5.4.9"
START = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
END = dt.datetime(2036, 1, 1, tzinfo=dt.UTC)


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP384R1())


def key_info(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def certificate(
    key: ec.EllipticCurvePrivateKey,
    extensions: dict[str, bytes],
    *,
    start: dt.datetime = START,
    end: dt.datetime = END,
    signer: Any = None,
) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "RATLS")])
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, start, end)
    for oid, value in extensions.items():
        builder = builder.add_extension(x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), value), critical=False)
    return builder.sign(signer or key, hashes.SHA256())


def legacy(quote: Callable[[bytes], bytes], *, oid: str = GRAMINE, **how: Any) -> x509.Certificate:
    """``quote`` makes a quote over 64 bytes of report data."""
    key = new_key()
    return certificate(key, {oid: quote(hashlib.sha256(key_info(key)).digest().ljust(64, b"\0"))}, **how)


def claims(key: ec.EllipticCurvePrivateKey, nonce: bytes | None = None, algorithm: int = 7) -> bytes:
    """CBOR of the claims; the hash is that of the key under the algorithm of IANA's number."""
    digest = {1: hashlib.sha256, 7: hashlib.sha384, 8: hashlib.sha512}[algorithm](key_info(key)).digest()
    members = [(b"\x6bpubkey-hash", octets(bytes([0x82, algorithm]) + octets(digest)))]
    if nonce is not None:
        members.append((b"\x65nonce", octets(nonce)))
    return bytes([0xA0 | len(members)]) + b"".join(name + value for name, value in members)


def tagged(quote: bytes, said: bytes) -> bytes:
    """CBOR tag 60000 over [quote, claims]."""
    return b"\xd9\xea\x60\x82" + octets(quote) + octets(said)


def dice(quote: Callable[[bytes], bytes], *, nonce: bytes | None = None, **how: Any) -> x509.Certificate:
    key = new_key()
    said = claims(key, nonce)
    evidence = tagged(quote(hashlib.sha256(said).digest().ljust(64, b"\0")), said)
    return certificate(key, {DICE: evidence}, **how)


def octets(data: bytes) -> bytes:
    """A byte string in CBOR."""
    size = len(data)
    if size < 24:
        return bytes([0x40 | size]) + data
    return (bytes([0x58, size]) if size < 256 else b"\x59" + size.to_bytes(2, "big")) + data


def pem(made: x509.Certificate) -> bytes:
    return made.public_bytes(Encoding.PEM)


def der(made: x509.Certificate) -> bytes:
    return made.public_bytes(Encoding.DER)
