# SPDX-License-Identifier: Apache-2.0
"""Daemons as children: started, waited for, restarted, stopped, whatever they do."""

import asyncio
import errno
import sys
from pathlib import Path

import pytest

from kubenclave.errors import PlatformError
from kubenclave.local.processes import Patience, Service, Services
from tests.waiting import eventually_async

QUICK = Patience(start=10.0, stop=0.3, poll=0.005, first_pause=0.01, last_pause=0.02, stable=0.5)


def service(folder: Path, script: str, name: str = "daemon") -> Service:
    """Return a daemon that is ready once it has made the file ``<name>``; ``{}`` in the script stands for it."""
    mark = folder / name

    async def ready() -> bool:
        return mark.exists()

    return Service(name, (sys.executable, "-S", "-c", script.format(repr(str(mark)))), ready)


WAITS = "import time; open({}, 'a').write('x'); time.sleep(60)"
ENDS = "open({}, 'a').write('x')"
DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); open({}, 'a').write('x'); time.sleep(60)"


def test_a_daemon_that_ends_is_started_again(tmp_path):
    async def scenario() -> None:
        async with Services(QUICK).running() as services:
            await services.start(service(tmp_path, "import time; time.sleep(0.2); " + ENDS))
            await eventually_async(lambda: services.restarts["daemon"] >= 3)

    asyncio.run(scenario())
    assert len((tmp_path / "daemon").read_text()) >= 3


def test_one_that_ran_for_long_starts_over_with_the_first_pause(tmp_path):
    patience = Patience(stop=0.3, poll=0.005, first_pause=0.01, last_pause=30.0, stable=0.0)

    async def scenario() -> None:
        async with Services(patience).running() as services:
            await services.start(service(tmp_path, "import time; time.sleep(0.05); " + ENDS))
            await eventually_async(lambda: services.restarts["daemon"] >= 14)  # doubled each time it would take minutes

    asyncio.run(scenario())


def test_one_that_ends_before_it_is_ready_is_an_error_and_not_started_again(tmp_path):
    async def scenario() -> None:
        async with Services(QUICK).running() as services:
            with pytest.raises(PlatformError) as caught:
                await services.start(service(tmp_path, "import sys; sys.exit(7) if {} else 0"))
            assert (caught.value.code, caught.value.found) == ("up.daemon-failed", "exit code 7")

    asyncio.run(scenario())


def test_one_that_never_becomes_ready_is_an_error_and_ended(tmp_path):
    patience = Patience(start=0.1, stop=5.0, poll=0.005)

    async def scenario() -> None:
        async with Services(patience).running() as services:
            with pytest.raises(PlatformError) as caught:
                await services.start(service(tmp_path, "import time; time.sleep(60); {}"))
            assert caught.value.code == "up.daemon-late"

    asyncio.run(scenario())


def test_one_that_does_not_listen_is_killed_at_the_end(tmp_path):
    async def scenario() -> None:
        async with Services(QUICK).running() as services:
            await services.start(service(tmp_path, DEAF))

    asyncio.run(asyncio.wait_for(scenario(), 20))


def test_the_last_started_is_stopped_first(tmp_path):
    script = (
        "import signal, sys, time\n"
        "def end(*_):\n    open({0} + '.log', 'a').write('x'); open('{1}', 'a').write({0}[-1]); sys.exit()\n"
        "signal.signal(signal.SIGTERM, end); open({0}, 'a').write('x'); time.sleep(60)"
    )
    order = tmp_path / "order"

    async def scenario() -> None:
        async with Services(Patience(poll=0.005)).running() as services:
            for name in ("a", "b", "c"):
                await services.start(service(tmp_path, script.replace("{1}", str(order)), name))

    asyncio.run(scenario())
    assert order.read_text() == "cba"


def test_one_that_cannot_be_started_again_now_is_tried_again(tmp_path, monkeypatch):
    """As when there are no descriptors or no memory for a process."""
    spawn = asyncio.create_subprocess_exec
    failures: list[object] = []

    async def refuse_twice(*words, **more):
        if (tmp_path / "daemon").exists() and len(failures) < 2:
            failures.append(words)
            raise OSError(errno.EAGAIN, "no more processes")
        return await spawn(*words, **more)

    async def scenario() -> None:
        async with Services(QUICK).running() as services:
            await services.start(service(tmp_path, ENDS))
            await eventually_async(lambda: (tmp_path / "daemon").read_text().startswith("xx"))
            assert services.restarts["daemon"] >= 3

    monkeypatch.setattr(asyncio, "create_subprocess_exec", refuse_twice)
    asyncio.run(scenario())
    assert len(failures) == 2


def test_a_program_that_does_not_exist_is_an_error(tmp_path):
    async def never() -> bool:
        return False

    async def scenario() -> None:
        async with Services(QUICK).running() as services:
            with pytest.raises(OSError, match="no-such-program"):
                await services.start(Service("daemon", (str(tmp_path / "no-such-program"),), never))

    asyncio.run(scenario())
