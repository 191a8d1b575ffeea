# SPDX-License-Identifier: Apache-2.0
"""kubenclave attest log and secret against a service on a loopback port, over TLS."""

import base64
import json
import os
import stat
import threading

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from kubenclave.cli import main
from kubenclave.cli.attest import ask
from kubenclave.cli.attest.watch import Watch
from kubenclave.cli.remote import Remote
from kubenclave.dcap import merkle
from kubenclave.dcap.collateral import Collateral
from kubenclave.errors import TrustError
from kubenclave.services.attestation.release.secrets import make_key
from kubenclave.services.attestation.transparency.checkpoint import Checkpoint, LogKey
from kubenclave.services.web.credentials import Role
from tests.attestation_service import base64url
from tests.azure_server import served
from tests.simulated_platform import APP_MR_ENCLAVE

POLICY = {"version": 1, "name": "billing", "enclaves": [{"mr_enclave": APP_MR_ENCLAVE.hex()}]}


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    folder = tmp_path_factory.mktemp("service")
    make_key(folder / "secrets.key")
    with served(folder, secrets_key=folder / "secrets.key") as made:
        made.service.policies.put("SgxEnclave", json.dumps(POLICY), "kubenclave", by="test")
        (folder / "admin.token").write_text(made.service.credentials.create("keeper", [Role.RELEASE_ADMIN]))
        (folder / "log.key").write_text(f"{made.service.log.key}\n")
        yield made


@pytest.fixture
def run(service, capsys):
    """Run a command on the service; return exit code and what it printed, as JSON where it is."""

    def call(*words, remote=True):
        where = ["--url", service.url, "--ca", str(service.ca)] if remote else []
        code = main.run(["attest", *map(str, words), *where])
        printed = capsys.readouterr()
        start = printed.out.find("{\n")  # the service runs in this process, and its log may stand before
        return code, json.loads(printed.out[start:]) if start >= 0 else printed.out + printed.err

    return call


@pytest.fixture
def folder(service):
    return service.ca.parent


def attest(service):
    remote = Remote(service.url, ca=str(service.ca))
    return remote.send("POST", "/v1/attest", document={"quote": base64url(service.quote()), "token": "none"})


def test_a_receipt_is_checked_without_the_service(service, run, folder, tmp_path):
    answer = attest(service)
    file = tmp_path / "answer.json"
    file.write_text(json.dumps(answer))
    code, said = run("log", "verify", file, "--key", folder / "log.key", "--output", "json", remote=False)
    assert (code, said["included"], said["entry"]["verdict"]) == (0, True, "accepted")
    code, text = run("log", "verify", file, "--key", service.service.log.key, remote=False)
    assert (code, "in the log" in text) == (0, True)
    answer["receipt"]["entry"] = answer["receipt"]["entry"].replace('"fresh":false', '"fresh":true')
    file.write_text(json.dumps(answer["receipt"]))
    code, said = run("log", "verify", file, "--key", folder / "log.key", "--output", "json", remote=False)
    assert (code, said["error"]["code"]) == (1, "log.inclusion")
    file.write_text("{}")
    assert run("log", "verify", file, "--key", folder / "log.key", remote=False)[0] == 3


@pytest.mark.parametrize("dialect", ["azure", "ear"])
def test_a_token_alone_is_enough_to_get_its_receipt(service, run, folder, tmp_path, dialect):
    remote = Remote(service.url, ca=str(service.ca))
    document = {"quote": base64url(service.quote()), "token": dialect}
    token = remote.send("POST", "/v1/attest", document=document)["token"]
    attest(service)  # the log goes on
    (tmp_path / "token.jwt").write_text(token)
    words = ("log", "prove", tmp_path / "token.jwt", "--key", folder / "log.key", "--out", tmp_path / "receipt.json")
    code, said = run(*words, "--output", "json")
    assert (code, said["included"], said["entry"]["verdict"]) == (0, True, "accepted")
    code, again = run(
        "log", "verify", tmp_path / "receipt.json", "--key", folder / "log.key", "--output", "json", remote=False
    )
    assert (code, again) == (0, said)


