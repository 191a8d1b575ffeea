# SPDX-License-Identifier: Apache-2.0
"""Signed heads and receipts: the example of the format's specification, ours, and what was changed in them."""

import base64

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from kubenclave.dcap.merkle import leaf_hash, node_hash
from kubenclave.errors import FormatError, TrustError
from kubenclave.services.attestation.transparency.checkpoint import (
    Checkpoint,
    InclusionReceipt,
    LogKey,
    open_checkpoint,
)

# Key and note of the documentation of golang.org/x/mod/sumdb/note: another implementation made them.
GO_KEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
GO_TEXT = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
GO_SIGNATURE = (
    "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM="
)

PRIVATE = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
KEY = LogKey("attest.example/log", PRIVATE.public_key().public_bytes_raw())
ENTRIES = [b"first", b"second"]
ROOT = node_hash(leaf_hash(ENTRIES[0]), leaf_hash(ENTRIES[1]))
HEAD = Checkpoint(KEY.name, 2, ROOT)
NOTE = HEAD.sign(PRIVATE)
RECEIPT = InclusionReceipt(1, (leaf_hash(ENTRIES[0]),), NOTE)


def refusal(kind, call, *arguments):
    with pytest.raises(kind) as caught:
        call(*arguments)
    return caught.value.code


def test_the_key_of_another_implementation_is_read():
    key = LogKey.parse(GO_KEY)
    assert (key.name, key.key_id.hex(), str(key)) == ("PeterNeumann", "c74f20a3", GO_KEY)


def test_a_signature_of_another_implementation_is_checked_over_its_text():
    # It is no checkpoint, so what is refused is the form, and only after the signature held.
    key = LogKey.parse(GO_KEY)
    text = f"{GO_TEXT}{base64.b64encode(bytes(32)).decode()}\n"
    assert refusal(FormatError, open_checkpoint, f"{GO_TEXT}\n{GO_SIGNATURE}\n", key) == "checkpoint.malformed"
    assert refusal(FormatError, open_checkpoint, f"{text}\n{GO_SIGNATURE}\n", key) == "checkpoint.malformed"


def test_our_head_opens_with_our_key():
    assert open_checkpoint(NOTE, KEY) == HEAD
    assert open_checkpoint(NOTE, LogKey.parse(str(KEY))) == HEAD
    assert NOTE.startswith("attest.example/log\n2\n")


def test_signatures_of_others_beside_ours_are_left_alone():
    witness = f"— witness.example {base64.b64encode(bytes(80)).decode()}\n"
    assert open_checkpoint(NOTE + witness, KEY) == HEAD
    before, dash, after = NOTE.partition("— ")
    assert open_checkpoint(before + witness + dash + after, KEY) == HEAD


def test_extension_lines_are_signed_and_without_meaning():
    text = f"{HEAD.text}more\n"
    signed = base64.b64encode(KEY.key_id + PRIVATE.sign(text.encode())).decode()
    assert open_checkpoint(f"{text}\n— {KEY.name} {signed}\n", KEY) == HEAD


@pytest.mark.parametrize(
    "note",
    [
        NOTE.replace("\n2\n", "\n3\n"),
        NOTE.replace(base64.b64encode(ROOT).decode(), base64.b64encode(bytes(32)).decode()),
        NOTE.replace("— attest", "— other"),
        NOTE.partition("— ")[0] + f"— {KEY.name} {base64.b64encode(KEY.key_id + bytes(64)).decode()}\n",
        NOTE + f"— {KEY.name} {base64.b64encode(KEY.key_id + bytes(64)).decode()}\n",
        NOTE + f"— {KEY.name} {base64.b64encode(KEY.key_id).decode()}\n",
    ],
)
def test_a_head_that_was_changed_is_refused(note):
    assert refusal(TrustError, open_checkpoint, note, KEY) == "checkpoint.signature"


def test_a_head_of_another_key_or_log_is_refused():
    other = Ed25519PrivateKey.from_private_bytes(bytes(32))
    assert refusal(TrustError, open_checkpoint, HEAD.sign(other), KEY) == "checkpoint.signature"
    text = "another.example\n2\n" + HEAD.text.split("\n", 2)[2]
    signed = base64.b64encode(KEY.key_id + PRIVATE.sign(text.encode())).decode()
    assert refusal(TrustError, open_checkpoint, f"{text}\n— {KEY.name} {signed}\n", KEY) == "checkpoint.signature"


@pytest.mark.parametrize(
    "note",
    [
        "",
        "\n\n",
        NOTE[:-1],
        NOTE.replace("\n2\n", "\n02\n"),
        NOTE.replace("\n2\n", "\n-2\n"),
        NOTE.replace("\n2\n", "\n" + "9" * 30 + "\n"),
        NOTE.replace("\n2\n", "\n²\n"),
        NOTE.replace(base64.b64encode(ROOT).decode(), "AAAA"),
        NOTE.replace(base64.b64encode(ROOT).decode(), "!"),
        NOTE.replace("— ", "- "),
        NOTE.replace("— attest.example/log ", "— attest.example/log !"),
        NOTE + "x" * 20_000,
        "a\n0\n\ud800\n\n— x AAAA\n",
        NOTE.replace("attest", "att\rest"),
    ],
)
def test_what_is_no_head_is_refused(note):
    assert refusal(FormatError, open_checkpoint, note, KEY) == "checkpoint.malformed"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "x+y+z",
        str(KEY).replace("attest", "other"),
        GO_KEY.replace("+ARpc", "+ARpd"),
        "PeterNeumann+c74f20a3+AhpcAA==",
        "+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
        "a b+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
        "a\x07+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
        "\ud800+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
        "é+c74f20a3+é",
    ],
)
def test_what_is_no_key_is_refused(text):
    assert refusal(FormatError, LogKey.parse, text) == "checkpoint.bad-key"


def test_a_receipt_is_read_back_and_holds():
    read = InclusionReceipt.parse(RECEIPT.text)
    assert read == RECEIPT
    assert read.check(ENTRIES[1], KEY) == HEAD


def test_extra_data_in_a_receipt_is_skipped():
    assert InclusionReceipt.parse(RECEIPT.text.replace("\nindex", "\nextra AAAA\nindex")) == RECEIPT


def test_a_receipt_of_another_entry_or_place_is_refused():
    assert refusal(TrustError, RECEIPT.check, b"third", KEY) == "log.inclusion"
    assert refusal(TrustError, InclusionReceipt(0, RECEIPT.proof, NOTE).check, ENTRIES[1], KEY) == "log.inclusion"
    assert refusal(TrustError, InclusionReceipt(1, (), NOTE).check, ENTRIES[1], KEY) == "log.inclusion"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x\n\n",
        RECEIPT.text.replace("@v1", "@v2"),
        RECEIPT.text.replace("index 1", "index 01"),
        RECEIPT.text.replace("index 1", "index \u0661"),
        RECEIPT.text.replace("index 1\n", ""),
        RECEIPT.text.replace("index 1\n", "index 1\nAAAA\n"),
        RECEIPT.text.replace("index 1\n", "index 1\né\n"),
        RECEIPT.text.replace("index 1\n", "index 1\n" + f"{base64.b64encode(bytes(32)).decode()}\n" * 65),
        "c2sp.org/tlog-proof@v1\n\n" + NOTE,
    ],
)
def test_what_is_no_receipt_is_refused(text):
    assert refusal(FormatError, InclusionReceipt.parse, text) == "receipt.malformed"
