# SPDX-License-Identifier: Apache-2.0
"""A clock that tests set."""

import datetime as dt

START = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


class Clock:
    """What services ask for the time; it stands still until a test moves it."""

    def __init__(self, time: dt.datetime = START) -> None:
        self.time = time

    def __call__(self) -> dt.datetime:
        return self.time

    def advance(self, by: dt.timedelta = dt.timedelta(0), **span: float) -> None:
        """Move on by a span, or by ``hours=1`` and the like."""
        self.time += by + dt.timedelta(**span)
