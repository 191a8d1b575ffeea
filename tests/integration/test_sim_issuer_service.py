# SPDX-License-Identifier: Apache-2.0
"""The issuer over HTTP, and simulators that get their certificates there: with an API server that is stood in for."""

import asyncio
import base64
import datetime as dt
import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Thread
from typing import Any

import pytest

from kubenclave import Collateral, serving, verify_quote
from kubenclave.cluster.api import CONFIG_MAPS, CONFLICT, EXISTS, FORBIDDEN, NOT_FOUND, SECRETS, TOKEN_REVIEWS
from kubenclave.cluster.issuer.authority import Authority
from kubenclave.cluster.issuer.daemon import Service
from kubenclave.cluster.issuer.store import Store
from kubenclave.cluster.issuer.tokens import node_of
from kubenclave.errors import ClusterError, FormatError, KubenclaveError, PlatformError, TrustError, UnreachableError
from kubenclave.platform.simulated.cpu import SoftwareCpu
from kubenclave.platform.simulated.issued import AUDIENCE, CertificateRequest, Issued
from kubenclave.platform.simulated.keys import BaseKeys
from kubenclave.platform.simulated.provisioning import provisioning_of
from kubenclave.platform.simulated.renewal import (
    IssuerAddress,
    fetch,
    forget_others,
    installation_of,
    keep_current,
    request_of,
)
from kubenclave.platform.simulated.state import PlatformState
from kubenclave.platform.simulated.tcb import PlatformTcb
from tests.simulated_platform import NOW, Platform
from tests.waiting import eventually

USER = "system:serviceaccount:kubenclave:kubenclave-simulator"
SEED = bytes(range(32))


