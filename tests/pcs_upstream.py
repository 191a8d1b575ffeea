# SPDX-License-Identifier: Apache-2.0
"""An upstream for collateral caches: an HTTP server with PCS v4, PCCS v3 and v4 and THIM, from a SIMULATED world.

Faults are set by a part of the path. As a program: ``python -m tests.pcs_upstream --port 8081``.
"""

import argparse
import contextlib
import datetime as dt
import enum
import json
import ssl
import sys
import threading
import time
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final, NamedTuple, Self

from kubenclave.dcap.pckext import PckCa
from kubenclave.platform.simulated import documents
from kubenclave.platform.simulated.enclaves import MR_SIGNER
from kubenclave.platform.simulated.issuer import Issuer, Periods
from kubenclave.platform.simulated.pki import Pki, Role, derive_key, pem_chain
from kubenclave.platform.simulated.tcb import FMSPC, PCE_ID, PlatformTcb
from kubenclave.sgx.quote import TeeType
from kubenclave.wire import pcs

SEED: Final = bytes(range(32))
THIM: Final = "/metadata/THIM"
OTHER_FMSPC: Final = bytes.fromhex("00906ed50000")
ENCRYPTED_PPID: Final = bytes(range(256)) + bytes(128)
QE_ID: Final = "ab" * 16
RETRY_AFTER: Final = 7
SLOW_SECONDS: Final = 5.0


class Fault(enum.Enum):
    """What goes wrong with a request."""

    NOT_FOUND = "404"
    GONE = "410"
    UNAUTHORIZED = "401"
    REFUSED = "400"
    RATE_LIMITED = "429 with Retry-After"
    BUSY = "503 with Retry-After"
    FAILED = "500"
    SLOW = "an answer that takes long"
    TRICKLE = "a body that comes byte by byte"
    TRUNCATED = "half of the body"
    HANG_UP = "no answer"
    GARBAGE = "something else"
    HUGE = "more than any real answer has"
    NO_CHAIN = "no header with the chain"
    WRONG_SIGNATURE = "a signature of somebody else"
    STALE = "ended a month ago"
    ROLLED_BACK = "issued days earlier, of the generation before"
    OTHER_PLATFORM = "that of another family"
    REDIRECT_AWAY = "a redirect to another host"
    REDIRECT_HERE = "a redirect to another path"
    REDIRECT_CIRCLE = "a redirect to itself"


_STATUS: Final = {
    Fault.NOT_FOUND: HTTPStatus.NOT_FOUND,
    Fault.GONE: HTTPStatus.GONE,
    Fault.UNAUTHORIZED: HTTPStatus.UNAUTHORIZED,
    Fault.REFUSED: HTTPStatus.BAD_REQUEST,
    Fault.RATE_LIMITED: HTTPStatus.TOO_MANY_REQUESTS,
    Fault.BUSY: HTTPStatus.SERVICE_UNAVAILABLE,
    Fault.FAILED: HTTPStatus.INTERNAL_SERVER_ERROR,
}


class Reply(NamedTuple):
    body: bytes
    headers: dict[str, str] = {}  # noqa: RUF012  # nobody changes it


