# SPDX-License-Identifier: Apache-2.0
"""What a policy text comes to: values that hold no text of their own but where they stood (offsets in characters)."""

from dataclasses import dataclass
from typing import Final

from kubenclave.dcap.azurepolicy.claims import Scalar

PROPERTIES: Final = ("type", "value", "valueType", "issuer")
FUNCTIONS: Final = {
    "JmesPath": 2,
    "JsonToClaimValue": 1,
    "IsSubsetOf": 2,
    "AppendString": 2,
    "NegateBool": 1,
    "ContainsOnlyValue": 2,
}  # name: number of arguments


@dataclass(frozen=True, slots=True)
class Literal:
    """A text, an integer or a boolean."""

    value: Scalar
    at: int


@dataclass(frozen=True, slots=True)
class Access:
    """``name.member``: that property of every claim that a condition found."""

    name: str
    member: str
    at: int


@dataclass(frozen=True, slots=True)
class Call:
    """A function of version 1.2."""

    function: str
    arguments: "tuple[Expression, ...]"
    at: int


Expression = Literal | Access | Call


@dataclass(frozen=True, slots=True)
class Test:
    """``member OP expression`` within a condition."""

    member: str
    operator: str
    operand: Expression
    at: int


@dataclass(frozen=True, slots=True)
class Condition:
    """A filter over claims: true where some claim passes all tests; ``negated``, where none does."""

    name: str | None
    negated: bool
    tests: tuple[Test, ...]
    at: int


@dataclass(frozen=True, slots=True)
class Action:
    """What a rule does: ``verb`` with ``members``: of permit and deny none, of others a claim or its properties."""

    verb: str
    members: tuple[tuple[str, Expression | str], ...]
    at: int

    def member(self, name: str) -> Expression | str | None:
        """Return what a member says: an expression, or for ``claim`` the name of a condition."""
        return dict(self.members).get(name)


@dataclass(frozen=True, slots=True)
class Rule:
    """``conditions => action;``."""

    conditions: tuple[Condition, ...]
    action: Action
    at: int


@dataclass(frozen=True, slots=True)
class Tree:
    """A whole text; ``version`` as (major, minor)."""

    version: tuple[int, int]
    configuration: tuple[Rule, ...]
    authorization: tuple[Rule, ...]
    issuance: tuple[Rule, ...]