class ApiServer:
    """As much of an API server as an issuer asks for."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str], dict[str, Any]] = {}
        self.refuses = False

    async def get(self, kind, name, *, namespace=None, subresource=None):
        if (kind.plural, name) not in self.objects:
            raise ClusterError("no such object", code=NOT_FOUND)
        return self.objects[kind.plural, name]

    async def create(self, kind, new, *, namespace=None, name=None, subresource=None, dry_run=False):
        if kind is TOKEN_REVIEWS:
            return {"status": review(new["spec"]["token"], new["spec"]["audiences"])}
        key = kind.plural, new["metadata"]["name"]
        if key in self.objects:
            raise ClusterError("it exists", code=EXISTS)
        self.objects[key] = new
        return new

    async def patch(self, kind, name, change, *, namespace=None, subresource=None):
        found = self.objects[kind.plural, name]
        if change["metadata"]["resourceVersion"] != found["metadata"]["resourceVersion"]:
            raise ClusterError("changed since", code=CONFLICT)
        self.objects[kind.plural, name] = {**found, "data": change["data"]}
        return self.objects[kind.plural, name]

    async def apply(self, kind, wanted, *, manager, force=False):
        if self.refuses:
            raise ClusterError("not allowed", code=FORBIDDEN)
        self.objects[kind.plural, wanted["metadata"]["name"]] = wanted
        return wanted


def review(token: str, audiences: list[str]) -> dict[str, Any]:
    """Say what an API server would: tokens are USER@NODE here."""
    user, _, node = token.partition("@")
    if user == "old":
        return {"authenticated": False}
    extra = {"authentication.kubernetes.io/node-name": [node]} if node else {}
    return {"authenticated": True, "audiences": audiences, "user": {"username": user, "extra": extra}}


def store(api: Any) -> Store:
    return Store(api, "kubenclave", "root", "collateral")


class Serving:
    """An issuer on a port of its own, in a thread."""

    def __init__(self, api: Any) -> None:
        self.api = api
        self.authority = Authority(SEED, {})
        self.service = Service(api, self.authority, USER)
        self.listener = serving.listen(0)
        self.port = self.listener.getsockname()[1]
        self.server = serving.server(self.service.app())

    async def run(self) -> None:
        publishing = asyncio.create_task(self.service.keep_published(store(self.api)))
        await self.server.serve([self.listener])
        publishing.cancel()

    @contextmanager
    def running(self) -> Iterator["Serving"]:
        thread = Thread(target=lambda: asyncio.run(self.run()))
        thread.start()
        try:
            yield self
        finally:
            self.server.should_exit = True
            thread.join()


@pytest.fixture
def issuer():
    with Serving(ApiServer()).running() as running:
        yield running


@pytest.fixture
def token(tmp_path):
    file = tmp_path / "token"
    file.write_text(f"{USER}@node-1\n")
    return file


def address(issuer: Serving, token) -> IssuerAddress:
    return IssuerAddress.parse(f"http://127.0.0.1:{issuer.port}", token)


class Node(Platform):
    """The machine of a state, with what an issuer has sent for it."""

    def __init__(self, state: PlatformState, issued: Issued) -> None:
        super().__init__(state.tcb)
        keys, svn = BaseKeys.from_fuses(state.fuses), state.tcb.svns.cpu_svn
        self.cpu = SoftwareCpu(keys, epc=[1 << 20], cpu_svn=svn, boot=b"b" * 32)
        self.issued = issued
        self.qe.init()

    def pck_chain(self) -> bytes:
        return self.issued.chains[self.tcb].encode()


def published(issuer: Serving) -> Collateral:
    data = issuer.api.objects[CONFIG_MAPS.plural, "collateral"]["data"]
    return Collateral.from_json(data["collateral.json"])


def test_quotes_of_a_certified_platform_verify_with_what_is_published(issuer, token):
    state = PlatformState.new(own_root=False)
    issued = fetch(address(issuer, token), request_of(state))
    eventually(lambda: issuer.service.published)
    assert issuer.api.objects[CONFIG_MAPS.plural, "collateral"]["data"]["root.pem"] == issued.root
    quote = Node(state, issued).quote()
    now = dt.datetime.now(dt.UTC)
    for collateral in (published(issuer), issued.collateral_of_state):
        verdict = verify_quote(quote, collateral, at=now, root=issued.root_der)
        assert verdict.simulated
        assert str(verdict.tcb_status) == "UpToDate"
    with pytest.raises(TrustError):
        verify_quote(quote, published(issuer), at=now)


def test_the_issuer_never_sends_its_seed(issuer, token):
    issued = fetch(address(issuer, token), request_of(PlatformState.new(own_root=False)))
    sent = issued.to_json()
    assert SEED.hex().encode() not in sent
    assert base64.b64encode(SEED) not in sent
    assert b"PRIVATE" not in sent


def test_what_a_platform_asks_for_holds_no_secret_of_it():
    state = PlatformState.new(own_root=False)
    asked = request_of(state).to_json()
    for fuse in (state.fuses.provisioning, state.fuses.seal, state.fuses.owner_epoch):
        assert fuse.hex().encode() not in asked


def test_two_nodes_have_no_certificate_in_common(issuer, token):
    request = request_of(PlatformState.new(own_root=False))
    one = fetch(address(issuer, token), request)
    token.write_text(f"{USER}@node-2")
    two = fetch(address(issuer, token), request)
    assert one.root == two.root
    assert not set(one.chains.values()) & set(two.chains.values())


def test_a_revoked_node_is_on_the_list_of_all_until_it_is_so_no_more(issuer, token):
    state = PlatformState.new(own_root=False)
    revoked = fetch(address(issuer, token), request_of(state.with_tcb(PlatformTcb.REVOKED)))
    quote, now = Node(state, revoked).quote(), dt.datetime.now(dt.UTC)
    eventually(lambda: json.loads(issuer.authority.published(now)["revoked.json"]))

    def verdict():
        return verify_quote(quote, published(issuer), at=now, root=revoked.root_der)

    def is_revoked() -> bool:
        try:
            verdict()
        except TrustError as error:
            return error.code == "pck.revoked"
        return False

    eventually(is_revoked)
    restarted = Authority(SEED, asyncio.run(store(issuer.api).revoked()))
    assert restarted.published(now) == issuer.authority.published(now)
    fetch(address(issuer, token), request_of(state))
    eventually(lambda: not is_revoked())
    assert str(verdict().tcb_status) == "UpToDate"


@pytest.mark.parametrize("who", ["old", "system:serviceaccount:default:default@node-1", USER, ""], ids=str)
def test_others_get_nothing(issuer, token, who):
    token.write_text(who)
    with pytest.raises(PlatformError) as caught:
        fetch(address(issuer, token), request_of(PlatformState.new(own_root=False)))
    assert caught.value.code == "simissuer.refused"
    assert "found 403" in str(caught.value) or "no token" in str(caught.value)


def test_a_token_for_somebody_else_is_refused():
    class Elsewhere(ApiServer):
        async def create(self, kind, new, **_more):
            return {"status": review(f"{USER}@node-1", ["https://kubernetes.default.svc"])}

    elsewhere: Any = Elsewhere()
    with pytest.raises(TrustError) as caught:
        asyncio.run(node_of(elsewhere, "token", USER))
    assert (caught.value.code, caught.value.expected) == ("simissuer.caller", f"a token for {AUDIENCE}")


def request(**changes) -> CertificateRequest:
    asked = json.loads(request_of(PlatformState.new(own_root=False)).to_json())
    return CertificateRequest(**{**asked, "tcb": PlatformTcb.UP_TO_DATE, **changes})


@pytest.mark.parametrize(
    "changes",
    [
        {"platform": "node/../other"},
        {"platform": "A" * 32},
        {"keys": {}},
        {"keys": dict.fromkeys(PlatformTcb, "00" * 64)},
    ],
    ids=["platform", "capitals", "no-keys", "no-points"],
)
def test_requests_that_are_refused(issuer, token, changes):
    with pytest.raises(PlatformError) as caught:
        fetch(address(issuer, token), request(**changes))
    assert "400" in str(caught.value)


def test_a_request_that_is_too_long(issuer, token):
    with pytest.raises(KubenclaveError) as caught:
        fetch(address(issuer, token), request(platform="a" * 300_000))
    assert caught.value.code in {"simissuer.refused", "simissuer.unreachable"}  # the end may come while it is sent


@pytest.mark.parametrize("changes", [{"chains": {}}, {"root": "no"}, {"collateral": {}}], ids=str)
def test_answers_that_are_not_understood(issuer, token, changes):
    issued = json.loads(fetch(address(issuer, token), request()).to_json())
    with pytest.raises(FormatError):
        Issued.from_json(json.dumps({**issued, **changes}).encode())


def test_nobody_answers(tmp_path, token):
    with pytest.raises(UnreachableError) as caught:
        fetch(IssuerAddress("127.0.0.1", 1, token), request())
    assert caught.value.code == "simissuer.unreachable"
    with pytest.raises(PlatformError) as refused:
        fetch(IssuerAddress("127.0.0.1", 1, tmp_path / "none"), request())
    assert refused.value.code == "simissuer.token"


@pytest.mark.parametrize("url", ["10.0.0.1:8080", "https://a:1", "http://a", "http://:80", "http://a:80/path"])
def test_addresses_that_are_none(url, token):
    with pytest.raises(KubenclaveError) as caught:
        IssuerAddress.parse(url, token)
    assert caught.value.code == "simissuer.address"


@pytest.mark.parametrize(("url", "host"), [("http://fd00::7:80", "fd00::7"), ("http://[fd00::7]:80", "fd00::7")])
def test_addresses_of_either_family(url, host, token):
    assert IssuerAddress.parse(url, token) == IssuerAddress(host, 80, token)


def test_a_simulator_keeps_its_certificates_current(issuer, token, tmp_path):
    """They are there soon after the start, follow the state, and outlive the issuer."""
    state = PlatformState.open(tmp_path / "sim", own_root=False)
    sent = provisioning_of(state, tmp_path / "sim")

    def chain(tcb: PlatformTcb) -> bool:
        try:
            return bool(sent.collateral(tcb, NOW)) and b"CERTIFICATE" in sent.pck_chain(tcb)
        except PlatformError:
            return False

    async def scene() -> None:
        task = asyncio.create_task(keep_current(tmp_path / "sim", state, address(issuer, token)))
        assert not chain(PlatformTcb.UP_TO_DATE)
        await until(lambda: chain(PlatformTcb.UP_TO_DATE))
        state.with_tcb(PlatformTcb.OUT_OF_DATE).save(tmp_path / "sim")
        await until(lambda: chain(PlatformTcb.OUT_OF_DATE))
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    asyncio.run(scene())
    assert sent.root_der
    other = PlatformState.new(own_root=False)
    with pytest.raises(PlatformError, match="not yet certified"):
        provisioning_of(other, tmp_path / "sim").pck_chain(PlatformTcb.UP_TO_DATE)


def account_token(uid: str) -> str:
    """A projected service-account token, as far as its claims."""
    account = {"name": "kubenclave-simulator", "uid": uid}
    claims = {"aud": [AUDIENCE], "kubernetes.io": {"serviceaccount": account}}
    payload = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    return f"e30.{payload}.c2ln"


def test_what_the_issuer_of_another_installation_sent_is_forgotten(issuer, token, tmp_path):
    """A simulator that starts anew must not go on quoting under a root that is gone: nobody would accept it."""
    directory = tmp_path / "sim"
    state = PlatformState.open(directory, own_root=False)
    sent = provisioning_of(state, directory)
    at = address(issuer, token)
    fetch(at, request_of(state)).save(directory)
    forget_others(directory, state, at)
    assert sent.root_der, "the same installation: it starts without its issuer"
    token.write_text(account_token("9f1c"))
    forget_others(directory, state, at)
    with pytest.raises(PlatformError, match="not yet certified"):
        _ = sent.root_der
    forget_others(directory, state, at)


@pytest.mark.parametrize(
    ("text", "installation"),
    [
        (account_token("9f1c"), "9f1c"),
        ("user@node-1", ""),
        ("", ""),
        ("a.b", ""),
        ("a.!!.c", ""),
        ("e30.W10.c", ""),
    ],
)
def test_an_installation_is_told_by_the_account_in_a_token(text, installation):
    assert installation_of(text) == installation


async def until(condition) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110  # somebody else's doing, which sets no event
            await asyncio.sleep(0.05)


def test_a_seed_is_made_once():
    api = ApiServer()
    seed = asyncio.run(store(api).seed())
    assert len(seed) == 32
    assert asyncio.run(store(api).seed()) == seed
    api.objects[SECRETS.plural, "root"]["data"] = {"seed": "AAAA"}
    with pytest.raises(PlatformError) as caught:
        asyncio.run(store(api).seed())
    assert caught.value.code == "simissuer.seed"


def test_a_seed_is_put_into_the_secret_of_the_chart():
    api = ApiServer()
    empty = {"metadata": {"name": "root", "resourceVersion": "7"}}
    api.objects[SECRETS.plural, "root"] = empty
    seed = asyncio.run(store(api).seed())
    assert asyncio.run(store(api).seed()) == seed

    class Late(ApiServer):
        async def get(self, *words, **more):
            found = await super().get(*words, **more)
            self.objects[SECRETS.plural, "root"] = api.objects[SECRETS.plural, "root"] | {
                "metadata": {"resourceVersion": "8"}
            }
            return found

    late = Late()
    late.objects[SECRETS.plural, "root"] = empty
    assert asyncio.run(store(late).seed()) == seed


def test_the_seed_of_a_quicker_replica_counts():
    class Late(ApiServer):
        async def create(self, kind, new, **more):
            await super().create(kind, {**new, "data": {"seed": base64.b64encode(SEED).decode()}}, **more)
            return await super().create(kind, new, **more)

    assert asyncio.run(store(Late()).seed()) == SEED


def test_what_cannot_be_published_is_tried_again(monkeypatch):
    monkeypatch.setattr("kubenclave.cluster.issuer.daemon._RETRY_SECONDS", 0.01)
    api: Any = ApiServer()
    api.refuses = True
    service = Service(api, Authority(SEED, {}), USER)

    async def scene() -> None:
        task = asyncio.create_task(service.keep_published(store(api)))
        await asyncio.sleep(0.1)
        assert not service.published
        api.refuses = False
        await until(lambda: service.published)
        task.cancel()

    asyncio.run(scene())
    assert asyncio.run(store(ApiServer()).revoked()) == {}
