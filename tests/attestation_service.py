# SPDX-License-Identifier: Apache-2.0
"""An attestation service over a SIMULATED platform, in this process and without sockets, for tests of all its APIs."""

import asyncio
import base64
import contextlib
import hashlib
import json
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx2
import pytest
from starlette.applications import Starlette

from kubenclave.platform.simulated.tcb import PlatformTcb
from kubenclave.services.attestation.app import attestation_app
from kubenclave.services.attestation.provider import FixedCollateral
from kubenclave.services.attestation.service import AttestationService
from kubenclave.services.attestation.settings import Settings
from kubenclave.services.web.credentials import Role
from tests import simulated_platform
from tests.clock import Clock

T = TypeVar("T")
ISSUER = "https://attestation.example/simulated"
WANTED = {"version": 1, "name": "ours", "enclaves": [{"mr_enclave": simulated_platform.APP_MR_ENCLAVE.hex()}]}
UNWANTED = {"version": 1, "name": "theirs", "enclaves": [{"mr_enclave": "00" * 32}]}


@dataclass
class Bench:
    """A service with a platform that makes evidence for it; ``call`` and ``post`` go through the whole application."""

    service: AttestationService
    platform: simulated_platform.Platform
    clock: Clock
    app: Starlette
    tokens: dict[Role, str] = field(default_factory=dict)

    def quote(self, runtime_data: bytes = b"", *, debug: bool = False) -> bytes:
        """A quote whose report data begins with the SHA-256 of the runtime data; zeros without any."""
        data = hashlib.sha256(runtime_data).digest() if runtime_data else b""
        return self.platform.quote(data.ljust(64, b"\0"), debug=debug)

    async def send(self, method: str, path: str, **how: Any) -> httpx2.Response:
        """Send one request below the issuer's path, within a loop of the caller's."""
        transport = httpx2.ASGITransport(self.app, raise_app_exceptions=False)
        async with httpx2.AsyncClient(transport=transport, base_url=self.service.settings.issuer) as client:
            return await client.request(method, self.service.settings.issuer + path, **how)

    def call(self, method: str, path: str, **how: Any) -> httpx2.Response:
        return run(self.send(method, path, **how))

    def post(self, path: str, document: Any, **how: Any) -> httpx2.Response:
        return self.call("POST", path, json=document, **how)

    def get(self, path: str, **how: Any) -> httpx2.Response:
        return self.call("GET", path, **how)

    def bearer(self, role: Role) -> dict[str, str]:
        """Headers of somebody who has this role."""
        if role not in self.tokens:
            self.tokens[role] = self.service.credentials.create(f"test-{role}", [role])
        return {"Authorization": f"Bearer {self.tokens[role]}"}


@contextlib.contextmanager
def bench(state: Path, tcb: PlatformTcb = PlatformTcb.UP_TO_DATE, **settings: Any) -> Iterator[Bench]:
    """A service for the SIMULATED root of tests, open to all unless told otherwise."""
    platform, clock = simulated_platform.Platform.ready(tcb), Clock(simulated_platform.NOW)
    given = {"issuer": ISSUER, "state": state, "root": platform.issuer.root_der, "open": True, **settings}
    service = AttestationService.create(Settings(**given), FixedCollateral(platform.collateral()), clock)
    try:
        yield Bench(service, platform, clock, attestation_app(service))
    finally:
        service.close()


@pytest.fixture
def attestation(tmp_path: Path) -> Iterator[Bench]:
    with bench(tmp_path / "state") as made:
        yield made


def run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(work)


def base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def claims(token: str) -> dict[str, Any]:
    """The claims of a token, not verified."""
    body = token.split(".")[1]
    found: dict[str, Any] = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    return found


def refusal(answer: httpx2.Response, status: int = 422) -> str:
    """Return the code of a problem document, which an answer has to be."""
    assert answer.status_code == status, answer.text
    assert answer.headers["Content-Type"] == "application/problem+json"
    return str(answer.json()["code"])
