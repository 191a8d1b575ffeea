# SPDX-License-Identifier: Apache-2.0
"""How much one evaluation may do, counted in steps and not in seconds: the same on every machine."""

from typing import Final

MAX_STEPS: Final = 200_000  # a fifth of a second at most


class EvaluationFailedError(Exception):
    """A rule cannot be evaluated over these claims; it never leaves the evaluation, which turns it into a refusal."""


class Work:
    """What is left of the steps of one evaluation."""

    def __init__(self, steps: int = MAX_STEPS) -> None:
        self._left = steps

    def spend(self, steps: int) -> None:
        """Take steps. Raises EvaluationFailedError when there are none left."""
        self._left -= steps
        if self._left < 0:
            raise EvaluationFailedError("the policy takes too much work over these claims")
