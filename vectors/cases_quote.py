# SPDX-License-Identifier: Apache-2.0
"""Cases about the quote itself: its form, its lengths, its certification data, its signatures."""

import hashlib
import struct
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Final

from kubenclave.platform.simulated.pki import pem_chain
from kubenclave.sgx.attributes import Attributes
from kubenclave.sgx.certification import CertificationType
from vectors.case import (
    AUTH_SIZE,
    SECTION,
    V4_SHIFT,
    After,
    Before,
    Case,
    boundaries,
    cut,
    edit,
    flip,
    make,
    put,
    splice,
)
from vectors.scene import AUTH_DATA, PCK_KEY, STRANGER, Evidence, Scene, point, scene

_ENDS: Final = {"sgx-v3": 432, "sgx-v4": 432, "sgx-v5": 438, "tdx-v4": 632, "tdx-v5": 702}
_ORDER: Final = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
_UNSUPPORTED: Final = "malformed quote.unsupported"
_TRUNCATED: Final = "malformed format.truncated"
_TRAILING: Final = "malformed format.trailing"
_TYPE: Final = "malformed quote.certification-type"


def cases() -> Iterator[Case]:
    """Yield them all."""
    yield from _headers()
    for base, end in _ENDS.items():
        yield from _lengths(base, end)
    yield from _certification_data()
    yield from _signatures()
    yield from _bindings()
    yield from _debug()


def _headers() -> Iterator[Case]:
    yield make("version-2", _UNSUPPORTED, after=edit(0, "H", 2))
    yield make("version-6", _UNSUPPORTED, after=edit(0, "H", 6))
    yield make("key-type-epid", _UNSUPPORTED, after=edit(2, "H", 1))
    yield make("key-type-p384", _UNSUPPORTED, after=edit(2, "H", 3))
    yield make("tee-type-unknown", _UNSUPPORTED, after=edit(4, "I", 1), base="sgx-v4")
    yield make("tee-type-tdx-in-v3", _UNSUPPORTED, after=edit(4, "I", 0x81))
    yield make("vendor-unknown", "reject quote.vendor", put(header={"qe_vendor_id": bytes(16)}))
    yield make("header-svns-inform-only", "UpToDate", put(header={"qe_svn": 0, "pce_svn": 0}))
    for number in (0, 5):
        yield make(f"body-type-{number}", _UNSUPPORTED, after=edit(48, "H", number), base="sgx-v5")
    yield make("body-type-of-the-other-tee", _UNSUPPORTED, after=edit(48, "H", 2), base="sgx-v5")
    for name, size in (("less", 383), ("more", 385), ("huge", 0xFFFFFFFF)):
        yield make(f"body-size-{name}", _UNSUPPORTED, after=edit(50, "I", size), base="sgx-v5")


