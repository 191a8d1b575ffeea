# SPDX-License-Identifier: Apache-2.0
"""The log over HTTP: what a monitor needs to rebuild it, and proofs between any two sizes."""

import datetime as dt
import json

import pytest

from kubenclave.dcap import merkle
from kubenclave.dcap.collateral import Collateral
from kubenclave.dcap.verdict import verify_quote
from kubenclave.services.attestation.transparency.checkpoint import LogKey, open_checkpoint
from kubenclave.services.web.credentials import Role
from tests.attestation_service import attestation, base64url, bench

__all__ = ["attestation"]


def hashes(answer):
    assert answer.status_code == 200, answer.text
    return [bytes.fromhex(each) for each in answer.json()["proof"]]


def test_a_monitor_can_rebuild_the_log_and_every_proof_holds(attestation):
    quote = base64url(attestation.quote())
    receipts = [attestation.post("/v1/attest", {"quote": quote, "token": "none"}).json()["receipt"] for _ in range(5)]
    head = attestation.get("/v1/log/head").json()
    key = LogKey.parse(head["key"])
    signed = open_checkpoint(attestation.get("/v1/log/checkpoint").text, key)
    assert (signed.size, signed.root.hex(), key.name) == (5, head["root"], "attestation.example/simulated")
    entries = [entry.encode() for entry in attestation.get("/v1/log/entries").json()["entries"]]
    assert entries == [receipt["entry"].encode() for receipt in receipts]
    roots, edge = [merkle.EMPTY_ROOT], merkle.Frontier()
    for entry in entries:
        edge.append(merkle.leaf_hash(entry))
        roots.append(edge.root())
    assert roots[-1] == signed.root
    proof = hashes(attestation.get("/v1/log/proof/inclusion?index=2&size=4"))
    merkle.check_inclusion(merkle.leaf_hash(entries[2]), 2, 4, proof, roots[4])
    proof = hashes(attestation.get("/v1/log/proof/consistency?first=3"))
    merkle.check_consistency(3, roots[3], 5, roots[5], proof)
    tile = attestation.get("/v1/log/tile/0/000.p/5")
    assert tile.content == b"".join(map(merkle.leaf_hash, entries))
    assert "immutable" in tile.headers["cache-control"]


def test_an_entry_says_what_was_decided(attestation):
    answer = attestation.post("/v1/attest", {"quote": base64url(attestation.quote())}).json()
    entry = json.loads(answer["receipt"]["entry"])
    assert entry["verdict"] == "accepted"
    assert entry["tcb_status"] == "UpToDate"
    assert entry["collateral"] == answer["verdict"]["collateral"]
    assert entry["policy"] == answer["policy"]
    assert (entry["simulated"], entry["fresh"], entry["draft"]) == (True, False, False)


def test_collateral_of_a_verdict_can_be_had_to_judge_once_more(attestation):
    quote = attestation.quote()
    answer = attestation.post("/v1/attest", {"quote": base64url(quote), "token": "none"}).json()
    attestation.post("/v1/attest", {"quote": base64url(quote), "token": "none"})
    digest = json.loads(answer["receipt"]["entry"])["collateral"]
    got = attestation.get(f"/v1/log/collateral/{digest}")
    assert (got.status_code, got.headers["content-type"]) == (200, "application/json")
    collateral = Collateral.from_json(got.content)
    assert collateral.digest.hex() == digest
    at = dt.datetime.fromisoformat(answer["verdict"]["verified_at"])
    again = verify_quote(quote, collateral, at=at, root=attestation.service.settings.root)
    assert again.as_dict() == answer["verdict"]


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("collateral/" + "00" * 32, 404, "archive.unknown"),
        ("collateral/" + "AA" * 32, 400, "log.parameter"),
        ("collateral/aa", 400, "log.parameter"),
        ("entries?start=x", 400, "log.parameter"),
        ("entries?start=1&start=2", 400, "log.parameter"),
        ("entries?start=-1", 400, "log.parameter"),
        ("entries?start=2&end=1", 404, "log.range"),
        ("proof/inclusion", 400, "log.parameter"),
        ("proof/inclusion?index=0&size=9", 404, "log.range"),
        ("proof/inclusion?index=0&size=0", 404, "log.range"),
        ("proof/consistency?first=1&second=9", 404, "log.range"),
        ("proof/consistency?first=" + "9" * 15, 404, "log.range"),
        ("proof/consistency?first=" + "9" * 40, 400, "log.parameter"),
        ("tile/0/000", 404, "log.range"),
        ("tile/0/x999/x999/x999/x999/999", 404, "log.range"),
        ("tile/x", 400, "log.tile"),
    ],
)
def test_what_is_not_there_is_said(attestation, path, status, code):
    answer = attestation.get(f"/v1/log/{path}")
    assert (answer.status_code, answer.json()["code"]) == (status, code)


def test_a_page_from_the_end_is_empty(attestation):
    assert attestation.get("/v1/log/entries?start=7").json() == {"size": 0, "start": 7, "entries": []}


def test_a_closed_service_shows_its_log_to_those_who_may_attest(tmp_path):
    with bench(tmp_path / "closed", open=False) as service:
        assert service.get("/v1/log/head").status_code == 401
        assert service.get("/v1/log/head", headers=service.bearer(Role.ATTEST)).status_code == 200
