# SPDX-License-Identifier: Apache-2.0
"""The quote helper's worker on a SIMULATED platform: ``python -m ... --provision-socket PATH --fd N``.

It speaks ``wire.quoteworker`` on descriptor N, in one thread that reads and writes in batches, and ends with the
stream. It also ends when the CPU is gone, for its enclaves went with it: the helper starts another one.
"""

import argparse
import select
import signal
import socket
import sys
from pathlib import Path
from typing import Final

import structlog

from kubenclave import log
from kubenclave.errors import FormatError, KubenclaveError, UnreachableError
from kubenclave.platform.parent import die_with_parent
from kubenclave.platform.simcpu import Enclave
from kubenclave.platform.simulated.enclaves import EnclaveImage
from kubenclave.platform.simulated.quoting import QuotingEnclave
from kubenclave.wire.aesm_errors import AesmError
from kubenclave.wire.quoteworker import FrameDecoder, Op, QuoteRequest, WorkerRequest, decode_request, encode_reply

_log = structlog.get_logger()

_RECEIVE: Final = 64 * 1024
_UNEXPECTED: Final = 0xE001
_PARAMETER: Final = 0xE002
_SERVICE_UNAVAILABLE: Final = 0xE040
# What Intel's library (quote3_error_t) would say; the AESM code follows from that.
_QUOTE3: Final = {
    "quoting.not-initialised": 0xE00F,
    "quoting.invalid-report": 0xE015,
    "quoting.qe-report": 0xE017,
    "quoting.no-certificate": 0xE011,
    "pce.refused": 0xE018,
    "simcpu.not-available": 0xE011,
    "simcpu.out-of-epc": 0xE012,
    "simcpu.invalid-sig-struct": 0xE016,
    "simcpu.invalid-attribute": 0xE016,
    "simcpu.invalid-measurement": 0xE016,
    "simcpu.invalid-signature": 0xE016,
}


class Worker:
    """Answers requests on one socket until either end is gone."""

    def __init__(self, provision_socket: Path, helper: socket.socket) -> None:
        self._provision_socket: Final = provision_socket
        self._helper: Final = helper
        self._quoting: Final = QuotingEnclave(self._load)
        self._decoder: Final = FrameDecoder(decode_request)
        self._cpu: Enclave | None = None
        self._cpu_gone: UnreachableError | None = None

    def run(self) -> int:
        """Serve; return the exit code: 0 when the helper has closed the stream, 3 when it talks nonsense, 4 no CPU."""
        try:
            while data := self._receive():
                requests = self._decoder.feed(data)
                self._helper.sendall(b"".join([self._answer(request) for request in requests]))
                if self._cpu_gone is not None:
                    raise self._cpu_gone
        except OSError:  # the helper's end of the stream: it does not care any more
            return 0
        except (FormatError, UnreachableError) as error:
            _log.error("worker.ends", code=error.code, error=str(error))
            return error.exit_code
        finally:
            self._quoting.close()
        return 0

    def _receive(self) -> bytes:
        """Wait for the helper, and for nothing from the CPU, which only ever speaks when asked."""
        cpu = self._cpu.fileno() if self._cpu is not None else -1  # -1 when it was closed
        if cpu >= 0:
            poll = select.poll()
            poll.register(self._helper, select.POLLIN)
            poll.register(cpu, select.POLLIN)
            ready = {descriptor for descriptor, _ in poll.poll()}
            if cpu in ready:
                raise UnreachableError("the SIMULATED CPU has ended the quoting enclave", code="simcpu.unreachable")
        return self._helper.recv(_RECEIVE)

    def _answer(self, request: WorkerRequest) -> bytes:
        if self._cpu_gone is None:
            try:
                return encode_reply(request.request_id, payload=self._result(request))
            except UnreachableError as error:
                self._cpu_gone = error
            except KubenclaveError as error:
                _log.info("worker.refused", code=error.code, error=str(error))
                original = _QUOTE3.get(error.code, _PARAMETER if isinstance(error, FormatError) else _UNEXPECTED)
                return encode_reply(request.request_id, AesmError.from_quote3(original), original)
        return encode_reply(request.request_id, AesmError.SERVICE_UNAVAILABLE, _SERVICE_UNAVAILABLE)

    def _result(self, request: WorkerRequest) -> bytes:
        if request.op is Op.INIT:
            return self._quoting.init().build()
        wanted = QuoteRequest.parse(request.payload)
        return self._quoting.quote(wanted.report, wanted.qe_report_info).build()

    def _load(self, image: EnclaveImage) -> Enclave:
        connection = Enclave.connect(self._provision_socket)
        try:
            image.load(connection)
        except BaseException:
            connection.close()
            raise
        self._cpu = connection  # the quoting enclave's comes last
        return connection


def main(arguments: list[str] | None = None) -> int:
    """Run the program; ``arguments`` None means the process's own. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m kubenclave.platform.simulated.worker", description=__doc__)
    where = "provision socket of the SIMULATED CPU"
    parser.add_argument("--provision-socket", type=Path, required=True, metavar="PATH", help=where)
    parser.add_argument("--fd", type=int, required=True, metavar="N", help="the worker's end of a stream socket")
    options = parser.parse_args(arguments)
    log.configure("quote-worker", simulated=True)
    for number in (signal.SIGINT, signal.SIGTERM):  # meant for the helper, which closes the stream when it has drained
        signal.signal(number, signal.SIG_IGN)
    die_with_parent(signal.SIGKILL)  # stopped or waiting for the CPU, it must not outlive the helper, with EPC
    with socket.socket(fileno=options.fd) as helper:
        return Worker(options.provision_socket, helper).run()


if __name__ == "__main__":
    sys.exit(main())
