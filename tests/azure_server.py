# SPDX-License-Identifier: Apache-2.0
"""A service over a SIMULATED platform on a loopback port, for clients that are not ours: real clock, real TLS."""

import asyncio
import contextlib
import datetime as dt
import hashlib
import shutil
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from kubenclave.services.attestation.app import attestation_app
from kubenclave.services.attestation.provider import FixedCollateral
from kubenclave.services.attestation.service import AttestationService
from kubenclave.services.attestation.settings import Settings
from kubenclave.services.web.credentials import Role
from tests.simulated_platform import Platform


@dataclass(frozen=True)
class Identity:
    """A certificate and its key, in PEM."""

    certificate: str
    key: str

    @property
    def der(self) -> bytes:
        return x509.load_pem_x509_certificate(self.certificate.encode()).public_bytes(Encoding.DER)

    @property
    def elliptic(self) -> bool:
        key = x509.load_pem_x509_certificate(self.certificate.encode()).public_key()
        return isinstance(key, ec.EllipticCurvePublicKey)


@dataclass
class Served:
    """What clients are given: the URL, the CA's file, the token of an administrator; and what makes evidence."""

    url: str
    ca: Path
    admin: str
    service: AttestationService
    platform: Platform

    def quote(self, runtime_data: bytes = b"", *, debug: bool = False) -> bytes:
        data = hashlib.sha256(runtime_data).digest() if runtime_data else b""
        return self.platform.quote(data.ljust(64, b"\0"), debug=debug)

    def policies_set(self) -> int:
        return sum(self.service.policies.current(kind).version for kind in ("SgxEnclave", "OpenEnclave", "TdxVm"))


def utc_now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


def open_enclave_report(quote: bytes) -> bytes:
    return struct.pack("<IIQ", 1, 2, len(quote)) + quote


def signing_identity(name: str = "signer", *, elliptic: bool = False, days: int = 30, key: Any = None) -> Identity:
    """A self-signed certificate, as people make them for signing policies; ended where ``days`` is negative."""
    if key is None:
        key = ec.generate_private_key(ec.SECP256R1()) if elliptic else rsa.generate_private_key(65537, 2048)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    return _issue(key, subject, key, subject, ends=utc_now() + dt.timedelta(days=days))


@contextlib.contextmanager
def served(directory: Path, *, tls: bool = True, **settings: Any) -> Iterator[Served]:
    """Serve, over TLS with a CA of its own or in the clear, until the end of the block."""
    listening = socket.create_server(("127.0.0.1", 0))
    url = f"{'https' if tls else 'http'}://localhost:{listening.getsockname()[1]}/simulated"
    platform = Platform.ready()
    given = {"issuer": url, "state": directory / "state", "root": platform.issuer.root_der, "open": True, **settings}
    provider = FixedCollateral(platform.collateral(utc_now()))
    service = AttestationService.create(Settings(**given), provider, utc_now)
    try:
        admin = service.credentials.create("admin", [Role.POLICY_ADMIN])
        context = _context(write_certificates(directory)) if tls else None
        with _running(service, listening, context):
            yield Served(url, directory / "ca.pem", admin, service, platform)
    finally:
        service.close()
        listening.close()


def javascript() -> Path | None:
    """Folder of the installed packages of Microsoft's JavaScript client, None where they or node are not here."""
    installed = Path(__file__).parents[1] / ".cache" / "azure-js" / "node_modules"
    return installed if installed.is_dir() and shutil.which("node") else None


@contextlib.contextmanager
def _running(service: AttestationService, listening: socket.socket, context: ssl.SSLContext | None) -> Iterator[None]:
    factory: Callable[..., ssl.SSLContext] | None = None if context is None else lambda *_: context
    config = uvicorn.Config(
        attestation_app(service), lifespan="off", log_config=None, ws="none", ssl_context_factory=factory
    )
    server, ending = uvicorn.Server(config), threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(_serve(server, listening, ending)))
    thread.start()
    try:
        yield
    finally:
        ending.set()
        thread.join()


async def _serve(server: uvicorn.Server, listening: socket.socket, ending: threading.Event) -> None:
    """Serve until told to end; a connection that a client forgot after an error would hold up TLS for 30 s then."""
    serving = asyncio.create_task(server.serve([listening]))
    await asyncio.to_thread(ending.wait)
    server.should_exit = True
    for connection in list(server.server_state.connections):
        connection.transport.abort()
    await serving


def write_certificates(directory: Path) -> Path:
    """Make a CA and a certificate for localhost: ``ca.pem``, and ``server.pem`` with its key, which is returned."""
    authority_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    authority = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test CA")])
    localhost = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    ends = utc_now() + dt.timedelta(days=2)
    ca = _issue(authority_key, authority, authority_key, authority, ends=ends, is_ca=True)
    leaf = _issue(key, localhost, authority_key, authority, ends=ends)
    (directory / "ca.pem").write_text(ca.certificate)
    server = directory / "server.pem"
    server.write_text(leaf.certificate + leaf.key)
    server.chmod(0o600)
    return server


def _context(server: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(server)
    return context


def _issue(
    key: Any, subject: x509.Name, issuer_key: Any, issuer: x509.Name, *, ends: dt.datetime, is_ca: bool = False
) -> Identity:
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(utc_now() - dt.timedelta(days=9))
        .not_valid_after(ends)
        .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
    )
    if is_ca:
        builder = builder.add_extension(
            x509.KeyUsage(
                digital_signature=True,
                content_commitment=False,
                key_encipherment=False,
                data_encipherment=False,
                key_agreement=False,
                key_cert_sign=True,
                crl_sign=True,
                encipher_only=False,
                decipher_only=False,
            ),
            critical=True,
        )
    certificate = builder.sign(issuer_key, SHA256())
    return Identity(
        certificate.public_bytes(Encoding.PEM).decode(),
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode(),
    )


def refused(answer: Any, status: int, code: str, own: str | None = None) -> dict[str, Any]:
    """Check the shape of an error and return what Azure's clients read of it."""
    assert (answer.status_code, answer.headers["x-ms-error-code"]) == (status, code), answer.text
    assert answer.headers["content-type"] == "application/json"
    error: dict[str, Any] = answer.json()["error"]
    assert error["code"] == code
    assert error["message"]
    if own is not None:
        assert error["innererror"]["code"] == own
    return error
