# SPDX-License-Identifier: Apache-2.0
"""Which level is reached, and whether the quoting enclave and the TDX module are the ones described."""

import datetime as dt
from typing import Any

import pytest

from kubenclave.dcap.documents import EnclaveIdentity, TcbInfo, TcbLevel
from kubenclave.dcap.evaluate import TcbEvaluation, evaluate_qe, evaluate_sgx, evaluate_tdx
from kubenclave.dcap.pckext import PckCa
from kubenclave.dcap.tcb import TcbStatus
from kubenclave.errors import TrustError
from kubenclave.platform.simulated.documents import compact
from kubenclave.platform.simulated.tcb import PlatformSvns, PlatformTcb
from kubenclave.sgx.attributes import Attributes
from vectors.scene import extension, scene, sgx_body, td_body, td_body15

DATE = dt.datetime(2025, 1, 1, tzinfo=dt.UTC)
QE = TcbLevel((8,), TcbStatus.UP_TO_DATE, ("INTEL-SA-00001",), DATE)
SGX_INFO = TcbInfo.parse(compact(scene("sgx-v3").tcb_info))
TDX_INFO = TcbInfo.parse(compact(scene("tdx-v4").tcb_info))
UP_TO_DATE = PlatformTcb.UP_TO_DATE.svns


def platform(svns: PlatformSvns = UP_TO_DATE):
    return extension(svns, PckCa.PLATFORM)


@pytest.mark.parametrize("state", list(PlatformTcb)[:6], ids=str)
def test_each_state_reaches_its_own_level(state):
    evaluation = evaluate_sgx(platform(state.svns), SGX_INFO, QE)
    assert evaluation.platform.svns == (*state.svns.components, state.svns.pce_svn)
    assert evaluation.status.lower() == state.replace("-", "")


def test_levels_of_an_sgx_platform_are_two():
    evaluation = evaluate_sgx(platform(), SGX_INFO, QE)
    assert evaluation.levels == (SGX_INFO.levels[0], QE)


def test_levels_of_a_tdx_platform_with_a_module_of_its_own_identity_are_three():
    body = td_body(tee_tcb_svn=bytes((5, 1, 8)).ljust(16, b"\0"))
    evaluation = evaluate_tdx(body, platform(), TDX_INFO, QE)
    assert evaluation.levels == (TDX_INFO.levels[0], QE, TDX_INFO.module_identities["TDX_01"].levels[0])


def test_a_module_of_version_0_has_no_level_of_its_own():
    assert evaluate_tdx(td_body(), platform(), TDX_INFO, QE).tdx_module is None


@pytest.mark.parametrize("index", range(17))
def test_every_svn_has_to_be_reached(index):
    lowest = SGX_INFO.levels[-1].svns
    if lowest[index] == 0:
        svns = list(SGX_INFO.levels[0].svns)
        svns[index] = 0
        assert evaluate_sgx(platform(PlatformSvns(tuple(svns[:16]), svns[16])), SGX_INFO, QE).levels
        return
    svns = [255] * 16 + [65535]
    svns[index] = lowest[index] - 1
    with pytest.raises(TrustError) as refusal:
        evaluate_sgx(platform(PlatformSvns(tuple(svns[:16]), svns[16])), SGX_INFO, QE)
    assert refusal.value.code == "tcb.not-supported"
    assert refusal.value.found == ".".join(map(str, svns))


@pytest.mark.parametrize("index", range(16))
@pytest.mark.parametrize("version", [0, 1])
def test_tdx_components_are_all_looked_at_but_those_of_a_module_with_an_identity(index, version):
    tee_tcb_svn = bytearray(b"\xff" * 16)
    tee_tcb_svn[1] = version
    first = TDX_INFO.levels[0]
    wanted = [7] * 16
    wanted[1] = 0
    wanted[index] = 200
    info = TcbInfo.parse(compact(_one_level(wanted)))
    tee_tcb_svn[index] = 199 if index != 1 else version
    body = td_body(tee_tcb_svn=bytes(tee_tcb_svn))
    if version and index < 2:
        assert evaluate_tdx(body, platform(), info, QE).platform.status is first.status
    else:
        with pytest.raises(TrustError) as refusal:
            evaluate_tdx(body, platform(), info, QE)
        assert refusal.value.code == "tcb.not-supported"


def _one_level(tdx_components: list[int]) -> dict[str, Any]:
    document = scene("tdx-v4").tcb_info
    level = document["tcbLevels"][0]
    tcb = {**level["tcb"], "tdxtcbcomponents": [{"svn": svn} for svn in tdx_components]}
    return {**document, "tcbLevels": [{**level, "tcb": tcb}]}


def test_relaunch_reports_the_levels_of_the_launch():
    old, new = bytes((3, 1, 8)).ljust(16, b"\0"), bytes((5, 1, 8)).ljust(16, b"\0")
    evaluation = evaluate_tdx(td_body15(tee_tcb_svn=old, tee_tcb_svn_2=new), platform(), TDX_INFO, QE)
    assert evaluation.status is TcbStatus.TD_RELAUNCH_ADVISED
    assert evaluation.tdx_module == TDX_INFO.module_identities["TDX_01"].levels[1]


def identity(**changes) -> EnclaveIdentity:
    return EnclaveIdentity.parse(compact({**scene("sgx-v3").qe_identity, **changes}))


def qe_report(**changes):
    return sgx_body(**{**scene("sgx-v3").qe, **changes})


@pytest.mark.parametrize(("svn", "level"), [(65535, 8), (9, 8), (8, 8), (7, 6), (6, 6), (5, 2), (2, 2), (1, 1)])
def test_the_highest_level_of_the_quoting_enclave_that_is_reached(svn, level):
    assert evaluate_qe(qe_report(isv_svn=svn), identity()).svns == (level,)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        pytest.param({"misc_select": 1 << 31}, "MISCSELECT", id="miscselect"),
        pytest.param({"attributes": Attributes(0x17, 3)}, "ATTRIBUTES", id="debug"),
        pytest.param({"attributes": Attributes(0x15 | 1 << 63, 3)}, "ATTRIBUTES", id="unknown-flag"),
        pytest.param({"mr_signer": bytes(32)}, "MRSIGNER", id="mrsigner"),
        pytest.param({"isv_prod_id": 2}, "ISVPRODID", id="isvprodid"),
    ],
)
def test_a_quoting_enclave_that_differs_is_named_by_the_field(changes, field):
    with pytest.raises(TrustError) as refusal:
        evaluate_qe(qe_report(**changes), identity())
    assert (refusal.value.code, refusal.value.field) == ("qe-identity.mismatch", field)


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"miscselectMask": "FEFFFFFF"}, id="miscselect"),
        pytest.param({"attributesMask": "F9FFFFFFFFFFFFFF0000000000000000"}, id="attributes"),
    ],
)
def test_bits_outside_the_mask_do_not_count(changes):
    report = qe_report(misc_select=int("miscselectMask" in changes), attributes=Attributes(0x15, 0xFF))
    assert evaluate_qe(report, identity(**changes)).svns == (8,)


def test_the_identitys_own_value_is_not_masked():
    with pytest.raises(TrustError):
        evaluate_qe(qe_report(), identity(attributes="15" + "00" * 15))


def test_an_evaluation_without_a_module_says_so():
    assert TcbEvaluation(TcbStatus.UP_TO_DATE, QE, QE).tdx_module is None
