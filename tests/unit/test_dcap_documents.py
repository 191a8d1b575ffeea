# SPDX-License-Identifier: Apache-2.0
"""TCB info and QE identity as read documents. What is malformed about them is in the vectors; here are the values."""

import datetime as dt
import json
from typing import Any

import pytest

from kubenclave.dcap.documents import EnclaveIdentity, TcbInfo
from kubenclave.dcap.tcb import TcbStatus
from kubenclave.errors import FormatError
from kubenclave.platform.simulated.documents import LEVELS, MODULE_LEVELS, QE_LEVELS, compact
from kubenclave.platform.simulated.enclaves import MR_SIGNER
from kubenclave.platform.simulated.tcb import FMSPC, PCE_ID
from kubenclave.sgx.quote import TeeType
from vectors.reader import read
from vectors.scene import PERIODS, scene


def sgx() -> dict[str, Any]:
    return scene("sgx-v3").tcb_info


def tdx() -> dict[str, Any]:
    return scene("tdx-v4").tcb_info


def identity() -> dict[str, Any]:
    return scene("sgx-v3").qe_identity


def test_tcb_info_of_an_sgx_platform():
    info = TcbInfo.parse(compact(sgx()))
    assert (info.tee, info.fmspc, info.pce_id) == (TeeType.SGX, FMSPC, PCE_ID)
    assert (info.issue_date, info.next_update) == (PERIODS.issued, PERIODS.ends)
    assert info.tcb_evaluation_data_number == 17
    assert (info.module, info.module_identities) == (None, {})
    assert [level.svns for level in info.levels] == [(*each.svns.components, each.svns.pce_svn) for each in LEVELS]
    assert [(level.status, level.advisories, level.tcb_date) for level in info.levels] == [
        (each.status, each.advisories, each.tcb_date) for each in LEVELS
    ]


def test_tcb_info_of_a_tdx_platform():
    info = TcbInfo.parse(compact(tdx()))
    assert info.tee is TeeType.TDX
    assert info.levels[0].svns == (*LEVELS[0].svns.components, LEVELS[0].svns.pce_svn, *LEVELS[0].tdx)
    assert info.module is not None
    assert (info.module.mr_signer, info.module.attributes, info.module.levels) == (bytes(48), bytes(8), ())
    assert info.module_identities.keys() == {"TDX_01", "TDX_03"}
    assert [level.svns for level in info.module_identities["TDX_01"].levels] == [(e.isv_svn,) for e in MODULE_LEVELS]


def test_qe_identity():
    read_back = EnclaveIdentity.parse(compact(identity()))
    assert (read_back.tee, read_back.mr_signer, read_back.isv_prod_id) == (TeeType.SGX, MR_SIGNER, 1)
    assert (read_back.misc_select, read_back.misc_select_mask) == (0, 0xFFFFFFFF)
    assert (read_back.attributes, read_back.attributes_mask) == (0x11, 0xFFFFFFFFFFFFFFFB)
    assert [level.svns for level in read_back.levels] == [(each.isv_svn,) for each in QE_LEVELS]


def test_masks_are_little_endian_memory_bytes():
    document = {**identity(), "miscselect": "01020304", "attributes": "0100000000000000" + "0200000000000000"}
    read_back = EnclaveIdentity.parse(compact(document))
    assert read_back.misc_select == 0x04030201
    assert read_back.attributes == 1 | 2 << 64


def test_levels_come_out_from_the_highest_down():
    document = sgx()
    document["tcbLevels"] = document["tcbLevels"][3:] + document["tcbLevels"][:3]
    assert TcbInfo.parse(compact(document)).levels == TcbInfo.parse(compact(sgx())).levels


