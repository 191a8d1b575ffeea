# SPDX-License-Identifier: Apache-2.0
"""Staying registered with the kubelet: the only module that knows how plugins are served over gRPC.

A session serves one resource on a socket of its own, registers it, and then holds: as long as the kubelet's
``kubelet.sock`` and our own socket are the ones we know and the kubelet keeps ``ListAndWatch`` open, all is well.
When one of them changes the old server is stopped, connections included, *before* registering again: a kubelet that
sees an old stream end disconnects whatever is registered under that name by then. It may still do so a moment too
late, to the new server; then the new stream ends, and the session starts over once more.
"""

import asyncio
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, Never, Protocol, TypeVar

from grpclib.client import Channel
from grpclib.const import Status
from grpclib.exceptions import GRPCError, ProtocolError, StreamTerminatedError
from grpclib.protocol import H2Protocol
from grpclib.server import Server, Stream

from kubenclave._proto import deviceplugin_pb2 as pb
from kubenclave._proto.deviceplugin_grpc import DevicePluginBase, RegistrationBase, RegistrationStub
from kubenclave.errors import KubenclaveError, UnreachableError, UsageError
from kubenclave.node.log import Logger
from kubenclave.node.watch import Signal
from kubenclave.platform import sockets

API_VERSION: Final = "v1beta1"
KUBELET_SOCKET: Final = "kubelet.sock"

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")
_log = Logger()


class Plugin(Protocol):
    """One resource. Every method answers from memory: the kubelet waits for some of them without a deadline."""

    @property
    def resource(self) -> str:
        """Name of the extended resource."""
        ...

    @property
    def changed(self) -> Signal:
        """Notified when ``devices`` answers something else than before."""
        ...

    def devices(self) -> pb.ListAndWatchResponse:
        """Return the whole list, small enough for a kubelet."""
        ...

    def preferred(self, request: pb.PreferredAllocationRequest) -> pb.PreferredAllocationResponse:
        """Return which devices to take."""
        ...

    def allocate(self, request: pb.AllocateRequest) -> pb.AllocateResponse:
        """Return what the containers get. Raises UsageError or PlatformError to refuse."""
        ...


