# SPDX-License-Identifier: Apache-2.0
"""The folder of the one-machine mode: where it is, that it is ours, and that there is one owner."""

import os
from pathlib import Path

import pytest

from kubenclave.errors import KubenclaveError, PlatformError, UsageError
from kubenclave.local.state import StateDirectory, locate, owned


@pytest.mark.parametrize(
    ("wanted", "env", "expected"),
    [
        pytest.param("/x/y", {"HOME": "/h"}, "/x/y", id="as-asked"),
        pytest.param(None, {"HOME": "/h", "XDG_STATE_HOME": "/xdg"}, "/xdg/kubenclave", id="xdg"),
        pytest.param(None, {"HOME": "/h"}, "/h/.local/state/kubenclave", id="home"),
        pytest.param(None, {}, "/root/.local/state/kubenclave", id="nothing"),
    ],
)
def test_it_lies_where_the_user_keeps_state(wanted, env, expected):
    assert locate(wanted, env).path == Path(expected)


def test_a_relative_folder_is_meant_from_here():
    assert locate("s", {}).path == Path.cwd() / "s"


def test_names_too_long_for_a_socket_are_refused_before_anything_is_made():
    with pytest.raises(UsageError) as caught:
        locate("/" + "x" * 80, {})
    assert caught.value.code == "state.path-too-long"
    assert caught.value.expected == "at most 61 bytes"


def test_owning_makes_it_for_the_owner_alone_and_keeps_others_out(short_tmp):
    state = StateDirectory(short_tmp / "a" / "s")
    with owned(state):
        assert state.path.stat().st_mode & 0o777 == 0o700
        with pytest.raises(UsageError) as caught, owned(state):
            pytest.fail("owned twice")
        assert caught.value.code == "state.in-use"
    with owned(state):  # and again, once it is free
        assert state.aesm_directory.is_dir()


def test_a_folder_that_others_can_write_to_is_refused(short_tmp):
    short_tmp.chmod(0o777)
    with pytest.raises(UsageError) as caught, owned(StateDirectory(short_tmp)):
        pytest.fail("owned")
    assert caught.value.code == "state.not-ours"
    assert "mode 0777" in str(caught.value)
    assert list(short_tmp.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give a folder away")
def test_somebody_elses_folder_is_refused(short_tmp):
    os.chown(short_tmp, 1234, -1)
    with pytest.raises(UsageError, match="found owner 1234"), owned(StateDirectory(short_tmp)):
        pytest.fail("owned")


def test_a_folder_that_cannot_be_made_is_a_platform_error(short_tmp):
    (short_tmp / "file").write_text("")
    with pytest.raises(PlatformError) as caught, owned(StateDirectory(short_tmp / "file" / "s")):
        pytest.fail("owned")
    assert isinstance(caught.value, KubenclaveError)
    assert caught.value.code == "state.unusable"
