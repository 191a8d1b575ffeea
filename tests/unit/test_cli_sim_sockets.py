# SPDX-License-Identifier: Apache-2.0
"""Where ``kubenclave sim`` looks for the sockets of a SIMULATED platform."""

import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from kubenclave.cli.sim import sockets
from kubenclave.errors import PlatformError
from kubenclave.platform import simcpu
from kubenclave.platform.simulated.places import cpu_socket, make_folders, provision_socket


class Kind(NamedTuple):
    find: Callable[[str | None, str | None], Path]
    variable: str
    default: str
    place: Callable[[Path], Path]


CPU = Kind(sockets.cpu, simcpu.CPU_SOCKET_VARIABLE, "DEFAULT_CPU_SOCKET", cpu_socket)
PROVISION = Kind(sockets.provision, simcpu.PROVISION_SOCKET_VARIABLE, "DEFAULT_PROVISION_SOCKET", provision_socket)
both = pytest.mark.parametrize("kind", [pytest.param(CPU, id="cpu"), pytest.param(PROVISION, id="provision")])


@pytest.fixture(autouse=True)
def state(short_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's own state folder, with nothing in it, and nothing at the usual places either."""
    for variable in (simcpu.CPU_SOCKET_VARIABLE, simcpu.PROVISION_SOCKET_VARIABLE):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(short_tmp / "state"))
    monkeypatch.setattr(simcpu, "DEFAULT_CPU_SOCKET", short_tmp / "cpu")
    monkeypatch.setattr(simcpu, "DEFAULT_PROVISION_SOCKET", short_tmp / "provision")
    return short_tmp / "state/kubenclave/sim"


@pytest.fixture
def made() -> Iterator[Callable[[Path], None]]:
    """Makes a socket at a path."""
    found = []

    def make(path: Path) -> None:
        found.append(socket.socket(socket.AF_UNIX))
        found[-1].bind(str(path))

    yield make
    for one in found:
        one.close()


@both
def test_what_is_named_goes_first(kind, monkeypatch):
    monkeypatch.setenv(kind.variable, "/of/the/environment")
    assert kind.find("/named", "/state") == Path("/named")
    assert kind.find(None, "/state") == kind.place(Path("/state"))
    assert kind.find(None, None) == Path("/of/the/environment")


@both
def test_then_the_usual_place_and_then_the_users_own(kind, state, made):
    state.mkdir(parents=True)
    make_folders(state)
    made(kind.place(state))
    assert kind.find(None, None) == kind.place(state)
    usual = getattr(simcpu, kind.default)
    made(usual)
    assert kind.find(None, None) == usual


def test_without_any_the_cpu_is_looked_for_at_the_usual_place():
    assert sockets.cpu(None, None) == simcpu.DEFAULT_CPU_SOCKET


def test_without_any_the_provisioning_key_was_not_granted():
    with pytest.raises(PlatformError) as caught:
        sockets.provision(None, None)
    assert caught.value.code == "sim.no-provision"
