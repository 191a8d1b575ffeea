# SPDX-License-Identifier: Apache-2.0
"""The commands that serve, as processes: workers, TLS, credentials, limits, metrics, and an end that loses nothing."""

import asyncio
import base64
import contextlib
import datetime as dt
import json
import os
import signal
import socket
import sqlite3
import ssl
import subprocess
import time
from pathlib import Path
from typing import Any

import httpx2
import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import NameOID

from tests import simulated_platform
from tests.serve_command import KUBENCLAVE, attest, credential, samples, save_platform, starting
from tests.waiting import eventually


@pytest.fixture(scope="module")
def platform(tmp_path_factory):
    """State directory of a SIMULATED platform, and a quote of it."""
    return save_platform(tmp_path_factory.mktemp("platform")), simulated_platform.Platform.ready().quote()


@pytest.fixture
def serve(tmp_path, platform):
    with starting(tmp_path, platform[0]) as started:
        yield started


def free_address():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return f"127.0.0.1:{taken.getsockname()[1]}"


def test_both_services_in_several_workers_outlive_one_that_is_killed(serve, platform):
    health = free_address()
    served = serve("--open", "--with-collateral", "--workers", 2, "--health", health)
    quote = platform[1]
    with httpx2.Client() as client:
        first = attest(client, served.url, quote).json()
        assert first["verdict"]["accepted"] is True
        assert client.get(f"{served.ready['collateral_url']}rootcacrl").status_code == 200
        before = served.workers()
        assert len(before) == 2
    os.kill(before[0], signal.SIGKILL)
    eventually(lambda: len(served.workers()) == 2 and before[0] not in served.workers())
    for _ in range(8):
        with httpx2.Client() as client:
            assert attest(client, served.url, quote).status_code == 200
    found = samples(health)
    assert found["kubenclave_attestation_log_entries"] == 9
    assert sum(value for name, value in found.items() if name.startswith("kubenclave_attestation_verdicts_total")) <= 9
    assert {"worker.ended", "lease.taken", "request.served"} <= {each["event"] for each in served.events()}
    assert served.end() == 0
    assert not any(Path(f"/proc/{worker}").exists() for worker in before)


def test_a_token_of_the_service_is_good_for_a_relying_party(serve, platform):
    served = serve("--open", "--workers", 2)
    with httpx2.Client() as client:
        token = attest(client, served.url, platform[1]).json()["token"]
        keys = jwt.PyJWKSet.from_dict(client.get(f"{served.url}/certs").json())
    key = keys[jwt.get_unverified_header(token)["kid"]]
    claims = jwt.decode(token, key, algorithms=["RS256"], issuer=served.ready["issuer"])
    assert claims["x-ms-attestation-type"] == "sgx"
    assert "simulated" in served.ready["issuer"]


def test_what_is_under_way_at_the_end_is_answered_and_in_the_log(serve, platform):
    issuer = ("--issuer", "https://attest.example/simulated")
    served = serve("--open", *issuer, "--workers", 2, "--log-addresses")
    quote = platform[1]

    async def crowd():
        async with httpx2.AsyncClient(limits=httpx2.Limits(max_connections=20), timeout=30) as client:
            await attest(client, served.url, quote)
            answers = []

            async def one():
                while True:
                    answer = await attest(client, served.url, quote)
                    answers.append(answer.json()["receipt"]["index"])

            tasks = [asyncio.create_task(one()) for _ in range(20)]
            await asyncio.sleep(0.3)
            served.process.send_signal(signal.SIGTERM)
            ends = await asyncio.gather(*tasks, return_exceptions=True)
            return answers, ends

    answers, ends = asyncio.run(crowd())
    assert served.end() == 0
    assert answers
    assert len(set(answers)) == len(answers)
    # No connection was cut in the middle of an answer: the last attempts found nobody listening any more, or a
    # connection that was idle and closed.
    closed = {"ConnectError", "RemoteProtocolError", "ReadError", "WriteError"}
    assert {type(each).__name__ for each in ends} <= closed, ends
    again = serve("--open", *issuer)
    with httpx2.Client() as client:
        size = attest(client, again.url, quote).json()["receipt"]["index"]
    assert size > max(answers)