def _lengths(base: str, end: int) -> Iterator[Case]:
    shift = 0 if base == "sgx-v3" else V4_SHIFT
    good = scene(base).build().quote
    section = len(good) - end - 4
    for field, size in boundaries(end, shift, len(good)):
        yield make(f"truncated-{field}", _TRUNCATED, after=cut(size), base=base)
    for name, value, expect in (
        ("huge", 0xFFFFFFFF, _TRUNCATED),
        ("more", section + 1, _TRUNCATED),
        ("less", section - 1, _TRUNCATED),
        ("zero", 0, _TRUNCATED),
    ):
        yield make(f"signature-size-{name}", expect, after=edit(end, "I", value), base=base)
    auth = end + shift + AUTH_SIZE
    for name, value in (("huge", 0xFFFF), ("most", len(good) - auth)):
        yield make(f"auth-data-size-{name}", _TRUNCATED, after=edit(auth, "H", value), base=base)
    at, size = auth + 36, len(good) - auth - 40
    for name, value, expect in (
        ("huge", 0xFFFFFFFF, _TRUNCATED),
        ("more", size + 1, _TRUNCATED),
        # Version 3 has no outer size: what the inner one leaves is ignored, as Intel's library does.
        ("less", size - 1, _TRAILING if shift else "UpToDate"),
        ("zero", 0, _TRAILING if shift else "reject pck.missing"),
    ):
        yield make(f"certification-size-{name}", expect, after=edit(at, "I", value), base=base)
    yield make("trailing-bytes", "UpToDate", after=splice(len(good), len(good), b"second quote"), base=base)
    yield make("trailing-zeros", "UpToDate", after=splice(len(good), len(good), bytes(100)), base=base)
    stray = _after(splice(len(good), len(good), b"!"), edit(end, "I", section + 1))
    yield make("stray-byte-in-section", "UpToDate", after=stray, base=base)
    if shift:
        outer = end + 132
        for name, value, expect in (
            ("huge", 0xFFFFFFFF, _TRUNCATED),
            ("less", section - 135, _TRUNCATED),
            ("zero", 0, _TRUNCATED),
        ):
            yield make(f"outer-size-{name}", expect, after=edit(outer + 2, "I", value), base=base)
        for number in (0, 5, 7):
            yield make(f"outer-type-{number}", _TYPE, after=edit(outer, "H", number), base=base)
    yield make("auth-data-none", "UpToDate", put(auth_data=b""), base=base)
    yield make("auth-data-1000", "UpToDate", put(auth_data=bytes(1000)), base=base)


def _certification_data() -> Iterator[Case]:
    for base in ("sgx-v3", "tdx-v4"):
        at = _ENDS[base] + (0 if base == "sgx-v3" else V4_SHIFT) + AUTH_SIZE + 34
        for number in (0, 6, 8, 0xFFFF):
            yield make(f"certification-type-{number}", _TYPE, after=edit(at, "H", number), base=base)
        for number, size in ((1, 16), (2, 256), (3, 384), (4, None), (7, None)):
            kind = CertificationType(number)
            content = b"content" if size is None else bytes(size) + bytes(16) + struct.pack("<HH", 13, 0)
            change = put(certification=(kind, content))
            yield make(f"certification-type-{number}", "reject pck.missing", change, base=base)
            yield make(f"certification-type-{number}-chain-beside", "UpToDate", change, _chain_beside, base=base)
    nothing = put(certification=(CertificationType.PCK_CERT_CHAIN, b"\0"))
    yield make("certification-type-5-empty", "reject pck.missing", nothing)
    yield make("certification-type-5-empty-chain-beside", "UpToDate", nothing, _chain_beside)
    garbage = put(certification=(CertificationType.PCK_CERT_CHAIN, b"no certificate"))
    yield make("certification-type-5-garbage", "reject pck.malformed", garbage, _chain_beside)


def _signatures() -> Iterator[Case]:
    for base, end in _ENDS.items():
        shift = 0 if base == "sgx-v3" else V4_SHIFT
        signed = {"header": 47, "body": 60, "report-data": end - 1, "signature": end + 4, "signature-s": end + 4 + 63}
        for name, offset in signed.items():
            yield make(f"flipped-{name}", "reject quote.signature", after=flip(offset), base=base)
        flips = {
            "attestation-key": (SECTION["attestation-key"] + 10, "qe-report.key-binding"),
            "qe-report": (SECTION["qe-report"] + shift + 64, "qe-report.signature"),
            "qe-report-signature": (SECTION["qe-report-signature"] + shift, "qe-report.signature"),
            "auth-data": (AUTH_SIZE + shift + 2, "qe-report.key-binding"),
        }
        for name, (offset, code) in flips.items():
            yield make(f"flipped-{name}", f"reject {code}", after=flip(end + offset), base=base)
    yield make("signed-by-another-key", "reject quote.signature", put(signers={"quote": STRANGER}))
    yield make("signed-by-the-pck-key", "reject quote.signature", put(signers={"quote": PCK_KEY}))
    yield make("qe-report-signed-by-another-key", "reject qe-report.signature", put(signers={"qe_report": STRANGER}))
    good = scene("sgx-v3").build().quote[436:500]
    r, s = int.from_bytes(good[:32], "big"), int.from_bytes(good[32:], "big")
    for name, pair in {"r-0": (0, s), "s-0": (r, 0), "r-n": (_ORDER, s), "s-n": (r, _ORDER), "zero": (0, 0)}.items():
        yield make(f"signature-{name}", "reject quote.signature", after=_signature(*pair))
    yield make("signature-plus-n", "reject quote.signature", after=_signature(r, 2**256 - 1))
    yield make("signature-other-s", "UpToDate", after=_signature(r, _ORDER - s))  # plain ECDSA: n-s is as good


