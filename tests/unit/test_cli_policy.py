# SPDX-License-Identifier: Apache-2.0
"""``kubenclave policy``: policies as the verifier reads them, tried on quotes."""

import io
import json
from typing import Any

import pytest

from kubenclave.cli import main
from kubenclave.dcap.pins import SGX_PINS, TDX_PINS
from tests import evidence
from tests.evidence import MR_ENCLAVE, Files

WANTED = {"version": 1, "name": "wanted", "enclaves": [{"mr_enclave": MR_ENCLAVE.hex()}]}
RELAXED = """
version = 1
tcb_statuses = ["UpToDate", "OutOfDate"]
refused_advisories = ["INTEL-SA-00615"]
report_data = "00ff"
max_collateral_age_days = 9
dangerously_allow_debug = true
dangerously_allow_provision_key = true
dangerously_accept_expired_collateral_days = 3
[attributes]
mask = "02000000000000000000000000000000"
value = "00000000000000000000000000000000"
[[enclaves]]
name = "payments"
mr_signer = "4444444444444444444444444444444444444444444444444444444444444444"
isv_prod_id = 3
min_isv_svn = 2
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Files:
    return evidence.make().write(tmp_path_factory.mktemp("evidence"))


@pytest.fixture
def check(files, capsys):
    """Write a policy, run ``policy check`` and return exit code, stdout, stderr."""

    def run(name: str, content: str | bytes, *more: str) -> tuple[int, str, str]:
        code = main.run(["policy", "check", files.write(name, content), *more])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def test(files, capsys):
    """Write a policy, run ``policy test`` on the good quote and return exit code, stdout, stderr."""

    def run(policy: dict[str, Any], *more: str, at: str = evidence.AT) -> tuple[int, str, str]:
        path = files.write("p.json", json.dumps(policy))
        code = main.run(["policy", "test", path, "--quote", str(files.quote), *files.arguments(at), *more])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.mark.parametrize("name", ["p.json", "p"], ids=["by name", "by content"])
def test_a_strict_policy_has_no_relaxation(name, check):
    code, out, _ = check(name, json.dumps(WANTED))
    assert code == 0
    assert MR_ENCLAVE.hex() in out
    assert out.endswith("no relaxation\n")


def test_defaults_are_filled_in(check):
    code, out, _ = check("p.json", json.dumps(WANTED), "--output", "json")
    shown = json.loads(out)
    assert code == 0
    assert shown["relaxations"] == []
    assert shown["policy"]["tcb_statuses"] == ["UpToDate"]
    assert shown["policy"]["enclaves"][0]["mr_enclave"] == MR_ENCLAVE.hex()
    assert shown["policy"]["dangerously_allow_debug"] is False


def test_a_normalised_policy_reads_as_the_same_policy(check):
    once = json.loads(check("p.toml", RELAXED, "--output", "json")[1])
    again = json.loads(check("again.json", json.dumps(once["policy"]), "--output", "json")[1])
    assert again == once


@pytest.mark.parametrize("name", ["p.toml", "p"], ids=["by name", "by content"])
def test_every_relaxation_is_named(name, check):
    code, out, _ = check(name, RELAXED)
    assert code == 0
    relaxed = [line for line in out.splitlines() if line.startswith("RELAXED")]
    named = ("allow_debug", "allow_provision_key", "expired_collateral_days", "tcb_statuses")
    assert len(relaxed) == len(named)
    assert all(name in line for name, line in zip(named, relaxed, strict=True))
    for said in ("MRSIGNER 4444", "ISVPRODID 3", "ISVSVN >= 2", "(payments)", "INTEL-SA-00615", "00ff", "9 days old"):
        assert said in out


def test_every_pin_is_shown(check):
    rules = [
        {"mr_enclave": "00" * 32, **{each.member: 7 if each.size is None else "07" * each.size for each in SGX_PINS}},
        {each.member: "09" * 48 for each in TDX_PINS},
    ]
    bits = {"mask": "ff" * 8, "value": "00" * 8}
    _, out, _ = check("p.json", json.dumps({"version": 1, "enclaves": rules, "td_attributes": bits}))
    for pin in (*SGX_PINS, *TDX_PINS):
        assert f"{pin.title} " in out
    assert "CONFIGSVN >= 7" in out
    assert "TDATTRIBUTES" in out


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("p.json", b"{}"),
        ("p.json", b"\xff"),
        ("p.toml", b"\xff"),
        ("p.toml", b"= nonsense"),
        ("p", b""),
        ("p", b'{"version": 1, "enclaves": [], "nonsense": 1}'),
    ],
    ids=["empty object", "JSON bytes", "TOML bytes", "TOML", "empty", "unknown member"],
)
def test_what_is_not_a_policy_is_bad_input(name, content, check):
    code, out, err = check(name, content)
    assert (code, out) == (3, "")
    assert err.startswith("error[")


class Stdin:
    """Stands in for stdin."""

    def __init__(self, content: bytes) -> None:
        self.buffer = io.BytesIO(content)


def test_a_policy_may_come_from_stdin(monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", Stdin(RELAXED.encode()))
    assert main.run(["policy", "check", "-"]) == 0
    assert "payments" in capsys.readouterr().out


def test_an_accepted_quote_shows_the_whole_verdict(test):
    code, out, _ = test(WANTED)
    assert code == 0
    assert out.startswith("ACCEPTED")
    assert "policy wanted" in out
    assert ["enclave", "wanted", "enclaves[0]"] in [line.split() for line in out.splitlines()]
    code, out, _ = test(WANTED, "--output", "json")
    shown = json.loads(out)
    assert code == 0
    assert (shown["accepted"], shown["findings"]) == (True, [])
    assert shown["verdict"]["appraised"] is True


def test_all_findings_come_at_once(test):
    wrong = {
        "version": 1,
        "enclaves": [{"mr_signer": "00" * 32, "isv_prod_id": 8, "min_isv_svn": 4}],
        "tcb_statuses": ["OutOfDate"],
        "report_data": "00",
        "min_tcb_evaluation_data_number": 99,
    }
    code, out, err = test(wrong)
    assert code == 1
    assert out.startswith("REFUSED  by policy without a name: 6 findings\n")
    assert err.startswith("SIMULATED")
    for field in ("MRSIGNER", "ISVPRODID", "ISVSVN", "TCB status", "tcbEvaluationDataNumber", "REPORTDATA"):
        assert field in out
    code, out, _ = test(wrong, "--output", "json")
    shown = json.loads(out)
    assert code == 1
    assert (shown["accepted"], shown["verdict"], len(shown["findings"])) == (False, None, 6)


def test_one_finding_is_one(test):
    code, out, _ = test(WANTED, "--report-data", "00")
    assert code == 1
    assert "by policy wanted: 1 finding\n" in out


def test_a_quote_that_is_not_genuine_is_refused_before_the_policy_is_looked_at(test):
    code, out, err = test(WANTED, at="2025-01-01T00:00:00Z")
    assert (code, out) == (1, "")
    assert "refused[collateral.not-yet-valid]" in err
