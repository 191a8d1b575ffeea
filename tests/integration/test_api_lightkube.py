# SPDX-License-Identifier: Apache-2.0
"""What is sent to an API server, and what becomes of its answers; a server that says what the test wants."""

import asyncio
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml

from kubenclave.cluster import api as verbs
from kubenclave.cluster.api import NODES, PODS, SECRETS, Kind, Listing, follow
from kubenclave.cluster.api_lightkube import LightkubeApi
from kubenclave.errors import ClusterError, UnreachableError, UsageError


class Server:
    """Answers with ``answers`` in turn, (status, body); keeps what was asked."""

    def __init__(self):
        self.answers: list[Any] = []
        self.asked: list[Any] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def _answer(self):
                length = int(self.headers.get("Content-Length", 0))
                body = json.loads(self.rfile.read(length)) if length else None
                split = urlsplit(self.path)
                params = {key: value[0] for key, value in parse_qs(split.query).items()}
                outer.asked.append((self.command, split.path, params, body, dict(self.headers)))
                status, answer = outer.answers.pop(0)
                data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = _answer  # noqa: N815 - the library's names
            do_POST = do_PATCH = do_DELETE = _answer  # noqa: N815

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.port = self._server.server_address[1]

    def close(self):
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def server():
    made = Server()
    yield made
    made.close()


def kubeconfig(path, port, **more):
    config = {
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u", "namespace": "team"}}],
        "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
        "users": [{"name": "u", "user": {"token": "secret-token"}}],
        **more,
    }
    path.write_text(yaml.safe_dump(config))
    return str(path)


@pytest.fixture
def ask(server, tmp_path):
    """Call a verb of a client of the server."""
    config = kubeconfig(tmp_path / "config", server.port)

    def call(function):
        async def run():
            async with LightkubeApi.connect(kubeconfig=config) as api:
                return await function(api)

        return asyncio.run(run())

    return call


def test_verbs_are_requests(server, ask):
    server.answers = [(200, {"n": n}) for n in range(9)]
    ask(lambda api: api.get(PODS, "p", namespace="team"))
    ask(lambda api: api.get(NODES, "n", subresource="status"))
    ask(lambda api: api.create(PODS, {"a": 1}, namespace="team", dry_run=True))
    ask(lambda api: api.create(verbs.TOKEN_REVIEWS, {"a": 1}))
    ask(lambda api: api.apply(SECRETS, {"metadata": {"name": "s", "namespace": "team"}}, manager="m", force=True))
    ask(lambda api: api.patch(NODES, "n", {"a": None}))
    ask(lambda api: api.patch(NODES, "n", [{"op": "remove", "path": "/a"}]))
    ask(lambda api: api.delete(PODS, "../../x", namespace="team"))
    assert ask(lambda api: api.read("/version")) == {"n": 8}
    assert [(method, path) for method, path, *_ in server.asked] == [
        ("GET", "/api/v1/namespaces/team/pods/p"),
        ("GET", "/api/v1/nodes/n/status"),
        ("POST", "/api/v1/namespaces/team/pods"),
        ("POST", "/apis/authentication.k8s.io/v1/tokenreviews"),
        ("PATCH", "/api/v1/namespaces/team/secrets/s"),
        ("PATCH", "/api/v1/nodes/n"),
        ("PATCH", "/api/v1/nodes/n"),
        ("DELETE", "/api/v1/namespaces/team/pods/..%2F..%2Fx"),
        ("GET", "/version"),
    ]
    assert server.asked[2][2] == {"dryRun": "All"}
    assert server.asked[4][2] == {"fieldManager": "m", "force": "true"}
    kinds = [headers.get("Content-Type") for *_, headers in server.asked[4:7]]
    assert kinds == ["application/apply-patch+yaml", "application/merge-patch+json", "application/json-patch+json"]
    assert {headers["Authorization"] for *_, headers in server.asked} == {"Bearer secret-token"}


def test_a_list_is_read_in_pages_and_may_be_thinned(server, ask):
    server.answers = [
        (200, {"metadata": {"continue": "more", "resourceVersion": "7"}, "items": [{"a": 1}]}),
        (200, {"metadata": {"resourceVersion": "7"}, "items": [{"a": 2}, {"a": 3}]}),
    ]
    keep = lambda one: one["a"] if one["a"] != 2 else None  # noqa: E731
    listing = ask(lambda api: api.list(PODS, labels="x=y", fields="spec.nodeName=n", keep=keep))
    assert (list(listing.items), listing.version) == ([1, 3], "7")
    assert server.asked[0][2]["labelSelector"] == "x=y"
    assert server.asked[0][2]["fieldSelector"] == "spec.nodeName=n"
    assert server.asked[1][2]["continue"] == "more"


def lines(*events):
    return b"".join(json.dumps(event).encode() + b"\n" for event in events)


def event(kind, version, **more):
    return {"type": kind, "object": {"metadata": {"resourceVersion": version}, **more}}


