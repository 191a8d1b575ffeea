# SPDX-License-Identifier: Apache-2.0
"""Tokens into a tree: what is written where, before anybody asks whether it makes sense."""

from typing import Final

from kubenclave.dcap.azurepolicy.claims import is_integer
from kubenclave.dcap.azurepolicy.lexer import Token, tokens
from kubenclave.dcap.azurepolicy.places import refusal
from kubenclave.dcap.azurepolicy.tree import (
    FUNCTIONS,
    PROPERTIES,
    Access,
    Action,
    Call,
    Condition,
    Expression,
    Literal,
    Rule,
    Test,
    Tree,
)
from kubenclave.errors import FormatError

VERSIONS: Final = {"1.0": (1, 0), "1.1": (1, 1), "1.2": (1, 2)}
SECTIONS: Final = ("configurationrules", "authorizationrules", "issuancerules")
VERBS: Final = ("permit", "deny", "add", "issue", "issueproperty")
OPERATORS: Final = ("==", "!=", "<", "<=", ">", ">=")
_MEMBERS: Final = (*PROPERTIES, "claim")
MAX_RULES: Final = 256
MAX_CONDITIONS: Final = 16  # of a rule
MAX_TESTS: Final = 16  # of a condition
MAX_DEPTH: Final = 8  # of calls within calls


