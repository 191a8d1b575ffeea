# SPDX-License-Identifier: Apache-2.0
"""The AESM client against a server that says what a test tells it to, over a real socket."""

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kubenclave.errors import FormatError, KubenclaveError, PlatformError, UnreachableError
from kubenclave.platform.aesmclient import DEFAULT_SOCKET, AesmClient, socket_path
from kubenclave.sgx.report import TargetInfo
from kubenclave.wire import aesm
from kubenclave.wire.aesm_errors import AesmError
from kubenclave.wire.aesm_keyid import ECDSA_P256_KEY_ID

Answer = Callable[[aesm.Request], bytes]
QUOTE = bytes(432) + struct.pack("<I", 4) + b"sign"
TARGET = bytes(range(32)) + bytes(480)


def answered(request: aesm.Request) -> bytes:
    """Answer as a good quote helper does, with padding behind the quote."""
    reply: aesm.Reply
    match request:
        case aesm.GetKeyIdCount():
            reply = aesm.KeyIdCount(1)
        case aesm.GetKeyIds():
            reply = aesm.KeyIds(ECDSA_P256_KEY_ID)
        case aesm.InitQuote():
            reply = aesm.QuoteInit(TARGET, bytes(32))
        case aesm.GetQuoteSize():
            reply = aesm.QuoteSize(len(QUOTE) + 8)
        case _:
            assert isinstance(request, aesm.GetQuote)
            assert request.report == b"r" * 432
            reply = aesm.Quote(QUOTE + bytes(8))
    return aesm.encode_reply(reply)


@contextmanager
def helper(path: Path, answer: Answer) -> Iterator[None]:
    """Serve one connection after the other until the block ends."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                reader = aesm.FrameReader()
                while (body := reader.feed(connection.recv(65536))) is None:
                    pass
                connection.sendall(answer(aesm.decode_request(body)))

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def report(target: TargetInfo) -> bytes:
    assert target.build() == TARGET
    return b"r" * 432


def test_a_quote_is_had_without_its_padding(short_tmp):
    with helper(short_tmp / "a", answered):
        client = AesmClient(short_tmp / "a")
        assert client.key_ids() == (ECDSA_P256_KEY_ID,)
        assert client.quote(report) == QUOTE


def test_it_begins_again_when_the_quoting_enclave_was_replaced(short_tmp):
    targets: list[TargetInfo] = []
    left = [AesmError.ATT_KEY_NOT_INITIALIZED]

    def once_replaced(request: aesm.Request) -> bytes:
        if isinstance(request, aesm.GetQuoteSize) and left:
            return aesm.encode_reply(aesm.Refusal(request, left.pop()))
        return answered(request)

    def make(target: TargetInfo) -> bytes:
        targets.append(target)
        return report(target)

    with helper(short_tmp / "a", once_replaced):
        assert AesmClient(short_tmp / "a").quote(make) == QUOTE
    assert len(targets) == 2


@pytest.mark.parametrize(
    ("error", "kind", "tries"),
    [
        (AesmError.ATT_KEY_NOT_INITIALIZED, PlatformError, 3),
        (AesmError.INVALID_REPORT, PlatformError, 1),
        (AesmError.BUSY, UnreachableError, 1),
        (AesmError.SERVICE_UNAVAILABLE, UnreachableError, 1),
    ],
)
def test_refusals_carry_the_code_of_the_protocol(short_tmp, error, kind, tries):
    tried = []

    def refusing(request: aesm.Request) -> bytes:
        if not isinstance(request, aesm.GetQuote):
            return answered(request)
        tried.append(request)
        return aesm.encode_reply(aesm.Refusal(request, error))

    with helper(short_tmp / "a", refusing), pytest.raises(KubenclaveError) as caught:
        AesmClient(short_tmp / "a").quote(report)
    assert type(caught.value) is kind
    assert caught.value.code == "aesm." + error.name.lower().replace("_", "-")
    assert len(tried) == tries


@pytest.mark.parametrize(
    "quote", [b"short", QUOTE[:-1], QUOTE + b"x", bytes(435)], ids=["short", "cut", "long", "zero"]
)
def test_what_is_no_quote_is_a_format_error(short_tmp, quote):
    def wrong(request: aesm.Request) -> bytes:
        return aesm.encode_reply(aesm.Quote(quote)) if isinstance(request, aesm.GetQuote) else answered(request)

    with helper(short_tmp / "a", wrong), pytest.raises(FormatError) as caught:
        AesmClient(short_tmp / "a").quote(report)
    assert caught.value.code == "aesm.quote"


def test_nobody_there_says_what_to_look_at(short_tmp):
    with pytest.raises(UnreachableError) as caught:
        AesmClient(short_tmp / "nobody").key_ids()
    assert caught.value.code == "aesm.unreachable"
    assert "quote helper" in (caught.value.hint or "")


def test_a_connection_closed_without_an_answer_is_told_from_nobody(short_tmp):
    with helper(short_tmp / "a", lambda _: b""), pytest.raises(UnreachableError) as caught:
        AesmClient(short_tmp / "a").key_ids()
    assert caught.value.code == "aesm.no-answer"


def test_a_helper_that_stalls_costs_no_more_than_the_timeout(short_tmp):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(short_tmp / "a"))
        listener.listen()
        with pytest.raises(UnreachableError, match="timed out"):
            AesmClient(short_tmp / "a", timeout=0.05).key_ids()


def test_the_socket_is_where_all_clients_look_unless_said_otherwise():
    assert socket_path({}) == DEFAULT_SOCKET
    assert socket_path({"KUBENCLAVE_AESM_SOCKET": "/x/aesm.socket"}) == Path("/x/aesm.socket")
