# SPDX-License-Identifier: Apache-2.0
"""Worker of the quote helper on real nodes: quotes from Intel's library ``libsgx_dcap_ql`` (aesm.md section 5).

``python -m kubenclave.platform.dcapworker [--library FILE] --fd N`` speaks ``kubenclave.wire.quoteworker`` on
descriptor N until that ends. The library may crash or hang: it is for the helper to start another worker then.
"""

import argparse
import ctypes
import os
import signal
import socket
import struct
import sys
from collections.abc import Callable, Sequence
from typing import Final

import structlog

from kubenclave import log
from kubenclave.errors import FormatError
from kubenclave.platform.parent import die_with_parent
from kubenclave.wire.aesm_errors import AesmError
from kubenclave.wire.quoteworker import (
    PPID_QUOTE_SIZE,
    PPID_TYPES,
    PUB_KEY_ID_SIZE,
    TARGET_INFO_SIZE,
    FrameDecoder,
    InitResult,
    Op,
    QuoteRequest,
    QuoteResult,
    WorkerRequest,
    certification_type,
    decode_request,
    encode_reply,
)

LIBRARY: Final = "libsgx_dcap_ql.so.1"
MAX_QUOTE: Final = 48 * 1024
"""Bytes of a quote that fit into a frame to the helper; Intel's have 13.4 KB at most."""

_SIGNATURE_LENGTH: Final = struct.Struct("<432xI")
_SMALLEST_QUOTE: Final = 1014  # up to the size of the authentication data
_PUB_KEY_ID: Final = slice(884, 884 + PUB_KEY_ID_SIZE)  # first half of the QE REPORT's report data

# quote3_error_t
_SUCCESS: Final = 0
_INVALID_PARAMETER: Final = 0xE002
_NOT_INITIALIZED: Final = 0xE00F
_NO_CERT_DATA: Final = 0xE011

_RECEIVE: Final = 64 * 1024

_log = structlog.get_logger()


class LibraryError(Exception):
    """A refusal: ``error`` for clients, ``original`` is the library's own code or 0."""

    def __init__(self, error: AesmError, original: int = 0) -> None:
        super().__init__(error.name)
        self.error = error
        self.original = original


def load(path: str) -> ctypes.CDLL:
    """Load the library. Raises LibraryError with SERVICE_UNAVAILABLE where it is not there or not what it should be."""
    os.environ.pop("SGX_AESM_ADDR", None)  # with it, the library's constructor would turn to our own socket
    try:
        library = ctypes.CDLL(path)
        target_info, size, quote = (
            library.sgx_qe_get_target_info,
            library.sgx_qe_get_quote_size,
            library.sgx_qe_get_quote,
        )
    except (OSError, AttributeError) as error:
        _log.error("dcap.not-loaded", library=path, error=str(error), hint="install libsgx-dcap-ql, or see --library")
        raise LibraryError(AesmError.SERVICE_UNAVAILABLE) from error
    target_info.argtypes = [ctypes.c_char_p]
    size.argtypes = [ctypes.POINTER(ctypes.c_uint32)]
    quote.argtypes = [ctypes.c_char_p, ctypes.c_uint32, ctypes.c_char_p]
    for function in (target_info, size, quote):
        function.restype = ctypes.c_uint32
    _log.info("dcap.loaded", library=path)
    return library


