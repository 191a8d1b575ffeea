# SPDX-License-Identifier: Apache-2.0
"""What services let anybody take, who may do what over HTTP, and what they tell of it."""

import asyncio
import datetime as dt
import json
from typing import Any

import httpx2
import pytest
import structlog
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

from kubenclave.errors import KubenclaveError
from kubenclave.services.database import Database
from kubenclave.services.web.access import Access
from kubenclave.services.web.credentials import Credentials, Principal, Role
from kubenclave.services.web.guard import CERTIFICATE, Guard
from kubenclave.services.web.limits import Bounds, Buckets, Limits, Rate, TooFastError, client_of, waiting
from kubenclave.services.web.problems import problem
from kubenclave.wire.metrics import Metrics


class Clock:
    def __init__(self):
        self.time = 0.0

    def __call__(self):
        return self.time


async def echo(request):
    return JSONResponse({"bytes": len(await request.body())})


def failed(_request, error):
    return problem(error)


def application(*routes):
    paths = routes or (Route("/echo", echo, methods=["POST"]), Route("/large/echo", echo, methods=["POST"]))
    return Starlette(routes=paths, exception_handlers={KubenclaveError: failed})


def asked(app, *calls, client=("192.0.2.1", 1)):
    """Do the calls one after the other and return their answers."""

    async def run():
        transport = httpx2.ASGITransport(app=app, client=client)
        async with httpx2.AsyncClient(transport=transport, base_url="http://test") as session:
            return [await call(session) for call in calls]

    return asyncio.run(run())


def post(path="/echo", **options):
    return lambda session: session.post(path, **options)


def limited(bounds, clock=None):
    async def app(scope, receive, send):  # the loop exists only then
        await Limits(application(), bounds, clock or Clock())(scope, receive, send)

    return app


def test_a_client_that_goes_away_is_no_fault_of_ours():
    told = []

    async def leaving():
        return {"type": "http.disconnect"}

    async def send(message):
        told.append(message)

    scope: dict[str, Any] = {
        "type": "http",
        "method": "POST",
        "path": "/echo",
        "headers": [],
        "client": None,
        "query_string": b"",
    }
    asyncio.run(limited(Bounds())(scope, leaving, send))
    assert told[0]["status"] == 408


def test_a_bucket_lets_a_burst_through_and_then_its_rate():
    clock = Clock()
    buckets = Buckets(Rate(per_second=2, burst=3), clock)
    for _ in range(3):
        buckets.take("a")
    with pytest.raises(TooFastError) as caught:
        buckets.take("a")
    assert caught.value.retry_after == 1
    buckets.take("b")
    clock.time = 0.5
    buckets.take("a")
    with pytest.raises(TooFastError):
        buckets.take("a")


def test_a_bucket_says_how_long_to_wait():
    buckets = Buckets(Rate(per_second=0.1, burst=1), Clock())
    buckets.take("a")
    with pytest.raises(TooFastError) as caught:
        buckets.take("a")
    assert caught.value.retry_after == 10


def test_no_rate_is_no_bound_and_no_table():
    buckets = Buckets(Rate(), Clock())
    for _ in range(1000):
        buckets.take("a")
    assert len(buckets) == 0


def test_the_table_of_buckets_is_bounded():
    buckets = Buckets(Rate(1, 1), Clock(), size=10)
    for number in range(1000):
        buckets.take(str(number))
    assert len(buckets) == 10


@pytest.mark.parametrize(
    ("client", "seen"),
    [
        (("192.0.2.1", 1), "192.0.2.1"),
        (("::ffff:192.0.2.1", 1), "192.0.2.1"),
        (("2001:db8:1:2:3:4:5:6", 1), "2001:db8:1:2::/64"),
        (("/run/x.sock", 0), ""),
        (None, ""),
    ],
)
def test_who_the_client_is(client, seen):
    assert client_of({"client": client}) == seen


def test_who_asks_too_often_is_told_when_to_come_again():
    clock = Clock()
    limits = Limits(application(), Bounds(rate=Rate(1, 2)), clock)
    answers = asked(limits, post(), post(), post())
    assert [each.status_code for each in answers] == [200, 200, 429]
    assert answers[2].headers["Retry-After"] == "1"
    assert answers[2].json()["code"] == "limits.rate"
    assert asked(limits, post(), client=("192.0.2.2", 1))[0].status_code == 200
    clock.time = 1
    assert asked(limits, post())[0].status_code == 200


async def pieces():
    for _ in range(10):
        yield b"x" * 10


