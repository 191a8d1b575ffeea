# SPDX-License-Identifier: Apache-2.0
"""The sandbox: what was granted works at its usual place, what was not is out of reach, as root and as a user."""

import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kubenclave.errors import PlatformError, UsageError
from kubenclave.local import devfs, sandbox
from kubenclave.local.mounts import Bind, View
from kubenclave.local.sandbox import Command, Grants

# Test runners have threads of their own; the command that starts processes has none.
pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")

# Runs inside: tries what it is given and prints the answers as JSON.
PROBE = """
import json, os, socket, sys
def connects(path):
    with socket.socket(socket.AF_UNIX) as s:
        try:
            s.connect(path)
        except OSError:
            return False
        return True
def writable(path):
    try:
        open(os.path.join(path, "probe"), "w").close()
    except OSError:
        return False
    return True
tasks = json.loads(sys.argv[1])
answers = {
    "connects": [connects(path) for path in tasks["connect"]],
    "writable": [writable(path) for path in tasks["write"]],
    "listed": [sorted(os.listdir(path)) if os.access(path, os.R_OK | os.X_OK) else [] for path in tasks["list"]],
    "uid": os.getuid(), "gid": os.getgid(), "cwd": os.getcwd(), "env": dict(os.environ),
    "descriptors": len(os.listdir("/proc/self/fd")) - 1,
    "shell": [os.system(line + " 2>/dev/null") for line in tasks["shell"]],
}
with open(tasks["out"], "w") as file:
    json.dump(answers, file)
"""

