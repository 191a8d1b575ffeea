# SPDX-License-Identifier: Apache-2.0
"""Worker processes that start at once share one key each, and follow a rotation without being told."""

import datetime as dt
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jwt
import pytest

from kubenclave.services.attestation.keys.store import Algorithm, KeyRing, KeySettings, State
from kubenclave.services.database import Database

URL = "https://attest.example/simulated"
WORKER = """
import datetime as dt, sys
from pathlib import Path
from kubenclave.services.attestation.keys.store import Algorithm, KeyRing, KeySettings
from kubenclave.services.database import Database
from kubenclave import log

log.configure("worker")
database = Database(Path(sys.argv[1]))
ring = KeyRing(database, lambda: dt.datetime.now(dt.UTC), KeySettings(
    issuer_url=sys.argv[2], simulated=True, publish_ahead=dt.timedelta(0)))
for line in sys.stdin:
    key = ring.active(Algorithm(line.strip()))
    print(key.sign(b"{}", {"typ": "JWT"}), flush=True)
database.close()
"""


class Worker:
    """A process that signs when it is asked to."""

    def __init__(self, path: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", WORKER, str(path), URL],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def sign(self, algorithm: Algorithm) -> str:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(algorithm.value, file=self.process.stdin, flush=True)
        return self.process.stdout.readline().strip()

    def kid(self, algorithm: Algorithm) -> str:
        return str(jwt.get_unverified_header(self.sign(algorithm))["kid"])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "attestation.db"


@pytest.fixture
def workers(path):
    started = [Worker(path) for _ in range(4)]
    yield started
    for worker in started:
        worker.process.communicate()
        assert worker.process.returncode == 0


def test_workers_make_one_key_and_follow_every_change(path, workers):
    with ThreadPoolExecutor() as pool:
        for algorithm in Algorithm:
            assert len(set(pool.map(lambda worker: worker.kid(algorithm), workers))) == 1  # noqa: B023 - used at once
    database = Database(path)
    try:
        ring = KeyRing.existing(database, lambda: dt.datetime.now(dt.UTC))
        assert [state for state, _ in ring.states()] == [State.ACTIVE] * 2
        second = ring.rotate(Algorithm.ES256)
        assert {worker.kid(Algorithm.ES256) for worker in workers} == {second.kid}
        third = ring.revoke(second.kid)
        assert {worker.kid(Algorithm.ES256) for worker in workers} == {third.kid}
        key = jwt.PyJWKSet.from_dict(ring.jwks(Algorithm.ES256))[third.kid]
        assert jwt.decode(workers[0].sign(Algorithm.ES256), key, algorithms=["ES256"]) == {}
    finally:
        database.close()


def test_settings_are_those_of_the_service(path, workers):
    workers[0].kid(Algorithm.RS256)
    database = Database(path)
    expected = KeySettings(issuer_url=URL, simulated=True, publish_ahead=dt.timedelta(0))
    assert KeyRing.existing(database, lambda: dt.datetime.now(dt.UTC)).settings == expected
    database.close()
