# SPDX-License-Identifier: Apache-2.0
"""``kubenclave policy`` with texts in Azure's grammar, and ``policy diff``."""

import datetime as dt
import json
from pathlib import Path
from typing import Any

import pytest

from kubenclave.cli import main
from kubenclave.dcap.azurepolicy import DEFAULT_SGX_POLICY
from kubenclave.platform.simulated.tcb import PlatformTcb
from kubenclave.services.attestation.evidence_store import EvidenceLimits, EvidenceStore, StoredEvidence
from kubenclave.services.database import Database
from tests import evidence
from tests.evidence import BODY, MR_ENCLAVE, NOW, Files

ACCEPTS = 'version=1.0;\nauthorizationrules{\n  [type=="x-ms-sgx-svn", value>=3] => permit();\n};\n'
REFUSES = ACCEPTS.replace(">=3", ">=4")


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Files:
    return evidence.make().write(tmp_path_factory.mktemp("evidence"))


@pytest.fixture
def run(capsys):
    """Run ``kubenclave policy`` and return exit code, stdout, stderr."""

    def command(*words: str) -> tuple[int, str, str]:
        code = main.run(["policy", *words])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return command


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """Return a state directory with two pieces of evidence."""
    database = Database(tmp_path / "attestation.db")
    store = EvidenceStore(database, lambda: NOW, EvidenceLimits(count=5))
    for given, at in ((evidence.make(), NOW), (evidence.debug(), NOW - dt.timedelta(minutes=1))):
        store.keep(StoredEvidence(tee_type="SgxEnclave", quote=given.quote, collateral=given.collateral, at=at))
    database.close()
    return tmp_path


@pytest.mark.parametrize("name", ["p.azurepolicy", "p.txt"])
def test_check_shows_what_it_comes_to(name, files, run):
    code, out, _ = run("check", files.write(name, DEFAULT_SGX_POLICY))
    assert code == 0
    assert "version 1.1" in out
    assert "is-debuggable, sgx-mrsigner, sgx-mrenclave, product-id, svn, tee" in out
    code, out, _ = run("check", files.write("p", DEFAULT_SGX_POLICY), "--format", "azure", "--output", "json")
    shown = json.loads(out)["policy"]
    assert (code, shown["rules"]["issuancerules"], shown["permits"]) == (0, 6, True)


def test_check_says_that_nothing_is_permitted(files, run):
    code, _, err = run("check", files.write("p.azurepolicy", "version=1.0;"))
    assert code == 0
    assert "refuses everything" in err


def test_check_shows_properties_and_what_they_relax(files, run):
    rules = (
        '=>issueproperty(type="omit_x5c", value=true);'
        '=>issueproperty(type="dangerously_accept_tcb_status", value="OutOfDate");'
        'c:[type=="a"]=>issueproperty(type="dangerously_accept_tcb_status", value=c.value);'
    )
    text = f"version=1.1; configurationrules{{{rules}}}; authorizationrules{{=>permit();}};"
    code, out, err = run("check", files.write("p.azurepolicy", text))
    assert code == 0
    assert "RELAXED  dangerously_accept_tcb_status: platforms that are OutOfDate are let through" in out
    assert "of a status that a rule finds" in out
    assert "omit_x5c has no effect here" in err
    shown = json.loads(run("check", files.write("p.azurepolicy", text), "--output", "json")[1])
    assert len(shown["relaxations"]) == 2
    assert ["omit_x5c", True] in shown["policy"]["properties"]


def test_the_place_of_a_mistake_is_shown_below_its_line(files, run):
    code, out, err = run("check", files.write("p.azurepolicy", ACCEPTS.replace("==", "=")))
    assert (code, out) == (3, "")
    lines = err.splitlines()
    assert lines[0].startswith("error[azure-policy.syntax]: line 3, column 8")
    assert lines[-2][lines[-1].index("^")] == "="


def test_bytes_that_are_no_text(files, run):
    code, _, err = run("check", files.write("p.azurepolicy", b"\xff"))
    assert code == 3
    assert "azure-policy.syntax" in err


def test_format_overrules_the_name(files, run):
    typed = json.dumps({"version": 1, "enclaves": [{"mr_enclave": MR_ENCLAVE.hex()}]})
    assert run("check", files.write("typed.txt", typed), "--format", "kubenclave")[0] == 0
    assert run("check", files.write("typed.txt", typed))[0] == 3


def try_on(run, files: Files, text: str, *more: str) -> tuple[int, str, str]:
    result: tuple[int, str, str] = run(
        "test", files.write("t.azurepolicy", text), "--quote", str(files.quote), *files.arguments(), *more
    )
    return result