class SessionState(StrEnum):
    """How far a session has come."""

    WAITING = "waiting for the kubelet"
    REGISTERING = "registering"
    HELD = "held by the kubelet"


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds. ``opened`` is the time a kubelet has to ask for the list, ``stable`` when a session counts as good."""

    poll: float = 1.0
    register: float = 15.0
    opened: float = 5.0
    first_retry: float = 0.1
    last_retry: float = 10.0
    stable: float = 10.0


class Session:
    """Keeps one plugin registered, for ever.

    ``signal`` is notified of changes in the plugin directory, and by the session of what the kubelet does; without
    either it looks every ``timing.poll`` seconds.
    """

    def __init__(
        self, plugin: Plugin, directory: Path, endpoint: str, signal: Signal, timing: Timing | None = None
    ) -> None:
        self.state = SessionState.WAITING
        self.registrations = 0
        self._plugin = plugin
        self._kubelet = directory / KUBELET_SOCKET
        self._path = directory / endpoint
        self._signal = signal
        self._timing = timing or Timing()
        self._log = _log.bind(resource=plugin.resource)
        self._told = ""

    async def run(self) -> Never:
        """Serve, register and hold, again and again; being cancelled is the way to stop."""
        loop = asyncio.get_running_loop()
        delay = self._timing.first_retry
        while True:
            kubelet = await self._kubelet_socket()
            started = loop.time()
            try:
                reason = await self._session(kubelet)
            except KubenclaveError as error:
                reason = str(error)
            finally:
                self.state = SessionState.WAITING
            if loop.time() - started > self._timing.stable:
                delay = self._timing.first_retry
            self._tell("session.starting-over", reason=reason)
            await self._pause(delay, kubelet)
            delay = min(2 * delay, self._timing.last_retry)

    async def _kubelet_socket(self) -> sockets.Identity:
        """Wait until there is a kubelet."""
        while True:
            seen = self._signal.generation
            if (kubelet := sockets.identity(self._kubelet)) is not None:
                return kubelet
            self._tell("session.waiting", socket=str(self._kubelet))
            await self._signal.wait(seen, self._timing.poll)

    async def _pause(self, delay: float, kubelet: sockets.Identity) -> None:
        """Wait before the next attempt, but never while another kubelet is there already."""
        loop = asyncio.get_running_loop()
        until = loop.time() + delay
        while (left := until - loop.time()) > 0:
            seen = self._signal.generation
            if sockets.identity(self._kubelet) not in (kubelet, None):
                return
            await self._signal.wait(seen, min(left, self._timing.poll))

    async def _session(self, kubelet: sockets.Identity) -> str:
        """Serve and register once, and return the reason for which that has come to its end."""
        self.state = SessionState.REGISTERING
        service = _Service(self._plugin, self._signal)
        async with _serving(service, self._path) as who:
            await self._register()
            self.registrations += 1
            return await self._hold(service, who, kubelet)

    async def _register(self) -> None:
        request = pb.RegisterRequest(
            version=API_VERSION, endpoint=self._path.name, resource_name=self._plugin.resource, options=_options()
        )
        timeout = self._timing.register
        await ask(self._kubelet, lambda channel: RegistrationStub(channel).Register(request, timeout=timeout))

    async def _hold(self, service: "_Service", who: sockets.Identity | None, kubelet: sockets.Identity) -> str:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._timing.opened
        while True:
            seen = self._signal.generation
            if sockets.identity(self._kubelet) != kubelet:
                return "kubelet.sock is gone or new"
            if sockets.identity(self._path) != who:
                return "our socket is gone or replaced"
            if service.ended:
                return "the kubelet closed the device list"
            if service.opened:
                self.state = SessionState.HELD
                self._tell("session.registered", socket=str(self._path))
            elif loop.time() > deadline:
                return "the kubelet registered us but did not ask for the device list"
            await self._signal.wait(seen, self._timing.poll)

    def _tell(self, event: str, **fields: str) -> None:
        """Log each turn of events once, however often it is tried."""
        told = f"{event} {fields}"
        if told != self._told:
            self._told = told
            self._log.info(event, **fields)


async def ask(path: Path, method: Callable[[Channel], Coroutine[Any, Any, _Response]]) -> _Response:
    """Make one call at a socket of the kubelet's, in a task of its own.

    When its connection ends grpclib cancels the task it runs in and raises an error instead, even when that task was
    cancelled by us in the same moment: we would never stop. Raises UnreachableError.
    """
    call = asyncio.create_task(_call(path, method))
    call.add_done_callback(lambda done: done.cancelled() or done.exception())  # nobody may be left to ask
    try:
        await asyncio.wait((call,))
    finally:
        call.cancel()
    return call.result()


async def _call(path: Path, method: Callable[[Channel], Coroutine[Any, Any, _Response]]) -> _Response:
    channel = Channel(path=str(path))
    try:
        return await method(channel)
    except GRPCError as error:
        raise UnreachableError(f"the kubelet refused: {error.message}", code="kubelet.refused") from error
    except (OSError, TimeoutError, StreamTerminatedError, ProtocolError) as error:
        raise UnreachableError(
            f"the kubelet does not answer: {str(error) or type(error).__name__}", code="kubelet.unreachable"
        ) from error
    finally:
        channel.close()


class _Service(DevicePluginBase):
    """One plugin over gRPC, for one registration. The first list asked for is taken to be the kubelet's."""

    def __init__(self, plugin: Plugin, signal: Signal) -> None:
        self.opened = False
        self.ended = False
        self._plugin = plugin
        self._signal = signal

    async def GetDevicePluginOptions(  # noqa: N802  # name of the protocol
        self, stream: Stream[pb.Empty, pb.DevicePluginOptions]
    ) -> None:
        await _answer(stream, lambda _: _options())

    async def ListAndWatch(  # noqa: N802  # name of the protocol
        self, stream: Stream[pb.Empty, pb.ListAndWatchResponse]
    ) -> None:
        await stream.recv_message()
        of_kubelet = not self.opened
        self.opened = True
        self._signal.notify()
        try:
            while True:
                seen = self._plugin.changed.generation
                await stream.send_message(self._plugin.devices())
                await self._plugin.changed.wait(seen)
        finally:
            if of_kubelet:
                self.ended = True
                self._signal.notify()

    async def GetPreferredAllocation(  # noqa: N802  # name of the protocol
        self, stream: Stream[pb.PreferredAllocationRequest, pb.PreferredAllocationResponse]
    ) -> None:
        await _answer(stream, self._plugin.preferred)

    async def Allocate(  # noqa: N802  # name of the protocol
        self, stream: Stream[pb.AllocateRequest, pb.AllocateResponse]
    ) -> None:
        await _answer(stream, self._plugin.allocate)

    async def PreStartContainer(  # noqa: N802  # name of the protocol
        self, stream: Stream[pb.PreStartContainerRequest, pb.PreStartContainerResponse]
    ) -> None:
        await _answer(stream, lambda _: pb.PreStartContainerResponse())


