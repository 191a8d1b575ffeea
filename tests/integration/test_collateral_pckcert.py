# SPDX-License-Identifier: Apache-2.0
"""PCK certificates in the forms of PCS: all of a platform, by manifest or by encrypted PPID; and what is refused."""

import json
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import pytest

from kubenclave.services.collateral.sources.base import PckAnswer
from kubenclave.wire import pcs
from tests.collateral_service import Bench, bench
from tests.pccsadmin import ISSUERS, LEAF, QE_ID, TCBM

V4, V3 = "/sgx/certification/v4", "/sgx/certification/v3"
CODE = "kubenclave-error-code"
HIGHER = bytes([255]) * 18
ANSWER = PckAnswer((pcs.PckEntry(TCBM, LEAF), pcs.PckEntry(HIGHER, None)), b"".join(ISSUERS))
PPID = "ab" * 384
TCB = f"cpusvn={TCBM[:16].hex()}&pcesvn={TCBM[16:].hex()}&pceid=0000"
MANIFEST = {
    "platformManifest": "a1b2c3",
    "cpusvn": TCBM[:16].hex(),
    "pcesvn": TCBM[16:].hex(),
    "pceid": "0000",
}


class Anybody(dict[str, PckAnswer]):
    """Certificates for whoever asks."""

    def __contains__(self, key: object) -> bool:
        return True

    def __getitem__(self, key: str) -> PckAnswer:
        return ANSWER


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Bench]:
    with bench(tmp_path) as made:
        made.source.certificates = Anybody()
        yield made


@pytest.mark.parametrize("mount", [V4, V3])
@pytest.mark.parametrize("path", ["pckcerts", "pckcerts/config"])
@pytest.mark.parametrize("who", [f"qeid={QE_ID}", f"encrypted_ppid={PPID}"])
def test_all_certificates_of_a_platform(served: Bench, mount: str, path: str, who: str):
    answer = served.get(f"{mount}/{path}?{who}&pceid=0000")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    entries = {each["tcbm"]: each for each in answer.json()}
    assert urllib.parse.unquote(entries[TCBM.hex()]["cert"]).encode() == LEAF
    assert entries[TCBM.hex()]["tcb"]["pcesvn"] == int.from_bytes(TCBM[16:], "little")
    assert entries[HIGHER.hex()]["cert"] == "Not available"
    assert pcs.decode_chain(answer.headers["SGX-PCK-Certificate-Issuer-Chain"]) == b"".join(ISSUERS)
    assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("path", ["pckcert", "pckcerts", "pckcerts/config"])
def test_a_platform_by_its_manifest(served: Bench, path: str):
    answer = served.call("POST", f"{V4}/{path}", content=json.dumps(MANIFEST))
    assert answer.status_code == 200
    assert (answer.content == LEAF) is (path == "pckcert")


def test_a_platform_by_its_encrypted_ppid(served: Bench):
    answer = served.get(f"{V4}/pckcert?encrypted_ppid={PPID}&{TCB}")
    assert (answer.status_code, answer.content) == (200, LEAF)
    assert answer.headers["SGX-TCBm"] == TCBM.hex().upper()


@pytest.mark.parametrize(
    "query",
    [
        TCB,
        f"encrypted_ppid={'00' * 384}&{TCB}",
        f"qeid={'a' * 261}&{TCB}",
        f"qeid=a%0Ab&{TCB}",
        f"qeid={QE_ID}&encrypted_ppid=00&{TCB}",
        f"qeid={QE_ID}",
        f"qeid={QE_ID}&cpusvn=00&pcesvn=0000&pceid=0000",
        f"qeid={QE_ID}&cpusvn={'0g' * 16}&pcesvn=0000&pceid=0000",
    ],
)
def test_what_names_no_platform_is_400_and_not_repeated(served: Bench, query: str):
    answer = served.get(f"{V4}/pckcert?{query}")
    assert (answer.status_code, answer.headers[CODE]) == (400, "pcs.parameter")
    assert QE_ID not in answer.text


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "json.malformed"),
        (b"[]", "pcs.parameter"),
        (json.dumps({**MANIFEST, "platformManifest": "xyz"}).encode(), "pcs.parameter"),
        (json.dumps({**MANIFEST, "platformManifest": 7}).encode(), "pcs.parameter"),
        (json.dumps({**MANIFEST, "pceid": ""}).encode(), "pcs.parameter"),
        (json.dumps({**MANIFEST, "cpusvn": ""}).encode(), "pcs.parameter"),
    ],
)
def test_what_is_no_manifest_is_400(served: Bench, body: bytes, code: str):
    answer = served.call("POST", f"{V4}/pckcert", content=body)
    assert (answer.status_code, answer.headers[CODE]) == (400, code)


def test_a_platform_that_nobody_knows_is_461(served: Bench):
    served.source.certificates = {}
    for path in ("pckcert", "pckcerts"):
        answer = served.get(f"{V4}/{path}?qeid={QE_ID}&{TCB}")
        assert (answer.status_code, answer.headers[CODE]) == (461, "pck.unknown-platform")


def test_native_routes_tell_of_renewal_and_of_what_is_to_come(served: Bench):
    assert served.get(f"{V4}/pckcert?qeid={QE_ID}&{TCB}").status_code == 200
    outcome = served.call("POST", "/v1/collateral/refresh", headers=served.admin).json()
    assert outcome["failures"] == []
    assert outcome["renewed"] >= 2
    (platform,) = served.get("/v1/collateral/forecast", headers=served.admin).json()["platforms"]
    assert platform["today"]["status"] == "UpToDate"
    for method, path in (("POST", "refresh"), ("GET", "forecast")):
        answer = served.call(method, f"/v1/collateral/{path}")
        assert (answer.status_code, answer.json()["code"]) == (401, "credentials.missing")
