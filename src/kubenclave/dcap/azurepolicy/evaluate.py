# SPDX-License-Identifier: Apache-2.0
"""Rules over claims. One run holds the claims so far; it is made anew for every evaluation."""

from collections.abc import Callable, Iterable, Sequence
from operator import attrgetter, ge, gt, le, lt
from typing import Any, Final

from kubenclave.dcap.azurepolicy.claims import Claim, ClaimIssuer, Scalar, is_reserved, same, value_type_of
from kubenclave.dcap.azurepolicy.functions import Values, call, distinct
from kubenclave.dcap.azurepolicy.tree import Access, Action, Condition, Expression, Literal, Rule, Test
from kubenclave.dcap.azurepolicy.work import EvaluationFailedError, Work

MAX_CLAIMS: Final = 4096  # that rules may work on
_MEMBERS: Final[dict[str, Callable[[Claim], Scalar]]] = {
    "type": attrgetter("type"),
    "value": attrgetter("value"),
    "valueType": attrgetter("value_type"),
    "issuer": lambda claim: claim.issuer.value,
}
_ORDERS: Final[dict[str, Callable[[Any, Any], bool]]] = {"<": lt, "<=": le, ">": gt, ">=": ge}


class Run:
    """Claims that rules add to; ``issued`` and ``properties`` by name, each a set of values in order."""

    def __init__(self, claims: Iterable[Claim]) -> None:
        self._claims: dict[str, dict[tuple[str, Claim], None]] = {}  # by type, which nearly every condition names
        self._count = 0
        self._work = Work()
        self.issued: dict[str, Values] = {}
        self.properties: dict[str, Values] = {}
        for claim in claims:
            self._add(claim)

    def fires(self, rule: Rule) -> bool:
        """Carry out a rule whose conditions hold; of permit and deny the caller knows what they mean.

        Raises EvaluationFailedError.
        """
        found: dict[str, tuple[Claim, ...]] = {}
        for condition in rule.conditions:
            passed = self._passing(condition, found)
            if bool(passed) is condition.negated:
                return False
            if condition.name is not None:
                found[condition.name] = passed
        if rule.action.verb not in ("permit", "deny"):
            self._act(rule.action, self._meant(rule.action, found))
        return True

    def _passing(self, condition: Condition, found: dict[str, tuple[Claim, ...]]) -> tuple[Claim, ...]:
        tests = [(test, self._values(test.operand, found)) for test in condition.tests]
        for test, wanted in tests:
            _check_comparable(test, wanted)
        candidates = self._candidates(tests)
        self._work.spend(len(candidates) * sum(len(wanted) for _, wanted in tests))
        return tuple(claim for claim in candidates if all(_passes(claim, *each) for each in tests))

    def _candidates(self, tests: Sequence[tuple[Test, Values]]) -> list[Claim]:
        """Return the claims of the types that a condition names, or all."""
        named = [wanted for test, wanted in tests if test.member == "type" and test.operator == "=="]
        types = named[0] if named else self._claims
        return [claim for each in types for _, claim in self._claims.get(str(each), ())]

    def _values(self, expression: Expression, found: dict[str, tuple[Claim, ...]]) -> Values:
        if isinstance(expression, Literal):
            return (expression.value,)
        if isinstance(expression, Access):
            self._work.spend(len(found[expression.name]))
            return distinct([_MEMBERS[expression.member](claim) for claim in found[expression.name]])
        arguments = [self._values(argument, found) for argument in expression.arguments]
        return call(expression.function, arguments, self._work)

    def _meant(self, action: Action, found: dict[str, tuple[Claim, ...]]) -> Sequence[Claim]:
        """Return the claims an action speaks of: one for each value; none for the empty value."""
        name, kind, value = (action.member(each) for each in ("claim", "type", "value"))
        if isinstance(name, str):
            return found[name]
        assert isinstance(kind, Literal)
        assert value is not None
        assert not isinstance(value, str)
        return [Claim(str(kind.value), each, ClaimIssuer.POLICY) for each in self._values(value, found)]

    def _act(self, action: Action, claims: Sequence[Claim]) -> None:
        for claim in claims:
            if action.verb == "issueproperty":
                _put(self.properties, claim)
            elif action.verb == "issue" and not is_reserved(claim.type):  # what the service says is in the token anyway
                _put(self.issued, claim)
            self._add(Claim(claim.type, claim.value, ClaimIssuer.POLICY))

    def _add(self, claim: Claim) -> None:
        same_type = self._claims.setdefault(claim.type, {})
        self._count -= len(same_type)
        same_type[claim.value_type, claim] = None  # the type tells 1 from true, which Python takes for equal
        self._count += len(same_type)
        if self._count > MAX_CLAIMS:
            raise EvaluationFailedError(f"more than {MAX_CLAIMS} claims")


def _put(kept: dict[str, Values], claim: Claim) -> None:
    kept[claim.type] = distinct([*kept.get(claim.type, ()), claim.value])


def _check_comparable(test: Test, wanted: Values) -> None:
    if not wanted:
        raise EvaluationFailedError("a condition compares with an empty value")
    if test.operator in _ORDERS and (len(wanted) > 1 or value_type_of(wanted[0]) != "Integer"):
        raise EvaluationFailedError(f"{test.operator} compares with one integer")


def _passes(claim: Claim, test: Test, wanted: Values) -> bool:
    """Whether a claim passes; of several values ``==`` wants one of them, and ``!=`` none."""
    value = _MEMBERS[test.member](claim)
    if order := _ORDERS.get(test.operator):
        return value_type_of(value) == "Integer" and bool(order(value, wanted[0]))
    return any(same(value, each) for each in wanted) is (test.operator == "==")
