# SPDX-License-Identifier: Apache-2.0
"""Worker processes: replaced when they end, stopped together, one of them with the background work, metrics of all."""

import asyncio
import datetime as dt
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import textwrap
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from kubenclave.errors import PlatformError
from kubenclave.services.database import Database
from kubenclave.services.web.gather import Gatherer, merged
from kubenclave.services.web.lease import Lease
from kubenclave.services.web.tls import Tls
from kubenclave.wire.metrics import Metrics
from tests.clock import Clock
from tests.waiting import eventually, eventually_async

PROGRAM = """
    import os, signal, socket, sys, time
    from kubenclave import log
    from kubenclave.errors import KubenclaveError, PlatformError
    from kubenclave.services.web.workers import Patience, Workers

    log.configure("test", json=True)
    listening = socket.create_server(("127.0.0.1", 0))

    def work(number):
        if "deaf" in sys.argv:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if "failing" in sys.argv:
            raise PlatformError("no good", code="database.unusable")
        if "wrong" in sys.argv:
            raise ValueError("a mistake")
        while True:
            connection, _ = listening.accept()
            connection.sendall(f"{number} {os.getpid()}".encode())
            connection.close()

    patience = Patience(stable=0.0 if "failing" not in sys.argv and "wrong" not in sys.argv else 60.0,
                        pause=0.0, attempts=3, stop=0.3 if "deaf" in sys.argv else 10.0)
    print(listening.getsockname()[1], flush=True)
    try:
        Workers(2, work, [listening], patience).run()
    except KubenclaveError as error:
        sys.exit(error.code)
    print("stopped", flush=True)
"""


@pytest.fixture
def start():
    programs = []

    def started(*words):
        command = [sys.executable, "-c", textwrap.dedent(PROGRAM), *words]
        program = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        programs.append(program)
        assert program.stdout is not None
        return program, int(program.stdout.readline())

    yield started
    for program in programs:
        program.kill()
        program.communicate()


def ask(port):
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        number, process = connection.recv(100).split()
        return int(number), int(process)


def alive(process):
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_worker_that_is_killed_is_replaced_under_its_number_and_all_stop_together(start):
    program, port = start()
    number, process = ask(port)
    os.kill(process, signal.SIGKILL)
    seen: dict[int, int] = {}

    def replaced():
        with suppress(ValueError, OSError):  # a connection that the killed one had taken
            seen.update([ask(port)])
        return len(seen) == 2 and process not in seen.values()

    eventually(replaced)
    assert set(seen) == {0, 1}
    program.send_signal(signal.SIGTERM)
    out, log = program.communicate(timeout=20)
    assert (program.returncode, out) == (0, "stopped\n")
    ended = next(line for line in map(json.loads, log.splitlines()) if line["event"] == "worker.ended")
    assert (ended["exit_code"], ended["pid"], ended["worker"]) == (-9, process, number)
    assert not any(map(alive, seen.values()))


def test_a_worker_that_does_not_listen_is_killed(start):
    program, port = start("deaf")
    _, process = ask(port)
    program.send_signal(signal.SIGINT)
    _, log = program.communicate(timeout=20)
    assert program.returncode == 0
    assert "worker.killed" in log
    assert not alive(process)


@pytest.mark.parametrize(("how", "told"), [("failing", "no good"), ("wrong", "a mistake")])
def test_workers_that_cannot_start_end_the_program_with_their_reason(start, how, told):
    program, _ = start(how)
    _, log = program.communicate(timeout=20)
    assert program.returncode == 1
    assert log.rstrip().endswith("workers.failing")
    assert told in log


def test_the_kernel_ends_workers_whose_parent_is_killed(start):
    program, port = start()
    _, process = ask(port)
    program.kill()
    program.wait()
    eventually(lambda: not alive(process) or _zombie(process))


def _zombie(process):
    try:
        return Path(f"/proc/{process}/stat").read_text().split()[2] == "Z"
    except OSError:
        return True


@pytest.fixture
def database(tmp_path):
    opened = Database(tmp_path / "leases.db")
    yield opened
    opened.close()


def test_a_lease_has_one_holder_until_it_ends_or_is_given(database):
    clock = Clock()
    first, second = (Lease(database, "refresh", clock, seconds=10) for _ in range(2))
    assert first.take()
    assert not second.take()
    assert Lease(database, "rotate", clock).take(), "another work"
    clock.advance(seconds=9)
    assert first.take(), "renewed"
    clock.advance(seconds=9)
    assert not second.take()
    clock.advance(seconds=1)
    assert second.take()
    assert not first.take()
    first.give()
    assert not first.take(), "what is not ours cannot be given"
    second.give()
    assert first.take()


def test_a_lease_of_a_clock_that_went_back_does_not_last(database):
    clock = Clock()
    first, second = (Lease(database, "refresh", clock, seconds=10) for _ in range(2))
    assert first.take()
    clock.advance(seconds=-3600)
    assert second.take()


def test_work_goes_on_where_the_lease_goes(database):
    async def run():
        clock = Clock()
        told = []

        def work(who):
            async def working():
                told.append(who)
                await asyncio.Event().wait()

            return working

        leases = [Lease(database, "refresh", clock, seconds=0.06) for _ in range(2)]
        first = asyncio.create_task(leases[0].hold(work("first")))
        await eventually_async(lambda: told)
        second = asyncio.create_task(leases[1].hold(work("second")))
        await asyncio.sleep(0.1)
        before = list(told)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        await eventually_async(lambda: len(told) == 2)
        clock.advance(seconds=10)
        assert leases[0].take(), "the second was too late"
        await asyncio.sleep(0.1)
        second.cancel()
        await asyncio.gather(second, return_exceptions=True)
        return before, told

    assert asyncio.run(run()) == (["first"], ["first", "second"])


