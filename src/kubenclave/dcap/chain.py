# SPDX-License-Identifier: Apache-2.0
"""Certificates under a given root (Intel's PKI: a root, two PCK CAs, a TCB signer).

Nothing here looks at a clock: each function checks what holds for ever (names, roles, signatures) and hands out the
validity periods, so that results can be kept and judged again by the ``now`` of a later call.

The general path builder of the cryptography library is not used: these chains have a fixed shape, each certificate a
fixed role, and its one call could not be split into what may be kept and what may not.
"""

import binascii
import contextlib
import datetime as dt
import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.x509.oid import SignatureAlgorithmOID

from kubenclave.dcap import der
from kubenclave.dcap.anchor import UNREADABLE, TrustAnchor, unreadable
from kubenclave.dcap.cache import Cache
from kubenclave.dcap.pckext import SGX_EXTENSION, PckCa, PckExtension
from kubenclave.errors import TrustError

_SHA256: Final = hashes.SHA256()
ECDSA_SHA256: Final = ec.ECDSA(_SHA256)
MAX_CHAIN_SIZE: Final = 64 * 1024
_PEM: Final = re.compile(rb"-----BEGIN CERTIFICATE-----\s([^-]*)-----END CERTIFICATE-----")
_WHITE_SPACE: Final = b" \t\r\n"
_REQUIRED: Final = frozenset(
    {
        x509.AuthorityKeyIdentifier.oid,
        x509.CRLDistributionPoints.oid,
        x509.SubjectKeyIdentifier.oid,
        x509.KeyUsage.oid,
        x509.BasicConstraints.oid,
    }
)
_REQUIRED_OF_LEAF: Final = _REQUIRED | {SGX_EXTENSION}
_UNDERSTOOD_WHEN_CRITICAL: Final = frozenset({x509.KeyUsage.oid, x509.BasicConstraints.oid})
_COMMON_NAME: Final = bytes.fromhex("550403")  # OID 2.5.4.3
_CA_NAMES: Final = {"Intel SGX PCK Processor CA": PckCa.PROCESSOR, "Intel SGX PCK Platform CA": PckCa.PLATFORM}


@dataclass(frozen=True, slots=True)
class Dated:
    """Something that is valid from ``not_before`` to ``not_after``, both included.

    ``is_collateral`` marks the short-lived documents for which a grace period may be granted: no certificate.
    """

    what: str
    not_before: dt.datetime
    not_after: dt.datetime
    is_collateral: bool = False


