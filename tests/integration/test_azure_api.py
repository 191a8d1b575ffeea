# SPDX-License-Identifier: Apache-2.0
"""Azure's attestation API request by request: what is taken, what is refused, and that every answer is Azure-shaped."""

import asyncio
import base64
import dataclasses
import hashlib
import json
import socket
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest
from structlog.testing import capture_logs

from kubenclave.dcap.collateral import Collateral
from kubenclave.dcap.tcb import TcbStatus
from kubenclave.errors import ClusterError, KubenclaveError, PlatformError, UnreachableError
from kubenclave.platform.simulated.tcb import PlatformTcb
from kubenclave.services.attestation.app import attestation_app
from kubenclave.services.attestation.azure import routes
from kubenclave.services.attestation.azure.baselines import baselines
from kubenclave.services.attestation.azure.http import error_response, is_azure_path
from kubenclave.services.attestation.provider import CachedCollateral, FixedCollateral
from kubenclave.services.attestation.service import AttestationService
from kubenclave.services.attestation.settings import Settings
from kubenclave.services.collateral.items import Item, ItemKey, Kind
from kubenclave.services.collateral.sources.base import UnknownError
from kubenclave.services.web.credentials import Role
from kubenclave.services.web.limits import Bounds, Limits, Rate
from kubenclave.sgx.attributes import AttributeFlags, Attributes
from kubenclave.sgx.quote import TeeType
from kubenclave.wire import maa
from tests import collateral_items, evidence, simulated_platform
from tests.attestation_service import ISSUER, Bench, base64url, bench, claims
from tests.azure_server import Served, open_enclave_report, refused, served
from tests.clock import Clock
from vectors.reader import read

VERSION = "?api-version=2022-08-01"
NEW = "?api-version=2025-06-01"
SGX = f"/attest/SgxEnclave{VERSION}"
JSON = b'{ "b": 1, "a": [2] }'


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with bench(tmp_path_factory.mktemp("azure") / "state") as made:
        yield made


@pytest.fixture(scope="module")
def quote(service: Bench) -> bytes:
    return service.quote(JSON)


def held(data: bytes, kind: str = "Binary") -> dict[str, str]:
    return {"data": base64url(data), "dataType": kind}


@pytest.mark.parametrize("version", maa.API_VERSIONS)
@pytest.mark.parametrize("kind", ["SgxEnclave", "OpenEnclave"])
def test_every_version_attests(service: Bench, quote: bytes, version: str, kind: str):
    evidence = (
        {"quote": base64url(quote)} if kind == "SgxEnclave" else {"report": base64url(open_enclave_report(quote))}
    )
    answer = service.post(f"/attest/{kind}?api-version={version}", {**evidence, "runtimeData": held(JSON)})
    assert answer.status_code == 200, answer.text
    assert list(answer.json()) == ["token"]
    token = claims(answer.json()["token"])
    assert (token["iss"], token["x-ms-attestation-type"], token["x-ms-ver"]) == (ISSUER, "sgx", "1.0")
    assert token["x-ms-sgx-ehd"] == base64url(JSON)
    assert token["x-ms-sgx-report-data"] == hashlib.sha256(JSON).hexdigest() + "00" * 32


@pytest.mark.parametrize("path", ["/attest/SgxEnclave", "/policies/SgxEnclave", "/certificates", "/tcbbaselines/TdxVm"])
@pytest.mark.parametrize("query", ["", "?api-version=", "?api-version=2018-09-01-preview", "?apiversion=2020-10-01"])
def test_other_versions_are_refused(service: Bench, path: str, query: str):
    call = service.call("POST" if "attest" in path else "GET", path + query, headers=service.bearer(Role.POLICY_ADMIN))
    error = refused(call, 400, "InvalidParameter", "maa.api-version")
    assert "2022-08-01" in error["message"]


def test_base64_of_both_alphabets_padded_or_not(service: Bench, quote: bytes):
    urlsafe, standard = base64.urlsafe_b64encode(quote).decode(), base64.b64encode(quote).decode()
    assert urlsafe != standard
    for text in (urlsafe, urlsafe.rstrip("="), standard, standard.rstrip("=")):
        assert service.post(SGX, {"quote": text}).status_code == 200


