# SPDX-License-Identifier: Apache-2.0
"""Which certificates the webhook has, and what is issued next. Pure: state and time in, state out.

A CA of our own issues the leaf. Half of its life is over long before anybody has to trust another one: the next CA is
made while the present one is good, everybody is told to trust both, and only once that has been so for a while does the
leaf come from the next. The key of a CA that was replaced is forgotten at once; its certificate stays trusted until it
ends, for a replica that has not heard of the change.
"""

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from kubenclave.errors import FormatError

_SKEW: Final = dt.timedelta(minutes=5)
_DUE: Final = 3  # renewed when a third of the life is left


@dataclass(frozen=True, slots=True)
class Lifetimes:
    """How long certificates live, and how long a new CA has to be trusted before anything comes from it."""

    authority: dt.timedelta = dt.timedelta(days=365)
    leaf: dt.timedelta = dt.timedelta(days=30)
    settle: dt.timedelta = dt.timedelta(minutes=2)


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate and its private key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def pem(self) -> bytes:
        """Both as PEM, as a TLS server loads them."""
        return self.certificate_pem + self.key_pem

    @property
    def certificate_pem(self) -> bytes:
        """The certificate alone."""
        return _pem([self.certificate])

    @property
    def key_pem(self) -> bytes:
        """The private key alone, PKCS #8 without a password."""
        form, none = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        return self.key.private_bytes(serialization.Encoding.PEM, form, none)

    @property
    def ends(self) -> dt.datetime:
        """When the certificate ends, in UTC."""
        return self.certificate.not_valid_after_utc


@dataclass(frozen=True, slots=True)
class Credentials:
    """All that the replicas share. ``published`` is since when API servers are told to trust ``successor``."""

    authority: Pair
    leaf: Pair
    successor: Pair | None = None
    published: dt.datetime | None = None
    retired: tuple[x509.Certificate, ...] = ()

    @property
    def bundle(self) -> bytes:
        """The CAs to trust, as PEM."""
        trusted = [self.authority.certificate, *([self.successor.certificate] if self.successor else [])]
        return _pem([*trusted, *self.retired])

    def as_data(self) -> dict[str, bytes | None]:
        """Return the entries of the Secret; None for one that has to go."""
        successor = self.successor
        return {
            "ca.crt": self.authority.certificate_pem,
            "ca.key": self.authority.key_pem,
            "tls.crt": self.leaf.certificate_pem,
            "tls.key": self.leaf.key_pem,
            "next-ca.crt": successor.certificate_pem if successor else None,
            "next-ca.key": successor.key_pem if successor else None,
            "next-ca-published": self.published.isoformat().encode() if self.published else None,
            "retired-ca.crt": _pem(self.retired) or None,
        }

    @classmethod
    def from_data(cls, data: Mapping[str, bytes]) -> Self | None:
        """Read the entries of a Secret; None when it has none yet. Raises FormatError for what was not written here."""
        if not data:
            return None
        try:
            return cls(
                authority=_pair(data, "ca"),
                leaf=_pair(data, "tls"),
                successor=_pair(data, "next-ca") if "next-ca.crt" in data else None,
                published=_moment(data.get("next-ca-published")),
                retired=tuple(x509.load_pem_x509_certificates(data["retired-ca.crt"]))
                if data.get("retired-ca.crt")
                else (),
            )
        except (KeyError, ValueError, TypeError) as error:
            raise FormatError(
                "the webhook's Secret holds something else than its certificates",
                code="webhook.secret",
                found=str(error) or type(error).__name__,
                hint="it is written anew",
            ) from error