class Link(NamedTuple):
    """A certificate as it stands in a chain, and the SHA-256 of its PEM.

    ``common_name`` is that of its subject, empty where it has none or several.
    """

    raw: x509.Certificate
    parts: der.CertificateParts
    common_name: str
    digest: bytes


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate whose key is P-256. ``subject`` is its name in DER."""

    link: Link = field(repr=False)
    key: ec.EllipticCurvePublicKey = field(repr=False)
    dated: Dated

    @property
    def raw(self) -> x509.Certificate:
        """The certificate as the X.509 library has it."""
        return self.link.raw

    @property
    def subject(self) -> bytes:
        """The subject in DER."""
        return self.link.parts.subject

    def called(self, what: str) -> "Certificate":
        """Return the same certificate under the name of the part it has in one verification."""
        return replace(self, dated=replace(self.dated, what=what))


@dataclass(frozen=True, slots=True)
class PckChain:
    """A PCK leaf and its CA, both under the root."""

    leaf: Certificate
    ca: Certificate
    ca_kind: PckCa
    extension: PckExtension


@contextlib.contextmanager
def malformed_as(what: str, code: str) -> Iterator[None]:
    """Turn whatever the X.509 library says of garbage into one TrustError."""
    try:
        yield
    except UNREADABLE as error:
        raise TrustError(f"{what} cannot be read", code=code, found=unreadable(error)) from None


def load_chain(pem: bytes, what: str, code: str, anchor: TrustAnchor, cache: Cache) -> list[Link]:
    """Read a PEM chain; roots and CAs that were found good before are not read again.

    Raises TrustError with that code when it is longer than any real one or no PEM, what the X.509 library raises
    (``malformed_as``) when there are no certificates in it.
    """
    if len(pem) > MAX_CHAIN_SIZE:
        raise TrustError(
            f"{what} is too long", code=code, expected=f"{MAX_CHAIN_SIZE} bytes at most", found=f"{len(pem)} bytes"
        )
    blocks = _PEM.findall(pem)
    if not blocks or pem.count(b"-----BEGIN") != len(blocks):
        raise TrustError(f"{what} cannot be read", code=code, expected="certificates in PEM", found="something else")
    return [_read(block, anchor, cache) for block in blocks]


def _read(block: bytes, anchor: TrustAnchor, cache: Cache) -> Link:
    digest = hashlib.sha256(block).digest()
    known: Link | Certificate | None = cache.get(("root", digest, anchor.identity)) or cache.get(
        ("PCK CA", digest, anchor.identity)
    )
    if known is None:
        data = _decode(block)
        raw, parts = x509.load_der_x509_certificate(data), der.certificate(data)
        return Link(raw, parts, common_name_of(parts.subject), digest)
    return known.link if isinstance(known, Certificate) else known


def _decode(block: bytes) -> bytes:
    """Return what the lines of base64 in a PEM block say. Raises ValueError for what no encoder writes."""
    text = block.translate(None, _WHITE_SPACE)
    data = binascii.a2b_base64(text, strict_mode=True)
    if binascii.b2a_base64(data, newline=False) != text:
        raise ValueError("bits behind the end of base64")
    return data


def verify_pck_chain(pem: bytes, anchor: TrustAnchor, cache: Cache) -> PckChain:
    """Check leaf, PCK CA and (where present) root, in whatever order, and read the leaf's SGX extension.

    Raises TrustError; of an extension that cannot be read, FormatError with code ``pck.extension``.
    """
    what = "PCK certificate chain"
    with malformed_as(what, "pck.malformed"):
        return _verify_pck_chain(load_chain(pem, what, "pck.malformed", anchor, cache), anchor, cache)


def _verify_pck_chain(chain: Sequence[Link], anchor: TrustAnchor, cache: Cache) -> PckChain:
    leaf, issuers = _pick_leaf(chain)
    issuer = leaf.parts.issuer
    ca = next((each for each in issuers if each.parts.subject == issuer), None)
    ca_kind = _CA_NAMES.get(common_name_of(issuer) if ca is None else ca.common_name)
    if ca_kind is None:
        raise _wrong_role("PCK certificate", "pck.role", "an issuer named " + " or ".join(_CA_NAMES), leaf.raw.issuer)
    if ca is None:
        raise TrustError(
            "the CA that issued the PCK certificate is not in its chain",
            code="pck.chain",
            expected=leaf.raw.issuer.rfc4514_string()[:200],
            found=" and ".join(each.raw.subject.rfc4514_string()[:200] for each in issuers) or "the leaf alone",
            hint="get that platform's chain anew: leaf, its CA, root",
        )
    _check_root(_without(issuers, ca), anchor, "PCK certificate", "pck", cache)
    checked_ca = _verify_pck_ca(ca, anchor, cache)
    checked_leaf = _certificate(leaf, "PCK certificate", "pck", is_ca=False)
    _verify_issued(checked_leaf, checked_ca.key, "pck.signature")
    extension = leaf.raw.extensions.get_extension_for_oid(SGX_EXTENSION).value
    assert isinstance(extension, x509.UnrecognizedExtension)
    return PckChain(checked_leaf, checked_ca, ca_kind, PckExtension.parse(extension.value, ca_kind))


def verify_issuer_chain(pem: bytes, anchor: TrustAnchor, cache: Cache) -> Certificate:
    """Check the chain of a PCK CRL's issuer: PCK CA and (where present) root. Raises TrustError."""
    what = "PCK CRL issuer"
    with malformed_as(f"{what} chain", "pck-ca.malformed"):
        ca, rest = _pick_signer(load_chain(pem, f"{what} chain", "pck-ca.malformed", anchor, cache), anchor)
        _check_root(rest, anchor, what, "pck-ca", cache)
        return _verify_pck_ca(ca, anchor, cache)