# Starts the probe through the sandbox; run by Python as root, or as somebody else in a user namespace.
DRIVER = """
import json, os, sys
from kubenclave.local import devfs, sandbox
from kubenclave.local.mounts import Bind
tasks = json.loads(sys.argv[1])
grants = sandbox.Grants(tuple(Bind(*one) for one in tasks["binds"]), {})
view = sandbox.view(grants, tasks["state"])
pid = sandbox.start(sandbox.Command((sys.executable, "-I", "-c", tasks["probe"], sys.argv[1]), {"A": "b"}), view)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""

AS_ROOT = pytest.param([], id="as we are")
AS_USER = pytest.param(["unshare", "--user", "--map-user=1000", "--map-group=1000"], id="as a user")
ALLOWED = subprocess.run(["unshare", "--user", "--mount", "true"], check=False, capture_output=True).returncode == 0

namespaces = pytest.mark.skipif(not ALLOWED, reason="this kernel does not let us have user namespaces")


@pytest.fixture
def state(short_tmp: Path) -> Iterator[Path]:
    """A state folder with the sockets of one machine, somebody listening on each."""
    folder = short_tmp / "state"
    listeners = []
    for name in ("aesmd/aesm.socket", "sim/cpu/cpu.sock", "sim/provision/cpu/cpu.sock", "control.sock"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(path))
        listener.listen()
        listeners.append(listener)
    yield folder
    for listener in listeners:
        listener.close()


def probe(prefix: list[str], state: Path, binds: list[tuple[str, str]], **tasks: Any) -> dict[str, Any]:
    out = state.parent / "answers.json"
    out.touch()  # where the folder is covered by a new one, only what was there is the machine's own
    everything = {
        "connect": [],
        "write": [],
        "list": [],
        "shell": [],
        **tasks,
        "binds": binds,
        "state": str(state),
        "probe": PROBE,
        "out": str(out),
    }
    subprocess.run([*prefix, sys.executable, "-c", DRIVER, json.dumps(everything)], check=True, timeout=30)
    answers: dict[str, Any] = json.loads(out.read_text())
    return answers


@namespaces
@pytest.mark.parametrize("prefix", [AS_ROOT, AS_USER])
def test_granted_sockets_are_at_their_usual_places_and_others_out_of_reach(prefix, state):
    before = {entry.name for entry in Path("/run").iterdir()}
    names = {path.split("/")[2] for path in sandbox.NAME_SERVICES if Path(path).is_dir()}
    aesm = state / "aesmd/aesm.socket"
    answers = probe(
        prefix,
        state,
        [("/var/run/aesmd", str(state / "aesmd")), ("/run/kubenclave/cpu", str(state / "sim/cpu"))],
        connect=[
            "/var/run/aesmd/aesm.socket",
            "/run/aesmd/aesm.socket",
            "/run/kubenclave/cpu/cpu.sock",
            str(aesm),
            str(state / "control.sock"),
            f"/proc/{os.getpid()}/root{state}/control.sock",
        ],
        write=["/var/run/aesmd", str(state)],
        list=["/run", str(state)],
    )
    assert answers["connects"] == [True, True, True, False, False, False]
    assert answers["writable"] == [False, False]
    assert set(answers["listed"][0]) == {"aesmd", "kubenclave"} | names  # no service of the machine's
    assert answers["listed"][1] == []
    assert {entry.name for entry in Path("/run").iterdir()} == before


@namespaces
@pytest.mark.parametrize("prefix", [AS_ROOT, AS_USER])
def test_without_a_grant_there_is_nothing(prefix, state):
    answers = probe(prefix, state, [], connect=[str(state / "aesmd/aesm.socket"), str(state / "sim/cpu/cpu.sock")])
    assert answers["connects"] == [False, False]


@namespaces
@pytest.mark.parametrize("prefix", [AS_ROOT, AS_USER])
def test_it_keeps_its_ids_and_gets_no_more_than_its_environment_and_descriptors(prefix, state):
    answers = probe(prefix, state, [])
    assert (answers["uid"], answers["gid"]) == ((1000, 1000) if prefix else (os.getuid(), os.getgid()))
    assert set(answers["env"]) <= {"A", "LC_CTYPE"}  # Python adds the second itself
    assert answers["descriptors"] == 3
    assert answers["cwd"] == "/"


@namespaces
@pytest.mark.parametrize("prefix", [AS_ROOT, AS_USER])
def test_the_masks_cannot_be_taken_off_from_inside(prefix, state):
    answers = probe(
        prefix,
        state,
        [("/var/run/aesmd", str(state / "aesmd"))],
        shell=[
            f"umount {state}",
            "umount /run/aesmd",
            "umount /run",
            "mount -o remount,bind,rw /run/aesmd",
            f"unshare --user --map-root-user --mount umount {state}",
        ],
    )
    assert all(answers["shell"])


@namespaces
@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("capsh"), reason="needs root and capsh")
def test_root_of_a_container_gets_the_sandbox_of_a_user(state):
    prefix = ["capsh", "--drop=cap_sys_admin", "--", "-c", 'exec "$@"', "sh"]
    answers = probe(
        prefix,
        state,
        [("/var/run/aesmd", str(state / "aesmd"))],
        connect=["/var/run/aesmd/aesm.socket", str(state / "control.sock")],
    )
    assert answers["connects"] == [True, False]


@namespaces
def test_files_and_folders_can_be_granted_where_nothing_was(state):
    (state / "file").write_text("content")
    binds = [
        ("/run/new/deep/file", str(state / "file")),
        ("/run/new/folder", str(state / "sim/cpu")),
        ("/run/new/deep/other", str(state / "file")),
    ]
    answers = probe([], state, binds, list=["/run/new", "/run/new/deep", "/run/new/folder"])
    assert answers["listed"] == [["deep", "folder"], ["file", "other"], ["cpu.sock"]]


@namespaces
@pytest.mark.parametrize("prefix", [AS_ROOT, AS_USER])
def test_dev_holds_what_every_container_has_and_the_devices_granted_under_each_name(prefix, state):
    names = ("/dev/sgx_enclave", "/dev/sgx/enclave")
    answers = probe(
        prefix,
        state,
        [(name, "/dev/zero") for name in names],
        list=["/dev", "/dev/sgx"],
        shell=[
            *(f"test -c {name} && head -c 4 {name} | od -An -tx1 | grep -q '00 00 00 00'" for name in names),
            "echo x > /dev/null && head -c 1 /dev/urandom > /dev/null && touch /dev/shm/kc-$$ && rm /dev/shm/kc-$$",
            "echo x | cat /dev/stdin > /dev/stderr",
            f"{sys.executable} -c 'import os; os.ttyname(os.openpty()[1])'",
        ],
    )
    assert answers["shell"] == [0, 0, 0, 0, 0]
    standard = {*devfs.DEVICES, *devfs.LINKS, "pts", *(name for name in devfs.FOLDERS if Path("/dev", name).is_dir())}
    assert set(answers["listed"][0]) == standard | {"sgx", "sgx_enclave"}
    assert answers["listed"][1] == ["enclave"]


@namespaces
@pytest.mark.parametrize("prefix", [AS_ROOT, AS_USER])
def test_the_state_stays_hidden_when_the_folder_around_it_is_made_anew(prefix, state):
    answers = probe(
        prefix,
        state,
        [(str(state.parent / "new/aesmd"), str(state / "aesmd"))],
        connect=[str(state.parent / "new/aesmd/aesm.socket"), str(state / "aesmd/aesm.socket")],
        list=[str(state)],
        shell=[f"umount {state}", f"umount {state.parent}", f"mount --bind {state.parent} /mnt && umount /mnt/state"],
    )
    assert answers["connects"] == [True, False]
    assert answers["listed"] == [[]]
    assert all(answers["shell"])


@namespaces
def test_the_state_is_out_of_reach_under_every_name_that_mounts_give_it(state):
    names = [state.parent / name for name in ("again", "whole tree", "part")]
    for name in names:
        name.mkdir()
    again, whole, part = (shlex.quote(str(name)) for name in names)
    mount = f"mount --bind {state} {again} && mount --bind {state.parent} {whole} && mount --bind {state}/sim {part}"
    prefix = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", f'{mount} && exec "$@"', "sh"]
    sockets = [
        str(names[0] / "control.sock"),
        str(names[1] / "state/control.sock"),
        str(names[2] / "provision/cpu/cpu.sock"),
    ]
    answers = probe(prefix, state, [], connect=[str(state / "control.sock"), *sockets], list=[str(names[1])])
    assert answers["connects"] == [False] * 4
    assert "answers.json" in answers["listed"][0]  # nothing else of the folder around it is hidden


@namespaces
@pytest.mark.parametrize(
    ("target", "reason"), [("/nowhere/near", "cannot make a new folder"), ("/etc/passwd", "something else is in place")]
)
def test_places_that_cannot_be_made_are_named(state, target, reason):
    grants = Grants((Bind(target, str(state)),))
    with pytest.raises(PlatformError, match=reason) as caught:
        sandbox.start(Command(("true",), {}), sandbox.view(grants, str(state / "sim")))
    assert caught.value.code == "sandbox.forbidden"


def test_a_kernel_without_namespaces_is_told_from_a_missing_program(state):
    script = f"""