@pytest.mark.parametrize("content", [b"x" * 100, pieces()], ids=["length", "chunks"])
def test_a_long_body_is_refused_by_the_bound_of_its_path(content):
    app = limited(Bounds(body=99, bodies={"/large": 100, "/large/x": 1}))
    (answer,) = asked(app, post(content=content))
    assert (answer.status_code, answer.json()["code"]) == (413, "serving.size")
    (answer,) = asked(app, post("/large/echo", content=b"x" * 100))
    assert answer.json() == {"bytes": 100}


def test_a_slow_body_is_refused():
    assert asyncio.run(_never_whole())["status"] == 408


async def _never_whole():
    messages = [{"type": "http.request", "body": b"x", "more_body": True}]
    sent = []

    async def receive():
        return messages.pop() if messages else await asyncio.Event().wait()

    async def send(message):
        sent.append(message)

    scope: dict[str, Any] = {
        "type": "http",
        "method": "POST",
        "path": "/echo",
        "headers": [],
        "query_string": b"",
        "root_path": "",
    }
    await Limits(application(), Bounds(arriving=0.01), Clock())(scope, receive, send)
    return sent[0]


def test_bodies_together_have_a_bound_and_leave_room_again():
    limits = Limits(application(), Bounds(together=10), Clock())
    first, second, third = asked(limits, post(content=b"x" * 11), post(content=b"x" * 10), post(content=b"x" * 10))
    assert (first.status_code, first.json()["code"], first.headers["Retry-After"]) == (503, "limits.busy", "1")
    assert [second.status_code, third.status_code] == [200, 200]


def test_requests_at_once_have_a_bound_and_an_end():
    async def wait(_request):
        await asyncio.Event().wait()

    limits = Limits(application(Route("/wait", wait)), Bounds(at_once=1, total=0.1), Clock())

    async def run():
        transport = httpx2.ASGITransport(app=limits)
        async with httpx2.AsyncClient(transport=transport, base_url="http://test") as session:
            return await asyncio.gather(session.get("/wait"), session.get("/wait"))

    first, second = asyncio.run(run())
    assert {first.json()["code"], second.json()["code"]} == {"limits.late", "limits.busy"}
    assert {first.status_code, second.status_code} == {503}


def test_requests_that_wait_for_somebody_else_keep_nobody_out():
    """As for a source that hangs: anybody could ask for what is not held until no place was left."""
    end = asyncio.Event()

    async def asks(_request):
        with waiting(), waiting():
            await end.wait()
        return JSONResponse({})

    app = application(Route("/asks", asks), Route("/echo", echo, methods=["POST"]))
    limits = Limits(app, Bounds(at_once=1), Clock())

    async def run():
        transport = httpx2.ASGITransport(app=limits)
        async with httpx2.AsyncClient(transport=transport, base_url="http://test") as session:
            asking = [asyncio.create_task(session.get("/asks")) for _ in range(3)]
            await asyncio.sleep(0.05)
            good = await session.post("/echo", content=b"xx")
            end.set()
            return [good.status_code, *(each.status_code for each in await asyncio.gather(*asking))]

    assert asyncio.run(run()) == [200] * 4
    assert limits._under_way == 0


def test_a_body_with_two_lengths_is_refused_and_ends_the_connection():
    """A proxy in front may see another end of it than we do, and take what an attacker sends for somebody's request."""
    limits = Limits(application(), Bounds(), Clock())
    both = {"Content-Length": "4", "Transfer-Encoding": "chunked"}
    (answer,) = asked(limits, post(content=b"1234", headers=both))
    assert (answer.status_code, answer.json()["code"]) == (400, "serving.framing")
    assert answer.headers["Connection"] == "close"


def test_bodies_that_come_slowly_keep_nobody_out():
    """From one machine and without a credential they took all places: everybody else was told 503."""
    limits = Limits(application(), Bounds(at_once=1, arriving=5.0), Clock())

    async def run():
        end = asyncio.Event()

        async def slow():
            yield b"x"
            await end.wait()

        transport = httpx2.ASGITransport(app=limits)
        async with httpx2.AsyncClient(transport=transport, base_url="http://test") as session:
            waiting = [asyncio.create_task(session.post("/echo", content=slow())) for _ in range(3)]
            await asyncio.sleep(0.05)
            good = await session.post("/echo", content=b"xx")
            end.set()
            return good, await asyncio.gather(*waiting)

    good, late = asyncio.run(run())
    assert good.json() == {"bytes": 2}
    assert [each.json() for each in late] == [{"bytes": 1}] * 3


