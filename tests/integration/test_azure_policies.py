# SPDX-License-Identifier: Apache-2.0
"""Who may change policies and their signers over Azure's API, and what tokens about them may look like."""

import asyncio
import base64
import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from kubenclave.services.web.credentials import Role
from kubenclave.wire import maa
from tests.attestation_service import Bench, base64url, bench, claims
from tests.azure_server import Identity, refused, signing_identity, utc_now
from tests.simulated_platform import NOW

VERSION = "?api-version=2020-10-01"
NEW = "?api-version=2025-06-01"
SGX = f"/policies/SgxEnclave{VERSION}"
RESET = f"/policies/SgxEnclave:reset{VERSION}"
ADD, REMOVE = f"/certificates:add{VERSION}", f"/certificates:remove{VERSION}"
TEXT = "version= 1.0; authorizationrules { => permit(); }; issuancerules {};"
CLAIMS = json.dumps(maa.policy_claims(TEXT)).encode()
DENIES = "version= 1.0; authorizationrules { => deny(); }; issuancerules {};"


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Bench]:
    with of_today(tmp_path / "state") as made:
        yield made


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """One service for all that changes nothing."""
    with of_today(tmp_path_factory.mktemp("untouched") / "state") as made:
        yield made
        assert version(made) == 0


@contextlib.contextmanager
def of_today(state: Path, **settings: Any) -> Iterator[Bench]:
    with bench(state, **settings) as made:
        made.clock.time = utc_now()  # certificates of signers are of today
        yield made


@pytest.fixture
def admin(service: Bench) -> dict[str, str]:
    return service.bearer(Role.POLICY_ADMIN)


def signed(header: Mapping[str, Any], payload: bytes, identity: Identity) -> str:
    """A token under exactly this header, signed as RS256 or ES256 says, whatever the header says."""
    key: Any = serialization.load_pem_private_key(identity.key.encode(), None)
    content = f"{base64url(json.dumps(header).encode())}.{base64url(payload)}"
    if isinstance(key, ec.EllipticCurvePrivateKey):
        r, s = decode_dss_signature(key.sign(content.encode(), ec.ECDSA(hashes.SHA256())))
        return f"{content}.{base64url(r.to_bytes(32) + s.to_bytes(32))}"
    return f"{content}.{base64url(key.sign(content.encode(), padding.PKCS1v15(), hashes.SHA256()))}"


def token(payload: bytes, identity: Identity | None, **header: Any) -> str:
    """A token with its certificate in the header, or an unsecured one."""
    if identity is None:
        return f"{base64url(json.dumps({'alg': 'none', **header}).encode())}.{base64url(payload)}."
    return signed({"alg": "ES256" if identity.elliptic else "RS256", "x5c": x5c(identity), **header}, payload, identity)


def x5c(identity: Identity) -> list[str]:
    return [base64.b64encode(identity.der).decode()]


def policy(text: str = TEXT, identity: Identity | None = None, **header: Any) -> str:
    return token(json.dumps(maa.policy_claims(text)).encode(), identity, **header)


def about(subject: Identity, identity: Identity | None, name: str = "policyCertificate", **more: Any) -> str:
    """A token about a signer's certificate."""
    jwk = {"kty": "RSA", "x5c": [base64.b64encode(subject.der).decode()]}
    return token(json.dumps({name: jwk, **more}).encode(), identity)


def send(service: Bench, method: str, path: str, text: str, headers: Mapping[str, str] | None = None) -> Any:
    return service.call(method, path, content=text.encode(), headers={"Content-Type": "text/plain", **(headers or {})})


def result(answer: Any) -> dict[str, Any]:
    assert answer.status_code == 200, answer.text
    return claims(answer.json()["token"])


def version(service: Bench) -> int:
    return service.service.policies.current("SgxEnclave").version


def test_a_policy_comes_back_in_the_token_that_it_came_in(service: Bench, admin: dict[str, str]):
    for text in (policy(), policy(TEXT + " ", signing_identity())):
        assert result(send(service, "PUT", SGX, text, admin))["x-ms-policy-result"] == "Updated"
        assert result(service.get(SGX, headers=admin))["x-ms-policy"] == text
    assert service.service.policies.current("SgxEnclave").by == "test-policy-admin"


def test_a_policy_in_our_own_form_judges_and_is_shown_here_too(service: Bench, admin: dict[str, str]):
    service.clock.time = NOW  # collateral is of that day
    attest = f"/attest/SgxEnclave{VERSION}"
    for mr_enclave, status in (("a9" * 32, 200), ("00" * 32, 400)):
        text = json.dumps({"version": 1, "enclaves": [{"mr_enclave": mr_enclave}]})
        service.service.policies.put("SgxEnclave", text, "kubenclave", by="test")
        held = result(service.get(SGX, headers=admin))["x-ms-policy"]
        assert maa.policy_text(claims(held), 1000) == text
        answer = service.post(attest, {"quote": base64url(service.quote())})
        assert answer.status_code == status
        if status == 200:
            assert claims(answer.json()["token"])["kubenclave"]["appraised"] is True
        else:
            refused(answer, 400, "PolicyEvaluationError", "policy.mr-enclave")


