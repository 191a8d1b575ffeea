# SPDX-License-Identifier: Apache-2.0
"""``kubenclave attest token`` and ``attest keys``, on tokens of a service without its HTTP side."""

import base64
import datetime as dt
import http.server
import io
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from kubenclave.cli import main
from kubenclave.services.attestation.issue import TokenDialect, TokenIssuer
from kubenclave.services.attestation.keys.store import Algorithm, KeyRing, KeySettings
from kubenclave.services.database import Database
from tests import evidence
from tests.judgements import judgement

URL = "https://attest.example/simulated"
AT = ["--at", "2026-03-05T12:00:01Z"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Iterator[Path]:
    """A state directory with keys, tokens, the key set and the simulated root."""
    folder = tmp_path_factory.mktemp("state")
    database = Database(folder / "attestation.db")
    keyring = KeyRing(database, lambda: evidence.NOW, KeySettings(issuer_url=URL, simulated=True))
    issuer = TokenIssuer(keyring, lambda: evidence.NOW, drafts=True)
    (folder / "token.jwt").write_text(issuer.issue(judgement(), TokenDialect.AZURE) + "\n")
    (folder / "ear.jwt").write_text(issuer.issue(judgement(), TokenDialect.EAR))
    (folder / "draft.jwt").write_text(issuer.issue(judgement(draft=True), TokenDialect.AZURE))
    (folder / "debug.jwt").write_text(issuer.issue(judgement(evidence.debug(), debug=True), TokenDialect.AZURE))
    (folder / "certs.json").write_text(json.dumps(keyring.jwks(Algorithm.RS256)))
    (folder / "root.der").write_bytes(evidence.make().root)
    yield folder
    database.close()


@pytest.fixture
def token(folder, capsys):
    """Run ``attest token`` on a file and return exit code, stdout and stderr."""

    def run(name: str, file: str, *more: str) -> SimpleNamespace:
        code = main.run(["attest", "token", name, str(folder / file), *more])
        captured = capsys.readouterr()
        return SimpleNamespace(code=code, out=captured.out, err=captured.err)

    return run


@pytest.fixture
def verify(token, folder):
    """Run ``attest token verify`` with the key set at hand, JSON in and out."""

    def run(file: str, *more: str) -> tuple[int, dict[str, Any]]:
        jwks = [] if "--jwks" in more else ["--jwks", str(folder / "certs.json")]
        issuer = [] if "--issuer" in more else ["--issuer", URL]
        done = token("verify", file, *issuer, *jwks, *AT, *more, "--output", "json")
        return done.code, json.loads(done.out)

    return run


def test_decode_never_says_that_a_token_is_good(token):
    done = token("decode", "token.jwt")
    assert done.code == 0
    assert evidence.MR_ENCLAVE.hex() in done.out
    assert "2026-03-05T12:00:00Z" in done.out
    assert "NOT VERIFIED" in done.err
    assert "SIMULATED" in done.err
    assert "jku" in done.err
    assert "good" not in (done.out + done.err).lower()


def test_decode_as_json(token):
    document = json.loads(token("decode", "ear.jwt", "--output", "json").out)
    assert document["verified"] is False
    assert document["header"]["alg"] == "ES256"
    assert document["claims"]["submods"]["sgx"]["ear_status"] == "warning"


def test_decode_says_what_is_wrong_with_a_drafts_token(token):
    done = token("decode", "draft.jwt")
    assert done.code == 0
    assert "unsecured" in done.err
    assert "draft" in done.err


def test_decode_of_odd_times_and_old_tokens(token, folder):
    def part(value: object) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

    claims = {"exp": 1, "iat": "soon", "nbf": 1e300, "kubenclave": "no object", "x\x1b[31m": "\x1b[2J"}
    (folder / "odd.jwt").write_text(f"{part({'alg': 'RS256'})}.{part(claims)}.AAAA")
    done = token("decode", "odd.jwt")
    assert done.code == 0
    assert "1970-01-01T00:00:01Z" in done.out
    assert "soon" in done.out
    assert "expired" in done.err
    assert "\x1b[2J" not in done.out


def test_decode_from_stdin(folder, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO((folder / "token.jwt").read_bytes())))
    assert main.run(["attest", "token", "decode", "-"]) == 0
    assert "x-ms-ver" in capsys.readouterr().out


def test_what_is_no_token(token, folder):
    (folder / "no.jwt").write_text('{"token": "..."}')
    done = token("decode", "no.jwt")
    assert done.code == 3
    assert "token.malformed" in done.err


def test_verify_refuses_a_simulated_platform_unless_told_otherwise(verify, folder):
    code, document = verify("token.jwt")
    assert (code, document["accepted"], document["error"]["code"]) == (1, False, "token.simulated")
    for option in (["--dangerously-allow-simulated"], ["--simulated-root", str(folder / "root.der")]):
        code, document = verify("token.jwt", *option)
        assert (code, document["accepted"]) == (0, True)
        assert document["claims"]["x-ms-sgx-mrenclave"] == evidence.MR_ENCLAVE.hex()
        assert any("SIMULATED" in each for each in document["warnings"])


