# SPDX-License-Identifier: Apache-2.0
"""Signing keys: their states by the clock, shared by workers, never lost in silence."""

import base64
import datetime as dt
import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import NameOID

from kubenclave.errors import FormatError, KubenclaveError, PlatformError, UsageError
from kubenclave.services.attestation.keys.store import Algorithm, KeyRing, KeySettings, State
from kubenclave.services.database import Database
from tests.clock import Clock

START = dt.datetime(2026, 3, 5, 12, 0, tzinfo=dt.UTC)
URL = "https://attest.example/simulated"
SETTINGS = KeySettings(issuer_url=URL, simulated=True)
RSA, EC = Algorithm.RS256, Algorithm.ES256


@pytest.fixture
def clock() -> Clock:
    return Clock(START)


@pytest.fixture
def database(tmp_path):
    database = Database(tmp_path / "attestation.db")
    yield database
    database.close()


@pytest.fixture
def ring(database, clock) -> KeyRing:
    return KeyRing(database, clock, SETTINGS)


def pem(key: Any) -> bytes:
    return bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


def new_pem() -> bytes:
    return pem(ec.generate_private_key(ec.SECP256R1()))


def key_file(folder: Path, content: bytes | None = None, mode: int = 0o600) -> Path:
    path = folder / "key.pem"
    path.unlink(missing_ok=True)
    path.write_bytes(new_pem() if content is None else content)
    path.chmod(mode)
    return path


def with_file(path: Path) -> KeySettings:
    return replace(SETTINGS, files={EC: path})


def refused(call, *arguments) -> str:
    with pytest.raises(KubenclaveError) as caught:
        call(*arguments)
    return caught.value.code


def states(ring: KeyRing, algorithm: Algorithm = EC) -> list[str]:
    return [str(state) for state, key in ring.states() if key.algorithm is algorithm]


def test_first_keys_are_made_once_and_outlive_a_restart(ring, database, clock):
    again = KeyRing(database, clock, SETTINGS)
    for algorithm in Algorithm:
        assert again.active(algorithm).kid == ring.active(algorithm).kid
        assert again.active(algorithm).jwk == ring.active(algorithm).jwk


def test_the_name_of_a_key_is_its_thumbprint(ring):
    for algorithm, members in ((RSA, ("e", "kty", "n")), (EC, ("crv", "kty", "x", "y"))):
        key = ring.active(algorithm)
        text = json.dumps({name: key.jwk[name] for name in members}, separators=(",", ":"))
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        assert key.kid == f"simulated-{digest}"


def test_a_service_for_intels_root_has_no_prefix(database, clock):
    ring = KeyRing(database, clock, replace(SETTINGS, simulated=False, issuer_url="https://attest.example"))
    key = ring.active(EC)
    assert "simulated" not in key.kid
    certificate = x509.load_der_x509_certificate(key.certificate)
    assert not certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)


def test_every_jwk_is_complete_and_only_of_its_kind(ring):
    for algorithm, kind, members in ((RSA, "RSA", {"n", "e"}), (EC, "EC", {"crv", "x", "y"})):
        (jwk,) = ring.jwks(algorithm)["keys"]
        assert jwk.keys() == {"kty", "kid", "alg", "use", "x5c", *members}
        assert (jwk["kty"], jwk["alg"], jwk["use"]) == (kind, algorithm, "sig")
        certificate = x509.load_der_x509_certificate(base64.b64decode(jwk["x5c"][0], validate=True))
        certificate.verify_directly_issued_by(certificate)
        assert certificate.public_key() == jwt.PyJWK(jwk).key


def test_the_certificate_names_the_issuer_and_says_simulated(ring):
    certificate = x509.load_der_x509_certificate(ring.active(RSA).certificate)
    (name,) = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    (organisation,) = certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
    assert name.value == URL
    assert "SIMULATED" in organisation.value
    assert certificate.not_valid_before_utc <= START - dt.timedelta(minutes=5)


