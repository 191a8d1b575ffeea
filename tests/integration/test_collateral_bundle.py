# SPDX-License-Identifier: Apache-2.0
"""A site without a way out, as its operator sees it: fetch, bundle, import, serve, look at it, by commands."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from kubenclave.cli import main
from kubenclave.dcap.collateral import Collateral
from kubenclave.dcap.verdict import verify_quote
from kubenclave.platform.simulated.state import PlatformState
from kubenclave.platform.simulated.tcb import FMSPC
from kubenclave.services.collateral.store import Store
from kubenclave.services.database import Database
from tests import evidence
from tests.bundle_keys import KEYS, private_pem, public_pem
from tests.programs import unmeasured
from tests.waiting import eventually

Run = Callable[..., tuple[int, Any, str]]


@dataclass(frozen=True)
class Site:
    """Directories and files of both sites; ``simulated`` is the state of the platform, ``held`` of the service."""

    folder: Path

    def __truediv__(self, name: str) -> str:
        return str(self.folder / name)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    state = replace(PlatformState.new(), seed=evidence.SEED)
    (tmp_path / "simulated").mkdir()
    (tmp_path / "simulated" / "platform.json").write_bytes(state.to_json())
    evidence.make().write(tmp_path)
    (tmp_path / "key.pem").write_bytes(private_pem(KEYS["ES256"]))
    (tmp_path / "key.pem").chmod(0o600)
    (tmp_path / "public.pem").write_bytes(public_pem(KEYS["ES256"]))
    return Site(tmp_path)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command with JSON output; return exit code, document, stderr."""

    def run(*words: str) -> tuple[int, Any, str]:
        code = main.run([*words, "--output", "json"])
        captured = capsys.readouterr()
        return code, json.loads(captured.out) if captured.out else None, captured.err

    return run


@pytest.fixture
def serve(site: Site) -> Iterator[Callable[..., str]]:
    """Start the service of the site; return its URL."""
    started: list[subprocess.Popen[str]] = []

    def start(*more: str) -> str:
        words = ["collateral", "serve", "--state", site / "held", "--listen", "127.0.0.1:0", "--output", "json", *more]
        process = subprocess.Popen(
            [sys.executable, "-m", "kubenclave", *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**unmeasured(), "NO_COLOR": "1"},
        )
        started.append(process)
        assert process.stdout is not None
        text = ""
        while not text.endswith("\n}\n"):
            line = process.stdout.readline()
            assert line, "it ended before it was ready"
            text += line
        ready = json.loads(text)
        assert (ready["ready"], ready["simulated"]) == (True, True)
        return str(ready["url"]).removesuffix("/sgx/certification/v4/")

    yield start
    for process in started:
        with process:
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=30) == 0


def make(run: Run, site: Site, name: str = "site.bundle") -> Any:
    code, made, err = run(
        "collateral", "bundle", "create", "--fmspc", FMSPC.hex(), "--simulated-state", site / "simulated",
        "--key", site / "key.pem", "--out", site / name,
    )  # fmt: skip
    assert code == 0, err
    return made


def bring(run: Run, site: Site, name: str = "site.bundle", *more: str) -> tuple[int, Any, str]:
    return run(
        "collateral", "bundle", "import", site / name, "--trusted-key", site / "public.pem", "--state", site / "held",
        "--root", site / "root.der", *more,
    )  # fmt: skip


def test_what_is_fetched_for_a_quote_verifies_it(run: Run, site: Site):
    for whose in (["--quote", site / "quote.bin"], ["--fmspc", FMSPC.hex(), "--ca", "platform"]):
        code, document, err = run(
            "collateral", "fetch", *whose, "--simulated-state", site / "simulated", "--out", site / "c.json"
        )
        assert code == 0, err
        assert (document["tee"], document["fmspc"], document["ca"]) == ("sgx", FMSPC.hex(), "platform")
        collateral = Collateral.from_json(Path(site / "c.json").read_bytes())
        assert document["digest"] == collateral.digest.hex()
        at = json_time(collateral)
        verdict = verify_quote(
            Path(site / "quote.bin").read_bytes(), collateral, at=at, root=Path(site / "root.der").read_bytes()
        )
        assert verdict.simulated


