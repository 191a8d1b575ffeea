# SPDX-License-Identifier: Apache-2.0
"""The quote helper's protocol over its socket: golden frames, the table of errors, and each known client (aesm.md)."""

import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from kubenclave._proto import aesm_pb2
from kubenclave.wire import aesm
from kubenclave.wire.aesm_errors import AesmError
from kubenclave.wire.aesm_keyid import ECDSA_P256_KEY_ID as KEY_ID
from kubenclave.wire.aesm_keyid import build_key_id_list
from tests.integration.aesm_peer import Helper, ask, connect, error_of, exchange, helper, quote, report, rest
from tests.integration.testworker import PUB_KEY_ID, QUOTE_SIZE, quote_of, target_info

INFO = b"nonce".ljust(16, b".") + b"t" * 512 + bytes(432)
FILLED = INFO[:528] + b"QE REPORT".ljust(432, b".")
OTHER_ID = bytes(4) + b"\x20\0" + b"o" * 48 + bytes(202)
READY = aesm.InitQuote(KEY_ID, True, 32)


@pytest.fixture(scope="module")
def running() -> Iterator[Helper]:
    with TemporaryDirectory(prefix="kc") as folder, helper(Path(folder)) as one:
        yield one


@pytest.fixture
def path(running: Helper) -> Path:
    return running.socket


def frame(text: str, **parts: bytes) -> bytes:
    """Read the notation of the specification: hex digits, and names of longer parts in capitals."""
    return b"".join(parts[word] if word in parts else bytes.fromhex(word) for word in text.split())


PARTS = {
    "KEYID": KEY_ID,
    "TARGET": target_info(),
    "PUBKEY": PUB_KEY_ID,
    "ZERO": bytes(512),
    "REPORT": report("golden"),
    "QUOTE": quote_of(report("golden")),
    "INFO": INFO,
    "FILLED": FILLED,
    "ID158": KEY_ID[:158],
    "X98": b"x" * 98,
}
GOLDEN = [
    pytest.param("06000000 aa0103 489875", "07000000 aa0104 0800 1001", id="count"),
    pytest.param("09000000 b20106 088002 489875", "09010000 b2018502 0800 128002 KEYID", id="ids"),
    pytest.param("06000000 9a0103 109875", "09010000 9a018502 0800 128002 KEYID", id="select"),
    pytest.param(
        "12010000 9a018e02 0a8802 0000 0000 01000000 ID158 X98 109875",
        "09010000 9a018502 0800 128002 ID158 X98",
        id="select-from-list",
    ),
    pytest.param("0b010000 7a8802 0a8002 KEYID 1800 489875", "0a020000 7a8704 0800 128004 ZERO 1820", id="init-sizes"),
    pytest.param(
        "0d010000 7a8a02 0a8002 KEYID 1801 2020 489875",
        "2c020000 7aa904 0800 128004 TARGET 1820 2220 PUBKEY",
        id="init",
    ),
    pytest.param("0a010000 82018602 0a8002 KEYID 489875", "08000000 820105 0800 10f823", id="size"),
    pytest.param(
        "c0020000 8a01bc05 0ab003 REPORT 128002 KEYID 20f823 489875",
        "01120000 8a01fd23 0800 12f823 QUOTE",
        id="quote",
    ),
    pytest.param(
        "83060000 8a01ff0c 0ab003 REPORT 128002 KEYID 1ac007 INFO 20f823 489875",
        "c4150000 8a01c02b 0800 12f823 QUOTE 1ac007 FILLED",
        id="quote-with-qe-report",
    ),
]


@pytest.mark.parametrize(("request_", "reply"), GOLDEN)
def test_golden_frames(path, request_, reply):
    assert exchange(path, frame(request_, **PARTS)) == frame(reply, **PARTS)


