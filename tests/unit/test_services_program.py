# SPDX-License-Identifier: Apache-2.0
"""What services are put together from: keys that get successors, errors in the shape of the API that was asked."""

import asyncio
import datetime as dt
import json
from contextlib import closing

import httpx2
import pytest
from starlette.requests import Request

from kubenclave.dcap.anchor import intel_root
from kubenclave.errors import KubenclaveError, UnreachableError
from kubenclave.services.attestation.evidence_store import EvidenceLimits, EvidenceStore, StoredEvidence
from kubenclave.services.attestation.keys.store import Algorithm, KeyRing, KeySettings
from kubenclave.services.attestation.settings import Settings
from kubenclave.services.collateral.cache import CacheSettings
from kubenclave.services.database import Database
from kubenclave.services.figures import count_verdicts
from kubenclave.services.program import (
    CollateralOptions,
    attestation_parts,
    collateral_parts,
    rotate_if_due,
)
from kubenclave.services.web.credentials import Role
from kubenclave.services.web.limits import Rate, TooFastError
from kubenclave.wire.metrics import Metrics
from tests import evidence, simulated_platform
from tests.attestation_service import attestation, base64url
from tests.clock import Clock
from tests.waiting import eventually_async

__all__ = ["attestation"]  # a fixture

OFFLINE = CollateralOptions(sources=list, cache=CacheSettings())
DAY = dt.timedelta(days=1)


@pytest.fixture
def clock():
    return Clock(simulated_platform.NOW)


@pytest.fixture
def keyring(tmp_path, clock):
    database = Database(tmp_path / "keys.db")
    yield KeyRing(database, clock, KeySettings(issuer_url="https://a.example", simulated=False))
    database.close()


def test_a_key_gets_one_successor_when_it_is_old_enough(keyring, clock):
    first = keyring.active(Algorithm.ES256)
    assert not rotate_if_due(keyring, Algorithm.ES256, 30 * DAY, clock())
    clock.advance(days=30)
    assert rotate_if_due(keyring, Algorithm.ES256, 30 * DAY, clock())
    assert rotate_if_due(keyring, Algorithm.ES256, 30 * DAY, clock()), "still due, until the next one signs"
    assert len(keyring.published(Algorithm.ES256)) == 2
    assert keyring.active(Algorithm.ES256).kid == first.kid, "published before it signs"
    clock.advance(minutes=20)
    assert keyring.active(Algorithm.ES256).kid != first.kid
    assert not rotate_if_due(keyring, Algorithm.ES256, 30 * DAY, clock())


def served(parts, *requests):
    """Answers of an application to (method, path), one after the other."""

    async def run():
        transport = httpx2.ASGITransport(app=parts.app, raise_app_exceptions=False)
        async with httpx2.AsyncClient(transport=transport, base_url="http://test") as client:
            answers = [await client.request(method, path) for method, path in requests]
        await parts.close()
        return answers

    return asyncio.run(run())


def request(path):
    scope = {"type": "http", "method": "GET", "path": path, "headers": [], "query_string": b"", "server": ("a", 80)}
    return Request(scope)


def test_a_collateral_service_answers_for_what_it_does_not_know_in_one_sentence(tmp_path):
    parts = collateral_parts(tmp_path, intel_root(), OFFLINE, rate=Rate())
    unknown, method, item = served(
        parts, ("GET", "/nothing"), ("DELETE", "/sgx/certification/v4/tcb"), ("GET", "/sgx/certification/v4/rootcacrl")
    )
    assert (unknown.status_code, unknown.headers["Kubenclave-Error-Code"]) == (404, "request.no-route")
    assert (method.status_code, method.headers["Kubenclave-Error-Code"]) == (405, "request.method")
    assert item.headers["Kubenclave-Error-Code"]
    assert all(each.text.count("\n") == 1 for each in (unknown, method, item))


@pytest.mark.parametrize("path", ["/sgx/certification/v4/rootcacrl/", "/v1/collateral/status/"])
def test_no_route_redirects_to_where_a_host_header_says(tmp_path, path):
    alone = collateral_parts(tmp_path / "alone", intel_root(), OFFLINE, rate=Rate())
    settings = Settings(issuer="https://a.example", state=tmp_path / "both")
    both = attestation_parts(settings, OFFLINE, Metrics(), rate=Rate(), serve_collateral=True, rotate_keys=DAY)
    for parts in (alone, both):
        assert served(parts, ("GET", path))[0].status_code == 404


def test_both_services_share_routes_credentials_and_figures(tmp_path):
    settings = Settings(issuer="https://a.example", state=tmp_path)
    metrics = Metrics()
    parts = attestation_parts(settings, OFFLINE, metrics, rate=Rate(), serve_collateral=True, rotate_keys=DAY)
    told = parts.figures().decode()
    queue, attest, keys = served(
        parts, ("GET", "/sgx/certification/v4/platforms"), ("POST", "/v1/attest"), ("GET", "/v1/certs")
    )
    assert [queue.status_code, attest.status_code, keys.status_code] == [401, 401, 200]
    assert "kubenclave_attestation_log_entries 0" in told
    assert "kubenclave_collateral_platforms_waiting" in told
    assert b"kubenclave_attestation_verdicts_total" in metrics.render()


