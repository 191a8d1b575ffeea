# SPDX-License-Identifier: Apache-2.0
"""AESM messages byte for byte, tolerance towards what clients send, and refusal of what nobody can answer."""

import hashlib

import pytest

from kubenclave.errors import FormatError
from kubenclave.wire import aesm
from kubenclave.wire.aesm_errors import AesmError
from kubenclave.wire.aesm_keyid import ECDSA_P256_KEY_ID as KEY_ID

TARGET_INFO = bytes(range(256)) * 2
PUB_KEY_ID = bytes(range(32))
QUOTE = (b"quote " * 800)[:4600]
INFO = b"i" * 960


def frame(text: str, **parts: bytes) -> bytes:
    """Read the notation of the specification: hex digits, and names of longer parts in capitals."""
    return b"".join(parts[word] if word in parts else bytes.fromhex(word) for word in text.split())


# Frames observed between Intel's client and a server: aesm.md section 2.6.
GOLDEN_REQUESTS = [
    (aesm.GetKeyIdCount(), "06000000 aa0103 489875"),
    (aesm.GetKeyIds(256), "09000000 b20106 088002 489875"),
    (aesm.SelectKeyId(), "06000000 9a0103 109875"),
    (aesm.InitQuote(KEY_ID), "0b010000 7a8802 0a8002 KEYID 1800 489875"),
    (aesm.InitQuote(KEY_ID, True, 32), "0d010000 7a8a02 0a8002 KEYID 1801 2020 489875"),
]
GOLDEN_REPLIES = [
    (aesm.GetKeyIdCount(), aesm.KeyIdCount(1), "07000000 aa0104 0800 1001"),
    (aesm.GetKeyIds(256), aesm.KeyIds(KEY_ID), "09010000 b2018502 0800 128002 KEYID"),
    (aesm.SelectKeyId(), aesm.SelectedKeyId(KEY_ID), "09010000 9a018502 0800 128002 KEYID"),
    (
        aesm.InitQuote(KEY_ID, True, 32),
        aesm.QuoteInit(TARGET_INFO, PUB_KEY_ID),
        "2c020000 7aa904 0800 128004 TARGET 1820 2220 PUBKEYID",
    ),
    (aesm.GetQuoteSize(KEY_ID), aesm.QuoteSize(4600), "08000000 820105 0800 10f823"),
    (aesm.GetQuote(b"", KEY_ID, 4600), aesm.Quote(QUOTE), "01120000 8a01fd23 0800 12f823 QUOTE"),
]
PARTS = {"KEYID": KEY_ID, "TARGET": TARGET_INFO, "PUBKEYID": PUB_KEY_ID, "QUOTE": QUOTE}


@pytest.mark.parametrize(("request_", "golden"), GOLDEN_REQUESTS, ids=lambda value: type(value).__name__)
def test_golden_requests(request_, golden):
    data = frame(golden, **PARTS)
    assert aesm.encode_request(request_) == data
    assert aesm.decode_request(data[4:]) == request_


@pytest.mark.parametrize(("request_", "reply", "golden"), GOLDEN_REPLIES, ids=lambda value: type(value).__name__)
def test_golden_replies(request_, reply, golden):
    data = frame(golden, **PARTS)
    assert aesm.encode_reply(reply) == data
    assert aesm.decode_reply(data[4:], request_) == reply


def test_a_size_query_is_answered_without_the_key_that_would_crash_its_client():
    data = aesm.encode_reply(aesm.QuoteInit(bytes(512)))
    assert data == frame("0a020000 7a8704 0800 128004 ZERO 1820", ZERO=bytes(512))
    assert aesm.decode_reply(data[4:], aesm.InitQuote(KEY_ID)) == aesm.QuoteInit(bytes(512))


REQUESTS: list[aesm.Request] = [
    aesm.GetKeyIdCount(),
    aesm.GetKeyIds(256),
    aesm.SelectKeyId(b"list"),
    aesm.InitQuote(None, False, 5904726437781253376),  # what Intel's client has on its stack
    aesm.GetQuoteSize(KEY_ID),
    aesm.GetQuote(b"r" * 432, KEY_ID, 8192, INFO),
    aesm.GetQuote(b"", None, 0, b""),
    *map(aesm.Legacy, sorted(aesm.LEGACY_NUMBERS)),
]


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda value: type(value).__name__)
def test_requests_and_refusals_of_every_variant(request_):
    assert aesm.decode_request(aesm.encode_request(request_, timeout=None)[4:]) == request_
    refusal = aesm.Refusal(request_, AesmError.BUSY)
    assert aesm.decode_reply(aesm.encode_reply(refusal)[4:], request_) == refusal


