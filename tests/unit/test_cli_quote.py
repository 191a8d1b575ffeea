# SPDX-License-Identifier: Apache-2.0
"""``kubenclave quote``: verdicts with their exit codes and forms, quotes taken apart, quotes fetched."""

import io
import json
import os
import socket
import ssl
import subprocess
import sys
import threading
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from kubenclave.cli import main
from kubenclave.errors import PlatformError, UnreachableError
from kubenclave.platform import aesmclient
from kubenclave.platform.simulated.tcb import PlatformTcb
from kubenclave.sgx.certification import CertificationData, CertificationType
from kubenclave.sgx.quote import Quote
from kubenclave.sgx.report import TargetInfo
from tests import evidence
from tests.conftest import shared_data_path
from tests.evidence import AT, BODY, MR_ENCLAVE, REPORT_DATA, Files
from vectors.scene import PKI

SHARED = shared_data_path() / "quotes"
# Named here, so that every run collects the same.
CASES = (
    "sgx-v3-bad-intermediate",
    "sgx-v3-certtype3-no-chain",
    "sgx-v3-collateral-expired",
    "sgx-v3-collateral-not-yet-issued",
    "sgx-v3-config-and-swhardening",
    "sgx-v3-custom-root-pck-aside",
    "sgx-v3-debug",
    "sgx-v3-outofdate",
    "sgx-v3-swhardening",
    "sgx-v3-swhardening-b",
    "sgx-v3-swhardening-c",
    "sgx-v3-tcbinfo-v2",
    "synthetic-sgx-v3-pck-revoked",
    "synthetic-sgx-v3-uptodate",
    "synthetic-tdx-v4-uptodate",
    "tdx-v4-debug",
    "tdx-v4-outofdate",
    "tdx-v4-sept-ve-off",
    "tdx-v4-uptodate",
    "tdx-v4-uptodate-b",
    "tdx-v4-uptodate-c",
    "tdx-v5-no-level",
    "tdx-v5-relaunch-advised",
    "tdx-v5-servicetd",
    "tdx-v5-uptodate",
)
WITHOUT_COLLATERAL = ("sgx-v3-bad-intermediate", "sgx-v3-certtype3-no-chain")
POLICY = f"""
version = 1
name = "wanted"
[[enclaves]]
mr_enclave = "{MR_ENCLAVE.hex()}"
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Files:
    return evidence.make().write(tmp_path_factory.mktemp("evidence"))


@pytest.fixture
def verify(files, capsys):
    """Run ``quote verify`` on the good quote with more options; return exit code, stdout, stderr."""

    def run(*more: str, quote: Path | str = files.quote, given: list[str] | None = None) -> tuple[int, str, str]:
        arguments = files.arguments() if given is None else given
        code = main.run(["quote", "verify", str(quote), *arguments, *more])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def test_without_a_policy_it_says_loudly_that_nobody_asked_for_this_enclave(verify):
    code, out, err = verify()
    assert code == 0
    assert out.startswith("ACCEPTED  TCB status UpToDate\nIDENTITY NOT CHECKED")
    assert "SIMULATED" in out
    assert err == ""


def test_the_text_says_what_the_verdict_rests_on(verify):
    _, out, _ = verify()
    for said in (MR_ENCLAVE.hex(), BODY.mr_signer.hex(), "7, 3", "INIT MODE64BIT", "FMSPC", "number 17", AT):
        assert said in out
    assert "2026-04-03T00:00:00Z  <- first to expire" in out
    assert "(not checked)" in out


def test_report_data_is_shown_whole_and_every_relaxation_by_its_name(verify):
    lines = [line.split() for line in verify()[1].splitlines()]
    first = lines.index(["REPORTDATA", REPORT_DATA.hex()[:64]])
    assert lines[first + 1] == [REPORT_DATA.hex()[64:], "(not", "checked)"]
    assert any(line[:2] == ["relaxations", "root:"] for line in lines)


def test_under_a_policy_the_identity_is_checked(verify, files):
    code, out, _ = verify("--policy", files.write("p.toml", POLICY))
    assert code == 0
    assert "IDENTITY NOT CHECKED" not in out
    assert "policy wanted" in out


def test_json_is_the_verdict_and_the_warnings_stay_on_stderr(verify):
    code, out, err = verify("--output", "json")
    shown = json.loads(out)
    assert code == 0
    assert shown["accepted"] is True
    assert shown["appraised"] is False
    assert shown["simulated"] is True
    assert shown["tcb_status"] == "UpToDate"
    assert shown["quote"]["mr_enclave"] == MR_ENCLAVE.hex()
    assert "IDENTITY NOT CHECKED" in err
    assert "SIMULATED" in err


def test_report_data_may_be_short_and_is_compared_whole(verify):
    assert verify("--report-data", REPORT_DATA.rstrip(b"\0").hex())[0] == 0
    assert "(not checked)" not in verify("--report-data", "0x" + REPORT_DATA.hex())[1]
    code, out, err = verify("--report-data", "00")
    assert (code, out) == (1, "")
    assert "refused[policy.report-data]" in err
    assert REPORT_DATA.hex() in err


def test_every_finding_of_a_policy_is_shown_at_once(verify, files):
    wrong = POLICY.replace(MR_ENCLAVE.hex(), "00" * 32) + "[attributes]\nmask = 'ff000000000000000000000000000000'\n"
    wrong += "value = '07000000000000000000000000000000'\n"
    policy = files.write("w.toml", wrong)
    code, out, err = verify("--policy", policy, "--report-data", "00")
    assert (code, out) == (1, "")
    assert err.startswith("SIMULATED: ")
    for said in ("MRENCLAVE", "ATTRIBUTES", "REPORTDATA"):
        assert said in err
    code, out, _ = verify("--policy", policy, "--report-data", "00", "--output", "json")
    shown = json.loads(out)
    assert code == 1
    assert shown["accepted"] is False
    assert [one["field"].split()[0] for one in shown["error"]["findings"]] == ["MRENCLAVE", "ATTRIBUTES", "REPORTDATA"]


def test_under_intels_root_a_simulated_quote_is_refused_with_the_next_step(verify, files):
    code, out, err = verify(given=["--collateral", str(files.collateral), "--at", AT])
    assert (code, out) == (1, "")
    assert "refused[pck.untrusted-root]" in err
    assert "hint: " in err
    assert "--root" in err


def test_a_root_may_be_pem(verify, files):
    pem = x509.load_der_x509_certificate(files.root.read_bytes()).public_bytes(Encoding.PEM)
    given = ["--collateral", str(files.collateral), "--at", AT, "--root", files.write("root.pem", pem)]
    assert verify(given=given)[0] == 0


@pytest.mark.parametrize(
    "content",
    [
        b"nonsense",
        b"-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----\n",
        b"-----BEGIN EC PARAMETERS-----\n-----END EC PARAMETERS-----\n",
        ssl.DER_cert_to_PEM_cert(PKI.root_der.replace(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x09", 1)).encode(),
    ],
    ids=["no certificate", "broken PEM", "other PEM", "version of X.509 that is none"],
)
def test_a_root_that_is_no_certificate_is_bad_input(content, verify, files):
    given = ["--collateral", str(files.collateral), "--at", AT, "--root", files.write("bad.root", content)]
    code, _, err = verify(given=given)
    assert code == 3
    assert "error[root.malformed]" in err


def test_a_quote_without_a_chain_takes_one_from_beside(tmp_path, capsys):
    files = evidence.make(chain_inside=False).write(tmp_path / "e")
    words = ["quote", "verify", str(files.quote), *files.arguments()]
    assert main.run(words) == 1
    assert "--pck-chain" in capsys.readouterr().err
    assert main.run([*words, "--pck-chain", str(files.chain)]) == 0
    assert "UpToDate" in capsys.readouterr().out


def test_debug_is_refused_unless_the_danger_is_named(tmp_path, capsys):
    files = evidence.debug().write(tmp_path / "e")
    words = ["quote", "verify", str(files.quote), *files.arguments()]
    assert main.run(words) == 1
    assert "refused[policy.debug]" in capsys.readouterr().err
    assert main.run([*words, "--dangerously-allow-debug"]) == 0
    assert "RELAXED: dangerously_allow_debug" in capsys.readouterr().out


@pytest.mark.parametrize(("grace", "code"), [("0d", 1), ("1d", 1), ("44640m", 0), ("800h", 0), ("32d", 0)], ids=str)
def test_expired_collateral_is_refused_unless_within_the_grace_granted(grace, code, verify, files):
    given = files.arguments("2026-05-04T00:00:00Z")
    got, out, err = verify("--dangerously-accept-expired-collateral", grace, given=given)
    assert got == code
    assert "RELAXED: dangerously_accept_expired_collateral: TCB info" in out if code == 0 else "expired" in err


def test_a_minimum_generation_of_collateral(verify):
    assert verify("--minimum-tcb-evaluation-data-number", "17")[0] == 0
    code, _, err = verify("--minimum-tcb-evaluation-data-number", "18")
    assert code == 1
    assert "tcb.evaluation-data-number" in err


@pytest.mark.parametrize("state", [state for state in PlatformTcb if state not in ("revoked", "expired")])
def test_every_other_tcb_status_is_reported_and_left_to_the_relying_party(state, tmp_path, capsys):
    files = evidence.make(tcb=state).write(tmp_path / "e")
    assert main.run(["quote", "verify", str(files.quote), *files.arguments(), "--output", "json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["tcb_status"].lower() == state.replace("-", "")


@pytest.mark.parametrize("at", ["1772712000", AT, "2026-03-05T13:00:00+01:00", "2026-03-05t12:00:00z"])
def test_the_time_in_all_its_forms(at, verify, files):
    code, out, _ = verify(given=files.arguments(at))
    assert code == 0
    assert f"verified at      {AT}" in out


def test_now_is_this_moment(verify, files):
    code, _, err = verify(given=files.arguments("now"))
    assert code in (0, 1)
    assert code == 0 or "collateral." in err


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--at", "yesterday"),
        ("--at", "2026-03-05T12:00:00"),
        ("--at", "2026-03-05"),
        ("--at", "99999999999999"),
        ("--at", "0001-01-01T00:00:00+01:00"),
        ("--report-data", "zz"),
        ("--report-data", "00" * 65),
        ("--report-data", ""),
        ("--dangerously-accept-expired-collateral", "7"),
        ("--dangerously-accept-expired-collateral", "-7d"),
        ("--minimum-tcb-evaluation-data-number", "-1"),
    ],
    ids=[
        "word",
        "no zone",
        "date",
        "too late",
        "too early",
        "no hex",
        "long",
        "no digits",
        "no unit",
        "negative",
        "negative number",
    ],
)
def test_options_that_say_nothing_sensible_are_misuse(option, value, verify):
    code, out, err = verify(option, value)
    assert (code, out) == (2, "")
    assert err.startswith("error[cli.misuse]")
    assert option in err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
@pytest.mark.parametrize("options", [[], ["--output", "json"]], ids=["text", "json"])
@pytest.mark.parametrize("under_its_root", [True, False], ids=["accepted", "refused"])
def test_an_answer_that_cannot_be_written_does_not_end_like_one(options, under_its_root, files):
    given = files.arguments() if under_its_root else ["--collateral", str(files.collateral), "--at", AT]
    words = [sys.executable, "-m", "kubenclave", "quote", "verify", str(files.quote), *given, *options]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(words, check=False, stdout=full, stderr=full)
    assert done.returncode == 5


@pytest.mark.parametrize("options", [[], ["--output", "json"]], ids=["text", "json"])
@pytest.mark.parametrize(("under_its_root", "code"), [(True, 0), (False, 1)], ids=["accepted", "refused"])
def test_with_its_output_closed_the_exit_code_is_the_answer(options, under_its_root, code, files):
    given = files.arguments() if under_its_root else ["--collateral", str(files.collateral), "--at", AT]
    words = [sys.executable, "-m", "kubenclave", "quote", "verify", str(files.quote), *given, *options]
    done = subprocess.run(["sh", "-c", '"$@" >&- 2>&-', "sh", *words], check=False)
    assert done.returncode == code


def test_a_stdin_that_is_closed_is_misuse(verify, monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)
    code, _, err = verify(quote="-")
    assert (code, err.partition(":")[0]) == (2, "error[cli.input]")


def test_the_time_has_to_be_said(verify, files):
    code, _, err = verify(given=["--collateral", str(files.collateral)])
    assert code == 2
    assert "--at" in err


@pytest.mark.parametrize("content", [b"", b"nonsense", bytes(2000)], ids=["empty", "text", "zeros"])
def test_what_is_not_a_quote_is_bad_input(content, verify, files):
    code, out, err = verify(quote=files.write("bad.quote", content))
    assert (code, out) == (3, "")
    assert err.startswith("error[")


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"\xff"], ids=["empty", "object", "list", "bytes"])
def test_what_is_not_collateral_is_bad_input(content, verify, files):
    code, _, err = verify(given=["--at", AT, "--collateral", files.write("bad.json", content)])
    assert code == 3
    assert err.startswith("error[")


def test_a_missing_file_is_misuse(verify):
    code, _, err = verify(quote="/nowhere/quote.bin")
    assert code == 2
    assert "error[cli.input]: cannot read the quote /nowhere/quote.bin" in err


class Stdin:
    """Stands in for stdin."""

    def __init__(self, content: bytes) -> None:
        self.buffer = io.BytesIO(content)


def test_a_quote_may_come_from_stdin(verify, files, monkeypatch):
    monkeypatch.setattr("sys.stdin", Stdin(files.quote.read_bytes()))
    assert verify(quote="-")[0] == 0


def test_stdin_is_read_once(verify):
    code, _, err = verify(quote="-", given=["--collateral", "-", "--at", AT])
    assert code == 2
    assert "only once" in err


@pytest.mark.usefixtures("shared_data")
@pytest.mark.parametrize("case", [case for case in CASES if case not in WITHOUT_COLLATERAL])
def test_exit_codes_of_real_quotes(case, capsys):
    expected = json.loads((SHARED / case / "expected.json").read_text())
    words = ["quote", "verify", str(SHARED / case / "quote.bin"), "--at", str(expected["verify_at"])]
    words += ["--collateral", str(SHARED / case / "collateral.json"), "--output", "json"]
    for name, option in (("root_ca.der", "--root"), ("pck_chain.pem", "--pck-chain")):
        if (SHARED / case / name).exists():
            words += [option, str(SHARED / case / name)]
    refused = expected["expect"] == "reject"
    assert main.run(words) == (1 if refused else 0)
    shown = json.loads(capsys.readouterr().out)
    assert shown["accepted"] is not refused
    if not refused:
        assert shown["tcb_status"] == expected["expect"]
        assert sorted(shown["advisories"]) == sorted(expected["advisories"])
        assert main.run([word for word in words if word not in ("--output", "json")]) == 0
        assert expected["expect"] in capsys.readouterr().out


@pytest.mark.usefixtures("shared_data")
@pytest.mark.parametrize("case", CASES)
def test_real_quotes_are_shown_whole(case, capsys):
    path = str(SHARED / case / "quote.bin")
    expected = json.loads((SHARED / case / "expected.json").read_text())
    assert main.run(["quote", "show", path, "--output", "json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["verified"] is False
    assert (shown["tee"], shown["version"]) == (expected["tee"], expected["quote_version"])
    name = "mr_enclave" if expected["tee"] == "SGX" else "mr_td"
    assert shown[name] == expected["report"]["mrenclave" if name == "mr_enclave" else name]
    assert shown["signature"]["certification_data"]["type"] == expected["certification_data_type"]
    assert main.run(["quote", "show", path]) == 0
    text = capsys.readouterr().out
    assert text.startswith("NOT VERIFIED")
    assert shown[name][:64] in text


def test_a_shown_quote_names_its_platform_and_certificates(files, capsys):
    assert main.run(["quote", "show", str(files.quote), "--output", "json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    certificates = shown["signature"]["certification_data"]["certificates"]
    assert certificates[0]["name"] == "Intel SGX PCK Certificate"
    assert certificates[0]["platform"]["fmspc"] == "53494d000000"
    assert "SIMULATED" in certificates[0]["subject"]
    assert shown["bytes_behind"] == 0


def with_certification(kind: CertificationType, data: bytes) -> bytes:
    quote = Quote.parse(evidence.make().quote)
    signature = replace(quote.signature, certification_data=CertificationData(kind, data))
    return replace(quote, signature=signature).build()


@pytest.mark.parametrize(
    ("kind", "data", "said"),
    [
        (CertificationType.PCK_CERT_CHAIN, b"nonsense", "unreadable"),
        (CertificationType.PCK_CERT_CHAIN, b"x" * 70000, "unreadable"),
        (CertificationType.PPID_CLEARTEXT, b"short", "bytes"),
        (CertificationType.PPID_CLEARTEXT, bytes(36), "ppid"),
        (CertificationType.PLATFORM_MANIFEST, b"\x01\x02", "bytes"),
    ],
    ids=["chain", "long chain", "short PPID", "PPID", "manifest"],
)
def test_certification_data_of_any_kind_is_shown(kind, data, said, files, capsys):
    path = files.write("odd.bin", with_certification(kind, data) + bytes(12))
    assert main.run(["quote", "show", path, "--output", "json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert said in shown["signature"]["certification_data"]
    assert shown["bytes_behind"] == 12
    assert main.run(["quote", "show", path]) == 0
    assert said in capsys.readouterr().out


def test_a_pck_certificate_with_a_broken_extension_is_shown_all_the_same(files, capsys):
    chain = evidence.make().chain
    der = x509.load_pem_x509_certificates(chain)[0].public_bytes(Encoding.DER)
    fmspc = bytes.fromhex("53494d000000")
    at = der.index(b"\x04\x06" + fmspc)
    broken = der[:at] + b"\x05\x06" + der[at + 2 :]
    pem = x509.load_der_x509_certificate(broken).public_bytes(Encoding.PEM)
    path = files.write("b.bin", with_certification(CertificationType.PCK_LEAF_CERT, pem))
    assert main.run(["quote", "show", path, "--output", "json"]) == 0
    certificate = json.loads(capsys.readouterr().out)["signature"]["certification_data"]["certificates"][0]
    assert "FMSPC" in certificate["platform"]["unreadable"]


def test_what_is_not_a_quote_is_not_shown(files, capsys):
    assert main.run(["quote", "show", files.write("bad.quote", b"nonsense")]) == 3
    assert capsys.readouterr().out == ""


@dataclass
class FakeClient:
    """Stands where the AESM client is; that one has tests of its own."""

    path: Path
    reports: list[bytes]

    def target_info(self) -> TargetInfo:
        return TargetInfo.of(BODY)

    def quote(self, make_report) -> bytes:
        self.reports.append(make_report(self.target_info()))
        return b"a quote"


@pytest.fixture
def clients(monkeypatch) -> list[FakeClient]:
    made: list[FakeClient] = []

    def make(path: Path) -> FakeClient:
        made.append(FakeClient(path, []))
        return made[-1]

    monkeypatch.setattr(aesmclient, "AesmClient", make)
    monkeypatch.delenv("KUBENCLAVE_SIM_ENCLAVE", raising=False)
    monkeypatch.delenv("KUBENCLAVE_AESM_SOCKET", raising=False)
    return made


@pytest.fixture
def report(tmp_path: Path) -> Path:
    path = tmp_path / "report.bin"
    path.write_bytes(bytes(432))
    return path


def test_a_report_from_a_file_becomes_a_quote_in_a_file(clients, report, tmp_path, capsys):
    out = tmp_path / "q"
    assert main.run(["quote", "get", "--report", str(report), "--out", str(out)]) == 0
    assert out.read_bytes() == b"a quote"
    assert clients[0].reports == [bytes(432)]
    assert clients[0].path == Path("/var/run/aesmd/aesm.socket")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", f"quote of 7 bytes in {out}\n")


@pytest.mark.usefixtures("clients")
def test_a_quote_in_json_is_hex_unless_it_goes_to_a_file(report, tmp_path, capsys):
    words = ["quote", "get", "--report", str(report), "--output", "json"]
    assert main.run(words) == 0
    assert json.loads(capsys.readouterr().out) == {"bytes": 7, "out": None, "quote": b"a quote".hex()}
    out = str(tmp_path / "q")
    assert main.run([*words, "--out", out]) == 0
    assert json.loads(capsys.readouterr().out) == {"bytes": 7, "out": out}


@pytest.mark.usefixtures("clients")
def test_a_quote_goes_to_a_pipe_as_it_is(report, capfdbinary):
    assert main.run(["quote", "get", "--report", str(report)]) == 0
    captured = capfdbinary.readouterr()
    assert (captured.out, captured.err) == (b"a quote", b"")


def test_a_quote_does_not_go_to_a_terminal(clients, report, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert main.run(["quote", "get", "--report", str(report)]) == 2
    assert "--out FILE" in capsys.readouterr().err
    assert clients[0].reports == []


@pytest.mark.usefixtures("clients")
def test_a_report_of_the_wrong_size_is_bad_input(tmp_path, capsys):
    (tmp_path / "r").write_bytes(b"short")
    assert main.run(["quote", "get", "--report", str(tmp_path / "r")]) == 3
    assert "432 bytes" in capsys.readouterr().err


def test_target_info_is_a_step_of_its_own(clients, report, tmp_path, capsys):
    out = tmp_path / "target.bin"
    assert main.run(["quote", "get", "--target-info-out", str(out), "--aesm-socket", "/x/a.socket"]) == 0
    assert out.read_bytes() == TargetInfo.of(BODY).build()
    assert f"TARGETINFO of the quoting enclave in {out}" in capsys.readouterr().err
    assert clients[0].path == Path("/x/a.socket")
    assert main.run(["quote", "get", "--target-info-out", str(out), "--report", str(report)]) == 2
    assert "a step of its own" in capsys.readouterr().err


@pytest.mark.usefixtures("clients")
@pytest.mark.parametrize("both", [False, True], ids=["neither", "both"])
def test_either_report_data_or_a_report(both, report, capsys):
    more = ["--report-data", "00", "--report", str(report)] if both else []
    assert main.run(["quote", "get", *more]) == 2
    assert "either --report-data HEX or --report FILE" in capsys.readouterr().err


@pytest.mark.usefixtures("clients")
def test_without_an_enclave_it_says_how_to_get_one(tmp_path, capsys):
    assert main.run(["quote", "get", "--report-data", "00", "--out", str(tmp_path / "q")]) == 5
    err = capsys.readouterr().err
    assert "error[quote.no-enclave]" in err
    assert "kubenclave sim run" in err


class OneReport(threading.Thread):
    """The other end of an inherited enclave: answers one EREPORT, and keeps what it was asked."""

    def __init__(self, connection: socket.socket) -> None:
        super().__init__()
        self.connection = connection
        self.asked = b""

    def run(self) -> None:
        size = int.from_bytes(self._take(4), "little")
        self.asked = self._take(size)
        self.connection.sendall((2 + 432).to_bytes(4, "little") + bytes(2) + b"R" * 432)

    def _take(self, size: int) -> bytes:
        taken = b""
        while len(taken) < size:
            taken += self.connection.recv(size - len(taken))
        return taken


def test_the_enclave_a_command_was_started_in_makes_the_report(clients, tmp_path, monkeypatch, capsys):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        cpu = OneReport(theirs)
        cpu.start()
        monkeypatch.setenv("KUBENCLAVE_SIM_ENCLAVE", str(ours.fileno()))
        assert main.run(["quote", "get", "--report-data", "00ff", "--out", str(tmp_path / "q")]) == 0
        cpu.join(10)
    assert cpu.asked == b"\x06" + TargetInfo.of(BODY).build() + b"\x00\xff" + bytes(62)
    assert clients[0].reports == [b"R" * 432]
    assert "SIMULATED" in capsys.readouterr().err


@pytest.mark.usefixtures("clients")
@pytest.mark.parametrize(
    ("error", "code"),
    [(UnreachableError("nobody", code="aesm.unreachable"), 4), (PlatformError("no", code="aesm.invalid-report"), 5)],
    ids=["unreachable", "refused"],
)
def test_what_aesm_says_reaches_the_exit_code(error, code, report, monkeypatch, capsys):
    def fails(*_: object) -> bytes:
        raise error

    monkeypatch.setattr(FakeClient, "quote", fails)
    assert main.run(["quote", "get", "--report", str(report), "--output", "json"]) == code
    assert json.loads(capsys.readouterr().out)["error"]["code"] == error.code


def test_nobody_at_the_socket(tmp_path, report, capsys):
    words = ["quote", "get", "--report", str(report), "--aesm-socket", os.fspath(tmp_path / "none")]
    assert main.run([*words, "--out", str(tmp_path / "q")]) == 4
    assert "error[aesm.unreachable]" in capsys.readouterr().err
