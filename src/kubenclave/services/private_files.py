# SPDX-License-Identifier: Apache-2.0
"""Files with a key in them: which are for the service alone."""

import os
import stat
from typing import Final

EXPECTED: Final = "a file of the service's user with mode 0600 or tighter, or of root with mode 0640 or tighter"


def is_private(status: os.stat_result) -> bool:
    """Tell whether nobody but the service and root can read or replace what a file says.

    The rule is that of PostgreSQL for the keys of its servers: what the service owns is for it alone; what root owns
    may be read by its group, for that is how a pod that is not root reads a mounted Secret (``fsGroup``).
    """
    if not stat.S_ISREG(status.st_mode):
        return False
    if status.st_uid == os.geteuid():
        return not status.st_mode & 0o077
    return status.st_uid == 0 and not status.st_mode & 0o037