def test_json_data_is_hashed_as_it_came_and_shown_as_an_object(service: Bench, quote: bytes):
    answer = service.post(SGX, {"quote": base64url(quote), "runtimeData": held(JSON, "JSON")})
    token = claims(answer.json()["token"])
    assert token["x-ms-runtime"] == json.loads(JSON)
    assert "x-ms-sgx-ehd" not in token
    written_anew = json.dumps(json.loads(JSON)).encode()
    answer = service.post(SGX, {"quote": base64url(quote), "runtimeData": held(written_anew, "JSON")})
    error = refused(answer, 400, "InvalidParameter", "evidence.runtime-data")
    assert hashlib.sha256(written_anew).hexdigest() in error["message"]
    assert hashlib.sha256(JSON).hexdigest() in error["message"]


@pytest.mark.parametrize("data", [b"[1]", b"not json", b'{"a":1,"a":2}', b"[" * 5000])
def test_json_data_that_is_no_object(service: Bench, data: bytes):
    quote = base64url(service.quote(data))
    refused(service.post(SGX, {"quote": quote, "runtimeData": held(data, "JSON")}), 400, "InvalidParameter")
    assert service.post(SGX, {"quote": quote, "runtimeData": held(data)}).status_code == 200


def test_init_time_data_needs_config_id(service: Bench, quote: bytes):
    answer = service.post(SGX, {"quote": base64url(quote), "initTimeData": held(b"config")})
    refused(answer, 400, "InvalidParameter", "evidence.init-data")


def test_init_time_data_of_an_enclave_with_config_id(service: Bench):
    flags = evidence.BODY.attributes.flags | AttributeFlags.KSS
    config = b'{"mode":"strict"}'
    body = dataclasses.replace(
        evidence.BODY,
        attributes=Attributes(flags, evidence.BODY.attributes.xfrm),
        config_id=hashlib.sha256(config).digest().ljust(64, b"\0"),
        config_svn=2,
    )
    quote = base64url(evidence.make(body).quote)
    for kind, shown in (("JSON", json.loads(config)), ("Binary", None)):
        token = claims(service.post(SGX, {"quote": quote, "initTimeData": held(config, kind)}).json()["token"])
        assert token.get("x-ms-inittime") == shown
        assert token["x-ms-sgx-config-id"] == body.config_id.hex()
        assert token["x-ms-sgx-config-svn"] == 2
    answer = service.post(SGX, {"quote": quote, "initTimeData": held(config + b" ")})
    refused(answer, 400, "InvalidParameter", "evidence.init-data")


def test_a_trust_domain(tmp_path: Path):
    vector = next(each for each in read() if each.base == "tdx-v5" and each.expect == TcbStatus.UP_TO_DATE)
    settings = Settings(issuer=ISSUER, state=tmp_path / "state", root=vector.root, open=True)
    provider = FixedCollateral(Collateral.from_json(vector.collateral))
    made = AttestationService.create(settings, provider, lambda: vector.at)
    domain = Bench(made, simulated_platform.Platform(), Clock(vector.at), attestation_app(made))
    try:
        answer = domain.post(f"/attest/TdxVm{NEW}", {"quote": base64url(vector.quote), "nonce": "n"})
        baselines = domain.get(f"/tcbbaselines/TdxVm{NEW}").json()["tcbBaselines"]
    finally:
        made.close()
    token = claims(answer.json()["token"])
    assert token["x-ms-attestation-type"] == "tdxvm"
    assert token["eat_profile"] == "https://aka.ms/maa-eat-profile-tdxvm"
    assert token["attester_tcb_status"] == "UpToDate"
    assert len(token["tdx_mrtd"]) == 96
    assert [each["isSelectedTcb"] for each in baselines] == [True]


def test_a_nonce_comes_back_and_is_no_freshness(service: Bench, quote: bytes):
    token = claims(service.post(SGX, {"quote": base64url(quote), "nonce": "n-1"}).json()["token"])
    assert token["nonce"] == "n-1"
    assert token["kubenclave"]["fresh"] is False


@pytest.mark.parametrize(
    ("document", "code", "own"),
    [
        ({}, "InvalidParameter", "maa.member"),
        ([], "InvalidParameter", "maa.object"),
        ({"report": "AA"}, "InvalidParameter", "maa.member"),
        ({"quote": 1}, "InvalidParameter", "maa.member"),
        ({"quote": "!"}, "InvalidParameter", "maa.base64"),
        ({"quote": "A" * 100_000}, "InvalidParameter", "maa.size"),
        ({"quote": "AAAA"}, "InvalidQuote", "format.truncated"),
        ({"quote": base64url(bytes(5000))}, "InvalidQuote", "quote.unsupported"),
        ({"quote": "Q", "runtimeData": {"data": 1}}, "InvalidParameter", None),
    ],
)
def test_wrong_requests(service: Bench, document: Any, code: str, own: str | None):
    refused(service.post(SGX, document), 400, code, own)