def _bindings() -> Iterator[Case]:
    code = "reject qe-report.key-binding"
    key = point(STRANGER)
    yield make("attestation-key-replaced", code, after=splice(500, 564, key))
    yield make("binding-without-auth-data", code, _bound(b"%s"))
    yield make("binding-over-sec1-point", code, _bound(b"\x04%s" + AUTH_DATA))
    yield make("binding-of-another-length-of-auth-data", code, _bound(b"%s" + AUTH_DATA[:31]))
    prefix = hashlib.sha256(point_of_quote() + AUTH_DATA).digest()
    yield make("binding-of-a-prefix", code, put(binding=prefix[:31] + b"\0" + bytes(32)))
    yield make("binding-with-more-behind", "UpToDate", put(binding=prefix + b"\x01" * 32))  # Intel ignores it too
    off_curve = bytes(63) + b"\x05"
    yield make("attestation-key-off-curve", "reject quote.attestation-key", put(attestation_key=off_curve))
    yield make("attestation-key-infinity", "reject quote.attestation-key", put(attestation_key=bytes(64)))
    yield make("attestation-key-beyond-p", "reject quote.attestation-key", put(attestation_key=b"\xff" * 64))


def _debug() -> Iterator[Case]:
    allowed: dict[str, Any] = {"options": {"dangerously_allow_debug": True}}
    for base in ("sgx-v3", "sgx-v4", "sgx-v5"):
        change = put(body={"attributes": Attributes(0x7, 0xE7)})
        yield make("debug", "reject policy.debug", change, base=base)
        yield make("debug-allowed", "UpToDate", change, base=base, **allowed)
    for base in ("tdx-v4", "tdx-v5"):
        change = put(body={"td_attributes": 1 << 28 | 1})
        yield make("debug", "reject policy.debug", change, base=base)
        yield make("debug-allowed", "UpToDate", change, base=base, **allowed)
    yield make("sept-ve-disable-clear", "UpToDate", put(body={"td_attributes": 0}), base="tdx-v4")
    yield make("service-td", "UpToDate", put(body={"mr_service_td": b"\x01" * 48}), base="tdx-v5")
    yield make("provision-key-without-policy", "UpToDate", put(body={"attributes": Attributes(0x15, 0xE7)}))


def point_of_quote() -> bytes:
    """Return the attestation key of the scenes, x‖y."""
    return scene("sgx-v3").attestation_key


def _bound(pattern: bytes) -> Before:
    def change(staged: Scene) -> None:
        staged.binding = hashlib.sha256(pattern % staged.attestation_key).digest() + bytes(32)

    return change


def _signature(r: int, s: int) -> After:
    return splice(436, 500, r.to_bytes(32, "big") + s.to_bytes(32, "big"))


def _chain_beside(evidence: Evidence) -> Evidence:
    staged = scene("sgx-v3")
    chain = pem_chain(*(staged.certificate(name) for name in ("leaf", "ca", "root")))
    return replace(evidence, pck_chain=chain)


def _after(*changes: After) -> After:
    def change(evidence: Evidence) -> Evidence:
        for each in changes:
            evidence = each(evidence)
        return evidence

    return change
