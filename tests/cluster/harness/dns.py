# SPDX-License-Identifier: Apache-2.0
"""Cluster DNS, as far as tests need it: A records of Services, answered from the API server at each question.

NAME.NAMESPACE.svc.cluster.local has the Service's cluster IP, or its endpoints' addresses where it is headless.
Everything else does not exist, for nothing leads out of the enclosure. Started as a program of the control plane.
"""

from __future__ import annotations

import http.client
import json
import socketserver
import ssl
import struct
import sys
from pathlib import Path
from typing import Any, Final

from tests.cluster.harness import network

DOMAIN: Final = "cluster.local"
_A: Final = 1
_NO_SUCH_NAME: Final = 3
_SERVER_FAILED: Final = 2


class Resolver:
    """Looks Services up with the client certificate of a kubeconfig as the harness writes it."""

    def __init__(self, kubeconfig: Path) -> None:
        document = json.loads(kubeconfig.read_text())
        cluster, user = document["clusters"][0]["cluster"], document["users"][0]["user"]
        self._host: str = cluster["server"].removeprefix("https://")
        self._tls = ssl.create_default_context(cafile=cluster["certificate-authority"])
        self._tls.load_cert_chain(user["client-certificate"], user["client-key"])

    def addresses(self, name: str) -> list[str] | None:
        """IPv4 addresses of a name, or None when there is no such name. Raises OSError, http.client.HTTPException."""
        labels = name.lower().removesuffix(".").split(".")
        if len(labels) != 5 or labels[2:] != ["svc", *DOMAIN.split(".")]:
            return None
        service = self._get(f"/api/v1/namespaces/{labels[1]}/services/{labels[0]}")
        if service is None:
            return None
        if service["spec"].get("clusterIP") not in {None, "None"}:
            return [service["spec"]["clusterIP"]]
        endpoints = self._get(f"/api/v1/namespaces/{labels[1]}/endpoints/{labels[0]}") or {}
        return [one["ip"] for subset in endpoints.get("subsets", []) for one in subset.get("addresses", [])]

    def _get(self, path: str) -> dict[str, Any] | None:
        connection = http.client.HTTPSConnection(self._host, context=self._tls, timeout=5)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return json.loads(answer.read()) if answer.status == http.client.OK else None
        finally:
            connection.close()


def respond(question: bytes, resolver: Resolver) -> bytes:
    """Answer one DNS message with one question (RFC 1035, section 4). Raises ValueError for what is none."""
    labels, at = [], 12
    while at < len(question) and question[at]:
        labels.append(question[at + 1 : at + 1 + question[at]].decode("ascii"))
        at += 1 + question[at]
    if len(question) < at + 5:
        raise ValueError("no DNS question")
    (kind,) = struct.unpack_from(">H", question, at + 1)
    asked = question[12 : at + 5]
    code, found = 0, []
    try:
        addresses = resolver.addresses(".".join(labels))
        code = _NO_SUCH_NAME if addresses is None else 0
        found = addresses or [] if kind == _A else []
    except (OSError, http.client.HTTPException):
        code = _SERVER_FAILED
    # A response, authoritative, recursion available (as clients expect); one question, so many answers.
    header = question[:2] + struct.pack(">HHHHH", 0x8580 | code, 1, len(found), 0, 0)
    records = b"".join(
        struct.pack(">HHHIH", 0xC00C, _A, 1, 5, 4) + bytes(map(int, address.split("."))) for address in found
    )
    return header + asked + records


class _Handler(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        message, sock = self.request
        sock.sendto(respond(message, self.server.resolver), self.client_address)  # type: ignore[attr-defined]


def main(kubeconfig: str) -> None:
    """Serve on the control plane's address."""
    with socketserver.ThreadingUDPServer((network.CONTROL_PLANE, 53), _Handler) as server:
        server.resolver = Resolver(Path(kubeconfig))  # type: ignore[attr-defined]
        server.serve_forever()


if __name__ == "__main__":
    main(sys.argv[1])
