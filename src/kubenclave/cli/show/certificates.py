# SPDX-License-Identifier: Apache-2.0
"""Certificates and revocation lists described as they stand: nothing here is verified."""

import datetime as dt
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509.oid import NameOID

from kubenclave.cli.evidence import zulu
from kubenclave.dcap.chain import MAX_CHAIN_SIZE, malformed_as
from kubenclave.dcap.pckext import SGX_EXTENSION, PckCa, PckExtension
from kubenclave.errors import FormatError, TrustError


def describe_chain(pem: bytes) -> dict[str, Any]:
    """Return the certificates of a PEM chain, or under ``unreadable`` why there are none."""
    if len(pem) > MAX_CHAIN_SIZE:
        return {"unreadable": f"certificate chain is too long: {len(pem)} bytes"}
    try:
        with malformed_as("certificate chain", "chain.malformed"):
            return {"certificates": [_certificate(each) for each in x509.load_pem_x509_certificates(pem)]}
    except TrustError as error:
        return {"unreadable": str(error)}


def describe_crl(der: bytes) -> dict[str, Any]:
    """Return what a revocation list says of itself, or under ``unreadable`` why it cannot be read."""
    try:
        with malformed_as("revocation list", "crl.malformed"):
            crl = x509.load_der_x509_crl(der)
            number = crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
            ends = crl.next_update_utc
            return {
                "issuer": crl.issuer.rfc4514_string(),
                "number": number,
                "revoked": [f"{each.serial_number:x}" for each in crl],
                "valid": [zulu(crl.last_update_utc), None if ends is None else zulu(ends)],
            }
    except TrustError as error:
        return {"unreadable": str(error)}


def signer_of(chain: dict[str, Any]) -> str:
    """Return the name of the first certificate in a described chain that did not sign itself."""
    for each in chain.get("certificates", ()):
        if each["subject"] != each["issuer"]:
            return str(each["name"])
    return "nobody known"


def _certificate(certificate: x509.Certificate) -> dict[str, Any]:
    described: dict[str, Any] = {
        "name": _common_name(certificate.subject),
        "subject": certificate.subject.rfc4514_string(),
        "issuer": certificate.issuer.rfc4514_string(),
        "serial_number": f"{certificate.serial_number:x}",
        "sha256": certificate.fingerprint(SHA256()).hex(),
        "valid": [zulu(certificate.not_valid_before_utc), zulu(certificate.not_valid_after_utc)],
    }
    if any(extension.oid == SGX_EXTENSION for extension in certificate.extensions):
        described["platform"] = _platform(certificate)
    return described


def _platform(certificate: x509.Certificate) -> dict[str, Any]:
    """Return the SGX extension of a PCK certificate; which of the two shapes it has tells the CA."""
    value = certificate.extensions.get_extension_for_oid(SGX_EXTENSION).value
    assert isinstance(value, x509.UnrecognizedExtension)
    kind = PckCa.PLATFORM if "Platform" in _common_name(certificate.issuer) else PckCa.PROCESSOR
    try:
        extension = PckExtension.parse(value.value, kind)
    except FormatError as error:
        return {"unreadable": str(error)}
    return {
        "fmspc": extension.fmspc.hex(),
        "pce_id": extension.pce_id.hex(),
        "pce_svn": extension.pce_svn,
        "cpu_svn": extension.cpu_svn.hex(),
        "components": list(extension.components),
        "ppid": extension.ppid.hex(),
        "sgx_type": extension.sgx_type.name,
    }


def _common_name(name: x509.Name) -> str:
    names = name.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(names[0].value) if names else name.rfc4514_string()


def state_at(valid: list[str | None], at: dt.datetime) -> str:
    """Return ``current``, ``expired`` or ``not valid yet`` for a pair of times as described above."""
    start, end = valid
    if start is not None and at < dt.datetime.fromisoformat(start):
        return "not valid yet"
    if end is not None and at > dt.datetime.fromisoformat(end):
        return "expired"
    return "current"
