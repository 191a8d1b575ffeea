# SPDX-License-Identifier: Apache-2.0
"""Every route of PCS and PCCS for clients: bodies, headers and statuses as Intel's client and others need them."""

import datetime as dt
import urllib.parse
from pathlib import Path

import pytest
from starlette.requests import Request

from kubenclave.errors import FormatError
from kubenclave.services.collateral import queries
from kubenclave.services.collateral.cache import CacheSettings
from kubenclave.services.collateral.items import EARLY, ROOT_CRL, ItemKey, Kind, Tee
from kubenclave.services.collateral.sources.base import Fetched, SourceError
from kubenclave.services.web.limits import Rate
from kubenclave.wire import pcs
from tests.collateral_items import FMSPC_TEXT, offered
from tests.collateral_service import Bench, bench
from tests.evidence import NOW

SGX4, SGX3, TDX4 = "/sgx/certification/v4", "/sgx/certification/v3", "/tdx/certification/v4"
HELD = offered()
FMSPC = FMSPC_TEXT.upper()
CODE = "kubenclave-error-code"


@pytest.fixture
def served(tmp_path: Path):
    with bench(tmp_path) as made:
        yield made


DOCUMENTS = {
    f"/tcb?fmspc={FMSPC}": (ItemKey.tcb_info(Tee.SGX, FMSPC), "TCB-Info-Issuer-Chain"),
    f"/tcb?fmspc={FMSPC_TEXT}&update=STANDARD": (ItemKey.tcb_info(Tee.SGX, FMSPC), "SGX-TCB-Info-Issuer-Chain"),
    f"/tcb?fmspc={FMSPC}&update=early": (ItemKey.tcb_info(Tee.SGX, FMSPC, EARLY), "TCB-Info-Issuer-Chain"),
    "/qe/identity": (ItemKey.identity(Tee.SGX), "SGX-Enclave-Identity-Issuer-Chain"),
    "/qe/identity?update=Early": (ItemKey.identity(Tee.SGX, "qe", EARLY), "SGX-Enclave-Identity-Issuer-Chain"),
    "/qve/identity?update=standard": (ItemKey.identity(Tee.SGX, "qve"), "SGX-Enclave-Identity-Issuer-Chain"),
    "/qae/identity": (ItemKey.identity(Tee.SGX, "qae"), "SGX-Enclave-Identity-Issuer-Chain"),
    "/tcbevaluationdatanumbers": (
        ItemKey(Kind.EVALUATION_NUMBERS),
        "TCB-Evaluation-Data-Numbers-Issuer-Chain",
    ),
}
TDX_DOCUMENTS = {
    f"/tcb?fmspc={FMSPC}&update=standard": (ItemKey.tcb_info(Tee.TDX, FMSPC), "TCB-Info-Issuer-Chain"),
    "/qe/identity?update=standard": (ItemKey.identity(Tee.TDX), "SGX-Enclave-Identity-Issuer-Chain"),
    "/tcbevaluationdatanumbers": (
        ItemKey(Kind.EVALUATION_NUMBERS, tee=Tee.TDX),
        "TCB-Evaluation-Data-Numbers-Issuer-Chain",
    ),
}
ALL_DOCUMENTS = [
    (mount + path, *expected)
    for mount, documents in ((SGX4, DOCUMENTS), (SGX3, DOCUMENTS), (TDX4, TDX_DOCUMENTS))
    for path, expected in documents.items()
]


@pytest.mark.parametrize(("path", "key", "header"), ALL_DOCUMENTS, ids=[each[0] for each in ALL_DOCUMENTS])
def test_documents_are_what_was_signed_byte_for_byte(served: Bench, path: str, key: ItemKey, header: str):
    answer = served.get(path)
    assert answer.status_code == 200
    assert answer.content == HELD[key].body
    assert answer.headers["content-type"] == "application/json"
    assert decoded(answer.headers[header]) == HELD[key].issuer_chain


