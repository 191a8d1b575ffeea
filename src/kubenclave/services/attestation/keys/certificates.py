# SPDX-License-Identifier: Apache-2.0
"""The certificate beside each signing key: clients of Azure Attestation read the key out of it (``x5c``).

It signs itself, so it proves nothing; that a key is the service's is known from where the key set was fetched. The same
key, issuer and time always give the same bytes, whichever worker makes it.
"""

import datetime as dt
import hashlib
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey

SIMULATED: Final = "kubenclave SIMULATED"
_BACKDATED: Final = dt.timedelta(minutes=5)  # for clocks of clients that are behind
_LIFETIME: Final = dt.timedelta(days=3652)  # keys end by rotation; no client should trip over this one
_LONGEST_NAME: Final = 64  # characters of a common name (RFC 5280, ub-common-name)


def issuer_certificate(key: PrivateKey, issuer_url: str, *, simulated: bool, created: dt.datetime) -> bytes:
    """Return the certificate in DER: common name and alternative name are the issuer's URL.

    A URL of more than 64 characters is cut in the common name; the alternative name has all of it.
    """
    public = key.public_key()
    serial = hashlib.sha256(public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()[:16]
    name = x509.Name(
        [
            *([x509.NameAttribute(NameOID.ORGANIZATION_NAME, SIMULATED)] if simulated else []),
            x509.NameAttribute(NameOID.COMMON_NAME, issuer_url[:_LONGEST_NAME]),
        ]
    )
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(public)
        .serial_number(int.from_bytes(serial, "big") | 1)
        .not_valid_before(created - _BACKDATED)
        .not_valid_after(created + _LIFETIME)
        .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(issuer_url)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    )
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return builder.sign(key, hashes.SHA256(), ecdsa_deterministic=True).public_bytes(Encoding.DER)
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)
