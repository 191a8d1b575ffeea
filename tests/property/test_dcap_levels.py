# SPDX-License-Identifier: Apache-2.0
"""Level matching against the definition: the highest level of which every SVN is reached, in any order of levels."""

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubenclave.dcap.documents import TcbInfo, TcbLevel
from kubenclave.dcap.evaluate import evaluate_sgx
from kubenclave.dcap.pckext import PckCa
from kubenclave.dcap.tcb import TcbStatus
from kubenclave.errors import TrustError
from kubenclave.platform.simulated.documents import compact
from kubenclave.platform.simulated.tcb import PlatformSvns
from vectors.scene import AT, extension, scene

SVN = st.integers(0, 3)
SVNS = st.tuples(*[SVN] * 17)
QE = TcbLevel((8,), TcbStatus.UP_TO_DATE, (), AT)
DOCUMENT = scene("sgx-v3").tcb_info


def with_levels(levels: list[tuple[int, ...]]) -> TcbInfo:
    document: dict[str, Any] = copy.deepcopy(DOCUMENT)
    first = document["tcbLevels"][0]
    document["tcbLevels"] = [
        {**first, "tcb": {"sgxtcbcomponents": [{"svn": svn} for svn in svns[:16]], "pcesvn": svns[16]}}
        for svns in levels
    ]
    return TcbInfo.parse(compact(document))


@given(levels=st.lists(SVNS, min_size=1, max_size=12, unique=True), platform=SVNS)
def test_the_highest_level_that_is_reached(levels, platform):
    reached = [level for level in levels if all(have >= want for have, want in zip(platform, level, strict=True))]
    certificate = extension(PlatformSvns(platform[:16], platform[16]), PckCa.PLATFORM)
    if reached:
        assert evaluate_sgx(certificate, with_levels(levels), QE).platform.svns == max(reached)
    else:
        with pytest.raises(TrustError) as refusal:
            evaluate_sgx(certificate, with_levels(levels), QE)
        assert refusal.value.code == "tcb.not-supported"


@given(levels=st.lists(SVNS, min_size=1, max_size=6, unique=True), data=st.data())
def test_the_order_of_levels_in_the_document_does_not_matter(levels, data):
    shuffled = data.draw(st.permutations(levels))
    assert with_levels(shuffled).levels == with_levels(levels).levels
