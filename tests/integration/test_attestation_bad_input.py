# SPDX-License-Identifier: Apache-2.0
"""Whatever a running attestation service is sent: a clear refusal in the API's own shape, and nothing has changed."""

import contextlib
import dataclasses
import socket
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import jwt
import pytest

from kubenclave.dcap.binding import report_data_over, runtime_data
from kubenclave.services.web.credentials import Role
from kubenclave.wire import maa
from tests import serve_command
from tests.attestation_places import AZURE, ENCLAVE, PLACES, QUOTE, TOLD, Place
from tests.attestation_service import base64url
from tests.bad_input import BODIES, CANARY, SPOILED, Member, azure, encode, members, native, pccs, spoil
from tests.waiting import eventually

JSON = {"Content-Type": "application/json"}


@dataclass
class Running:
    """A service with everything switched on, in a process of two workers, and who may what there."""

    client: httpx2.Client
    served: serve_command.Served
    state_directory: Path
    tokens: dict[Role, str]
    taken: int = 0  # requests that were good

    @property
    def url(self) -> str:
        return self.served.url

    def send(self, place: Place, body: bytes, **headers: Any) -> httpx2.Response:
        given = {**JSON, **({} if place.role is None else self.bearer(place.role)), **headers}
        return self.client.request(place.method, self.url + place.path, content=body, headers=given)

    def answered(self, request_id: str) -> list[dict[str, Any]]:
        """What the log says of the requests of that id."""
        return [each for each in self.served.events() if each.get("request_id") == request_id]

    def bearer(self, role: Role) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.tokens[role]}"}

    def get(self, path: str, **headers: str) -> Any:
        answer = self.client.get(self.url + path, headers=headers)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def state(self) -> dict[str, Any]:
        """Whatever a refused request might have changed."""
        head = self.get("/v1/log/head")
        policies = [self.get(f"/v1/policies/{kind}")["version"] for kind in maa.EVIDENCE_FIELDS]
        secrets = self.get("/v1/secrets", **self.bearer(Role.RELEASE_ADMIN))
        return {
            "log": head["size"],
            "policies": policies,
            "secrets": secrets,
            "keys": self.get("/certs"),
        }


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The service; what it answers well before it does afterwards, and its state is the same."""
    directory = tmp_path_factory.mktemp("bad-input")
    platform = serve_command.save_platform(directory / "platform")
    with serve_command.starting(directory, platform) as start, httpx2.Client() as client:
        served = start("--open", "--with-collateral", "--workers", 2)
        tokens = {
            role: serve_command.credential(directory / "state", "create", role, "--role", role)["token"]
            for role in Role
        }
        made = Running(client, served, directory / "state", tokens)
        assert serve_command.attest(client, served.url, QUOTE).status_code == 200
        before = made.state()
        yield made
        assert made.state() == {**before, "log": before["log"] + made.taken}
        assert serve_command.attest(client, served.url, QUOTE).status_code == 200
        log = served.log.read_text()
        assert [each for each in served.events() if each["event"].endswith(".failed")] == []
        assert not [each for each in ("Traceback", CANARY, *tokens.values(), base64url(QUOTE)[:200]) if each in log]


def check(running: Running, place: Place, name: str, bodies: Mapping[str, bytes]) -> None:
    """Send all of them in place of the member of that name; say which were not refused as they have to be."""
    wrong = {}
    for kind, body in bodies.items():
        if (kind in {"missing", "nothing"} and name in place.may_lack) or (name, kind) in place.takes:
            continue
        answer = running.send(place, body)
        try:
            assert place.shape(answer)
            assert CANARY not in answer.text or name.rpartition(".")[2] in TOLD
        except (AssertionError, KeyError, ValueError) as error:
            wrong[kind] = f"{answer.status_code} {answer.text[:300]} {type(error).__name__}"
    assert not wrong


@pytest.mark.parametrize("place", PLACES, ids=str)
def test_bodies_that_nobody_takes(running: Running, place: Place):
    check(running, place, "", BODIES)


CASES = [(place, path) for place in PLACES for path in members(place.document)]


@pytest.mark.parametrize(("place", "path"), CASES, ids=[f"{place}-{'.'.join(map(str, path))}" for place, path in CASES])
def test_each_member_spoiled_in_every_way(running: Running, place: Place, path: Member):
    spoiled = {kind: encode(document) for kind, document in spoil(place.document, path)}
    check(running, place, ".".join(map(str, path)), spoiled)


def test_items_of_a_batch_are_refused_one_by_one(running: Running):
    place = next(place for place in PLACES if place.path == "/v1/attest/batch")
    items = [value for kind, value in SPOILED.items() if kind != "half a character"]
    answer = running.send(
        place, encode({"items": [*items, {"quote": base64url(QUOTE), "token": "none"}, {"quote": ""}]})
    )
    running.taken += 1
    *refused, good, last = answer.json()["items"]
    assert {each["problem"]["code"] for each in [*refused, last]} == {"request.malformed"}
    assert good["verdict"]["accepted"] is True


QUERIES = [
    "/v1/log/entries?start=-1",
    "/v1/log/entries?start=9&end=1",
    "/v1/log/entries?start=1&start=2",
    "/v1/log/entries?start=" + "9" * 400,
    "/v1/log/entries?start=%00",
    "/v1/log/entries?start=0x1",
    "/v1/log/entries?start=%D9%A1",
    "/v1/log/proof/inclusion",
    "/v1/log/proof/inclusion?index=999999999999999",
    "/v1/log/proof/consistency?first=2&second=1",
    "/v1/log/tile/0/x999/999/999",
    "/v1/log/tile/64/000",
    "/v1/log/tile/..%2F..%2Fattestation.db",
    "/v1/policies/Nothing",
    "/v1/policies/%00",
    "/v1/policies/SgxEnclave/versions/" + "9" * 400,
    "/v1/nothing",
    "/v1/../../etc/passwd",
]
VERSIONS = [
    "",
    "?api-version=",
    "?api-version=2018-09-01",
    "?api-version=2020-10-01&api-version=2022-08-01",
    "?API-VERSION=x",
]


@pytest.mark.parametrize("path", QUERIES)
def test_questions_about_what_there_cannot_be(running: Running, path: str):
    answer = running.client.get(running.url + path)
    assert native(answer)
    assert answer.status_code in {400, 404}


@pytest.mark.parametrize("place", [place for place in PLACES if place.shape is azure], ids=str)
def test_no_route_of_azures_goes_without_its_version(running: Running, place: Place):
    bare = place.path.partition("?")[0]
    for query in VERSIONS:
        answer = running.send(dataclasses.replace(place, path=bare + query), encode(place.document))
        assert (answer.status_code, azure(answer)) == (400, "maa.api-version")


@pytest.mark.parametrize("place", PLACES, ids=str)
def test_other_methods(running: Running, place: Place):
    for method in ("DELETE", "PATCH", "OPTIONS", "TRACE", "NONSENSE"):
        answer = running.send(dataclasses.replace(place, method=method), encode(place.document))
        if method == "DELETE" and place.path == "/v1/secrets/one":
            assert (answer.status_code, native(answer)) == (404, "secret.unknown")
        else:
            assert (answer.status_code, place.shape(answer).partition(".")[2]) == (405, "method")
            assert answer.headers["allow"]


@pytest.mark.parametrize("place", [place for place in PLACES if place.shape is azure], ids=str)
@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "\xff"])
def test_bodies_of_other_types(running: Running, place: Place, kind: str):
    answer = running.send(place, encode(place.document), **{"Content-Type": kind.encode("latin-1")})
    assert (answer.status_code, azure(answer)) == (415, "maa.media-type")


# Whoever changes policies at Azure's routes may show it by a signature in the body, so that is read first there.
OF_ADMINISTRATORS = [place for place in PLACES if place.role is not None and place.shape is native]
UNSIGNED = jwt.encode({"roles": list(Role), "sub": "policy-admin"}, "", algorithm="none")
CREDENTIALS = {
    "none": None,
    "of alg none": f"Bearer {UNSIGNED}",
    "another scheme": "Basic YWRtaW46YWRtaW4=",
    "empty": "Bearer",
    "made up": "Bearer kubenclave_0123456789abcdef_" + "A" * 43,
    "far too long": "Bearer " + "A" * 20_000,
    "not ASCII": "Bearer \xe4\xf6".encode("latin-1"),
}


@pytest.mark.parametrize("kind", CREDENTIALS)
@pytest.mark.parametrize("place", OF_ADMINISTRATORS, ids=str)
def test_whoever_may_not_is_told_that_and_nothing_else(running: Running, place: Place, kind: str):
    given = CREDENTIALS[kind]
    headers: Any = JSON if given is None else {**JSON, "Authorization": given}
    answer = running.client.request(place.method, running.url + place.path, content=BODIES["half"], headers=headers)
    assert place.shape(answer) in {"credentials.missing", "credentials.unknown"}
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert UNSIGNED not in answer.text


@pytest.mark.parametrize("place", OF_ADMINISTRATORS, ids=str)
def test_another_role_does_not_do(running: Running, place: Place):
    answer = running.send(place, encode(place.document), **running.bearer(Role.ATTEST))
    assert (answer.status_code, place.shape(answer)) == (403, "credentials.role")


def test_credentials_end(running: Running):
    words = ("create", "brief", "--role", Role.POLICY_ADMIN, "--expires", "1s")
    made = serve_command.credential(running.state_directory, *words)
    place = next(place for place in PLACES if place.role is Role.POLICY_ADMIN)
    header = {"Authorization": f"Bearer {made['token']}"}
    eventually(lambda: running.send(place, encode(place.document), **header).status_code == 401)
    answer = running.send(place, encode(place.document), **header)
    assert made["token"] not in answer.text


OVERSIZED = [*PLACES[:2], PLACES[-1], Place("PUT", "/policies/SgxEnclave" + AZURE, "", azure, Role.POLICY_ADMIN)]


@pytest.mark.parametrize("place", OVERSIZED, ids=str)
def test_bodies_that_are_too_long(running: Running, place: Place):
    for body in (b" " * (5 << 20), (b" " * (1 << 16) for _ in range(80))):  # said beforehand, and in pieces
        answer = running.send(place, body)  # type: ignore[arg-type]
        assert (answer.status_code, place.shape(answer)) == (413, "serving.size")


PIECES = {
    "/v1/attest": native,
    f"/attest/SgxEnclave{AZURE}": azure,
}


@pytest.mark.slow
def test_bodies_that_do_not_arrive_hold_nobody_up(running: Running):
    with ThreadPoolExecutor(8) as pool:
        slow = [pool.submit(trickle, running.url, path) for path in PIECES for _ in range(4)]
        assert serve_command.attest(running.client, running.url, QUOTE, token="none").status_code == 200
        running.taken += 1
        for answer in (each.result() for each in slow):
            assert b" 408 " in answer.partition(b"\r\n")[0]
            assert b"serving.slow" in answer


def trickle(url: str, path: str) -> bytes:
    """Send the head of a request, then a byte a second, until there is an answer."""
    parts = urlsplit(url)
    with socket.create_connection((parts.hostname, parts.port), timeout=1) as connection:
        connection.sendall(f"POST {parts.path}{path} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n".encode())
        answer = b""
        for _ in range(60):
            if b"serving.slow" in answer:
                break
            connection.sendall(b"[")
            with contextlib.suppress(TimeoutError):
                answer += connection.recv(8192)
        return answer


MALFORMED = {
    "no HTTP": b"nonsense\r\n\r\n",
    "two lengths": b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    "length below zero": b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
    "no host": b"GET /certs HTTP/1.1\r\n\r\n",
    "NUL in a header": b"GET /certs HTTP/1.1\r\nHost: x\r\nX: a\0b\r\n\r\n",
    "folded header": b"GET /certs HTTP/1.1\r\n Host: x\r\n\r\n",
    "chunk of no length": b"POST /v1/attest HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    "head without end": b"GET /certs HTTP/1.1\r\nHost: x\r\n" + b"X: " + b"a" * 100_000,
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(300),
}


@pytest.mark.parametrize("kind", MALFORMED)
def test_what_is_no_http_is_400_and_the_end_of_the_connection(running: Running, kind: str):
    parts = urlsplit(running.url)
    with socket.create_connection((parts.hostname, parts.port), timeout=30) as connection:
        connection.sendall(MALFORMED[kind].replace(b"POST /v1", f"POST {parts.path}/v1".encode()))
        answer = b""
        with contextlib.suppress(ConnectionResetError):
            while piece := connection.recv(8192):
                answer += piece
    assert answer.startswith(b"HTTP/1.1 400 ") or kind == "chunk of no length"
    assert b"Traceback" not in answer


def test_routes_of_collateral_in_the_same_process_have_their_own_shape(running: Running):
    collateral = running.served.ready["collateral_url"]
    for method, path, status in (
        ("DELETE", "tcb", 405),
        ("POST", "pckcrl", 405),
        ("GET", "tcb?fmspc=x", 400),
        ("GET", "nothing", 404),
        ("GET", "../../../sgx/certification/v4/", 404),
        ("POST", "platforms", 401),
        ("PUT", "platformcollateral", 401),
    ):
        answer = running.client.request(method, collateral + path, content=BODIES["half"])
        assert (answer.status_code, bool(pccs(answer))) == (status, True), path


def test_clients_that_go_away_are_no_fault_of_the_services(running: Running):
    parts = urlsplit(running.url)
    for path in PIECES:
        with socket.create_connection((parts.hostname, parts.port)) as connection:
            head = f"POST {parts.path}{path} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\nRequest-Id: gone\r\n\r\n{{"
            connection.sendall(head.encode())
    gone = [{"status": 408, "method": "POST"}] * len(PIECES)
    eventually(lambda: [{name: each[name] for name in gone[0]} for each in running.answered("gone")] == gone)


def test_a_challenge_counts_once_on_whichever_worker(running: Running):
    nonce = running.client.post(f"{running.url}/v1/challenge").json()["nonce"]
    data = runtime_data(nonce)
    body = {
        "quote": base64url(ENCLAVE.quote(report_data_over(data))),
        "runtime_data": {"data": base64url(data)},
        "challenge": nonce,
        "token": "none",
    }

    def send(_: int) -> httpx2.Response:
        return httpx2.post(f"{running.url}/v1/attest", json=body)  # a connection of its own: any worker

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(send, range(16)))
    assert sorted(each.status_code for each in answers) == [200] + [422] * 15
    running.taken += 1
    assert {native(each) for each in answers if each.status_code != 200} == {"challenge.used"}
    for wrong in ("x" * 86, "", nonce[:-1], nonce + "A"):
        answer = running.client.post(f"{running.url}/v1/attest", json={**body, "challenge": wrong})
        assert native(answer) in {"challenge.unknown", "evidence.challenge-not-bound"}
