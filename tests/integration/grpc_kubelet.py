# SPDX-License-Identifier: Apache-2.0
"""A kubelet's device manager on the common gRPC implementation, with the habits that plugins have to live with.

It removes every socket when it starts, asks for the options inside ``Register``, follows the list in the background
and, when a stream ends, disconnects whatever is registered *under that name by then* (kubelet 1.34 to 1.36).
"""

import threading
import time
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import grpc

from kubenclave._proto import deviceplugin_pb2 as pb
from tests.waiting import PATIENCE, eventually


class Client:
    """One registered plugin, as the kubelet sees it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.channel = grpc.insecure_channel(f"unix:{path}", options=[("grpc.default_authority", "localhost")])
        self.lists: list[dict[str, pb.Device]] = []
        self.ended = False
        self._stream: Any = None

    def call(self, method: str, request: Any, answer: Any) -> Any:
        """Make one unary call."""
        made = self.channel.unary_unary(
            f"/v1beta1.DevicePlugin/{method}", type(request).SerializeToString, answer.FromString
        )
        return made(request, timeout=PATIENCE)

    def open(self) -> None:
        """Ask for the device list."""
        self._stream = self.channel.unary_stream(
            "/v1beta1.DevicePlugin/ListAndWatch", pb.Empty.SerializeToString, pb.ListAndWatchResponse.FromString
        )(pb.Empty())

    def follow(self) -> None:
        """Follow the list to its end."""
        with suppress(grpc.RpcError):
            for response in self._stream:
                self.lists.append({device.ID: device for device in response.devices})
        self.ended = True

    def hang_up(self) -> None:
        """Disconnect, as the kubelet does."""
        if self._stream is not None:
            self._stream.cancel()
        self.channel.close()


class GrpcKubelet:
    """Serves in ``directory`` inside ``running``. ``refuse`` and ``silent`` are its bad days.

    ``late_end`` delays what it does about an ended stream, in seconds.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.refuse = ""
        self.silent = False
        self.late_end = 0.0
        self.registrations: list[pb.RegisterRequest] = []
        self.options: list[pb.DevicePluginOptions] = []
        self.clients: dict[str, Client] = {}
        self._all: list[Client] = []
        self._threads: list[threading.Thread] = []

    @contextmanager
    def running(self) -> Iterator["GrpcKubelet"]:
        """Start as a kubelet does, inside the block."""
        for entry in self.directory.iterdir():
            if entry.is_socket():
                entry.unlink()
        handlers = {
            "Register": grpc.unary_unary_rpc_method_handler(
                self._register, pb.RegisterRequest.FromString, pb.Empty.SerializeToString
            )
        }
        server = grpc.server(futures.ThreadPoolExecutor(4))
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("v1beta1.Registration", handlers),))
        assert server.add_insecure_port(f"unix:{self.directory}/kubelet.sock")
        server.start()
        try:
            yield self
        finally:
            server.stop(0).wait()
            for client in self._all:
                client.hang_up()
            for thread in self._threads:
                thread.join(PATIENCE)

    def healthy(self, resource: str) -> list[str]:
        """Return the devices that could be allocated now."""
        client = self.clients.get(resource)
        if client is None or client.ended or not client.lists:
            return []
        return [name for name, device in client.lists[-1].items() if device.health == "Healthy"]

    def wait(self, resource: str) -> Client:
        """Wait for healthy devices of a resource and return its plugin."""
        eventually(lambda: self.healthy(resource))
        return self.clients[resource]

    def count(self, resource: str) -> int:
        """Return how often a resource was registered."""
        return sum(one.resource_name == resource for one in self.registrations)

    def _register(self, request: pb.RegisterRequest, context: grpc.ServicerContext) -> pb.Empty:
        self.registrations.append(request)
        if self.refuse:
            context.abort(grpc.StatusCode.UNKNOWN, self.refuse)
        client = Client(self.directory / request.endpoint)
        self.options.append(client.call("GetDevicePluginOptions", pb.Empty(), pb.DevicePluginOptions))
        self.clients[request.resource_name] = client
        self._all.append(client)
        if not self.silent:
            client.open()
            thread = threading.Thread(target=self._follow, args=(request.resource_name, client), daemon=True)
            self._threads.append(thread)
            thread.start()
        return pb.Empty()

    def _follow(self, resource: str, client: Client) -> None:
        client.follow()
        if self.late_end:
            time.sleep(self.late_end)
        if (registered := self.clients.get(resource)) is not None:
            registered.hang_up()  # by name: it may be another one by now