async def watched(api):
    return [seen async for seen in api.watch(PODS, version="5", namespace="team")]


def test_a_watch_ends_when_the_server_ends_it(server, ask):
    server.answers = [(200, lines(event("ADDED", "6"), event("BOOKMARK", "9")))]
    assert [seen.type for seen in ask(watched)] == ["ADDED", "BOOKMARK"]
    assert server.asked[0][2]["resourceVersion"] == "5"
    assert server.asked[0][2]["watch"] == "true"


@pytest.mark.parametrize(
    "answer",
    [
        (200, lines({"type": "ERROR", "object": {"code": 410, "message": "too old"}})),
        (410, {"code": 410, "message": "too old"}),
    ],
)
def test_a_version_that_is_too_old_is_said(server, ask, answer):
    server.answers = [answer]
    with pytest.raises(ClusterError) as caught:
        ask(watched)
    assert caught.value.code == verbs.EXPIRED


def test_following_goes_on_from_where_a_watch_ended_and_lists_again_when_that_is_too_late(server, ask):
    listing = {"metadata": {"resourceVersion": "5"}, "items": [{"metadata": {"name": "a"}}]}
    server.answers = [
        (200, listing),
        (200, lines(event("ADDED", "6"), event("BOOKMARK", "8"))),
        (200, lines(event("DELETED", "9"))),
        (410, {"code": 410}),
        (200, listing),
    ]

    async def seen(api):
        found = []
        async for each in follow(api, PODS):
            found.append("LIST" if isinstance(each, Listing) else each.type)
            if len(found) == 4:
                return found
        return found

    assert ask(seen) == ["LIST", "ADDED", "DELETED", "LIST"]
    assert [params.get("resourceVersion") for _, _, params, *_ in server.asked] == [None, "5", "8", "9", None]


@pytest.mark.parametrize(
    ("status", "body", "code"),
    [
        (401, {"message": "who?"}, "cluster.unauthorized"),
        (403, {"message": "no"}, verbs.FORBIDDEN),
        (404, {"message": "gone"}, verbs.NOT_FOUND),
        (409, {"message": "changed", "reason": "Conflict"}, verbs.CONFLICT),
        (409, {"message": "there", "reason": "AlreadyExists"}, verbs.EXISTS),
        (422, {"message": "bad"}, "cluster.invalid"),
        (500, b"<html>", "cluster.failed"),
        (429, [], "cluster.failed"),
    ],
)
def test_refusals_have_codes_and_the_servers_words(server, ask, status, body, code):
    server.answers = [(status, body)]
    with pytest.raises(ClusterError) as caught:
        ask(lambda api: api.get(PODS, "p", namespace="team"))
    assert caught.value.code == code
    assert str(body["message"] if isinstance(body, dict) else "no reason given") in str(caught.value)


def test_no_answer_and_nonsense_are_unreachable(server, ask, tmp_path):
    server.answers = [(200, b"{")]
    with pytest.raises(UnreachableError):
        ask(lambda api: api.read("/version"))

    async def nobody():
        async with LightkubeApi.connect(kubeconfig=kubeconfig(tmp_path / "none", 1)) as api:
            await api.read("/version")

    with pytest.raises(UnreachableError) as caught:
        asyncio.run(nobody())
    assert caught.value.code == "cluster.unreachable"


@pytest.mark.parametrize(
    "change",
    [
        {"users": []},
        {"current-context": None},
        {"contexts": "x"},
        {"clusters": []},
        {"users": [{"name": "u", "user": {"token": 5}}]},
    ],
)
def test_a_configuration_that_cannot_be_used_is_misuse(tmp_path, change):
    path = kubeconfig(tmp_path / "config", 1, **change)
    with pytest.raises(UsageError) as caught:
        LightkubeApi.connect(kubeconfig=path)
    assert caught.value.code == "cluster.config"


@pytest.mark.parametrize("text", [None, "", "a: [", "[]", "\0"])
def test_a_file_that_is_none_is_misuse(tmp_path, text):
    path = tmp_path / "config"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UsageError):
        LightkubeApi.connect(kubeconfig=str(path))


def test_contexts_and_the_environment(tmp_path, monkeypatch):
    path = kubeconfig(tmp_path / "config", 1)
    monkeypatch.setenv("KUBECONFIG", path)
    assert LightkubeApi.connect().namespace == "team"
    assert LightkubeApi.connect(context="c").namespace == "team"
    with pytest.raises(UsageError):
        LightkubeApi.connect(context="other")


def test_a_kind_says_where_it_is():
    kind = Kind("apps", "v1", "deployments", namespaced=True)
    assert kind.path("team", "d", "status") == "/apis/apps/v1/namespaces/team/deployments/d/status"
    assert kind.path() == "/apis/apps/v1/deployments"
    assert (str(kind), str(PODS)) == ("deployments.apps", "pods")
