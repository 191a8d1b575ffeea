# SPDX-License-Identifier: Apache-2.0
"""Keeps the Node object in step with this machine: what changes here is told at once, what changed there is repaired.

At rest that is one read of the own Node each minute, from the API server's memory, and no watch. While the API server
is away it is tried again and again; devices and their allocation do not depend on it.
"""

import asyncio
import ctypes
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Never

from kubenclave.errors import KubenclaveError, UnreachableError
from kubenclave.node.api import NodeApi
from kubenclave.node.log import Logger
from kubenclave.node.reconcile import (
    Event,
    Facts,
    Patch,
    Wishes,
    event_object,
    events,
    facts_of,
    farewell_patch,
    lack_of,
    next_patch,
    offers_devices,
    settled,
)
from kubenclave.node.watch import Signal
from kubenclave.platform import sockets
from kubenclave.platform.base import Inventory

AT_REST: Final = 60.0
"""Seconds between two looks at the Node when all is said, give or take a tenth so that nodes do not beat together."""
SOON: Final = 2.0
"""Seconds between two looks while a startup taint waits for the kubelet."""
LEAST: Final = 1.0
"""Seconds between two rounds whatever happens."""
LAST_RETRY: Final = 30.0
GRACE: Final = 30.0
"""Seconds that a kubelet has to take the devices before EPC is withdrawn for it."""
BLINK: Final = 10.0
"""Seconds that a device node may be gone before EPC is withdrawn for it: udev and updates make it anew."""
_ASK_AGAIN: Final = 10.0
_MAX_ROUNDS: Final = 8
_EVENTS_AT_ONCE: Final = 10
_EVENTS_ROUTE: Final = "/api/v1/namespaces/default/events"
LINGER: Final = 0.5
"""Seconds in which a kubelet hears of a pod that was bound to its Node, and asks for its devices."""
_FAREWELL: Final = 5.0
_M_TRIM_THRESHOLD: Final = -1  # malloc.h
_KEPT: Final = 16384

_log = Logger()


@dataclass(frozen=True, slots=True)
class Target:
    """The Node called ``name``, and what it takes to speak for it.

    ``kubelet`` is the socket at which the kubelet takes plugins, ``aesm`` the AESM socket where there is to be one;
    with ``await_aesm`` the Node is not ready without.
    """

    name: str
    kubelet: Path
    wishes: Wishes = field(default_factory=Wishes)
    aesm: Path | None = None
    await_aesm: bool = False
    rest: float = AT_REST