@dataclass
class World:
    """What the upstream knows, made anew for each request; change its fields between requests."""

    now: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC)
    seed: bytes = SEED
    number: int = documents.EVALUATION_NUMBER
    early_number: int = documents.EVALUATION_NUMBER + 1
    recovery_event: dt.datetime = dt.datetime(2025, 5, 13, tzinfo=dt.UTC)
    early_levels: tuple[documents.Level, ...] = documents.LEVELS
    issued_later: dt.timedelta = dt.timedelta(0)
    fmspcs: tuple[bytes, ...] = (FMSPC, OTHER_FMSPC)
    not_available: frozenset[PlatformTcb] = frozenset()
    pki: Pki = field(init=False)

    def __post_init__(self) -> None:
        self.pki = Pki.from_seed(self.seed)
        self.issuer = Issuer(self.pki)
        self.pck_key = derive_key(self.seed, "PCK of the upstream").public_key()

    def periods(self, fault: Fault | None) -> Periods:
        now = self.now() - (dt.timedelta(days=3) if fault is Fault.ROLLED_BACK else -self.issued_later)
        return Periods.around(now, expired=fault is Fault.STALE)

    def crl(self, role: Role, fault: Fault | None) -> bytes:
        periods, signer = self.periods(fault), None
        if fault is Fault.WRONG_SIGNATURE:
            signer = self.pki.keys[Role.TCB_SIGNER]
        return self.pki.crl(role, periods.issued, periods.ends, signer=signer)

    def document(self, member: str, document: dict[str, Any], fault: Fault | None) -> bytes:
        role = Role.PLATFORM_CA if fault is Fault.WRONG_SIGNATURE else Role.TCB_SIGNER
        return pcs.join_signed(member, *documents.signed(self.pki, document, role))

    def chain(self, role: Role) -> str:
        return pcs.encode_chain(pem_chain(self.pki.certificates[role], self.pki.certificates[Role.ROOT]))

    def generation(self, query: dict[str, str], fault: Fault | None) -> int | None:
        wanted = query.get("tcbEvaluationDataNumber")
        if wanted is not None:
            return int(wanted) if int(wanted) in (self.number, self.early_number) else None
        number = self.early_number if query.get("update", "standard").lower() == "early" else self.number
        return number - (fault is Fault.ROLLED_BACK)

    def tcb(self, tee: TeeType, query: dict[str, str], fault: Fault | None) -> Reply | None:
        number, fmspc = self.generation(query, fault), bytes.fromhex(query["fmspc"])
        if number is None or fmspc not in self.fmspcs:
            return None
        if fault is Fault.OTHER_PLATFORM:
            fmspc = b"other!"
        periods = self.periods(fault)
        levels = self.early_levels if number == self.early_number else documents.LEVELS
        info = documents.tcb_info(
            periods.issued, periods.ends, tee=tee, fmspc=fmspc, levels=levels, evaluation_number=number
        )
        chain = self.chain(Role.TCB_SIGNER)
        headers = {pcs.TCB_INFO_CHAIN: chain, pcs.TCB_INFO_CHAIN_V3: chain}
        return Reply(self.document(pcs.TCB_INFO, info, fault), headers)

    def identity(self, tee: TeeType, enclave: str, query: dict[str, str], fault: Fault | None) -> Reply | None:
        number, periods = self.generation(query, fault), self.periods(fault)
        if number is None:
            return None
        document = documents.qe_identity(periods.issued, periods.ends, MR_SIGNER, tee=tee, evaluation_number=number)
        if enclave != "qe":
            document["id"] = enclave.upper()
        if fault is Fault.OTHER_PLATFORM:
            document["id"] = "QAE"
        body = self.document(pcs.ENCLAVE_IDENTITY, document, fault)
        return Reply(body, {pcs.IDENTITY_CHAIN: self.chain(Role.TCB_SIGNER)})

    def numbers(self, tee: TeeType, fault: Fault | None) -> Reply:
        periods = self.periods(fault)
        document = {
            "id": tee.name,
            "version": 1,
            "issueDate": _zulu(periods.issued),
            "nextUpdate": _zulu(periods.ends),
            "tcbEvalNumbers": [
                {
                    "tcbEvaluationDataNumber": number,
                    "tcbRecoveryEventDate": _zulu(date),
                    "tcbDate": _zulu(date),
                }
                for number, date in (
                    (self.early_number, self.recovery_event),
                    (self.number, dt.datetime(2024, 11, 12, tzinfo=dt.UTC)),
                )
            ],
        }
        body = self.document(pcs.EVALUATION_NUMBERS, document, fault)
        return Reply(body, {pcs.EVALUATION_NUMBERS_CHAIN: self.chain(Role.TCB_SIGNER)})

    def pck(self) -> dict[bytes, bytes | None]:
        """Return the leaf for each TCB, None where none is available."""
        found: dict[bytes, bytes | None] = {}
        for tcb in PlatformTcb:
            leaf = pcs.split_chain(self.issuer.pck_chain(tcb, self.pck_key))[0]
            found[tcbm_of(tcb)] = None if tcb in self.not_available else leaf
        return found


def tcbm_of(tcb: PlatformTcb) -> bytes:
    """Return CPUSVN and PCE SVN of a state, 18 bytes."""
    return tcb.svns.cpu_svn + tcb.svns.pce_svn.to_bytes(2, "little")