class QuoteSource:
    """The library's three calls as INIT and QUOTE; loaded when first needed, again after it could not be."""

    def __init__(self, path: str = LIBRARY) -> None:
        self._path: Final = path
        self._loaded: ctypes.CDLL | None = None
        self._target_info = b""
        self._size = 0
        self._pub_key_id = bytes(PUB_KEY_ID_SIZE)

    def init(self) -> InitResult:
        """Certify the attestation key. Raises LibraryError.

        ``pub_key_id`` is zeros until there has been a quote: this library tells it nowhere else, and no client looks.
        """
        buffer = ctypes.create_string_buffer(TARGET_INFO_SIZE)
        _check("sgx_qe_get_target_info", self._library.sgx_qe_get_target_info(buffer))
        self._target_info = buffer.raw
        self._measure()
        return InitResult(self._target_info, self._pub_key_id, self._size)

    def quote(self, request: QuoteRequest) -> QuoteResult:
        """Quote a REPORT. Raises LibraryError."""
        if request.qe_report_info is not None:  # this interface of the library has no place for it
            raise LibraryError(AesmError.UNABLE_TO_GENERATE_QE_REPORT)
        quote = _trimmed(self._quote(request.report))
        self._pub_key_id = quote[_PUB_KEY_ID]
        return QuoteResult(quote)

    @property
    def _library(self) -> ctypes.CDLL:
        if self._loaded is None:
            self._loaded = load(self._path)
        return self._loaded

    def _measure(self) -> None:
        size = ctypes.c_uint32()
        _check("sgx_qe_get_quote_size", self._library.sgx_qe_get_quote_size(ctypes.byref(size)))
        if size.value == PPID_QUOTE_SIZE:
            raise _ppid()
        if not _SMALLEST_QUOTE <= size.value <= MAX_QUOTE:
            _log.error("dcap.quote-size", size=size.value)
            raise LibraryError(AesmError.UNEXPECTED_ERROR)
        self._size = size.value

    def _quote(self, report: bytes) -> bytes:
        if not self._size:
            raise LibraryError(AesmError.ATT_KEY_NOT_INITIALIZED)
        code, quote = self._try(report)
        if code in {_NOT_INITIALIZED, _NO_CERT_DATA}:  # only this init sends what a cache needs to fetch certificates
            before = self._target_info
            _log.info("dcap.initialising-again", original=hex(code))
            if self.init().target_info != before:
                raise LibraryError(AesmError.ATT_KEY_NOT_INITIALIZED, code)
            code, quote = self._try(report)
        elif code == _INVALID_PARAMETER:
            before_size = self._size
            self._measure()
            if self._size > before_size:  # the certificate chain has changed
                code, quote = self._try(report)
        _check("sgx_qe_get_quote", code)
        return quote

    def _try(self, report: bytes) -> tuple[int, bytes]:
        buffer = ctypes.create_string_buffer(self._size)
        code: int = self._library.sgx_qe_get_quote(report, self._size, buffer)
        return code, buffer.raw


def _check(function: str, code: int) -> None:
    if code != _SUCCESS:
        error = AesmError.from_quote3(code)
        _log.warning("dcap.error", function=function, original=hex(code), error=error.name)
        raise LibraryError(error, code)


def _trimmed(quote: bytes) -> bytes:
    """Return the quote in its own length. Raises LibraryError for one that names its platform by PPID, or for none."""
    end = _SIGNATURE_LENGTH.size + _SIGNATURE_LENGTH.unpack_from(quote)[0]
    kind = certification_type(quote[:end])
    if end > len(quote) or kind is None:
        _log.error("dcap.not-a-quote", size=len(quote), says=end)
        raise LibraryError(AesmError.UNEXPECTED_ERROR)
    if kind in PPID_TYPES:
        raise _ppid()
    return quote[:end]


def _ppid() -> LibraryError:
    """Refuse what the library makes without a working provider library: verifiers reject such quotes."""
    _log.error(
        "dcap.ppid-quote", hint="install the provider library and check its configuration (sgx_default_qcnl.conf)"
    )
    return LibraryError(AesmError.NO_PLATFORM_CERT_DATA)


def answer(source: QuoteSource, request: WorkerRequest) -> bytes:
    """Return the reply's frame. Raises FormatError when the request makes no sense."""
    try:
        if request.op is Op.INIT:
            payload = source.init().build()
        else:
            payload = source.quote(QuoteRequest.parse(request.payload)).build()
    except LibraryError as error:
        return encode_reply(request.request_id, error.error, error.original)
    return encode_reply(request.request_id, payload=payload)


def serve(stream: socket.socket, respond: Callable[[WorkerRequest], bytes]) -> int:
    """Answer one request after the other until the stream ends; returns the exit code."""
    decoder = FrameDecoder(decode_request)
    try:
        while data := stream.recv(_RECEIVE):
            for request in decoder.feed(data):
                stream.sendall(respond(request))
    except FormatError as error:
        _log.error("worker.bad-request", error=str(error))
        return error.exit_code
    except (BrokenPipeError, ConnectionResetError):
        pass  # the helper has gone, which is how it ends us
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the worker; returns its exit code."""
    parser = argparse.ArgumentParser(prog="kubenclave.platform.dcapworker", description="Worker of the quote helper.")
    parser.add_argument("--library", default=LIBRARY, metavar="FILE", help="DCAP library (%(default)s)")
    parser.add_argument("--fd", type=int, required=True, metavar="N", help="stream socket of the helper")
    given = parser.parse_args(arguments)
    log.configure("dcap-worker")
    for number in (signal.SIGINT, signal.SIGTERM):  # meant for the helper, which ends us when nobody waits any more
        signal.signal(number, signal.SIG_IGN)
    die_with_parent(signal.SIGKILL)  # even a call that hangs must not outlive the helper, with an enclave in EPC
    source = QuoteSource(given.library)
    with socket.socket(fileno=given.fd) as stream:
        return serve(stream, lambda request: answer(source, request))


if __name__ == "__main__":
    sys.exit(main())
