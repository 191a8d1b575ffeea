# SPDX-License-Identifier: Apache-2.0
"""TD report bodies: every field from its offset in the specification."""

import pytest

from kubenclave.errors import FormatError
from kubenclave.sgx.tdreport import TdReport10, TdReport15, TdReport15Ex
from tests.samples import pattern

KINDS = [(TdReport10, 584), (TdReport15, 648), (TdReport15Ex, 885)]
FIELDS = [
    ("tee_tcb_svn", 0, 16),
    ("mr_seam", 16, 48),
    ("mr_signer_seam", 64, 48),
    ("seam_attributes", 112, 8),
    ("td_attributes", 120, 8),
    ("xfam", 128, 8),
    ("mr_td", 136, 48),
    ("mr_config_id", 184, 48),
    ("mr_owner", 232, 48),
    ("mr_owner_config", 280, 48),
    ("rtmr0", 328, 48),
    ("rtmr1", 376, 48),
    ("rtmr2", 424, 48),
    ("rtmr3", 472, 48),
    ("report_data", 520, 64),
    ("tee_tcb_svn_2", 584, 16),
    ("mr_service_td", 600, 48),
    ("vm_id", 648, 1),
    ("td_id", 649, 32),
    ("device_info", 681, 48),
    ("init_service_td_hash", 729, 48),
    ("init_service_td_attributes", 777, 8),
    ("init_cpu_svn", 785, 16),
    ("init_tee_tcb_svn", 801, 16),
    ("init_tee_fmspc", 817, 12),
    ("current_service_td_hash", 829, 48),
    ("current_service_td_attributes", 877, 8),
]


@pytest.mark.parametrize(("kind", "size"), KINDS, ids=["1.0", "1.5", "1.5-ex"])
def test_fields_stand_where_the_specification_has_them(kind: type[TdReport10], size: int) -> None:
    data = pattern("td", size)
    report = kind.parse(data)
    here = [(name, start, length) for name, start, length in FIELDS if start < size]
    assert sum(length for _, _, length in here) == size
    for name, start, length in here:
        value = getattr(report, name)
        found = value if isinstance(value, bytes) else value.to_bytes(length, "little")
        assert (name, found) == (name, data[start : start + length])
    assert report.build() == data


@pytest.mark.parametrize(("kind", "size"), KINDS, ids=["1.0", "1.5", "1.5-ex"])
@pytest.mark.parametrize("difference", [-1, 1])
def test_other_sizes_are_refused(kind: type[TdReport10], size: int, difference: int) -> None:
    with pytest.raises(FormatError) as caught:
        kind.parse(bytes(size + difference))
    assert caught.value.code == "format.size"


@pytest.mark.parametrize(
    ("attributes", "debug"),
    [(0, False), *((1 << bit, True) for bit in range(8)), (1 << 28, False), (2**64 - 256, False)],
)
def test_the_lowest_byte_and_only_it_means_under_debug(attributes: int, debug: bool) -> None:
    data = bytes(120) + attributes.to_bytes(8, "little") + bytes(456)
    assert TdReport10.parse(data).debug is debug