def decoded(header: str) -> bytes:
    """What Intel's client does with a chain: it relies on one escaped newline at the end, and on nothing raw."""
    assert header.endswith("-----END%20CERTIFICATE-----%0A")
    assert set(header) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~%")
    pem = urllib.parse.unquote_to_bytes(header)
    assert pem.count(b"-----BEGIN CERTIFICATE-----") == pem.count(b"-----END CERTIFICATE-----") == 2
    assert pem.endswith(b"-----END CERTIFICATE-----\n")
    assert not pem.endswith(b"\n\n")
    return pem


def test_the_chain_of_tcb_info_goes_under_both_names(served: Bench):
    headers = served.get(f"{SGX4}/tcb?fmspc={FMSPC}").headers
    assert headers["TCB-Info-Issuer-Chain"] == headers["SGX-TCB-Info-Issuer-Chain"]


@pytest.mark.parametrize("mount", [SGX4, SGX3])
@pytest.mark.parametrize("ca", ["processor", "platform", "PLATFORM"])
def test_a_pck_crl_in_each_encoding(served: Bench, mount: str, ca: str):
    der = HELD[ItemKey.pck_crl(ca)].body
    expected = {
        "": (der.hex().encode(), "application/x-pem-file"),
        "&encoding=hex": (der.hex().encode(), "application/x-pem-file"),
        "&encoding=pem": (pcs.crl_pem(der), "application/x-pem-file"),
        "&encoding=der": (der, "application/pkix-crl"),
        "&encoding=DER": (der, "application/pkix-crl"),
    }
    for encoding, (body, label) in expected.items():
        answer = served.get(f"{mount}/pckcrl?ca={ca}{encoding}")
        assert (answer.status_code, answer.content, answer.headers["content-type"]) == (200, body, label)
        assert decoded(answer.headers["SGX-PCK-CRL-Issuer-Chain"]) == HELD[ItemKey.pck_crl(ca)].issuer_chain


def test_the_root_crl_is_hex_under_the_label_of_der(served: Bench):
    der = HELD[ROOT_CRL].body
    for path, body in (
        ("/rootcacrl", der.hex().encode()),
        ("/rootcacrl?encoding=der", der),
        ("/rootcacrl?customParameter=x", der.hex().encode()),
    ):
        answer = served.get(SGX4 + path)
        assert (answer.status_code, answer.content) == (200, body)
        assert answer.headers["content-type"] == "application/pkix-crl"


SIMULATED = "https://simulated.invalid"


@pytest.mark.parametrize(
    ("uri", "key"),
    [
        (f"{SIMULATED}/IntelSGXRootCA.der", ROOT_CRL),
        (f"{SIMULATED}/IntelSGXRootCA.der&customParameter=x", ROOT_CRL),
        (urllib.parse.quote(f"{SIMULATED}/IntelSGXRootCA.der", safe=""), ROOT_CRL),
        (f"{SIMULATED}/sgx/certification/v4/pckcrl?ca=processor&encoding=der", ItemKey.pck_crl("processor")),
        (f"{SIMULATED}/sgx/certification/v3/pckcrl?ca=platform", ItemKey.pck_crl("platform")),
    ],
)
def test_a_crl_by_its_address_which_is_not_escaped(served: Bench, uri: str, key: ItemKey):
    answer = served.get(f"{SGX4}/crl?uri={uri}")
    assert (answer.status_code, answer.content) == (200, HELD[key].body)


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "https://certificates.trustedservices.intel.com/IntelSGXRootCA.der",  # this service is for another root
        "http://169.254.169.254/latest/meta-data/",
        f"{SIMULATED}@evil.example/IntelSGXRootCA.der",
        f"{SIMULATED}/IntelSGXRootCA.der.evil.example",
        f"{SIMULATED}/../IntelSGXRootCA.der",
        f"{SIMULATED}/sgx/certification/v4/pckcrl?ca=nobody",
        "file:///etc/passwd",
        "a" * 2049,
    ],
)
def test_other_addresses_are_refused_and_asked_of_nobody(served: Bench, uri: str):
    answer = served.get(f"{SGX4}/crl?uri={uri}")
    assert (answer.status_code, answer.headers[CODE]) == (400, "pcs.parameter")
    assert served.source.asked == []