def test_a_long_url_is_whole_in_the_alternative_name(database, clock):
    url = "https://attestation.kubenclave-system.svc.cluster.local:8443/simulated"
    ring = KeyRing(database, clock, replace(SETTINGS, issuer_url=url))
    certificate = x509.load_der_x509_certificate(ring.active(RSA).certificate)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == [url]


def test_another_issuer_url_changes_the_certificate_and_not_the_key(ring, database, clock):
    moved = KeyRing(database, clock, replace(SETTINGS, issuer_url="https://other.example/simulated"))
    assert moved.active(RSA).kid == ring.active(RSA).kid
    certificate = moved.active(RSA).certificate
    assert certificate != ring.active(RSA).certificate
    ring.rotate(RSA)  # which has the keys read again
    assert moved.active(RSA).certificate == certificate


def test_a_rotation_publishes_then_signs_then_retires(ring, clock):
    first = ring.active(EC)
    second = ring.rotate(EC)
    assert states(ring) == ["active", "next"]
    assert [each["kid"] for each in ring.jwks(EC)["keys"]] == [first.kid, second.kid]
    clock.advance(minutes=14, seconds=59)
    assert ring.active(EC).kid == first.kid
    clock.advance(seconds=1)
    assert ring.active(EC).kid == second.kid
    assert [each["kid"] for each in ring.jwks(EC)["keys"]] == [second.kid, first.kid]
    clock.advance(hours=9)
    assert states(ring) == ["retired", "active"]
    clock.advance(minutes=5)
    assert states(ring) == ["withdrawn", "active"]
    assert [each["kid"] for each in ring.jwks(EC)["keys"]] == [second.kid]


def test_a_retired_key_outlives_every_token_it_signed():
    lifetime = dt.timedelta(hours=24)
    assert replace(SETTINGS, token_lifetime=lifetime).overlap > lifetime + dt.timedelta(minutes=30)
    assert SETTINGS.overlap >= dt.timedelta(hours=9)
    assert SETTINGS.publish_ahead >= dt.timedelta(minutes=15)


def test_rotating_twice_makes_one_key(ring):
    assert ring.rotate(EC).kid == ring.rotate(EC).kid
    assert states(ring) == ["active", "next"]
    assert states(ring, RSA) == ["active"]


def test_another_worker_knows_at_once(ring, database, clock):
    other = KeyRing(database, clock, SETTINGS)
    second = ring.rotate(EC)
    assert [each["kid"] for each in other.jwks(EC)["keys"]][1] == second.kid
    clock.advance(minutes=15)
    assert other.active(EC).kid == second.kid
    third = ring.revoke(second.kid)
    assert other.active(EC).kid == third.kid
    assert second.kid not in {each["kid"] for each in other.jwks(EC)["keys"]}


def test_revoking_the_active_key_makes_another_at_once(ring):
    first = ring.active(EC)
    second = ring.revoke(first.kid)
    assert second.kid != first.kid
    assert ring.active(EC).kid == second.kid
    assert states(ring) == ["withdrawn", "active"]
    assert ring.states()[0][1].private is None or ring.states()[0][1].algorithm is RSA


def test_revoking_the_active_key_lets_the_next_one_take_over(ring):
    first, second = ring.active(EC), ring.rotate(EC)
    assert ring.revoke(first.kid).kid == second.kid
    assert states(ring) == ["withdrawn", "active"]


def test_revoking_another_key_leaves_the_active_one(ring, clock):
    first = ring.active(EC)
    second = ring.rotate(EC)
    assert ring.revoke(second.kid).kid == first.kid
    assert states(ring) == ["active", "withdrawn"]
    third = ring.rotate(EC)
    clock.advance(minutes=15)
    assert ring.revoke(first.kid).kid == third.kid
    assert states(ring) == ["withdrawn", "withdrawn", "active"]


def test_a_revoked_key_is_never_signed_with_again(ring):
    first = ring.active(EC)
    ring.revoke(first.kid)
    revoked = next(key for _, key in ring.states() if key.kid == first.kid)
    assert refused(revoked.sign, b"{}", {}) == "signing-key.missing"
    assert refused(ring.revoke, "nobody") == "signing-key.unknown"