def test_a_quote_comes_with_the_report_of_its_enclave():
    reply = aesm.Quote(QUOTE, INFO)
    assert aesm.decode_reply(aesm.encode_reply(reply)[4:], REQUESTS[5]) == reply


@pytest.mark.parametrize("number", sorted(aesm.LEGACY_NUMBERS))
def test_legacy_messages_are_refused_in_their_own_variant(number):
    tag = bytes([number << 3 | 2]) if number < 16 else bytes([number << 3 & 0x7F | 0x80 | 2, number >> 4])
    request = aesm.decode_request(tag + b"\x05\x0a\x03abc")  # whatever is inside
    assert request == aesm.Legacy(number)
    reply = aesm.encode_reply(aesm.Refusal(request, AesmError.SERVICE_UNAVAILABLE))
    assert reply[4:] == tag + bytes.fromhex("02 08 1e")
    with pytest.raises(FormatError, match="no answer"):
        aesm.decode_reply(tag + bytes.fromhex("02 08 00"), request)


@pytest.mark.parametrize(
    ("body", "request_"),
    [
        ("7a00", aesm.InitQuote(None, False, None)),  # everything missing, the required flag too
        ("b20100", aesm.GetKeyIds(None)),
        ("8a0100", aesm.GetQuote(None, None, None, None)),
        ("aa0100", aesm.GetKeyIdCount()),  # without a timeout
        ("aa0105 c80101 f806", None),  # cut short inside
        ("aa0106 c80101 4880b518", None),
        ("fa0700 820104 48010a00", aesm.GetQuoteSize(b"")),  # an unknown message beside, fields in odd order
        ("aa0100 7a00", aesm.InitQuote(None)),  # two messages: the lower number counts
        ("7a00 920100", aesm.Legacy(18)),  # but legacy ones come first
        ("9a0100 0a00", aesm.Legacy(1)),
    ],
)
def test_what_peers_may_send(body, request_):
    data = bytes.fromhex(body)
    if request_ is None:
        with pytest.raises(FormatError):
            aesm.decode_request(data)
    else:
        assert aesm.decode_request(data) == request_


@pytest.mark.parametrize("body", ["", "fa0100", "a20100", "4a00", "ff", "7a05", "78 01"])
def test_requests_without_a_known_message_have_no_answer(body):
    with pytest.raises(FormatError) as caught:
        aesm.decode_request(bytes.fromhex(body))
    assert caught.value.code == "format.protobuf"


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("ff", "format.protobuf"),
        ("", "format.protobuf"),
        ("aa0104 0800 1001", "format.protobuf"),  # the answer to another question
        ("820102 1005", "format.protobuf"),  # no error code
        ("820102 0800", "format.protobuf"),  # success without a size
        ("a20100", "format.protobuf"),  # "unsupported request"
    ],
)
def test_replies_that_do_not_answer(body, code):
    with pytest.raises(FormatError) as caught:
        aesm.decode_reply(bytes.fromhex(body), aesm.GetQuoteSize(KEY_ID))
    assert caught.value.code == code


def test_a_reply_with_an_unknown_error_is_an_unexpected_error():
    request = aesm.GetQuoteSize(KEY_ID)
    reply = aesm.decode_reply(bytes.fromhex("820103 08e807"), request)
    assert reply == aesm.Refusal(request, AesmError.UNEXPECTED_ERROR)


def test_frames_are_collected_from_any_pieces():
    data = aesm.encode_request(aesm.GetQuote(b"r" * 432, KEY_ID, 4600, INFO))
    for size in (1, 3, 4, 5, len(data)):
        reader = aesm.FrameReader()
        assert not reader.begun
        pieces = [data[start : start + size] for start in range(0, len(data), size)]
        assert [reader.feed(piece) for piece in pieces[:-1]] == [None] * (len(pieces) - 1)
        assert reader.feed(pieces[-1] + b"after the frame") == data[4:]
        assert reader.begun


def test_frames_over_the_limit_are_refused_before_they_arrive():
    assert aesm.FrameReader().feed((64 * 1024).to_bytes(4, "little")) is None
    with pytest.raises(FormatError) as caught:
        aesm.FrameReader().feed((64 * 1024 + 1).to_bytes(4, "little"))
    assert caught.value.code == "format.size"
    assert aesm.FrameReader().feed(bytes(4)) == b""


def test_default_key_id_is_the_one_clients_compile_in():
    digest = "2c03a44be88ea1c09c95be1220beca55c2ff1d8872ad0c7221d5dcb5125727b5"
    assert hashlib.sha256(KEY_ID).hexdigest() == digest
