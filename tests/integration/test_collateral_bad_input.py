# SPDX-License-Identifier: Apache-2.0
"""Whatever a collateral service is sent: one sentence that says why not, and nothing is kept of it."""

import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import jwt
import pytest

from kubenclave.services.web.credentials import Role
from tests.bad_input import BODIES, CANARY, Member, encode, members, pccs, spoil
from tests.collateral_items import FMSPC_TEXT
from tests.collateral_service import Bench, bench, serving
from tests.pccsadmin import PLATFORM, QE_ID, SGX_CLASS, brought, policy

V4, V3, TDX = "/sgx/certification/v4", "/sgx/certification/v3", "/tdx/certification/v4"
GOOD = f"{V4}/tcb?fmspc={FMSPC_TEXT}"


@dataclass(frozen=True)
class Place:
    """A route and a document that it takes.

    ``may_lack`` are members that may be absent or null, ``takes`` are wrong values that are not wrong for a member.
    """

    method: str
    path: str
    document: Any
    role: Role
    may_lack: frozenset[str] = frozenset()
    takes: frozenset[tuple[str, str]] = frozenset()

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


TOLD = frozenset({"pce_id", "tcbm", "fmspc", "qeidentity", "tdqeidentity", "rootcacrl"})
"""Members that identify nobody: what was found in them may be said."""
HOLDERS = frozenset({"pck_certs", "tcbinfos", "pckcacrl", "certificates", "qeidentity", "tdqeidentity", "rootcacrl"})
COLLATERAL = {
    name: value if name != "pck_certs" else [{each: value[0][each] for each in ("qe_id", "pce_id", "certs")}]
    for name, value in brought()["collaterals"].items()
    if name in HOLDERS
}
REGISTRATION = {name: value for name, value in PLATFORM.items() if name != "platform_manifest"}
APPRAISAL = {"policy": policy(SGX_CLASS), "fmspc": FMSPC_TEXT, "is_default": True}
PLACES = [
    Place("POST", f"{V4}/platforms", REGISTRATION, Role.REGISTER),
    Place("POST", f"{V3}/platforms", REGISTRATION, Role.REGISTER),
    Place(
        "POST",
        f"{V4}/platforms?update=early",
        {"qe_id": QE_ID, "pce_id": "0000", "platform_manifest": "AB" * 8},
        Role.REGISTER,
        frozenset({"platform_manifest"}),
    ),
    Place(
        "PUT",
        f"{V4}/platformcollateral",
        {"collaterals": COLLATERAL},
        Role.COLLATERAL_ADMIN,
        # Any part may be left out, and one that holds nothing is left out.
        frozenset(
            [*(f"collaterals.{name}" for name in HOLDERS), "collaterals.pck_certs.0", "collaterals.pck_certs.0.certs.0"]
        ),
        frozenset(
            (f"collaterals{name}", kind)
            for name in ("", *(f".{each}" for each in HOLDERS), ".pck_certs.0.certs")
            for kind in ("a list", "an object", "empty")
        ),
    ),
    Place(
        "PUT",
        f"{V4}/appraisalpolicy",
        APPRAISAL,
        Role.COLLATERAL_ADMIN,
        frozenset({"is_default"}),
        frozenset({("is_default", "a truth")}),
    ),
]