class Publisher:
    """Tells the Node what there is, whenever that changes and every so often.

    ``reached`` tells whether the API server answered the last time, ``facts`` what is to be told.
    """

    def __init__(self, api: NodeApi, target: Target) -> None:
        self.api = api
        self.reached = False
        self.facts = Facts(Inventory(), usable=None)
        self._target = target
        self._path = f"/api/v1/nodes/{target.name}"
        self._wishes = target.wishes
        self._changed = Signal()
        self._grip = _Grip(target.kubelet)
        self._lacking = _Spell()
        self._aesm = None if target.aesm is None else _Aesm(target.aesm)
        self._told = ""
        self._read = False
        self._events = _Allowance(_EVENTS_AT_ONCE, 60.0)

    def consider(self, inventory: Inventory, problem: KubenclaveError | None, *, held: bool) -> None:
        """Take what there is at this moment, and publish it if it is something else than before.

        ``held`` tells whether the kubelet holds healthy enclave devices.
        """
        now = asyncio.get_running_loop().time()
        lack = lack_of(inventory, problem)
        facts = facts_of(
            inventory,
            lack,
            lasts=self._lacking.lasts(lack is not None, BLINK, now),
            held=self._grip.judge(held, now),
            aesm=None if self._aesm is None else self._aesm.answers(now),
            await_aesm=self._target.await_aesm,
        )
        if facts != self.facts:
            self.facts = facts
            self._changed.notify()

    async def run(self) -> Never:
        """Publish until cancelled."""
        _keep_little()
        retry = LEAST
        while True:
            seen = self._changed.generation
            try:
                pause = await self._round()
                _give_back()
                retry = LEAST
            except KubenclaveError as error:
                self.reached = not isinstance(error, UnreachableError)
                self._read = False
                self._tell(error)
                pause, retry = retry, min(2 * retry, LAST_RETRY)
            await asyncio.sleep(LEAST)
            await self._changed.wait(seen, _about(pause))

    async def farewell(self) -> None:
        """Say that nobody looks after the Node any more, while the kubelet still has the devices: ``run`` has ended.

        Returns when pods that were on their way have had time to get their devices, and no others have been sent.
        """
        with suppress(KubenclaveError, TimeoutError):
            async with asyncio.timeout(_FAREWELL):
                offered = True
                while offered:  # a kubelet that has just told its own opinion has undone it, and will not soon again
                    await self._send(farewell_patch(self._wishes, _now()))
                    await asyncio.sleep(LINGER)
                    offered = offers_devices(await self.api.get(self._path))

    async def _round(self) -> float:
        """Bring the Node up to date and return how long that may last, in seconds."""
        cached = "?resourceVersion=0" if self._read else ""
        before = node = await self.api.get(self._path + cached)
        facts = self.facts
        for _ in range(_MAX_ROUNDS):
            patch = next_patch(facts, self._wishes, node, _now())
            if patch is None:
                break
            node = await self._send(patch)
        self.reached = self._read = True
        self._tell(None)
        await self._report(events(before, node, facts, self._wishes), node)
        return self._target.rest if settled(self._wishes, node) else SOON

    async def _send(self, patch: Patch) -> dict[str, Any]:
        return await self.api.patch(self._path + ("/status" if patch.status else ""), patch.kind, patch.body)

    async def _report(self, happened: Iterator[Event], node: dict[str, Any]) -> None:
        for event in happened:
            _log.info("node.published", reason=event.reason, message=event.message)
            if self._events.take(asyncio.get_running_loop().time()):
                with suppress(KubenclaveError):  # the condition says the same; an event is only quicker to find
                    await self.api.create(_EVENTS_ROUTE, event_object(event, node, os.urandom(8).hex(), _now()))

    def _tell(self, error: KubenclaveError | None) -> None:
        """Log each turn of events once."""
        told = "" if error is None else error.code
        if told == self._told:
            return
        self._told = told
        if error is None:
            _log.info("node.reached", node=self._path)
        else:
            _log.warning("node.unpublished", code=error.code, error=str(error), hint=error.hint)


class _Spell:
    """How long something has been so without a break."""

    def __init__(self) -> None:
        self._since: float | None = None

    def lasts(self, so: bool, seconds: float, now: float) -> bool:
        """Take whether it is so now, and tell whether it has been for more than that many seconds."""
        if not so:
            self._since = None
            return False
        if self._since is None:
            self._since = now
        return now - self._since > seconds


class _Grip:
    """Whether the kubelet holds the enclave devices.

    A kubelet that restarts lets go of them, and a Node without EPC at that moment would make it end the pods that run:
    so there is no answer (None) until it has been there for a while without taking them.
    """

    def __init__(self, kubelet: Path) -> None:
        self._kubelet = kubelet
        self._refusing = _Spell()

    def judge(self, held: bool, now: float) -> bool | None:
        refuses = not held and sockets.answers(self._kubelet)
        return False if self._refusing.lasts(refuses, GRACE, now) else held or None


class _Aesm:
    """Whether somebody answers at the AESM socket; asked anew when the socket is another, and now and then."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._who: sockets.Identity | None = None
        self._asked = 0.0
        self._answers = False

    def answers(self, now: float) -> bool:
        who = sockets.identity(self._path)
        if who != self._who or not self._answers or now - self._asked > _ASK_AGAIN:
            self._who, self._asked = who, now
            self._answers = who is not None and sockets.answers(self._path)
        return self._answers


class _Allowance:
    """Lets ``most`` things happen at once, and one more each ``interval`` seconds."""

    def __init__(self, most: int, interval: float) -> None:
        self._most = float(most)
        self._interval = interval
        self._left = float(most)
        self._seen = 0.0

    def take(self, now: float) -> bool:
        self._left = min(self._most, self._left + (now - self._seen) / self._interval)
        self._seen = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


def _keep_little() -> None:
    """Have freed memory returned to the system soon, not kept for more: TLS and the Node need it once a minute."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc has it, musl keeps little anyway
    if mallopt is not None:
        mallopt(_M_TRIM_THRESHOLD, _KEPT)


def _give_back() -> None:
    """Return what a round has left behind."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _about(seconds: float) -> float:
    """Return a time up to a tenth shorter or longer."""
    return seconds * (0.9 + os.urandom(1)[0] / 255 / 5)


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
