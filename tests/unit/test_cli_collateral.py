# SPDX-License-Identifier: Apache-2.0
"""``kubenclave collateral show``: every part, who signed it, and whether it is good."""

import json
from dataclasses import replace

import pytest

from kubenclave.cli import main
from kubenclave.platform.simulated.issuer import Issuer
from kubenclave.platform.simulated.pki import Pki
from kubenclave.platform.simulated.tcb import PlatformTcb
from kubenclave.sgx.quote import TeeType
from tests import evidence
from tests.conftest import shared_data_path
from tests.evidence import AT, NOW, Files

SHARED = shared_data_path() / "quotes"


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Files:
    return evidence.make().write(tmp_path_factory.mktemp("evidence"))


@pytest.fixture
def show(files, capsys):
    """Run ``collateral show`` and return exit code and stdout."""

    def run(*more: str, path: object = files.collateral, at: str = AT, root: bool = True) -> tuple[int, str]:
        words = ["collateral", "show", str(path), "--at", at, *more]
        code = main.run(words + (["--root", str(files.root)] if root else []))
        return code, capsys.readouterr().out

    return run


def test_good_collateral_is_verified_and_dated(show):
    code, out = show()
    assert code == 0
    assert out.startswith("VERIFIED under the root given, which is not Intel's: SIMULATED\neverything is valid")
    for said in ("root CRL", "PCK CRL", "TCB info", "QE identity", "Intel SGX TCB Signing", "FMSPC 53494d000000"):
        assert said in out
    assert "first part ends 2026-04-03T00:00:00Z" in out
    assert "OutOfDate" in out


def test_json_has_every_part(show):
    code, out = show("--output", "json")
    shown = json.loads(out)
    assert code == 0
    assert (shown["verified"], shown["current"], shown["simulated"]) == (True, True, True)
    assert shown["refusal"] is None
    assert shown["earliest_expiration"] == "2026-04-03T00:00:00Z"
    assert shown["tcb_info"]["signed_by"] == "Intel SGX TCB Signing"
    assert shown["tcb_info"]["levels"][0]["status"] == "UpToDate"
    assert shown["qe_identity"]["levels"][0]["svns"] == [8]
    assert shown["pck_crl"]["revoked"] == []
    assert [one["state"] for one in shown["pck_crl_issuer_chain"]["certificates"]] == ["current", "current"]


def test_under_intels_root_it_is_not_verified_and_says_what_to_do(show):
    code, out = show(root=False)
    assert code == 1
    assert out.startswith("NOT VERIFIED under Intel's root\n")
    assert "[crl.issuer]" in out
    assert "--root" in out


@pytest.mark.parametrize(
    ("at", "state"), [("2027-01-01T00:00:00Z", "expired"), ("2026-01-01T00:00:00Z", "not valid yet")]
)
def test_what_is_out_of_date_is_named(at, state, show):
    code, out = show("--output", "json", at=at)
    shown = json.loads(out)
    assert code == 1
    assert (shown["verified"], shown["current"]) == (True, False)
    assert shown["tcb_info"]["state"] == state
    code, out = show(at=at)
    assert code == 1
    assert "NOT EVERYTHING IS VALID" in out


def test_without_a_time_it_is_now(files, capsys):
    main.run(["collateral", "show", str(files.collateral), "--output", "json"])
    assert json.loads(capsys.readouterr().out)["at"] >= "2026-01-01T00:00:00Z"


def test_revoked_certificates_are_counted(show, files):
    revoked = evidence.make(tcb=PlatformTcb.REVOKED).collateral
    path = files.write("revoked.json", revoked.to_json())
    code, out = show(path=path)
    assert code == 0
    assert "revoked PCK certificates" in out
    assert len(json.loads(show("--output", "json", path=path)[1])["pck_crl"]["revoked"]) > 0


@pytest.mark.parametrize(
    "part",
    ["pck_crl_issuer_chain", "tcb_info_issuer_chain", "root_ca_crl", "pck_crl", "tcb_info", "qe_identity"],
)
def test_a_part_that_cannot_be_read_is_shown_as_such_beside_the_others(part, show, files):
    broken = replace(evidence.make().collateral, **{part: b"nonsense"})
    path = files.write("broken.json", broken.to_json())
    code, out = show("--output", "json", path=path)
    shown = json.loads(out)
    assert code == 1
    assert (shown["verified"], shown["current"]) == (False, False)
    assert "unreadable" in shown[part]
    code, out = show(path=path)
    assert code == 1
    assert "NOT VERIFIED under the root given" in out
    assert "unreadable" in out


def test_nothing_readable_is_shown_all_the_same(show, files):
    chains = ["pck_crl_issuer_chain", "tcb_info_issuer_chain", "qe_identity_issuer_chain"]
    every = [*chains, "root_ca_crl", "pck_crl", "tcb_info", "qe_identity"]
    broken = replace(evidence.make().collateral, **dict.fromkeys(every, b"nonsense"))
    path = files.write("nothing.json", broken.to_json())
    assert json.loads(show("--output", "json", path=path)[1])["earliest_expiration"] is None
    assert show(path=path)[1].count("unreadable") == len(every)


def test_a_changed_document_is_not_verified(show, files):
    good = evidence.make().collateral
    changed = replace(good, tcb_info=good.tcb_info.replace(b"OutOfDate", b"UpToDate", 1))
    code, out = show("--output", "json", path=files.write("changed.json", changed.to_json()))
    assert code == 1
    assert json.loads(out)["refusal"]["code"] == "tcb-info.signature"


def test_collateral_for_tdx_has_levels_of_modules(show, files):
    collateral = Issuer(Pki.from_seed(evidence.SEED)).collateral(PlatformTcb.UP_TO_DATE, NOW, tee=TeeType.TDX)
    code, out = show(path=files.write("tdx.json", collateral.to_json()))
    assert code == 0
    assert "TDX MODULE" in out


def test_what_is_not_collateral_is_bad_input(show, files):
    assert show(path=files.write("bad.json", b"{}"))[0] == 3


@pytest.mark.usefixtures("shared_data")
@pytest.mark.parametrize("case", ["sgx-v3-swhardening", "tdx-v5-uptodate", "sgx-v3-tcbinfo-v2"])
def test_real_collateral_holds_under_intels_root(case, capsys):
    expected = json.loads((SHARED / case / "expected.json").read_text())
    at = str(expected["verify_at"])
    assert main.run(["collateral", "show", str(SHARED / case / "collateral.json"), "--at", at]) == 0
    out = capsys.readouterr().out
    assert out.startswith("VERIFIED under Intel's root\n")
    assert f"FMSPC {expected['fmspc']}" in out
