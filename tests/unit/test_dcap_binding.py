# SPDX-License-Identifier: Apache-2.0
"""What an enclave hashes into its report data, and the key that is found there."""

import hashlib
import json

import pytest

from kubenclave.dcap import binding
from kubenclave.errors import FormatError

KEY = {"kty": "EC", "crv": "P-256", "y": "b", "x": "a"}


def test_runtime_data_is_sorted_and_compact():
    assert binding.runtime_data("n") == b'{"nonce":"n"}'
    assert binding.runtime_data("n", KEY) == b'{"key":{"crv":"P-256","kty":"EC","x":"a","y":"b"},"nonce":"n"}'


def test_report_data_is_the_digest_and_zeros():
    assert binding.report_data_over(b"x") == hashlib.sha256(b"x").digest() + bytes(32)


def test_the_key_is_found_in_whatever_spelling():
    assert binding.bound_key(binding.runtime_data("n", KEY)) == KEY
    assert binding.bound_key(json.dumps({"nonce": "n", "more": 1, "key": KEY}, indent=1).encode()) == KEY


@pytest.mark.parametrize("data", [b"{}", b'{"key":3}', b'{"key":null}', b"[]", b"3"])
def test_data_without_a_key_is_refused(data):
    with pytest.raises(FormatError) as caught:
        binding.bound_key(data)
    assert caught.value.code == "binding.no-key"


@pytest.mark.parametrize("data", [b"", b"\xff", b'{"key":{},"key":{}}'])
def test_what_is_no_json_is_refused(data):
    with pytest.raises(FormatError) as caught:
        binding.bound_key(data)
    assert caught.value.code.startswith("json.")