def test_the_collateral_of_a_token_is_fetched_and_compared(service, run, tmp_path, monkeypatch):
    remote = Remote(service.url, ca=str(service.ca))
    token = remote.send("POST", "/v1/attest", document={"quote": base64url(service.quote()), "token": "azure"})["token"]
    (tmp_path / "token.jwt").write_text(token)
    words = ("log", "collateral", tmp_path / "token.jwt", "--out", tmp_path / "collateral.json", "--output", "json")
    code, said = run(*words)
    assert code == 0
    assert Collateral.from_json((tmp_path / "collateral.json").read_bytes()).digest.hex() == said["digest"]

    def changed(remote, path, **query):
        document = asked(remote, path, **query)
        return {**document, "pck_crl": document["pck_crl"] + "00"}

    asked = Remote.get
    monkeypatch.setattr(Remote, "get", changed)
    code, said = run(*words)
    assert (code, said["error"]["code"]) == (1, "log.other-collateral")


def test_a_token_about_something_else_names_no_collateral(run, tmp_path):
    header, claims = (base64url(json.dumps(each).encode()) for each in ({"alg": "RS256"}, {"iss": "x"}))
    (tmp_path / "token.jwt").write_text(f"{header}.{claims}.c2ln")
    code, said = run("log", "collateral", tmp_path / "token.jwt", "--out", tmp_path / "c.json", "--output", "json")
    assert (code, said["error"]["code"]) == (3, "token.malformed")


@pytest.mark.parametrize(
    ("changed", "refusal"),
    [
        ({"index": 0}, (1, "log.other-entry")),
        ({"index": 1 << 40}, (1, "log.other-entry")),
        ({"leaf": "00" * 32}, (1, "log.other-entry")),
        ({"jti": "another"}, (1, "log.other-entry")),
        ({"index": -1}, (3, "token.malformed")),
        ({"index": True}, (3, "token.malformed")),
        ({"leaf": "x"}, (3, "token.malformed")),
        ({"log": None}, (3, "token.malformed")),
    ],
)
def test_a_token_that_names_another_entry_gets_no_receipt(service, run, tmp_path, changed, refusal):
    attest(service)
    answer = attest(service)
    receipt = answer["receipt"]
    place = {"index": receipt["index"], "leaf": receipt["leaf_hash"], **changed}
    claims = {"jti": changed.get("jti", json.loads(receipt["entry"])["jti"])}
    claims["kubenclave"] = {"log": None if "log" in changed else place}
    parts = [base64url(json.dumps(each).encode()) for each in ({"alg": "none"}, claims)]
    (tmp_path / "token.jwt").write_text(".".join([*parts, ""]))
    words = (
        "log",
        "prove",
        tmp_path / "token.jwt",
        "--key",
        service.ca.parent / "log.key",
        "--out",
        tmp_path / "receipt.json",
    )
    code, said = run(*words, "--output", "json")
    assert (code, said["error"]["code"]) == refusal
    assert not (tmp_path / "receipt.json").exists()


@pytest.mark.parametrize("proof", [{}, {"proof": 1}, {"proof": ["x"]}, {"proof": ["00" * 32]}, None])
def test_a_service_that_proves_nothing_gives_no_receipt(service, run, tmp_path, monkeypatch, proof):
    remote = Remote(service.url, ca=str(service.ca))
    answer = remote.send("POST", "/v1/attest", document={"quote": base64url(service.quote())})
    (tmp_path / "token.jwt").write_text(answer["token"])
    get = Remote.get
    monkeypatch.setattr(Remote, "get", lambda self, path, **more: proof if "proof" in path else get(self, path, **more))
    code, said = run("log", "prove", tmp_path / "token.jwt", "--key", service.ca.parent / "log.key", "--output", "json")
    assert (code, said["error"]["code"]) in {(3, "receipt.malformed"), (1, "log.inclusion")}


