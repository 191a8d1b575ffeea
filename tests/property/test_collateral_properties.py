# SPDX-License-Identifier: Apache-2.0
"""The choice of a PCK certificate, and that copies never go backwards, whatever comes."""

import datetime as dt
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from hypothesis import given
from hypothesis import strategies as st

from kubenclave.dcap.pckext import PckExtension
from kubenclave.errors import TrustError
from kubenclave.platform.simulated.tcb import FMSPC
from kubenclave.services.collateral.items import Item, ItemKey, Tee
from kubenclave.services.collateral.pckselection import PckCertificate, choose
from tests.clock import Clock
from tests.collateral_world import NOW, stored

SVNS = st.tuples(st.lists(st.integers(0, 3), min_size=16, max_size=16), st.integers(10, 13))


@dataclass(frozen=True)
class Extension:
    """As much of an extension as the choice looks at."""

    components: tuple[int, ...]
    pce_svn: int

    @property
    def cpu_svn(self) -> bytes:
        return bytes(self.components)


def certificate(components: list[int], pce_svn: int) -> PckCertificate:
    extension = cast("PckExtension", Extension(tuple(components), pce_svn))
    return PckCertificate(b"", b"", bytes(components) + pce_svn.to_bytes(2, "little"), extension, "platform")


@given(st.lists(SVNS, max_size=8), SVNS)
def test_what_is_chosen_is_not_above_the_platform_and_no_candidate_is_above_it(
    held: list[tuple[list[int], int]], platform: tuple[list[int], int]
):
    certificates = [certificate(*each) for each in held]
    components, pce_svn = platform
    chosen = choose(certificates, bytes(components), pce_svn, None)
    own = (*components, pce_svn)
    all_svns = [(*each.extension.components, each.extension.pce_svn) for each in certificates]
    candidates = [each for each in all_svns if all(one <= other for one, other in zip(each, own, strict=True))]
    assert (chosen is None) is (not candidates)
    if chosen is not None:
        assert (*chosen.extension.components, chosen.extension.pce_svn) == max(candidates)


@given(st.lists(st.tuples(st.integers(15, 19), st.integers(0, 20)), min_size=1, max_size=12))
def test_generation_and_date_never_go_backwards(offers: list[tuple[int, int]]):
    key = ItemKey.tcb_info(Tee.SGX, FMSPC.hex())
    base = Item(key, b"", b"", NOW, NOW, 0, "x", NOW)
    with tempfile.TemporaryDirectory() as folder, stored(Path(folder), Clock(NOW)) as store:
        seen = []
        for number, day in offers:
            issued = NOW + dt.timedelta(days=day)
            before = store.get(key)
            better = before is None or (number >= before.number and issued >= before.issued)
            try:
                store.put(replace(base, number=number, issued=issued))
            except TrustError:
                assert not better
                assert store.get(key) == before
            else:
                assert better
                seen.append((number, issued))
    assert [number for number, _ in seen] == sorted(number for number, _ in seen)
    assert [issued for _, issued in seen] == sorted(issued for _, issued in seen)
