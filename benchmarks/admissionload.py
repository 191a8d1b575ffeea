# SPDX-License-Identifier: Apache-2.0
"""Load generator for an admission webhook: AdmissionReviews over TLS on connections that stay open.

With ``--rate`` reviews are handed out at even intervals whether or not earlier ones are answered, and latency counts
from then, waiting for a free connection included; without, each connection asks again as soon as it has its answer.
"""

import argparse
import asyncio
import json
import re
import ssl
import sys
import time
from pathlib import Path
from typing import Any, Final

from benchmarks.timing import percentile

WARM_UP: Final = 0.5
_LENGTH: Final = re.compile(rb"^content-length: *(\d+)\r$", re.IGNORECASE | re.MULTILINE)
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Load:
    """One run against one webhook."""

    def __init__(self, options: argparse.Namespace) -> None:
        body = options.review.read_bytes()
        head = f"POST {options.path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        self._request: Final = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
        self._uid: Final = json.loads(body)["request"]["uid"]
        self._address: Final = options.address
        self._port: Final = options.port
        self._name: Final = options.name
        self._trust: Final = ssl.create_default_context(cafile=options.ca)
        self.latencies: list[float] = []

    async def run(self, connections: int, seconds: float, rate: int) -> None:
        """Load for so long, after a short warming up."""
        all_streams = [await self._connect() for _ in range(connections)]
        for streams in all_streams:
            await self._ask(streams)
        start = time.perf_counter()
        counting, end = start + WARM_UP, start + WARM_UP + seconds
        if rate:
            await self._at_rate(all_streams, rate, counting, end)
        else:
            await asyncio.gather(*(self._flat_out(streams, counting, end) for streams in all_streams))
        for _, writer in all_streams:
            writer.close()

    async def _at_rate(self, all_streams: list[Streams], rate: int, counting: float, end: float) -> None:
        idle: asyncio.Queue[Streams] = asyncio.Queue()
        for streams in all_streams:
            idle.put_nowait(streams)

        async def one(begin: float) -> None:
            streams = await idle.get()
            await self._ask(streams)
            idle.put_nowait(streams)
            if begin >= counting:
                self.latencies.append((time.perf_counter() - begin) * 1e3)

        async with asyncio.TaskGroup() as reviews:
            due = time.perf_counter()
            while due < end:
                await asyncio.sleep(due - time.perf_counter())
                reviews.create_task(one(time.perf_counter()))
                due += 1 / rate

    async def _flat_out(self, streams: Streams, counting: float, end: float) -> None:
        while (begin := time.perf_counter()) < end:
            await self._ask(streams)
            if begin >= counting:
                self.latencies.append((time.perf_counter() - begin) * 1e3)

    async def _connect(self) -> Streams:
        return await asyncio.open_connection(self._address, self._port, ssl=self._trust, server_hostname=self._name)

    async def _ask(self, streams: Streams) -> None:
        """Ask once. Raises RuntimeError when the answer admits nothing or changes nothing."""
        reader, writer = streams
        writer.write(self._request)
        head = await reader.readuntil(b"\r\n\r\n")
        length = _LENGTH.search(head)
        body = await reader.readexactly(int(length[1])) if length else b""
        if not head.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(f"the webhook answered {head[:60]!r} {body[:300]!r}")
        answer = json.loads(body)["response"]
        if answer["uid"] != self._uid or not answer["allowed"] or not answer.get("patch"):
            raise RuntimeError(f"not admitted and completed: {body[:500]!r}")


def main() -> int:
    """Run and print one JSON object: reviews per second, latencies in milliseconds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("review", type=Path, help="an AdmissionReview, JSON")
    parser.add_argument("--address", default="127.0.0.1")
    parser.add_argument("--name", default="localhost", help="for which its certificate has to be")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--path", default="/mutate")
    parser.add_argument("--ca", required=True, help="PEM file of whom to trust")
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rate", type=int, default=0, help="reviews per second; 0 is as fast as answered")
    options = parser.parse_args()
    load = Load(options)
    asyncio.run(load.run(options.connections, options.seconds, options.rate))
    took = sorted(load.latencies)
    answer: dict[str, Any] = {"reviews": len(took), "rate": len(took) / options.seconds}
    answer |= {f"p{share}": percentile(took, share / 100) for share in (50, 99)}
    sys.stdout.write(json.dumps(answer) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
