# SPDX-License-Identifier: Apache-2.0
"""One replica over real HTTPS, with the API server's part played by a dict."""

import asyncio
import base64
import datetime as dt
import os
import signal
import socket
import ssl
from contextlib import asynccontextmanager, suppress

import httpx2
import pytest
from click.testing import CliRunner
from prometheus_client.parser import text_string_to_metric_families
from structlog.testing import capture_logs

from kubenclave.cli.cluster.webhook import command
from kubenclave.cluster.admission import Site
from kubenclave.cluster.api import MUTATING_WEBHOOKS, SECRETS
from kubenclave.cluster.webhook import server
from kubenclave.cluster.webhook.certificates import Lifetimes, step
from kubenclave.cluster.webhook.daemon import Settings, serve
from kubenclave.cluster.webhook.keeper import Place
from kubenclave.errors import PlatformError
from tests.asynchronous import in_a_loop
from tests.fake_cluster import FakeCluster
from tests.unit.test_webhook_review import AZURE, pod, review

PLACE = Place("kubenclave")
NAME = PLACE.dns_names[0]


class Replica:
    """One replica that runs, and clients of it."""

    def __init__(self):
        self.api = FakeCluster()
        self.api.put(SECRETS, {"metadata": {"namespace": "kubenclave", "name": PLACE.secret}})
        webhooks = [{"name": "w", "clientConfig": {}}]
        self.api.put(MUTATING_WEBHOOKS, {"metadata": {"name": PLACE.configuration}, "webhooks": webhooks})
        self.port, self.health_port = free_ports(2)
        settings = Settings(Site(), PLACE, self.port, self.health_port, Lifetimes(), drain=0.5)
        self.running = asyncio.create_task(serve(self.api, settings))

    def client(self) -> httpx2.AsyncClient:
        """A client that trusts what the configuration says, as the API server does."""
        configuration = self.api.objects[MUTATING_WEBHOOKS.path(name=PLACE.configuration)]
        bundle = base64.b64decode(configuration["webhooks"][0]["clientConfig"]["caBundle"]).decode()
        context = ssl.create_default_context(cadata=bundle)
        return httpx2.AsyncClient(base_url=f"https://127.0.0.1:{self.port}", verify=context, trust_env=False)

    async def post(self, client, body, path="/mutate"):
        return await client.post(path, content=body, extensions={"sni_hostname": NAME})

    async def health(self, path):
        async with httpx2.AsyncClient(trust_env=False) as client:
            return await client.get(f"http://127.0.0.1:{self.health_port}{path}")

    async def ready(self):
        async def serves():
            with suppress(httpx2.TransportError):
                return (await self.health("/readyz")).status_code == 200

        await until(serves)


async def until(check):
    async with asyncio.timeout(20):
        while not await check():  # noqa: ASYNC110 - it says so when asked
            await asyncio.sleep(0.02)


def free_ports(count):
    held = [socket.create_server(("", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in held]
    for each in held:
        each.close()
    return ports


@asynccontextmanager
async def replica():
    one = Replica()
    await one.ready()
    yield one
    if not one.running.done():
        os.kill(os.getpid(), signal.SIGTERM)
    async with asyncio.timeout(20):
        await one.running


@in_a_loop
async def test_pods_are_completed_over_https():
    async with replica() as one, one.client() as client:
        for _ in range(2):
            answer = await one.post(client, review(pod({AZURE: "10"})))
            assert answer.status_code == 200
            told = answer.json()["response"]
            assert told["allowed"]
            assert told["patchType"] == "JSONPatch"
        refused = await one.post(client, review(pod({AZURE: "0"})))
        assert refused.json()["response"]["allowed"] is False
        await one.post(client, review(pod({AZURE: "0"}), dryRun=True))
        text = (await one.health("/metrics")).text
        assert (await one.health("/healthz")).text == "ok\n"
    samples = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert samples["kubenclave_admission_reviews_total", "changed"] == 2
    assert samples["kubenclave_admission_reviews_total", "refused"] == 1
    assert samples["kubenclave_admission_refusals_total", "admission.epc-amount"] == 1
    assert samples["kubenclave_webhook_certificate_expiry_timestamp_seconds", "leaf"] > 0


@in_a_loop
async def test_what_is_no_review_is_refused_and_the_server_lives():
    async with replica() as one, one.client() as client:
        with capture_logs() as logs:
            assert (await one.post(client, b"{")).status_code == 400
            assert (await one.post(client, b"x" * (server.MAX_BODY + 1))).status_code == 413
            assert (await one.post(client, b"{}", path="/other")).status_code == 404
            assert (await client.get("/mutate", extensions={"sni_hostname": NAME})).status_code == 405
        assert {entry["event"] for entry in logs} == {"review.not-taken"}
        assert {entry["code"] for entry in logs} == {"review.malformed", "serving.size"}
        assert response_of(await one.post(client, review(pod())))["allowed"]


def response_of(answer):
    assert answer.status_code == 200
    return answer.json()["response"]


@in_a_loop
async def test_at_the_end_it_still_answers_and_asks_for_other_connections():
    async with replica() as one, one.client() as client:
        first = await one.post(client, review(pod()))
        assert "close" not in first.headers.get("connection", "")
        os.kill(os.getpid(), signal.SIGTERM)

        async def draining():
            return (await one.health("/readyz")).status_code == 503

        await until(draining)
        last = await one.post(client, review(pod()))
        assert response_of(last)["allowed"]
        assert last.headers["connection"] == "close"


@in_a_loop
async def test_new_connections_meet_the_new_leaf_and_open_ones_go_on():
    async with replica() as one, one.client() as client:
        await one.post(client, review(pod()))
        secret = await one.api.get(SECRETS, PLACE.secret, namespace="kubenclave")
        now = dt.datetime.now(dt.UTC)
        other = step(None, now, list(PLACE.dns_names), Lifetimes())
        data = {k: base64.b64encode(v).decode() for k, v in other.as_data().items() if v is not None}
        one.api.put(SECRETS, {**secret, "data": data})

        async def renewed():
            return await presented(one.port) == other.leaf.certificate_pem.decode()

        await until(renewed)
        assert response_of(await one.post(client, review(pod())))["allowed"]


async def presented(port):
    return await asyncio.to_thread(ssl.get_server_certificate, ("127.0.0.1", port))


@in_a_loop
async def test_a_port_that_is_taken_is_said():
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PlatformError) as caught:
            await serve(FakeCluster(), Settings(Site(), PLACE, port))
    assert caught.value.code == "serving.port"


def test_grants_are_checked_on_the_command_line():
    result = CliRunner().invoke(command, ["--allow", "nobody"])
    assert result.exit_code == 2
    assert "NAMESPACE/ACCOUNT" in result.output