def test_a_quote_is_accepted_with_the_claims_that_are_issued(files, run):
    code, out, err = try_on(run, files, DEFAULT_SGX_POLICY)
    assert code == 0
    assert out.startswith("ACCEPTED")
    assert f"svn = {BODY.isv_svn}" in out
    assert "line 6: permit" in out
    assert "SIMULATED" in err
    assert "NOT CHECKED" not in err
    shown: dict[str, Any] = json.loads(try_on(run, files, DEFAULT_SGX_POLICY, "--output", "json")[1])
    assert shown["accepted"]
    assert shown["issued"]["product-id"] == BODY.isv_prod_id
    assert shown["verdict"]["simulated"]


def test_a_quote_is_refused_with_the_reason(files, run):
    code, out, err = try_on(run, files, REFUSES)
    assert code == 1
    assert out.startswith("REFUSED")
    assert "a rule that permits" in out
    assert "none applied" in out
    assert "SIMULATED" in err
    shown = json.loads(try_on(run, files, REFUSES, "--output", "json")[1])
    assert (shown["accepted"], shown["verdict"], shown["trace"]) == (False, None, [])
    assert shown["findings"][0]["code"] == "azure-policy.no-permit"


def test_what_was_relaxed_is_said(tmp_path, run):
    made = evidence.make(tcb=PlatformTcb.SW_HARDENING_NEEDED).write(tmp_path)
    code, _, err = try_on(run, made, DEFAULT_SGX_POLICY)
    assert code == 0
    assert "RELAXED: tcb_statuses: SWHardeningNeeded" in err
    shown = json.loads(try_on(run, made, DEFAULT_SGX_POLICY, "--output", "json")[1])
    assert any(each.startswith("tcb_statuses") for each in shown["relaxations"])


def test_report_data_is_a_claim(files, run):
    code, _, err = try_on(run, files, ACCEPTS, "--report-data", "00")
    assert code == 2
    assert "x-ms-sgx-report-data" in err


def test_diff_on_kept_evidence(files, state, run):
    words = ("diff", files.write("one.azurepolicy", ACCEPTS), files.write("two.azurepolicy", REFUSES))
    kept = ("--evidence", str(state), "--root", str(files.root))
    code, out, _ = run(*words, *kept)
    assert code == 1
    assert "NEWLY-REFUSED" in out
    assert "SgxEnclave  2026-03-05T12:00:00Z" in out
    code, out, _ = run(*words, *kept, "--output", "json")
    found = json.loads(out)
    assert (found["evidence"], found["changes"]["newly-refused"], found["changes"]["same"]) == (2, 1, 1)
    found = json.loads(run(*words, *kept, "--dangerously-allow-debug", "--output", "json")[1])
    assert found["changes"]["newly-refused"] == 2
    assert run(words[0], words[1], words[1], *kept)[0] == 0
    assert json.loads(run(*words, *kept, "--count", "1", "--output", "json")[1])["evidence"] == 1


def test_diff_asks_for_the_root_of_the_evidence(files, state, run):
    path = files.write("one.azurepolicy", ACCEPTS)
    code, out, err = run("diff", path, path, "--evidence", str(state))
    assert (code, out) == (2, "")
    assert "--root" in err


def test_diff_on_one_quote_of_two_languages(files, run):
    typed = json.dumps({"version": 1, "enclaves": [{"mr_enclave": MR_ENCLAVE.hex()}]})
    words = ("diff", files.write("typed.json", typed), files.write("two.azurepolicy", DEFAULT_SGX_POLICY))
    code, out, _ = run(*words, "--quote", str(files.quote), *files.arguments())
    assert code == 1
    assert "OTHER-CLAIMS" in out
    assert "accepts, issues is-debuggable = False" in out


def test_many_changes_are_cut_short_in_text(files, state, run, monkeypatch):
    monkeypatch.setattr("kubenclave.cli.policy.diff._SHOWN", 1)
    words = ("diff", files.write("one.azurepolicy", ACCEPTS), files.write("two.azurepolicy", REFUSES))
    out = run(*words, "--evidence", str(state), "--root", str(files.root), "--dangerously-allow-debug")[1]
    assert "and 1 more" in out


def test_diff_without_evidence(files, tmp_path, run):
    path = files.write("one.azurepolicy", ACCEPTS)
    assert run("diff", path, path)[0] == 2
    assert run("diff", path, path, "--quote", str(files.quote))[0] == 2
    code, _, err = run("diff", path, path, "--evidence", str(tmp_path))
    assert code == 2
    assert "no service has run" in err
    Database(tmp_path / "attestation.db").close()
    code, out, _ = run("diff", path, path, "--evidence", str(tmp_path))
    assert code == 0
    assert out.startswith("no evidence is kept there")
