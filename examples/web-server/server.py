#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A web server that proves what it is: GET /quote?nonce=HEX answers with a quote of its own enclave over the nonce.

It runs in a SIMULATED enclave, started by `kubenclave sim run -- server.py`: MRENCLAVE is the hash of this file. On SGX
hardware an SDK such as Gramine makes the enclave and the REPORT; the rest, quotes over the AESM socket, is the same.
"""

import os
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from kubenclave.errors import KubenclaveError
from kubenclave.platform.aesmclient import AesmClient, socket_path
from kubenclave.platform.simcpu import Enclave

PORT = 8080
MAX_NONCE = 64  # bytes: the size of REPORTDATA

enclave = Enclave.inherited(os.environ)
one_at_a_time = threading.Lock()


class Handler(BaseHTTPRequestHandler):
    """Answers /quote and /healthz."""

    def do_GET(self) -> None:
        """Answer one request."""
        url = urlsplit(self.path)
        if url.path == "/healthz":
            self.answer(HTTPStatus.OK, b"ok\n")
        elif url.path == "/quote":
            self.quote(parse_qs(url.query).get("nonce", [""])[0])
        else:
            self.answer(HTTPStatus.NOT_FOUND, b"/quote?nonce=HEX or /healthz\n")

    def quote(self, nonce: str) -> None:
        """Answer with a quote that nobody can have recorded before, for it holds the caller's nonce."""
        try:
            report_data = bytes.fromhex(nonce)
        except ValueError:
            report_data = b""
        if not 0 < len(report_data) <= MAX_NONCE:
            self.answer(HTTPStatus.BAD_REQUEST, b"nonce: 1 to 64 bytes in hex\n")
            return
        if enclave is None:
            self.answer(HTTPStatus.SERVICE_UNAVAILABLE, b"not started in an enclave\n")
            return
        client = AesmClient(socket_path(os.environ))
        try:
            with one_at_a_time:
                quote = client.quote(lambda target: enclave.report(target, report_data.ljust(MAX_NONCE, b"\0")))
        except KubenclaveError as error:
            self.answer(HTTPStatus.SERVICE_UNAVAILABLE, f"{error}\n".encode())
            return
        self.answer(HTTPStatus.OK, quote, "application/octet-stream")

    def answer(self, status: HTTPStatus, body: bytes, kind: str = "text/plain") -> None:
        """Send one answer."""
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    ThreadingHTTPServer(("", PORT), Handler).serve_forever()
