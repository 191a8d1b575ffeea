# SPDX-License-Identifier: Apache-2.0
"""Other names of a path, from a table of mounts; symbolic links stand for the mounts that it tells of."""

from pathlib import Path

from kubenclave.local.aliases import aliases


def table(folder: Path, *mounts: tuple[str, str | Path, str | Path]) -> Path:
    """Write a table of (device, root, place)."""
    lines = [
        f"{number} 1 {device} {root} {str(place).replace(' ', chr(92) + '040')} rw shared:1 - ext4 /dev/x rw\n"
        for number, (device, root, place) in enumerate(mounts)
    ]
    (folder / "mountinfo").write_text("".join(lines))
    return folder / "mountinfo"


def made(folder: Path) -> tuple[Path, Path]:
    """Return a folder and its state folder, without links in them."""
    folder = folder.resolve()
    (folder / "state/part").mkdir(parents=True)
    return folder, folder / "state"


def test_a_folder_mounted_once_has_no_other_name(tmp_path):
    folder, state = made(tmp_path)
    assert aliases(str(state), table(folder, ("8:1", "/", "/"), ("0:5", "/", "/proc"))) == []


def test_bind_mounts_of_it_around_it_and_inside_it_are_other_names(tmp_path):
    folder, state = made(tmp_path)
    (folder / "again").symlink_to(state)
    (folder / "whole tree").symlink_to(folder)
    (folder / "part").symlink_to(state / "part")
    mounts = table(
        folder,
        ("8:1", "/", "/"),
        ("8:1", state, folder / "again"),
        ("8:1", folder, folder / "whole tree"),
        ("8:1", state / "part", folder / "part"),
    )
    found = [str(folder / name) for name in ("again", "whole tree/state", "part")]
    assert aliases(str(state), mounts) == found
    assert aliases(str(folder / "again"), mounts) == found  # by whichever name it is asked for


def test_the_root_of_another_file_system_is_found_where_that_is_mounted_too(tmp_path):
    folder, state = made(tmp_path)
    (folder / "copy").symlink_to(state)
    mounts = table(folder, ("8:1", "/", "/"), ("8:2", "/sub", folder), ("8:2", "/sub/state", folder / "copy"))
    assert aliases(str(state), mounts) == [str(folder / "copy")]


def test_the_same_path_in_another_file_system_is_something_else(tmp_path):
    folder, state = made(tmp_path)
    (folder / "copy").symlink_to(state)
    assert aliases(str(state), table(folder, ("8:1", "/", "/"), ("8:2", state, folder / "copy"))) == []


def test_a_mount_that_lies_below_another_one_leads_nowhere(tmp_path):
    folder, state = made(tmp_path)
    (folder / "copy").mkdir()
    mounts = table(folder, ("8:1", "/", "/"), ("8:1", state, folder / "copy"), ("8:1", state, folder / "gone"))
    assert aliases(str(state), mounts) == []


def test_names_inside_the_folder_itself_are_hidden_with_it(tmp_path):
    folder, state = made(tmp_path)
    (state / "loop").symlink_to(folder)
    assert aliases(str(state), table(folder, ("8:1", "/", "/"), ("8:1", folder, state / "loop"))) == []


def test_without_a_table_there_are_no_other_names(tmp_path):
    assert aliases(str(tmp_path), tmp_path / "absent") == []
    assert aliases(str(tmp_path), table(tmp_path, ("0:5", "/", "/proc"))) == []
