# SPDX-License-Identifier: Apache-2.0
"""Load generator for an AESM socket: clients that connect, ask, read the reply and hang up, as AESM clients do.

With ``--rate`` requests fall due at even intervals whether or not earlier ones are answered, and wait for a free
client; latency counts from the moment a request was due, so that a stall shows in all that waited behind it.
"""

import argparse
import itertools
import json
import select
import socket
import sys
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.timing import percentile
from kubenclave.wire import aesm

WARM_UP: Final = 0.5


class Load:
    """One run against one socket."""

    def __init__(self, path: str, frames: Sequence[bytes], clients: int) -> None:
        self._path = path
        self._frames = itertools.cycle(frames)
        self._request = aesm.decode_request(frames[0][4:])
        self._idle = clients
        self._open: dict[int, tuple[socket.socket, aesm.FrameReader, float]] = {}
        self._poll = select.epoll()
        self._checked = False
        self.latencies: list[float] = []

    def run(self, seconds: float, rate: int) -> None:
        """Load for so long, after a short warming up; with ``rate`` 0 each client asks again at once."""
        start = time.perf_counter()
        counting, end = start + WARM_UP, start + WARM_UP + seconds
        due: deque[float] = deque()
        number = 0
        while (now := time.perf_counter()) < end:
            if rate:
                while start + number / rate <= now:
                    due.append(start + number / rate)
                    number += 1
            else:
                due.extend([now] * (self._idle - len(due)))
            while due and self._idle:
                self._ask(due.popleft())
            pause = min(max(start + number / rate - now, 0), 0.05) if rate else 0.05
            select.select((self._poll,), (), (), pause)  # to the microsecond, while epoll rounds up to a millisecond
            for descriptor, _ in self._poll.poll(0):
                self._read(descriptor, counting)

    def _ask(self, due: float) -> None:
        client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        client.connect(self._path)  # waits where the backlog is full, as clients do
        client.sendall(next(self._frames))
        self._open[client.fileno()] = client, aesm.FrameReader(aesm.MAX_REPLY), due
        self._poll.register(client.fileno(), select.EPOLLIN)
        self._idle -= 1

    def _read(self, descriptor: int, counting: float) -> None:
        client, reader, due = self._open[descriptor]
        data = client.recv(65536)
        body = reader.feed(data) if data else None
        if body is None and data:
            return
        if body is None or not self._is_quote(body):
            raise RuntimeError("no quote, but: " + ("nothing" if body is None else repr(body[:40])))
        now = time.perf_counter()
        if due >= counting:
            self.latencies.append((now - due) * 1e3)
        self._poll.unregister(descriptor)
        client.close()
        del self._open[descriptor]
        self._idle += 1

    def _is_quote(self, body: bytes) -> bool:
        """Read the first reply with care; the others are as long or they are none."""
        if not self._checked:
            self._checked = isinstance(aesm.decode_reply(body, self._request), aesm.Quote)
            self._size = len(body)
        return self._checked and len(body) == self._size


def _split(data: bytes) -> list[bytes]:
    frames = []
    while data:
        size = 4 + int.from_bytes(data[:4], "little")
        frames.append(data[:size])
        data = data[size:]
    return frames


def main() -> int:
    """Run and print one JSON object: requests per second, latencies in milliseconds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("socket")
    parser.add_argument("frames", type=Path, help="file with one request after the other, used in turn")
    parser.add_argument("--clients", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rate", type=int, default=0, help="requests per second; 0 is as fast as answered")
    options = parser.parse_args()
    load = Load(options.socket, _split(options.frames.read_bytes()), options.clients)
    load.run(options.seconds, options.rate)
    took = sorted(load.latencies)
    answer: dict[str, Any] = {"requests": len(took), "rate": len(took) / options.seconds}
    answer |= {f"p{share}": percentile(took, share / 100) for share in (50, 99)}
    sys.stdout.write(json.dumps(answer) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
