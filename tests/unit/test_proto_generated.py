# SPDX-License-Identifier: Apache-2.0
"""What is checked in under _proto is what its .proto files give."""

import subprocess
import sys
from pathlib import Path

TOOL = Path(__file__).parents[2] / "tools" / "generate_proto.py"


def test_generated_modules_are_up_to_date() -> None:
    result = subprocess.run([sys.executable, TOOL, "--check"], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")
