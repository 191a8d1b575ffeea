# SPDX-License-Identifier: Apache-2.0
"""Cases about certificates: who signed them, when they are valid, what they may be used for."""

import datetime as dt
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from kubenclave.dcap.pckext import PckCa
from kubenclave.platform.simulated.der import boolean, integer, octets, sequence_of_entries
from kubenclave.platform.simulated.pki import Role, pem_chain, sgx_entries, sgx_extension
from kubenclave.platform.simulated.tcb import PlatformTcb
from vectors.case import After, Before, Case, both, make, part, put
from vectors.scene import AT, OTHER_PKI, PCK_KEY, PKI, STRANGER, Scene, der, extension, scene

UP_TO_DATE: Final = PlatformTcb.UP_TO_DATE.svns
_SECOND: Final = dt.timedelta(seconds=1)
_ARC: Final = bytes.fromhex("2a864886f84d010d01")
_NAMES: Final = ("leaf", "ca", "crl_ca", "tcb_signer", "qe_signer")
_CODES: Final = {
    "leaf": "pck",
    "ca": "pck-ca",
    "crl_ca": "pck-ca",
    "tcb_signer": "tcb-signer",
    "qe_signer": "tcb-signer",
}
_CHAINS: Final = {
    "crl_ca": "pck_crl_issuer_chain",
    "tcb_signer": "tcb_info_issuer_chain",
    "qe_signer": "qe_identity_issuer_chain",
}


def cases() -> Iterator[Case]:
    """Yield them all."""
    for name in _NAMES:
        yield from _one_certificate(name)
    yield from _root()
    yield from _revoked()
    yield from _roles()
    yield from _pck_chains()
    yield from _document_chains()
    yield from _pck_extension()


