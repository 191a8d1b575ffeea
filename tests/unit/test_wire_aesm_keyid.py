# SPDX-License-Identifier: Apache-2.0
"""Attestation key ids and lists of them."""

import pytest

from kubenclave.errors import FormatError
from kubenclave.wire.aesm_keyid import (
    ECDSA_P256_KEY_ID as KEY_ID,
)
from kubenclave.wire.aesm_keyid import (
    build_key_id_list,
    parse_key_id_list,
    same_key,
)


def test_fields_lie_where_clients_look_for_them():
    assert len(KEY_ID) == 256
    assert KEY_ID[:6] == bytes.fromhex("0000 0000 2000")
    assert KEY_ID[6:38].hex() == "8c4f5775d796503e96137f77c68a829a0056ac8ded70140b081b094490c57bff"
    assert KEY_ID[38:54] == bytes(16)
    assert KEY_ID[54:58] == bytes.fromhex("01000000")
    assert KEY_ID[58:154] == bytes(96)
    assert KEY_ID[154:158] == bytes.fromhex("02000000")
    assert KEY_ID[158:] == bytes(98)


def test_only_the_first_158_bytes_say_which_key_it_is():
    assert same_key(KEY_ID, KEY_ID[:158] + b"\xff" * 98)
    assert not same_key(KEY_ID, KEY_ID[:157] + b"\xff" + KEY_ID[158:])


@pytest.mark.parametrize("count", [0, 1, 10])
def test_lists_survive_building_and_parsing(count):
    ids = tuple(bytes([number]) * 256 for number in range(count))
    assert parse_key_id_list(build_key_id_list(ids)) == ids


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "format.truncated"),
        (bytes(7), "format.truncated"),
        (build_key_id_list([KEY_ID])[:-1], "format.truncated"),
        (build_key_id_list([KEY_ID]) + b"\0", "format.trailing"),
        (build_key_id_list([KEY_ID] * 11), "format.value"),
        (bytes.fromhex("0100 0000 00000000"), "format.value"),
        (bytes.fromhex("0000 0100 00000000"), "format.value"),
        (bytes.fromhex("0000 0000 ffffffff"), "format.value"),
    ],
)
def test_other_lists_are_refused(data, code):
    with pytest.raises(FormatError) as caught:
        parse_key_id_list(data)
    assert caught.value.code == code