class Parser:
    """Recursive descent, as deep as ``MAX_DEPTH``. Keywords are read in whatever case, as Azure's own examples vary."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = tuple(tokens(text))
        self._index = 0
        self._rules = 0
        self._version = (1, 0)

    def tree(self) -> Tree:
        """Read the whole text. Raises FormatError (``azure-policy.syntax``, ``.version``, ``.limit``)."""
        version = self._version = self._read_version()
        found: dict[str, tuple[Rule, ...]] = {}
        while self._token.kind != "end":
            token, name = self._token, self._keyword(SECTIONS, "a section")
            if any(SECTIONS.index(name) <= SECTIONS.index(earlier) for earlier in found):
                raise refusal(
                    self._text, token.at, "a section out of order", found=name, hint=f"once each: {', '.join(SECTIONS)}"
                )
            if name == "configurationrules":
                self._index -= 1
                self._newer(name, (1, 1))
                self._index += 1
            found[name] = self._section()
        return Tree(version, *(found.get(name, ()) for name in SECTIONS))

    @property
    def _token(self) -> Token:
        return self._tokens[self._index]

    def _read_version(self) -> tuple[int, int]:
        self._keyword(("version",), "version")
        self._sign("=")
        token = self._token
        if token.kind != "number" or token.text not in VERSIONS:
            raise refusal(
                self._text,
                token.at,
                "not a version of the language",
                code="azure-policy.version",
                expected=", ".join(VERSIONS),
                found=token.shown,
            )
        self._index += 1
        self._sign(";")
        return VERSIONS[token.text]

    def _section(self) -> tuple[Rule, ...]:
        self._sign("{")
        rules = []
        while not self._found("}"):
            self._rules += 1
            self._limit(self._rules, MAX_RULES, "rules")
            rules.append(self._rule())
        self._sign("}")
        self._sign(";")
        return tuple(rules)

    def _rule(self) -> Rule:
        at = self._token.at
        conditions = []
        if not self._found("=>"):
            conditions.append(self._condition())
            while self._found("&&"):
                self._sign("&&")
                self._limit(len(conditions) + 1, MAX_CONDITIONS, "conditions in a rule")
                conditions.append(self._condition())
        self._sign("=>")
        action = self._action()
        self._sign(";")
        return Rule(tuple(conditions), action, at)

    def _condition(self) -> Condition:
        at, name = self._token.at, None
        if negated := self._found("!"):
            self._newer("! before a condition", (1, 2))
            self._sign("!")
        elif self._token.kind == "word":  # what is absent needs no name
            name = self._name()
            self._sign(":")
        self._sign("[")
        tests = [self._test()]
        while self._found(","):
            self._sign(",")
            self._limit(len(tests) + 1, MAX_TESTS, "tests in a condition")
            tests.append(self._test())
        self._sign("]")
        return Condition(name, negated, tuple(tests), at)

    def _test(self) -> Test:
        at, member = self._token.at, self._keyword(PROPERTIES, "a property")
        token = self._token
        if token.text not in OPERATORS or token.kind != "sign":
            hint = "conditions compare with two signs: ==" if self._found("=") else ""
            raise self._other(f"one of {' '.join(OPERATORS)}", hint)
        self._index += 1
        return Test(member, token.text, self._expression(0), at)

    def _action(self) -> Action:
        at, verb = self._token.at, self._keyword(VERBS, "an action")
        self._sign("(")
        members: dict[str, Expression | str] = {}
        while not self._found(")"):
            if members:
                self._sign(",")
            token, name = self._token, self._keyword(_MEMBERS, "a property or claim")
            if name in members:
                raise refusal(self._text, token.at, "given twice", found=name)
            if self._found("=="):
                raise self._other("=", "an action sets with one sign: =")
            self._sign("=")
            members[name] = self._name() if name == "claim" else self._expression(0)
        self._sign(")")
        return Action(verb, tuple(members.items()), at)

    def _expression(self, depth: int) -> Expression:
        self._limit(depth, MAX_DEPTH, "calls within calls")
        token = self._token
        if token.kind in ("text", "number"):
            self._index += 1
            return Literal(token.text if token.kind == "text" else self._integer(token), token.at)
        if token.kind != "word":
            raise self._other("a text, an integer, true, false, name.value or a function")
        if token.text.lower() in ("true", "false"):
            self._index += 1
            return Literal(token.text.lower() == "true", token.at)
        if self._tokens[self._index + 1].text == "(":
            return self._call(depth)
        name = self._name()
        self._sign(".")
        return Access(name, self._keyword(PROPERTIES, "a property"), token.at)

    def _call(self, depth: int) -> Call:
        self._newer("a function", (1, 2))
        at, function = self._token.at, self._keyword(tuple(FUNCTIONS), "a function")
        self._sign("(")
        arguments: list[Expression] = []
        while not self._found(")"):
            if arguments:
                self._sign(",")
            arguments.append(self._expression(depth + 1))
        self._sign(")")
        if len(arguments) != FUNCTIONS[function]:
            raise refusal(
                self._text,
                at,
                f"{function} with the wrong number of arguments",
                expected=str(FUNCTIONS[function]),
                found=str(len(arguments)),
            )
        return Call(function, tuple(arguments), at)

    def _integer(self, token: Token) -> int:
        # 20 characters hold every 64-bit integer; longer ones are not even converted
        value = int(token.text) if "." not in token.text and len(token.text) <= 20 else None
        if value is None or not is_integer(value):
            raise refusal(self._text, token.at, "not a number of the language", expected="a signed 64-bit integer")
        return value

    def _name(self) -> str:
        if self._token.kind != "word":
            raise self._other("the name of a condition")
        self._index += 1
        return self._tokens[self._index - 1].text

    def _keyword(self, allowed: tuple[str, ...], what: str) -> str:
        token = self._token
        for word in allowed:
            if token.kind == "word" and token.text.lower() == word.lower():
                self._index += 1
                return word
        raise self._other(what if what in allowed else f"{what}: {', '.join(allowed)}")

    def _found(self, sign: str) -> bool:
        return self._token.kind == "sign" and self._token.text == sign

    def _sign(self, sign: str) -> None:
        if not self._found(sign):
            hint = "every rule and every section ends with ;" if sign == ";" else ""
            raise self._other(sign, hint)
        self._index += 1

    def _newer(self, what: str, since: tuple[int, int]) -> None:
        if self._version < since:
            major, minor = since
            raise refusal(
                self._text,
                self._token.at,
                f"{what} needs a later version of the language",
                code="azure-policy.version",
                expected=f"version= {major}.{minor}; on top",
            )

    def _limit(self, count: int, most: int, what: str) -> None:
        if count > most:
            raise refusal(
                self._text, self._token.at, f"too many {what}", code="azure-policy.limit", expected=f"{most} at most"
            )

    def _other(self, expected: str, hint: str = "") -> FormatError:
        token = self._token
        return refusal(
            self._text, token.at, "not what the grammar has here", expected=expected, found=token.shown, hint=hint
        )