@pytest.mark.parametrize(
    "body",
    [
        b'{"quote":"AAAA","nonce":"\\ud83d"}',
        b'{"quote":"AAAA","draftPolicyForAttestation":"\\ud83d"}',
        b'{"quote":"\\ud83d"}',
        b'{"quote":"AAAA","runtimeData":{"data":"AA","dataType":"\\ud83d"}}',
        b'{"\\ud83d":1,"\\ud83d":2}',
    ],
)
def test_halves_of_pairs_of_surrogates(service: Bench, body: bytes):
    answer = service.call("POST", SGX, content=body, headers={"Content-Type": "application/json"})
    refused(answer, 400, "InvalidParameter")


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b'{"quote":"AA","quote":"BB"}', b"[" * 9000, b'{"nonce":NaN}'])
def test_bodies_that_are_no_json(service: Bench, body: bytes):
    answer = service.call("POST", SGX, content=body, headers={"Content-Type": "application/json"})
    assert refused(answer, 400, "InvalidParameter")["innererror"]["code"].startswith("json.")


def test_other_media_types(service: Bench):
    answer = service.call("POST", SGX, content=b"{}", headers={"Content-Type": "text/xml"})
    refused(answer, 415, "UnsupportedMediaType", "maa.media-type")
    for kind in ("application/json; charset=utf-8", "application/attest+json"):
        refused(service.call("POST", SGX, content=b"{}", headers={"Content-Type": kind}), 400, "InvalidParameter")


@pytest.mark.parametrize("kind", maa.OTHER_TYPES)
def test_types_that_are_not_judged_say_so(service: Bench, kind: str):
    error = refused(service.post(f"/attest/{kind}{VERSION}", {}), 400, "InvalidParameter", "maa.unsupported-type")
    assert "quotes of Intel SGX and TDX" in error["message"]
    headers = service.bearer(Role.POLICY_ADMIN)
    refused(service.get(f"/policies/{kind}{VERSION}", headers=headers), 400, "InvalidParameter", "maa.unsupported-type")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/attest/SgxEnclave/more"),
        ("POST", "/policies/"),
        ("GET", "/certs/x"),
        ("GET", "/certificates/"),
        ("GET", "/tcbbaselines/SgxEnclave/x"),
    ],
)
def test_what_is_not_there(service: Bench, method: str, path: str):
    refused(service.call(method, path), 404, "NotFound", "maa.route")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/attest/SgxEnclave", "POST"),
        ("DELETE", "/policies/SgxEnclave", "GET, HEAD, PUT"),
        ("GET", "/policies/SgxEnclave:reset", "POST"),
        ("POST", "/certs", "GET, HEAD"),
        ("PATCH", "/certificates:add", "POST"),
    ],
)
def test_other_methods(service: Bench, method: str, path: str, allowed: str):
    answer = service.call(method, path)
    refused(answer, 405, "MethodNotAllowed", "maa.method")
    assert answer.headers["allow"] == allowed


def test_keys_with_and_without_a_slash(service: Bench):
    plain, slash = service.get("/certs"), service.get("/certs/")
    assert plain.json() == slash.json()
    assert plain.headers["cache-control"] == "max-age=300"
    (key,) = plain.json()["keys"]
    assert sorted(key) == ["alg", "e", "kid", "kty", "n", "use", "x5c"]
    assert (key["kty"], key["alg"], key["use"]) == ("RSA", "RS256", "sig")


def test_discovery_and_no_revocation(service: Bench):
    document = service.get("/.well-known/openid-configuration").json()
    assert (document["issuer"], document["jwks_uri"]) == (ISSUER, f"{ISSUER}/certs")
    assert document["revocation_endpoint"] == f"{ISSUER}/revoke"
    refused(service.post("/revoke", {}), 400, "InvalidOperation", "maa.no-revocation")


def test_a_quote_of_another_tee(service: Bench, quote: bytes):
    refused(service.post(f"/attest/TdxVm{VERSION}", {"quote": base64url(quote)}), 400, "InvalidParameter", "maa.tee")


