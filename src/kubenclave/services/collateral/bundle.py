# SPDX-License-Identifier: Apache-2.0
"""Collateral for sites without a way out: a signed manifest and, behind it, all that it lists as its signers wrote it.

A bundle is text. Its first line is a JWS (RFC 7515, compact; ``Ed25519`` or ``ES256``) over the manifest, every other
line one blob in base64: bodies and issuer chains, known by their SHA-256, each once. The key that signs is the
operator's. It says who put the bundle together and when; what is in there is still verified under the root, item by
item, before it is stored.
"""

import base64
import binascii
import datetime as dt
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Final, Literal, TypeAlias

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key
from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, OKPKey

from kubenclave.dcap.anchor import UNREADABLE, TrustAnchor, unreadable
from kubenclave.dcap.collateral import load_json
from kubenclave.errors import FormatError, TrustError, UsageError
from kubenclave.services.collateral.items import Item, ItemKey, Kind, Tee

MAX_SIZE: Final = 64 << 20
_TYPE: Final = "kubenclave-collateral-bundle"
_ALGORITHMS: Final = ["Ed25519", "ES256"]
_HINT: Final = "openssl genpkey -algorithm ed25519 -out key.pem; openssl pkey -in key.pem -pubout -out public.pem"

Key: TypeAlias = OKPKey | ECKey

_Digest = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
_Name = Annotated[str, msgspec.Meta(pattern="^[0-9a-z/_.-]{0,600}$")]


class _Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One item of the manifest; ``body`` and ``issuer_chain`` are digests of blobs."""

    kind: Kind
    subject: _Name
    tee: Tee
    update: _Name
    body: _Digest
    issuer_chain: _Digest
    issued: dt.datetime
    next_update: dt.datetime
    number: Annotated[int, msgspec.Meta(ge=0, lt=1 << 31)]
    source: Annotated[str, msgspec.Meta(max_length=300)]
    fetched: dt.datetime


class _Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    type: Literal["kubenclave-collateral-bundle"]
    version: Literal[1]
    created: dt.datetime
    root: _Digest
    simulated: bool
    horizon: dt.datetime
    items: Annotated[tuple[_Entry, ...], msgspec.Meta(min_length=1)]


@dataclass(frozen=True, slots=True)
class Bundle:
    """What a bundle holds. ``signer`` is the thumbprint (RFC 7638) of the key it was signed with.

    ``root`` names the root of trust as ``TrustAnchor.digest`` does; ``horizon`` is when its first item ends.
    """

    signer: str
    created: dt.datetime
    root: str
    simulated: bool
    horizon: dt.datetime
    items: tuple[Item, ...] = field(repr=False)


def signing_key(pem: bytes) -> Key:
    """Read an unencrypted private key, Ed25519 or P-256, in PEM. Raises FormatError ``bundle.wrong-key``."""
    try:
        key = load_pem_private_key(pem, password=None)
    except UNREADABLE as error:
        raise _no_key("a private key", unreadable(error)) from None
    return _jwk(key, pem)


def trusted_key(pem: bytes) -> Key:
    """Read a public key, Ed25519 or P-256, in PEM. Raises FormatError ``bundle.wrong-key``."""
    try:
        key = load_pem_public_key(pem)
    except UNREADABLE as error:
        raise _no_key("a public key", unreadable(error)) from None
    return _jwk(key, pem)


def write(items: Iterable[Item], key: Key, *, anchor: TrustAnchor, created: dt.datetime) -> bytes:
    """Return a bundle of items that were verified under ``anchor``. Raises UsageError ``bundle.empty``.

    The list of FMSPCs, which nobody has signed, stays out.
    """
    listed = sorted((item for item in items if item.key.kind is not Kind.FMSPCS), key=lambda item: item.key)
    if not listed:
        raise UsageError(
            "there is nothing to put into a bundle",
            code="bundle.empty",
            hint="fetch first: a service that was asked for nothing holds nothing",
        )
    manifest = _Manifest(
        _TYPE,
        1,
        created,
        anchor.digest,
        not anchor.is_intel,
        min(item.next_update for item in listed),
        tuple(_entry(item) for item in listed),
    )
    blobs = {_digest(blob): blob for item in listed for blob in (item.body, item.issuer_chain)}
    header = {"alg": _algorithm(key), "typ": _TYPE, "kid": key.thumbprint()}
    signed = jws.serialize_compact(header, msgspec.json.encode(manifest), key, registry=_registry())
    return b"\n".join([signed.encode(), *map(base64.b64encode, blobs.values()), b""])


def read(content: bytes, trusted: Sequence[Key]) -> Bundle:
    """Read a bundle that one of the trusted keys has signed.

    Raises FormatError (``bundle.malformed``, ``json.*``) for what is no bundle, TrustError ``bundle.signer`` for one
    that nobody trusted has signed and ``bundle.digest`` for one whose blobs are not those that were signed.
    """
    head, *lines = content.split(b"\n")
    payload, signer = _verified(head, trusted)
    manifest = _manifest(payload)
    blobs = _blobs(lines)
    wanted = {digest for entry in manifest.items for digest in (entry.body, entry.issuer_chain)}
    if wanted != blobs.keys():
        raise TrustError(
            "the content of the bundle is not what was signed",
            code="bundle.digest",
            expected=f"{len(wanted)} blobs",
            found=f"{len(wanted & blobs.keys())} of them, and {len(blobs.keys() - wanted)} others",
        )
    return Bundle(
        signer,
        manifest.created,
        manifest.root,
        manifest.simulated,
        manifest.horizon,
        tuple(_item(entry, blobs) for entry in manifest.items),
    )


def signer_of(content: bytes) -> str:
    """Return the thumbprint that a bundle names as its signer's; nothing is verified. Raises FormatError."""
    try:
        kid = jws.extract_compact(content.split(b"\n", 1)[0], registry=_registry()).headers().get("kid")
    except (JoseError, ValueError) as error:
        raise _malformed(str(error)) from None
    if not isinstance(kid, str):
        raise _malformed("no key id")
    return kid