def test_head_and_entries_are_shown(service, run):
    attest(service)
    code, head = run("log", "head", "--output", "json")
    assert (code, head["key"], head["size"]) == (0, str(service.service.log.key), service.service.log.size())
    assert "root" in run("log", "head")[1]
    code, said = run("log", "show", "--start", "0", "--count", "1", "--output", "json")
    assert (code, len(said["entries"]), said["entries"][0]["simulated"]) == (0, 1, True)
    assert "accepted" in run("log", "show")[1]


def monitor(run, folder, tmp_path, *more):
    words = ["--key", folder / "log.key", "--memory", tmp_path / "log.json", "--output", "json", *more]
    return run("log", "monitor", *words)


def test_a_monitor_follows_the_log_and_remembers(service, run, folder, tmp_path):
    attest(service)
    entries = tmp_path / "entries.jsonl"
    code, said = monitor(run, folder, tmp_path, "--entries", entries)
    assert (code, said["new"]) == (0, said["size"])
    attest(service)
    attest(service)
    code, said = monitor(run, folder, tmp_path, "--entries", entries)
    assert (code, said["new"]) == (0, 2)
    assert monitor(run, folder, tmp_path, "--entries", entries)[1]["new"] == 0
    lines = entries.read_text().splitlines()
    assert [line.encode() for line in lines] == service.service.log.entries(0, 1000)


def forge(service, monkeypatch, size, root):
    """Let the service sign what it must not."""
    note = Checkpoint(service.service.log.key.name, size, root).sign(service.service.log._private)
    head = type(service.service.log.head())(Checkpoint(service.service.log.key.name, size, root), note)
    monkeypatch.setattr(type(service.service.log), "head", lambda _: head)
    return note


def test_a_monitor_finds_a_rewritten_log_and_keeps_both_heads(service, run, folder, tmp_path, monkeypatch):
    attest(service)
    assert monitor(run, folder, tmp_path)[0] == 0
    before = (tmp_path / "log.json").read_text()
    size = service.service.log.size()
    for forged in ((size, b"x" * 32), (size - 1, b"x" * 32)):
        with monkeypatch.context() as patch:
            note = forge(service, patch, *forged)
            code, said = monitor(run, folder, tmp_path)
        assert (code, said["error"]["code"]) == (1, "log.consistency")
        kept = (tmp_path / "log.conflict").read_text()
        assert note in kept
        assert json.loads(before)["note"] in kept
        assert (tmp_path / "log.json").read_text() == before


def test_a_monitor_takes_no_head_without_its_entries(service, run, folder, tmp_path, monkeypatch):
    attest(service)
    entries = tmp_path / "entries.jsonl"
    entries.write_text("kept\n")
    forge(service, monkeypatch, service.service.log.size() + 1, b"x" * 32)
    code, said = monitor(run, folder, tmp_path, "--entries", entries)
    assert (code, said["error"]["code"]) == (1, "log.withheld")
    assert entries.read_text() == "kept\n"
    assert not (tmp_path / "log.json").exists()


@pytest.mark.parametrize("entry", [b"x", b'{"b":1,"a":2}', b'{ "a":1}', b"[]", b'{"a":"\\ud800"}'])
def test_a_monitor_takes_canonical_entries_only(folder, tmp_path, entry):
    key = LogKey.parse((folder / "log.key").read_text())
    watch = Watch.load(tmp_path / "log.json", key)
    private = Ed25519PrivateKey.generate()
    watch.key = LogKey("test", private.public_key().public_bytes_raw())
    note = Checkpoint("test", 1, merkle.leaf_hash(entry)).sign(private)
    with pytest.raises(TrustError) as caught:
        watch.follow(note, lambda *_: [entry.decode()], lambda _: None)
    assert caught.value.code == "log.entry-malformed"


