# SPDX-License-Identifier: Apache-2.0
"""Load generator over HTTP: clients that keep their connection and ask again as soon as they have their answer."""

import argparse
import asyncio
import itertools
import json
import os
import ssl
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.timing import percentile

WARM_UP: Final = 0.5


class Load:
    """One run against one server; ``latencies`` are in milliseconds. Anything but 200 ends it."""

    def __init__(self, port: int, tls: ssl.SSLContext | None, requests: Iterator[bytes]) -> None:
        self._port = port
        self._tls = tls
        self._requests = requests
        self.latencies: list[float] = []

    async def run(self, clients: int, seconds: float) -> float:
        """Load for so long after a short warming up, or until no request is left; return the seconds that it took."""
        start = time.perf_counter()
        counting = start + WARM_UP if seconds else start
        end = counting + seconds if seconds else float("inf")
        async with asyncio.TaskGroup() as tasks:
            for _ in range(clients):
                tasks.create_task(self._client(counting, end))
        return seconds or time.perf_counter() - start

    async def _client(self, counting: float, end: float) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port, ssl=self._tls)
        for request in self._requests:
            asked = time.perf_counter()
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            body = await reader.readexactly(_length(head))
            now = time.perf_counter()
            if not head.startswith(b"HTTP/1.1 200 "):
                raise RuntimeError(f"refused: {(head + body)[:600]!r}")
            if counting <= asked and now <= end:
                self.latencies.append((now - asked) * 1e3)
            if now > end:
                break
        writer.close()


def _length(head: bytes) -> int:
    _, _, after = head.lower().partition(b"content-length: ")
    return int(after.partition(b"\r\n")[0])


def request(method: str, path: str, body: bytes = b"") -> bytes:
    """Return a request as it goes out."""
    head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n"
    if body:
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return f"{head}\r\n".encode() + body


def write(file: Path, requests: Sequence[bytes]) -> Path:
    """Write requests for the load generator."""
    file.write_text(json.dumps([each.decode("ascii") for each in requests]), encoding="utf-8")
    return file


def main() -> int:
    """Run and print one JSON object: requests per second, latencies in milliseconds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument(
        "requests", type=Path, help="JSON list of requests, used in turn, or each once without --seconds"
    )
    parser.add_argument("--clients", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=0.0)
    parser.add_argument("--core", type=int, help="run on this one")
    parser.add_argument("--tls", action="store_true")
    options = parser.parse_args()
    if options.core is not None:
        os.sched_setaffinity(0, {options.core})
    context = None
    if options.tls:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    requests = [each.encode() for each in json.loads(options.requests.read_text(encoding="utf-8"))]
    load = Load(options.port, context, itertools.cycle(requests) if options.seconds else iter(requests))
    seconds = asyncio.run(load.run(options.clients, options.seconds))
    took = sorted(load.latencies)
    answer: dict[str, Any] = {"requests": len(took), "rate": len(took) / seconds}
    answer |= {f"p{share}": percentile(took, share / 100) for share in (50, 99)}
    sys.stdout.write(json.dumps(answer) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
