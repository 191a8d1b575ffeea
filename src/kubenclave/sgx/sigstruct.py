# SPDX-License-Identifier: Apache-2.0
"""SIGSTRUCT: who vouches for an enclave, and what it may be (SDM vol. 3D, SIGSTRUCT).

The signature is RSA-3072 with exponent 3, PKCS #1 v1.5 and SHA-256, over 256 of the 1808 bytes. Everything here is
plain integers, so that the bytes can leave for a key that lives elsewhere: ``signed_bytes`` out, ``assemble`` in.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final, Self

from kubenclave.errors import FormatError, TrustError
from kubenclave.sgx.attributes import Attributes
from kubenclave.sgx.layout import Layout

SIGSTRUCT_SIZE: Final = 1808
KEY_SIZE: Final = 384
EXPONENT: Final = 3
VENDOR_INTEL: Final = 0x8086

_HEADER: Final = bytes.fromhex("06000000e10000000000010000000000")
_HEADER2: Final = bytes.fromhex("01010000600000006000000001000000")
# DER of AlgorithmIdentifier sha256 and the start of the digest: RFC 8017, 9.2, note 1.
_DIGEST_INFO: Final = bytes.fromhex("3031300d060960864801650304020105000420")

_LAYOUT: Final = Layout(
    "SIGSTRUCT",
    SIGSTRUCT_SIZE,
    [
        (0, "header", 16),
        (16, "vendor", "I"),
        (20, "date", "I"),
        (24, "header2", 16),
        (40, "sw_defined", "I"),
        (128, "modulus", KEY_SIZE),
        (512, "exponent", "I"),
        (516, "signature", KEY_SIZE),
        (900, "misc_select", "I"),
        (904, "misc_mask", "I"),
        (908, "cet_attributes", "B"),
        (909, "cet_attributes_mask", "B"),
        (912, "isv_family_id", 16),
        (928, "attributes", 16),
        (944, "attribute_mask", 16),
        (960, "enclave_hash", 32),
        (1008, "isv_ext_prod_id", 16),
        (1024, "isv_prod_id", "H"),
        (1026, "isv_svn", "H"),
        (1040, "q1", KEY_SIZE),
        (1424, "q2", KEY_SIZE),
    ],
)

Signer = Callable[[bytes], int]
"""Makes the signature, as an integer, of the 256 bytes it is given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sigstruct:
    """An enclave's birth certificate. ``modulus``, ``signature``, ``q1`` and ``q2`` are 384 bytes, little-endian.

    ``date`` is BCD as on disk, 0x20250131 for 31 January 2025; the masks select the bits of ATTRIBUTES,
    MISCSELECT and CET that must be as stated here. A mask without DEBUG lets the host launch the enclave in debug
    mode. The four key fields of a template are zero.
    """

    enclave_hash: bytes
    attributes: Attributes
    attribute_mask: Attributes
    misc_select: int = 0
    misc_mask: int = 0xFFFFFFFF
    cet_attributes: int = 0
    cet_attributes_mask: int = 0
    isv_family_id: bytes = bytes(16)
    isv_ext_prod_id: bytes = bytes(16)
    isv_prod_id: int = 0
    isv_svn: int = 0
    vendor: int = 0
    date: int = 0
    sw_defined: int = 0
    modulus: bytes = bytes(KEY_SIZE)
    signature: bytes = bytes(KEY_SIZE)
    q1: bytes = bytes(KEY_SIZE)
    q2: bytes = bytes(KEY_SIZE)

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read exactly 1808 bytes.

        Raises FormatError for another length, header, vendor or exponent, and for reserved bytes that are not zero:
        what EINIT calls INVALID_SIG_STRUCT.
        """
        fields = _LAYOUT.parse(data)
        _require("HEADER", _HEADER.hex(), fields.pop("header").hex())
        _require("HEADER2", _HEADER2.hex(), fields.pop("header2").hex())
        _require("EXPONENT", EXPONENT, fields.pop("exponent"))
        if fields["vendor"] not in (0, VENDOR_INTEL):
            _require("VENDOR", "0 or 0x8086", hex(fields["vendor"]))
        for name in ("attributes", "attribute_mask"):
            fields[name] = Attributes.parse(fields[name])
        return cls(**fields)

    def build(self) -> bytes:
        """Return the 1808 bytes. Raises FormatError when a field has the wrong size."""
        fields: dict[str, Any] = {name: getattr(self, name, None) for name in _LAYOUT.names}
        fields |= {"header": _HEADER, "header2": _HEADER2, "exponent": EXPONENT}
        fields |= {"attributes": self.attributes.build(), "attribute_mask": self.attribute_mask.build()}
        return _LAYOUT.build(fields)

    @property
    def mr_signer(self) -> bytes:
        """SHA-256 of the modulus as stored, little-endian: 32 bytes."""
        return hashlib.sha256(self.modulus).digest()

    @property
    def sign_date(self) -> str:
        """The date as YYYY-MM-DD; 0000-00-00 is legal and means none."""
        digits = f"{self.date:08x}"
        return f"{digits[:4]}-{digits[4:6]}-{digits[6:]}"

    @property
    def debug_allowed(self) -> bool:
        """Whether this SIGSTRUCT lets the enclave be launched in debug mode, stated or not."""
        return self.attributes.debug or not self.attribute_mask.debug

    def signed_bytes(self) -> bytes:
        """Return the 256 bytes that are signed: 0 to 127 and 900 to 1027."""
        built = self.build()
        return built[:128] + built[900:1028]

    def check(self) -> None:
        """Check the signature and the helper values Q1 and Q2, as EINIT does. Raises TrustError."""
        modulus, signature = _number(self.modulus), _number(self.signature)
        if modulus.bit_length() != 8 * KEY_SIZE or modulus % 2 == 0:
            raise _untrusted("MODULUS", "an odd number of 3072 bits", f"{modulus.bit_length()} bits")
        if not 0 < signature < modulus:
            raise _untrusted("SIGNATURE", "below the modulus, not zero", "another number")
        q1, q2 = _quotients(modulus, signature)
        if (q1, q2) != (_number(self.q1), _number(self.q2)):
            raise _untrusted("Q1, Q2", "the quotients of SIGNATURE and MODULUS", "other numbers")
        if pow(signature, EXPONENT, modulus) != _encoded(self.signed_bytes()):
            raise _untrusted("SIGNATURE", "the signature of this SIGSTRUCT by MODULUS", "another one")

    def as_dict(self) -> dict[str, Any]:
        """Shape in JSON output: what the enclave may be, without the numbers of the signature."""
        return {
            "mr_enclave": self.enclave_hash.hex(),
            "mr_signer": self.mr_signer.hex(),
            "isv_prod_id": self.isv_prod_id,
            "isv_svn": self.isv_svn,
            "date": self.sign_date,
            "attributes": self.attributes.build().hex(),
            "attribute_mask": self.attribute_mask.build().hex(),
            "misc_select": self.misc_select,
            "debug_allowed": self.debug_allowed,
        }


def assemble(template: Sigstruct, modulus: int, signature: int) -> Sigstruct:
    """Put a signature that was made elsewhere, and its modulus, into a template; Q1 and Q2 follow from the two.

    Raises TrustError when it is not the template's signature.
    """
    try:
        q1, q2 = _quotients(modulus, signature)
        signed = replace(template, modulus=_bytes(modulus), signature=_bytes(signature), q1=_bytes(q1), q2=_bytes(q2))
    except (OverflowError, ZeroDivisionError):
        raise _untrusted("SIGNATURE", "numbers of 3072 bits, below the modulus", "others") from None
    signed.check()
    return signed


def sign(template: Sigstruct, modulus: int, signer: Signer) -> Sigstruct:
    """Sign a template with ``signer``, whose modulus is given. Raises TrustError when the two do not fit."""
    return assemble(template, modulus, signer(template.signed_bytes()))


def rsa_signer(modulus: int, private_exponent: int) -> Signer:
    """Return a signer with the key in plain integers: for simulated platforms and keys that protect nothing.

    It takes time that depends on the key; a key of value belongs behind ``signed_bytes`` and ``assemble``.
    """
    return lambda message: pow(_encoded(message), private_exponent, modulus)


def _quotients(modulus: int, signature: int) -> tuple[int, int]:
    q1, rest = divmod(signature * signature, modulus)
    return q1, signature * rest // modulus


def _encoded(message: bytes) -> int:
    """EMSA-PKCS1-v1_5 of the message's SHA-256, 384 bytes (RFC 8017, 9.2)."""
    digest_info = _DIGEST_INFO + hashlib.sha256(message).digest()
    padding = b"\xff" * (KEY_SIZE - 3 - len(digest_info))
    return int.from_bytes(b"\0\1" + padding + b"\0" + digest_info, "big")


def _number(data: bytes) -> int:
    return int.from_bytes(data, "little")


def _bytes(number: int) -> bytes:
    return number.to_bytes(KEY_SIZE, "little")


def _require(field: str, expected: object, found: object) -> None:
    if expected != found:
        raise FormatError(
            "not a SIGSTRUCT", code="sigstruct.malformed", field=field, expected=str(expected), found=str(found)
        )


def _untrusted(field: str, expected: str, found: str) -> TrustError:
    return TrustError(
        "SIGSTRUCT is not genuine",
        code="sigstruct.signature",
        field=field,
        expected=expected,
        found=found,
        hint="sign it anew: any changed byte needs a new signature",
    )