INTEL, API = "https://certificates.trustedservices.intel.com", "https://api.trustedservices.intel.com"


@pytest.mark.parametrize(
    ("uri", "key"),
    [
        (f"{INTEL}/IntelSGXRootCA.der", ROOT_CRL),
        (f"{INTEL}/IntelSGXRootCA.crl", ROOT_CRL),
        (f"{API}/sgx/certification/v4/pckcrl?ca=platform&encoding=der", ItemKey.pck_crl("platform")),
        (f"{API}/sgx/certification/v3/pckcrl?ca=processor&encoding=der", ItemKey.pck_crl("processor")),
    ],
)
def test_intels_addresses_are_those_of_intels_root(uri: str, key: ItemKey):
    request = Request({"type": "http", "query_string": b"other=1&uri=" + uri.encode(), "headers": []})
    assert queries.crl_by_uri(request, simulated=False) == key
    with pytest.raises(FormatError):
        queries.crl_by_uri(request, simulated=True)


def test_families_of_one_kind_or_all(served: Bench):
    both = [{"fmspc": FMSPC_TEXT, "platform": "E5"}, {"fmspc": "00606a000000", "platform": "client"}]
    assert served.get(f"{SGX4}/fmspcs").json() == both
    assert served.get(f"{SGX4}/fmspcs?platform=all").json() == both
    assert served.get(f"{SGX4}/fmspcs?platform=E5").json() == both[:1]
    assert served.get(f"{SGX4}/fmspcs?platform=E3").json() == []


@pytest.mark.parametrize(
    "path",
    [
        f"{SGX4}/tcb",
        f"{SGX4}/tcb?fmspc=00",
        f"{SGX4}/tcb?fmspc=00606A00000G",
        f"{SGX4}/tcb?fmspc={FMSPC}&update=late",
        f"{SGX4}/tcb?fmspc={FMSPC}&update=early&tcbEvaluationDataNumber=17",
        f"{SGX4}/tcb?fmspc={FMSPC}&tcbEvaluationDataNumber=-1",
        f"{SGX4}/qe/identity?update=late",  # 500 with PCCS
        f"{SGX4}/qve/identity?update=",
        f"{TDX4}/qe/identity?update=late",
        f"{SGX4}/pckcrl",
        f"{SGX4}/pckcrl?ca=root",
        f"{SGX4}/pckcrl?ca=platform&encoding=base64",
        f"{SGX4}/fmspcs?platform=E7",
        f"{SGX4}/crl",
        f"{SGX4}/appraisalpolicy?fmspc=1",
    ],
)
def test_parameters_that_are_wrong_are_400(served: Bench, path: str):
    answer = served.get(path)
    assert (answer.status_code, answer.headers[CODE]) == (400, "pcs.parameter")
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.text.count("\n") == 1
    assert served.source.asked == []


def test_of_a_repeated_parameter_the_first_counts(served: Bench):
    answer = served.get(f"{SGX4}/pckcrl?ca=platform&ca=nobody&encoding=der&encoding=x")
    assert answer.content == HELD[ItemKey.pck_crl("platform")].body


def test_what_no_source_has_is_404_and_names_what_missed(served: Bench):
    answer = served.get(f"{SGX4}/tcb?fmspc=0123456789AB")
    assert (answer.status_code, answer.headers[CODE]) == (404, "collateral.unknown")
    assert "sgx:tcb-info:0123456789ab:standard" in answer.text
    assert answer.headers["cache-control"] == "no-store"


