# SPDX-License-Identifier: Apache-2.0
"""The user's home folder, also for services that are started without HOME."""

import os
import pwd
from collections.abc import Mapping
from pathlib import Path


def home(env: Mapping[str, str]) -> Path:
    """Return HOME, else what the user database says, else the root folder (for a user whom it does not know)."""
    if env.get("HOME"):
        return Path(env["HOME"])
    try:
        return Path(pwd.getpwuid(os.getuid()).pw_dir)
    except KeyError:
        return Path("/")