def _verify_pck_ca(ca: Link, anchor: TrustAnchor, cache: Cache) -> Certificate:
    """Check that a certificate is a PCK CA which the root issued: once, for a fleet has many leaves under two CAs."""

    def check() -> Certificate:
        if ca.common_name not in _CA_NAMES:
            raise _wrong_role("PCK CA certificate", "pck-ca.role", " or ".join(_CA_NAMES), ca.raw.subject)
        return _issued_by_anchor(ca, anchor, "PCK CA certificate", "pck-ca", is_ca=True)

    return cache.get_or_check(("PCK CA", ca.digest, anchor.identity), check)


def verify_tcb_signer(pem: bytes, anchor: TrustAnchor, what: str, cache: Cache) -> Certificate:
    """Check the chain of a document's signer: TCB Signing issued by the root itself, not a CA. Raises TrustError."""
    with malformed_as(f"{what} chain", "tcb-signer.malformed"):
        signer, rest = _pick_signer(load_chain(pem, f"{what} chain", "tcb-signer.malformed", anchor, cache), anchor)
        if "SGX TCB Signing" not in signer.common_name:
            raise _wrong_role(what, "tcb-signer.role", "a subject named Intel SGX TCB Signing", signer.raw.subject)
        _check_root(rest, anchor, what, "tcb-signer", cache)
        return _issued_by_anchor(signer, anchor, what, "tcb-signer", is_ca=False)


def _pick_signer(chain: Sequence[Link], anchor: TrustAnchor) -> tuple[Link, list[Link]]:
    """Return the first certificate that is not the root, and the others."""
    signer = next((each for each in chain if each.parts.subject != anchor.subject), chain[0])
    return signer, _without(chain, signer)


def _without(chain: Sequence[Link], one: Link) -> list[Link]:
    """Return the chain without that certificate, once: a known one that comes twice is one and the same object."""
    rest = list(chain)
    rest.remove(one)
    return rest


def verify_signature(key: ec.EllipticCurvePublicKey, signature: bytes, message: bytes, what: str, code: str) -> None:
    """Check a DER-encoded ECDSA signature with SHA-256. Raises TrustError with that code."""
    try:
        key.verify(signature, message, ECDSA_SHA256)
    except InvalidSignature:
        raise bad_signature(what, code) from None