@pytest.mark.parametrize("number", sorted(aesm.LEGACY_NUMBERS))
def test_legacy_messages_are_answered_with_30_in_their_own_variant(path, number):
    tag = bytes([number << 3 | 2]) if number < 16 else bytes([number << 3 & 0x7F | 0x80 | 2, number >> 4])
    body = tag + b"\x05\x0a\x03abc"
    reply = tag + bytes.fromhex("02 08 1e")
    assert exchange(path, struct.pack("<I", len(body)) + body) == struct.pack("<I", len(reply)) + reply


ERRORS = [
    pytest.param(aesm.GetKeyIds(None), 1, id="ids-without-size"),
    pytest.param(aesm.GetKeyIds(255), 3, id="ids-wrong-size"),
    pytest.param(aesm.GetKeyIds(768), 3, id="ids-size-for-three"),
    pytest.param(aesm.SelectKeyId(b"short"), 3, id="select-short"),
    pytest.param(aesm.SelectKeyId(build_key_id_list([KEY_ID] * 11)), 3, id="select-eleven"),
    pytest.param(aesm.SelectKeyId(build_key_id_list([OTHER_ID])), 38, id="select-other"),
    pytest.param(aesm.InitQuote(None), 3, id="init-without-id"),
    pytest.param(aesm.InitQuote(KEY_ID[:255]), 3, id="init-short-id"),
    pytest.param(aesm.InitQuote(OTHER_ID), 38, id="init-other-id"),
    pytest.param(aesm.InitQuote(KEY_ID, True), 3, id="init-without-size"),
    pytest.param(aesm.InitQuote(KEY_ID, True, 31), 3, id="init-wrong-size"),
    pytest.param(aesm.InitQuote(KEY_ID, False, 5904726437781253376), 0, id="init-garbage-size"),
    pytest.param(aesm.GetQuoteSize(None), 3, id="size-without-id"),
    pytest.param(aesm.GetQuoteSize(OTHER_ID), 38, id="size-other-id"),
    pytest.param(aesm.GetQuote(None, KEY_ID, 8192), 1, id="quote-without-report"),
    pytest.param(aesm.GetQuote(report(), KEY_ID, None), 1, id="quote-without-size"),
    pytest.param(aesm.GetQuote(report(), None, 8192), 3, id="quote-without-id"),
    pytest.param(aesm.GetQuote(report(), OTHER_ID, 8192), 38, id="quote-other-id"),
    pytest.param(aesm.GetQuote(report()[:-1], KEY_ID, 8192), 3, id="quote-short-report"),
    pytest.param(aesm.GetQuote(report(), KEY_ID, 8192, INFO[:-1]), 3, id="quote-short-info"),
    pytest.param(aesm.GetQuote(report(), KEY_ID, 8192, b""), 3, id="quote-empty-info"),
    pytest.param(aesm.GetQuote(report(), KEY_ID, 65536), 0, id="quote-largest-buffer"),
    pytest.param(aesm.GetQuote(report(), KEY_ID, 65537), 3, id="quote-large-buffer"),
    pytest.param(aesm.GetQuote(report(), KEY_ID, 0xFFFFFFFF), 3, id="quote-absurd-buffer"),
]


@pytest.mark.parametrize(("request_", "error"), ERRORS)
def test_table_of_errors(path, request_, error):
    assert error_of(path, request_) == error


def test_a_buffer_that_is_too_small_for_what_was_told(path):
    assert error_of(path, READY) == 0
    assert error_of(path, aesm.GetQuote(report(), KEY_ID, QUOTE_SIZE - 1)) == 3


# 42 and 44 change what the helper does, 45 and 47 are answered with 42 once: they have tests of their own.
@pytest.mark.parametrize("error", [one for one in AesmError if one not in {0, 42, 44, 45, 46, 47}], ids=int)
def test_the_workers_errors_reach_the_client_and_the_metrics(running, error):
    original = 0xE100 + error
    assert error_of(running.socket, quote(f"error {int(error)} {original:x}")) is error
    name = f'kubenclave_quote_worker_errors_total{{error="{error.name}",original="{original:#x}"}}'
    assert running.metric(name) == 1
    assert any(line.get("original") == hex(original) for line in running.log())


