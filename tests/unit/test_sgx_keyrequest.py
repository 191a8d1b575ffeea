# SPDX-License-Identifier: Apache-2.0
"""KEYREQUEST."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubenclave.errors import FormatError
from kubenclave.sgx.attributes import Attributes
from kubenclave.sgx.keyrequest import KeyName, KeyPolicy, KeyRequest

REQUEST = KeyRequest(key_name=KeyName.SEAL, key_policy=KeyPolicy.MRSIGNER, isv_svn=3, misc_mask=0xF0000000)


def test_fields_stand_where_the_specification_has_them() -> None:
    data = REQUEST.build()
    assert data[:8] == bytes.fromhex("0400020003000000")
    assert data[72:76] == bytes.fromhex("000000f0")
    assert len(data) == 512


@pytest.mark.parametrize("position", [7, 78, 511])
def test_reserved_bytes_must_be_zero(position: int) -> None:
    data = bytearray(REQUEST.build())
    data[position] = 1
    with pytest.raises(FormatError) as caught:
        KeyRequest.parse(bytes(data))
    assert caught.value.code == "format.reserved"


@given(
    st.builds(
        KeyRequest,
        key_name=st.integers(0, 65535),
        key_policy=st.integers(0, 65535),
        isv_svn=st.integers(0, 65535),
        cet_attributes_mask=st.integers(0, 255),
        cpu_svn=st.binary(min_size=16, max_size=16),
        attribute_mask=st.builds(Attributes, st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1)),
        key_id=st.binary(min_size=32, max_size=32),
        misc_mask=st.integers(0, 2**32 - 1),
        config_svn=st.integers(0, 65535),
    )
)
def test_build_and_parse_are_inverse(request_: KeyRequest) -> None:
    assert KeyRequest.parse(request_.build()) == request_