def test_private_halves_go_when_nothing_is_signed_with_them(ring, database, clock):
    def kept() -> list[str]:
        rows = database.read("SELECT kid FROM signing_keys WHERE algorithm = 'ES256' AND private IS NOT NULL")
        return [row["kid"] for row in rows]

    first, second = ring.active(EC), ring.rotate(EC)
    clock.advance(hours=1)
    third = ring.rotate(EC)
    assert kept() == [first.kid, second.kid, third.kid]  # a clock may be set back by as much
    clock.advance(hours=12)
    fourth = ring.rotate(EC)
    assert kept() == [third.kid, fourth.kid]
    ring.revoke(third.kid)
    assert kept() == [fourth.kid]
    assert KeyRing(database, clock, SETTINGS).active(EC).kid == fourth.kid


def test_revoking_twice_keeps_the_first_time(ring, clock):
    kid = ring.active(EC).kid
    ring.revoke(kid)
    clock.advance(hours=1)
    ring.revoke(kid)
    assert next(key.revoked for _, key in ring.states() if key.kid == kid) == START


def test_an_imported_key_waits_for_its_turn(ring, clock):
    key = rsa.generate_private_key(65537, 3072)
    imported = ring.import_pem(pem(key))
    assert imported.algorithm is RSA
    assert states(ring, RSA) == ["active", "next"]
    clock.advance(minutes=15)
    token = ring.active(RSA).sign(b'{"a":1}', {"typ": "JWT"})
    assert jwt.decode(token, key.public_key(), algorithms=["RS256"]) == {"a": 1}
    assert refused(ring.import_pem, pem(key)) == "signing-key.known"


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "signing-key.malformed"),
        (b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "signing-key.malformed"),
        (pem(ec.generate_private_key(ec.SECP384R1())), "signing-key.kind"),
        (pem(ed25519.Ed25519PrivateKey.generate()), "signing-key.kind"),
        (
            ec.generate_private_key(ec.SECP256R1()).private_bytes(
                Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")
            ),
            "signing-key.malformed",
        ),
    ],
)
def test_what_is_no_key_of_ours_is_not_imported(ring, content, code):
    with pytest.raises(FormatError) as caught:
        ring.import_pem(content)
    assert caught.value.code == code


def test_a_weak_key_is_not_imported(ring):
    assert refused(ring.import_pem, pem(rsa.generate_private_key(65537, 1024))) == "signing-key.kind"


def test_a_key_in_a_file_stays_there(database, clock, tmp_path):
    ring = KeyRing(database, clock, with_file(key_file(tmp_path)))
    key = ring.active(EC)
    assert key.file == str(tmp_path / "key.pem")
    assert database.read("SELECT private FROM signing_keys WHERE kid = ?", (key.kid,))[0]["private"] is None


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o700 | 0o001])
def test_a_file_that_others_can_read_is_refused(database, clock, tmp_path, mode):
    assert refused(KeyRing, database, clock, with_file(key_file(tmp_path, mode=mode))) == "signing-key.exposed"


def test_what_is_no_file_is_refused(database, clock, tmp_path):
    tmp_path.chmod(0o700)
    assert refused(KeyRing, database, clock, with_file(tmp_path)) == "signing-key.exposed"


def test_a_key_for_another_algorithm_is_refused(database, clock, tmp_path):
    path = key_file(tmp_path, pem(rsa.generate_private_key(65537, 2048)))
    assert refused(KeyRing, database, clock, with_file(path)) == "signing-key.kind"


def test_a_file_that_is_gone_is_never_replaced_by_a_new_key(database, clock, tmp_path):
    path = key_file(tmp_path)
    KeyRing(database, clock, with_file(path))
    path.unlink()
    for settings in (with_file(path), SETTINGS):  # whether or not the setting is gone too
        assert refused(KeyRing, database, clock, settings) == "signing-key.missing"
    assert len(database.read("SELECT kid FROM signing_keys WHERE algorithm = 'ES256'")) == 1


