# SPDX-License-Identifier: Apache-2.0
"""Text into tokens."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from kubenclave.dcap.azurepolicy.places import refusal

MAX_SIZE: Final = 64 << 10  # bytes of UTF-8
_TOKEN: Final = re.compile(
    r"""(?P<space>\s+|//[^\n]*|/\*(?:[^*]|\*(?!/))*\*/)
    |(?P<text>"(?:[^"\\\n]|\\["\\])*")
    |(?P<number>-?[0-9]+(?:\.[0-9]+)?)
    |(?P<word>[A-Za-z_][A-Za-z0-9_]*)
    |(?P<sign>=>|==|!=|<=|>=|&&|[=<>!\[\](){},;:.])""",
    re.VERBOSE,
)
_ESCAPE: Final = re.compile(r"\\(.)")
_CURLY: Final = "\u201c\u201d\u201e\u2018\u2019"


@dataclass(frozen=True, slots=True)
class Token:
    """``kind``: text, number, word, sign or end; ``text``: as written, of a text what it stands for."""

    kind: str
    text: str
    at: int

    @property
    def shown(self) -> str:
        """The token in an error message."""
        if self.kind == "end":
            return "the end of the text"
        return f'"{self.text[:40]}"' if self.kind == "text" else self.text[:40]


def tokens(text: str) -> Iterator[Token]:
    """Yield the tokens, an ``end`` last. Raises FormatError (``azure-policy.syntax``)."""
    at = 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise _unreadable(text, at)
        kind, found = match.lastgroup or "", match.group()
        if kind == "text":
            found = _ESCAPE.sub(r"\1", found[1:-1])
        if kind != "space":
            yield Token(kind, found, at)
        at = match.end()
    yield Token("end", "", at)


def _unreadable(text: str, at: int) -> Exception:
    if text[at] == '"':
        return _bad_text(text, at)
    if text[at] in _CURLY:
        return refusal(text, at, "a typographic quotation mark", expected='"', hint='texts stand in straight quotes: "')
    if text.startswith("/*", at):
        return refusal(text, at, "a comment without an end", expected="*/")
    return refusal(text, at, "not a sign of the language", found=repr(text[at]))


def _bad_text(text: str, at: int) -> Exception:
    """Say why a text that begins here does not end: an escape that there is not, or no closing quote."""
    end = at + 1
    while end < len(text) and text[end] not in '"\n':
        if text[end] == "\\" and text[end + 1 : end + 2] not in ('"', "\\"):
            hint = "a backslash goes before a quote or a backslash only: write two for one"
            return refusal(text, end, "an escape that the language lacks", expected='\\" or \\\\', hint=hint)
        end += 2 if text[end] == "\\" else 1
    return refusal(text, at, "a text without an end on its line", expected='"')
