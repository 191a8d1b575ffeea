# SPDX-License-Identifier: Apache-2.0
"""State of the SIMULATED platform: kept, changed, protected, and refused when it is not ours or not whole."""

import json
import os
import stat
from dataclasses import replace

import pytest

from kubenclave.errors import FormatError, PlatformError, UsageError
from kubenclave.platform.simulated.state import PlatformState, PlatformTcb, StateFile, owned

NAME = "platform.json"


def fixed(size: int) -> bytes:
    return bytes(range(size))


def test_a_new_platform_is_like_no_other():
    one, two = PlatformState.new(), PlatformState.new()
    assert one.seed != two.seed
    assert one.fuses != two.fuses
    assert one.tcb is PlatformTcb.UP_TO_DATE
    assert len({one.fuses.provisioning, one.fuses.seal, one.fuses.owner_epoch}) == 3


def test_a_platform_survives_a_restart(tmp_path):
    made = PlatformState.open(tmp_path / "a" / "b", (1 << 20,))
    assert made.epc_bytes == 1 << 20
    assert PlatformState.open(tmp_path / "a" / "b") == made
    assert PlatformState.load(tmp_path / "a" / "b") == made


def test_the_epc_can_be_changed_and_nothing_else_is(tmp_path):
    made = PlatformState.open(tmp_path)
    assert made.epc_bytes == 128 << 20
    changed = PlatformState.open(tmp_path, (8192, 4096))
    assert changed == replace(made, epc=(8192, 4096))
    assert changed.epc_bytes == 12288
    assert PlatformState.load(tmp_path) == changed


@pytest.mark.parametrize("tcb", list(PlatformTcb), ids=[each.value for each in PlatformTcb])
def test_every_state_of_the_tcb_is_kept(tmp_path, tcb):
    made = PlatformState.open(tmp_path)
    made.with_tcb(tcb).save(tmp_path)
    assert PlatformState.load(tmp_path) == replace(made, tcb=tcb)


def test_only_the_owner_can_read_the_secrets(tmp_path):
    previous = os.umask(0)
    try:
        PlatformState.open(tmp_path)
    finally:
        os.umask(previous)
    assert stat.S_IMODE((tmp_path / NAME).stat().st_mode) == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == [NAME]


def test_secrets_are_not_shown():
    state = PlatformState.new(random=fixed)
    assert repr(state) == "PlatformState(epc=(134217728,), tcb=<PlatformTcb.UP_TO_DATE: 'up-to-date'>)"


def test_the_file_byte_for_byte():
    fuse = "000102030405060708090a0b0c0d0e0f"
    assert json.loads(PlatformState.new(random=fixed).to_json()) == {
        "format": "kubenclave SIMULATED platform",
        "version": 2,
        "provisioning_fuse": fuse,
        "seal_fuse": fuse,
        "owner_epoch": fuse,
        "tcb": "up-to-date",
        "epc": [134217728],
        "seed": fuse + "101112131415161718191a1b1c1d1e1f",
    }


def test_a_platform_without_a_root_of_its_own(tmp_path):
    made = PlatformState.open(tmp_path / "sim", own_root=False)
    assert made.seed is None
    assert "seed" not in json.loads(made.to_json())
    assert PlatformState.open(tmp_path / "sim", own_root=False) == PlatformState.open(tmp_path / "sim") == made


def test_a_root_of_its_own_is_not_thrown_away(tmp_path):
    made = PlatformState.open(tmp_path)
    with pytest.raises(UsageError) as caught:
        PlatformState.open(tmp_path, own_root=False)
    assert caught.value.code == "simstate.own-root"
    assert PlatformState.load(tmp_path) == made


def one(**changes) -> bytes:
    """A file of version 1."""
    now = json.loads(PlatformState.new(random=fixed).to_json())
    del now["epc"]
    return json.dumps({**now, "version": 1, "epc_bytes": 134217728, **changes}).encode()


def test_files_of_version_1_are_read():
    assert PlatformState.from_json(one()) == PlatformState.new(random=fixed)


def document(**changes) -> bytes:
    return json.dumps({**json.loads(PlatformState.new(random=fixed).to_json()), **changes}).encode()


