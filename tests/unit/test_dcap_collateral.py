# SPDX-License-Identifier: Apache-2.0
"""The flat JSON object of collateral, and the strict reading of all JSON."""

import json
import time
from dataclasses import replace

import pytest

import kubenclave
from kubenclave.dcap.collateral import MAX_DEPTH, MAX_SIZE, Collateral, load_json
from kubenclave.errors import FormatError
from vectors.scene import scene

GOOD = scene("sgx-v3").build().collateral


def test_the_exact_bytes_come_out():
    collateral = Collateral.from_json(json.dumps(GOOD))
    assert collateral.tcb_info.decode() == GOOD["tcb_info"]
    assert collateral.pck_crl.hex() == GOOD["pck_crl"]
    assert collateral.tcb_info_signature.hex() == GOOD["tcb_info_signature"]
    assert collateral.pck_crl_issuer_chain.decode() == GOOD["pck_crl_issuer_chain"]


def test_text_and_bytes_are_the_same():
    text = json.dumps(GOOD)
    assert Collateral.from_json(text) == Collateral.from_json(text.encode())


def test_to_json_and_back():
    collateral = Collateral.from_json(json.dumps(GOOD))
    assert Collateral.from_json(collateral.to_json()) == collateral
    assert json.loads(collateral.to_json()) == GOOD


def test_a_text_that_is_not_ascii_survives():
    collateral = Collateral.from_json(json.dumps({**GOOD, "tcb_info": '"ü€😀"'}))
    assert collateral.tcb_info.decode() == '"ü€😀"'
    assert Collateral.from_json(collateral.to_json()) == collateral


def test_bytes_that_are_no_text_make_json_that_is_refused():
    collateral = replace(Collateral.from_json(json.dumps(GOOD)), tcb_info=b"\xff")
    with pytest.raises(FormatError):
        Collateral.from_json(collateral.to_json())


def test_the_digest_follows_every_part():
    collateral = Collateral.from_json(json.dumps(GOOD))
    digests = {collateral.digest}
    for name in GOOD:
        digests.add(replace(collateral, **{name: getattr(collateral, name) + b"!"}).digest)
    assert len(digests) == len(GOOD) + 1


def test_moving_a_boundary_between_parts_changes_the_digest():
    collateral = Collateral.from_json(json.dumps(GOOD))
    moved = replace(
        collateral, root_ca_crl=collateral.root_ca_crl + collateral.pck_crl[:1], pck_crl=collateral.pck_crl[1:]
    )
    assert moved.digest != collateral.digest


@pytest.mark.parametrize("name", GOOD)
@pytest.mark.parametrize("value", [None, 1, True, [], {}, ["a"]], ids=json.dumps)
def test_every_part_has_to_be_a_string(name, value):
    with pytest.raises(FormatError) as refusal:
        Collateral.from_json(json.dumps({**GOOD, name: value}))
    assert (refusal.value.code, refusal.value.field) == ("collateral.malformed", name)


@pytest.mark.parametrize("name", ["root_ca_crl", "pck_crl", "tcb_info_signature", "qe_identity_signature"])
@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda text: text[:-1], id="odd"),
        pytest.param(lambda text: text[:-1] + "g", id="not-hex"),
        pytest.param(lambda text: " " + text, id="blank-before"),
        pytest.param(lambda text: text + "\n", id="newline-behind"),
        pytest.param(lambda text: text[:2] + "\t" + text[2:], id="tab-within"),
        pytest.param(lambda text: "0x" + text, id="0x"),
        pytest.param(lambda text: text[:-2] + "\uff10\uff10", id="wide-digits"),
    ],
)
def test_hexadecimal_digits_and_nothing_else(name, change):
    with pytest.raises(FormatError) as refusal:
        Collateral.from_json(json.dumps({**GOOD, name: change(GOOD[name])}))
    assert (refusal.value.code, refusal.value.field) == ("collateral.malformed", name)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        pytest.param("", "json.malformed", id="empty"),
        pytest.param("{} {}", "json.malformed", id="trailing-text"),
        pytest.param("\ufeff{}", "json.malformed", id="byte-order-mark"),
        pytest.param(b"\xff\xfe{\0}\0", "json.malformed", id="utf-16"),
        pytest.param(b'{"a": "\xff"}', "json.malformed", id="not-utf-8"),
        pytest.param("{'a': 1}", "json.malformed", id="single-quotes"),
        pytest.param('{"a": 1,}', "json.malformed", id="trailing-comma"),
        pytest.param('{"a": 01}', "json.malformed", id="leading-zero"),
        pytest.param('{"a": "\n"}', "json.malformed", id="control-character"),
        pytest.param("NaN", "json.malformed", id="nan"),
        pytest.param('{"a": [Infinity]}', "json.malformed", id="infinity"),
        pytest.param("-Infinity", "json.malformed", id="minus-infinity"),
        pytest.param("9" * 5000, "json.malformed", id="endless-number"),
        pytest.param('{"a": 1, "a": 1}', "json.duplicate-key", id="duplicate"),
        pytest.param('[{"b": {"a": 1, "\\u0061": 2}}]', "json.duplicate-key", id="duplicate-escaped"),
        pytest.param('{"\\ud800": 1, "\\ud800": 2}', "json.duplicate-key", id="duplicate-surrogate"),
        pytest.param("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1), "json.depth", id="depth"),
        pytest.param('{"a":' * 5000, "json.depth", id="depth-of-objects"),
        pytest.param(f'["{"]" * 90000}", {"[" * 90000}', "json.depth", id="depth-behind-brackets-in-a-string"),
        pytest.param('["]",' * 5000 + "0" + "]" * 5000, "json.depth", id="depth-that-brackets-in-strings-hide"),
        pytest.param(" " * (MAX_SIZE + 1), "json.size", id="size"),
        pytest.param(b" " * (MAX_SIZE + 1), "json.size", id="size-of-bytes"),
    ],
)
def test_json_that_is_refused(text, code):
    with pytest.raises(FormatError) as refusal:
        load_json(text, "document")
    assert refusal.value.code == code
    assert str(refusal.value).isprintable()


def test_json_at_the_limits_is_read():
    assert load_json(f"{'[' * MAX_DEPTH}{']' * MAX_DEPTH}", "document")
    assert load_json('{"a": 1, "b": {"a": 2}}', "document") == {"a": 1, "b": {"a": 2}}
    assert load_json(f'"{" " * (MAX_SIZE - 2)}"', "document").isspace()


def test_it_stands_at_the_top_of_the_package():
    assert kubenclave.Collateral is Collateral


def test_a_duplicate_behind_very_many_keys_is_found_without_delay():
    many = ",".join(f'"{number:x}":0' for number in range(100_000))
    begin = time.monotonic()
    with pytest.raises(FormatError) as refusal:
        load_json(f'{{{many},"1869f":1}}', "collateral")
    assert (refusal.value.code, refusal.value.field) == ("json.duplicate-key", "'1869f'")
    assert time.monotonic() - begin < 10  # looking for each key among all the others took a minute


@pytest.mark.parametrize("kind", [bytearray, memoryview])
def test_parts_that_could_change_under_the_digest_are_not_taken(kind):
    collateral = Collateral.from_json(json.dumps(GOOD))
    with pytest.raises(TypeError, match=r"Collateral\.tcb_info has to be bytes"):
        replace(collateral, tcb_info=kind(collateral.tcb_info))
