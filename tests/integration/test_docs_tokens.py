# SPDX-License-Identifier: Apache-2.0
"""The two ways to check a token that docs/tokens.md shows, run as they stand, against a key set on loopback."""

import datetime as dt
import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jwt
import pytest

from kubenclave.dcap.token.azure import CLAIMS, azure_claims
from kubenclave.dcap.token.common import service_claims
from kubenclave.services.attestation.keys.store import Algorithm, KeyRing, KeySettings
from kubenclave.services.database import Database
from tests.azure_server import javascript
from tests.judgements import judgement, tdx

TEXT = (Path(__file__).parents[2] / "docs" / "tokens.md").read_text(encoding="utf-8")
ISSUER = "https://attest.example"
PYTHON = """
import sys
try:
    print(check(sys.argv[1])["jti"])
except (jwt.InvalidTokenError, jwt.PyJWKClientError, PermissionError, KeyError) as error:
    sys.exit(f"refused: {type(error).__name__}")
"""
JAVASCRIPT = """
try {
  console.log((await check(process.argv[2])).jti);
} catch (error) {
  console.error(`refused: ${error.code ?? error.message}`);
  process.exit(1);
}
"""


def example(language: str) -> str:
    (found,) = re.findall(rf"^```{language}\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    return str(found)


class Service:
    """Keys for Intel's root, a key set on loopback, and tokens that say whatever a test wants."""

    def __init__(self, folder: Path) -> None:
        self.database = Database(folder / "attestation.db")
        self.keyring = KeyRing(self.database, now, KeySettings(issuer_url=ISSUER, simulated=False))
        keyring = self.keyring

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.end_headers()
                self.wfile.write(json.dumps(keyring.jwks(Algorithm.RS256)).encode())

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def token(self, said: dict[str, Any] | None = None, header: dict[str, Any] | None = None, **changes: Any) -> str:
        second = int(now().timestamp())
        times = {"iat": second, "nbf": second, "exp": second + 60, "jti": "a-token"}
        claims = {"iss": self.url, **times, **azure_claims(judgement()), **changes}
        claims["kubenclave"] = {**claims["kubenclave"], "simulated": False, "relaxations": [], **(said or {})}
        return self.keyring.active(Algorithm.RS256).sign(json.dumps(claims).encode(), {"typ": "JWT", **(header or {})})


def now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


@pytest.fixture(scope="module")
def service(tmp_path_factory) -> Iterator[Service]:
    service = Service(tmp_path_factory.mktemp("state"))
    thread = threading.Thread(target=service.server.serve_forever)
    thread.start()
    yield service
    service.server.shutdown()
    thread.join()
    service.server.server_close()
    service.database.close()


@pytest.fixture(params=["python", "javascript"])
def check(request, service, tmp_path):
    """Run the example on a token; return how it ended."""
    if request.param == "python":
        program = tmp_path / "check.py"
        program.write_text(example("py").replace(ISSUER, service.url) + PYTHON)
        command = [sys.executable, "-W", "error", str(program)]
    else:
        packages, node = javascript(), shutil.which("node")
        if packages is None or node is None:
            pytest.skip("needs node and the packages of tests/interop/azure-js")
        (tmp_path / "node_modules").symlink_to(packages)
        program = tmp_path / "check.mjs"
        program.write_text(example("js").replace(ISSUER, service.url) + JAVASCRIPT)
        command = [node, str(program)]

    def run(token: str) -> SimpleNamespace:
        environment = {**os.environ, "NO_PROXY": "127.0.0.1"}
        done = subprocess.run([*command, token], capture_output=True, text=True, check=False, env=environment)
        return SimpleNamespace(code=done.returncode, out=done.stdout, err=done.stderr)

    return run


def test_a_good_token_is_accepted(check, service):
    done = check(service.token())
    assert (done.code, done.out.strip()) == (0, "a-token"), done.err


def test_others_are_refused(check, service):
    good = service.token()
    header, payload, signature = good.split(".")
    second = int(now().timestamp())
    unsecured = jwt.encode(jwt.decode(good, options={"verify_signature": False}), "", algorithm="none")
    for token in (
        service.token({"simulated": True}),
        service.token({"debug": True}),
        service.token({"draft": True}),
        service.token({"relaxations": ["dangerously_accept_expired_collateral: TCB info"]}),
        service.token(iss="https://other.example"),
        service.token(exp=second - 120),
        service.token(nbf=second + 3600),
        unsecured,
        f"{header}.{payload}.{signature[:-8]}AAAAAAAA",
    ):
        done = check(token)
        assert done.code == 1, token
        assert "refused" in done.err


def test_every_claim_is_listed():
    prose = re.sub(r"^```.*?^```$", "", TEXT, flags=re.MULTILINE | re.DOTALL)
    listed = set(re.findall(r"`([^`]+)`", prose))
    said = service_claims(judgement(), None)["kubenclave"]
    wanted = {*azure_claims(judgement()), *CLAIMS, *said} - {"collateral"}
    wanted |= {name for name in azure_claims(tdx()) if not name.startswith(("tdx_rtmr", "tdx_td_attributes_"))}
    wanted |= {f"collateral.{name}" for name in said["collateral"]}
    assert wanted <= listed, sorted(wanted - listed)
