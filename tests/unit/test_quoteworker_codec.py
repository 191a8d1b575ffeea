# SPDX-License-Identifier: Apache-2.0
"""Frames between helper and worker: both ways, in pieces, over the limit and as garbage."""

import struct

import pytest

from kubenclave.errors import FormatError
from kubenclave.sgx.certification import CertificationType
from kubenclave.wire.quoteworker import (
    MAX_FRAME,
    PPID_TYPES,
    FrameDecoder,
    InitResult,
    Op,
    QuoteRequest,
    QuoteResult,
    WorkerReply,
    WorkerRequest,
    certification_type,
    decode_reply,
    decode_request,
    encode_reply,
    encode_request,
)


def test_frames_byte_for_byte():
    assert encode_request(7, Op.INIT) == bytes.fromhex("05000000 07000000 01")
    assert encode_request(0x01020304, Op.QUOTE, b"xy") == bytes.fromhex("07000000 04030201 02 7879")
    assert encode_reply(7, 42, 0xE00F) == bytes.fromhex("0a000000 07000000 2a00 0fe00000")
    assert encode_reply(8, payload=b"z") == bytes.fromhex("0b000000 08000000 0000 00000000 7a")


def test_requests_come_out_as_they_went_in_however_the_stream_is_cut():
    stream = encode_request(1, Op.INIT) + encode_request(2, Op.QUOTE, b"payload") + encode_request(3, Op.INIT)
    wanted = [WorkerRequest(1, Op.INIT, b""), WorkerRequest(2, Op.QUOTE, b"payload"), WorkerRequest(3, Op.INIT, b"")]
    for size in (1, 2, 5, 11, len(stream)):
        decoder = FrameDecoder(decode_request)
        found = []
        for start in range(0, len(stream), size):
            found += decoder.feed(stream[start : start + size])
        assert found == wanted
        assert decoder.pending == 0


def test_replies_come_out_as_they_went_in():
    decoder = FrameDecoder(decode_reply)
    frame = encode_reply(9, 47, 0xE015, b"")
    assert decoder.feed(encode_reply(8, payload=b"abc") + frame[:-1]) == [WorkerReply(8, 0, 0, b"abc")]
    assert decoder.pending == len(frame) - 1
    assert decoder.feed(frame[-1:]) == [WorkerReply(9, 47, 0xE015, b"")]


@pytest.mark.parametrize(
    ("decode", "stream", "code"),
    [
        (decode_request, (MAX_FRAME + 1).to_bytes(4, "little"), "format.size"),
        (decode_request, bytes.fromhex("04000000 07000000"), "format.truncated"),
        (decode_request, bytes.fromhex("05000000 07000000 03"), "format.value"),
        (decode_request, bytes(4), "format.truncated"),
        (decode_reply, bytes.fromhex("09000000 07000000 2a00 0fe000"), "format.truncated"),
        (decode_reply, b"\xff\xff\xff\xff", "format.size"),
    ],
)
def test_streams_without_meaning_are_refused(decode, stream, code):
    with pytest.raises(FormatError) as caught:
        FrameDecoder(decode).feed(stream)
    assert caught.value.code == code


PAYLOADS: list[InitResult | QuoteRequest | QuoteResult] = [
    InitResult(bytes(range(256)) * 2, b"k" * 32, 4734),
    QuoteRequest(b"r" * 432),
    QuoteRequest(b"r" * 432, b"i" * 960),
    QuoteResult(b"q" * 1456),
    QuoteResult(b"q" * 1456, b"i" * 960),
]


@pytest.mark.parametrize("payload", PAYLOADS, ids=lambda value: type(value).__name__)
def test_payloads_survive_building_and_parsing(payload):
    built = payload.build()
    assert type(payload).parse(built) == payload
    for broken in (built[:-1], built + b"\0"):
        with pytest.raises(FormatError):
            type(payload).parse(broken)


@pytest.mark.parametrize(
    "payload",
    [
        InitResult(bytes(511), bytes(32), 0),
        InitResult(bytes(512), bytes(31), 0),
        QuoteRequest(bytes(431)),
        QuoteRequest(bytes(432), bytes(959)),
        QuoteResult(b"", bytes(961)),
    ],
    ids=repr,
)
def test_payloads_of_wrong_size_are_not_built(payload):
    with pytest.raises(FormatError) as caught:
        payload.build()
    assert caught.value.code == "format.size"


def test_payload_details():
    assert len(PAYLOADS[0].build()) == 548
    with pytest.raises(FormatError, match="has_qe_report_info"):
        QuoteRequest.parse(bytes(432) + b"\2")
    with pytest.raises(FormatError, match="quote"):  # the length may promise what is not there
        QuoteResult.parse(b"\xff\xff\xff\xff1234")


def quote(kind: int, auth: int = 32) -> bytes:
    return bytes(1012) + struct.pack("<H", auth) + bytes(auth) + struct.pack("<H", kind)


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        pytest.param(quote(1), 1, id="plain"),
        pytest.param(quote(3), 3, id="rsa-3072"),
        pytest.param(quote(3, 0), 3, id="no-authentication-data"),
        pytest.param(quote(5), 5, id="chain"),
        pytest.param(quote(3)[:-1], None, id="cut"),
        pytest.param(bytes(1013), None, id="cut-earlier"),
        pytest.param(b"", None, id="empty"),
    ],
)
def test_the_type_of_certification_data_is_read_from_where_it_stands(data, kind):
    assert certification_type(data) == kind


def test_three_types_name_the_platform_by_ppid():
    assert [kind for kind in CertificationType if kind in PPID_TYPES] == [1, 2, 3]