import sys
from kubenclave.errors import PlatformError
from kubenclave.local import devfs, sandbox
try:
    sandbox.start(sandbox.Command(("true",), {{}}), sandbox.view(sandbox.Grants(), {str(state)!r}))
except PlatformError as error:
    sys.exit(0 if error.code == "sandbox.forbidden" and error.hint else 1)
sys.exit(2)
"""
    # a user namespace in which no further one may be made
    limit = 'echo 0 > /proc/sys/user/max_user_namespaces && exec "$@"'
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "sh", "-c", limit, "sh", sys.executable, "-c", script],
        check=False,
        timeout=30,
        capture_output=True,
    )
    if b"max_user_namespaces" in done.stderr or b"unshare" in done.stderr:
        pytest.skip("cannot make a namespace without namespaces here")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (Command(("no-such-program",), {}), "run.command"),
        (Command(("/etc/passwd",), {}), "run.command"),
        (Command(("true",), {}, cwd="/no/such/folder"), "run.working-dir"),
        (Command(("true",), {}, cwd="/a\0b"), "run.working-dir"),
        (Command(("true", "a\0b"), {}), "run.command"),
        (Command(("true",), {"A": "\ud800"}), "run.command"),
    ],
    ids=["program", "no-program", "folder", "zero-in-folder", "zero-in-word", "half-character"],
)
def test_what_cannot_be_started_is_a_usage_error(command, code):
    with pytest.raises(UsageError) as caught:
        sandbox.start(command, None)
    assert caught.value.code == code


def test_without_a_view_the_process_sees_what_we_see_and_dies_with_us(short_tmp):
    out = short_tmp / "pid"
    script = f"""