def test_an_error_reply_carries_nothing_else(path):
    assert error_of(path, READY) == 0  # who was told nothing yet is told 42 first
    answer = exchange(path, aesm.encode_request(aesm.GetQuote(report(), KEY_ID, 1)))
    assert answer == frame("05000000 8a0102 0803")


def test_the_quote_fills_the_buffer_with_zeros_behind_it(path):
    reply = ask(path, quote("padded", 8192))
    assert reply == aesm.Quote(quote_of(report("padded")) + bytes(8192 - QUOTE_SIZE))


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\xff" * 9, id="no-protobuf"),
        pytest.param(bytes.fromhex("a20100"), id="unsupported-request"),
        pytest.param(bytes.fromhex("fa07 00"), id="unknown-message"),
    ],
)
def test_what_cannot_be_answered_in_kind_is_closed(path, body):
    assert exchange(path, struct.pack("<I", len(body)) + body) == b""


def test_a_request_over_the_cap_is_closed_before_it_arrives(path):
    assert exchange(path, struct.pack("<I", 64 * 1024 + 1)) == b""


def test_only_the_first_request_of_a_connection_is_answered(path):
    request = aesm.encode_request(aesm.GetKeyIdCount())
    assert exchange(path, request * 3) == frame("07000000 aa0104 0800 1001")


def test_a_request_may_arrive_in_pieces(path):
    with connect(path) as peer:
        for byte in aesm.encode_request(aesm.GetKeyIdCount()):
            peer.sendall(bytes([byte]))
        assert rest(peer) == frame("07000000 aa0104 0800 1001")


def test_a_half_closed_peer_gets_its_answer(path):
    with connect(path) as peer:
        peer.sendall(aesm.encode_request(quote("half")))
        peer.shutdown(socket.SHUT_WR)
        assert len(rest(peer)) > 8192


def test_probes_leave_no_trace_but_a_count(running):
    probes = 'kubenclave_aesm_connections_total{outcome="probe"}'
    before, lines = running.metric(probes), len(running.log())
    connect(running.socket).close()
    assert running.metric(probes) == before + 1
    assert len(running.log()) == lines


# --- what each known client sends and checks: aesm.md section 4


class Client:
    """Sends with the habits of one client, one connection each, and reads the way it does."""

    def __init__(self, path: Path, timeout: int | None) -> None:
        self._path = path
        self._timeout = timeout

    def call(self, request: aesm.Request, field: str) -> Any:
        """Return the sub-message; it must be there, as the clients follow the pointer without a look."""
        answer = exchange(self._path, aesm.encode_request(request, self._timeout))
        (length,) = struct.unpack_from("<I", answer)
        assert length == len(answer) - 4
        response = aesm_pb2.Response.FromString(answer[4:])
        assert [one.name for one, _ in response.ListFields()] == [field]
        message = getattr(response, field)
        assert message.HasField("errorCode")
        assert message.errorCode == 0
        return message


def init(client: Client, size: int | None) -> bytes:
    """Ask for sizes, then for the target info, as Intel's, Open Enclave's, Fortanix', Enarx' and rune's clients do."""
    sizes = client.call(aesm.InitQuote(KEY_ID, False, size), "initQuoteExRes")
    assert sizes.pub_key_id_size == 32
    assert not sizes.HasField("pub_key_id")  # libsgx_dcap_ql has no buffer for it and dies
    assert len(sizes.target_info) == 512
    full = client.call(aesm.InitQuote(KEY_ID, True, sizes.pub_key_id_size), "initQuoteExRes")
    assert len(full.target_info) == 512
    assert full.target_info == target_info()
    assert (full.pub_key_id_size, len(full.pub_key_id)) == (32, 32)
    return bytes(full.target_info)