@pytest.mark.parametrize("change", [{"size": 0}, {"hashes": []}, {"note": ""}, {"hashes": 3}, {"key": None}])
def test_a_memory_that_was_changed_is_refused(service, run, folder, tmp_path, change):
    attest(service)
    monitor(run, folder, tmp_path)
    memory = tmp_path / "log.json"
    memory.write_text(json.dumps({**json.loads(memory.read_text()), **change}))
    code, said = monitor(run, folder, tmp_path)
    assert said["error"]["code"] in {"log.memory", "checkpoint.malformed", "log.other-key"}
    assert code in {2, 3}


def test_a_memory_that_cannot_be_read_or_written(run, folder, tmp_path):
    (tmp_path / "log.json").write_text("[]")
    assert monitor(run, folder, tmp_path)[1]["error"]["code"] == "log.memory"
    (tmp_path / "log.json").unlink()
    (tmp_path / "log.json").mkdir()
    assert monitor(run, folder, tmp_path)[1]["error"]["code"] == "cli.input"
    code, said = run(
        "log", "monitor", "--key", folder / "log.key", "--memory", tmp_path / "none" / "x", "--output", "json"
    )
    assert (code, said["error"]["code"]) == (2, "cli.output")
    said = monitor(run, folder, tmp_path / "log.json", "--entries", tmp_path)[1]
    assert said["error"]["code"] == "cli.output"


def test_a_secret_is_put_listed_and_deleted_over_the_api(service, run, folder, tmp_path):
    value, version = tmp_path / "value", service.service.policies.current("SgxEnclave").version
    value.write_bytes(b"secret")
    admin = ("--token-file", folder / "admin.token", "--output", "json")
    code, said = run("secret", "put", "one", value, "--simulated", "--policy-version", version, *admin)
    assert code == 0, said
    assert (said["name"], said["by"]) == ("one", "keeper")
    assert "one" in [each["name"] for each in run("secret", "list", *admin)[1]["secrets"]]
    assert "SIMULATED" in run("secret", "list", *admin[:2])[1]
    assert run("secret", "delete", "one", *admin)[0] == 0
    code, said = run("secret", "delete", "one", *admin)
    assert (code, said["error"]["code"]) == (2, "secret.unknown")
    code, said = run("secret", "list", "--output", "json")
    assert (code, said["error"]["code"]) == (1, "credentials.missing")


def test_a_secret_is_put_listed_and_deleted_in_the_state_directory(run, folder, tmp_path):
    value = tmp_path / "value"
    value.write_bytes(b"secret")
    here = ("--state", folder / "state", "--output", "json")
    sealed = ("--key-file", folder / "secrets.key")
    code, said = run("secret", "put", "two", value, "--simulated", *sealed, *here, remote=False)
    assert (code, said["simulated"]) == (0, True)
    assert "two" in [each["name"] for each in run("secret", "list", *here, remote=False)[1]["secrets"]]
    assert run("secret", "put", "two", value, *sealed, *here, remote=False)[1]["error"]["code"] == "secret.simulated"
    assert run("secret", "put", "two", value, *here, remote=False)[1]["error"]["code"] == "secret.no-key"
    assert run("secret", "delete", "two", *here, remote=False)[0] == 0
    assert run("secret", "list", *here)[0] == 2
    assert run("secret", "list", "--state", tmp_path, remote=False)[0] == 2