@pytest.mark.parametrize(
    ("text", "code"),
    [
        pytest.param(b"", "simstate.foreign", id="empty"),
        pytest.param(b"\xff\xfe", "simstate.foreign", id="no-text"),
        pytest.param(b"[]", "simstate.foreign", id="no-object"),
        pytest.param(b'{"version": 1}', "simstate.foreign", id="no-format"),
        pytest.param(document()[:-5], "simstate.foreign", id="cut-off"),
        pytest.param(document(format="something else"), "simstate.foreign", id="another-format"),
        pytest.param(document(version=3), "simstate.version", id="newer"),
        pytest.param(document(version=3, surprise=1), "simstate.version", id="newer-with-more-fields"),
        pytest.param(document(surprise=1), "simstate.damaged", id="unknown-field"),
        pytest.param(document(seed="00"), "simstate.damaged", id="short-seed"),
        pytest.param(document(seed="secret" * 11), "simstate.damaged", id="seed-no-hex"),
        pytest.param(document(seal_fuse="00" * 17), "simstate.damaged", id="long-fuse"),
        pytest.param(document(epc=[8192, 4095]), "simstate.damaged", id="less-than-a-page"),
        pytest.param(document(epc=["much"]), "simstate.damaged", id="epc-no-number"),
        pytest.param(document(epc=[]), "simstate.damaged", id="no-numa-node"),
        pytest.param(document(epc=[4096] * 65), "simstate.damaged", id="too-many-numa-nodes"),
        pytest.param(document(epc=[1 << 63]), "simstate.damaged", id="more-than-there-can-be"),
        pytest.param(one(epc_bytes=4095), "simstate.damaged", id="version-1-less-than-a-page"),
        pytest.param(one(seed=None), "simstate.damaged", id="version-1-without-seed"),
        pytest.param(document(tcb="splendid"), "simstate.damaged", id="unknown-tcb"),
    ],
)
def test_files_that_are_refused(tmp_path, text, code):
    (tmp_path / NAME).write_bytes(text)
    for attempt in (PlatformState.load, PlatformState.open):
        with pytest.raises(FormatError) as caught:
            attempt(tmp_path)
        assert caught.value.code == code
        assert str(tmp_path / NAME) in str(caught.value)
        assert caught.value.hint
        assert "secret" not in str(caught.value)
    assert (tmp_path / NAME).read_bytes() == text


def test_no_platform(tmp_path):
    with pytest.raises(UsageError) as caught:
        PlatformState.load(tmp_path)
    assert caught.value.code == "simstate.absent"


def test_a_file_that_cannot_be_read(tmp_path):
    (tmp_path / NAME).mkdir()
    with pytest.raises(PlatformError) as caught:
        PlatformState.load(tmp_path)
    assert caught.value.code == "simstate.unusable"


def test_a_file_that_cannot_be_written_leaves_nothing_behind(tmp_path):
    (tmp_path / NAME).mkdir()
    with pytest.raises(PlatformError) as caught:
        PlatformState.new().save(tmp_path)
    assert caught.value.code == "simstate.unusable"
    assert [entry.name for entry in tmp_path.iterdir()] == [NAME]


def test_a_place_that_is_no_directory(tmp_path):
    (tmp_path / "file").touch()
    for attempt in (PlatformState.open, lambda path: owned(path).__enter__()):
        with pytest.raises(PlatformError) as caught:
            attempt(tmp_path / "file" / "sim")
        assert caught.value.code == "simstate.unusable"


def test_two_simulators_cannot_own_one_platform(tmp_path):
    with owned(tmp_path / "sim"):
        with pytest.raises(UsageError) as caught, owned(tmp_path / "sim"):
            pytest.fail("owned twice")
        assert caught.value.code == "simstate.in-use"
    with owned(tmp_path / "sim"):
        pass


def test_a_running_platform_sees_changes_once_each(tmp_path):
    state = PlatformState.open(tmp_path)
    file = StateFile(tmp_path, state)
    assert file.current() is state
    state.with_tcb(PlatformTcb.REVOKED).save(tmp_path)
    assert file.current().tcb is PlatformTcb.REVOKED
    (tmp_path / NAME).write_bytes(b"damaged")
    with pytest.raises(FormatError):
        file.current()
    assert file.current().tcb is PlatformTcb.REVOKED
    (tmp_path / NAME).unlink()
    with pytest.raises(UsageError):
        file.current()
    assert file.current().tcb is PlatformTcb.REVOKED
