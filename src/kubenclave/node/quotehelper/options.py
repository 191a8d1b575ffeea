# SPDX-License-Identifier: Apache-2.0
"""Options of the quote helper."""

import argparse
import grp
import os
import pwd
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from kubenclave.node.arguments import new_parser, whole_number
from kubenclave.node.quotehelper.place import TakeOver
from kubenclave.node.quotehelper.server import ServerLimits
from kubenclave.node.quotehelper.service import ServiceLimits
from kubenclave.node.quotehelper.worker import STALL_SECONDS
from kubenclave.platform.sockets import AESM_SOCKET, PROVISION_SOCKET, PROVISION_SOCKET_VARIABLE

DEFAULT_MODE: Final = 0o666
_LAST_PORT: Final = 65535

BACKENDS: Final = ("simulated", "dcap")

_EPILOG: Final = """\
The socket appears once a quote can be made; until then the health socket says what is in the way. Another quote helper
on the same path is taken over from without a refused connection; anything else is not, unless told so.

examples:
  kubenclave node quote-helper --backend dcap
  kubenclave node quote-helper --backend simulated --provision-socket DIR/provision/cpu/cpu.sock --socket ./aesm.socket
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How to run; ``owner`` is user id and group id of the socket (-1: ours), seconds are as in the help."""

    socket: Path
    backend: str
    provision_socket: Path = Path(PROVISION_SOCKET)
    library: str | None = None
    health_socket: Path | None = None
    health_port: int | None = None
    mode: int = DEFAULT_MODE
    owner: tuple[int, int] | None = None
    take_over: TakeOver = TakeOver.HELPER
    handover_seconds: float = 0.0
    stall_seconds: float = STALL_SECONDS
    server: ServerLimits = field(default_factory=ServerLimits)
    service: ServiceLimits = field(default_factory=ServiceLimits)

    @property
    def simulated(self) -> bool:
        """Whether no hardware protects anything."""
        return self.backend == "simulated"


def parse(arguments: Sequence[str]) -> Options:
    """Read the command line. Raises SystemExit with code 0 after --help and with code 2 for anything wrong."""
    given = _parser().parse_args(arguments)
    return Options(
        socket=given.socket,
        backend=given.backend,
        provision_socket=given.provision_socket,
        library=given.library,
        health_socket=given.health_socket,
        health_port=given.health_port,
        mode=given.mode,
        owner=given.owner,
        take_over=TakeOver(given.take_over),
        handover_seconds=given.handover_seconds,
        stall_seconds=given.stall_seconds,
        server=ServerLimits(unread=given.max_silent, unwritten=given.max_unread, seconds=given.request_seconds),
        service=ServiceLimits(
            in_flight=given.in_flight,
            queued=given.max_queued,
            queued_per_peer=given.max_queued_per_process,
            answer_seconds=given.answer_seconds,
            refresh_seconds=given.refresh_seconds,
        ),
    )


def _parser() -> argparse.ArgumentParser:
    parser = new_parser(
        "quote-helper", "Serve quotes on the AESM socket, made by a worker process of its own.", _EPILOG
    )
    add = parser.add_argument
    add("--backend", choices=BACKENDS, required=True, help="Intel's DCAP library, or the SIMULATED platform")
    add("--socket", type=Path, default=Path(AESM_SOCKET), metavar="PATH", help="AESM socket (%(default)s)")
    add("--mode", type=_mode, default=DEFAULT_MODE, metavar="OCTAL", help="mode of the AESM socket (666)")
    add("--owner", type=_owner, metavar="USER[:GROUP]", help="owner of the AESM socket (whoever runs this)")
    add("--health-socket", type=Path, metavar="PATH", help="serve /healthz, /readyz, /status and /metrics here")
    add("--health-port", type=_port, metavar="N", help="and on this TCP port, for the probes of a kubelet")
    path = Path(os.environ.get(PROVISION_SOCKET_VARIABLE) or PROVISION_SOCKET)  # a device plugin may have set it
    text = f"provision socket of the SIMULATED platform (${PROVISION_SOCKET_VARIABLE}, else {PROVISION_SOCKET})"
    add("--provision-socket", type=Path, default=path, metavar="PATH", help=text)
    add("--library", metavar="FILE", help="DCAP library (libsgx_dcap_ql.so.1)")
    choices = [choice.value for choice in TakeOver]
    add("--take-over", choices=choices, default=TakeOver.HELPER.value, help="whom to replace on the path (%(default)s)")
    _add_limits(parser)
    return parser


def _add_limits(parser: argparse.ArgumentParser) -> None:
    server, service = ServerLimits(), ServiceLimits()
    group = parser.add_argument_group("limits")

    def seconds(name: str, default: float, text: str) -> None:
        group.add_argument(name, type=_seconds, default=default, metavar="SECONDS", help=f"{text} (%(default)g)")

    def count(name: str, default: int, text: str) -> None:
        group.add_argument(name, type=whole_number(1), default=default, metavar="N", help=f"{text} (%(default)d)")

    count("--in-flight", service.in_flight, "quotes that the worker is asked for at a time")
    count("--max-queued", service.queued, "quotes that wait for it")
    count("--max-queued-per-process", service.queued_per_peer, "of these for one client process")
    count("--max-silent", server.unread, "connections without a request yet")
    count("--max-unread", server.unwritten, "connections whose client does not take its reply")
    seconds("--request-seconds", server.seconds, "time for a client to send its request, and to take its reply")
    seconds("--answer-seconds", service.answer_seconds, "time after which a client is told to come back")
    seconds("--refresh-seconds", service.refresh_seconds, "time between renewals of the certification data")
    seconds("--stall-seconds", STALL_SECONDS, "time after which a worker that does not answer is replaced")
    seconds("--handover-seconds", 0.0, "time that SIGTERM leaves a successor to take over")


def _port(text: str) -> int:
    number = whole_number(1)(text)
    if number > _LAST_PORT:
        raise argparse.ArgumentTypeError(f"not a port: {text}")
    return number


def _mode(text: str) -> int:
    if re.fullmatch("[0-7]{1,3}", text) is None:
        raise argparse.ArgumentTypeError(f"not a mode of three octal digits: {text}")
    return int(text, 8)


def _owner(text: str) -> tuple[int, int]:
    user, _, group = text.partition(":")
    try:
        uid = int(user) if user.isdecimal() else pwd.getpwnam(user).pw_uid
        gid = -1 if not group else int(group) if group.isdecimal() else grp.getgrnam(group).gr_gid
    except KeyError as error:
        raise argparse.ArgumentTypeError(f"no such user or group: {error.args[0]}") from error
    return uid, gid


def _seconds(text: str) -> float:
    if re.fullmatch(r"\d{1,9}(\.\d{1,6})?", text) is None:
        raise argparse.ArgumentTypeError(f"not a number of seconds: {text}")
    return float(text)