def listed(client: Client) -> bytes:
    number = client.call(aesm.GetKeyIdCount(), "getSupportedAttKeyIDNumRes").att_key_id_num
    assert number > 0
    ids = client.call(aesm.GetKeyIds(number * 256), "getSupportedAttKeyIDsRes").att_key_ids
    assert len(ids) == number * 256
    key_id = bytes(ids[:256])
    assert struct.unpack_from("<I", key_id, 154) == (2,)  # ECDSA P-256
    return key_id


def sized(client: Client, key_id: bytes = KEY_ID) -> int:
    message = client.call(aesm.GetQuoteSize(key_id), "getQuoteSizeExRes")
    assert message.HasField("quote_size")
    return int(message.quote_size)


def test_client_intel_quote_ex(path):
    client = Client(path, 15000)
    selected = client.call(aesm.SelectKeyId(), "selectAttKeyIDRes").selected_att_key_id
    assert len(selected) <= 256
    init(client, None)
    size = sized(client)
    message = client.call(aesm.GetQuote(report("intel"), KEY_ID, size, INFO), "getQuoteExRes")
    assert len(message.quote) <= size
    assert len(message.qe_report_info) <= 960


def test_client_dcap_ql_out_of_process(path):
    client = Client(path, 15000)
    init(client, 5904726437781253376)  # uninitialised stack bytes
    size = sized(client)
    message = client.call(aesm.GetQuote(report("dcap"), KEY_ID, size), "getQuoteExRes")
    assert len(message.quote) == size
    assert not message.HasField("qe_report_info")


def test_client_open_enclave(path):
    client = Client(path, 15000)
    key_id = listed(client)
    init(client, None)
    size = sized(client, key_id)
    assert len(client.call(aesm.GetQuote(report("oe"), key_id, size), "getQuoteExRes").quote) == size


def test_client_gramine(path):
    client = Client(path, None)  # it sends no timeout
    full = client.call(aesm.InitQuote(KEY_ID, True, 32), "initQuoteExRes")
    assert len(full.target_info) == 512
    message = client.call(aesm.GetQuote(report("gramine"), KEY_ID, 8192), "getQuoteExRes")
    assert len(message.quote) >= 436
    length = 436 + struct.unpack_from("<I", message.quote, 432)[0]
    assert length == QUOTE_SIZE
    assert length <= 8192


def test_client_fortanix(path):
    client = Client(path, 30_000_000)
    connect(path).close()
    key_id = listed(client)
    target = init(client, None)
    size = sized(client, key_id)
    info = b"n" * 16 + target + bytes(432)
    message = client.call(aesm.GetQuote(report("fortanix"), key_id, size, info), "getQuoteExRes")
    assert len(message.qe_report_info[528:]) == 432
    assert message.qe_report_info[:528] == info[:528]


def test_client_enarx(path):
    client = Client(path, 1_000_000)
    key_id = listed(client)
    init(client, None)
    size = sized(client, key_id)
    assert len(client.call(aesm.GetQuote(report("enarx"), key_id, size), "getQuoteExRes").quote) == size


def test_client_rune_reads_the_body_at_once(path):
    client = Client(path, 15000)
    key_id = client.call(aesm.SelectKeyId(), "selectAttKeyIDRes").selected_att_key_id
    assert len(key_id) == 256
    init(client, 0)
    size = sized(client, key_id)
    with connect(path) as peer:
        peer.sendall(aesm.encode_request(aesm.GetQuote(report("rune"), key_id, size)))
        (length,) = struct.unpack("<I", peer.recv(4))
        body = peer.recv(length)  # a single read
    reply = aesm.decode_reply(body, aesm.GetQuote(report(), key_id, size))
    assert isinstance(reply, aesm.Quote)
    assert len(reply.quote) == size