def test_every_answer_of_a_simulated_service_says_so(service: Bench, admin: dict[str, str]):
    for answer in (service.get(SGX, headers=admin), service.get(f"/certificates{VERSION}", headers=admin)):
        assert result(answer)["kubenclave"] == {"simulated": True}


@pytest.mark.parametrize("elliptic", [False, True])
def test_spellings_of_signed_policies(service: Bench, admin: dict[str, str], elliptic: bool):
    signer = signing_identity(elliptic=elliptic)
    algorithm = "ES256" if elliptic else "RSA256"
    for text in (policy(TEXT, signer), signed({"alg": algorithm, "jwk": {"x5c": x5c(signer)}}, CLAIMS, signer)):
        found = result(send(service, "PUT", SGX, text, admin))["x-ms-policy-signer"]
        assert base64.b64decode(found["x5c"][0]) == signer.der
        assert found["kty"] == ("EC" if elliptic else "RSA")


WEAK = signing_identity("weak", key=rsa.generate_private_key(65537, 1024))
WIDE = signing_identity("wide", key=ec.generate_private_key(ec.SECP384R1()))
RSA, ELLIPTIC = signing_identity("rsa"), signing_identity("elliptic", elliptic=True)


@pytest.mark.parametrize(
    ("text", "own"),
    [
        ("", "maa.token"),
        ("a.b", "maa.token"),
        ("é.b.c", "maa.base64"),
        (token(b"{}", None), "maa.member"),
        (token(b"[]", None), "maa.object"),
        (token(b'{"AttestationPolicy":"!"}', None), "maa.base64"),
        (token(b'{"AttestationPolicy":"_w"}', None), "maa.text"),
        (token(b'{"AttestationPolicy":"AA","AttestationPolicy":"AA"}', None), "json.duplicate-key"),
        (policy() + "AAAA", "maa.signature"),
        (policy(TEXT, None, alg="None"), "maa.member"),
        (policy(TEXT, None, alg="HS256", x5c=x5c(RSA)), "maa.algorithm"),
        (policy(TEXT, None, alg=["RS256"], x5c=x5c(RSA)), "maa.algorithm"),
        (policy(TEXT, RSA)[:-8] + "AAAAAAAA", "maa.signature"),
        (policy(TEXT, ELLIPTIC)[:-8] + "AAAAAAAA", "maa.signature"),
        (policy(TEXT, RSA, alg="ES256"), "maa.signature"),
        (policy(TEXT, ELLIPTIC, alg="RS256"), "maa.signature"),
        (policy(TEXT, RSA, x5c=x5c(ELLIPTIC)), "maa.signature"),
        (policy(TEXT, RSA, x5c=["AAAA"]), "maa.certificate"),
        (policy(TEXT, RSA, x5c=["!"]), "maa.base64"),
        (policy(TEXT, RSA, x5c=x5c(WEAK)), "maa.certificate"),
        (policy(TEXT, RSA, x5c=x5c(WIDE)), "maa.certificate"),
        (signed({"alg": "RS256", "jku": "https://elsewhere.example/keys"}, CLAIMS, RSA), "maa.member"),
        (signed({"alg": "RS256", "x5u": "https://elsewhere.example/x"}, CLAIMS, RSA), "maa.member"),
        (policy(TEXT, signing_identity("ended", days=-1)), "maa.signer-expired"),
        (f"{base64url(b'[]')}.{base64url(b'{}')}.", "maa.object"),
    ],
)
def test_tokens_that_hold_no_policy(untouched: Bench, text: str, own: str):
    answer = send(untouched, "PUT", SGX, text, untouched.bearer(Role.POLICY_ADMIN))
    refused(answer, 400, "InvalidParameter", own)


def test_bodies_that_are_no_text(untouched: Bench):
    answer = untouched.call("PUT", SGX, content=b"\xff\xfe", headers=untouched.bearer(Role.POLICY_ADMIN))
    refused(answer, 400, "InvalidParameter", "maa.text")


def test_policies_that_do_not_parse_change_nothing(untouched: Bench):
    admin = untouched.bearer(Role.POLICY_ADMIN)
    wrong = policy('version= 1.0; authorizationrules { [type="x"] => permit(); };')
    error = refused(send(untouched, "PUT", SGX, wrong, admin), 400, "PolicyParsingError")
    assert "line 1" in error["message"]
    too_long = policy("version= 1.0;" + " " * (64 << 10))
    refused(send(untouched, "PUT", SGX, too_long, admin), 400, "InvalidParameter", "maa.size")


