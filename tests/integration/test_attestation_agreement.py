# SPDX-License-Identifier: Apache-2.0
"""One piece of evidence, one answer: by the command, by the native API in both spellings, and by Azure's API."""

import base64
import contextlib
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jwt
import pytest
from joserfc import jws
from joserfc.jwk import KeySet

from kubenclave.cli import main
from kubenclave.platform.simulated.tcb import PlatformTcb
from kubenclave.sgx.quote import Quote
from tests.attestation_service import Bench, base64url, bench, claims

AZURE = "/attest/SgxEnclave?api-version=2022-08-01"
KEYS = {"ear": "/v1/certs", "ear-veraison": "/v1/certs", "azure": "/certs"}


OUT_OF_DATE = frozenset({PlatformTcb.OUT_OF_DATE, PlatformTcb.OUT_OF_DATE_CONFIGURATION_NEEDED})
"""Azure's API refuses these unless a policy takes them; elsewhere, where nobody has a policy, the status is told."""


@dataclass(frozen=True)
class Said:
    """What one way of asking answered: the verdict where there is one, the code of the refusal otherwise."""

    verdict: dict[str, Any] | None
    code: str | None


@pytest.fixture(params=PlatformTcb, ids=str)
def made(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    with bench(tmp_path / "state", request.param) as service:
        yield service


def by_command(made: Bench, quote: bytes, folder: Path) -> Said:
    files = {"quote": quote, "collateral": made.platform.collateral().to_json().encode()}
    files["root"] = made.platform.issuer.root_der
    for name, content in files.items():
        (folder / name).write_bytes(content)
    words = ["quote", "verify", str(folder / "quote"), "--collateral", str(folder / "collateral")]
    words += ["--root", str(folder / "root"), "--at", made.clock().isoformat(), "--output", "json"]
    with contextlib.redirect_stdout(io.StringIO()) as told:
        status = main.run(words)
    found = json.loads(told.getvalue())
    assert (status == 0) == ("error" not in found)
    return Said(None, found["error"]["code"]) if "error" in found else Said(found, None)


def by_native(made: Bench, quote: bytes, path: str = "/v1/verify", **more: Any) -> Said:
    answer = made.post(path, {"quote": base64url(quote), **more})
    found = answer.json()
    return Said(found["verdict"], None) if answer.status_code == 200 else Said(None, found["code"])


def by_azure(made: Bench, quote: bytes) -> Said:
    answer = made.post(AZURE, {"quote": base64url(quote)})
    if answer.status_code != 200:
        return Said(None, answer.json()["error"]["innererror"]["code"])
    return Said(claims(answer.json()["token"]), None)


def token(made: Bench, quote: bytes, dialect: str) -> str:
    if dialect == "azure":
        return str(made.post(AZURE, {"quote": base64url(quote)}).json()["token"])
    return str(made.post("/v1/attest", {"quote": base64url(quote), "token": dialect}).json()["token"])


def spoiled(quote: bytes) -> Iterator[tuple[str, bytes]]:
    """The quote with one byte changed in each of its parts, and cut short."""
    signature = Quote.parse(quote).signature
    for name, place in (
        ("version", 0),
        ("tee type", 4),
        ("measurement", 48 + 64),
        ("report data", 48 + 320),
        ("signature", 436),
        ("attestation key", 436 + 64),
        ("QE report", 436 + 128 + 64),
        ("QE signature", 436 + 128 + 384),
        ("certificate", quote.index(signature.certification_data.data[200:240])),
    ):
        yield name, quote[:place] + bytes([quote[place] ^ 1]) + quote[place + 1 :]
    yield "cut short", quote[:-100]
    yield "empty", b""


def test_all_ways_of_asking_agree(made: Bench, tmp_path: Path):
    quote = made.quote()
    command, native, azure = by_command(made, quote, tmp_path), by_native(made, quote), by_azure(made, quote)
    assert native.code == by_native(made, quote, "/v1/attest").code == command.code
    assert azure.code == ("azure-policy.tcb-status" if made.platform.tcb in OUT_OF_DATE else command.code)
    if command.verdict is None:
        return
    assert native.verdict is not None
    ours = ("appraised", "policy", "enclave")  # what a service says of its policy, and the command of its own
    assert {k: v for k, v in native.verdict.items() if k not in ours} == {
        k: v for k, v in command.verdict.items() if k not in ours
    }
    if azure.verdict is None:
        return
    shown = command.verdict["quote"]
    assert azure.verdict["x-ms-sgx-mrenclave"] == shown["mr_enclave"]
    assert azure.verdict["x-ms-sgx-mrsigner"] == shown["mr_signer"]
    assert azure.verdict["x-ms-sgx-product-id"] == shown["isv_prod_id"]
    assert azure.verdict["x-ms-sgx-svn"] == shown["isv_svn"]
    assert azure.verdict["x-ms-sgx-report-data"] == shown["report_data"]
    assert azure.verdict["x-ms-sgx-is-debuggable"] is shown["debug"]


def test_tokens_of_all_dialects_say_the_same_of_the_verdict(made: Bench, tmp_path: Path):
    quote = made.quote()
    verdict = by_command(made, quote, tmp_path).verdict
    if verdict is None:
        return
    dialects = set(KEYS) - ({"azure"} if made.platform.tcb in OUT_OF_DATE else set())
    said = {dialect: claims(token(made, quote, dialect))["kubenclave"] for dialect in dialects}
    for own in said.values():
        for name in ("simulated", "tcb_status", "tcb_date", "advisories", "root", "verified_at"):
            assert own[name] == verdict[name]
        assert own["collateral"]["digest"] == verdict["collateral"]
        assert own["collateral"]["dates"] == verdict["dates"]
        assert own["debug"] is verdict["quote"]["debug"]
        # Azure's default is a policy that takes more than the status of a platform without a fault, and says so.
        assert own["relaxations"][: len(verdict["relaxations"])] == verdict["relaxations"]
    assert len({own["evidence"] for own in said.values()}) == 1


def test_both_spellings_of_ear_have_the_same_vector_which_tells_the_platforms_apart(made: Bench):
    quote = made.quote()
    if by_native(made, quote).verdict is None:
        return
    (draft,) = claims(token(made, quote, "ear"))["submods"].values()
    (veraison,) = claims(token(made, quote, "ear-veraison"))["submods"].values()
    vector = draft["ear_trustworthiness_vector"]
    assert vector == veraison["ear.trustworthiness-vector"]
    assert draft["ear_status"] == veraison["ear.status"] == "warning"  # nobody has said which enclave is wanted
    good = (vector["hardware"], vector["configuration"]) == (2, 2)
    assert good is (made.platform.tcb is PlatformTcb.UP_TO_DATE)
    assert (vector["hardware"] == 32) is (made.platform.tcb in OUT_OF_DATE)


def test_spoiled_evidence_is_refused_alike(tmp_path: Path):
    with bench(tmp_path / "state") as made:
        for name, quote in [*spoiled(made.quote()), ("debug", made.quote(debug=True))]:
            command = by_command(made, quote, tmp_path)
            assert command.code is not None, name
            if quote:
                assert by_native(made, quote).code == command.code, name
                assert by_native(made, quote, "/v1/attest").code == command.code, name
                assert by_azure(made, quote).code == command.code, name
            else:
                assert by_native(made, quote).code == "request.malformed"
                assert by_azure(made, quote).code == "maa.member"


def test_the_way_in_which_evidence_is_written_changes_nothing(tmp_path: Path):
    with bench(tmp_path / "state") as made:
        quote = made.quote()
        texts = {f(quote).decode() for f in (base64.b64encode, base64.urlsafe_b64encode)}
        texts |= {text.rstrip("=") for text in texts}
        answers = [made.post("/v1/verify", {"quote": text}).json() for text in texts]
        answers += [made.post("/v1/verify", {"nonce": "12345678", "quote": base64url(quote)}).json()]
        (batch,) = made.post("/v1/attest/batch", {"items": [{"quote": base64url(quote), "token": "none"}]}).json()[
            "items"
        ]
        assert batch.pop("receipt")
        assert all(answer == batch for answer in answers)


@pytest.mark.parametrize("dialect", KEYS)
def test_two_libraries_take_the_token_and_no_changed_one(tmp_path: Path, dialect: str):
    with bench(tmp_path / "state") as made:
        good, document = token(made, made.quote(), dialect), made.get(KEYS[dialect]).json()
    algorithm = jwt.get_unverified_header(good)["alg"]
    key = jwt.PyJWKSet.from_dict(document)[jwt.get_unverified_header(good)["kid"]]
    times: Any = {"verify_exp": False, "verify_nbf": False, "verify_iat": False}
    first = jwt.decode(good, key, [algorithm], options=times)
    second = json.loads(jws.deserialize_compact(good, KeySet.import_key_set(document), algorithms=[algorithm]).payload)
    assert first == second == claims(good)
    head, body, signature = good.split(".")
    unsigned = base64url(json.dumps({"alg": "none"}).encode())
    for bad in (
        f"{head}.{body[:-4]}AAAA.{signature}",
        f"{head}.{body}.{signature[:-8]}AAAAAAAA",
        f"{unsigned}.{body}.",
        f"{head}.{body}.",
    ):
        with pytest.raises(jwt.InvalidTokenError):
            jwt.decode(bad, key, [algorithm], options=times)
