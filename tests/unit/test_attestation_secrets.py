# SPDX-License-Identifier: Apache-2.0
"""Secrets at rest: sealed, bound to their row, and of no use without the key file."""

import os

import pytest

from kubenclave.errors import PlatformError, UsageError
from kubenclave.services.attestation.release.secrets import MAX_SECRET, SecretStore, load_key, make_key
from kubenclave.services.database import Database
from tests.evidence import NOW

POLICY = bytes(32)


@pytest.fixture
def database(tmp_path):
    opened = Database(tmp_path / "attestation.db")
    yield opened
    opened.close()


def store(database, key=b"k" * 32, *, simulated=False):
    return SecretStore(database, lambda: NOW, key=key, simulated=simulated)


def put(secrets, name="one", value=b"value", **how):
    return secrets.put(name, value, **{"tee_type": "SgxEnclave", "policy": POLICY, "by": "test", **how})


def refusal(kind, call):
    with pytest.raises(kind) as caught:
        call()
    return caught.value.code


def test_a_secret_comes_back_and_its_versions_count_up(database):
    secrets = store(database)
    first = put(secrets)
    assert secrets.open(first) == b"value"
    second = put(secrets, value=b"other")
    assert (first.version, second.version, secrets.open(second)) == (1, 2, b"other")
    assert refusal(UsageError, lambda: secrets.open(first)) == "secret.unknown"
    secrets.delete("one")
    assert refusal(UsageError, lambda: secrets.info("one")) == "secret.unknown"
    assert refusal(UsageError, lambda: secrets.delete("one")) == "secret.unknown"
    assert put(secrets).version == 3


def test_without_the_key_there_is_only_the_list(database):
    info = put(store(database))
    closed = store(database, None)
    assert closed.list() == [info]
    assert refusal(PlatformError, lambda: closed.open(info)) == "secret.no-key"
    assert refusal(PlatformError, lambda: put(closed)) == "secret.no-key"
    assert refusal(PlatformError, lambda: store(database, b"x" * 32).open(info)) == "secret.sealed"


@pytest.mark.parametrize(
    "change", ["policy = zeroblob(31)", "simulated = 1", "tee_type = 'TdxVm'", "version = 7", "name = 'two'"]
)
def test_a_row_that_was_changed_does_not_open(database, change):
    secrets = store(database)
    put(secrets)
    with database.transaction() as connection:
        connection.execute(f"UPDATE secrets SET {change}")
    assert refusal(PlatformError, lambda: secrets.open(secrets.list()[0])) == "secret.sealed"


@pytest.mark.parametrize("size", [0, MAX_SECRET + 1])
def test_sizes(database, size):
    assert refusal(UsageError, lambda: put(store(database), value=bytes(size))) == "secret.size"
    assert put(store(database), value=bytes(MAX_SECRET)).version == 1


@pytest.mark.parametrize("name", ["", ".x", "a/b", "a b", "é", "x" * 128, "a\n"])
def test_names(database, name):
    assert refusal(UsageError, lambda: put(store(database), name)) == "secret.name"


@pytest.mark.parametrize(("service", "mark"), [(True, False), (False, True)])
def test_mark_and_service_agree(database, service, mark):
    assert refusal(UsageError, lambda: put(store(database, simulated=service), simulated=mark)) == "secret.simulated"
    assert put(store(database, simulated=service), simulated=service).simulated is service


def test_a_key_file_is_made_once_and_read_back(tmp_path):
    path = tmp_path / "secrets.key"
    make_key(path)
    assert len(load_key(path)) == 32
    assert refusal(UsageError, lambda: make_key(path)) == "secret.key-exists"
    assert refusal(PlatformError, lambda: make_key(tmp_path / "none" / "x")) == "secret.key-file"


@pytest.mark.parametrize("mode", [0o400, 0o600])
def test_a_tight_key_file_is_read(tmp_path, mode):
    path = tmp_path / "secrets.key"
    make_key(path)
    path.chmod(mode)
    assert load_key(path)


@pytest.mark.parametrize("mode", [0o604, 0o640, 0o660, 0o602, 0o601])
def test_a_key_file_that_others_may_use_is_refused(tmp_path, mode):
    path = tmp_path / "secrets.key"
    make_key(path)
    path.chmod(mode)
    assert refusal(PlatformError, lambda: load_key(path)) == "secret.key-file"


@pytest.mark.parametrize("content", [b"", b"00" * 31, b"00" * 33, b"x" * 64, b"\xff" * 64])
def test_what_is_no_key_is_refused(tmp_path, content):
    path = tmp_path / "secrets.key"
    os.close(os.open(path, os.O_CREAT, 0o600))
    path.write_bytes(content)
    assert refusal(PlatformError, lambda: load_key(path)) == "secret.key-file"


def test_a_key_file_that_is_not_there(tmp_path):
    assert refusal(PlatformError, lambda: load_key(tmp_path / "none")) == "secret.key-file"