def test_a_forged_quote(service: Bench, quote: bytes):
    forged = bytearray(quote)
    forged[48 + 64] ^= 1  # a bit of MRENCLAVE
    refused(service.post(SGX, {"quote": base64url(bytes(forged))}), 400, "InvalidQuote", "quote.signature")


def test_debug_enclaves_are_for_the_operator_to_allow(service: Bench, tmp_path: Path):
    given = {"quote": base64url(service.quote(debug=True))}
    refused(service.post(SGX, given), 400, "PolicyEvaluationError", "policy.debug")
    with bench(tmp_path / "state", dangerously_allow_debug=True) as lenient:
        token = claims(lenient.post(SGX, given).json()["token"])
    assert token["x-ms-sgx-is-debuggable"] is True
    assert any("dangerously_allow_debug" in each for each in token["kubenclave"]["relaxations"])


def test_collateral_that_has_ended_is_the_services_trouble(tmp_path: Path):
    with bench(tmp_path / "state") as late:
        given = {"quote": base64url(late.quote())}
        late.clock.advance(days=400)
        answer = late.post(SGX, given)
    refused(answer, 503, "ServiceUnavailable")
    assert int(answer.headers["retry-after"]) >= 1


@pytest.mark.parametrize(
    "trouble",
    [
        UnknownError("no such platform", code="collateral.unknown"),
        UnreachableError("nobody answers", code="source.unreachable"),
        PlatformError("the disk is full", code="database.unusable"),
        ClusterError("forbidden", code="cluster.refused"),
    ],
)
def test_what_the_service_lacks_is_not_the_clients_mistake(
    service: Bench, quote: bytes, monkeypatch: pytest.MonkeyPatch, trouble: KubenclaveError
):
    async def lacking(*_arguments: object) -> Collateral:
        raise trouble

    monkeypatch.setattr(FixedCollateral, "collateral", lacking)
    answer = service.post(SGX, {"quote": base64url(quote)})
    refused(answer, 503, "ServiceUnavailable", trouble.code)
    assert answer.headers["retry-after"] == "1"


def test_a_platform_that_is_out_of_date(tmp_path: Path):
    with bench(tmp_path / "state", PlatformTcb.OUT_OF_DATE) as old:
        answer = old.post(SGX, {"quote": base64url(old.quote())})
    refused(answer, 400, "PolicyEvaluationError", "azure-policy.tcb-status")


def test_attesting_takes_a_credential_unless_it_is_open(tmp_path: Path):
    with bench(tmp_path / "state", open=False) as closed:
        given = {"quote": base64url(closed.quote())}
        for headers in ({}, {"Authorization": "Bearer of-azure"}, {"Authorization": "Basic eDp5"}):
            answer = closed.post(SGX, given, headers=headers)
            refused(answer, 401, "Unauthorized")
            assert answer.headers["www-authenticate"].startswith("Bearer")
        wrong = closed.bearer(Role.POLICY_ADMIN)
        refused(closed.post(SGX, given, headers=wrong), 403, "Forbidden", "credentials.role")
        assert closed.post(SGX, given, headers=closed.bearer(Role.ATTEST)).status_code == 200
        assert closed.get("/certs").status_code == 200, "keys are for everybody"


def test_a_token_of_azures_does_no_harm_where_all_may_attest(service: Bench, quote: bytes):
    headers = {"Authorization": "Bearer eyJ0eXAiOiJKV1QifQ.e30.AA"}
    assert service.post(SGX, {"quote": base64url(quote)}, headers=headers).status_code == 200


def test_tcb_baselines_name_the_generation_in_use(service: Bench):
    (baseline,) = service.get(f"/tcbbaselines/SgxEnclave{VERSION}").json()["tcbBaselines"]
    assert baseline == {"tcbIdentifier": "azuredefault", "tcbEvaluationDataNumber": 17, "isSelectedTcb": True}