def test_a_generation_by_its_number(served: Bench):
    key = ItemKey.tcb_info(Tee.SGX, FMSPC, "17")
    served.source.held[key] = HELD[ItemKey.tcb_info(Tee.SGX, FMSPC)]
    answer = served.get(f"{SGX4}/tcb?fmspc={FMSPC}&tcbEvaluationDataNumber=17")
    assert (answer.status_code, answer.content) == (200, served.source.held[key].body)


@pytest.mark.parametrize(
    ("number", "status", "code"), [(16, 410, "collateral.withdrawn"), (18, 404, "collateral.unknown")]
)
@pytest.mark.parametrize("path", [f"{SGX4}/tcb?fmspc={FMSPC}&", f"{TDX4}/qe/identity?", f"{SGX4}/qve/identity?"])
def test_a_number_that_was_withdrawn_is_told_from_one_that_never_was(
    served: Bench, path: str, number: int, status: int, code: str
):
    answer = served.get(f"{path}tcbEvaluationDataNumber={number}")
    assert (answer.status_code, answer.headers[CODE]) == (status, code)


def test_a_document_that_would_crash_intels_client_is_not_served(served: Bench, monkeypatch: pytest.MonkeyPatch):
    path, key = f"{SGX4}/tcb?fmspc={FMSPC}", ItemKey.tcb_info(Tee.SGX, FMSPC)
    size = len(HELD[key].body) + len(pcs.encode_chain(HELD[key].issuer_chain))
    assert pcs.MAX_DOCUMENT_AND_CHAIN == 65_533
    monkeypatch.setattr(pcs, "MAX_DOCUMENT_AND_CHAIN", size)
    assert served.get(path).status_code == 200
    monkeypatch.setattr(pcs, "MAX_DOCUMENT_AND_CHAIN", size - 1)
    answer = served.get(path)
    assert (answer.status_code, answer.headers[CODE]) == (502, "collateral.too-long")


@pytest.mark.parametrize(
    ("left", "expected"),
    [(dt.timedelta(days=10), 3600), (dt.timedelta(seconds=90), 90), (dt.timedelta(0), 0)],
)
def test_an_answer_is_kept_no_longer_than_it_is_good(served: Bench, left: dt.timedelta, expected: int):
    path = f"{SGX4}/qe/identity"
    served.get(path)
    item = served.service.store.get(ItemKey.identity(Tee.SGX))
    assert item is not None
    served.clock.time = item.next_update - left
    assert served.get(path).headers["cache-control"] == f"max-age={expected}"


def test_what_has_ended_is_503_with_a_time_to_come_again(served: Bench):
    path = f"{SGX4}/qe/identity"
    served.get(path)
    served.clock.time = NOW + dt.timedelta(days=60)
    answer = served.get(path)
    assert (answer.status_code, answer.headers[CODE]) == (503, "collateral.stale")
    assert int(answer.headers["retry-after"]) >= 1


def test_what_is_served_beyond_its_end_says_so(tmp_path: Path):
    settings = CacheSettings(dangerously_serve_expired=dt.timedelta(days=60))
    with bench(tmp_path, settings=settings) as served:
        path = f"{SGX4}/qe/identity"
        assert "warning" not in served.get(path).headers
        served.clock.time = NOW + dt.timedelta(days=50)
        answer = served.get(path)
    assert (answer.status_code, answer.headers["cache-control"]) == (200, "max-age=0")
    assert answer.headers["warning"] == '110 kubenclave "dangerously_serve_expired"'


def test_a_source_that_throttles_is_503_with_its_time(served: Bench):
    served.source.fails = SourceError(
        "the source wants a rest", code="source.rate-limited", retry_after=dt.timedelta(seconds=77)
    )
    answer = served.get(f"{SGX4}/rootcacrl")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "77")
    assert answer.headers[CODE] == "source.rate-limited"


