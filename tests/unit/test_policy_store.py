# SPDX-License-Identifier: Apache-2.0
"""Policies of the service: versions that stay, signers, and what the trust model takes."""

import datetime as dt
import json
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from kubenclave.dcap.azurepolicy import DEFAULT_SGX_POLICY, AzurePolicy, azure_policy_digest
from kubenclave.dcap.policy import Policy
from kubenclave.errors import FormatError, TrustError, UsageError
from kubenclave.services.attestation.policies.signers import thumbprint_of
from kubenclave.services.attestation.policies.store import BUILT_IN, PolicyFormat, PolicyStore, TrustModel
from kubenclave.services.database import Database
from tests.evidence import MR_ENCLAVE, NOW

DENY = "version=1.0; authorizationrules{ =>deny(); };"
TYPED = json.dumps({"version": 1, "name": "mine", "enclaves": [{"mr_enclave": MR_ENCLAVE.hex()}]})
TOML = f'version = 1\n[[enclaves]]\nmr_enclave = "{MR_ENCLAVE.hex()}"\n'
# The example of RFC 7638, section 3.1
RSA = {
    "kty": "RSA",
    "n": "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3"
    "oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6"
    "qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJ"
    "zKnqDKgw",
    "e": "AQAB",
    "alg": "RS256",
}
EC = {"kty": "EC", "crv": "P-256", "x": "eA", "y": "eQ"}


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = Database(tmp_path / "attestation.db")
    yield opened
    opened.close()


@pytest.fixture
def store(database: Database) -> PolicyStore:
    return PolicyStore(database, lambda: NOW)


def code(error: pytest.ExceptionInfo[UsageError] | pytest.ExceptionInfo[TrustError]) -> str:
    return error.value.code


def test_default_is_version_zero(store):
    policy = store.current("SgxEnclave")
    assert (policy.version, policy.text, policy.is_default, policy.by) == (0, DEFAULT_SGX_POLICY, True, BUILT_IN)
    assert policy.digest == azure_policy_digest(DEFAULT_SGX_POLICY)
    assert store.get("SgxEnclave", 0) == policy
    assert store.history("SgxEnclave") == []
    assert policy.as_dict()["created"] is None


def test_versions_are_kept_per_type(store):
    put = store.put("SgxEnclave", DENY, "azure", by="alice", signer=EC, token="a.b.c")
    reset = store.reset("SgxEnclave", by="bob")
    assert [put.version, reset.version] == [1, 2]
    assert store.current("SgxEnclave") == reset
    assert reset.is_default
    assert store.history("SgxEnclave") == [reset, put]
    assert store.history("SgxEnclave", limit=1) == [reset]
    assert store.get("SgxEnclave", 1) == put
    assert (put.signer, put.token, put.by, put.created) == (EC, "a.b.c", "alice", NOW)
    assert store.current("OpenEnclave").version == 0
    assert json.dumps(put.as_dict())
    assert store.reset("TdxVm", by="bob", expected_version=0).version == 1


def test_nothing_is_changed_or_deleted(store, database):
    store.put("SgxEnclave", DENY, "azure", by="alice")
    for statement in ("DELETE FROM policies", "UPDATE policies SET by = 'mallory'"):
        with pytest.raises(sqlite3.IntegrityError, match="append only"), database.transaction() as connection:
            connection.execute(statement)
    assert store.current("SgxEnclave").by == "alice"


def test_both_languages(store):
    azure = store.put("SgxEnclave", DENY, PolicyFormat.AZURE, by="a")
    typed = store.put("SgxEnclave", TYPED, "kubenclave", by="a")
    toml = store.put("SgxEnclave", TOML, "kubenclave", by="a")
    assert isinstance(azure.parsed, AzurePolicy)
    assert isinstance(typed.parsed, Policy)
    assert isinstance(toml.parsed, Policy)
    assert [each.name for each in (azure, typed, toml)] == ["SgxEnclave", "mine", "SgxEnclave"]
    reference = typed.reference()
    assert (reference.name, reference.format, reference.version) == ("mine", "kubenclave", 2)
    assert len({azure.digest, typed.digest, toml.digest}) == 3