def _one_certificate(name: str) -> Iterator[Case]:
    code = _CODES[name]
    label = name.replace("_", "-")
    yield make(f"{label}-expired", "reject certificate.expired", _says(name, not_after=AT - _SECOND))
    yield make(f"{label}-ends-now", "UpToDate", _says(name, not_after=AT))
    yield make(f"{label}-not-yet-valid", "reject certificate.not-yet-valid", _says(name, not_before=AT + _SECOND))
    yield make(f"{label}-begins-now", "UpToDate", _says(name, not_before=AT))
    # With the right names throughout, but signed by somebody who has none of the keys.
    yield make(f"{label}-signed-by-a-stranger", f"reject {code}.signature", put(signers={name: STRANGER}))
    yield make(
        f"{label}-signed-by-another-root", f"reject {code}.signature", put(signers={name: OTHER_PKI.keys[Role.ROOT]})
    )
    critical = ((x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3"), b""), True),)
    yield make(f"{label}-unknown-critical-extension", f"reject {code}.extensions", _says(name, extra=critical))
    note = ((x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3"), b""), False),)
    yield make(f"{label}-unknown-extension", "UpToDate", _says(name, extra=note))
    for kind in (
        x509.AuthorityKeyIdentifier,
        x509.CRLDistributionPoints,
        x509.SubjectKeyIdentifier,
        x509.KeyUsage,
        x509.BasicConstraints,
    ):
        change = _says(name, without=frozenset({kind.oid}))
        yield make(f"{label}-without-{kind.oid.dotted_string}", f"reject {code}.extensions", change)
    if name == "leaf":
        yield make("leaf-without-sgx-extension", "reject pck.extensions", put(leaf_changes={"sgx": None}))
    ca = name in ("ca", "crl_ca")
    yield make(f"{label}-ca-{str(not ca).lower()}", f"reject {code}.role", _says(name, ca=not ca, path_length=None))
    yield make(f"{label}-p384", f"reject {code}.key", _says(name, public_key=_P384))
    yield make(f"{label}-rsa", f"reject {code}.key", _says(name, public_key=_RSA))
    yield make(f"{label}-signed-with-sha384", f"reject {code}.signature", after=_resigned(name))


def _root() -> Iterator[Case]:
    yield make("no-root-given", "reject pck.untrusted-root", after=_given_root(None))
    yield make("other-root-given", "reject pck.untrusted-root", after=_given_root(OTHER_PKI.root_der))
    for name, changes, code in (
        ("expired", {"not_after": AT - _SECOND}, "certificate.expired"),
        ("not-yet-valid", {"not_before": AT + _SECOND}, "certificate.not-yet-valid"),
    ):
        changed = der(PKI.issue(PKI.template(Role.ROOT, **changes)))
        yield make(f"root-{name}", f"reject {code}", after=_given_root(changed))
        yield make(f"root-in-the-chains-{name}", "UpToDate", put(changes={"root": changes}))  # decoration
    reissued = der(PKI.issue(PKI.template(Role.ROOT, serial=4711)))
    yield make("root-reissued-with-the-same-key", "UpToDate", after=_given_root(reissued))
    yield make("root-garbage", "malformed root.malformed", after=_given_root(b"\x30\x03\x02\x01\x00"))
    yield make("root-empty", "malformed root.malformed", after=_given_root(b""))
    yield make(
        "root-is-the-pck-ca", "malformed root.malformed", after=_given_root(der(PKI.certificates[Role.PLATFORM_CA]))
    )
    not_a_ca = der(PKI.issue(PKI.template(Role.ROOT, ca=False, path_length=None)))
    yield make("root-is-no-ca", "malformed root.malformed", after=_given_root(not_a_ca))
    forged = der(PKI.issue(PKI.template(Role.ROOT), signer=STRANGER))
    yield make("root-not-signed-by-itself", "malformed root.malformed", after=_given_root(forged))
    p384 = ec.derive_private_key(7, ec.SECP384R1())
    other_curve = der(PKI.issue(PKI.template(Role.ROOT, public_key=p384.public_key()), signer=p384))
    yield make("root-p384", "malformed root.malformed", after=_given_root(other_curve))


def _revoked() -> Iterator[Case]:
    leaf = scene("sgx-v3").certificate("leaf").serial_number
    pck_ca = PKI.template(Role.PLATFORM_CA).serial
    signer = PKI.template(Role.TCB_SIGNER).serial
    yield make("leaf-revoked", "reject pck.revoked", put(crls={"pck_crl": {"revoked": [1, leaf, 2]}}))
    yield make("others-revoked", "UpToDate", put(crls={"pck_crl": {"revoked": [leaf - 1, leaf + 1]}}))
    yield make("ca-revoked", "reject pck-ca.revoked", put(crls={"root_ca_crl": {"revoked": [pck_ca]}}))
    yield make("tcb-signer-revoked", "reject tcb-signer.revoked", put(crls={"root_ca_crl": {"revoked": [signer]}}))
    for name, code in (
        ("ca", "pck-ca"),
        ("crl_ca", "pck-ca"),
        ("tcb_signer", "tcb-signer"),
        ("qe_signer", "tcb-signer"),
    ):
        # Each chain has a certificate of its own here, and only one of them is on the list.
        change = both(_says(name, serial=4711), put(crls={"root_ca_crl": {"revoked": [4711]}}))
        yield make(f"{name.replace('_', '-')}-alone-revoked", f"reject {code}.revoked", change)
    # Intel's lists revoke for good: a CRL for the platform's leaf counts whatever dates stand in its entries.
    late = put(crls={"pck_crl": {"revoked": [leaf], "this_update": AT}})
    yield make("leaf-revoked-just-now", "reject pck.revoked", late)


def _roles() -> Iterator[Case]:
    yield make("leaf-issued-by-the-root", "reject pck.role", put(leaf_changes={"issuer": Role.ROOT}))
    yield make("leaf-called-otherwise", "reject pck.chain", put(leaf_changes={"subject": "Intel SGX Attestation"}))
    yield make("leaf-of-the-other-ca", "reject pck.chain", put(leaf_changes={"issuer": Role.PROCESSOR_CA}))
    yield make("ca-issued-by-itself", "reject pck-ca.untrusted-root", _says("ca", issuer=Role.PLATFORM_CA))
    yield make("ca-called-otherwise", "reject pck.chain", _says("ca", subject="Intel SGX PCK Evil CA"))
    evil = both(_says("ca", subject="Intel SGX PCK Evil CA"), _issued_by_evil)
    yield make("leaf-of-an-unknown-ca", "reject pck.role", evil)
    yield make("crl-ca-called-otherwise", "reject pck-ca.role", _says("crl_ca", subject="Intel SGX PCK Evil CA"))
    for name in ("tcb_signer", "qe_signer"):
        label = name.replace("_", "-")
        yield make(f"{label}-called-otherwise", "reject tcb-signer.role", _says(name, subject="Intel SGX Signing"))
        by_ca = _says(name, issuer=Role.PLATFORM_CA)
        yield make(f"{label}-issued-by-the-pck-ca", "reject tcb-signer.untrusted-root", by_ca)
        yield make(
            f"{label}-without-the-right-to-sign", "reject tcb-signer.role", after=_without_digital_signature(name)
        )
    # Genuine keys in roles that are not theirs.
    for document in ("tcb_info", "qe_identity"):
        label = document.replace("_", "-")
        chain = f"{document}_issuer_chain"
        for who, key, certificate in (
            ("pck-leaf", PCK_KEY, "leaf"),
            ("pck-ca", PKI.keys[Role.PLATFORM_CA], "ca"),
            ("root", PKI.keys[Role.ROOT], "root"),
        ):
            with_chain = part(chain, _chain_of(certificate))
            yield make(
                f"{label}-signed-by-the-{who}", "reject tcb-signer.role", put(signers={document: key}), with_chain
            )
            # The right certificate, and yet the signature is somebody else's.
            code = f"reject {label}.signature"
            yield make(f"{label}-signed-with-the-key-of-the-{who}", code, put(signers={document: key}))
        yield make(f"{label}-signed-by-a-stranger", f"reject {label}.signature", put(signers={document: STRANGER}))
        of_other_world = put(signers={document: OTHER_PKI.keys[Role.TCB_SIGNER]})
        other_chain = pem_chain(OTHER_PKI.certificates[Role.TCB_SIGNER], OTHER_PKI.certificates[Role.ROOT]).decode()
        yield make(
            f"{label}-of-another-world", "reject tcb-signer.untrusted-root", of_other_world, part(chain, other_chain)
        )


def _pck_chains() -> Iterator[Case]:
    other = OTHER_PKI.certificates
    orders: tuple[tuple[str, str, Callable[[list[x509.Certificate]], list[x509.Certificate]]], ...] = (
        ("leaf-root-ca", "UpToDate", lambda c: [c[0], c[2], c[1]]),  # seen in real quotes
        ("root-first", "UpToDate", lambda c: [c[2], c[1], c[0]]),
        ("without-root", "UpToDate", lambda c: c[:2]),
        ("without-ca", "reject pck.chain", lambda c: [c[0], c[2]]),
        ("leaf-only", "reject pck.chain", lambda c: c[:1]),
        ("without-leaf", "reject pck.chain", lambda c: c[1:]),
        ("two-leaves", "reject pck.chain", lambda c: [c[0], c[0], c[1]]),
        ("two-cas", "reject pck.untrusted-root", lambda c: [c[0], c[1], c[1]]),
        ("four-certificates", "reject pck.chain", lambda c: [*c, c[2]]),
        ("another-root", "reject pck.untrusted-root", lambda c: [c[0], c[1], other[Role.ROOT]]),
        ("ca-of-another-world", "reject pck-ca.signature", lambda c: [c[0], other[Role.PLATFORM_CA], c[2]]),
        (
            "tcb-signer-in-place-of-root",
            "reject pck.untrusted-root",
            lambda c: [c[0], c[1], PKI.certificates[Role.TCB_SIGNER]],
        ),
    )
    for name, expect, order in orders:
        yield make(f"chain-{name}", expect, put(chain=order))
    yield make("chain-of-another-world", "reject pck.untrusted-root", put(pki=OTHER_PKI))
    # Intel's names under keys of the attacker's, and the genuine root behind: the root alone vouches for nothing.
    mixed = put(signers={"ca": STRANGER, "leaf": STRANGER}, chain=lambda c: [c[0], c[1], PKI.certificates[Role.ROOT]])
    yield make("chain-forged-with-the-genuine-root-behind", "reject pck-ca.signature", mixed)
    same_leaf = put(leaf_changes={"public_key": STRANGER.public_key()})
    yield make("leaf-of-another-platform", "reject qe-report.signature", same_leaf)
    yield make("leaf-reissued-for-the-same-key", "UpToDate", put(leaf_changes={"serial": 4711}))


def _document_chains() -> Iterator[Case]:
    root = PKI.certificates[Role.ROOT]
    for name, chain in _CHAINS.items():
        code, label = _CODES[name], name.replace("_", "-")
        genuine = PKI.certificates[Role.PLATFORM_CA if name == "crl_ca" else Role.TCB_SIGNER]
        for what, pem, expect in (
            ("without-root", pem_chain(genuine), "UpToDate"),
            ("root-first", pem_chain(root, genuine), "UpToDate"),
            ("root-only", pem_chain(root), f"reject {code}.role"),
            ("three-certificates", pem_chain(genuine, root, root), f"reject {code}.chain"),
            ("another-root", pem_chain(genuine, OTHER_PKI.certificates[Role.ROOT]), f"reject {code}.untrusted-root"),
            ("empty", b"", f"reject {code}.malformed"),
            (
                "garbage",
                b"-----BEGIN CERTIFICATE-----\nMAMCAQA=\n-----END CERTIFICATE-----\n",
                f"reject {code}.malformed",
            ),
            ("truncated", pem_chain(genuine)[:-40], f"reject {code}.malformed"),
        ):
            yield make(f"{label}-chain-{what}", expect, after=part(chain, pem.decode()))


def _pck_extension() -> Iterator[Case]:
    code = "reject pck.extension"
    platform = extension(UP_TO_DATE, PckCa.PLATFORM)
    entries = sgx_entries(platform)
    for number in entries:
        rest = {each: value for each, value in entries.items() if each != number}
        yield make(f"sgx-extension-without-{number}", code, _sgx(rest))
    for name, changed in (
        ("ppid-15-bytes", {1: octets(bytes(15))}),
        ("pce-id-3-bytes", {3: octets(bytes(3))}),
        ("fmspc-7-bytes", {4: octets(bytes(7))}),
        ("fmspc-integer", {4: integer(1)}),
        ("sgx-type-3", {5: b"\x0a\x01\x03"}),
        ("sgx-type-empty", {5: b"\x0a\x00"}),
        ("platform-instance-id-17-bytes", {6: octets(bytes(17))}),
        ("an-eighth-entry", {8: integer(0)}),
        (
            "flag-not-distinguished",
            {7: sequence_of_entries(_ARC + b"\x07", {1: b"\x01\x01\x01", 2: boolean(True), 3: boolean(True)})},
        ),
        ("two-flags", {7: sequence_of_entries(_ARC + b"\x07", {1: boolean(True), 2: boolean(True)})}),
    ):
        yield make(f"sgx-extension-{name}", code, _sgx({**entries, **changed}))
    tcb = {number: integer(svn) for number, svn in enumerate(platform.components, 1)}
    tcb |= {17: integer(platform.pce_svn), 18: octets(platform.cpu_svn)}
    for name, value in (
        ("component-16-missing", {number: svn for number, svn in tcb.items() if number != 16}),
        ("component-17", {**tcb, 19: integer(0)}),
        ("component-256", {**tcb, 1: integer(256)}),
        ("component-263", {**tcb, 1: integer(263)}),  # Intel's library reads 7
        ("component-negative", {**tcb, 1: b"\x02\x01\xff"}),
        ("component-padded", {**tcb, 1: b"\x02\x02\x00\x0e"}),
        ("component-empty", {**tcb, 1: b"\x02\x00"}),
        ("pcesvn-65536", {**tcb, 17: integer(65536)}),
        ("cpusvn-15-bytes", {**tcb, 18: octets(bytes(15))}),
    ):
        yield make(f"sgx-extension-{name}", code, _sgx({**entries, 2: sequence_of_entries(_ARC + b"\x02", value)}))
    whole = sgx_extension(entries)
    for name, der_value in (
        ("trailing-bytes", whole + b"\0\0"),
        ("truncated", whole[:-1]),
        ("empty", b""),
        ("indefinite-length", b"\x30\x80" + whole[4:] + b"\0\0"),
        ("foreign-arc", whole.replace(_ARC + b"\x04", _ARC[:-1] + b"\x02\x04")),
        ("fmspc-twice", whole.replace(_ARC + b"\x03", _ARC + b"\x04")),
    ):
        yield make(f"sgx-extension-{name}", code, put(leaf_changes={"sgx": der_value}))
    processor = sgx_extension(sgx_entries(extension(UP_TO_DATE, PckCa.PROCESSOR)))
    yield make("sgx-extension-five-entries-under-platform-ca", code, put(leaf_changes={"sgx": processor}))
    yield make(
        "sgx-extension-seven-entries-under-processor-ca", code, put(leaf_changes={"sgx": whole}), ca=PckCa.PROCESSOR
    )
    yield make("processor-ca", "UpToDate", ca=PckCa.PROCESSOR)
    contradicting = replace(platform, cpu_svn=bytes(16))
    yield make("cpusvn-unlike-its-components", "UpToDate", put(extension=contradicting))
    shuffled = {number: entries[number] for number in (5, 4, 7, 6, 3, 2, 1)}
    yield make("sgx-extension-in-another-order", "UpToDate", _sgx(shuffled))


_KEY_AGREEMENT_ONLY: Final = x509.KeyUsage(
    digital_signature=False,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=True,
    key_cert_sign=False,
    crl_sign=False,
    encipher_only=False,
    decipher_only=False,
)
_P384: Final = ec.derive_private_key(5, ec.SECP384R1()).public_key()
# Any odd number will do: nothing is ever signed with it.
_RSA: Final = rsa.RSAPublicNumbers(65537, 2**2047 + 1).public_key()


def _says(name: str, **changes: Any) -> Before:
    return put(leaf_changes=changes) if name == "leaf" else put(changes={name: changes})


def _sgx(entries: dict[int, bytes]) -> Before:
    return put(leaf_changes={"sgx": sgx_extension(entries)})


def _given_root(root: bytes | None) -> After:
    return lambda evidence: replace(evidence, root=root)


def _chain_of(name: str) -> str:
    certificate = scene("sgx-v3").certificate(name)
    return pem_chain(certificate, PKI.certificates[Role.ROOT]).decode()


def _issued_by_evil(staged: Scene) -> None:
    """Let the leaf name an issuer that is not one of Intel's two, with that CA's key."""
    staged.leaf_changes["issuer"] = "Intel SGX PCK Evil CA"
    staged.signers["leaf"] = PKI.keys[Role.PLATFORM_CA]


def _replaced(name: str, certificate: x509.Certificate) -> After:
    """Return a change that puts a certificate in the place of the one of that name."""
    old, new = scene("sgx-v3").certificate(name), certificate
    if name in _CHAINS:
        return part(_CHAINS[name], lambda pem: pem.replace(pem_chain(old).decode(), pem_chain(new).decode()))

    in_chain = put(chain=lambda chain: [new if each == old else each for each in chain])
    return lambda _: make("", "", in_chain).evidence


def _resigned(name: str) -> After:
    """Sign the certificate of that name with SHA-384 in place of SHA-256."""
    certificate = scene("sgx-v3").certificate(name)
    issuer = Role.PLATFORM_CA if name == "leaf" else Role.ROOT
    builder = _builder_of(certificate)
    return _replaced(name, builder.sign(PKI.keys[issuer], hashes.SHA384(), ecdsa_deterministic=True))


def _without_digital_signature(name: str) -> After:
    """Take the right to sign documents from a signer's certificate."""
    certificate = scene("sgx-v3").certificate(name)
    builder = _builder_of(certificate, _KEY_AGREEMENT_ONLY)
    return _replaced(name, builder.sign(PKI.keys[Role.ROOT], hashes.SHA256(), ecdsa_deterministic=True))


def _builder_of(certificate: x509.Certificate, usage: x509.KeyUsage | None = None) -> x509.CertificateBuilder:
    builder = (
        x509.CertificateBuilder()
        .subject_name(certificate.subject)
        .issuer_name(certificate.issuer)
        .public_key(certificate.public_key())
        .serial_number(certificate.serial_number)
        .not_valid_before(certificate.not_valid_before_utc)
        .not_valid_after(certificate.not_valid_after_utc)
    )
    for each in certificate.extensions:
        value = usage if usage is not None and isinstance(each.value, x509.KeyUsage) else each.value
        builder = builder.add_extension(value, critical=each.critical)
    return builder