def json_time(collateral: Collateral) -> Any:
    import datetime as dt

    return dt.datetime.fromisoformat(json.loads(collateral.tcb_info)["issueDate"]) + dt.timedelta(hours=1)


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--fmspc", "00906ed50000"],
        ["--ca", "platform"],
        ["--quote", "q", "--fmspc", "00906ed50000", "--ca", "platform"],
    ],
)
def test_fetch_wants_to_know_whose(run: Run, words: list[str]):
    code, document, _ = run("collateral", "fetch", *words)
    assert (code, document["error"]["code"]) == (2, "cli.misuse")


def test_what_no_source_has_is_not_reachable(run: Run, site: Site):
    words = ["--simulated-state", site / "simulated", "--fmspc", "00906ed50000", "--ca", "platform"]
    code, document, _ = run("collateral", "fetch", *words, "--out", site / "none.json")
    assert (code, document["error"]["code"]) == (4, "collateral.unknown")
    assert not Path(site / "none.json").exists()


def test_a_bundle_is_carried_and_a_running_service_serves_it(run: Run, site: Site, serve: Callable[..., str]):
    made = make(run, site)
    assert (made["simulated"], made["current"], made["left_out"]) == (True, True, [])
    names = {each["item"] for each in made["items"]}
    assert {"sgx:root-crl", "sgx:pck-crl:processor", f"tdx:tcb-info:{FMSPC.hex()}:early"} <= names
    assert "sgx:fmspcs" not in names
    code, shown, _ = run("collateral", "bundle", "show", site / "site.bundle", "--trusted-key", site / "public.pem")
    assert (code, shown["items"], shown["horizon"]) == (0, made["items"], made["horizon"])

    url = serve("--root", site / "root.der", "--source", "none")
    code, status, _ = run("collateral", "status", "--url", url)
    assert (code, status["items"], status["sources"]) == (0, [], [])
    code, stored, err = bring(run, site)
    assert code == 0, err
    assert stored["stored"] == len(made["items"])
    code, status, _ = run("collateral", "status", "--url", url)
    assert code == 0
    assert {(each["item"], each["state"]) for each in status["items"]} == {(name, "current") for name in names}
    assert all(each["source"].startswith("bundle of ") for each in status["items"])
    with urllib.request.urlopen(f"{url}/sgx/certification/v4/tcb?fmspc={FMSPC.hex()}") as answer:
        assert answer.status == 200
    code, verdict, err = run(
        "quote", "verify", site / "quote.bin", "--pccs", url, "--at", "now", "--root", site / "root.der"
    )
    assert (code, verdict["accepted"]) == (0, True), err


def test_an_older_bundle_is_refused_unless_told(run: Run, site: Site):
    make(run, site, "first.bundle")
    os.utime(site / "first.bundle")
    make(run, site, "second.bundle")
    assert bring(run, site, "second.bundle")[0] == 0
    code, document, _ = bring(run, site, "first.bundle")
    if document.get("error"):  # made within the same moment they would be of the same age
        assert (code, document["error"]["code"]) == (1, "bundle.rollback")
    code, document, err = bring(run, site, "first.bundle", "--dangerously-allow-rollback")
    assert (code, document["relaxations"]) == (0, ["dangerously_allow_rollback"])
    assert "RELAXED  dangerously_allow_rollback" in err


IMPORT = """
import sys
from kubenclave.cli import main
while True:
    assert main.run(sys.argv[1:]) == 0
"""


def test_killed_in_the_middle_of_an_import_all_of_it_is_there_or_nothing(run: Run, site: Site):
    count = len(make(run, site)["items"])
    words = ["collateral", "bundle", "import", site / "site.bundle", "--trusted-key", site / "public.pem",
             "--state", site / "held", "--root", site / "root.der", "--dangerously-allow-rollback"]  # fmt: skip
    found = []
    for pause in (0.0, 0.01, 0.05, 0.2):
        shutil.rmtree(site / "held", ignore_errors=True)
        with subprocess.Popen(
            [sys.executable, "-c", IMPORT, *words],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=unmeasured(),
        ) as process:
            eventually(Path(site / "held/collateral.db").exists)
            time.sleep(pause)
            process.kill()
        database = Database(Path(site / "held/collateral.db"))
        try:
            assert [row[0] for row in database.read("PRAGMA integrity_check")] == ["ok"]
            found.append(len(Store(database, lambda: evidence.NOW).items()))
        finally:
            database.close()
    assert set(found) <= {0, count}, found


