# SPDX-License-Identifier: Apache-2.0
"""Options of the commands that serve, about what is in front of a service: sockets, TLS, workers, credentials."""

import functools
import ipaddress
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from kubenclave.cli import kit
from kubenclave.errors import UsageError

if TYPE_CHECKING:
    from kubenclave.services.web.limits import Rate
    from kubenclave.services.web.server import Front
    from kubenclave.serving import Listening

_FILE: Final = click.Path(path_type=Path)


class Address(click.ParamType[tuple[str, int]]):
    """A host and a port as ``HOST:PORT``, ``[V6]:PORT`` or ``:PORT`` for all addresses; port 0 is any free one."""

    name = "HOST:PORT"

    def convert(
        self, value: str | tuple[str, int], param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, int]:
        """Return the pair; fails as click wants it."""
        if isinstance(value, tuple):
            return value
        host, colon, port = value.rpartition(":")
        if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
            self.fail(f"{value!r} is no HOST:PORT", param, ctx)
        return host.removeprefix("[").removesuffix("]"), int(port)


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """How a command was told to serve."""

    address: tuple[str, int]
    listen_fd: int | None
    health: tuple[str, int] | None
    tls_cert: Path | None
    tls_key: Path | None
    client_ca: Path | None
    workers: int
    rate: float
    burst: int
    drain: float
    log_addresses: bool
    dangerously_plain_http: bool

    def check(self) -> None:
        """Raise UsageError for TLS in half, and for plain HTTP where others could listen in.

        A socket that was handed over is the business of whoever opened it.
        """
        if (self.tls_cert is None) is not (self.tls_key is None):
            raise UsageError("--tls-cert and --tls-key belong together", code="cli.misuse")
        if self.client_ca is not None and self.tls_cert is None:
            raise UsageError("--client-ca needs --tls-cert and --tls-key", code="cli.misuse")
        exposed = self.listen_fd is None and not _is_loopback(self.address[0])
        if self.tls_cert is None and exposed and not self.dangerously_plain_http:
            raise UsageError(
                "plain HTTP is for this machine alone",
                code="cli.plain-http",
                field="--listen",
                expected="an address of the loopback interface, or TLS",
                found=self.address[0] or "all addresses",
                hint="give --tls-cert and --tls-key; --dangerously-plain-http where something in front does TLS",
            )

    def listening(self) -> "Listening":
        """Open the socket, or take the one that was handed over. Raises PlatformError, UsageError."""
        from kubenclave.services.web.server import inherited, listen

        return listen(*self.address) if self.listen_fd is None else inherited(self.listen_fd)

    def url(self, listening: "Listening") -> str:
        """Return where a service is; one that listens on all addresses is reached at this machine's own."""
        host, port = listening.getsockname()[:2]
        if ipaddress.ip_address(host).is_unspecified:
            host = "localhost"
        scheme = "http" if self.tls_cert is None else "https"
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"

    def front(self, listening: "Listening", bodies: "dict[str, int]", body: int) -> "Front":
        """Return what a service puts in front. Raises PlatformError for files and ports that cannot be used."""
        from kubenclave.services.web.limits import Bounds
        from kubenclave.services.web.server import Front, listen
        from kubenclave.services.web.tls import Tls

        tls = None
        if self.tls_cert is not None and self.tls_key is not None:
            tls = Tls(self.tls_cert, self.tls_key, self.client_ca)
        return Front(
            listening=listening,
            health=None if self.health is None else listen(*self.health),
            tls=tls,
            bounds=Bounds(rate=self.per_client, bodies=bodies, body=body),
            workers=self.workers,
            drain=self.drain,
            addresses=self.log_addresses,
        )

    @property
    def per_client(self) -> "Rate":
        """How often one address, and one credential, may ask each worker."""
        from kubenclave.services.web.limits import Rate

        return Rate(self.rate, self.burst)


def take_credentials(path: str | None, database: Path) -> None:
    """Take the tokens of a file into the database of a service. Raises UsageError, FormatError, PlatformError."""
    if path is None:
        return
    import datetime as dt

    from kubenclave.services.database import Database
    from kubenclave.services.web.credentials import Credentials, adopt_file

    content = kit.read_input(path, what="list of credentials", limit=1 << 20)
    database.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    opened = Database(database)
    try:
        adopt_file(Credentials(opened, lambda: dt.datetime.now(dt.UTC)), content)
    finally:
        opened.close()


def credentials_option(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command ``--credentials FILE``."""
    return click.option(
        "--credentials",
        "credentials_path",
        type=click.Path(),
        metavar="FILE",
        help="JSON list of {name, roles, token}: tokens that were made elsewhere.",
    )(function)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


_OPTIONS: Final = (
    click.option("--listen-fd", type=int, hidden=True, help="A socket that 'kubenclave up' has opened."),
    click.option("--health", type=Address(), help="Serve /healthz, /readyz and /metrics here, over plain HTTP."),
    click.option("--tls-cert", type=_FILE, metavar="FILE", help="Certificate and its chain, PEM; read when renewed."),
    click.option("--tls-key", type=_FILE, metavar="FILE", help="Its key, PEM."),
    click.option("--client-ca", type=_FILE, metavar="FILE", help="CA of client certificates, PEM."),
    click.option("--workers", type=click.IntRange(1, 64), default=1, show_default=True, help="Processes that serve."),
    click.option(
        "--rate",
        type=click.FloatRange(min=0),
        default=0,
        show_default=True,
        help="Requests a second of one address or credential, in each worker; 0 for any number.",
    ),
    click.option(
        "--burst",
        type=click.IntRange(min=1),
        default=50,
        show_default=True,
        help="Requests at once, after a pause; with --rate.",
    ),
    click.option(
        "--drain",
        type=click.FloatRange(0, 300),
        default=0,
        show_default=True,
        help="Seconds of serving on at the end, while /readyz says no.",
    ),
    click.option("--log-addresses", is_flag=True, help="Write addresses of clients into the log."),
    click.option("--dangerously-plain-http", is_flag=True, help="Plain HTTP on other addresses than loopback."),
)


def network_options(*, port: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the options that say how it serves, and hand them to it as ``network``."""
    listen = click.option(
        "--listen",
        "address",
        type=Address(),
        default=f"127.0.0.1:{port}",
        show_default=True,
        help="Where to serve; :PORT is all addresses, port 0 any free one.",
    )

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        names = tuple(Network.__dataclass_fields__)

        @functools.wraps(function)
        def command(**given: Any) -> None:
            network = Network(**{name: given.pop(name) for name in names})
            network.check()
            function(network=network, **given)

        for option in reversed((listen, *_OPTIONS)):
            command = option(command)
        return command

    return decorate
