# SPDX-License-Identifier: Apache-2.0
"""Secrets for enclaves, through the whole application, with evidence of a SIMULATED platform."""

import json

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from joserfc import jwe
from joserfc.jwk import ECKey, RSAKey

from kubenclave.dcap.binding import runtime_data
from kubenclave.errors import PlatformError
from kubenclave.platform.simulated.tcb import PlatformTcb
from kubenclave.services.attestation.release.secrets import make_key
from kubenclave.services.attestation.transparency.checkpoint import InclusionReceipt
from kubenclave.services.web.credentials import Role
from tests import ratls
from tests.attestation_service import base64url, bench
from tests.simulated_platform import APP_MR_ENCLAVE

SECRET = b"correct horse battery staple"
POLICY = {"version": 1, "name": "billing", "enclaves": [{"mr_enclave": APP_MR_ENCLAVE.hex()}]}
ALGORITHMS = ["ECDH-ES+A256KW", "RSA-OAEP-256", "A256GCM"]


@pytest.fixture
def key_file(tmp_path):
    make_key(tmp_path / "secrets.key")
    return tmp_path / "secrets.key"


@pytest.fixture
def service(tmp_path, key_file):
    with bench(tmp_path / "state", secrets_key=key_file) as made:
        set_policy(made)
        assert store(made).status_code == 200
        yield made


@pytest.fixture
def key():
    return ECKey.generate_key("P-256")


def set_policy(service, tee_type="SgxEnclave", **members):
    service.service.policies.put(tee_type, json.dumps({**POLICY, **members}), "kubenclave", by="test")


def store(service, name="database", **members):
    body = {"value": base64url(SECRET), "simulated": True, **members}
    return service.call("PUT", f"/v1/secrets/{name}", json=body, headers=service.bearer(Role.RELEASE_ADMIN))


def asked(service, key, **how):
    """Body of a request as an enclave makes it: challenge, key, quote over both."""
    nonce = service.post("/v1/challenge", {}).json()["nonce"]
    data = runtime_data(nonce, key.as_dict(private=False))
    quote = service.quote(data, **how)
    held = {"data": base64url(data), "type": "JSON"}
    return {"secret": "database", "challenge": nonce, "quote": base64url(quote), "runtime_data": held}


def refused(service, body, status=422):
    answer = service.post("/v1/release", body)
    assert answer.status_code == status, answer.text
    assert "jwe" not in answer.text
    return answer.json()


def entries(service):
    return [json.loads(entry) for entry in service.get("/v1/log/entries").json()["entries"]]


@pytest.mark.parametrize("new", [lambda: ECKey.generate_key("P-384"), lambda: RSAKey.generate_key(2048)])
def test_an_enclave_gets_its_secret_wrapped_to_its_key_with_a_receipt(service, new):
    key = new()
    answer = service.post("/v1/release", asked(service, key))
    assert answer.status_code == 200, answer.text
    said = answer.json()
    opened = jwe.decrypt_compact(said["jwe"], key, algorithms=ALGORITHMS)
    assert opened.plaintext == SECRET
    assert opened.headers()["kid"] == key.thumbprint()
    assert (said["secret"], said["version"], said["simulated"]) == ("database", 1, True)
    receipt = said["receipt"]
    entry = receipt["entry"].encode()
    InclusionReceipt.parse(receipt["proof"]).check(entry, service.service.log.key)
    assert json.loads(entry)["released"] == {"secret": "database", "version": 1, "key": key.thumbprint()}
    assert json.loads(entry)["fresh"] is True
    assert json.loads(entry)["simulated"] is True


def test_a_request_works_once(service, key):
    body = asked(service, key)
    assert service.post("/v1/release", body).status_code == 200
    assert refused(service, body)["code"] == "challenge.used"


def test_without_a_challenge_nothing_is_released(service, key):
    body = asked(service, key)
    del body["challenge"]
    assert refused(service, body)["code"] == "release.not-fresh"
    assert entries(service)[-1]["codes"] == ["release.not-fresh"]
    assert entries(service)[-1]["wanted"] == "database"


def test_an_ra_tls_certificate_without_a_challenge_gets_nothing(service):
    certificate = ratls.legacy(service.platform.quote).public_bytes(Encoding.PEM).decode()
    attested = service.post("/v1/attest", {"ra_tls_certificate": certificate}).json()
    assert attested["fresh"] is False
    assert "jwe" not in service.post("/v1/release", {"secret": "database", "ra_tls_certificate": certificate}).text


def test_a_challenge_that_ended_or_is_not_bound_gets_nothing(service, key):
    body = asked(service, key)
    other = service.post("/v1/challenge", {}).json()["nonce"]
    assert refused(service, {**body, "challenge": other})["code"] == "evidence.challenge-not-bound"
    service.clock.advance(minutes=6)
    assert refused(service, body)["code"] == "challenge.expired"


def test_a_debug_enclave_gets_nothing_even_where_debug_is_let_through(tmp_path, key_file, key):
    with bench(tmp_path / "debug", secrets_key=key_file, dangerously_allow_debug=True) as service:
        set_policy(service, dangerously_allow_debug=True)
        assert store(service).status_code == 200
        said = refused(service, asked(service, key, debug=True))
        codes = {finding["code"] for finding in said["findings"]}
        assert codes == {"release.debug", "release.relaxed"}
        assert entries(service)[-1]["verdict"] == "refused"


def test_a_platform_that_is_out_of_date_gets_nothing_even_where_the_policy_takes_it(tmp_path, key_file, key):
    with bench(tmp_path / "old", PlatformTcb.OUT_OF_DATE, secrets_key=key_file) as service:
        set_policy(service, tcb_statuses=["UpToDate", "OutOfDate"])
        assert store(service).status_code == 200
        codes = {finding["code"] for finding in refused(service, asked(service, key))["findings"]}
        assert codes == {"release.tcb-status", "release.relaxed"}