def test_each_request_has_a_line_a_count_and_an_id():
    metrics = Metrics()
    with structlog.testing.capture_logs() as lines:
        answers = asked(
            Access(application(), metrics),
            post(headers={"Request-ID": "mine-1"}, content=b"secret"),
            post(headers={"Request-ID": "not a plain\tid"}),
            lambda session: session.request("BREW", "/nowhere?token=secret"),
        )
    assert answers[0].headers["Request-ID"] == "mine-1"
    assert len(answers[1].headers["Request-ID"]) == 32
    assert [(each["event"], each["method"], each["route"], each["status"]) for each in lines] == [
        ("request.served", "POST", "/echo", 200),
        ("request.served", "POST", "/echo", 200),
        ("request.served", "other", "none", 404),
    ]
    assert "secret" not in json.dumps(lines)
    assert "client" not in lines[0]
    text = metrics.render().decode()
    assert 'kubenclave_service_requests_total{method="POST",route="/echo",status="200"} 2' in text
    assert "kubenclave_service_requests_under_way 0" in text


def test_addresses_are_logged_where_that_is_wanted():
    with structlog.testing.capture_logs() as lines:
        asked(Access(application(), Metrics(), addresses=True), post())
    assert lines[0]["client"] == "192.0.2.1"


@pytest.fixture
def credentials(tmp_path):
    database = Database(tmp_path / "c.db")
    yield Credentials(database, lambda: dt.datetime(2026, 1, 1, tzinfo=dt.UTC))
    database.close()


def guarded(guard, role):
    async def who(request):
        return JSONResponse({"name": (await guard.require(request, role)).name})

    return application(Route("/who", who))


def get(**headers):
    return lambda session: session.get("/who", headers={key.replace("_", "-"): each for key, each in headers.items()})


def test_a_token_opens_what_its_role_allows(credentials):
    token = credentials.create("ops", [Role.POLICY_ADMIN])
    app = guarded(Guard(credentials), Role.POLICY_ADMIN)
    right, scheme, none, wrong = asked(
        app, get(Authorization=f"bearer {token}"), get(Authorization=f"Basic {token}"), get(), get(Authorization="B")
    )
    assert right.json() == {"name": "ops"}
    assert [scheme.status_code, none.status_code, wrong.status_code] == [401, 401, 401]
    assert none.headers["WWW-Authenticate"].startswith("Bearer")
    (other,) = asked(guarded(Guard(credentials), Role.KEY_ADMIN), get(Authorization=f"Bearer {token}"))
    assert other.status_code == 403


def test_the_headers_of_pccs_are_tokens_for_its_two_roles(credentials):
    token = credentials.create("both", [Role.COLLATERAL_ADMIN, Role.REGISTER, Role.POLICY_ADMIN])
    for role, header in ((Role.COLLATERAL_ADMIN, "admin_token"), (Role.REGISTER, "user_token")):
        (answer,) = asked(guarded(Guard(credentials), role), get(**{header: token}))
        assert answer.json() == {"name": "both"}
    (answer,) = asked(guarded(Guard(credentials), Role.POLICY_ADMIN), get(admin_token=token))
    assert answer.status_code == 401


def test_what_is_open_asks_for_nothing_but_still_refuses_a_wrong_token(credentials):
    app = guarded(Guard(credentials, anybody=[Role.ATTEST]), Role.ATTEST)
    admin = credentials.create("ops", [Role.POLICY_ADMIN])
    nobody, another, wrong = asked(app, get(), get(Authorization=f"Bearer {admin}"), get(Authorization="Bearer wrong"))
    assert nobody.json() == another.json() == {"name": ""}
    assert wrong.status_code == 401


def test_a_credential_may_be_used_so_often(credentials):
    token = credentials.create("ops", [Role.ATTEST])
    guard = Guard(credentials, buckets=Buckets(Rate(1, 1), Clock()))
    answers = asked(guarded(guard, Role.ATTEST), *[get(Authorization=f"Bearer {token}")] * 2)
    assert [each.status_code for each in answers] == [200, 429]


def test_a_client_certificate_counts_where_no_token_comes(credentials, monkeypatch):
    monkeypatch.setattr(
        credentials, "check_certificate", lambda role, der: Principal(f"{role} {der.decode()}", frozenset({role}))
    )
    app = guarded(Guard(credentials), Role.ATTEST)

    async def with_certificate(scope, receive, send):
        scope.setdefault("state", {})[CERTIFICATE] = b"der"
        await app(scope, receive, send)

    assert asked(with_certificate, get())[0].json() == {"name": "attest der"}