def test_the_issuers_url_names_the_collateral_service_as_well(tmp_path):
    settings = Settings(issuer="https://a.example/team/sgx", state=tmp_path)
    parts = attestation_parts(settings, OFFLINE, Metrics(), rate=Rate(), serve_collateral=True)
    paths = ("/v1/collateral/status", "/sgx/certification/v4/platforms", "/v1/certs")
    below, at_root = [[("GET", f"{base}{path}") for path in paths] for base in ("/team/sgx", "")]
    answers = [each.status_code for each in served(parts, *below, *at_root)]
    assert answers == [200, 401, 200, 200, 401, 404]
    refused = parts.answer(request("/team/sgx/sgx/certification/v4/tcb"), TooFastError(3))
    assert refused.status_code == 503


def test_alone_the_attestation_service_serves_no_collateral(tmp_path):
    settings = Settings(issuer="https://a.example", state=tmp_path)
    parts = attestation_parts(settings, OFFLINE, Metrics(), rate=Rate(), serve_collateral=False)
    assert served(parts, ("GET", "/sgx/certification/v4/rootcacrl"))[0].status_code == 404


@pytest.mark.parametrize(
    ("path", "status", "where"),
    [
        ("/sgx/certification/v4/tcb", 503, None),
        ("/tdx/certification/v4/tcb", 503, None),
        ("/attest/SgxEnclave", 429, ("error", "code")),
        ("/v1/attest", 429, ("code",)),
    ],
)
def test_what_is_refused_in_front_of_the_routes_has_the_shape_of_the_api(tmp_path, path, status, where):
    settings = Settings(issuer="https://a.example", state=tmp_path)
    parts = attestation_parts(settings, OFFLINE, Metrics(), rate=Rate(), serve_collateral=True)
    answer = parts.answer(request(path), TooFastError(3))
    asyncio.run(parts.close())
    assert (answer.status_code, answer.headers["Retry-After"]) == (status, "3")
    if where is not None:
        found = json.loads(bytes(answer.body))
        for key in where:
            found = found[key]
        assert isinstance(found, str)


def test_background_work_goes_on_until_it_is_ended(tmp_path):
    settings = Settings(issuer="https://a.example", state=tmp_path)
    parts = attestation_parts(settings, OFFLINE, Metrics(), rate=Rate(), serve_collateral=False, rotate_keys=DAY)

    async def run():
        task = asyncio.create_task(parts.background())
        await asyncio.sleep(0.05)
        assert not task.done()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await parts.close()

    asyncio.run(run())


def test_evidence_goes_when_it_is_too_old_though_none_comes_after_it(tmp_path):
    settings = Settings(issuer="https://a.example", state=tmp_path, keep_evidence=5)
    given = evidence.make()
    piece = StoredEvidence(tee_type="SgxEnclave", quote=given.quote, collateral=given.collateral, at=evidence.NOW)
    with closing(Database(tmp_path / "attestation.db")) as database:
        EvidenceStore(database, lambda: evidence.NOW, EvidenceLimits(count=5)).keep(piece)
    parts = attestation_parts(settings, OFFLINE, Metrics(), rate=Rate(), serve_collateral=False)

    async def run():
        task = asyncio.create_task(parts.background())
        with closing(Database(tmp_path / "attestation.db")) as database:
            await eventually_async(lambda: not database.read("SELECT 1 FROM kept_evidence"))
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await parts.close()

    asyncio.run(run())


def test_a_state_that_cannot_be_used_leaves_nothing_open(tmp_path):
    (tmp_path / "attestation.db").write_text("no database at all, but long enough to be seen as none" * 9)
    settings = Settings(issuer="https://a.example", state=tmp_path)
    with pytest.raises(KubenclaveError):
        attestation_parts(settings, OFFLINE, Metrics(), rate=Rate(), serve_collateral=False)


class Away:
    """A provider that has no collateral."""

    async def collateral(self, *_of):
        raise UnreachableError("nobody there", code="source.unreachable")


def test_verdicts_are_counted_by_outcome(attestation):
    metrics = Metrics()
    count_verdicts(attestation.service, metrics)
    good, changed = attestation.quote(), bytearray(attestation.quote())
    changed[400] ^= 1

    def verify(content):
        attestation.post("/v1/verify", {"quote": base64url(bytes(content))}, headers=attestation.bearer(Role.ATTEST))

    verify(good)
    verify(changed)
    verify(attestation.quote(debug=True))
    attestation.service.judge.provider = Away()
    verify(good)
    outcomes = {
        line.partition('outcome="')[2].partition('"')[0]: int(line.rpartition(" ")[2])
        for line in metrics.render().decode().splitlines()
        if not line.startswith("#")
    }
    assert outcomes["accepted"] == 1
    assert outcomes["not-genuine"] >= 1
    assert outcomes["not-judged"] == 1
    assert sum(outcomes.values()) == 4
