# SPDX-License-Identifier: Apache-2.0
"""Where the sockets of a SIMULATED platform are, and who gets there."""

import os

import pytest

from kubenclave.errors import PlatformError, UsageError
from kubenclave.local.state import MAX_SOCKET_PATH, StateDirectory, locate
from kubenclave.platform.simulated.places import cpu_socket, make_folders, provision_socket


def test_each_socket_has_a_folder_with_nothing_else_in_it(tmp_path):
    make_folders(tmp_path)
    assert cpu_socket(tmp_path) == tmp_path / "cpu/cpu.sock"
    assert provision_socket(tmp_path) == tmp_path / "provision/cpu/cpu.sock"
    for path in (cpu_socket(tmp_path), provision_socket(tmp_path)):
        assert list(path.parent.iterdir()) == []


def test_up_looks_for_them_in_the_same_places(tmp_path):
    state = StateDirectory(tmp_path)
    assert state.cpu_socket == cpu_socket(state.platform)
    assert state.provision_socket == provision_socket(state.platform)


def test_others_get_to_the_cpu_and_need_a_grant_for_the_provision_socket_whatever_the_umask(tmp_path):
    before = os.umask(0o077)
    try:
        make_folders(tmp_path)
        (tmp_path / "provision").chmod(0o777)
        make_folders(tmp_path)  # a later start repairs what somebody has opened
    finally:
        os.umask(before)
    modes = {name: (tmp_path / name).stat().st_mode & 0o777 for name in ("cpu", "provision", "provision/cpu")}
    assert modes == {"cpu": 0o755, "provision": 0o700, "provision/cpu": 0o755}


def test_a_later_start_keeps_the_folders_that_workloads_hold(tmp_path):
    make_folders(tmp_path)
    before = [path.parent.stat().st_ino for path in (cpu_socket(tmp_path), provision_socket(tmp_path))]
    make_folders(tmp_path)
    assert [path.parent.stat().st_ino for path in (cpu_socket(tmp_path), provision_socket(tmp_path))] == before


def test_something_else_in_the_place_of_a_folder_is_told(tmp_path):
    (tmp_path / "cpu").touch()
    with pytest.raises(PlatformError) as caught:
        make_folders(tmp_path)
    assert caught.value.code == "simstate.unusable"


def test_a_state_folder_that_is_accepted_leaves_room_for_each_socket():
    longest = "/" + "d" * 60
    state = locate(longest, {})
    for path in (state.cpu_socket, state.provision_socket):
        beside = path.with_name(f".{path.name}.abc")  # a socket is bound beside its place
        assert len(str(beside)) <= MAX_SOCKET_PATH
    with pytest.raises(UsageError):
        locate(longest + "d" * 2, {})
