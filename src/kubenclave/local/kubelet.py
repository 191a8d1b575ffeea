# SPDX-License-Identifier: Apache-2.0
"""Stand-in for the kubelet's device manager, speaking the same protocol to the same plugins.

It does what a kubelet does and a plugin may rely on: removes every socket in the directory at start, asks for the
options while the registration waits, follows the device list, takes no notice of a name already registered, and
counts a plugin whose list has ended as nothing. Devices in use are remembered by name, as in its checkpoint.
"""

import asyncio
import stat
from collections.abc import AsyncIterator, Awaitable, Collection
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeVar

import structlog
from grpclib.client import Channel
from grpclib.const import Status
from grpclib.exceptions import GRPCError, ProtocolError, StreamTerminatedError
from grpclib.server import Stream

from kubenclave._proto import deviceplugin_pb2 as pb
from kubenclave._proto.deviceplugin_grpc import DevicePluginStub, RegistrationBase
from kubenclave.errors import PlatformError, UnreachableError
from kubenclave.local.allotment import Allotment, DeviceSpec, Mount
from kubenclave.node.kubelet import HangUpServer
from kubenclave.platform import sockets

API_VERSION: Final = "v1beta1"
SOCKET_NAME: Final = "kubelet.sock"
DIAL_TIMEOUT: Final = 10.0
ALLOCATE_TIMEOUT: Final = 10.0  # a kubelet waits for ever; people do not

_CONNECTION_ERRORS: Final = (OSError, TimeoutError, StreamTerminatedError, ProtocolError)
_Response = TypeVar("_Response")
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class ResourceCount:
    """Devices of one resource: listed at all, healthy, and free among those."""

    listed: int = 0
    healthy: int = 0
    free: int = 0


@dataclass(slots=True)
class _Endpoint:
    """One registered plugin; ``devices`` maps names to health, in the plugin's order."""

    resource: str
    channel: Channel
    stub: DevicePluginStub
    preferred: bool
    devices: dict[str, bool] = field(default_factory=dict)
    watch: asyncio.Task[None] | None = None

    def close(self) -> None:
        """Stop following the list and hang up."""
        if self.watch is not None:
            self.watch.cancel()
        self.channel.close()


