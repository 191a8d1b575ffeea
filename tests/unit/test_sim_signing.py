# SPDX-License-Identifier: Apache-2.0
"""Keys that sign SIMULATED enclaves: files that serve, files that do not, and the user's development key."""

import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from kubenclave.errors import FormatError, PlatformError, UsageError
from kubenclave.platform.simulated import enclaves, signing
from kubenclave.sgx.sigstruct import Sigstruct
from tests import simulated_enclaves as made


def pem(key, passphrase: bytes | None = None):
    protection: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if passphrase is not None:
        protection = serialization.BestAvailableEncryption(passphrase)
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, protection)


def test_a_key_signs(tmp_path):
    path = tmp_path / "key.pem"
    path.write_bytes(pem(enclaves.signing_key()))
    signed = signing.sign(made.signed(), signing.load_key(path))
    signed.check()
    assert signed == made.signed()  # PKCS #1 v1.5: the same bytes every time


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"-----BEGIN PRIVATE KEY-----\nAA==\n-----END PRIVATE KEY-----\n", id="garbage"),
        pytest.param(pem(ec.generate_private_key(ec.SECP256R1())), id="elliptic-curve"),
        pytest.param(pem(rsa.generate_private_key(65537, 1024)), id="rsa-1024"),
        pytest.param(pem(ec.generate_private_key(ec.SECP256R1()), b"word"), id="with-passphrase"),
    ],
)
def test_files_that_are_no_such_key(tmp_path, content):
    path = tmp_path / "key.pem"
    path.write_bytes(content)
    with pytest.raises(FormatError) as caught:
        signing.load_key(path)
    assert caught.value.code == "simkey.malformed"


def test_no_key_file(tmp_path):
    with pytest.raises(UsageError) as caught:
        signing.load_key(tmp_path / "key.pem")
    assert caught.value.code == "simkey.unreadable"


def test_the_development_key_is_made_once(tmp_path):
    path = tmp_path / "config" / "kubenclave" / "key.pem"
    first = signing.development_key(path)
    assert first.public_key().public_numbers() == signing.development_key(path).public_key().public_numbers()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in path.parent.iterdir()] == ["key.pem"]
    assert isinstance(signing.sign(made.signed(), first), Sigstruct)


def test_of_two_who_make_the_key_at_once_one_is_first(tmp_path):
    path = tmp_path / "key.pem"
    path.write_bytes(pem(enclaves.signing_key()))
    signing._make_key(path)  # has looked before the other was ready
    assert path.read_bytes() == pem(enclaves.signing_key())
    assert [entry.name for entry in tmp_path.iterdir()] == ["key.pem"]


def test_a_development_key_that_cannot_be_kept(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(PlatformError) as caught:
        signing.development_key(tmp_path / "file" / "key.pem")
    assert caught.value.code == "simkey.unusable"


@pytest.mark.parametrize(
    ("env", "place"),
    [
        ({"XDG_CONFIG_HOME": "/x", "HOME": "/h"}, "/x/kubenclave/sim-enclave-key.pem"),
        ({"HOME": "/h"}, "/h/.config/kubenclave/sim-enclave-key.pem"),
        ({}, "/root/.config/kubenclave/sim-enclave-key.pem"),
    ],
    ids=["xdg", "home", "neither"],
)
def test_where_the_development_key_is(env, place):
    assert signing.development_key_path(env) == Path(place)