def test_a_reset_says_nothing_but_that(service: Bench, admin: dict[str, str]):
    send(service, "PUT", SGX, policy(DENIES), admin)
    refused(send(service, "POST", RESET, policy(), admin), 400, "InvalidParameter", "maa.member")
    for empty in (token(b"", None), token(b"{}", None), token(b'""', None), token(b"", RSA)):
        assert result(send(service, "POST", RESET, empty, admin))["x-ms-policy-result"] == "Removed"
    assert service.service.policies.current("SgxEnclave").is_default


def test_nothing_is_writable_by_default(service: Bench):
    unknown = {"Authorization": "Bearer kubenclave_0000000000000000_" + "A" * 43}
    for headers in ({}, unknown, {"Authorization": "Basic eDp5"}):
        for method, path, text in (
            ("PUT", SGX, policy()),
            ("PUT", SGX, policy(TEXT, RSA)),
            ("POST", RESET, token(b"", None)),
            ("POST", ADD, json.dumps(about(RSA, RSA))),
            ("POST", REMOVE, json.dumps(about(RSA, RSA))),
            ("GET", SGX, ""),
            ("GET", f"/certificates{VERSION}", ""),
        ):
            kind = "application/json" if "certificates" in path else "text/plain"
            answer = service.call(method, path, content=text.encode(), headers={**headers, "Content-Type": kind})
            refused(answer, 401, "Unauthorized")
    attester = service.bearer(Role.ATTEST)
    refused(send(service, "PUT", SGX, policy(), attester), 403, "Forbidden", "credentials.role")
    assert version(service) == 0
    assert service.service.policies.signers.all() == []


def register(service: Bench, admin: dict[str, str], *identities: Identity) -> None:
    for each in identities:
        answer = service.post(ADD, about(each, each), headers=admin)
        assert result(answer)["x-ms-policycertificates-result"] == "IsPresent"


def test_a_registered_signer_needs_no_credential_but_each_signature_counts_once(service: Bench, admin: dict[str, str]):
    first, second = policy(TEXT, RSA), policy(DENIES, RSA)
    register(service, admin, RSA)
    assert result(send(service, "PUT", SGX, first))["x-ms-policy-result"] == "Updated"
    assert service.service.policies.current("SgxEnclave").by.startswith("signer ")
    refused(send(service, "PUT", SGX, first), 400, "InvalidParameter", "maa.signature-used")
    for _ in range(2):
        assert result(send(service, "PUT", SGX, second, admin))["x-ms-policy-result"] == "Updated", "administrators may"
    refused(send(service, "PUT", SGX, second), 400, "InvalidParameter", "maa.signature-used")
    anew = token(json.dumps({**maa.policy_claims(TEXT), "iat": 1}).encode(), RSA)
    assert result(send(service, "PUT", SGX, anew))["x-ms-policy-result"] == "Updated"
    assert version(service) == 4


def test_what_strangers_sign_leaves_no_trace(service: Bench, admin: dict[str, str]):
    """Else whoever has no credential could fill the disk, a certificate of one's own at a time."""
    register(service, admin, RSA)
    before = remembered(service)
    for number in range(3):
        text = token(json.dumps({**maa.policy_claims(TEXT), "iat": number}).encode(), ELLIPTIC)
        refused(send(service, "PUT", SGX, text), 401, "Unauthorized")
        refused(service.post(ADD, about(ELLIPTIC, ELLIPTIC, n=number)), 401, "Unauthorized")
    assert remembered(service) == before
    assert version(service) == 0


def remembered(service: Bench) -> int:
    """How many signed tokens the service remembers."""
    return int(service.service.database.read("SELECT count(*) FROM azure_signed_tokens")[0][0])


def test_the_same_signature_written_otherwise_is_no_new_one(service: Bench, admin: dict[str, str]):
    register(service, admin, RSA, ELLIPTIC)
    text = policy(TEXT, ELLIPTIC)
    content, _, last = text.rpartition(".")
    signature = maa.decode_base64(last, "signature", 64)
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551  # of P-256: (r, n - s) is as good
    other = signature[:32] + (order - int.from_bytes(signature[32:])).to_bytes(32)
    assert result(send(service, "PUT", SGX, text))["x-ms-policy-result"] == "Updated"
    for again in (f" {text}\n", f"{text}==", f"{content}.{base64url(other)}"):
        refused(send(service, "PUT", SGX, again), 400, "InvalidParameter", "maa.signature-used")