def test_another_enclave_gets_nothing_and_the_log_says_so(service, key):
    set_policy(service, enclaves=[{"mr_enclave": "00" * 32}])
    assert store(service).json()["version"] == 2
    assert refused(service, asked(service, key))["code"] == "policy.mr-enclave"
    assert entries(service)[-1]["wanted"] == "database"


def test_a_secret_stays_where_it_is_once_its_policy_was_replaced(service, key):
    set_policy(service, name="another")
    assert refused(service, asked(service, key))["code"] == "release.policy"


def test_a_policy_that_is_replaced_while_evidence_is_judged_releases_nothing(service, key, monkeypatch):
    """Collateral may be waited for half a minute; whoever withdraws a policy counts on it from that moment on."""
    provider = service.service.judge.provider
    collateral = provider.collateral

    async def slow(*what):
        set_policy(service, enclaves=[{"mr_enclave": "00" * 32}])
        return await collateral(*what)

    body = asked(service, key)
    monkeypatch.setattr(type(provider), "collateral", lambda _self, *what: slow(*what))
    assert refused(service, body, 409)["code"] == "request.policy-version"
    assert not [each for each in entries(service) if "released" in each]


def test_an_sgx_enclave_gets_no_secret_of_a_trust_domain(service, key):
    service.service.policies.put(
        "TdxVm", "version=1.0; authorizationrules { => permit(); }; issuancerules {};", "azure", by="test"
    )
    assert store(service, "other", tee_type="TdxVm").status_code == 200
    body = {**asked(service, key), "secret": "other"}
    assert refused(service, body)["code"] == "release.tee"


def test_a_key_has_to_be_bound_and_public(service, key):
    nonce = service.post("/v1/challenge", {}).json()["nonce"]
    data = runtime_data(nonce)
    body = {"secret": "database", "challenge": nonce, "quote": base64url(service.quote(data))}
    assert refused(service, {**body, "runtime_data": {"data": base64url(data)}}, 400)["code"] == "binding.no-key"
    body = asked(service, key)
    foreign = runtime_data(body["challenge"], ECKey.generate_key("P-256").as_dict(private=False))
    changed = {**body, "runtime_data": {"data": base64url(foreign)}}
    assert refused(service, changed)["code"] == "evidence.runtime-data"


def test_when_the_log_cannot_be_written_nothing_leaves(service, key, monkeypatch):
    async def full(_entry):
        raise PlatformError("full", code="database.unusable")

    body = asked(service, key)
    monkeypatch.setattr(type(service.service.log), "append", lambda _self, entry: full(entry))
    assert refused(service, body, 503)["code"] == "database.unusable"


def test_there_is_no_such_secret(service, key):
    assert refused(service, {**asked(service, key), "secret": "none"}, 404)["code"] == "secret.unknown"


def test_secrets_are_an_administrators(service):
    for method, path in (("GET", "/v1/secrets"), ("PUT", "/v1/secrets/x"), ("DELETE", "/v1/secrets/database")):
        assert service.call(method, path, json={}).status_code == 401
        assert service.call(method, path, json={}, headers=service.bearer(Role.POLICY_ADMIN)).status_code == 403
    assert len(service.service.secrets.list()) == 1


def test_the_list_names_secrets_without_their_values(service):
    answer = service.get("/v1/secrets", headers=service.bearer(Role.RELEASE_ADMIN))
    assert [(each["name"], each["by"]) for each in answer.json()["secrets"]] == [("database", "test-release-admin")]
    assert base64url(SECRET) not in answer.text


def test_a_deleted_secret_is_gone(service):
    headers = service.bearer(Role.RELEASE_ADMIN)
    assert service.call("DELETE", "/v1/secrets/database", headers=headers).status_code == 204
    assert service.call("DELETE", "/v1/secrets/database", headers=headers).status_code == 404
    assert store(service).json()["version"] == 2


@pytest.mark.parametrize(
    ("members", "code"),
    [
        ({"simulated": False}, "secret.simulated"),
        ({"value": "!"}, "request.base64"),
        ({"value": ""}, "request.malformed"),
        ({"policy_version": 7}, "secret.policy"),
        ({"tee_type": "TdxVm"}, "secret.policy"),
        ({"tee_type": "SevSnpVm"}, "request.malformed"),
        ({"more": 1}, "request.malformed"),
    ],
)
def test_what_cannot_be_stored(service, members, code):
    answer = store(service, **members)
    assert (answer.status_code, answer.json()["code"]) == (400, code)


def test_names_of_secrets(service):
    assert store(service, ".hidden").json()["code"] == "secret.name"
    assert store(service, "x" * 128).json()["code"] == "secret.name"


def test_without_a_key_file_nothing_is_stored(tmp_path):
    with bench(tmp_path / "none") as service:
        set_policy(service)
        assert store(service).json()["code"] == "secret.no-key"


def test_neither_secret_nor_quote_nor_platform_is_in_the_log_or_the_database(service, key, tmp_path):
    body = asked(service, key)
    assert service.post("/v1/release", body).status_code == 200
    answer = service.get("/v1/log/entries").text
    ppid = service.post("/v1/attest", {"quote": body["quote"]}).json()["verdict"]["platform_identity"]["ppid"]
    for private in (SECRET.decode(), body["quote"][:64], ppid, body["challenge"]):
        assert private not in answer
    kept = b"".join(path.read_bytes() for path in (tmp_path / "state").iterdir())
    assert SECRET not in kept
