# SPDX-License-Identifier: Apache-2.0
"""Coverage-guided fuzzing of one target, where atheris is installed: ``python -m tests.fuzz.atheris_runner quote``.

What follows the name goes to libFuzzer, for example ``-max_total_time=600`` or a folder for its corpus. The inputs of
``seeds.py`` are given to it in a folder of their own. It ends with a traceback at the first bug.
"""

import sys
import tempfile
from pathlib import Path

from tests.fuzz.targets import TARGETS


def main(arguments: list[str]) -> None:
    """Run until a bug is found or libFuzzer's limits are reached."""
    if not arguments or arguments[0] not in TARGETS:
        sys.exit(f"usage: python -m tests.fuzz.atheris_runner TARGET [libFuzzer options]\ntargets: {' '.join(TARGETS)}")
    try:
        import atheris
    except ImportError:
        sys.exit("atheris is not installed; 'make fuzz' runs the same targets without it")
    name, *options = arguments
    target = TARGETS[name]
    with tempfile.TemporaryDirectory() as folder:
        for number, seed in enumerate(target.seeds):
            (Path(folder) / str(number)).write_bytes(seed)
        atheris.instrument_all()
        atheris.Setup([sys.argv[0], *options, folder], target.check)
        atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1:])