import os
from kubenclave.local import devfs, sandbox
command = sandbox.Command(("sh", "-c", "echo $$ > {out}.new; mv {out}.new {out}; exec sleep 60"), {{}})
sandbox.start(command, None)
while not os.path.exists({str(out)!r}): pass
os.kill(os.getpid(), 9)
"""
    done = subprocess.run([sys.executable, "-c", script], check=False, timeout=30)
    assert done.returncode == -signal.SIGKILL
    pid = int(out.read_text())
    for _ in range(500):
        if not Path(f"/proc/{pid}").exists() or Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z":
            return
        signal.sigtimedwait([], 0.01)
    os.kill(pid, signal.SIGKILL)
    pytest.fail("the process has outlived its parent")


def test_output_goes_to_stderr_when_stdout_is_for_the_result(capfd):
    pid = sandbox.start(Command(("echo", "hi"), {"PATH": os.environ["PATH"]}, output_to_stderr=True), None)
    os.waitpid(pid, 0)
    assert capfd.readouterr() == ("", "hi\n")


def test_the_view_hides_every_sgx_device_and_socket_folder_that_was_not_granted(tmp_path):
    for name in ("dev/sgx_enclave", "dev/sgx_provision", "dev/isgx"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "dev/sgx").mkdir()
    (tmp_path / "dev/sgx/enclave").symlink_to("../sgx_enclave")
    (tmp_path / "dev/sgx/provision").symlink_to("../sgx_provision")
    (tmp_path / "var/run/aesmd").mkdir(parents=True)
    enclave = str(tmp_path / "dev/sgx_enclave")
    grants = Grants((Bind(enclave, enclave, read_only=False), Bind(str(tmp_path / "dev/sgx/enclave"), enclave)))
    view = sandbox.view(grants, "/state", tmp_path)
    assert view.binds == grants.binds  # a new /dev takes the place of the one they are in
    assert view.dev == str(tmp_path / "dev")
    hidden = [path.removeprefix(str(tmp_path)) for path in view.hidden]
    assert sorted(hidden) == ["/dev/isgx", "/dev/sgx_provision", "/state", "/var/run/aesmd"]


def test_a_granted_place_is_not_hidden(tmp_path):
    folder = tmp_path / "var/run/aesmd"
    folder.mkdir(parents=True)
    bind = Bind(str(folder), str(tmp_path))
    assert sandbox.view(Grants((bind,)), "/state", tmp_path) == View((bind,), ("/state",))


def test_of_a_folder_in_which_something_is_granted_the_rest_is_hidden(tmp_path):
    folder = tmp_path / "run/kubenclave"
    (folder / "cpu").mkdir(parents=True)
    hidden = (str(folder), "/state", str(tmp_path / "run"))
    elsewhere = Bind(str(folder / "cpu"), "/state/sim/cpu")
    assert sandbox.view(Grants((elsewhere,)), "/state", tmp_path) == View((elsewhere,), hidden)
    own = Bind(str(folder / "cpu"), str(folder / "cpu"))  # has to be put back
    assert sandbox.view(Grants((own,)), "/state", tmp_path) == View((own,), hidden)


def test_names_can_still_be_looked_up(tmp_path):
    resolver = tmp_path / "run/systemd/resolve"
    resolver.mkdir(parents=True)
    view = sandbox.view(Grants(), "/state", tmp_path)
    assert view == View((Bind(str(resolver), str(resolver)),), ("/state", str(tmp_path / "run")))


def test_without_namespaces_granted_variables_name_the_machines_own_paths():
    grants = Grants(
        (Bind("/run/kubenclave/cpu", "/state/sim/cpu"),),
        {"S": "/run/kubenclave/cpu/cpu.sock", "F": "/run/kubenclave/cpu", "O": "x", "P": "/run/kubenclave/cpus"},
    )
    assert sandbox.translated(grants) == {
        "S": "/state/sim/cpu/cpu.sock",
        "F": "/state/sim/cpu",
        "O": "x",
        "P": "/run/kubenclave/cpus",
    }
    aesm = Grants((Bind("/var/run/aesmd", "/state/aesmd"),))
    assert sandbox.translated(aesm) == {"KUBENCLAVE_AESM_SOCKET": "/state/aesmd/aesm.socket"}


def test_the_environment_of_a_process_says_nothing_about_us():
    kept = sandbox.base_environment({"HOME": "/h", "SECRET": "s", "KUBENCLAVE_LOG_LEVEL": "debug"})
    assert kept["HOME"] == "/h"
    assert kept["PATH"].startswith("/usr/local/sbin")
    assert set(kept) == {"HOME", "PATH"}