def test_work_that_fails_is_told_and_the_lease_given(database):
    async def broken():
        raise ValueError("broken")

    lease = Lease(database, "refresh", Clock())
    with pytest.raises(ValueError, match="broken"):
        asyncio.run(lease.hold(broken))
    assert Lease(database, "refresh", Clock()).take()


def test_a_database_that_cannot_be_written_holds_no_lease(database):
    lease = Lease(database, "refresh", Clock(), seconds=0.03)
    database.close()

    async def never():
        raise AssertionError

    async def run():
        holding = asyncio.create_task(lease.hold(never))
        await asyncio.sleep(0.05)
        holding.cancel()
        await asyncio.gather(holding, return_exceptions=True)

    asyncio.run(run())


def test_samples_of_workers_stand_together_with_their_number():
    texts = []
    for number in range(2):
        metrics = Metrics()
        metrics.counter("a_total", "A.", "code").inc('x"} y', by=number)
        metrics.histogram("b_seconds", "B.", [1]).observe(number)
        texts.append((number, metrics.render()))
    assert merged(texts).decode().splitlines() == [
        "# HELP a_total A.",
        "# TYPE a_total counter",
        'a_total{worker="0",code="x\\"} y"} 0',
        'a_total{worker="1",code="x\\"} y"} 1',
        "# HELP b_seconds B.",
        "# TYPE b_seconds histogram",
        'b_seconds_bucket{worker="0",le="1"} 1',
        'b_seconds_bucket{worker="0",le="+Inf"} 1',
        'b_seconds_sum{worker="0"} 0',
        'b_seconds_count{worker="0"} 1',
        'b_seconds_bucket{worker="1",le="1"} 1',
        'b_seconds_bucket{worker="1",le="+Inf"} 1',
        'b_seconds_sum{worker="1"} 1',
        'b_seconds_count{worker="1"} 1',
    ]


def test_each_worker_tells_of_all_that_answer(short_tmp):
    async def run():
        gatherers = [
            Gatherer(short_tmp, number, 3, partial(b"# HELP a A\na %d\n".__mod__, number)) for number in (0, 1)
        ]
        async with gatherers[0].serving(), gatherers[1].serving():
            return [await each.gather() for each in gatherers]

    first, second = asyncio.run(run())
    assert first == second == b'# HELP a A\na{worker="0"} 0\na{worker="1"} 1\n'


def issue(directory, name, serial):
    """Write a self-signed certificate and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    start = dt.datetime.now(dt.UTC) - dt.timedelta(days=1)
    builder = x509.CertificateBuilder(subject, subject, key.public_key(), serial, start, start + dt.timedelta(days=9))
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (directory / "tls.crt").write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM))
    (directory / "tls.key").write_bytes(pem)


def shown(tls):
    """Return the serial number of the certificate that a server with this context shows."""

    async def run():
        async def closed(_reader, writer):
            writer.close()
            await writer.wait_closed()

        async with await asyncio.start_server(closed, "127.0.0.1", 0, ssl=tls.context) as server:
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            _, port = server.sockets[0].getsockname()
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
            der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
            await reader.read()
            writer.close()
            return x509.load_der_x509_certificate(der).serial_number

    return asyncio.run(run())


def test_a_renewed_certificate_is_taken_over_and_half_a_renewal_is_not(tmp_path):
    issue(tmp_path, "localhost", 1)
    tls = Tls(tmp_path / "tls.crt", tmp_path / "tls.key", tmp_path / "tls.crt")
    assert shown(tls) == 1
    assert not tls.refresh()
    issue(tmp_path, "localhost", 2)
    assert tls.refresh()
    assert shown(tls) == 2
    (tmp_path / "tls.key").write_text("half")
    with pytest.raises(PlatformError) as caught:
        tls.refresh()
    assert caught.value.code == "tls.unusable"
    assert shown(tls) == 2


def test_files_are_looked_at_again_and_again(tmp_path):
    issue(tmp_path, "localhost", 1)
    tls = Tls(tmp_path / "tls.crt", tmp_path / "tls.key")

    async def run():
        watching = asyncio.create_task(tls.watch(0.01))
        (tmp_path / "tls.crt").unlink()
        await asyncio.sleep(0.05)
        issue(tmp_path, "localhost", 2)
        await eventually_async(lambda: tls._stamp == tls._look())
        watching.cancel()

    asyncio.run(run())
    assert shown(tls) == 2


@pytest.mark.parametrize("missing", ["tls.crt", "tls.key"])
def test_files_that_are_not_there_are_named(tmp_path, missing):
    issue(tmp_path, "localhost", 1)
    (tmp_path / missing).unlink()
    with pytest.raises(PlatformError) as caught:
        Tls(tmp_path / "tls.crt", tmp_path / "tls.key")
    assert caught.value.code == "tls.unusable"
    assert missing in str(caught.value)


def test_a_key_with_a_password_asks_nobody(tmp_path):
    from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, load_pem_private_key

    issue(tmp_path, "localhost", 1)
    key = load_pem_private_key((tmp_path / "tls.key").read_bytes(), None)
    locked = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    (tmp_path / "tls.key").write_bytes(locked)
    with pytest.raises(PlatformError) as caught:
        Tls(tmp_path / "tls.crt", tmp_path / "tls.key")
    assert caught.value.found == "the key has a password"