def test_who_asks_too_often_gets_the_status_on_which_intels_client_tries_again(tmp_path: Path):
    with bench(tmp_path, rate=Rate(0.1, 2)) as served:
        statuses = [served.get(f"{SGX4}/rootcacrl").status_code for _ in range(2)]
        answer = served.get(f"{SGX4}/rootcacrl")
    assert statuses == [200, 200]
    assert (answer.status_code, answer.headers[CODE]) == (503, "limits.rate")
    assert 1 <= int(answer.headers["retry-after"]) <= 10


def test_what_does_not_verify_is_460(served: Bench):
    key = ItemKey.tcb_info(Tee.SGX, FMSPC)
    served.source.held[key] = Fetched(HELD[key].body.replace(b"UpToDate", b"Revoked"), HELD[key].issuer_chain)
    answer = served.get(f"{SGX4}/tcb?fmspc={FMSPC}")
    assert (answer.status_code, answer.headers[CODE]) == (460, "tcb-info.signature")


def test_what_a_source_garbles_is_502(served: Bench):
    key = ItemKey.identity(Tee.SGX)
    served.source.held[key] = Fetched(b"not JSON", HELD[key].issuer_chain)
    assert served.get(f"{SGX4}/qe/identity").status_code == 502


@pytest.mark.parametrize("accept", ["application/problem+json", "text/html, application/json;q=0.9"])
def test_a_problem_document_only_for_who_asks_for_one(served: Bench, accept: str):
    answer = served.get(f"{SGX4}/tcb?fmspc=1", headers={"Accept": accept})
    assert answer.headers["content-type"] == "application/problem+json"
    assert (answer.json()["status"], answer.json()["code"], answer.json()["field"]) == (400, "pcs.parameter", "fmspc")
    assert served.get(f"{SGX4}/tcb?fmspc=1", headers={"Accept": "*/*"}).headers["content-type"].startswith("text/plain")


def test_the_id_of_a_request_comes_back(served: Bench):
    assert served.get(f"{SGX4}/rootcacrl", headers={"Request-ID": "abc-1"}).headers["Request-ID"] == "abc-1"
    assert len(served.get(f"{SGX4}/rootcacrl").headers["Request-ID"]) == 32


def test_the_status_tells_age_and_reason_of_every_item(served: Bench):
    served.get(f"{SGX4}/qe/identity")
    served.source.fails = SourceError("the name of the source is not known", code="source.dns")
    served.get(f"{SGX4}/tcb?fmspc={FMSPC}")
    status = served.get("/v1/collateral/status").json()
    assert (status["simulated"], status["at"]) == (True, "2026-03-05T12:00:00Z")
    items = {each["item"]: each for each in status["items"]}
    good = items["sgx:identity:qe:standard"]
    assert (good["state"], good["tcb_evaluation_data_number"], good["source"]) == ("current", 17, "fixed")
    assert good["last_success"] == status["at"]
    bad = items[f"sgx:tcb-info:{FMSPC_TEXT}:standard"]
    assert (bad["state"], bad["last_error"]["code"], bad["failures"]) == ("absent", "source.dns", 1)
    assert status["sources"][0]["source"] == "fixed"
    assert status["queue"] == {"new": 0, "not-available": 0}


def test_names_that_are_made_up_do_not_fill_the_status(served: Bench):
    served.get(f"{SGX4}/tcb?fmspc={FMSPC}")
    for number in range(150):
        assert served.get(f"{SGX4}/tcb?fmspc={number:012x}").status_code == 404
    items = served.get("/v1/collateral/status").json()["items"]
    assert [each["state"] for each in items].count("unknown") == 100
    assert f"sgx:tcb-info:{FMSPC_TEXT}:standard" in {each["item"] for each in items}


@pytest.mark.parametrize("path", ["/nothing", f"{SGX4}/nothing", f"{TDX4}/qve/identity", f"{TDX4}/rootcacrl"])
def test_there_is_nothing_else(served: Bench, path: str):
    assert served.get(path).status_code == 404
