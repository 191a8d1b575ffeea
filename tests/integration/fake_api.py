# SPDX-License-Identifier: Apache-2.0
"""An API server with one Node, over TLS, which tests can take away, slow down and look into."""

import datetime as dt
import ipaddress
import json
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.node_objects import RefusedError, new_node, patched

TOKEN = "a-token"


class FakeApi:
    """``node`` is the Node (None: there is none); ``requests`` are (method, path) of all that came."""

    def __init__(self, folder: Path, node: dict[str, Any] | None = None) -> None:
        self.account = folder / "account"
        self.node: dict[str, Any] | None = node or new_node()
        self.requests: list[tuple[str, str]] = []
        self.events: list[dict[str, Any]] = []
        self.status = 200
        """What is answered instead, when it is not 200."""
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self._lock = threading.Lock()
        self.account.mkdir()
        (self.account / "token").write_text(f"{TOKEN}\n")
        _certify(self.account)

    @property
    def place(self) -> str:
        return f"127.0.0.1:{self.port}"

    @contextmanager
    def running(self) -> Iterator["FakeApi"]:
        server = ThreadingHTTPServer(("127.0.0.1", self.port), self._handler())
        server.daemon_threads = True
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.account / "ca.crt", self.account / "key.pem")
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield self
        finally:
            server.shutdown()
            thread.join()
            server.server_close()

    def answer(self, method: str, path: str, kind: str, body: Any) -> tuple[int, dict[str, Any]]:
        with self._lock:
            self.requests.append((method, path))
            if self.status != 200:
                return self.status, {"message": "as the test wants it"}
            if path.startswith("/api/v1/namespaces/default/events"):
                self.events.append(body)
                return 201, body
            if self.node is None or not path.startswith(f"/api/v1/nodes/{self.node['metadata']['name']}"):
                return 404, {"message": "no such node"}
            if method == "PATCH":
                try:
                    self.node = patched(self.node, kind, body, status=path.endswith("/status"))
                except RefusedError:
                    return 422, {"message": "the patch does not apply"}
            return 200, self.node

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        api = self

        class Handler(BaseHTTPRequestHandler):
            def _serve(self) -> None:
                length = int(self.headers.get("Content-Length", "0"))
                body = json.loads(self.rfile.read(length)) if length else None
                if self.headers["Authorization"] != f"Bearer {TOKEN}":
                    status, document = 401, {"message": "Unauthorized"}
                else:
                    status, document = api.answer(self.command, self.path, self.headers["Content-Type"] or "", body)
                data = json.dumps(document).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_PATCH = do_POST = _serve  # noqa: N815  # names of the protocol

            def log_message(self, *arguments: object) -> None:
                """Say nothing."""

        return Handler


def _certify(folder: Path) -> None:
    """Write a certificate that is its own authority, ``ca.crt``, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "ca.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
