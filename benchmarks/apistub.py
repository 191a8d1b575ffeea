# SPDX-License-Identifier: Apache-2.0
"""A stand-in for an API server that holds one Node: just enough for a daemon that reads and patches it over TLS."""

import datetime as dt
import http.server
import json
import ssl
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from benchmarks import node

if TYPE_CHECKING:
    from benchmarks.peers import Room

NODE: Final = "node-1"
PORT: Final = 6443
_OBJECT: Final = json.dumps(
    {"kind": "Node", "apiVersion": "v1", "metadata": {"name": NODE, "uid": "1", "resourceVersion": "1"}}
).encode()


@dataclass(frozen=True, slots=True)
class Stub:
    """A running stand-in: whom to trust, where it listens, and whether the Node has been patched."""

    ca: bytes
    port: int
    patched: Callable[[], bool]


@contextmanager
def serving(room: "Room", folder: Path) -> Iterator[Stub]:
    """Serve inside ``room`` on its loopback."""
    folder.mkdir()
    certificate, key = self_signed("127.0.0.1", "localhost")
    (folder / "tls.crt").write_bytes(certificate)
    (folder / "tls.key").write_bytes(key)
    command = room.inside(sys.executable, "-m", "benchmarks.apistub", str(folder))
    with node.started(command, (folder / "listening").exists):
        yield Stub(certificate, PORT, (folder / "patched").exists)


def self_signed(address: str, *names: str) -> tuple[bytes, bytes]:
    """Return a certificate that is its own CA, and its key, both in PEM. ``address`` is an IP address."""
    import ipaddress

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
    now = dt.datetime.now(dt.UTC)
    alternatives = [x509.IPAddress(ipaddress.ip_address(address)), *map(x509.DNSName, names)]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return certificate.public_bytes(serialization.Encoding.PEM), private


class _Handler(http.server.BaseHTTPRequestHandler):
    """Answers everything with the Node."""

    protocol_version = "HTTP/1.1"
    folder: Path

    def do_GET(self) -> None:
        """Return the Node."""
        self._answer()

    def do_PATCH(self) -> None:
        """Return the Node, and note that it was patched."""
        self.rfile.read(int(self.headers.get("Content-Length", "0")))
        self._answer()
        (self.folder / "patched").touch()

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 (its name in the standard library)
        """Say nothing."""

    def _answer(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(_OBJECT)))
        self.end_headers()
        self.wfile.write(_OBJECT)


def main() -> None:
    """Serve until killed."""
    _Handler.folder = Path(sys.argv[1])
    server = http.server.ThreadingHTTPServer(("127.0.0.1", PORT), _Handler)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(_Handler.folder / "tls.crt", _Handler.folder / "tls.key")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    (_Handler.folder / "listening").touch()
    server.serve_forever()


if __name__ == "__main__":
    main()