def _verified(head: bytes, trusted: Sequence[Key]) -> tuple[bytes, str]:
    """Return payload and signer of the JWS."""
    signer = signer_of(head)
    key = next((key for key in trusted if key.thumbprint() == signer), None)
    if key is None:
        raise TrustError(
            "the bundle is not signed by a key that is trusted here",
            code="bundle.signer",
            expected=", ".join(key.thumbprint() for key in trusted) or "any key: none was given",
            found=signer[:80],
            hint="--trusted-key FILE, the public key of whoever makes the bundles",
        )
    try:
        payload = jws.deserialize_compact(head, key, registry=_registry()).payload
    except (JoseError, ValueError):
        raise TrustError("the signature of the bundle is not good", code="bundle.signature", found=signer) from None
    return payload or b"", signer


def _manifest(payload: bytes) -> _Manifest:
    try:
        manifest = msgspec.convert(load_json(payload, "manifest of the bundle"), _Manifest)
    except msgspec.ValidationError as error:
        raise _malformed(str(error)) from None
    dates = [manifest.created, manifest.horizon]
    dates += [date for entry in manifest.items for date in (entry.issued, entry.next_update, entry.fetched)]
    if any(date.tzinfo is None for date in dates):
        raise _malformed("a time without a zone")
    return manifest


def _blobs(lines: Sequence[bytes]) -> dict[str, bytes]:
    if not lines or lines[-1]:
        raise _malformed("no newline at its end: it may have been cut off")
    try:
        blobs = [base64.b64decode(line, validate=True) for line in lines[:-1]]
    except (binascii.Error, ValueError) as error:
        raise _malformed(str(error)) from None
    return {_digest(blob): blob for blob in blobs}


def _entry(item: Item) -> _Entry:
    return _Entry(
        item.key.kind,
        item.key.subject,
        item.key.tee,
        item.key.update,
        _digest(item.body),
        _digest(item.issuer_chain),
        item.issued,
        item.next_update,
        item.number,
        item.source,
        item.fetched,
    )


def _item(entry: _Entry, blobs: dict[str, bytes]) -> Item:
    return Item(
        ItemKey(entry.kind, entry.subject, entry.tee, entry.update),
        blobs[entry.body],
        blobs[entry.issuer_chain],
        entry.issued,
        entry.next_update,
        entry.number,
        entry.source,
        entry.fetched,
    )


def _registry() -> jws.JWSRegistry:
    """Return what may sign, without the library's bound of 128 kB for a payload: ours is on the whole."""
    registry = jws.JWSRegistry(algorithms=_ALGORITHMS)
    registry.max_payload_length = MAX_SIZE
    return registry


def _jwk(key: object, pem: bytes) -> Key:
    if isinstance(key, ed25519.Ed25519PrivateKey | ed25519.Ed25519PublicKey):
        return OKPKey.import_key(pem)
    if isinstance(key, ec.EllipticCurvePrivateKey | ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1):
        return ECKey.import_key(pem)
    raise _no_key("Ed25519 or P-256", type(key).__name__)


def _algorithm(key: Key) -> str:
    return "Ed25519" if isinstance(key, OKPKey) else "ES256"


def _digest(blob: bytes) -> str:
    return hashlib.sha256(blob).hexdigest()


def _no_key(expected: str, found: str) -> FormatError:
    return FormatError(
        "not a key for bundles",
        code="bundle.wrong-key",
        expected=f"{expected} in PEM, not encrypted",
        found=found,
        hint=_HINT,
    )


def _malformed(found: str) -> FormatError:
    return FormatError("not a bundle of collateral", code="bundle.malformed", found=found[:200])
