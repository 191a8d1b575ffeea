# SPDX-License-Identifier: Apache-2.0
"""Microsoft's JavaScript client (@azure/attestation) and jose against the service, as their users call them."""

import base64
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.azure_server import Identity, Served, javascript, open_enclave_report, served, signing_identity

SCRIPT = Path(__file__).parents[1] / "interop" / "azure-js" / "session.mjs"
POLICY = 'version= 1.0;\nauthorizationrules { => permit(); };\nissuancerules { => issue(type="team", value="blue"); };'
RUNTIME = b'{ "key": "of the enclave" }'

Step = tuple[str, dict[str, Any]]


@pytest.fixture
def packages() -> Path:
    found = javascript()
    if found is None:
        pytest.skip("node, or the packages that make installs with it, are not here")
    return found


@pytest.fixture
def service(tmp_path: Path, packages: Path) -> Iterator[Served]:
    (tmp_path / "node_modules").symlink_to(packages)
    shutil.copy(SCRIPT, tmp_path)
    with served(tmp_path) as running:
        yield running


def session(service: Served, steps: Sequence[Step], *, token: str | None = None) -> list[dict[str, Any]]:
    """Run steps in one process of node and return what each of them came to."""
    given = {"endpoint": service.url, "token": token or service.admin, "steps": steps}
    done = subprocess.run(
        ["node", SCRIPT.name],
        cwd=service.ca.parent,
        env={**os.environ, "NODE_EXTRA_CA_CERTS": str(service.ca)},
        input=json.dumps(given),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    results: list[dict[str, Any]] = json.loads(done.stdout)
    return results


def values(service: Served, *steps: Step) -> list[Any]:
    """What steps return that all succeed."""
    results = session(service, steps)
    assert [each for each in results if "error" in each] == []
    return [each["value"] for each in results]


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def signing(identity: Identity) -> dict[str, str]:
    return {"privateKey": identity.key, "certificate": identity.certificate}


def bare(certificates: Sequence[str]) -> list[str]:
    return ["".join(each.split()) for each in certificates]


def test_attest_both_ways_with_both_kinds_of_data(service: Served):
    quote = service.quote(RUNTIME)
    report = open_enclave_report(quote)
    sgx, sgx_json, oe, oe_json = values(
        service,
        ("attestSgx", {"quote": b64(quote), "runTimeData": b64(RUNTIME)}),
        ("attestSgx", {"quote": b64(quote), "runTimeJson": b64(RUNTIME)}),
        ("attestOpenEnclave", {"report": b64(report), "runTimeData": b64(RUNTIME)}),
        ("attestOpenEnclave", {"report": b64(report), "runTimeJson": b64(RUNTIME)}),
    )
    for each in (sgx, sgx_json, oe, oe_json):
        body = each["body"]
        assert (body["_issuer"], body["_mrEnclave"], body["_productId"], body["_svn"]) == (service.url, "a9" * 32, 7, 3)
        assert body["_isDebuggable"] is False
        assert body["_policyClaims"]["sgx-mrenclave"] == "a9" * 32
    assert bytes(sgx["body"]["_enclaveHeldData"]["data"]) == RUNTIME
    assert oe_json["body"]["_runTimeClaims"] == json.loads(RUNTIME)


def test_jose_fetches_the_keys_and_verifies(service: Served):
    (attested,) = values(service, ("attestSgx", {"quote": b64(service.quote())}))
    (verified,) = values(service, ("jose", {"token": attested["token"]}))
    claims = verified["payload"]
    assert claims["x-ms-sgx-report-data"] == "00" * 64
    assert claims["exp"] - claims["nbf"] == 28_800
    assert verified["kid"].startswith("simulated-")
    tampered = attested["token"][:-8] + "AAAAAAAA"
    for wrong in ({"token": tampered}, {"token": attested["token"], "issuer": "https://elsewhere.example"}):
        (refused,) = session(service, [("jose", wrong)])
        assert "error" in refused


def test_discovery_and_signers(service: Served):
    metadata, signers = values(service, ("metadata", {}), ("signers", {}))
    assert metadata["jwks_uri"] == f"{service.url}/certs"
    assert signers[0]["certificates"][0].startswith("-----BEGIN CERTIFICATE-----")


def test_policies_are_read_set_and_reset_signed_or_not(service: Served):
    for identity in (None, signing_identity(), signing_identity(elliptic=True)):
        by = {} if identity is None else {"signing": signing(identity)}
        of = {"type": "SgxEnclave"}
        default, put, read, attested, reset, again = values(
            service,
            ("getPolicy", of),
            ("setPolicy", {**of, "policy": POLICY, **by}),
            ("getPolicy", of),
            ("attestSgx", {"quote": b64(service.quote())}),
            ("resetPolicy", {**of, **by}),
            ("getPolicy", of),
        )
        assert put["body"]["policyResolution"] == "Updated"
        assert read["body"] == POLICY
        assert attested["body"]["_policyClaims"] == {"team": "blue"}
        assert reset["body"]["policyResolution"] == "Removed"
        assert default["body"] == again["body"]
        if identity is not None:
            assert bare(put["body"]["policySigner"]["certificates"]) == bare([identity.certificate])


def test_certificates_of_policy_signers(service: Served):
    first, second = signing_identity("first"), signing_identity("second", elliptic=True)
    added, other, listed, removed = values(
        service,
        ("addCertificate", {"pem": first.certificate, "signing": signing(first)}),
        ("addCertificate", {"pem": second.certificate, "signing": signing(first)}),
        ("certificates", {}),
        ("removeCertificate", {"pem": first.certificate, "signing": signing(second)}),
    )
    assert added["body"]["certificateResolution"] == other["body"]["certificateResolution"] == "IsPresent"
    assert bare([each["certificates"][0] for each in listed["body"]]) == bare([first.certificate, second.certificate])
    assert removed["body"]["certificateResolution"] == "IsAbsent"
    (last,) = session(service, [("removeCertificate", {"pem": second.certificate, "signing": signing(second)})])
    assert (last["status"], last["code"]) == (400, "InvalidOperation")


def test_errors_reach_the_client_with_their_codes(service: Served):
    of = {"type": "SgxEnclave"}
    results = session(
        service,
        [
            ("attestSgx", {"quote": b64(b"nonsense")}),
            ("attestSgx", {"quote": b64(service.quote(RUNTIME)), "runTimeData": b64(b"other")}),
            ("attestSgx", {"quote": b64(service.quote()), "draftPolicy": POLICY}),
            ("setPolicy", {**of, "policy": POLICY}),
            ("getPolicy", {"type": "Tpm"}),
        ],
        token="nobody",
    )
    assert [(each["status"], each["code"]) for each in results] == [
        (400, "InvalidQuote"),
        (400, "InvalidParameter"),
        (400, "InvalidOperation"),
        (401, "Unauthorized"),
        (400, "InvalidParameter"),
    ]


def test_attest_over_plain_http(tmp_path: Path, packages: Path):
    (tmp_path / "node_modules").symlink_to(packages)
    shutil.copy(SCRIPT, tmp_path)
    with served(tmp_path, tls=False) as service:
        (attested,) = values(service, ("attestSgx", {"quote": b64(service.quote())}))
        assert attested["body"]["_issuer"] == service.url
        (refused,) = session(service, [("getPolicy", {"type": "SgxEnclave"})])
        assert "not permitted for non-TLS" in refused["error"], "the client keeps bearer tokens off plain http"


def test_the_guides_example_runs(service: Served):
    guide = (Path(__file__).parents[2] / "docs" / "azure-attestation.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"^```js\n(.*?)^```$", guide, re.MULTILINE | re.DOTALL)
    folder = service.ca.parent
    (folder / "quote.bin").write_bytes(service.quote())
    (folder / "example.mjs").write_text(example.replace("https://attest.example", service.url))
    done = subprocess.run(
        ["node", "example.mjs"],
        cwd=folder,
        env={**os.environ, "NODE_EXTRA_CA_CERTS": str(service.ca), "KUBENCLAVE_TOKEN": service.admin},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout.splitlines()[-1:] == ["a9" * 32], done.stderr