def certificate(directory, name, issuer=None, *, serial=1):
    """Write NAME.crt and NAME.key; ``issuer`` is the name of the CA that signs, None for itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    start = dt.datetime.now(dt.UTC) - dt.timedelta(days=1)
    signer: Any = key
    by = subject
    if issuer is not None:
        signer = load_pem_private_key((directory / f"{issuer}.key").read_bytes(), None)
        by = x509.load_pem_x509_certificate((directory / f"{issuer}.crt").read_bytes()).subject
    builder = (
        x509.CertificateBuilder(by, subject, key.public_key(), serial, start, start + dt.timedelta(days=9))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
        .add_extension(
            x509.KeyUsage(True, False, False, False, False, issuer is None, issuer is None, False, False),
            critical=True,
        )
    )
    made = builder.sign(signer, hashes.SHA256()).public_bytes(Encoding.PEM)
    (directory / f"{name}.key").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    (directory / f"{name}.crt").write_bytes(made)


def trusting(directory, *, client=None):
    context = ssl.create_default_context(cafile=str(directory / "ca.crt"))
    if client is not None:
        context.load_cert_chain(directory / f"{client}.crt", directory / f"{client}.key")
    return context


def test_tokens_and_client_certificates_open_what_they_are_for_over_tls(serve, platform, tmp_path):
    certificate(tmp_path, "ca")
    certificate(tmp_path, "server", "ca", serial=2)
    certificate(tmp_path, "client", "ca", serial=3)
    certificate(tmp_path, "stranger", "ca", serial=4)
    files = ("--tls-cert", tmp_path / "server.crt", "--tls-key", tmp_path / "server.key")
    served = serve(*files, "--client-ca", tmp_path / "ca.crt", "--token-needed")
    url = served.url.replace("127.0.0.1", "localhost")
    token = credential(tmp_path / "state", "create", "ops", "--role", "attest", "--expires", "1d")["token"]
    credential(tmp_path / "state", "trust", "ci", "--role", "attest", "--certificate", tmp_path / "client.crt")
    shown = credential(tmp_path / "state", "list")
    assert [(each["name"], each["kind"], each["roles"]) for each in shown["credentials"]] == [
        ("ci", "certificate", ["attest"]),
        ("ops", "token", ["attest"]),
    ]
    statuses = []
    for client_name, headers in (
        (None, {}),
        ("stranger", {}),
        ("client", {}),
        (None, {"Authorization": f"Bearer {token}"}),
    ):
        with httpx2.Client(verify=trusting(tmp_path, client=client_name), headers=headers) as client:
            statuses.append(attest(client, url, platform[1]).status_code)
    assert statuses == [401, 401, 200, 200]
    credential(tmp_path / "state", "revoke", "ops")
    with httpx2.Client(verify=trusting(tmp_path), headers={"Authorization": f"Bearer {token}"}) as client:
        assert attest(client, url, platform[1]).status_code == 401
    served.end()
    told = [each for each in served.events() if each["event"] == "request.served"]
    assert [each["principal"] for each in told] == [None, None, "ci", "ops", None]
    assert token not in served.log.read_text()


def local_address(answer):
    """Where the connection of an answer comes from."""
    return answer.extensions["network_stream"].get_extra_info("client_addr")


def serial(url, context):
    """Serial number of the certificate that a new connection is shown."""
    port = int(url.split(":")[2].split("/")[0])
    with (
        socket.create_connection(("127.0.0.1", port)) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as secured,
    ):
        der = secured.getpeercert(binary_form=True)
        assert der is not None
        return x509.load_der_x509_certificate(der).serial_number


@pytest.mark.slow
def test_a_renewed_certificate_is_for_new_connections_and_drops_no_old_one(serve, tmp_path):
    certificate(tmp_path, "ca")
    certificate(tmp_path, "server", "ca", serial=2)
    files = ("--tls-cert", tmp_path / "server.crt", "--tls-key", tmp_path / "server.key")
    served = serve(*files, "--open", "--workers", 2)
    url, context = served.url.replace("127.0.0.1", "localhost"), trusting(tmp_path)
    with httpx2.Client(verify=context, limits=httpx2.Limits(keepalive_expiry=60)) as client:
        before = local_address(client.post(f"{url}/v1/challenge"))
        assert serial(url, context) == 2
        certificate(tmp_path, "server", "ca", serial=3)
        eventually(lambda: {serial(url, context) for _ in range(4)} == {3}, 60)
        after = client.post(f"{url}/v1/challenge")
        assert (after.status_code, local_address(after)) == (200, before), "the same connection"


def test_tokens_of_a_file_count(serve, platform, tmp_path):
    made = subprocess.run([*KUBENCLAVE, "attest", "credential", "new"], capture_output=True, text=True, check=True)
    token = made.stdout.strip()
    (tmp_path / "tokens.json").write_text(json.dumps([{"name": "ops", "roles": ["attest"], "token": token}]))
    served = serve("--credentials", tmp_path / "tokens.json", "--workers", 2)
    with httpx2.Client(headers={"Authorization": f"Bearer {token}"}) as client:
        assert attest(client, served.url, platform[1]).status_code == 200
    with httpx2.Client() as client:
        assert attest(client, served.url, platform[1]).status_code == 401


def test_who_asks_too_often_waits_in_the_shape_of_the_api(serve):
    served = serve("--open", "--with-collateral", "--rate", 0.01, "--burst", 1)
    with httpx2.Client() as client:
        assert client.post(f"{served.url}/v1/challenge").status_code == 200
        native = client.post(f"{served.url}/v1/challenge")
        azure = client.get(f"{served.url}/certs")
        pccs = client.get(f"{served.ready['collateral_url']}rootcacrl")
    assert (native.status_code, native.json()["code"]) == (429, "limits.rate")
    assert (azure.status_code, azure.json()["error"]["code"]) == (429, "TooManyRequests")
    assert (pccs.status_code, pccs.headers["Kubenclave-Error-Code"]) == (503, "limits.rate")
    assert {int(each.headers["Retry-After"]) > 0 for each in (native, azure, pccs)} == {True}


def test_whoever_is_slow_with_the_head_of_a_request_holds_nobody_up(serve):
    served = serve("--open")
    host, port = "127.0.0.1", int(served.url.split(":")[2].split("/")[0])
    with socket.create_connection((host, port)) as slow:
        slow.sendall(b"POST /simulated/v1/challenge HTTP/1.1\r\nHost: x\r\nX-")
        with httpx2.Client() as client:
            assert client.post(f"{served.url}/v1/challenge").status_code == 200
        slow.settimeout(30)
        began = time.monotonic()
        with contextlib.suppress(ConnectionResetError):
            assert slow.recv(100) == b""
        assert time.monotonic() - began < 30


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--listen", ":0"], "cli.plain-http"),
        (["--tls-cert", "x"], "cli.misuse"),
        (["--client-ca", "x"], "cli.misuse"),
        (["--tls-cert", "x", "--tls-key", "y"], "tls.unusable"),
        (["--listen-fd", "0"], "serving.descriptor"),
        (["--issuer", "https://attest.example"], "settings.issuer-simulated"),
        (["--root", "x"], "cli.misuse"),
        (["--token-lifetime", "2d"], "cli.misuse"),
        (["--source", "pccs"], "cli.misuse"),
        (["--listen", "nowhere"], "cli.misuse"),
        (["--workers", "2", "--secrets-key", "absent"], None),
        (["--signing-key", "HS256=key.pem"], "cli.misuse"),
        (["--signing-key", "RS256="], "cli.misuse"),
        (["--signing-key", "ES256=absent"], None),
        (["--max-batch", "0"], "cli.misuse"),
    ],
)
def test_what_cannot_be_served_is_said_before_anything_starts(tmp_path, platform, words, code):
    command = [*KUBENCLAVE, "attest", "serve", "--state", str(tmp_path / "s"), "--simulated-state", str(platform[0])]
    listen = [] if "--listen" in words else ["--listen", "127.0.0.1:0"]
    done = subprocess.run(
        [*command, *listen, *words, "--output", "json"], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode in {2, 3, 5}, done.stderr
    found = json.loads(done.stdout)["error"]["code"]
    assert code in {None, found}


def test_signing_keys_in_files_sign_for_all_workers_and_have_to_be_tight(serve, platform, tmp_path):
    rsa_key = rsa.generate_private_key(65537, 2048)
    words = []
    for algorithm, key in (("RS256", rsa_key), ("ES256", ec.generate_private_key(ec.SECP256R1()))):
        path = tmp_path / f"{algorithm}.pem"
        path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        path.chmod(0o600)
        words += ["--signing-key", f"{algorithm}={path}"]
    service = serve(
        "--open", "--workers", "2", "--minimum-tcb-evaluation-data-number", "17", "--max-batch", "2", *words
    )
    with httpx2.Client() as client:
        [shown] = client.get(f"{service.url}/certs").json()["keys"]
        number = rsa_key.public_key().public_numbers().n
        assert int.from_bytes(base64.urlsafe_b64decode(shown["n"] + "==")) == number
        assert attest(client, service.url, platform[1]).status_code == 200
        many = client.post(f"{service.url}/v1/attest/batch", json={"items": [{"quote": "AA"}] * 3})
        assert many.status_code == 400
    assert service.end() == 0
    (tmp_path / "RS256.pem").chmod(0o644)
    command = [
        *KUBENCLAVE,
        "attest",
        "serve",
        "--state",
        str(tmp_path / "state"),
        "--simulated-state",
        str(platform[0]),
    ]
    command += ["--listen", "127.0.0.1:0", "--issuer", service.ready["issuer"], "--output", "json", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert json.loads(done.stdout)["error"]["code"] == "signing-key.exposed"
    with contextlib.closing(sqlite3.connect(tmp_path / "state" / "attestation.db")) as database:
        assert database.execute("SELECT count(*) FROM signing_keys WHERE private IS NOT NULL").fetchone() == (0,)


def test_older_collateral_than_is_held_takes_an_option(serve, tmp_path):
    named = ("--issuer", "https://attest.example/simulated")
    path = "tcb?fmspc=53494d000000"
    with httpx2.Client() as client:
        first = serve("--with-collateral", *named)
        assert client.get(first.ready["collateral_url"] + path).status_code == 200
        assert first.end() == 0
        with contextlib.closing(sqlite3.connect(tmp_path / "state" / "collateral.db")) as database, database:
            database.execute(
                "UPDATE collateral_items SET issued = issued + 3600, next_update = 1 WHERE kind = 'tcb-info'"
            )
        strict = serve("--with-collateral", *named)
        refused = client.get(strict.ready["collateral_url"] + path)
        assert (refused.status_code, refused.headers["kubenclave-error-code"]) == (503, "collateral.stale")
        status = client.get(strict.url.removesuffix("/simulated") + "/v1/collateral/status").json()
        assert "collateral.rollback" in {(each["last_error"] or {}).get("code") for each in status["items"]}
        assert strict.end() == 0
        with contextlib.closing(sqlite3.connect(tmp_path / "state" / "collateral.db")) as database, database:
            database.execute("UPDATE collateral_attempts SET failures = 0, next_try = 0")  # no pause after a failure
        lax = serve("--with-collateral", *named, "--dangerously-allow-rollback")
        assert "dangerously_allow_rollback" in lax.log.read_text()
        eventually(lambda: client.get(lax.ready["collateral_url"] + path).status_code == 200)


def test_a_root_without_anybody_who_has_its_collateral_is_refused(tmp_path):
    done = subprocess.run(
        [*KUBENCLAVE, "attest", "serve", "--root", "x", "--state", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, "--source dir=PATH" in done.stderr) == (2, True)