@dataclass(frozen=True)
class Request:
    """What somebody asked for; names of headers in lower case."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes


class Service:
    """What the upstream answers, without a socket."""

    def __init__(self, world: World) -> None:
        self.world = world

    def reply(self, request: Request, fault: Fault | None) -> Reply | None:
        """Return the answer to a request, None where there is no such thing."""
        path = request.path.removeprefix("/moved")
        if path.startswith(THIM) and request.headers.get("metadata") != "true":
            return None
        path = path.removeprefix(THIM)
        if path == "/IntelSGXRootCA.der":
            return Reply(self.world.crl(Role.ROOT, fault))
        parts = path.strip("/").split("/")
        if len(parts) < 4 or parts[1] != "certification":
            return None
        tee = TeeType.TDX if parts[0] == "tdx" else TeeType.SGX
        return self._item(tee, "/".join(parts[3:]), request, fault)

    def _item(self, tee: TeeType, name: str, request: Request, fault: Fault | None) -> Reply | None:
        world, query = self.world, request.query
        if name.endswith("/identity"):
            return world.identity(tee, name.removesuffix("/identity"), query, fault)
        fmspcs = [{"fmspc": each.hex().upper(), "platform": "E5"} for each in world.fmspcs]
        makers: dict[str, Callable[[], Reply | None]] = {
            "tcb": lambda: world.tcb(tee, query, fault),
            "tcbevaluationdatanumbers": lambda: world.numbers(tee, fault),
            "rootcacrl": lambda: Reply(pcs.crl_hex(world.crl(Role.ROOT, fault))),
            "pckcrl": lambda: self._pck_crl(query, fault),
            "fmspcs": lambda: Reply(json.dumps(fmspcs).encode()),
            "pckcerts": lambda: self._pck_certs(request),
            "pckcert": lambda: self._pck_cert(request),
        }
        return makers[name]() if name in makers else None

    def _pck_crl(self, query: dict[str, str], fault: Fault | None) -> Reply:
        if "IntelSGXRootCA" in query.get("uri", ""):
            return Reply(self.world.crl(Role.ROOT, fault))
        asked = query | dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(query.get("uri", "")).query))
        role = Role.of(PckCa(asked["ca"].lower()))
        crl, encoding = self.world.crl(role, fault), asked.get("encoding", "")
        body = crl if encoding == "der" else pcs.crl_pem(crl) if encoding == "pem" else pcs.crl_hex(crl)
        return Reply(body, {pcs.PCK_CRL_CHAIN: self.world.chain(role)})

    def _pck_certs(self, request: Request) -> Reply | None:
        asked = json.loads(request.body) if request.body else request.query
        if asked.get("encrypted_ppid", "").lower() != ENCRYPTED_PPID.hex() and "platformManifest" not in asked:
            return None
        if asked["pceid"] != PCE_ID.hex():
            return None
        entries = tuple(pcs.PckEntry(tcbm, leaf) for tcbm, leaf in self.world.pck().items())
        return Reply(pcs.encode_pck_certs(entries), self._pck_headers())

    def _pck_cert(self, request: Request) -> Reply | None:
        """Return the certificate for exactly that TCB; THIM has other bytes first, and JSON."""
        query, thim = request.query, request.path.startswith(THIM)
        pce_svn = bytes.fromhex(query["pcesvn"])
        tcbm = bytes.fromhex(query["cpusvn"]) + (pce_svn[::-1] if thim else pce_svn)
        leaf = self.world.pck().get(tcbm)
        if query["qeid"].lower() != QE_ID or leaf is None:
            return None
        headers = self._pck_headers()
        if not thim:
            return Reply(leaf, headers | {pcs.PCK_TCBM: tcbm.hex()})
        answer = {
            "pckCert": leaf.decode(),
            "sgx-Pck-Certificate-Issuer-Chain": headers[pcs.PCK_CHAIN],
            "sgx-Tcbm": (tcbm[:16] + tcbm[:15:-1]).hex(),
            "cacheMaxAge": "86400",
        }
        return Reply(json.dumps(answer).encode())

    def _pck_headers(self) -> dict[str, str]:
        return {
            pcs.PCK_CHAIN: self.world.chain(Role.PLATFORM_CA),
            pcs.PCK_FMSPC: FMSPC.hex(),
            pcs.PCK_CA_TYPE: "platform",
        }


class Upstream(Service):
    """The server, on loopback; ``faults`` maps parts of paths to what goes wrong there, ``requests`` tells who came."""

    def __init__(self, world: World | None = None, *, port: int = 0, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(world or World())
        self.faults: dict[str, Fault] = {}
        self.requests: list[Request] = []
        self.stopped = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", port), type("Handler", (_Handler,), {"upstream": self}))
        self._server.daemon_threads = True
        self._scheme = "http" if tls is None else "https"
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    @property
    def url(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self._server.server_port}"

    @property
    def root_der(self) -> bytes:
        return self.world.pki.root_der

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopped.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def fault(self, path: str) -> Fault | None:
        return next((fault for part, fault in self.faults.items() if part in path), None)


class _Handler(BaseHTTPRequestHandler):
    upstream: Upstream
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer(b"")

    def do_POST(self) -> None:
        self._answer(self.rfile.read(int(self.headers.get("Content-Length", "0"))))

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def _answer(self, body: bytes) -> None:
        parts = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(parts.query))
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = Request(self.command, parts.path, query, headers, body)
        self.upstream.requests.append(request)
        fault = self.upstream.fault(self.path)
        if fault is not None and self._failed(fault):
            return
        try:
            reply = self.upstream.reply(request, fault)
        except (KeyError, ValueError):
            self._send(HTTPStatus.BAD_REQUEST, Reply(b"bad request"))
            return
        if reply is None:
            self._send(HTTPStatus.NOT_FOUND, Reply(b"not found"))
            return
        if fault in (Fault.GARBAGE, Fault.HUGE):
            reply = Reply(b"<html>portal</html>" if fault is Fault.GARBAGE else bytes(pcs.MAX_BODY + 1), reply.headers)
        if fault is Fault.NO_CHAIN:
            reply = Reply(reply.body)
        if fault is Fault.TRICKLE:
            self._trickle(reply)
            return
        self._send(HTTPStatus.OK, reply, cut=fault is Fault.TRUNCATED)

    def _trickle(self, reply: Reply) -> None:
        self._send(HTTPStatus.OK, Reply(b"", reply.headers | {"Content-Length": str(len(reply.body))}))
        with contextlib.suppress(OSError):
            for each in reply.body:
                if self.upstream.stopped.wait(0.05):
                    break
                self.wfile.write(bytes([each]))
        self.close_connection = True

    def _failed(self, fault: Fault) -> bool:
        """Answer as the fault says; False where it is in the content alone."""
        if fault in _STATUS:
            waits = fault in (Fault.RATE_LIMITED, Fault.BUSY)
            self._send(_STATUS[fault], Reply(b"no", {"Retry-After": str(RETRY_AFTER)} if waits else {}))
            return True
        if fault is Fault.HANG_UP:
            self.close_connection = True
            return True
        if fault is Fault.SLOW:
            self.upstream.stopped.wait(SLOW_SECONDS)
        if fault is Fault.REDIRECT_CIRCLE or (fault is Fault.REDIRECT_HERE and not self.path.startswith("/moved")):
            target = self.path if fault is Fault.REDIRECT_CIRCLE else f"/moved{self.path}"
            self._send(HTTPStatus.FOUND, Reply(b"", {"Location": target}))
            return True
        if fault is Fault.REDIRECT_AWAY:
            self._send(HTTPStatus.FOUND, Reply(b"", {"Location": "http://collateral.invalid/"}))
            return True
        return False

    def _send(self, status: HTTPStatus, reply: Reply, *, cut: bool = False) -> None:
        self.send_response(status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        if "Content-Length" not in reply.headers:
            self.send_header("Content-Length", str(len(reply.body)))
        self.end_headers()
        self.wfile.write(reply.body[: len(reply.body) // 2] if cut else reply.body)
        if cut:
            self.close_connection = True


def _zulu(moment: dt.datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def main() -> None:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=8081)
    parser.add_argument("--seed", default=SEED.hex(), help="of the SIMULATED root, 64 hexadecimal digits")
    arguments = parser.parse_args()
    with Upstream(World(seed=bytes.fromhex(arguments.seed)), port=arguments.port) as upstream:
        sys.stdout.write(f"{upstream.url}\n")
        sys.stdout.flush()
        while True:
            time.sleep(3600)


if __name__ == "__main__":
    main()