def step(held: Credentials | None, now: dt.datetime, names: Sequence[str], lifetimes: Lifetimes) -> Credentials:
    """Return what to hold from ``now`` on; ``held`` itself when there is nothing to do.

    ``names`` are the DNS names of the server. A CA that has ended, after a long sleep, is replaced at once: nobody
    trusts what it issued.
    """
    if held is None or held.authority.ends <= now:
        authority = _new_authority(now, names, lifetimes)
        return Credentials(authority, _new_leaf(authority, now, names, lifetimes))
    next_held = _rotated(_pruned(held, now), now, names, lifetimes)
    # A leaf that ends with its CA cannot be had for longer: the next CA comes first.
    helps = next_held.leaf.ends != _leaf_end(next_held.authority, now, lifetimes)
    due = helps and _is_due(next_held.leaf, now, lifetimes.leaf)
    if due or _names(next_held.leaf.certificate) != list(names):
        return replace(next_held, leaf=_new_leaf(next_held.authority, now, names, lifetimes))
    return next_held


def _pruned(held: Credentials, now: dt.datetime) -> Credentials:
    kept = tuple(certificate for certificate in held.retired if certificate.not_valid_after_utc > now)
    return held if kept == held.retired else replace(held, retired=kept)


def _rotated(held: Credentials, now: dt.datetime, names: Sequence[str], lifetimes: Lifetimes) -> Credentials:
    """Make the next CA when it is time, and go over to it once it has been trusted for long enough."""
    if held.successor is None:
        due = _is_due(held.authority, now, lifetimes.authority)
        return replace(held, successor=_new_authority(now, names, lifetimes)) if due else held
    if held.published is None or now < held.published + lifetimes.settle:
        return held
    return Credentials(
        authority=held.successor,
        leaf=_new_leaf(held.successor, now, names, lifetimes),
        retired=(held.authority.certificate, *held.retired),
    )


def _is_due(pair: Pair, now: dt.datetime, lifetime: dt.timedelta) -> bool:
    """Tell whether a certificate ends soon, or lives longer than the site wants by now."""
    left = pair.ends - now
    return left < lifetime / _DUE or left > lifetime + _SKEW


def _leaf_end(authority: Pair, now: dt.datetime, lifetimes: Lifetimes) -> dt.datetime:
    return min(now + lifetimes.leaf, authority.ends)


def _new_authority(now: dt.datetime, names: Sequence[str], lifetimes: Lifetimes) -> Pair:
    """Make a CA that can vouch for ``names`` and nothing else."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = _subject(f"kubenclave webhook CA {now:%Y-%m-%d}")
    permitted = x509.NameConstraints(permitted_subtrees=[x509.DNSName(name) for name in names], excluded_subtrees=None)
    builder = _builder(subject, subject, key.public_key(), now, now + lifetimes.authority)
    builder = (
        builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .add_extension(permitted, critical=True)
    )
    return Pair(builder.sign(key, hashes.SHA256()), key)


def _new_leaf(authority: Pair, now: dt.datetime, names: Sequence[str], lifetimes: Lifetimes) -> Pair:
    key = ec.generate_private_key(ec.SECP256R1())
    issuer = authority.certificate.subject
    end = _leaf_end(authority, now, lifetimes)
    builder = _builder(_subject("kubenclave webhook"), issuer, key.public_key(), now, end)
    builder = (
        builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key()), critical=False)
    )
    return Pair(builder.sign(authority.key, hashes.SHA256()), key)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: dt.datetime, end: dt.datetime
) -> x509.CertificateBuilder:
    """Begin a certificate, a little in the past: not all clocks of a cluster agree."""
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _subject(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _names(certificate: x509.Certificate) -> list[str]:
    found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    return found.value.get_values_for_type(x509.DNSName)


def _pem(certificates: Sequence[x509.Certificate]) -> bytes:
    return b"".join(each.public_bytes(serialization.Encoding.PEM) for each in certificates)


def _pair(data: Mapping[str, bytes], name: str) -> Pair:
    certificate = x509.load_pem_x509_certificate(data[f"{name}.crt"])
    key = serialization.load_pem_private_key(data[f"{name}.key"], None)
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
        raise ValueError(f"{name}.key does not belong to {name}.crt")
    return Pair(certificate, key)


def _moment(text: bytes | None) -> dt.datetime | None:
    if text is None:
        return None
    moment = dt.datetime.fromisoformat(text.decode())
    if moment.tzinfo is None:
        raise ValueError("a time without a zone")
    return moment
