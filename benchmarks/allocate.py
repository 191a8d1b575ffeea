# SPDX-License-Identifier: Apache-2.0
"""``Allocate`` as a kubelet calls it, with one caller and with eight, each a process with a connection of its own."""

import multiprocessing
import time
from collections.abc import Iterator
from multiprocessing.synchronize import Barrier
from typing import Final

import grpc

from benchmarks import node
from benchmarks.figures import Budget, Figure, Peer, Unit
from benchmarks.timing import Effort, percentile
from kubenclave._proto import deviceplugin_pb2 as pb

METHOD: Final = "/v1beta1.DevicePlugin/Allocate"
DEVICE: Final = "enclave-0"
# Microseconds of Intel's plugin 0.36.0, measured on a machine with two cores by a client in Go: (p50, p99).
INTEL: Final = {1: (121.0, 232.0), 8: (225.0, 832.0)}
BUDGET: Final = Budget(limit=1000, times_better=1 / 3)
WARM_UP: Final = 0.3
PATIENCE: Final = 60.0


def measure(effort: Effort) -> Iterator[Figure]:
    """Measure a plugin that a kubelet has registered."""
    with (
        node.places() as where,
        node.simulator(where),
        node.kubelet(where) as plugin_is_there,
        node.agent(where),
    ):
        plugin_is_there()
        for callers, (p50, p99) in INTEL.items():
            runs = [_run(str(where.enclave_plugin), callers, effort.seconds) for _ in range(max(2, effort.runs // 2))]
            medians = tuple(percentile(run, 0.5) for run in runs)
            tails = tuple(percentile(run, 0.99) for run in runs)
            rates = tuple(len(run) / effort.seconds for run in runs)
            name = f"Allocate, {callers} caller{'s' if callers > 1 else ''}"
            yield Figure(f"{name}: p50", Unit.MICROSECONDS, medians, Peer("Intel plugin", (p50,), quoted=True))
            yield Figure(f"{name}: p99", Unit.MICROSECONDS, tails, Peer("Intel plugin", (p99,), quoted=True), BUDGET)
            yield Figure(f"{name}: calls", Unit.PER_SECOND, rates)


def _run(path: str, callers: int, seconds: float) -> list[float]:
    """Return the microseconds of every call, sorted."""
    context = multiprocessing.get_context("spawn")  # grpcio does not survive a fork
    with context.Pool(callers, _meet, (context.Barrier(callers, timeout=PATIENCE),)) as pool:
        parts = pool.starmap(_call, [(path, seconds)] * callers, chunksize=1)
    return sorted(each for part in parts for each in part)


_all_here: list[Barrier] = []  # of a caller's process


def _meet(barrier: Barrier) -> None:
    _all_here.append(barrier)


def _call(path: str, seconds: float) -> list[float]:
    """Call one after the other, together with the other callers, after some warming up."""
    request = pb.AllocateRequest(container_requests=[pb.ContainerAllocateRequest(devices_ids=[DEVICE])])
    took: list[float] = []
    with grpc.insecure_channel(f"unix:{path}") as channel:
        allocate = channel.unary_unary(
            METHOD,
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=pb.AllocateResponse.FromString,
        )
        answer = allocate(request)
        if len(answer.container_responses) != 1 or not answer.container_responses[0].mounts:
            raise RuntimeError(f"unexpected answer: {answer}")
        _all_here[0].wait()
        begin = time.perf_counter() + WARM_UP
        end = begin + seconds
        while (start := time.perf_counter()) < end:
            allocate(request)
            if start >= begin:
                took.append((time.perf_counter() - start) * 1e6)
    return took
