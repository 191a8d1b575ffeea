# SPDX-License-Identifier: Apache-2.0
"""``Allocate`` as a kubelet calls it, with one caller and with eight, each a process with a connection of its own."""

import multiprocessing
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Final

import grpc

from benchmarks import node, peers
from benchmarks.figures import Budget, Figure, Peer, Unit
from benchmarks.timing import Effort, percentile
from kubenclave._proto import deviceplugin_pb2 as pb

METHOD: Final = "/v1beta1.DevicePlugin/Allocate"
DEVICE: Final = "enclave-0"
INTELS_DEVICE: Final = "sgx-enclave-0"
CALLERS: Final = (1, 8)
BUDGET: Final = Budget(limit=1000, times_better=1 / 3)
WARM_UP: Final = 0.3
PATIENCE: Final = 60.0


@dataclass(frozen=True, slots=True)
class Plugin:
    """A registered plugin: its socket, and a device that it has."""

    socket: Path
    device: str


def measure(effort: Effort) -> Iterator[Figure]:
    """Measure plugins that a kubelet has registered, Intel's in turn with ours."""
    with _ours() as ours, _intels() as intels:
        for callers in CALLERS:
            mine: list[list[float]] = []
            theirs: list[list[float]] = []
            for _ in range(max(2, effort.runs // 2)):
                mine.append(_run(ours, callers, effort.seconds))
                if intels is not None:
                    theirs.append(_run(intels, callers, effort.seconds))
            yield from _figures(callers, mine, theirs, effort.seconds)


def _figures(callers: int, mine: list[list[float]], theirs: list[list[float]], seconds: float) -> Iterator[Figure]:
    name = f"Allocate, {callers} caller{'s' if callers > 1 else ''}"

    def figure(what: str, unit: Unit, of_run: Callable[[list[float]], float], budget: Budget | None = None) -> Figure:
        peer = Peer(peers.PLUGIN_NAME, tuple(map(of_run, theirs)), peers.absent())
        return Figure(f"{name}: {what}", unit, tuple(map(of_run, mine)), peer, budget)

    yield figure("p50", Unit.MICROSECONDS, lambda run: percentile(run, 0.5))
    yield figure("p99", Unit.MICROSECONDS, lambda run: percentile(run, 0.99), BUDGET)
    yield figure("calls", Unit.PER_SECOND, lambda run: len(run) / seconds)


@contextmanager
def _ours() -> Iterator[Plugin]:
    with (
        node.places() as where,
        node.simulator(where),
        node.kubelet(where) as plugin_is_there,
        node.agent(where),
    ):
        plugin_is_there()
        yield Plugin(where.enclave_plugin, DEVICE)


@contextmanager
def _intels() -> Iterator[Plugin | None]:
    """Yield None where it cannot run."""
    if peers.absent():
        yield None
        return
    with node.places() as where, node.kubelet(where) as plugin_is_there, peers.plugin(where):
        plugin_is_there()
        yield Plugin(peers.socket_of_plugin(where), INTELS_DEVICE)


def _run(plugin: Plugin, callers: int, seconds: float) -> list[float]:
    """Return the microseconds of every call, sorted."""
    context = multiprocessing.get_context("spawn")  # grpcio does not survive a fork
    with context.Pool(callers, _meet, (context.Barrier(callers, timeout=PATIENCE),)) as pool:
        parts = pool.starmap(_call, [(plugin, seconds)] * callers, chunksize=1)
    return sorted(each for part in parts for each in part)


_all_here: list[Barrier] = []  # of a caller's process


def _meet(barrier: Barrier) -> None:
    _all_here.append(barrier)


def _call(plugin: Plugin, seconds: float) -> list[float]:
    """Call one after the other, together with the other callers, after some warming up."""
    request = pb.AllocateRequest(container_requests=[pb.ContainerAllocateRequest(devices_ids=[plugin.device])])
    took: list[float] = []
    with grpc.insecure_channel(f"unix:{plugin.socket}", options=[("grpc.default_authority", "localhost")]) as channel:
        allocate = channel.unary_unary(
            METHOD,
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=pb.AllocateResponse.FromString,
        )
        answer = allocate(request)
        granted = answer.container_responses
        if len(granted) != 1 or not (granted[0].mounts or granted[0].devices):
            raise RuntimeError(f"unexpected answer: {answer}")
        _all_here[0].wait()
        begin = time.perf_counter() + WARM_UP
        end = begin + seconds
        while (start := time.perf_counter()) < end:
            allocate(request)
            if start >= begin:
                took.append((time.perf_counter() - start) * 1e6)
    return took