@pytest.mark.parametrize(
    ("text", "form", "expected"),
    [
        ("no policy", "azure", "azure-policy.syntax"),
        ("{}", "kubenclave", "policy.malformed"),
        ("{", "kubenclave", "json.malformed"),
        ("x = ", "kubenclave", "policy.malformed"),
        ("#" * (64 << 10) + "\n", "kubenclave", "policy.malformed"),
    ],
)
def test_what_is_no_policy_is_not_stored(store, text, form, expected):
    with pytest.raises(FormatError) as caught:
        store.put("SgxEnclave", text, form, by="a")
    assert caught.value.code == expected
    assert store.current("SgxEnclave").version == 0


def test_what_there_is_not(store):
    with pytest.raises(UsageError) as caught:
        store.current("SevSnpVm")
    assert code(caught) == "policy-store.unknown-tee"
    with pytest.raises(UsageError) as caught:
        store.get("SgxEnclave", 1)
    assert code(caught) == "policy-store.unknown-version"
    with pytest.raises(UsageError) as caught:
        store.put("SgxEnclave", DENY, "rego", by="a")
    assert code(caught) == "policy-store.format"


def test_one_of_two_that_change_the_same_version_wins(tmp_path):
    def attempt(number: int) -> int | str:
        database = Database(tmp_path / "attestation.db")  # a connection of its own, as another process has
        try:
            store = PolicyStore(database, lambda: NOW)
            return store.put("SgxEnclave", DENY, "azure", by=str(number), expected_version=0).version
        except UsageError as error:
            return error.code
        finally:
            database.close()

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(attempt, range(8)))
    assert sorted(map(str, found)) == ["1"] + ["policy-store.conflict"] * 7


def test_versions_have_no_gaps_and_no_repeats(tmp_path):
    def attempt(_: int) -> int:
        database = Database(tmp_path / "attestation.db")
        try:
            return PolicyStore(database, lambda: NOW).put("TdxVm", DENY, "azure", by="a").version
        finally:
            database.close()

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(attempt, range(12))) == list(range(1, 13))


def test_thumbprint_is_that_of_the_rfc():
    assert thumbprint_of(RSA) == "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"


@pytest.mark.parametrize(
    "jwk", [{}, {"kty": "oct", "k": "eA"}, {**RSA, "d": "eA"}, {"kty": "RSA", "n": "eA"}, {**EC, "x": 1}]
)
def test_a_signer_is_a_public_key(store, jwk):
    with pytest.raises(FormatError) as caught:
        store.signers.add(jwk, by="a")
    assert caught.value.code == "policy-signer.malformed"


def test_signers(store):
    signers = store.signers
    assert signers.find(RSA) is None
    first = signers.add(RSA, by="alice")
    assert signers.add({**RSA, "alg": "PS256"}, by="bob") == first
    assert signers.find({**RSA, "use": "sig"}) == first
    with pytest.raises(UsageError) as caught:
        signers.remove(RSA, by="alice")
    assert code(caught) == "policy-signer.last"
    second = signers.add(EC, by="alice")
    assert signers.all() == [first, second]
    assert signers.remove(RSA, by="alice")
    assert not signers.remove(RSA, by="alice")
    assert signers.all() == [second]
    signers.add(RSA, by="carol")
    assert [each.by for each in signers.all()] == ["alice", "carol"]


def test_isolated_takes_what_registered_signers_signed(database):
    store = PolicyStore(database, lambda: NOW, trust_model=TrustModel.ISOLATED)
    for act in (lambda signer: store.put("TdxVm", DENY, "azure", by="a", signer=signer), lambda signer: store.reset(
        "TdxVm", by="a", signer=signer
    )):  # fmt: skip
        with pytest.raises(TrustError) as caught:
            act(None)
        assert code(caught) == "policy-store.unsigned"
        with pytest.raises(TrustError) as caught:
            act(EC)
        assert code(caught) == "policy-store.unknown-signer"
    store.signers.add(EC, by="a")
    assert store.put("TdxVm", DENY, "azure", by="a", signer=EC).reference().signer == EC
    assert store.reset("TdxVm", by="a", signer=EC).created == NOW
    assert store.current("TdxVm").created.tzinfo is not None
    assert store.current("TdxVm").created - NOW == dt.timedelta(0)