def test_tcb_baselines_of_a_cache():
    items = collateral_items.items()

    async def get(key: ItemKey) -> Item:
        return items[key]

    (found,) = baselines(asyncio.run(CachedCollateral(get).generations(TeeType.SGX)))
    assert (found["tcbIdentifier"], found["tcbEvaluationDataNumber"], found["isSelectedTcb"]) == (
        "azuredefault",
        17,
        True,
    )
    assert found["tcbReleaseDate"].endswith("Z")

    async def get_without_list(key: ItemKey) -> Item:
        if key.kind is Kind.EVALUATION_NUMBERS:
            raise UnknownError("no such list", code="collateral.unknown")
        return items[key]

    (found,) = baselines(asyncio.run(CachedCollateral(get_without_list).generations(TeeType.TDX)))
    assert found == {"tcbIdentifier": "azuredefault", "tcbEvaluationDataNumber": 17, "isSelectedTcb": True}


def test_drafts_are_refused_before_anything_is_judged(service: Bench):
    answer = service.post(SGX, {"quote": base64url(service.quote()), "draftPolicyForAttestation": "version= 1.0;"})
    refused(answer, 400, "InvalidOperation", "maa.draft")


def test_drafts_get_unsecured_tokens_that_no_verifier_takes_for_another(tmp_path: Path):
    draft = 'version= 1.0; authorizationrules { => permit(); }; issuancerules { => issue(type="x", value=true); };'
    with bench(tmp_path / "state", dangerously_allow_draft_policies=True) as lenient:
        document = {"quote": base64url(lenient.quote()), "draftPolicyForAttestation": draft}
        token = lenient.post(SGX, document).json()["token"]
        broken = lenient.post(SGX, {**document, "draftPolicyForAttestation": "version= 7;"})
        keys = jwt.PyJWKSet.from_dict(lenient.get("/certs").json())
    assert claims(token)["iss"] != ISSUER
    assert claims(token)["x"] is True
    assert claims(token)["kubenclave"]["draft"] is True
    assert jwt.get_unverified_header(token)["alg"] == "none"
    with pytest.raises(jwt.InvalidTokenError):
        jwt.decode(token, keys.keys[0], algorithms=["RS256"])
    refused(broken, 400, "PolicyParsingError")


def test_a_bug_is_answered_in_azures_shape_without_a_word_of_what_it_was(
    service: Bench, quote: bytes, monkeypatch: pytest.MonkeyPatch
):
    def fail(*_arguments: object) -> None:
        raise ZeroDivisionError("a secret")

    monkeypatch.setattr(routes, "check_tee", fail)
    with capture_logs() as logs:
        answer = service.post(SGX, {"quote": base64url(quote)})
    refused(answer, 500, "InternalServerError", "maa.failed")
    assert "secret" not in answer.text + str(logs)
    (line,) = [one for one in logs if one["event"] == "request.failed"]
    assert (line["error"], line["where"].split(":")[0]) == ("ZeroDivisionError", routes.__name__)


def test_a_client_that_goes_away_is_no_bug(service: Bench):
    sent: list[Any] = []

    async def gone() -> dict[str, str]:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    path = f"/simulated{SGX.partition('?')[0]}"
    scope = {"type": "http", "method": "POST", "path": path, "query_string": VERSION[1:].encode(), "headers": []}
    asyncio.run(service.app(scope, gone, send))
    assert sent[0]["status"] == 408


def test_paths_of_the_api_are_known():
    for path in ("/attest/SgxEnclave", "/policies/TdxVm:reset", "/certificates:add", "/certs", "/tcbbaselines/x"):
        assert is_azure_path(path)
    assert not is_azure_path("/v1/attest")


# Requests of clients that are not in Python, as they put them on the wire.


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("plain"), tls=False) as running:
        yield running


def exchange(service: Served, request: bytes) -> dict[str, Any]:
    """Send bytes and return the JSON of a 200 that came back."""
    port = int(service.url.split(":")[2].partition("/")[0])
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(request)
        with connection.makefile("rb") as answer:
            status = answer.readline()
            while b" 100 " in status:  # curl asks before it sends a large body, and sends it in any case
                while answer.readline().strip():
                    pass
                status = answer.readline()
            head = dict(line.decode().strip().lower().split(": ", 1) for line in iter(answer.readline, b"\r\n"))
            body = answer.read(int(head["content-length"]))
    assert status.split()[1] == b"200", body
    decoded: dict[str, Any] = json.loads(body)
    return decoded


def post_of(head: str, body: bytes) -> bytes:
    return head.replace("\n", "\r\n").encode() + f"Content-Length: {len(body)}\r\n\r\n".encode() + body


