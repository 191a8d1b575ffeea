# SPDX-License-Identifier: Apache-2.0
"""A worker for tests of the quote helper: quotes of known content, and every way to fail, as the REPORT says.

The first word of the REPORT is an order: ``error N ORIGINAL``, ``crash``, ``hang``, ``late SECONDS``, ``ppid``,
``long``, ``garbage``, ``stream`` (of nonsense), ``forget`` (the QE REPORT); anything else is quoted. With ``--plan``
a file's words are orders for INIT, and ``target WORD`` in it makes the target info of another quoting enclave.
"""

import argparse
import os
import signal
import socket
import struct
import time
from pathlib import Path

from kubenclave.wire.quoteworker import (
    FrameDecoder,
    InitResult,
    Op,
    QuoteRequest,
    QuoteResult,
    WorkerRequest,
    decode_request,
    encode_reply,
)

QUOTE_SIZE = 4600


def target_info(word: str = "target") -> bytes:
    return word.encode().ljust(512, b".")


PUB_KEY_ID = bytes(range(32))


def quote_of(report: bytes, kind: int = 5, size: int = QUOTE_SIZE) -> bytes:
    """Return a quote of version 3 around the REPORT's body, its signatures filled with text."""
    head = struct.pack("<HHI", 3, 2, 0) + bytes(40) + report[:384]
    signed = b"s" * 576 + struct.pack("<H", 32) + bytes(range(32))
    chain = size - 1052
    data = b"-----BEGIN CERTIFICATE-----".ljust(chain, b"c")
    signature = signed + struct.pack("<HI", kind, chain) + data
    quote = head + struct.pack("<I", len(signature)) + signature
    assert len(quote) == size
    return quote


def misbehave(words: list[str]) -> None:
    match words:
        case ["crash", *_]:
            os.kill(os.getpid(), signal.SIGSEGV)
        case ["hang", *_]:
            time.sleep(600)
        case ["late", seconds, *_]:
            time.sleep(float(seconds))


def initialised(number: int, plan: Path | None) -> bytes:
    words = plan.read_text().split() if plan is not None and plan.exists() else []
    misbehave(words)
    result = InitResult(target_info(), PUB_KEY_ID, QUOTE_SIZE).build()
    match words:
        case ["error", error, original, *_]:
            return encode_reply(number, int(error), int(original, 16))
        case ["ppid", *_]:
            result = InitResult(target_info(), PUB_KEY_ID, 1456).build()
        case ["garbage", *_]:
            result = b"no result"
        case ["target", word, *_]:
            result = InitResult(target_info(word), PUB_KEY_ID, QUOTE_SIZE).build()
    return encode_reply(number, payload=result)


def answer(request: WorkerRequest, plan: Path | None) -> bytes:
    number = request.request_id
    if request.op is Op.INIT:
        return initialised(number, plan)
    asked = QuoteRequest.parse(request.payload)
    words = asked.report.rstrip(b"\0").decode("latin-1").split()
    misbehave(words)
    info = asked.qe_report_info
    if info is not None:
        info = info[:528] + b"QE REPORT".ljust(432, b".")
    kind, size = 5, QUOTE_SIZE
    match words:
        case ["error", error, original, *_]:
            return encode_reply(number, int(error), int(original, 16))
        case ["garbage", *_]:
            return encode_reply(number, payload=b"")
        case ["stream", *_]:
            return b"\xff\xff\xff\xff"
        case ["forget", *_]:
            info = None
        case ["ppid", *_]:
            kind, size = 3, 1456
        case ["long", *_]:
            size = QUOTE_SIZE + 100
    return encode_reply(number, payload=QuoteResult(quote_of(asked.report, kind, size), info).build())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--fd", type=int, required=True)
    parser.add_argument("--plan", type=Path)
    given = parser.parse_args()
    stream = socket.socket(fileno=given.fd)
    decoder = FrameDecoder(decode_request)
    assert "SGX_AESM_ADDR" not in os.environ
    while data := stream.recv(65536):
        for request in decoder.feed(data):
            stream.sendall(answer(request, given.plan))


if __name__ == "__main__":
    main()