def test_a_bundle_of_another_root_or_signer_is_refused(run: Run, site: Site):
    make(run, site)
    code, document, _ = run(
        "collateral",
        "bundle",
        "import",
        site / "site.bundle",
        "--trusted-key",
        site / "public.pem",
        "--state",
        site / "held",
    )
    assert (code, document["error"]["code"]) == (1, "bundle.root")
    Path(site / "other.pem").write_bytes(public_pem(KEYS["Ed25519"]))
    for command in (
        ["show", site / "site.bundle"],
        ["show", site / "site.bundle", "--trusted-key", site / "other.pem"],
    ):
        code, document, _ = run("collateral", "bundle", *command)
        assert (code, document["error"]["code"]) == (1, "bundle.signer")


def test_a_key_that_others_can_read_signs_nothing(run: Run, site: Site):
    Path(site / "key.pem").chmod(0o640)
    code, document, _ = run(
        "collateral", "bundle", "create", "--all", "--simulated-state", site / "simulated", "--key", site / "key.pem",
        "--out", site / "b",
    )  # fmt: skip
    assert (code, document["error"]["code"]) == (5, "bundle.key-mode")
    assert not Path(site / "b").exists()


@pytest.mark.parametrize("words", [[], ["--all", "--fmspc", "00906ed50000"]])
def test_create_wants_to_know_of_what(run: Run, site: Site, words: list[str]):
    code, document, _ = run("collateral", "bundle", "create", *words, "--key", site / "key.pem", "--out", site / "b")
    assert (code, document["error"]["code"]) == (2, "cli.misuse")


def test_a_service_with_a_source_is_watched_refreshed_and_bundled(run: Run, site: Site, serve: Callable[..., str]):
    url = serve("--simulated-state", site / "simulated")
    for path in ("qe/identity", f"tcb?fmspc={FMSPC.hex()}", "pckcrl?ca=platform"):
        with urllib.request.urlopen(f"{url}/sgx/certification/v4/{path}") as answer:
            assert answer.status == 200
    code, token, err = run(
        "attest", "credential", "create", "ops", "--role", "collateral-admin", "--state", site / "held"
    )
    assert code == 0, err
    Path(site / "token").write_text(token["token"])
    code, outcome, err = run("collateral", "refresh", "--url", url, "--token-file", site / "token")
    assert (code, outcome["failures"]) == (0, []), err
    assert outcome["renewed"] >= 4
    code, document, _ = run("collateral", "refresh", "--url", url)
    assert (code, document["error"]["code"]) == (1, "credentials.missing")
    with urllib.request.urlopen(
        f"{url}/sgx/certification/v4/pckcert?qeid={'AB' * 16}&cpusvn={'FF' * 16}&pcesvn=FFFF&pceid=0000"
    ) as answer:
        assert answer.status == 200
    code, forecast, err = run("collateral", "forecast", "--url", url, "--token-file", site / "token")
    assert code == 0, err
    (platform,) = forecast["platforms"]
    assert (platform["fmspc"], platform["certainty"], platform["changes"]) == (FMSPC.hex(), "no-change", False)
    code, made, err = run(
        "collateral", "bundle", "create", "--state", site / "held", "--key", site / "key.pem", "--out", site / "b",
        "--root", site / "root.der", "--source", f"pccs={url}",
    )  # fmt: skip
    assert code == 0, err
    assert {"sgx:root-crl", "sgx:identity:qe:standard"} <= {each["item"] for each in made["items"]}


def test_texts_are_for_people(site: Site, serve: Callable[..., str], capsys: pytest.CaptureFixture[str], run: Run):
    make(run, site)
    assert main.run(["collateral", "bundle", "show", site / "site.bundle", "--trusted-key", site / "public.pem"]) == 0
    assert "(SIMULATED)" in capsys.readouterr().out
    url = serve("--simulated-state", site / "simulated")
    with urllib.request.urlopen(f"{url}/sgx/certification/v4/rootcacrl") as answer:
        assert answer.status == 200
    assert main.run(["collateral", "status", "--url", url]) == 0
    out = capsys.readouterr().out
    assert "sgx:root-crl" in out
    assert "registration queue: 0 new, 0 not-available" in out
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"{url}/sgx/certification/v4/tcb?fmspc=000000000000")
    refused.value.close()
    assert main.run(["collateral", "status", "--url", url]) == 0, "what strangers make up alarms nobody"
    assert "unknown" in capsys.readouterr().out
    fetch = ["collateral", "fetch", "--fmspc", FMSPC.hex(), "--ca", "processor", "--tee", "tdx"]
    assert main.run([*fetch, "--simulated-state", site / "simulated"]) == 0
    assert json.loads(capsys.readouterr().out)["tcb_info"].startswith('{"id":"TDX"')
