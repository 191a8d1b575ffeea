# SPDX-License-Identifier: Apache-2.0
"""Whether a tree makes sense: what can be known without any claim is refused when the policy is set, not when used."""

from collections.abc import Sequence
from typing import Final

from kubenclave.dcap.azurepolicy.claims import ClaimIssuer, is_reserved, value_type_of
from kubenclave.dcap.azurepolicy.places import refusal
from kubenclave.dcap.azurepolicy.tree import Access, Action, Call, Expression, Literal, Rule, Test, Tree
from kubenclave.errors import FormatError

_VERBS: Final = {
    "configurationrules": ("issueproperty",),
    "authorizationrules": ("permit", "deny", "add"),
    "issuancerules": ("add", "issue", "issueproperty"),
}
_LITERALS: Final = {"issuer": tuple(ClaimIssuer), "valueType": ("String", "Integer", "Boolean")}
MAX_NAME: Final = 256  # characters of a claim's type


def check(text: str, tree: Tree) -> None:
    """Raise FormatError (``azure-policy.rule``, ``azure-policy.reserved``) for the first rule that cannot be meant."""
    sections = (tree.configuration, tree.authorization, tree.issuance)
    for (section, verbs), rules in zip(_VERBS.items(), sections, strict=True):
        for rule in rules:
            _check_rule(text, rule)
            if rule.action.verb not in verbs:
                raise _wrong(text, rule.action.at, f"an action that {section} lack", ", ".join(verbs), rule.action.verb)


def _check_rule(text: str, rule: Rule) -> None:
    names: set[str] = set()
    for condition in rule.conditions:
        for test in condition.tests:
            _check_test(text, test, names)
        if condition.name in names:
            raise _wrong(text, condition.at, "the name of an earlier condition", "another name", condition.name)
        if condition.name is not None:
            names.add(condition.name)
    _check_action(text, rule.action, names)


def _check_test(text: str, test: Test, names: set[str]) -> None:
    _check_names(text, test.operand, names)
    ordered = test.operator not in ("==", "!=")
    if ordered and test.member != "value":
        raise _wrong(text, test.at, f"{test.member} has no order", "== or !=", test.operator)
    if not isinstance(test.operand, Literal):
        return
    value, kind = test.operand.value, value_type_of(test.operand.value)
    if ordered and kind != "Integer":
        raise _wrong(text, test.operand.at, "only integers have an order", "an integer", kind)
    if test.member != "value" and kind != "String":
        raise _wrong(text, test.operand.at, f"{test.member} is a text", "a text", kind)
    allowed = _LITERALS.get(test.member)
    if allowed is not None and value not in allowed:
        raise _wrong(text, test.operand.at, f"no claim has this {test.member}", ", ".join(allowed), str(value)[:40])


def _check_action(text: str, action: Action, names: set[str]) -> None:
    given = {name for name, _ in action.members}
    if action.verb in ("permit", "deny"):
        if given:
            raise _wrong(text, action.at, f"{action.verb} takes nothing", f"{action.verb}()", ", ".join(sorted(given)))
        return
    if given not in ({"claim"}, {"type", "value"}):
        shown = ", ".join(sorted(given)) or "nothing"
        raise _wrong(text, action.at, f"{action.verb} takes a claim", "claim=, or type= and value=", shown)
    claim, kind, value = (action.member(name) for name in ("claim", "type", "value"))
    if isinstance(claim, str) and claim not in names:
        raise _wrong(text, action.at, "no condition of this rule has that name", _known(names), claim)
    if isinstance(kind, Literal | Access | Call):
        _check_type(text, action, kind)
    if isinstance(value, Literal | Access | Call):
        _check_names(text, value, names)


def _check_type(text: str, action: Action, kind: Expression) -> None:
    if not isinstance(kind, Literal) or not isinstance(kind.value, str) or not 0 < len(kind.value) <= MAX_NAME:
        raise _wrong(
            text, kind.at, "a policy names its claims itself", f"a text of 1 to {MAX_NAME} characters", "another"
        )
    if action.verb != "issueproperty" and is_reserved(kind.value):
        raise refusal(
            text,
            kind.at,
            "a name under which only the service speaks",
            code="azure-policy.reserved",
            expected="another name",
            found=kind.value,
            hint="what the service says of the evidence is in every token; no policy can say it otherwise",
        )


def _check_names(text: str, expression: Expression, names: set[str]) -> None:
    if isinstance(expression, Access) and expression.name not in names:
        raise _wrong(text, expression.at, "no condition before it has that name", _known(names), expression.name)
    for argument in expression.arguments if isinstance(expression, Call) else ():
        _check_names(text, argument, names)


def _known(names: Sequence[str] | set[str]) -> str:
    return ", ".join(sorted(names)) or "a name:[...] among the conditions"


def _wrong(text: str, at: int, message: str, expected: str, found: str | None) -> FormatError:
    return refusal(text, at, message, code="azure-policy.rule", expected=expected, found=found)
