# SPDX-License-Identifier: Apache-2.0
"""Which files hold a key for the service alone."""

import os
import stat

import pytest

from kubenclave.services.private_files import is_private

US = 65532


@pytest.mark.parametrize(
    ("owner", "mode", "private"),
    [
        (US, 0o600, True),
        (US, 0o400, True),
        (US, 0o640, False),
        (US, 0o440, False),
        (US, 0o604, False),
        (0, 0o600, True),
        (0, 0o440, True),  # a Secret in a pod with fsGroup
        (0, 0o640, True),
        (0, 0o460, False),
        (0, 0o650, False),
        (0, 0o444, False),
        (0, 0o642, False),
        (7, 0o400, False),
    ],
)
def test_a_file_is_private_by_owner_and_mode(monkeypatch, owner, mode, private):
    monkeypatch.setattr(os, "geteuid", lambda: US)
    status = os.stat_result((stat.S_IFREG | mode, 0, 0, 1, owner, US, 0, 0, 0, 0))
    assert is_private(status) is private


@pytest.mark.parametrize("kind", [stat.S_IFDIR, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFLNK])
def test_only_files_are(kind):
    assert not is_private(os.stat_result((kind | 0o600, 0, 0, 1, os.geteuid(), 0, 0, 0, 0, 0)))
