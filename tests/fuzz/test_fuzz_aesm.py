# SPDX-License-Identifier: Apache-2.0
"""AESM messages and worker frames: garbage is read or raises FormatError, nothing else."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubenclave.errors import FormatError
from kubenclave.wire import aesm
from kubenclave.wire.aesm_errors import AesmError
from kubenclave.wire.aesm_keyid import build_key_id_list, parse_key_id_list
from kubenclave.wire.quoteworker import (
    FrameDecoder,
    InitResult,
    QuoteRequest,
    QuoteResult,
    decode_reply,
    decode_request,
)

NUMBERS = st.none() | st.integers(0, 2**32 - 1)
KEY_IDS = st.none() | st.binary(max_size=300)
REQUESTS: st.SearchStrategy[aesm.Request] = st.one_of(
    st.builds(aesm.GetKeyIdCount),
    st.builds(aesm.GetKeyIds, NUMBERS),
    st.builds(aesm.SelectKeyId, KEY_IDS),
    st.builds(aesm.InitQuote, KEY_IDS, st.booleans(), st.none() | st.integers(0, 2**64 - 1)),
    st.builds(aesm.GetQuoteSize, KEY_IDS),
    st.builds(aesm.GetQuote, KEY_IDS, KEY_IDS, NUMBERS, KEY_IDS),
    st.builds(aesm.Legacy, st.sampled_from(sorted(aesm.LEGACY_NUMBERS))),
)


@given(body=st.binary())
def test_garbage_is_a_request_or_a_format_error(body: bytes) -> None:
    with suppress(FormatError):
        request = aesm.decode_request(body)
        assert aesm.encode_reply(aesm.Refusal(request, AesmError.BUSY))


@given(request_=REQUESTS, at=st.integers(0, 4000), value=st.integers(0, 255), cut=st.booleans())
def test_damaged_requests_are_read_or_refused(request_: aesm.Request, at: int, value: int, cut: bool) -> None:
    body = bytearray(aesm.encode_request(request_)[4:])
    if at < len(body):
        body[at] = value
        if cut:
            del body[at:]
    with suppress(FormatError):
        aesm.decode_request(bytes(body))


@given(request_=REQUESTS)
def test_every_request_survives_the_wire(request_: aesm.Request) -> None:
    assert aesm.decode_request(aesm.encode_request(request_)[4:]) == request_


@given(body=st.binary(), request_=REQUESTS)
def test_garbage_is_a_reply_or_a_format_error(body: bytes, request_: aesm.Request) -> None:
    with suppress(FormatError):
        aesm.decode_reply(body, request_)


@given(data=st.binary())
def test_key_id_lists_are_read_exactly_or_refused(data: bytes) -> None:
    with suppress(FormatError):
        assert build_key_id_list(parse_key_id_list(data)) == data


@given(pieces=st.lists(st.binary(max_size=50)))
def test_frame_readers_keep_within_their_limit(pieces: list[bytes]) -> None:
    reader = aesm.FrameReader(limit=100)
    with suppress(FormatError):
        for piece in pieces:
            body = reader.feed(piece)
            assert body is None or len(body) <= 100


@pytest.mark.parametrize("decode", [decode_request, decode_reply])
@given(pieces=st.lists(st.binary(max_size=50)))
def test_worker_streams_are_cut_or_refused(decode, pieces: list[bytes]) -> None:
    decoder: FrameDecoder[object] = FrameDecoder(decode, limit=100)
    with suppress(FormatError):
        for piece in pieces:
            decoder.feed(piece)
            assert decoder.pending < 104


@pytest.mark.parametrize("kind", [InitResult, QuoteRequest, QuoteResult])
@given(payload=st.binary(max_size=1500))
def test_worker_payloads_are_read_exactly_or_refused(kind, payload: bytes) -> None:
    with suppress(FormatError):
        assert kind.parse(payload).build() == payload
