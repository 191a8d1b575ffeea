# SPDX-License-Identifier: Apache-2.0
"""A client of the AESM socket for programs without an event loop: what a workload does to turn a REPORT into a quote.

One connection for each request, as every AESM client does it. Works with our quote helper and with Intel's aesmd.
"""

import socket
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, TypeVar

from kubenclave.errors import FormatError, KubenclaveError, PlatformError, UnreachableError
from kubenclave.platform.sockets import AESM_SOCKET
from kubenclave.sgx.report import TargetInfo
from kubenclave.wire import aesm
from kubenclave.wire.aesm_errors import AesmError
from kubenclave.wire.aesm_keyid import ECDSA_P256_KEY_ID, KEY_ID_SIZE

DEFAULT_SOCKET: Final = Path(AESM_SOCKET)
SOCKET_VARIABLE: Final = "KUBENCLAVE_AESM_SOCKET"
DEFAULT_TIMEOUT: Final = 15.0

_RETRIES: Final = 3
_SIGNATURE_LENGTH: Final = struct.Struct("<432xI")  # length of the signature data, behind header and report body
_PASSING: Final = frozenset({AesmError.BUSY, AesmError.SERVICE_UNAVAILABLE, AesmError.SERVICE_NOT_AVAILABLE})
_Reply = TypeVar("_Reply")


def socket_path(env: Mapping[str, str]) -> Path:
    """Return where the AESM socket is: where all clients look, unless KUBENCLAVE_AESM_SOCKET says something else."""
    return Path(env.get(SOCKET_VARIABLE) or DEFAULT_SOCKET)


class AesmClient:
    """Asks for quotes at one socket; ``timeout`` in seconds for each request."""

    def __init__(self, path: Path = DEFAULT_SOCKET, *, timeout: float = DEFAULT_TIMEOUT) -> None:
        self._path = path
        self._timeout = timeout

    def key_ids(self) -> tuple[bytes, ...]:
        """Return the attestation key ids on offer, 256 bytes each."""
        count = self._ask(aesm.GetKeyIdCount(), aesm.KeyIdCount).count
        listed = self._ask(aesm.GetKeyIds(count * KEY_ID_SIZE), aesm.KeyIds).key_ids
        return tuple(listed[start : start + KEY_ID_SIZE] for start in range(0, len(listed), KEY_ID_SIZE))

    def target_info(self) -> TargetInfo:
        """Return the quoting enclave's TARGETINFO, for which the REPORT has to be made."""
        request = aesm.InitQuote(ECDSA_P256_KEY_ID, with_pub_key_id=True, buf_size=aesm.PUB_KEY_ID_SIZE)
        return TargetInfo.parse(self._ask(request, aesm.QuoteInit).target_info)

    def quote(self, make_report: Callable[[TargetInfo], bytes]) -> bytes:
        """Return a quote over the REPORT that ``make_report`` makes for the quoting enclave.

        Begins again when the quoting enclave has been replaced meanwhile. Raises UnreachableError when nobody
        answers or the service is busy, PlatformError with code ``aesm.<error>`` when it refuses.
        """
        for left in reversed(range(_RETRIES)):
            report = make_report(self.target_info())
            try:
                return self._quote(report)
            except PlatformError as error:
                if error.code != _code(AesmError.ATT_KEY_NOT_INITIALIZED) or not left:
                    raise
        raise AssertionError

    def _quote(self, report: bytes) -> bytes:
        size = self._ask(aesm.GetQuoteSize(ECDSA_P256_KEY_ID), aesm.QuoteSize).size
        request = aesm.GetQuote(report, ECDSA_P256_KEY_ID, size)
        return _without_padding(self._ask(request, aesm.Quote).quote)

    def _ask(self, request: aesm.Request, wanted: type[_Reply]) -> _Reply:
        reply = aesm.decode_reply(self._exchange(aesm.encode_request(request)), request)
        if isinstance(reply, aesm.Refusal):
            raise _refused(reply.error)
        assert isinstance(reply, wanted), "a decoded reply answers its request"
        return reply

    def _exchange(self, frame: bytes) -> bytes:
        """Send one request and return the body of its reply."""
        reader = aesm.FrameReader(aesm.MAX_REPLY)
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
                connection.settimeout(self._timeout)
                connection.connect(str(self._path))
                connection.sendall(frame)
                while data := connection.recv(65536):
                    if (body := reader.feed(data)) is not None:
                        return body
        except OSError as error:
            raise UnreachableError(
                f"no answer from the AESM socket {self._path}: {error.strerror or error}",
                code="aesm.unreachable",
                hint="is a quote helper (or aesmd) running, and is its directory mounted here?",
            ) from error
        raise UnreachableError(
            f"the AESM socket {self._path} closed without an answer",
            code="aesm.no-answer",
            hint="the quote helper's log says why",
        )


def _without_padding(quote: bytes) -> bytes:
    """Return the quote without zeros behind it. Raises FormatError when it is shorter than it says."""
    end = 436 + _SIGNATURE_LENGTH.unpack_from(quote)[0] if len(quote) >= 436 else 436
    if len(quote) < end or any(quote[end:]):
        raise FormatError("not a quote from the AESM socket", code="aesm.quote", expected=f"{end} bytes, then zeros")
    return quote[:end]


def _refused(error: AesmError) -> KubenclaveError:
    text = f"the quote helper answered {error.name} ({error.value})"
    if error in _PASSING:
        return UnreachableError(text, code=_code(error), hint="try again in a moment")
    hint = "the quote helper's log has the quoting library's own code"
    if error is AesmError.INVALID_REPORT:
        hint = "make the REPORT on this processor, with target info that was asked for just before"
    return PlatformError(text, code=_code(error), hint=hint)


def _code(error: AesmError) -> str:
    return f"aesm.{error.name.lower().replace('_', '-')}"