def test_verify_as_text(token, folder):
    done = token(
        "verify",
        "token.jwt",
        "--issuer",
        URL,
        "--jwks",
        str(folder / "certs.json"),
        *AT,
        "--dangerously-allow-simulated",
    )
    assert done.code == 0
    assert done.out.startswith("GOOD")
    assert "SIMULATED" in done.err


@pytest.mark.parametrize(
    ("file", "more", "code"),
    [
        ("draft.jwt", [], "token.algorithm"),
        ("ear.jwt", [], "token.kid"),
        ("debug.jwt", ["--dangerously-allow-simulated"], "token.debug"),
        ("token.jwt", ["--issuer", "https://other.example"], "token.issuer"),
        ("token.jwt", ["--audience", "me"], "token.audience"),
        ("token.jwt", ["--at", "2026-03-06T12:00:00Z"], "token.expired"),
        ("token.jwt", ["--at", "2026-03-05T11:00:00Z"], "token.not-yet-valid"),
        ("token.jwt", ["--at", "2026-03-05T13:00:00Z", "--max-age", "5m"], "token.age"),
        ("token.jwt", ["--require-fresh", "--dangerously-allow-simulated"], "token.not-fresh"),
    ],
)
def test_verify_refuses(verify, file, more, code):
    found, document = verify(file, *more)
    assert (found, document["error"]["code"]) == (1, code)


def test_a_draft_is_refused_without_asking_anybody_for_keys(token):
    done = token("verify", "draft.jwt", "--issuer", "https://unreachable.invalid", *AT)
    assert done.code == 1
    assert "token.algorithm" in done.err


@pytest.fixture
def server(folder) -> Iterator[str]:
    """A server on loopback that answers with the key set, or with what the path says."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            content = (folder / "certs.json").read_bytes()
            status = {"/certs": 200, "/moved/certs": 302, "/large/certs": 200}.get(self.path, 404)
            self.send_response(status)
            if status == 302:
                self.send_header("Location", "/certs")
            self.end_headers()
            self.wfile.write(b" " * (2 << 20) if "large" in self.path else content)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


def test_the_key_set_is_fetched(verify, server):
    code, document = verify("token.jwt", "--jwks", f"{server}/certs", "--dangerously-allow-simulated")
    assert (code, document["accepted"]) == (0, True)


@pytest.mark.parametrize(
    ("path", "expected", "code"),
    [
        ("/nothing", 4, "jwks.unreachable"),
        ("/moved/certs", 4, "jwks.unreachable"),
        ("/large/certs", 3, "jwks.malformed"),
    ],
)
def test_what_is_no_key_set_where_one_should_be(verify, server, path, expected, code):
    found, document = verify("token.jwt", "--jwks", server + path)
    assert (found, document["error"]["code"]) == (expected, code)


def test_the_issuers_own_key_set_is_asked_for_by_default(token, server):
    done = token("verify", "token.jwt", "--issuer", server, *AT)
    assert done.code == 1
    assert "token.issuer" in done.err  # the keys were there, the token is of another issuer


def test_keys_are_not_fetched_where_anybody_can_replace_them(verify):
    code, document = verify("token.jwt", "--jwks", "http://attest.example/certs")
    assert (code, document["error"]["code"]) == (2, "jwks.url")


def test_nobody_listens(verify):
    code, document = verify("token.jwt", "--jwks", "http://127.0.0.1:9/certs")
    assert (code, document["error"]["code"]) == (4, "jwks.unreachable")


def keys(capsys, *words: str) -> tuple[int, dict[str, Any]]:
    code = main.run(["attest", "keys", *words, "--output", "json"])
    return code, json.loads(capsys.readouterr().out)


@pytest.fixture
def state(tmp_path, capsys) -> str:
    database = Database(tmp_path / "attestation.db")
    KeyRing(database, lambda: dt.datetime.now(dt.UTC), KeySettings(issuer_url=URL, simulated=True))
    database.close()
    capsys.readouterr()  # the log, which is for nobody here
    return str(tmp_path)


def test_keys_are_rotated_imported_and_revoked(capsys, state, tmp_path):
    assert [each["state"] for each in keys(capsys, "list", "--state", state)[1]["keys"]] == ["active", "active"]
    code, rotated = keys(capsys, "rotate", "--state", state, "--algorithm", "RS256")
    assert code == 0
    path = tmp_path / "key.pem"
    key = ec.generate_private_key(ec.SECP256R1())
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    code, imported = keys(capsys, "import", str(path), "--state", state)
    assert imported["key"]["algorithm"] == "ES256"
    assert keys(capsys, "revoke", rotated["key"]["kid"], "--state", state)[0] == 0
    _, listed = keys(capsys, "list", "--state", state)
    assert {each["kid"]: each["state"] for each in listed["keys"]}.items() >= {
        rotated["key"]["kid"]: "withdrawn",
        imported["key"]["kid"]: "next",
    }.items()
    assert main.run(["attest", "keys", "list", "--state", state]) == 0
    text = capsys.readouterr().out
    assert imported["key"]["kid"] in text
    assert "PRIVATE" not in text


def test_no_key_is_made_where_no_service_ran(capsys, tmp_path):
    code, document = keys(capsys, "list", "--state", str(tmp_path))
    assert (code, document["error"]["code"]) == (2, "cli.input")
    assert not list(tmp_path.iterdir())