def verify_raw_signature(
    key: ec.EllipticCurvePublicKey, signature: bytes, message: bytes, what: str, code: str
) -> None:
    """Check a 64-byte r‖s signature (big-endian, each 1 to n-1) with SHA-256. Raises TrustError with that code.

    n-s is as good as s to ECDSA: signature bytes identify nothing.
    """
    encoded = utils.encode_dss_signature(int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big"))
    verify_signature(key, encoded, message, what, code)


def _pick_leaf(chain: Sequence[Link]) -> tuple[Link, list[Link]]:
    """Find the PCK leaf by its name; real quotes carry the chain in more than one order."""
    leaves = [each for each in chain if "SGX PCK Certificate" in each.common_name]
    if len(leaves) != 1 or len(chain) > 3:
        raise _shape("PCK certificate chain", "pck.chain", "one PCK leaf, its CA and the root", len(chain))
    return leaves[0], _without(chain, leaves[0])


def _check_root(rest: Sequence[Link], anchor: TrustAnchor, what: str, code: str, cache: Cache) -> None:
    """Refuse a root that came along and is not ours: it is decoration, but the sender means another root."""
    if len(rest) > 1:
        raise _shape(f"chain of {what}", f"{code}.chain", "the certificate and the root, nothing else", len(rest) + 1)
    if rest:
        root = rest[0]
        key = ("root", root.digest, anchor.identity)
        cache.get_or_check(key, lambda: _refuse_other_root(root, anchor, what, code))


def _refuse_other_root(root: Link, anchor: TrustAnchor, what: str, code: str) -> Link:
    key = root.parts.public_key_info
    if (root.parts.subject, key) != (anchor.subject, anchor.public_key_info):
        raise TrustError(
            f"chain of {what} ends in a root that is not trusted",
            code=f"{code}.untrusted-root",
            expected=f"{anchor.name.rfc4514_string()} with key {anchor.point.hex()[2:18]}...",
            found=f"{root.raw.subject.rfc4514_string()[:200]} with key {key.hex()[-128:-112]}...",
            hint="for a simulated platform pass its own root certificate (--root)"
            if anchor.is_intel
            else "this evidence is under another root: leave --root out if that is Intel's",
        )
    return root


def _issued_by_anchor(link: Link, anchor: TrustAnchor, what: str, code: str, *, is_ca: bool) -> Certificate:
    checked = _certificate(link, what, code, is_ca=is_ca)
    if link.parts.issuer != anchor.subject:
        raise _wrong_role(what, f"{code}.untrusted-root", "issued by the root", link.raw.issuer)
    _verify_issued(checked, anchor.key, f"{code}.signature")
    return checked


def _certificate(link: Link, what: str, code: str, *, is_ca: bool) -> Certificate:
    """Check what a certificate says it may do. Raises TrustError."""
    certificate = link.raw
    if certificate.version is not x509.Version.v3 or certificate.serial_number < 1:
        # Only version 3 has extensions, and a list could not be searched for a negative number.
        raise ValueError("version of X.509 or serial number is none that RFC 5280 allows")
    key = _p256(certificate)
    if key is None:
        raise TrustError(f"{what} has the wrong kind of key", code=f"{code}.key", expected="P-256", found="another")
    extensions = {each.oid: each for each in certificate.extensions}
    required = _REQUIRED_OF_LEAF if code == "pck" else _REQUIRED
    unknown = {oid for oid, each in extensions.items() if each.critical} - _UNDERSTOOD_WHEN_CRITICAL
    if not required <= extensions.keys() or unknown:
        raise TrustError(
            f"{what} has the wrong extensions",
            code=f"{code}.extensions",
            expected=", ".join(sorted(oid.dotted_string for oid in required)),
            found=", ".join(sorted(oid.dotted_string for oid in extensions)),
        )
    constraints, usage = extensions[x509.BasicConstraints.oid].value, extensions[x509.KeyUsage.oid].value
    assert isinstance(constraints, x509.BasicConstraints)
    assert isinstance(usage, x509.KeyUsage)
    if constraints.ca is not is_ca or not (usage.key_cert_sign if is_ca else usage.digital_signature):
        raise TrustError(
            f"{what} has the wrong role",
            code=f"{code}.role",
            expected="a CA that may sign certificates" if is_ca else "no CA, may sign documents",
            found=f"CA:{constraints.ca}, {usage}",
        )
    dated = Dated(what, certificate.not_valid_before_utc, certificate.not_valid_after_utc)
    return Certificate(link, key, dated)


def _verify_issued(certificate: Certificate, issuer_key: ec.EllipticCurvePublicKey, code: str) -> None:
    what, raw = certificate.dated.what, certificate.raw
    if raw.signature_algorithm_oid != SignatureAlgorithmOID.ECDSA_WITH_SHA256:
        raise bad_signature(what, code)
    verify_signature(issuer_key, raw.signature, certificate.link.parts.tbs, what, code)


def _p256(certificate: x509.Certificate) -> ec.EllipticCurvePublicKey | None:
    try:
        key = certificate.public_key()
    except ValueError:  # a point that is not on the curve, an algorithm nobody knows
        return None
    return key if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1) else None


def common_name_of(name: bytes) -> str:
    """Return the one common name in a name (DER), or nothing. Raises DerError, UnicodeDecodeError."""
    found = der.attributes(name, _COMMON_NAME)
    return found[0].decode() if len(found) == 1 else ""


def _shape(what: str, code: str, expected: str, count: int) -> TrustError:
    return TrustError(f"{what} has the wrong shape", code=code, expected=expected, found=f"{count} certificates")


def _wrong_role(what: str, code: str, expected: str, name: x509.Name) -> TrustError:
    return TrustError(f"{what} has the wrong role", code=code, expected=expected, found=name.rfc4514_string()[:200])


def bad_signature(what: str, code: str) -> TrustError:
    """Return the refusal of something that its issuer did not sign like this."""
    return TrustError(f"signature of {what} is not good", code=code)
