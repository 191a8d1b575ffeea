# SPDX-License-Identifier: Apache-2.0
"""Metrics of several workers in one scrape: whichever is asked asks the others, over sockets in a private directory.

Each sample gets the label ``worker``. Sums would go backwards when a worker is replaced; one series for each worker
does what Prometheus expects of a counter that begins again.
"""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

_SECONDS: Final = 1.0  # for a worker to answer; one that does not is left out of this scrape
_SAMPLE: Final = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (\S+)")


def merged(texts: Iterable[tuple[int, bytes]]) -> bytes:
    """Return one exposition of those of several workers (number, text as ``Metrics.render`` returns it)."""
    heads: dict[str, list[str]] = {}  # metric: its HELP and TYPE
    samples: dict[str, list[str]] = {}
    for number, text in texts:
        metric = ""
        for line in text.decode().split("\n"):  # splitlines knows others, which label values may hold
            if line.startswith("# HELP "):
                metric = line.split(" ", 3)[2]
                heads.setdefault(metric, []).clear()
            if line.startswith("#"):
                heads[metric].append(line)
            elif sample := _SAMPLE.fullmatch(line):
                name, labels, value = sample.groups()
                worker = f'worker="{number}"'
                pairs = f"{worker},{labels}" if labels else worker
                samples.setdefault(metric, []).append(f"{name}{{{pairs}}} {value}")
    lines = [line for metric, head in heads.items() for line in (*head, *samples.get(metric, ()))]
    return "".join(f"{line}\n" for line in lines).encode()


class Gatherer:
    """The metrics of worker ``number`` of ``count``, and those of all; ``render`` returns its own."""

    def __init__(self, directory: Path, number: int, count: int, render: Callable[[], bytes]) -> None:
        self._directory: Final = directory
        self._number: Final = number
        self._count: Final = count
        self._render: Final = render

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """Tell the other workers while the block is open."""
        path = self._path(self._number)
        path.unlink(missing_ok=True)  # of the one before us

        async def tell(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(OSError):
                writer.write(self._render())
                await writer.drain()
            writer.close()

        async with await asyncio.start_unix_server(tell, path):
            yield

    async def gather(self) -> bytes:
        """Return the metrics of all workers that answer."""
        others = [number for number in range(self._count) if number != self._number]
        texts = await asyncio.gather(*map(self._ask, others))
        told = [(self._number, self._render()), *((n, text) for n, text in zip(others, texts, strict=True) if text)]
        return merged(sorted(told))

    async def _ask(self, number: int) -> bytes:
        try:
            async with asyncio.timeout(_SECONDS):
                reader, writer = await asyncio.open_unix_connection(self._path(number))
                try:
                    return await reader.read(-1)
                finally:
                    writer.close()
        except (OSError, TimeoutError):
            return b""

    def _path(self, number: int) -> Path:
        return self._directory / f"{number}.sock"