def test_pcesvn_decides_among_equal_components_and_tdx_components_after_it():
    document = tdx()
    first = document["tcbLevels"][0]

    def level(pce_svn: int, tdx_svn: int) -> dict[str, Any]:
        components = [{"svn": tdx_svn}, *[{"svn": 0}] * 15]
        return {**first, "tcb": {**first["tcb"], "pcesvn": pce_svn, "tdxtcbcomponents": components}}

    document["tcbLevels"] = [level(5, 9), level(6, 1), level(6, 3), level(6, 2)]
    found = [level.svns[16:18] for level in TcbInfo.parse(compact(document)).levels]
    assert found == [(6, 3), (6, 2), (6, 1), (5, 9)]


def test_version_2_gives_the_same_as_version_3():
    document = sgx()
    del document["id"]
    document["version"] = 2
    for each in document["tcbLevels"]:
        components = each["tcb"].pop("sgxtcbcomponents")
        each["tcb"] |= {f"sgxtcbcomp{n:02}svn": component["svn"] for n, component in enumerate(components, 1)}
    assert TcbInfo.parse(compact(document)) == TcbInfo.parse(compact(sgx()))


def test_dates_with_another_zone_are_the_same_moment():
    document = {**sgx(), "issueDate": "2026-01-14T02:00:00+02:00"}
    assert TcbInfo.parse(compact(document)).issue_date == dt.datetime(2026, 1, 14, tzinfo=dt.UTC)


def test_a_level_without_advisories_has_none():
    assert TcbInfo.parse(compact(sgx())).levels[0].advisories == ()


@pytest.mark.parametrize("status", list(TcbStatus), ids=str)
def test_a_platform_level_has_one_of_seven_statuses(status):
    document = sgx()
    document["tcbLevels"][0]["tcbStatus"] = status.value
    if status.startswith("TDRelaunch"):
        with pytest.raises(FormatError):
            TcbInfo.parse(compact(document))
    else:
        assert TcbInfo.parse(compact(document)).levels[0].status is status


@pytest.mark.parametrize(
    ("parse", "code"), [(TcbInfo.parse, "tcb-info"), (EnclaveIdentity.parse, "qe-identity")], ids=["tcb", "qe"]
)
@pytest.mark.parametrize("value", [None, 1, [], {}, "text", [{}], True], ids=json.dumps)
def test_anything_but_the_document_is_a_format_error(parse, code, value):
    with pytest.raises(FormatError) as refusal:
        parse(json.dumps(value).encode())
    assert refusal.value.code == f"{code}.malformed"


@pytest.mark.parametrize("depth", [33, 900, 100_000])
def test_depth_is_limited_where_the_document_is_read_by_itself(depth):
    text = compact(sgx())[:-1] + b',"a":' + b"[" * depth + b"]" * depth + b"}"
    with pytest.raises(FormatError) as refusal:
        TcbInfo.parse(text)
    assert refusal.value.code == "json.depth"


def test_every_vector_of_a_malformed_document_is_malformed_by_itself():
    names = [v for v in read() if v.code in ("tcb-info.malformed", "qe-identity.malformed")]
    assert len(names) > 80
    for vector in names:
        parts = json.loads(vector.collateral)
        with pytest.raises(FormatError) as refusal:
            TcbInfo.parse(parts["tcb_info"].encode())
            EnclaveIdentity.parse(parts["qe_identity"].encode())
        assert refusal.value.code == vector.code, vector.name


@pytest.mark.parametrize("moment", ["0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59"], ids=["first", "last"])
@pytest.mark.parametrize("name", ["issueDate", "nextUpdate", "tcbDate"])
def test_a_time_that_utc_cannot_tell_is_malformed(moment, name):
    document = sgx()
    (document["tcbLevels"][0] if name == "tcbDate" else document)[name] = moment
    with pytest.raises(FormatError) as refusal:
        TcbInfo.parse(compact(document))
    assert (refusal.value.code, moment in str(refusal.value.found)) == ("tcb-info.malformed", True)


def test_what_verdicts_share_cannot_be_changed():
    identities: Any = TcbInfo.parse(compact(tdx())).module_identities
    with pytest.raises(TypeError):
        identities["TDX_01"] = identities["TDX_03"]
