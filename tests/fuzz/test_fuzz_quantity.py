# SPDX-License-Identifier: Apache-2.0
"""Quantities raise FormatError and nothing else, whatever the text."""

import contextlib

from hypothesis import given
from hypothesis import strategies as st

from kubenclave.errors import FormatError
from kubenclave.sgx.epc import Quantity

TEXT = st.one_of(st.text(), st.text(alphabet="0123456789.+-eEinumkKMGTPi", max_size=140))


@given(value=st.one_of(TEXT, st.integers(), st.floats(), st.none(), st.booleans(), st.binary()))
def test_quantity_raises_only_format_errors(value: object) -> None:
    with contextlib.suppress(FormatError):
        assert Quantity.parse(str(Quantity.parse(value))) is not None
