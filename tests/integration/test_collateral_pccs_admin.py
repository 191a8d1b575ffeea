# SPDX-License-Identifier: Apache-2.0
"""What platforms and administrators send to PCCS, as their tools send it."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kubenclave.services.collateral import platformcollateral, service
from kubenclave.services.collateral.items import EARLY, ROOT_CRL, ItemKey, Tee
from kubenclave.services.collateral.queue import QueueState
from kubenclave.services.collateral.sources.base import PckAnswer, SourceError
from kubenclave.services.web.credentials import Role
from kubenclave.wire import pcs
from tests.collateral_items import FMSPC_TEXT
from tests.collateral_service import Bench, bench
from tests.pccsadmin import (
    HELD,
    ISSUERS,
    LEAF,
    PLATFORM,
    QE_ID,
    SGX_CLASS,
    TCBM,
    TDQE_CLASS,
    TDX_CLASS,
    brought,
    policy,
    token,
)

V4, V3 = "/sgx/certification/v4", "/sgx/certification/v3"
CODE = "kubenclave-error-code"


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Bench]:
    with bench(tmp_path) as made:
        yield made


@pytest.fixture
def offline(tmp_path: Path) -> Iterator[Bench]:
    with bench(tmp_path, sources=False) as made:
        yield made


@pytest.fixture
def known(served: Bench) -> Bench:
    """A service that holds the certificates of a platform, which its source knows by QE-ID and by encrypted PPID."""
    for name in (QE_ID, ""):
        served.source.certificates[name] = PckAnswer((pcs.PckEntry(TCBM, LEAF),), b"".join(ISSUERS))
    assert "certificates are here" in register(served).text
    return served


def register(made: Bench, platform: Any = PLATFORM, query: str = "", mount: str = V4) -> Any:
    return made.call("POST", f"{mount}/platforms{query}", json=platform, headers=made.user)


# Registration


@pytest.mark.parametrize("mount", [V4, V3])
@pytest.mark.parametrize("query", ["", "?update=STANDARD", "?update=early", "?update=All"])
def test_without_a_source_a_platform_waits(offline: Bench, mount: str, query: str):
    assert register(offline, query=query, mount=mount).status_code == 200
    for _ in range(2):  # a second reader sees the same: nothing was taken out
        answer = offline.get(f"{mount}/platforms", headers=offline.admin)
        assert (answer.status_code, answer.headers["platform-count"]) == (200, "1")
        assert answer.json() == [PLATFORM]


def test_a_source_that_knows_the_platform_is_asked_at_once(served: Bench):
    served.source.certificates[QE_ID] = PckAnswer((pcs.PckEntry(TCBM, LEAF),), b"".join(ISSUERS))
    assert "certificates are here" in register(served).text
    assert served.get(f"{V4}/platforms?source=reg", headers=served.admin).json() == []
    served.source.certificates.clear()
    answer = served.get(
        f"{V4}/pckcert?qeid={QE_ID}&cpusvn={PLATFORM['cpu_svn']}&pcesvn={PLATFORM['pce_svn']}&pceid=0000"
    )
    assert (answer.status_code, answer.content) == (200, LEAF)


def test_a_source_that_does_not_answer_leaves_the_platform_in_the_queue(served: Bench):
    served.source.fails = SourceError("no answer", code="source.timeout")
    assert register(served).status_code == 200
    assert served.get(f"{V4}/platforms", headers=served.admin).json() == [PLATFORM]


def test_a_source_that_is_slow_keeps_no_platform_waiting(served: Bench, monkeypatch: pytest.MonkeyPatch):
    async def never(_request: object) -> PckAnswer:
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(served.source, "pck_certs", never)
    monkeypatch.setattr(service, "_PATIENCE", 0.01)
    assert register(served).status_code == 200
    assert served.get(f"{V4}/platforms", headers=served.admin).json() == [PLATFORM]


def test_a_platform_that_intel_has_nothing_for_is_told_apart(served: Bench):
    served.source.certificates[QE_ID] = PckAnswer((pcs.PckEntry(TCBM, None),), b"".join(ISSUERS))
    register(served)
    assert served.get(f"{V4}/platforms?source=reg", headers=served.admin).json() == []
    assert served.get(f"{V4}/platforms?source=reg_na", headers=served.admin).json() == [PLATFORM]


def test_a_lease_keeps_other_readers_away(offline: Bench):
    register(offline)
    assert offline.get(f"{V4}/platforms?source=reg&lease=60", headers=offline.admin).json() == [PLATFORM]
    assert offline.get(f"{V4}/platforms?source=reg", headers=offline.admin).json() == []
    assert offline.service.queue.lengths()[QueueState.NEW] == 1


@pytest.mark.parametrize(
    "query", ["source=[00606A]", "source=[", "source=[,]", "source=other", "source=reg&lease=-1", "lease=99999999"]
)
def test_other_questions_about_the_queue_are_400(offline: Bench, query: str):
    answer = offline.get(f"{V4}/platforms?{query}", headers=offline.admin)
    assert (answer.status_code, answer.headers[CODE]) == (400, "pcs.parameter")


@pytest.mark.parametrize(
    ("body", "query", "code"),
    [
        ({**PLATFORM, "cpu_svn": "00"}, "", "registration.malformed"),  # 500 with PCCS
        ({}, "", "registration.malformed"),
        ([], "", "registration.malformed"),
        (PLATFORM, "?update=late", "pcs.parameter"),
    ],
)
def test_what_is_no_registration_is_400(offline: Bench, body: Any, query: str, code: str):
    answer = register(offline, body, query)
    assert (answer.status_code, answer.headers[CODE]) == (400, code)


@pytest.mark.parametrize(("body", "code"), [(b"", "json.malformed"), (b'{"a":1,"a":2}', "json.duplicate-key")])
def test_what_is_no_json_is_400(offline: Bench, body: bytes, code: str):
    answer = offline.call("POST", f"{V4}/platforms", content=body, headers=offline.user)
    assert (answer.status_code, answer.headers[CODE]) == (400, code)


ADMIN_ROUTES = [
    ("GET", f"{V4}/platforms"),
    ("PUT", f"{V4}/platformcollateral"),
    ("GET", f"{V4}/refresh"),
    ("POST", f"{V3}/refresh"),
    ("PUT", f"{V4}/appraisalpolicy"),
]


@pytest.mark.parametrize(("method", "path"), [*ADMIN_ROUTES, ("POST", f"{V4}/platforms")])
def test_who_has_no_token_is_401_and_another_role_403(served: Bench, method: str, path: str):
    header = "user-token" if (method, path) == ("POST", f"{V4}/platforms") else "admin-token"
    for headers in ({}, {header: ""}, {header: "wrong"}, {header: f"kubenclave_{'0' * 16}_{'A' * 43}"}):
        answer = served.call(method, path, headers=headers, content=b"{}" if method != "GET" else None)
        assert answer.status_code == 401
    other = served.token(Role.ATTEST)
    answer = served.call(method, path, headers={header: other}, content=b"{}" if method != "GET" else None)
    assert (answer.status_code, answer.headers[CODE]) == (403, "credentials.role")
    assert other not in answer.text


# Collateral that is brought


def put(made: Bench, document: Any, mount: str = V4) -> Any:
    return made.call("PUT", f"{mount}/platformcollateral", content=json.dumps(document), headers=made.admin)


@pytest.mark.parametrize("mount", [V4, V3])
def test_what_pccsadmin_brings_is_verified_and_served(offline: Bench, mount: str):
    register(offline)
    answer = put(offline, brought(), mount)
    assert answer.status_code == 200, answer.text
    assert answer.text == "9 done; sgx:pck-crl:processor left out: its issuer chain is neither in there nor held\n"
    assert offline.get(f"{V4}/platforms", headers=offline.admin).json() == []
    for path, key in (
        (f"tcb?fmspc={FMSPC_TEXT}", ItemKey.tcb_info(Tee.SGX, FMSPC_TEXT)),
        (f"tcb?fmspc={FMSPC_TEXT}&update=early", ItemKey.tcb_info(Tee.SGX, FMSPC_TEXT, EARLY)),
        ("qe/identity", ItemKey.identity(Tee.SGX)),
        ("pckcrl?ca=platform&encoding=der", ItemKey.pck_crl("platform")),
        ("rootcacrl?encoding=der", ROOT_CRL),
    ):
        assert offline.get(f"{V4}/{path}").content == HELD[key].body
    tdx = offline.get(f"/tdx/certification/v4/tcb?fmspc={FMSPC_TEXT}")
    assert tdx.content == HELD[ItemKey.tcb_info(Tee.TDX, FMSPC_TEXT)].body
    leaf = offline.get(f"{V4}/pckcert?qeid={QE_ID}&cpusvn={TCBM[:16].hex()}&pcesvn={TCBM[16:].hex()}&pceid=0000")
    assert (leaf.status_code, leaf.content) == (200, LEAF)


def test_the_other_name_of_the_chain_does_as_well(offline: Bench):
    document = brought()
    certificates = document["collaterals"]["certificates"]
    certificates["SGX-TCB-Info-Issuer-Chain"] = certificates.pop("TCB-Info-Issuer-Chain")
    assert put(offline, document).status_code == 200


def test_a_list_without_its_chain_is_judged_by_the_one_held(served: Bench):
    served.get(f"{V4}/pckcrl?ca=processor")
    assert put(served, brought()).text == "10 done\n"


@pytest.mark.parametrize(
    ("changes", "status", "code"),
    [
        ({"qeidentity": HELD[ItemKey.identity(Tee.SGX)].body.decode().replace("UpToDate", "Revoked")}, 460, None),
        ({"qeidentity": HELD[ItemKey.identity(Tee.SGX, "qae")].body.decode()}, 460, "collateral.other"),
        ({"qveidentity": HELD[ItemKey.identity(Tee.SGX, "qae")].body.decode()}, 460, "collateral.other"),
        ({"certificates": {}}, 460, "tcb-signer.malformed"),
        ({"rootcacrl": ""}, 460, "collateral.no-root-crl"),
        ({"rootcacrl": "zz"}, 400, "pcs.crl"),
        ({"tcbinfos": [{"sgx_tcbinfo": {}}]}, 400, "platform-collateral.malformed"),
        ({"tcbinfos": [{"fmspc": FMSPC_TEXT, "sgx_tcbinfo": {"tcbInfo": {}}}]}, 400, "platform-collateral.malformed"),
        ({"pck_certs": [{"qe_id": QE_ID, "pce_id": "0000", "certs": [{"tcbm": "00", "cert": ""}]}]}, 400, None),
        ({"pck_certs": [{"qe_id": QE_ID, "pce_id": "zz", "certs": []}]}, 400, "pcs.parameter"),
    ],
)
def test_one_part_that_does_not_hold_keeps_out_all(offline: Bench, changes: Any, status: int, code: str | None):
    answer = put(offline, brought(**changes))
    assert answer.status_code == status, answer.text
    assert code in (None, answer.headers[CODE])
    assert offline.service.store.items() == []


def test_a_certificate_for_another_tcb_than_it_says_is_refused(offline: Bench):
    document = brought()
    document["collaterals"]["pck_certs"][0]["certs"][0]["tcbm"] = "00" * 18
    assert put(offline, document).status_code == 460


def test_a_platform_without_any_certificate_is_told_apart(offline: Bench):
    register(offline)
    document = brought()
    document["collaterals"]["pck_certs"][0]["certs"] = [{"tcbm": TCBM.hex(), "cert": "Not available"}]
    assert put(offline, document).status_code == 200
    assert offline.get(f"{V4}/platforms?source=reg_na", headers=offline.admin).json() == [PLATFORM]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b'{"collaterals": 1}',
        b'{"collaterals":' + b"[" * 100_000,
        b"\xff",
        b'{"collaterals":{"rootcacrl":"\\ud800"}}',
    ],
)
def test_what_is_no_collateral_is_400(offline: Bench, body: bytes):
    answer = offline.call("PUT", f"{V4}/platformcollateral", content=body, headers=offline.admin)
    assert (answer.status_code, answer.headers[CODE]) == (400, "platform-collateral.malformed")


def test_a_body_has_a_bound_that_is_larger_here_than_elsewhere(offline: Bench):
    large = b"[" + b" " * (1 << 20) + b"]"
    for path, status in ((f"{V4}/platformcollateral", 400), (f"{V4}/appraisalpolicy", 413)):
        answer = offline.call("PUT", path, content=large, headers=offline.admin)
        assert answer.status_code == status
    too_long = str(platformcollateral.MAX_SIZE + 1)
    answer = offline.call(
        "PUT", f"{V4}/platformcollateral", content=b"", headers={**offline.admin, "content-length": too_long}
    )
    assert (answer.status_code, answer.headers[CODE]) == (413, "serving.size")


# Refresh


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_refresh_renews_what_is_held(served: Bench, method: str):
    served.get(f"{V4}/qe/identity")
    served.source.asked.clear()
    answer = served.call(method, f"{V4}/refresh", headers=served.admin)
    assert answer.status_code == 200
    assert {ROOT_CRL, ItemKey.identity(Tee.SGX)} <= set(served.source.asked)
    assert served.source.asked[0] == ROOT_CRL


def test_one_item_that_fails_keeps_no_other_from_its_turn(served: Bench):
    for path in ("qe/identity", "qve/identity"):
        served.get(f"{V4}/{path}")
    del served.source.held[ItemKey.identity(Tee.SGX)]
    answer = served.call("POST", f"{V4}/refresh", headers=served.admin)
    assert answer.status_code == 200
    assert "sgx:identity:qe:standard failed" in answer.text
    assert "[collateral.unknown]" in answer.text


def test_a_refresh_of_which_nothing_came_is_an_error(served: Bench):
    served.get(f"{V4}/qe/identity")
    served.source.fails = SourceError("no answer", code="source.timeout")
    answer = served.call("POST", f"{V4}/refresh", headers=served.admin)
    assert (answer.status_code, answer.headers[CODE]) == (503, "source.timeout")


def test_a_service_that_asks_nobody_says_so(offline: Bench):
    answer = offline.call("POST", f"{V4}/refresh", headers=offline.admin)
    assert (answer.status_code, answer.headers[CODE]) == (503, "collateral.offline")


@pytest.mark.parametrize(
    ("fmspc", "renewed"), [("", 1), (FMSPC_TEXT.upper(), 1), (f"00906ED50000,{FMSPC_TEXT}", 1), ("00906ED50000", 0)]
)
def test_certificates_of_platforms_are_renewed(known: Bench, fmspc: str, renewed: int):
    answer = known.call("POST", f"{V4}/refresh?type=certs&fmspc={fmspc}", headers=known.admin)
    assert (answer.status_code, answer.text) == (200, f"{renewed} done\n")


def test_a_renewal_of_certificates_of_which_nothing_came_is_an_error(known: Bench):
    known.source.fails = SourceError("no answer", code="source.timeout")
    answer = known.call("POST", f"{V4}/refresh?type=certs", headers=known.admin)
    assert (answer.status_code, answer.headers[CODE]) == (503, "source.timeout")


def test_a_renewal_of_certificates_ends_in_time_and_says_what_is_left(known: Bench, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(service, "_TURN", 0.0)
    answer = known.call("POST", f"{V4}/refresh?type=certs", headers=known.admin)
    assert answer.text == "0 done; 1 left for the next time: ask again\n"


@pytest.mark.parametrize("fmspc", ["x", "00906ED50000,", "[]"])
def test_families_to_renew_that_are_none(served: Bench, fmspc: str):
    answer = served.call("POST", f"{V4}/refresh?type=certs&fmspc={fmspc}", headers=served.admin)
    assert (answer.status_code, answer.headers[CODE]) == (400, "pcs.parameter")


def test_a_service_that_asks_nobody_renews_no_certificates(offline: Bench):
    answer = offline.call("POST", f"{V4}/refresh?type=certs", headers=offline.admin)
    assert (answer.status_code, answer.headers[CODE]) == (503, "collateral.offline")


@pytest.mark.parametrize(
    ("source", "count"),
    [("[]", 1), (f"[{FMSPC_TEXT.upper()}]", 1), (f"[00906ED50000, {FMSPC_TEXT}]", 1), ("[00906ED50000]", 0)],
)
def test_platforms_that_have_certificates_are_told_without_their_qe_id(known: Bench, source: str, count: int):
    answer = known.get(f"{V4}/platforms?source={source}", headers=known.admin)
    assert (answer.status_code, answer.headers["platform-count"], len(answer.json())) == (200, str(count), count)
    for told in answer.json():
        assert {**told, "qe_id": QE_ID} == {**PLATFORM, "qe_id": QE_ID, "cpu_svn": "", "pce_svn": ""}
        assert told["qe_id"] != QE_ID


def test_certificates_are_brought_for_a_platform_under_what_was_told_in_place_of_its_qe_id(offline: Bench):
    put(offline, brought())
    (told,) = offline.get(f"{V4}/platforms?source=[]", headers=offline.admin).json()
    assert told["enc_ppid"] == PLATFORM["enc_ppid"]
    document = brought()
    certificates = document["collaterals"]["pck_certs"][0]
    certificates["qe_id"] = told["qe_id"]
    certificates["certs"] = [{"tcbm": TCBM.hex(), "cert": LEAF.decode()}]
    assert put(offline, document).status_code == 200
    assert offline.get(f"{V4}/platforms?source=[]", headers=offline.admin).json() == [told]
    query = f"qeid={QE_ID}&cpusvn={PLATFORM['cpu_svn']}&pcesvn={PLATFORM['pce_svn']}&pceid=0000"
    assert offline.get(f"{V4}/pckcert?{query}").content == LEAF


# Appraisal policies


def put_policy(made: Bench, text: Any, **members: Any) -> Any:
    body = json.dumps({"policy": text, "is_default": True, "fmspc": FMSPC_TEXT, **members})
    return made.call("PUT", f"{V4}/appraisalpolicy", content=body, headers=made.admin)


def test_default_policies_are_handed_out_as_they_came_in(served: Bench):
    first, second, tdx = policy(SGX_CLASS), policy(SGX_CLASS, note="2"), policy(TDQE_CLASS, TDX_CLASS)
    for each in (first, second, tdx, policy(SGX_CLASS, note="3")):
        answer = put_policy(served, each, is_default=each != policy(SGX_CLASS, note="3"))
        assert (answer.status_code, len(answer.text)) == (200, 96)
    for mount in (V4, V3):
        answer = served.get(f"{mount}/appraisalpolicy?fmspc={FMSPC_TEXT.upper()}")
        assert (answer.status_code, answer.text) == (200, f"{second},{tdx}")
    answer = served.get(f"{V4}/appraisalpolicy?fmspc=000000000000")
    assert (answer.status_code, answer.headers[CODE]) == (404, "collateral.unknown")


@pytest.mark.parametrize(
    "text",
    [
        7,
        "",
        "a.b",
        "e30.!.c",
        token("[]"),
        token("{}"),
        token(json.dumps({"policy_payload": "{}"})),
        policy(),
        policy(TDQE_CLASS),
        policy("00000000-0000-0000-0000-000000000000"),
    ],
)
def test_what_is_no_policy_is_400(served: Bench, text: Any):
    answer = put_policy(served, text)
    assert (answer.status_code, answer.headers[CODE]) == (400, "appraisal.malformed")


def test_a_policy_for_no_family_is_400(served: Bench):
    assert put_policy(served, policy(SGX_CLASS), fmspc="00").headers[CODE] == "pcs.parameter"
