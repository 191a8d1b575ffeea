# SPDX-License-Identifier: Apache-2.0
"""Views of the file system, made true in a namespace of a process that then looks at them."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ALLOWED = subprocess.run(["unshare", "--user", "--mount", "true"], check=False, capture_output=True).returncode == 0
pytestmark = pytest.mark.skipif(not ALLOWED, reason="this kernel does not let us have user namespaces")

DRIVER = """
import json, os, sys
from pathlib import Path
from kubenclave.local import mounts, sandbox
task = json.loads(sys.argv[1])
ids = os.geteuid(), os.getegid()
mounts.unshare(mounts.CLONE_NEWUSER | mounts.CLONE_NEWNS)
sandbox._map_own_id(*ids)
answer = {}
try:
    mounts.apply(mounts.View(tuple(mounts.Bind(*one) for one in task["binds"]), tuple(task["hidden"])))
    seen = {}
    for path in map(Path, task["look"]):
        if path.is_symlink():
            seen[str(path)] = "-> " + str(path.readlink())
        elif path.is_dir():
            seen[str(path)] = sorted(os.listdir(path)) if os.access(path, os.R_OK) else "closed"
        else:
            seen[str(path)] = path.read_text() if path.exists() else None
    answer["seen"] = seen
    for path in map(Path, task["write"]):
        try:
            path.write_text("changed")
        except OSError as error:
            answer.setdefault("refused", []).append(error.errno)
except OSError as error:
    answer["error"] = [error.errno, error.filename, error.strerror]
print(json.dumps(answer))
"""


def view(binds=(), hidden=(), look=(), write=()) -> dict[str, Any]:
    task = {
        "binds": [[str(part) if isinstance(part, Path) else part for part in one] for one in binds],
        "hidden": list(map(str, hidden)),
        "look": list(map(str, look)),
        "write": list(map(str, write)),
    }
    words = [sys.executable, "-c", DRIVER, json.dumps(task)]
    done = subprocess.run(words, check=True, capture_output=True, text=True, timeout=30)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a file, a folder, a symlink and what is to be granted."""
    place = tmp_path / "place"
    (place / "sub").mkdir(parents=True)
    (place / "sub/inner").write_text("inner")
    (place / "file").write_text("file")
    (place / "link").symlink_to("sub/inner")
    (tmp_path / "state/granted").mkdir(parents=True)
    (tmp_path / "state/granted/one").write_text("one")
    return tmp_path


def test_a_new_name_leaves_the_rest_of_its_folder_as_it_was(folder):
    place = folder / "place"
    answer = view(
        [(place / "new/deep", folder / "state/granted"), (place / "single", folder / "state/granted/one", False)],
        look=[place, place / "new/deep", place / "single", place / "file", place / "link", place / "sub"],
        write=[place / "new/deep/two", place / "new/deep/one", place / "single", place / "file"],
    )
    assert answer.get("seen") == {
        str(place): ["file", "link", "new", "single", "sub"],
        str(place / "new/deep"): ["one"],
        str(place / "single"): "one",
        str(place / "file"): "file",
        str(place / "link"): "-> sub/inner",
        str(place / "sub"): ["inner"],
    }
    assert answer["refused"] == [30, 30]  # EROFS: what is read-only; the other two are the machine's own
    assert (folder / "state/granted/one").read_text() == "changed"
    assert (place / "file").read_text() == "changed"
    assert sorted(path.name for path in place.iterdir()) == ["file", "link", "sub"]


def test_what_is_in_place_is_covered_and_what_is_hidden_is_empty(folder):
    place = folder / "place"
    answer = view(
        [(place / "sub", folder / "state/granted")],
        hidden=[place / "file", folder / "state", folder / "absent"],
        look=[place / "sub", place / "file", folder / "state"],
    )
    assert answer["seen"][str(place / "sub")] == ["one"]
    assert answer["seen"][str(place / "file")] == ""
    assert answer["seen"][str(folder / "state")] in ([], "closed")


def test_a_place_inside_of_what_is_hidden_is_all_that_is_there(folder):
    place = folder / "place"
    answer = view(
        [(place / "sub/new", folder / "state/granted")], hidden=[place], look=[place, place / "sub", place / "sub/new"]
    )
    assert answer["seen"] == {str(place): ["sub"], str(place / "sub"): ["new"], str(place / "sub/new"): ["one"]}


@pytest.mark.parametrize(
    ("target", "source", "number"),
    [
        pytest.param("place/file", "state/granted", 20, id="folder-over-file"),
        pytest.param("place/sub", "state/granted/one", 21, id="file-over-folder"),
        pytest.param("place/x", "absent", 2, id="no-source"),
    ],
)
def test_what_cannot_be_is_named(folder, target, source, number):
    error, name, _ = view([(folder / target, folder / source)])["error"]
    assert error == number
    assert name in (str(folder / target), str(folder / source))


def test_nothing_is_made_in_the_root_folder(folder):
    number, name, _ = view([(Path("/kubenclave-test-place/x"), folder / "state/granted")])["error"]
    assert (number, name) == (95, "/")
    assert not Path("/kubenclave-test-place").exists()


def test_namespaces_that_are_refused_are_an_os_error():
    from kubenclave.local import mounts

    with pytest.raises(OSError, match="unshare"):
        mounts.unshare(-1 & 0xFFFF_FFFF)
    with pytest.raises(OSError, match="prctl"):
        mounts.die_with_parent(9999)