@dataclass
class Running:
    """A service that asks nobody, over HTTP; and everything that it keeps."""

    bench: Bench
    client: httpx2.Client
    database: Path

    def send(self, place: Place, body: bytes, **headers: Any) -> httpx2.Response:
        header = {Role.REGISTER: "user-token", Role.COLLATERAL_ADMIN: "admin-token"}[place.role]
        given = {"Content-Type": "application/json", header: self.bench.token(place.role), **headers}
        return self.client.request(place.method, place.path, content=body, headers=given)

    def kept(self) -> dict[str, list[Any]]:
        """Whatever others than sources bring: what is served was asked of the source as questions came."""
        with sqlite3.connect(self.database) as connection:
            found = {
                name: connection.execute(f"SELECT * FROM {name}").fetchall()
                for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
                if name != "credentials" and not name.startswith("collateral_")
            }
        connection.close()
        return found


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The service; what it answers well before it does afterwards, and what it keeps is the same."""
    directory = tmp_path_factory.mktemp("bad-input")
    with bench(directory) as made:
        good = made.get(GOOD)
        assert good.status_code == 200
        with serving(made.app) as port, httpx2.Client(base_url=f"http://127.0.0.1:{port}") as client:
            service = Running(made, client, directory / "collateral.db")
            for role in (Role.REGISTER, Role.COLLATERAL_ADMIN):
                made.token(role)
            before = service.kept()
            yield service
            assert service.kept() == before
            assert client.get(GOOD).content == good.content


def check(running: Running, place: Place, name: str, bodies: Mapping[str, bytes]) -> None:
    """Send all of them in place of the member of that name; say which were not refused as they have to be."""
    wrong = {}
    for kind, body in bodies.items():
        if (kind in {"missing", "nothing"} and name in place.may_lack) or (name, kind) in place.takes:
            continue
        answer = running.send(place, body)
        try:
            assert pccs(answer)
            assert CANARY not in answer.text or name.rpartition(".")[2] in TOLD
        except (AssertionError, KeyError, ValueError) as error:
            wrong[kind] = f"{answer.status_code} {answer.text[:300]} {type(error).__name__}"
    assert not wrong


@pytest.mark.parametrize("place", PLACES, ids=str)
def test_bodies_that_nobody_takes(running: Running, place: Place):
    check(running, place, "", BODIES)


# Of what is signed every change is the same: it is no longer what was signed.
CASES = [
    (place, path)
    for place in PLACES
    for path in members(place.document)
    if len(path) <= 2 or (path[1] == "pck_certs" and "tcb" not in path)
]


@pytest.mark.parametrize(("place", "path"), CASES, ids=[f"{place}-{'.'.join(map(str, path))}" for place, path in CASES])
def test_each_member_spoiled_in_every_way(running: Running, place: Place, path: Member):
    spoiled = {kind: encode(document) for kind, document in spoil(place.document, path)}
    check(running, place, ".".join(map(str, path)), spoiled)


WRONG = ["", "0", "%00", "-1", "9" * 5000, "%F0%9F%98%80", "../../etc/passwd", "' OR 1=1 --", CANARY, "%ff"]
ASKED = [
    f"{V4}/tcb?fmspc=",
    f"{V3}/tcb?fmspc=",
    f"{TDX}/tcb?fmspc=",
    f"{V4}/tcb?fmspc={FMSPC_TEXT}&update=",
    f"{V4}/tcb?fmspc={FMSPC_TEXT}&tcbEvaluationDataNumber=",
    f"{V4}/qe/identity?update=",
    f"{V4}/qve/identity?tcbEvaluationDataNumber=",
    f"{V4}/pckcrl?ca=",
    f"{V4}/pckcrl?ca=platform&encoding=",
    f"{V4}/rootcacrl?encoding=",
    f"{V4}/crl?uri=",
    f"{V4}/fmspcs?platform=",
    f"{V4}/appraisalpolicy?fmspc=",
    f"{V4}/pckcert?qeid=",
    f"{V4}/pckcert?qeid={QE_ID}&pceid=0000&pcesvn=0000&cpusvn=",
    f"{V4}/pckcert?qeid={QE_ID}&cpusvn={'00' * 16}&pcesvn=0000&pceid=",
]


@pytest.mark.parametrize("path", ASKED)
def test_parameters_spoiled_in_every_way(running: Running, path: str):
    for value in WRONG:
        answer = running.client.get(path + value)
        assert pccs(answer) in {"pcs.parameter", "collateral.unknown", "collateral.withdrawn"}, (value, answer.text)
        assert answer.status_code in {400, 404, 410}, value


@pytest.mark.parametrize("place", PLACES, ids=str)
def test_whoever_may_not_is_told_that_and_nothing_else(running: Running, place: Place):
    unsigned = jwt.encode({"roles": list(Role)}, "", algorithm="none")
    for token in ("", "wrong", unsigned, "kubenclave_" + "0" * 16 + "_" + "A" * 43, "A" * 20_000, b"\xe4"):
        given: tuple[Any, ...] = (
            {"admin-token": token, "user-token": token},
            {"Authorization": b"Bearer " + _bytes(token)},
        )
        for headers in given:
            answer = running.client.request(place.method, place.path, content=BODIES["half"], headers=headers)
            assert (answer.status_code, pccs(answer).partition(".")[0]) == (401, "credentials"), token
            assert unsigned not in answer.text
    answer = running.send(place, encode(place.document), **{name: running.bench.token(Role.ATTEST) for name in TOKENS})
    assert (answer.status_code, pccs(answer)) == (403, "credentials.role")


TOKENS = ("user-token", "admin-token")


def _bytes(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode() or b"x"


@pytest.mark.parametrize("place", [place for place in PLACES if "collaterals" not in place.document], ids=str)
def test_bodies_that_are_too_long(running: Running, place: Place):
    for body in (b" " * (1 << 20), (b" " * (1 << 16) for _ in range(16))):  # said beforehand, and in pieces
        answer = running.send(place, body)  # type: ignore[arg-type]
        assert (answer.status_code, pccs(answer)) == (413, "serving.size")
