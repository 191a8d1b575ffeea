# SPDX-License-Identifier: Apache-2.0
"""Signed heads and receipts of a log, in the formats that other transparency tools read (https://c2sp.org).

- signed-note: text and Ed25519 signatures over it; ``LogKey`` is the verifier's half of a key.
- tlog-checkpoint: the note that says how many entries a log has, and their root.
- tlog-proof: a checkpoint with the inclusion proof of one entry; here that is a receipt.

Pure: bytes and text in, values out.
"""

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass
from typing import Final, Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from kubenclave.dcap.merkle import HASH_SIZE, check_inclusion, leaf_hash
from kubenclave.errors import FormatError, TrustError

MAX_NOTE: Final = 16 << 10  # characters; room for sixteen signatures, as signed-note asks for
MAX_PROOF: Final = 64  # hashes: a log cannot have more than 2**63 entries
_ED25519: Final = b"\x01"  # signature type of signed-note
_PROOF: Final = "c2sp.org/tlog-proof@v1"
_NUMBER: Final = re.compile(r"0|[1-9][0-9]{0,18}", re.ASCII)
_NAME: Final = re.compile(r"[^\s+]{1,255}")


@dataclass(frozen=True, slots=True)
class LogKey:
    """Name and public key (32 bytes, Ed25519) of a log.

    Raises FormatError ``checkpoint.bad-key`` for a name that signed-note does not allow.
    """

    name: str
    public: bytes

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name) or not self.name.isprintable() or len(self.public) != HASH_SIZE:
            raise _bad_key(self.name)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a verifier key: ``<name>+<key id>+<base64>``. Raises FormatError ``checkpoint.bad-key``."""
        name, _, rest = text.strip().partition("+")
        key_id, _, encoded = rest.partition("+")
        try:
            data = base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError):
            raise _bad_key(text) from None
        if data[:1] != _ED25519:
            raise _bad_key(text)
        key = cls(name, data[1:])
        if key.key_id.hex() != key_id:
            raise _bad_key(text)
        return key

    @property
    def key_id(self) -> bytes:
        """First four bytes of SHA-256 over name, newline, type and key."""
        return hashlib.sha256(self.name.encode() + b"\n" + _ED25519 + self.public).digest()[:4]

    def __str__(self) -> str:
        return f"{self.name}+{self.key_id.hex()}+{_base64(_ED25519 + self.public)}"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Head of a log: whose, how many entries, and the root of the tree over them (32 bytes)."""

    origin: str
    size: int
    root: bytes

    @property
    def text(self) -> str:
        """What is signed."""
        return f"{self.origin}\n{self.size}\n{_base64(self.root)}\n"

    def sign(self, private: Ed25519PrivateKey) -> str:
        """Return the checkpoint as a note signed in the name of the log."""
        key = LogKey(self.origin, private.public_key().public_bytes_raw())
        return f"{self.text}\n— {key.name} {_base64(key.key_id + private.sign(self.text.encode()))}\n"


