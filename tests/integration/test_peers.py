# SPDX-License-Identifier: Apache-2.0
"""Who is at the other end of a socket, also when it is a process of another container."""

import os
import shutil
import socket
import subprocess
import sys

import pytest

from kubenclave.platform import sockets

SERVER = """
import socket, sys
from kubenclave.platform import sockets
listener = sockets.listen(__import__("pathlib").Path(sys.argv[1]), 0o666)
listener.setblocking(True)
print("up", flush=True)
for _ in range(3):
    connection, _ = listener.accept()
    print(sockets.peer(connection)[0], sockets.process(connection), flush=True)
"""


def connect(path) -> socket.socket:
    made = socket.socket(socket.AF_UNIX)
    made.connect(str(path))
    return made


def test_a_process_that_can_be_seen_is_its_id():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert sockets.process(ours) == os.getpid()


def test_where_the_kernel_tells_nothing_nobody_is_told_from_others(monkeypatch):
    monkeypatch.setattr(sockets, "peer", lambda _: (0, 1000))
    monkeypatch.setattr(sockets, "_SO_PEERPIDFD", 9999)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert sockets.process(ours) == 0


def test_where_all_pidfds_look_the_same_nobody_is_told_from_others(monkeypatch):
    monkeypatch.setattr(sockets, "peer", lambda _: (0, 1000))
    ours, theirs = socket.socketpair()
    with ours, theirs:
        if not sockets.process(ours):
            pytest.skip("this kernel is such a one")
        monkeypatch.setattr(sockets, "_anonymous_device", lambda: os.fstat(os.pidfd_open(os.getpid())).st_dev)
        assert sockets.process(ours) == 0


def test_processes_of_other_containers_are_told_apart(short_tmp):
    unshare = shutil.which("unshare")
    command = [unshare or "", "--pid", "--fork", "--kill-child", sys.executable, "-c", SERVER, str(short_tmp / "s")]
    if not unshare or subprocess.run([unshare, "--pid", "--fork", "true"], check=False, capture_output=True).returncode:
        pytest.skip("needs unshare and the right to a PID namespace")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == "up\n"
        with connect(short_tmp / "s"), connect(short_tmp / "s"):
            seen = [server.stdout.readline().split() for _ in range(2)]
        other = "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); input()"
        client = [sys.executable, "-c", other, str(short_tmp / "s")]
        with subprocess.Popen(client, stdin=subprocess.PIPE, text=True):
            seen.append(server.stdout.readline().split())
    assert [pid for pid, _ in seen] == ["0"] * 3
    one, same, another = (int(number) for _, number in seen)
    if not one:
        pytest.skip("needs Linux 6.9")
    assert one == same != another
    assert min(one, another) > 1 << 32
