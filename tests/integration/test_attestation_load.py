# SPDX-License-Identifier: Apache-2.0
"""A thousand clients at once, a worker that is killed, an end under load: all are answered, and nothing is lost."""

import asyncio
import itertools
import json
import os
import signal
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest

from kubenclave.dcap import merkle
from kubenclave.dcap.binding import report_data_over, runtime_data
from tests import serve_command, simulated_platform
from tests.attestation_service import base64url, claims

CLIENTS = 1000
ISSUER = ("--issuer", "https://attest.example/simulated")
ENCLAVE = simulated_platform.Platform.ready()
QUOTE = base64url(ENCLAVE.quote())
BODY = {"quote": QUOTE, "token": "azure"}

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Answer:
    """An answer to one request on a connection of its own; ``status`` is 0 where none came."""

    status: int
    headers: dict[str, str]
    document: Any


NONE = Answer(0, {}, None)


async def ask(url: str, path: str, document: Any) -> Answer:
    """Post a document; whatever happens to the connection before the answer is whole is no answer."""
    parts, body = urlsplit(url), json.dumps(document).encode()
    head = f"POST {parts.path}{path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    try:
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    except OSError:
        return NONE
    try:
        writer.write(head.encode() + body)
        raw = await reader.read(-1)
    except OSError:
        return NONE
    finally:
        writer.close()
    top, _, rest = raw.partition(b"\r\n\r\n")
    first, *lines = top.decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    if len(rest) != int(headers.get("content-length", "-1")):
        return NONE
    return Answer(int(first.split()[1]), headers, json.loads(rest))


async def until_done(url: str, document: Any, path: str = "/v1/attest") -> list[Answer]:
    """Ask as a client should: again after what ``Retry-After`` says, and at once where the connection was cut."""
    answers = [await ask(url, path, document)]
    while answers[-1].status in {0, 429, 503}:
        await asyncio.sleep(float(answers[-1].headers.get("retry-after", "0.1")))
        answers.append(await ask(url, path, document))
    return answers


async def crowd(number: int, work: Callable[[int], Awaitable[Any]]) -> list[Any]:
    return list(await asyncio.gather(*(work(each) for each in range(number))))


@pytest.fixture
def start(tmp_path: Path) -> Iterator[serve_command.Start]:
    with serve_command.starting(tmp_path, serve_command.save_platform(tmp_path / "platform")) as started:
        yield lambda: started("--open", "--with-collateral", "--workers", 2, *ISSUER)


@dataclass(frozen=True)
class Log:
    """The log of a service, read and found to be whole: the entries are those that the head is over."""

    size: int
    root: bytes
    jtis: list[str]

    @classmethod
    def of(cls, url: str) -> "Log":
        with httpx2.Client() as client:
            head = client.get(f"{url}/v1/log/head").json()
            entries: list[str] = []
            while len(entries) < head["size"]:
                page = client.get(f"{url}/v1/log/entries?start={len(entries)}&end={head['size']}").json()["entries"]
                assert page
                entries += page
        tree = merkle.Frontier()
        for entry in entries:
            tree.append(merkle.leaf_hash(entry.encode()))
        assert tree.root().hex() == head["root"]
        return cls(head["size"], bytes.fromhex(head["root"]), [json.loads(entry)["jti"] for entry in entries])

    def follows(self, earlier: "Log", url: str) -> None:
        query = f"first={earlier.size}&second={self.size}"
        proof = httpx2.get(f"{url}/v1/log/proof/consistency?{query}").json()["proof"]
        merkle.check_consistency(
            earlier.size, earlier.root, self.size, self.root, [bytes.fromhex(each) for each in proof]
        )

    def holds(self, answers: list[Answer]) -> None:
        """Every token that somebody has is in here, once, where its receipt says."""
        for answer in answers:
            assert self.jtis[answer.document["receipt"]["index"]] == claims(answer.document["token"])["jti"]
        assert len(set(self.jtis)) == len(self.jtis)


def test_a_thousand_clients_at_once(start: serve_command.Start):
    url = start().url
    assert asyncio.run(ask(url, "/v1/attest", BODY)).status == 200
    before = Log.of(url)
    histories = asyncio.run(crowd(CLIENTS, lambda _: until_done(url, BODY)))
    firsts = Counter(history[0].status for history in histories)
    assert set(firsts) <= {200, 429, 503}, firsts  # nobody's connection was cut
    refused = [answer for history in histories for answer in history[:-1]]
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
    assert {answer.document["code"] for answer in refused} <= {"limits.busy"}
    answers = [history[-1] for history in histories]
    assert Counter(answer.status for answer in answers) == {200: CLIENTS}
    after = Log.of(url)
    assert after.size == before.size + CLIENTS  # and those who were refused left no trace
    after.holds(answers)
    after.follows(before, url)


def test_each_challenge_counts_once_whichever_workers_hear_of_it(start: serve_command.Start):
    url = start().url

    async def race(_: int) -> list[Answer]:
        (*_refused, issued) = await until_done(url, None, "/v1/challenge")
        data = runtime_data(issued.document["nonce"])
        held = {"data": base64url(data)}
        body = {
            "quote": base64url(ENCLAVE.quote(report_data_over(data))),
            "runtime_data": held,
            "challenge": issued.document["nonce"],
            "token": "azure",
        }
        return [history[-1] for history in await crowd(8, lambda _: until_done(url, body))]

    races = asyncio.run(crowd(40, race))
    for answers in races:
        assert sorted(answer.status for answer in answers) == [200] + [422] * 7
        assert {answer.document["code"] for answer in answers if answer.status == 422} == {"challenge.used"}
    good = [answer for answers in races for answer in answers if answer.status == 200]
    assert all(answer.document["fresh"] is True for answer in good)
    log = Log.of(url)
    assert log.size == len(good)
    log.holds(good)


def test_a_worker_that_is_killed_takes_no_entry_with_it(start: serve_command.Start):
    served = start()
    done = itertools.count()

    async def work(_: int) -> list[Answer]:
        history = await until_done(served.url, BODY)
        if next(done) == 100:
            os.kill(served.workers()[0], signal.SIGKILL)
        return history

    histories = asyncio.run(crowd(600, work))
    answers = [history[-1] for history in histories]
    assert Counter(answer.status for answer in answers) == {200: 600}
    log = Log.of(served.url)
    log.holds(answers)
    cut = sum(answer.status == 0 for history in histories for answer in history)
    assert 600 <= log.size <= 600 + cut  # of a request that was cut off the entry may be there, and no token
    assert "worker.ended" in {each["event"] for each in served.events()}


def test_an_end_under_load_loses_nothing(start: serve_command.Start):
    served = start()
    done = itertools.count()

    async def work(_: int) -> list[Answer]:
        answers: list[Answer] = []
        while not answers or answers[-1].status != 0:
            answers.append(await ask(served.url, "/v1/attest", BODY))
            if next(done) == 200:
                served.process.send_signal(signal.SIGTERM)
        return answers

    histories = asyncio.run(crowd(100, work))
    assert served.end() == 0
    answers = [answer for history in histories for answer in history]
    good = [answer for answer in answers if answer.status == 200]
    assert len(good) >= 200
    assert {answer.status for answer in answers} <= {0, 200, 503}
    log = Log.of(start().url)
    log.holds(good)
    assert log.size == len(good)  # each entry that was made was answered as well
