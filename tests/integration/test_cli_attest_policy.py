# SPDX-License-Identifier: Apache-2.0
"""kubenclave attest policy against a service on a loopback port, over TLS."""

import json

import pytest

from kubenclave.cli import main
from kubenclave.services.web.credentials import Role
from tests.azure_server import served
from tests.simulated_platform import APP_MR_ENCLAVE

TYPED = f'version = 1\nname = "billing"\n\n[[enclaves]]\nmr_enclave = "{APP_MR_ENCLAVE.hex()}"\n'
AZURE = "version= 1.0;\nauthorizationrules { => permit(); };\nissuancerules { };\n"


@pytest.fixture
def service(tmp_path):
    with served(tmp_path) as made:
        (tmp_path / "admin.token").write_text(made.service.credentials.create("keeper", [Role.POLICY_ADMIN]))
        yield made


@pytest.fixture
def run(service, tmp_path, capsys):
    """Run a command on the service as its policies' administrator; return exit code and what it printed."""

    def call(*words, token=True):
        where = ["--url", service.url, "--ca", str(service.ca)]
        where += ["--token-file", str(tmp_path / "admin.token")] if token else []
        code = main.run(["attest", "policy", *map(str, words), *where])
        printed = capsys.readouterr()
        start = printed.out.find("{\n")  # the service runs in this process, and its log may stand before
        return code, json.loads(printed.out[start:]) if start >= 0 else printed.out + printed.err

    return call


def test_a_policy_is_set_shown_and_reset(run, tmp_path):
    (tmp_path / "policy.toml").write_text(TYPED)
    (tmp_path / "sgx.azurepolicy").write_text(AZURE)
    code, made = run("set", tmp_path / "policy.toml", "--expected-version", 0, "--output", "json")
    assert (code, made["version"], made["format"], made["by"]) == (0, 1, "kubenclave", "keeper")
    assert made["created"].endswith("Z")
    assert run("set", tmp_path / "sgx.azurepolicy", "--output", "json")[1]["format"] == "azure"
    assert run("show", "--output", "json")[1]["text"] == AZURE
    assert "[[enclaves]]" in run("show", "--version", 1)[1]
    code, late = run("reset", "--expected-version", 1, "--output", "json")
    assert (code, late["error"]["code"]) == (2, "policy-store.conflict")
    assert run("reset", "--output", "json")[1]["default"] is True
    code, found = run("history", "--output", "json")
    assert [each["version"] for each in found["versions"]] == [3, 2, 1]
    assert run("show", "--tee-type", "TdxVm", "--output", "json")[1]["version"] == 0
    assert "keeper" in run("history")[1]


@pytest.mark.parametrize(("name", "code"), [("a.toml", "policy.malformed"), ("a.txt", "azure-policy.version")])
def test_what_is_no_policy_is_not_sent(run, tmp_path, name, code):
    (tmp_path / name).write_text("version = nonsense {")
    exit_code, said = run("set", tmp_path / name, "--output", "json", token=False)
    assert (exit_code, said["error"]["code"]) == (3, code)


def test_setting_takes_a_credential(run, tmp_path):
    (tmp_path / "policy.toml").write_text(TYPED)
    code, said = run("set", tmp_path / "policy.toml", "--output", "json", token=False)
    assert (code, said["error"]["code"]) == (1, "credentials.missing")
    assert run("show", "--output", "json")[1]["version"] == 0