def test_another_key_in_the_file_signs_at_once_where_the_old_one_is_gone(database, clock, tmp_path):
    first = KeyRing(database, clock, with_file(key_file(tmp_path))).active(EC)
    ring = KeyRing(database, clock, with_file(key_file(tmp_path)))
    assert ring.active(EC).kid != first.kid
    assert [each["kid"] for each in ring.jwks(EC)["keys"]] == [ring.active(EC).kid, first.kid]


def test_a_key_in_a_file_waits_for_its_turn_where_another_can_sign(ring, database, clock, tmp_path):
    first = ring.active(EC)
    settings = with_file(key_file(tmp_path))
    assert KeyRing(database, clock, settings).active(EC).kid == first.kid
    clock.advance(minutes=15)
    assert KeyRing(database, clock, settings).active(EC).file is not None


def test_a_key_may_move_from_the_database_into_a_file(ring, database, clock, tmp_path):
    key = ring.active(EC)
    content = database.read("SELECT private FROM signing_keys WHERE kid = ?", (key.kid,))[0]["private"]
    moved = KeyRing(database, clock, with_file(key_file(tmp_path, content)))
    assert moved.active(EC).kid == key.kid
    assert database.read("SELECT private FROM signing_keys WHERE kid = ?", (key.kid,))[0]["private"] is None


def test_a_revoked_key_does_not_come_back_from_its_file(database, clock, tmp_path):
    settings = with_file(key_file(tmp_path))
    ring = KeyRing(database, clock, settings)
    ring.revoke(ring.active(EC).kid)
    with pytest.raises(UsageError) as caught:
        KeyRing(database, clock, settings)
    assert caught.value.code == "signing-key.revoked"


@pytest.mark.usefixtures("ring")
def test_the_database_of_a_service_for_another_root_is_refused(database, clock):
    settings = replace(SETTINGS, simulated=False)
    assert refused(KeyRing, database, clock, settings) == "signing-key.other-root"


def test_a_database_where_every_key_was_taken_away_is_refused(ring, database):
    with database.transaction() as connection:
        connection.execute("UPDATE signing_keys SET revoked = 1 WHERE algorithm = 'ES256'")
        connection.execute("UPDATE signing_key_changes SET number = number + 1")
    with pytest.raises(PlatformError) as caught:
        ring.active(EC)
    assert caught.value.code == "signing-key.missing"


def test_a_clock_that_was_set_back_does_not_stop_the_service(ring, clock):
    key = ring.active(EC)
    clock.advance(days=-1)
    assert ring.active(EC).kid == key.kid


def test_tools_find_the_settings_in_the_database(database, clock, tmp_path):
    settings = replace(with_file(key_file(tmp_path)), rsa_bits=3072, publish_ahead=dt.timedelta(hours=1))
    ring = KeyRing(database, clock, settings)
    existing = KeyRing.existing(database, clock)
    assert existing.settings == settings
    assert existing.active(RSA).kid == ring.active(RSA).kid


def test_tools_show_keys_whose_file_is_gone(database, clock, tmp_path):
    path = key_file(tmp_path)
    kid = KeyRing(database, clock, with_file(path)).active(EC).kid
    path.unlink()
    existing = KeyRing.existing(database, clock)
    assert kid in {key.kid for _, key in existing.states()}
    assert existing.revoke(kid).kid != kid


def test_tools_do_not_begin_a_service(database, clock):
    with pytest.raises(PlatformError) as caught:
        KeyRing.existing(database, clock)
    assert caught.value.code == "signing-key.missing"
    assert not database.read("SELECT kid FROM signing_keys")


def test_no_key_shows_in_a_representation(ring, database):
    key = ring.active(EC)
    private = database.read("SELECT private FROM signing_keys WHERE kid = ?", (key.kid,))[0]["private"]
    assert private.decode().splitlines()[1][:20] not in repr(key)
    assert "PRIVATE" not in repr(key)
    assert State.ACTIVE in {state for state, _ in ring.states()}


@pytest.mark.usefixtures("ring")
def test_the_database_is_for_its_owner_alone(database):
    assert os.stat(database.path).st_mode & 0o077 == 0  # noqa: PTH116 - the mode as the system sees it