def test_gramines_plug_in(plain: Served):
    """``ra_tls_maa``: curl, its own spacing, runtime data is the DER public key, and then ``/certs/``."""
    public_key = bytes(range(120))
    quote = plain.quote(public_key)
    body = (
        f'{{"quote": "{base64url(quote)}", "runtimeData":   '
        f'{{"data": "{base64url(public_key)}", "dataType": "Binary"}}  }}'
    ).encode()
    token = exchange(
        plain,
        post_of(
            "POST /simulated/attest/SgxEnclave?api-version=2022-08-01 HTTP/1.1\nHost: localhost\nAccept: */*\n"
            "Content-Type: application/json\nExpect: 100-continue\n",
            body,
        ),
    )["token"]
    keys = exchange(plain, b"GET /simulated/certs/ HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n\r\n")["keys"]
    header = jwt.get_unverified_header(token)
    assert (header["alg"], header["typ"], header["jku"]) == ("RS256", "JWT", f"{plain.url}/certs")
    assert [key["kty"] for key in keys] == ["RSA"]
    (certificate,) = [key["x5c"][0] for key in keys if key["kid"] == header["kid"]]
    assert base64.b64decode(certificate)[:1] == b"\x30"
    named = claims(token)
    assert named["x-ms-sgx-report-data"] == hashlib.sha256(public_key).hexdigest() + "00" * 32
    types = {"mrenclave": str, "mrsigner": str, "product-id": int, "svn": int, "is-debuggable": bool}
    assert all(isinstance(named[f"x-ms-sgx-{name}"], kind) for name, kind in types.items())


def test_ego(plain: Served):
    """EGo: an Open Enclave report, and paths behind the host whatever the path of the base URL."""
    data = b"public key of the enclave"
    report = base64url(open_enclave_report(plain.quote(data)))
    body = f'{{"report":"{report}","runtimeData":{{"data":"{base64url(data)}","dataType":"Binary"}}}}'.encode()
    head = (
        "POST /attest/OpenEnclave?api-version=2020-10-01 HTTP/1.1\nHost: localhost\nUser-Agent: Go-http-client/1.1\n"
        "Content-Type: application/json\nAccept-Encoding: gzip\n"
    )
    token = exchange(plain, post_of(head, body))["token"]
    get = b"GET /certs HTTP/1.1\r\nHost: localhost\r\nUser-Agent: Go-http-client/1.1\r\nAccept-Encoding: gzip\r\n\r\n"
    keys = exchange(plain, get)["keys"]
    kid = jwt.get_unverified_header(token)["kid"]
    assert kid in [key["kid"] for key in keys if key["x5c"]]
    assert claims(token)["iss"] == plain.url
    assert claims(token)["x-ms-sgx-ehd"] == base64url(data)


# Bounds in front of the routes, as whoever serves them puts them there.


def bounded(service: Bench, **bounds: Any) -> Bench:
    app = Limits(service.app, Bounds(**bounds), time.monotonic, lambda _request, error: error_response(error))
    return dataclasses.replace(service, app=app)  # type: ignore[arg-type]


def test_bodies_that_are_too_long(service: Bench):
    small = bounded(service, body=2000)
    refused(small.post(SGX, {"quote": "A" * 3000}), 413, "RequestEntityTooLarge", "serving.size")

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(9):
            yield b"A" * 400

    answer = small.call("POST", SGX, content=pieces(), headers={"Content-Type": "application/json"})
    refused(answer, 413, "RequestEntityTooLarge", "serving.size")


def test_bodies_that_do_not_arrive(service: Bench):
    async def never() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.sleep(60)

    slow = bounded(service, arriving=0.05)
    answer = slow.call("POST", SGX, content=never(), headers={"Content-Type": "application/json"})
    refused(answer, 408, "RequestTimeout", "serving.slow")


def test_clients_that_ask_too_often(service: Bench):
    hurried = bounded(service, rate=Rate(0.01, 1))
    assert hurried.get("/certs").status_code == 200
    answer = hurried.get("/certs")
    refused(answer, 429, "TooManyRequests", "limits.rate")
    assert int(answer.headers["retry-after"]) >= 1


def test_an_answer_that_takes_too_long(service: Bench, monkeypatch: pytest.MonkeyPatch):
    async def late(*_arguments: object) -> None:
        await asyncio.sleep(60)

    monkeypatch.setattr(routes, "read_json", late)
    refused(bounded(service, total=0.05).post(SGX, {}), 503, "ServiceUnavailable", "limits.late")
