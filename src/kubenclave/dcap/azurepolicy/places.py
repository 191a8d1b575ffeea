# SPDX-License-Identifier: Apache-2.0
"""Where in a text something stands, for people."""

from typing import Final

from kubenclave.errors import FormatError

_SHOWN: Final = 100  # characters of a line that are shown around the place


def place(text: str, at: int) -> tuple[int, int]:
    """Return line and column, both from 1, of the character at an offset."""
    return text.count("\n", 0, at) + 1, at - (text.rfind("\n", 0, at) + 1) + 1


def refusal(
    text: str,
    at: int,
    message: str,
    *,
    code: str = "azure-policy.syntax",
    expected: str | None = None,
    found: str | None = None,
    hint: str = "",
) -> FormatError:
    """Make the error that shows the place: the field names it, the hint ends with the line and a caret below."""
    line, column = place(text, at)
    begin = at - column + 1
    end = text.find("\n", at)
    whole = text[begin : end if end >= 0 else len(text)]
    cut = max(0, column - 1 - _SHOWN // 2)
    shown = "".join(char if char.isprintable() else " " for char in whole[cut : cut + _SHOWN])
    caret = f"{shown.rstrip()}\n{' ' * (column - 1 - cut)}^"
    return FormatError(
        message,
        code=code,
        field=f"line {line}, column {column}",
        expected=expected,
        found=found,
        hint=f"{hint}\n{caret}" if hint else caret,
    )
