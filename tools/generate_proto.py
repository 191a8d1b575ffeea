# SPDX-License-Identifier: Apache-2.0
"""Make the Python modules of src/kubenclave/_proto from its .proto files.

``python tools/generate_proto.py`` writes them; ``--check`` writes nothing and exits with 1 when what is
checked in is not what the .proto files give. The generators are those of the development environment.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

SOURCE = Path(__file__).resolve().parent.parent / "src"
PROTO = Path("kubenclave/_proto")
GENERATED = ("*_pb2.py", "*_pb2.pyi", "*_grpc.py")


def generate(out: Path) -> None:
    """Write the modules of all .proto files below ``out``, laid out as below ``src``."""
    names = sorted(path.relative_to(SOURCE).as_posix() for path in (SOURCE / PROTO).glob("*.proto"))
    services = [name for name in names if re.search(r"^service ", (SOURCE / name).read_text(), re.MULTILINE)]
    # protoc looks for the gRPC plugin on the path; it lies beside the interpreter that has grpclib
    search = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    protoc = [sys.executable, "-m", "grpc_tools.protoc", f"--proto_path={SOURCE}"]
    for options, files in (
        ([f"--python_out={out}", f"--pyi_out={out}"], names),
        ([f"--grpclib_python_out={out}"], services),
    ):
        if files:
            subprocess.run([*protoc, *options, *files], check=True, env={**os.environ, "PATH": search}, cwd=SOURCE)


def contents(base: Path) -> dict[str, bytes]:
    """Return the generated files below ``base`` by name."""
    return {path.name: path.read_bytes() for pattern in GENERATED for path in (base / PROTO).glob(pattern)}


def differences(fresh: dict[str, bytes], present: dict[str, bytes]) -> list[str]:
    """Return one line for each file that is missing, left over or different."""
    lines = [f"{name}: not checked in" for name in sorted(fresh.keys() - present.keys())]
    lines += [f"{name}: no .proto file gives it" for name in sorted(present.keys() - fresh.keys())]
    both = sorted(fresh.keys() & present.keys())
    return lines + [f"{name}: out of date" for name in both if fresh[name] != present[name]]


def main(arguments: list[str] | None = None) -> int:
    """Return 0 when the modules are (now) up to date."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="only compare with what is checked in")
    check = parser.parse_args(arguments).check
    if not check:
        generate(SOURCE)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder))
        wrong = differences(contents(Path(folder)), contents(SOURCE))
    for line in wrong:
        print(line, file=sys.stderr)
    if wrong:
        print("run `make proto` and check the result in", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