def test_an_enclave_gets_its_secret(service, run, folder, tmp_path, monkeypatch):
    value, out, receipt = tmp_path / "value", tmp_path / "out", tmp_path / "receipt.json"
    value.write_bytes(b"\0secret\xff")
    put = ("secret", "put", "three", value, "--simulated", "--token-file", folder / "admin.token")
    assert run(*put)[0] == 0
    monkeypatch.setattr(ask, "quote_over", lambda _socket: service.platform.quote)
    assert run("secret", "get", "three", "--out", out, "--receipt-out", receipt)[0] == 0
    assert out.read_bytes() == b"\0secret\xff"
    code, said = run("log", "verify", receipt, "--key", folder / "log.key", "--output", "json", remote=False)
    assert (code, said["entry"]["released"]["secret"]) == (0, "three")
    code, said = run("secret", "get", "three", "--output", "json")
    assert (code, base64.b64decode(said["value"]), said["simulated"]) == (0, b"\0secret\xff", True)
    code, said = run("secret", "get", "three", "--out", out, "--output", "json")
    assert (code, "value" in said, said["out"]) == (0, False, str(out))
    code, said = run("secret", "get", "none")
    assert (code, "secret.unknown" in said) == (2, True)
    service.service.policies.put("SgxEnclave", json.dumps({**POLICY, "name": "other"}), "kubenclave", by="test")
    code, said = run("secret", "get", "three")
    assert (code, "release.policy" in said) == (1, True)


def test_an_enclave_of_gramine_gets_its_secret(service, run, folder, tmp_path, monkeypatch):
    """Gramine's files, imitated: what is written to one decides what the other is a quote over."""
    files = tmp_path / "attestation"
    files.mkdir()
    os.mkfifo(files / "quote")
    monkeypatch.setattr(ask, "GRAMINE", files)

    def gramine():
        with (files / "quote").open("wb") as pipe:  # waits for a reader, who has written the report data by then
            pipe.write(service.platform.quote((files / "user_report_data").read_bytes()))

    service.service.policies.put("SgxEnclave", json.dumps(POLICY), "kubenclave", by="test")
    (tmp_path / "value").write_bytes(b"secret")
    put = ("secret", "put", "four", tmp_path / "value", "--simulated", "--token-file", folder / "admin.token")
    assert run(*put)[0] == 0
    thread = threading.Thread(target=gramine)
    thread.start()
    code, said = run("secret", "get", "four", "--output", "json")
    thread.join()
    assert (code, base64.b64decode(said["value"])) == (0, b"secret")


def test_gramine_without_a_quote_is_told(run, tmp_path, monkeypatch):
    (tmp_path / "quote").mkdir()
    monkeypatch.setattr(ask, "GRAMINE", tmp_path)
    code, said = run("secret", "get", "four", "--output", "json")
    assert (code, said["error"]["code"]) == (5, "quote.gramine")


def test_outside_of_an_enclave_there_is_nothing_to_get(run):
    code, said = run("secret", "get", "three")
    assert (code, "quote.no-enclave" in said) == (5, True)


def test_a_key_file_is_new_and_tight(run, tmp_path):
    file = tmp_path / "new.key"
    assert run("secret", "keygen", file, remote=False)[0] == 0
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert run("secret", "keygen", file, remote=False)[0] == 2


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("http://attest.example", "service.url"),
        ("attest.example", "service.url"),
        ("https://[", "service.url"),
        ("https://attest.example:x", "service.url"),
        ("http://127.0.0.1:1", "service.unreachable"),
    ],
)
def test_a_service_that_cannot_be_asked(run, url, code):
    said = run("log", "head", "--url", url, "--output", "json", remote=False)[1]
    assert said["error"]["code"] == code


def test_an_answer_of_somebody_else(service, run):
    for path in ("/certs", "/nothing"):
        said = run("log", "head", "--url", service.url + path, "--ca", service.ca, "--output", "json", remote=False)[1]
        assert said["error"]["code"] in {"service.unreachable", "request.no-route"}
    assert "service.unreachable" in run("log", "head", "--url", service.url, remote=False)[1]


def test_the_tree_of_the_tests_is_the_services(service):
    edge = merkle.Frontier()
    for entry in service.service.log.entries(0, 1000):
        edge.append(merkle.leaf_hash(entry))
    assert service.service.log.head().checkpoint.root == edge.root()
