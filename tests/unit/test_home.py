# SPDX-License-Identifier: Apache-2.0
"""Where the user's own folders are."""

import os
import pwd
from pathlib import Path

from kubenclave.platform.home import home


def test_home_is_what_the_environment_says():
    assert home({"HOME": "/h"}) == Path("/h")


def test_without_a_variable_the_user_database_says(monkeypatch):
    monkeypatch.setattr(pwd, "getpwuid", lambda uid: pwd.struct_passwd(("u", "x", uid, 1, "", f"/home/{uid}", "")))
    assert home({}) == Path(f"/home/{os.getuid()}")


def test_a_user_whom_nobody_knows_has_no_home(monkeypatch):
    def unknown(uid):
        raise KeyError(uid)

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    assert home({"HOME": ""}) == Path("/")