def test_of_many_who_send_the_same_signed_token_at_once_one_succeeds(service: Bench, admin: dict[str, str]):
    register(service, admin, RSA)
    text = policy(TEXT, RSA)

    async def storm() -> list[int]:
        sent = (
            service.send("PUT", SGX, content=text.encode(), headers={"Content-Type": "text/plain"}) for _ in range(8)
        )
        return [answer.status_code for answer in await asyncio.gather(*sent)]

    assert sorted(asyncio.run(storm())) == [200, *[400] * 7]
    assert version(service) == 1


def test_a_signer_that_was_removed_signs_no_more(service: Bench, admin: dict[str, str]):
    register(service, admin, RSA, ELLIPTIC)
    gone = service.post(REMOVE, about(RSA, ELLIPTIC), headers=admin)
    assert result(gone)["x-ms-policycertificates-result"] == "IsAbsent"
    refused(send(service, "PUT", SGX, policy(TEXT, RSA)), 401, "Unauthorized")
    refused(service.post(ADD, about(RSA, RSA)), 401, "Unauthorized")
    assert result(send(service, "PUT", SGX, policy(TEXT, ELLIPTIC)))["x-ms-policy-result"] == "Updated"


def test_the_key_of_a_signer_makes_no_other_signers(service: Bench, admin: dict[str, str]):
    """Whoever stole it would stay when that signer is removed, and could remove those who would notice."""
    register(service, admin, RSA, ELLIPTIC)
    for path, subject in ((ADD, signing_identity("thief")), (REMOVE, ELLIPTIC)):
        refused(service.post(path, about(subject, RSA)), 401, "Unauthorized")
    assert len(service.service.policies.signers.all()) == 2


def test_the_last_signer_stays(service: Bench, admin: dict[str, str]):
    register(service, admin, RSA)
    refused(service.post(REMOVE, about(RSA, RSA, n=1), headers=admin), 400, "InvalidOperation", "policy-signer.last")
    absent = service.post(REMOVE, about(ELLIPTIC, RSA, n=2), headers=admin)
    assert result(absent)["x-ms-policycertificates-result"] == "IsAbsent"


@pytest.mark.parametrize("name", ["policyCertificate", "maa-policyCertificate", "x-ms-policyCertificate"])
def test_forms_of_requests_about_signers(service: Bench, admin: dict[str, str], name: str):
    bare = service.post(ADD, about(RSA, None, name), headers=admin)
    wrapped = service.post(
        f"/certificates:add{NEW}", {"policyCertificateToAdd": about(ELLIPTIC, RSA, name)}, headers=admin
    )
    assert result(bare)["x-ms-certificate-thumbprint"] != result(wrapped)["x-ms-certificate-thumbprint"]
    removed = service.post(
        f"/certificates:remove{NEW}", {"policyCertificateToRemove": about(RSA, RSA, name)}, headers=admin
    )
    assert result(removed)["x-ms-policycertificates-result"] == "IsAbsent"
    (key,) = result(service.get(f"/certificates{NEW}", headers=admin))["x-ms-policy-certificates"]["keys"]
    assert base64.b64decode(key["x5c"][0]) == ELLIPTIC.der


def test_wrong_requests_about_signers(service: Bench, admin: dict[str, str]):
    for document, own in (({}, "maa.member"), (5, "maa.object"), ("a.b", "maa.token"), (policy(), "maa.member")):
        refused(service.post(ADD, document, headers=admin), 400, "InvalidParameter", own)
    refused(service.call("POST", ADD, content=b"a.b.c", headers=admin), 400, "InvalidParameter", "json.malformed")


def test_in_an_isolated_service_only_signers_decide(tmp_path: Path):
    with of_today(tmp_path / "state", isolated=True) as isolated:
        admin = isolated.bearer(Role.POLICY_ADMIN)
        refused(send(isolated, "PUT", SGX, policy(), admin), 403, "Forbidden", "policy-store.unsigned")
        register(isolated, admin, RSA)  # the first one is the administrator's choice
        refused(isolated.post(ADD, about(ELLIPTIC, ELLIPTIC), headers=admin), 403, "Forbidden", "maa.signer-needed")
        refused(isolated.post(ADD, about(ELLIPTIC, None), headers=admin), 403, "Forbidden", "maa.signer-needed")
        foreign = policy(TEXT, ELLIPTIC)
        refused(send(isolated, "PUT", SGX, foreign, admin), 403, "Forbidden", "policy-store.unknown-signer")
        assert result(isolated.post(ADD, about(ELLIPTIC, RSA)))["x-ms-policycertificates-result"] == "IsPresent"
        assert result(send(isolated, "PUT", SGX, policy(DENIES, ELLIPTIC)))["x-ms-policy-result"] == "Updated"
        refused(send(isolated, "POST", RESET, token(b"", None), admin), 403, "Forbidden", "policy-store.unsigned")
        assert result(send(isolated, "POST", RESET, token(b"", RSA)))["x-ms-policy-result"] == "Removed"