class Kubelet:
    """Serves registrations in ``directory`` while its ``serving`` block is open."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._endpoints: dict[str, _Endpoint] = {}
        self._used: dict[str, set[str]] = {}
        self._allocating = asyncio.Lock()
        self.changed = asyncio.Event()

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """Serve inside the block. Raises PlatformError where the directory or socket cannot be made."""
        path = self._directory / SOCKET_NAME
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            _remove_sockets(self._directory)
            server = HangUpServer(_Registration(self))
            await server.start(path=str(path))
            who = sockets.identity(path)
        except OSError as error:
            raise PlatformError(f"cannot serve at {path}: {error.strerror or error}", code="kubelet.listen") from error
        async with AsyncExitStack() as stack:
            stack.callback(sockets.remove, path, who)
            stack.push_async_callback(server.stop)
            stack.callback(self._close_endpoints)
            yield

    def count(self, resource: str) -> ResourceCount:
        """Return what there is of a resource; nothing when no plugin holds it."""
        endpoint = self._endpoints.get(resource)
        if endpoint is None:
            return ResourceCount()
        healthy = [name for name, good in endpoint.devices.items() if good]
        used = self._used.get(resource, set())
        return ResourceCount(len(endpoint.devices), len(healthy), sum(name not in used for name in healthy))

    def resources(self) -> tuple[str, ...]:
        """Return the names of all resources that were ever registered: a kubelet never forgets one."""
        return tuple(sorted(self._endpoints))

    async def wait_for(self, resource: str, within: float) -> None:
        """Wait until a device of ``resource`` is healthy. Raises UnreachableError after ``within`` seconds."""
        try:
            async with asyncio.timeout(within):
                while not self.count(resource).healthy:
                    self.changed.clear()
                    await self.changed.wait()
        except TimeoutError as error:
            raise UnreachableError(
                f"no plugin has offered {resource}",
                code="kubelet.no-plugin",
                expected=f"a healthy device within {within:g} s",
                found=f"{self.count(resource).listed} unhealthy",
                hint="the node agent's log says what it waits for",
            ) from error

    async def allocate(self, resource: str, amount: int, *, reusable: Collection[str] = ()) -> Allotment:
        """Take ``amount`` devices, the ``reusable`` ones first, and return what the plugin grants for them.

        Reusable are those of the pod's init containers, which end before the others start.
        Raises PlatformError when there are not enough or the plugin refuses, UnreachableError when it is gone.
        """
        async with self._allocating:
            endpoint = self._endpoints.get(resource)
            used = self._used.setdefault(resource, set())
            free = [] if endpoint is None else [name for name, good in endpoint.devices.items() if good]
            free = [name for name in free if name not in used or name in reusable]
            if endpoint is None or len(free) < amount:
                raise PlatformError(
                    f"not enough devices of {resource}",
                    code="kubelet.devices-short",
                    expected=f"{amount} free",
                    found=f"{len(free)} free, {len(used)} in use",
                    hint="kubenclave doctor node tells which layer is missing",
                )
            again = [name for name in free if name in reusable][:amount]
            chosen = await self._choose(endpoint, again, free, amount)
            request = pb.AllocateRequest(container_requests=[pb.ContainerAllocateRequest(devices_ids=chosen)])
            response = await _call(resource, endpoint.stub.Allocate(request, timeout=ALLOCATE_TIMEOUT))
            if len(response.container_responses) != 1:
                raise PlatformError(
                    f"the plugin of {resource} answered for another number of containers",
                    code="kubelet.bad-answer",
                    expected="1",
                    found=str(len(response.container_responses)),
                )
            used.update(chosen)
            return _allotment(resource, chosen, response.container_responses[0])

    def release(self, allotment: Allotment) -> None:
        """Take devices back. There is no such call in the protocol: plugins do not hear of it."""
        self._used.get(allotment.resource, set()).difference_update(allotment.devices_ids)

    async def register(self, request: pb.RegisterRequest) -> None:
        """Take a plugin in, instead of whichever had the name. Raises GRPCError to refuse."""
        if request.version != API_VERSION:
            raise GRPCError(Status.INVALID_ARGUMENT, f"version {request.version!r}, supported is {API_VERSION}")
        if "/" not in request.resource_name or request.resource_name.startswith("kubernetes.io/"):
            raise GRPCError(Status.INVALID_ARGUMENT, f"not an extended resource: {request.resource_name!r}")
        if not request.endpoint or "/" in request.endpoint:
            raise GRPCError(Status.INVALID_ARGUMENT, f"not the name of a socket: {request.endpoint!r}")
        channel = Channel(path=str(self._directory / request.endpoint))
        stub = DevicePluginStub(channel)
        try:
            options = await stub.GetDevicePluginOptions(pb.Empty(), timeout=DIAL_TIMEOUT)
        except (GRPCError, *_CONNECTION_ERRORS) as error:
            channel.close()
            raise GRPCError(Status.UNAVAILABLE, f"cannot ask the plugin at {request.endpoint}: {error}") from error
        except asyncio.CancelledError:
            channel.close()
            raise
        endpoint = _Endpoint(request.resource_name, channel, stub, options.get_preferred_allocation_available)
        if (before := self._endpoints.get(endpoint.resource)) is not None:
            before.close()
        self._endpoints[endpoint.resource] = endpoint
        endpoint.watch = asyncio.create_task(self._follow(endpoint))
        _log.info("plugin.registered", resource=endpoint.resource, endpoint=request.endpoint)

    async def _follow(self, endpoint: _Endpoint) -> None:
        """Follow one device list to its end; after it there is nothing healthy."""
        reason = "the plugin closed it"
        try:
            async with endpoint.stub.ListAndWatch.open() as stream:
                await stream.send_message(pb.Empty(), end=True)
                async for response in stream:
                    endpoint.devices = {device.ID: device.health == "Healthy" for device in response.devices}
                    self.changed.set()
        except (GRPCError, *_CONNECTION_ERRORS) as error:
            reason = str(error) or type(error).__name__
        finally:
            endpoint.devices = dict.fromkeys(endpoint.devices, False)
            self.changed.set()
        _log.info("plugin.list-ended", resource=endpoint.resource, reason=reason)

    async def _choose(self, endpoint: _Endpoint, again: list[str], free: list[str], amount: int) -> list[str]:
        """Return the devices to take: those used ``again``, then the plugin's preference if it has a sensible one."""
        if not endpoint.preferred:
            return list(dict.fromkeys(again + free))[:amount]
        one = pb.ContainerPreferredAllocationRequest(
            available_deviceIDs=free, must_include_deviceIDs=again, allocation_size=amount
        )
        request = pb.PreferredAllocationRequest(container_requests=[one])
        response = await _call(
            endpoint.resource, endpoint.stub.GetPreferredAllocation(request, timeout=ALLOCATE_TIMEOUT)
        )
        hints = [name for answer in response.container_responses for name in answer.deviceIDs]
        preferred = [name for name in hints if name in free]
        return list(dict.fromkeys(again + preferred + free))[:amount]

    def _close_endpoints(self) -> None:
        for endpoint in self._endpoints.values():
            endpoint.close()


class _Registration(RegistrationBase):
    """The one service that plugins call."""

    def __init__(self, kubelet: Kubelet) -> None:
        self._kubelet = kubelet

    async def Register(self, stream: Stream[pb.RegisterRequest, pb.Empty]) -> None:  # noqa: N802  # protocol's name
        request = await stream.recv_message()
        if request is None:
            raise GRPCError(Status.INVALID_ARGUMENT, "no request")
        await self._kubelet.register(request)
        await stream.send_message(pb.Empty())


async def _call(resource: str, call: Awaitable[_Response]) -> _Response:
    """Return a plugin's answer, its refusals and its absence as errors of ours."""
    try:
        return await call
    except GRPCError as error:
        raise PlatformError(
            f"the plugin of {resource} refused: {error.message or error.status.name}", code="kubelet.plugin-refused"
        ) from error
    except _CONNECTION_ERRORS as error:
        raise UnreachableError(
            f"the plugin of {resource} does not answer: {str(error) or type(error).__name__}",
            code="kubelet.plugin-gone",
        ) from error


def _allotment(resource: str, chosen: list[str], answer: pb.ContainerAllocateResponse) -> Allotment:
    return Allotment(
        resource=resource,
        devices_ids=tuple(chosen),
        envs=dict(answer.envs),
        mounts=tuple(Mount(mount.container_path, mount.host_path, mount.read_only) for mount in answer.mounts),
        devices=tuple(
            DeviceSpec(device.container_path, device.host_path, device.permissions) for device in answer.devices
        ),
    )


def _remove_sockets(directory: Path) -> None:
    """Remove every socket, whoever left it there."""
    for entry in directory.iterdir():
        if stat.S_ISSOCK(entry.lstat().st_mode):
            entry.unlink(missing_ok=True)
