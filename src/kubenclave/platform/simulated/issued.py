# SPDX-License-Identifier: Apache-2.0
"""What a SIMULATED platform and an issuer elsewhere say to each other, and the file in which the answer is kept.

The platform sends public keys and the state of its TCB; certificates and collateral come back. No secret of either
side is in these documents.
"""

import json
from pathlib import Path
from typing import Any, Final, Self, TypeVar

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from kubenclave.dcap.anchor import UNREADABLE
from kubenclave.dcap.collateral import Collateral
from kubenclave.errors import FormatError, PlatformError
from kubenclave.platform.simulated.state import write
from kubenclave.platform.simulated.tcb import PlatformTcb

LIMIT: Final = 256 * 1024
"""Bytes that either document may have."""

PATH: Final = "/v1/certificates"
"""Where an issuer takes requests."""

AUDIENCE: Final = "kubenclave-issuer"
"""For whom the service-account token of a simulator is: the API server takes it from nobody."""

_NAME: Final = "issued.json"
_IDENTITY_DIGITS: Final = 32
_COORDINATES: Final = 64

_Document = TypeVar("_Document")


class CertificateRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a platform asks for. ``platform`` is ``Fuses.identity``, ``keys`` x‖y of the PCK key (hex) in each state."""

    platform: str
    tcb: PlatformTcb
    keys: dict[PlatformTcb, str]

    @classmethod
    def from_json(cls, text: bytes) -> Self:
        """Read a request. Raises FormatError for one that is not complete, too."""
        request = _decoded(text, cls, "request to the issuer")
        if len(request.platform) != _IDENTITY_DIGITS or not _is_hex(request.platform):
            raise _malformed("request to the issuer", "platform", f"{_IDENTITY_DIGITS} hexadecimal digits")
        if request.keys.keys() != set(PlatformTcb):
            raise _malformed("request to the issuer", "keys", "a key for each state")
        for tcb in PlatformTcb:
            request.key(tcb)
        return request

    def key(self, tcb: PlatformTcb) -> ec.EllipticCurvePublicKey:
        """Return the public PCK key of a state. Raises FormatError when it is no point of P-256."""
        try:
            point = bytes.fromhex(self.keys[tcb])
            if len(point) == _COORDINATES:
                return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), b"\x04" + point)
        except ValueError:
            pass
        raise _malformed("request to the issuer", f"keys[{tcb}]", "x and y of a point of P-256 in hex")

    def to_json(self) -> bytes:
        """Return the document."""
        return msgspec.json.encode(self)


class Issued(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """What the issuer sends: root and chains in PEM, collateral for the state ``tcb`` as its flat JSON object.

    ``installation`` is not sent: whoever keeps the document notes there whose issuer it is from.
    """

    platform: str
    tcb: PlatformTcb
    root: str
    chains: dict[PlatformTcb, str]
    collateral: dict[str, Any]
    installation: str = ""

    @classmethod
    def from_json(cls, text: bytes) -> Self:
        """Read the document. Raises FormatError when anything in it cannot be used; nothing is verified."""
        issued = _decoded(text, cls, "answer of the issuer")
        if issued.chains.keys() != set(PlatformTcb):
            raise _malformed("answer of the issuer", "chains", "a chain for each state")
        try:
            _ = issued.root_der
            for chain in issued.chains.values():
                x509.load_pem_x509_certificates(chain.encode())
        except UNREADABLE:
            raise _malformed("answer of the issuer", "root and chains", "certificates in PEM") from None
        _ = issued.collateral_of_state
        return issued

    @property
    def root_der(self) -> bytes:
        """The root certificate, DER."""
        return x509.load_pem_x509_certificate(self.root.encode()).public_bytes(Encoding.DER)

    @property
    def collateral_of_state(self) -> Collateral:
        """The collateral. Raises FormatError when it is none."""
        return Collateral.from_json(json.dumps(self.collateral))

    def to_json(self) -> bytes:
        """Return the document."""
        return msgspec.json.encode(self)

    def save(self, directory: Path) -> None:
        """Keep it in the directory of the platform. Raises PlatformError."""
        write(directory / _NAME, self.to_json())

    @staticmethod
    def forget(directory: Path) -> None:
        """Keep it no longer. Raises PlatformError."""
        try:
            (directory / _NAME).unlink(missing_ok=True)
        except OSError as error:
            raise PlatformError(
                f"cannot remove {directory / _NAME}: {error.strerror}", code="simissuer.forget"
            ) from error

    @classmethod
    def load(cls, directory: Path, platform: str) -> Self:
        """Return what is kept. Raises PlatformError ``simissuer.not-yet`` when there is nothing for this platform."""
        path = directory / _NAME
        try:
            with path.open("rb") as file:
                issued = cls.from_json(file.read(LIMIT))
        except (OSError, FormatError):  # a damaged one is as good as none: the issuer sends another
            issued = None
        if issued is None or issued.platform != platform:
            raise PlatformError(
                "the issuer has not yet certified this SIMULATED platform",
                code="simissuer.not-yet",
                hint="the simulator goes on asking; its log says what is in the way",
            )
        return issued


def _decoded(text: bytes, kind: type[_Document], what: str) -> _Document:
    if len(text) > LIMIT:
        raise _malformed(what, "size", f"at most {LIMIT} bytes")
    try:
        return msgspec.json.decode(text, type=kind)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise FormatError(f"not a proper {what}: {error}", code="simissuer.malformed") from None


def _is_hex(text: str) -> bool:
    return set(text) <= set("0123456789abcdef")


def _malformed(what: str, field: str, expected: str) -> FormatError:
    return FormatError(f"not a proper {what}", code="simissuer.malformed", field=field, expected=expected)
