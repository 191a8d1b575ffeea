# SPDX-License-Identifier: Apache-2.0
"""Coverage-guided fuzzing of one target, where atheris is installed: ``python -m tests.fuzz.atheris_runner quote``.

What follows the name goes to libFuzzer, for example ``-max_total_time=600`` or a folder for its corpus. The inputs of
``seeds.py`` are given to it in a folder of their own. It ends with a traceback at the first bug.
"""

import sys
import tempfile
from pathlib import Path


def main(arguments: list[str]) -> None:
    """Run until a bug is found or libFuzzer's limits are reached."""
    try:
        import atheris
    except ImportError:
        sys.exit("atheris is not installed; 'make fuzz' runs the same targets without it")
    with atheris.instrument_imports(include=["kubenclave"]):
        from tests.fuzz.targets import TARGETS
    if not arguments or arguments[0] not in TARGETS:
        sys.exit(f"usage: python -m tests.fuzz.atheris_runner TARGET [libFuzzer options]\ntargets: {' '.join(TARGETS)}")
    name, *options = arguments
    with tempfile.TemporaryDirectory() as folder:
        for number, seed in enumerate(TARGETS[name].seeds):
            (Path(folder) / str(number)).write_bytes(seed)
        atheris.Setup([sys.argv[0], *options, folder], TARGETS[name].check)
        atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1:])