@dataclass(frozen=True, slots=True)
class InclusionReceipt:
    """A receipt that was read: place of the entry, its proof and the note of the head, not checked yet."""

    index: int
    proof: tuple[bytes, ...]
    note: str

    @property
    def text(self) -> str:
        """The receipt as tlog-proof."""
        return "\n".join([_PROOF, f"index {self.index}", *map(_base64, self.proof), "", self.note])

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a tlog-proof. Raises FormatError ``receipt.malformed``."""
        head, blank, note = text.partition("\n\n")
        lines = head.split("\n")
        if not blank or lines[0] != _PROOF:
            raise _bad_receipt(f"first line {lines[0][:60]!r}")
        del lines[0]
        if lines and lines[0].startswith("extra "):  # allowed, signed by nobody, so without meaning here
            del lines[0]
        if not lines or not lines[0].startswith("index ") or len(lines) > MAX_PROOF + 1:
            raise _bad_receipt("no index, or too long a proof")
        index = lines[0].removeprefix("index ")
        if not _NUMBER.fullmatch(index):
            raise _bad_receipt(f"index {index[:30]!r}")
        try:
            return cls(int(index), tuple(_hash(line) for line in lines[1:]), note)
        except ValueError:
            raise _bad_receipt("a line of the proof is not 32 bytes in base64") from None

    def check(self, entry: bytes, key: LogKey) -> Checkpoint:
        """Check that the log of ``key`` signed a head under which ``entry`` has this place; returns that head.

        Raises FormatError ``checkpoint.malformed``, TrustError ``checkpoint.signature`` or ``log.inclusion``.
        """
        head = open_checkpoint(self.note, key)
        check_inclusion(leaf_hash(entry), self.index, head.size, self.proof, head.root)
        return head


def open_checkpoint(note: str, key: LogKey) -> Checkpoint:
    """Check the log's signature on a note and return what it says. Signatures of others are left alone.

    Raises FormatError ``checkpoint.malformed``, and TrustError ``checkpoint.signature`` without a good signature of
    ``key``, or when the note is another log's.
    """
    if len(note) > MAX_NOTE:
        raise _bad_note(f"{len(note)} characters")
    text, blank, signatures = note.rpartition("\n\n")
    lines = text.split("\n")
    if not blank or len(lines) < 3 or not signatures.endswith("\n"):  # origin, size, root
        raise _bad_note("parts are missing")
    try:
        size, root = lines[1], _hash(lines[2])
    except ValueError:
        raise _bad_note(f"root {lines[2][:60]!r}") from None
    if not _NUMBER.fullmatch(size):
        raise _bad_note(f"size {size[:30]!r}")
    _check_signature(f"{text}\n".encode(errors="surrogatepass"), signatures, key)
    if lines[0] != key.name:
        raise TrustError(
            "the head is another log's", code="checkpoint.signature", expected=key.name, found=lines[0][:255]
        )
    return Checkpoint(lines[0], int(size), root)


def _check_signature(text: bytes, signatures: str, key: LogKey) -> None:
    """Raise TrustError unless the key's signature is there and holds; every one that is said to be the key's must."""
    found = False
    for line in signatures.splitlines():
        dash, _, rest = line.partition(" ")
        name, _, encoded = rest.partition(" ")
        try:
            data = base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError):
            raise _bad_note("a signature is not base64") from None
        if dash != "—":
            raise _bad_note("a signature line does not begin with a dash")
        if name != key.name or data[:4] != key.key_id:
            continue
        try:
            Ed25519PublicKey.from_public_bytes(key.public).verify(data[4:], text)
        except InvalidSignature:
            raise _bad_signature(key) from None
        found = True
    if not found:
        raise _bad_signature(key)


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _hash(text: str) -> bytes:
    """Decode one hash; ValueError when it is none."""
    data = base64.b64decode(text, validate=True)
    if len(data) != HASH_SIZE:
        raise ValueError
    return data


def _bad_key(found: str) -> FormatError:
    return FormatError(
        "not the verifier key of a log",
        code="checkpoint.bad-key",
        expected="<name>+<8 hex digits>+<base64 of 0x01 and the Ed25519 key>",
        found=repr(found[:120]),
        hint="`kubenclave attest log head --url URL` shows the key of a service",
    )


def _bad_note(found: str) -> FormatError:
    return FormatError(
        "not a signed head of a log",
        code="checkpoint.malformed",
        expected="a tlog-checkpoint: origin, size, root, blank line, signatures",
        found=found,
    )


def _bad_signature(key: LogKey) -> TrustError:
    return TrustError(
        "the head of the log bears no good signature of the log's key",
        code="checkpoint.signature",
        expected=f"signature of {key.name}, key id {key.key_id.hex()}",
        hint="take the log's key from its operator by a way of its own, not from the answer that is to be checked",
    )


def _bad_receipt(found: str) -> FormatError:
    return FormatError(
        "not a receipt of a log",
        code="receipt.malformed",
        expected="a tlog-proof: its first line, index, hashes in base64, blank line, checkpoint",
        found=found,
    )