class _OneWrite(asyncio.Transport):
    """Sends in one piece what is written in one turn of the loop.

    An answer is three writes to grpclib (headers, message, trailers): each would be a system call, and wake the caller.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        super().__init__()
        self._transport = transport
        self._pending: list[bytes | bytearray | memoryview] = []

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return what the real transport knows."""
        return self._transport.get_extra_info(name, default)

    def is_closing(self) -> bool:
        """Tell whether nothing more can be sent."""
        return self._transport.is_closing()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send ``data`` at the end of this turn."""
        if not self._pending:
            asyncio.get_running_loop().call_soon(self._send)
        self._pending.append(data)

    def close(self) -> None:
        """Send what is left, and close."""
        self._send()
        self._transport.close()

    def _send(self) -> None:
        if self._pending:
            self._transport.write(b"".join(self._pending))
            self._pending.clear()


class _Connection(H2Protocol):
    """grpclib's side of a connection, with fewer writes.

    It may be announced before the server stops and made afterwards: then it ends at once, and nobody is served by what
    has stopped.
    """

    made = False
    stopped = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin with a transport that gathers writes."""
        assert isinstance(transport, asyncio.Transport), "of a stream socket"
        super().connection_made(_OneWrite(transport))
        self.made = True
        if self.stopped:
            self.stop()

    def stop(self) -> None:
        """Hang up, as soon as there is somebody."""
        self.stopped = True
        if self.made:
            self.processor.close("the server stops")


class HangUpServer(Server):
    """grpclib's server, with a stop that hangs up: a peer has to see its streams end."""

    def __init__(self, service: DevicePluginBase | RegistrationBase) -> None:
        super().__init__([service])
        self._connections: weakref.WeakSet[_Connection] = weakref.WeakSet()
        self._stopped = False

    def _protocol_factory(self) -> H2Protocol:
        made = super()._protocol_factory()
        connection = _Connection(made.handler, made.config, made.h2_config)
        connection.stopped = self._stopped
        self._connections.add(connection)
        return connection

    async def stop(self) -> None:
        """Close the listening socket and every connection, and wait for the calls to end."""
        self._stopped = True
        assert isinstance(self._server, asyncio.Server), "started"
        for connection in list(self._connections):
            connection.stop()
        await sockets.close(self._server)
        self.close()
        await self.wait_closed()


@asynccontextmanager
async def _serving(service: _Service, path: Path) -> AsyncIterator[sockets.Identity]:
    """Serve at ``path`` inside the block; yields who is there, to recognise it by."""
    listener, who = sockets.take(path, 0o600)
    server = HangUpServer(service)
    try:
        await server.start(sock=listener)
        try:
            yield who
        finally:
            await server.stop()
    finally:
        listener.close()
        sockets.remove(path, who)


def _options() -> pb.DevicePluginOptions:
    return pb.DevicePluginOptions(pre_start_required=False, get_preferred_allocation_available=True)


async def _answer(stream: Stream[_Request, _Response], method: Callable[[_Request], _Response]) -> None:
    """Answer one unary call, refusals with their code and reason."""
    request = await stream.recv_message()
    if request is None:
        raise GRPCError(Status.INVALID_ARGUMENT, "no request")
    try:
        response = method(request)
    except KubenclaveError as error:
        status = Status.INVALID_ARGUMENT if isinstance(error, UsageError) else Status.FAILED_PRECONDITION
        hint = f"; {error.hint}" if error.hint else ""
        raise GRPCError(status, f"[{error.code}] {error}{hint}") from error
    await stream.send_message(response)
