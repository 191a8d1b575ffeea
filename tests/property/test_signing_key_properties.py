# SPDX-License-Identifier: Apache-2.0
"""Whatever operators do with signing keys, in whatever order and whenever: tokens of good keys stay good."""

import datetime as dt
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given, settings
from hypothesis import strategies as st

from kubenclave.services.attestation.keys import keyfiles
from kubenclave.services.attestation.keys.store import Algorithm, KeyRing, KeySettings, State
from kubenclave.services.database import Database

EC = Algorithm.ES256
SETTINGS = KeySettings(issuer_url="https://attest.example/simulated", simulated=True)
# Making RSA keys takes its time; one does for all, since each example has a database of its own.
RSA_KEY = rsa.generate_private_key(65537, 2048)
MINUTES = st.sampled_from([0, 1, 14, 15, 16, 60, 300, 479, 480, 545, 600])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("wait"), MINUTES),
        st.tuples(st.just("rotate"), st.just(0)),
        st.tuples(st.just("import"), st.just(0)),
        st.tuples(st.just("restart"), st.just(0)),
        st.tuples(st.just("revoke"), st.integers(0, 9)),
    ),
    max_size=12,
)


class World:
    """A clock, two workers, and every token that was signed."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.time = dt.datetime(2026, 3, 5, 12, 0, tzinfo=dt.UTC)
        self.workers = [self.worker(), self.worker()]
        self.signed: list[tuple[dt.datetime, str, str]] = []
        self.published_since: dict[str, dt.datetime] = {}
        self.revoked: set[str] = set()
        self.emergencies = 0

    def worker(self) -> KeyRing:
        return KeyRing(self.database, lambda: self.time, SETTINGS)

    def take(self, step: str, argument: int) -> None:
        ring = self.workers[0]
        if step == "wait":
            self.time += dt.timedelta(minutes=argument)
        elif step == "rotate":
            ring.rotate(EC)
        elif step == "import":
            ring.import_pem(keyfiles.to_pem(ec.generate_private_key(ec.SECP256R1())))
        elif step == "restart":
            self.workers = [self.worker(), self.workers[0]]
        else:
            kids = [key.kid for _, key in ring.states() if key.algorithm is EC]
            kid = kids[argument % len(kids)]
            self.emergencies += kid == ring.active(EC).kid
            ring.revoke(kid)
            self.revoked.add(kid)

    def check(self) -> None:
        first, second = self.workers
        active = first.active(EC)
        assert active.kid == second.active(EC).kid, "workers sign with the same key"
        states = [state for state, key in first.states() if key.algorithm is EC]
        assert states.count(State.ACTIVE) == 1
        published = {key["kid"]: key for key in second.jwks(EC)["keys"]}
        assert active.kid in published
        assert not self.revoked & published.keys(), "a revoked key never comes back"
        for kid in published:
            self.published_since.setdefault(kid, self.time)
        if not self.emergencies and self.signed and active.kid != self.signed[0][1]:
            assert self.time - self.published_since[active.kid] >= SETTINGS.publish_ahead
        token = active.sign(b"{}", {"typ": "JWT"})
        self.signed.append((self.time, active.kid, token))
        for moment, kid, one in self.signed:
            if kid not in self.revoked and self.time - moment <= SETTINGS.token_lifetime:
                jwt.decode(one, jwt.PyJWK(published[kid]), algorithms=["ES256"])


@contextmanager
def opened() -> Iterator[Database]:
    with tempfile.TemporaryDirectory() as folder:
        database = Database(Path(folder) / "attestation.db")
        try:
            yield database
        finally:
            database.close()


def generate(algorithm: str, _bits: int) -> rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey:
    return RSA_KEY if algorithm == Algorithm.RS256 else ec.generate_private_key(ec.SECP256R1())


@settings(max_examples=15)
@given(STEPS)
def test_tokens_of_good_keys_stay_good(steps: list[tuple[str, int]]) -> None:
    with opened() as database, mock.patch.object(keyfiles, "generate", generate):
        world = World(database)
        world.check()
        for step, argument in steps:
            world.take(step, argument)
            world.check()
