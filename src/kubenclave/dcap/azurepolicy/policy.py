# SPDX-License-Identifier: Apache-2.0
"""A policy as the service uses it."""

import base64
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kubenclave.dcap.azurepolicy.checks import check
from kubenclave.dcap.azurepolicy.claims import Claim
from kubenclave.dcap.azurepolicy.evaluate import Run
from kubenclave.dcap.azurepolicy.functions import Values
from kubenclave.dcap.azurepolicy.lexer import MAX_SIZE
from kubenclave.dcap.azurepolicy.places import place, refusal
from kubenclave.dcap.azurepolicy.syntax import Parser
from kubenclave.dcap.azurepolicy.tree import Expression, Literal, Rule, Tree
from kubenclave.dcap.azurepolicy.work import EvaluationFailedError
from kubenclave.errors import Finding, FormatError, PolicyError


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """What a policy says of some claims.

    ``refusal``: why there is no token, None when there is one. ``issued`` and ``properties``: by name a value, or a
    list where rules gave several; both empty in a refusal. ``trace``: the rules that fired, in order, one line each.
    ``relaxations``: what the policy accepted that the default rules would not, one line each.
    """

    refusal: Finding | None
    issued: Mapping[str, Any]
    properties: Mapping[str, Any]
    trace: tuple[str, ...]
    relaxations: tuple[str, ...] = ()

    @property
    def permitted(self) -> bool:
        """Whether some rule permits, none denies and all could be evaluated."""
        return self.refusal is None

    def check(self) -> None:
        """Raise PolicyError (``azure-policy.denied``, ``.no-permit``, ``.evaluation``) unless permitted."""
        if self.refusal is not None:
            raise PolicyError([self.refusal])


@dataclass(frozen=True, slots=True)
class AzurePolicy:
    """A policy that was read; ``text`` is what it was read from."""

    text: str = field(repr=False)
    tree: Tree = field(repr=False)

    @property
    def version(self) -> str:
        """Version of the language: ``1.0``, ``1.1`` or ``1.2``."""
        return ".".join(map(str, self.tree.version))

    @property
    def digest(self) -> bytes:
        """What ``x-ms-policy-hash`` holds, 32 bytes."""
        return azure_policy_digest(self.text)

    @property
    def permits(self) -> bool:
        """Whether any rule permits at all; without one everything is refused."""
        return any(rule.action.verb == "permit" for rule in self.tree.authorization)

    @property
    def issues(self) -> tuple[str, ...]:
        """Names of the claims that rules issue by name, in order; ``issue(claim=c)`` issues whatever it finds."""
        return tuple(dict.fromkeys(name for name, _ in self._named("issue")))

    @property
    def properties(self) -> tuple[tuple[str, Any], ...]:
        """Properties that rules set by name, with their values; None for a value that depends on the claims."""
        named = dict.fromkeys(self._named("issueproperty"))
        return tuple((name, value.value if isinstance(value, Literal) else None) for name, value in named)

    def _named(self, verb: str) -> Iterator[tuple[str, Expression | str | None]]:
        for rule in (*self.tree.configuration, *self.tree.issuance):
            kind = rule.action.member("type")
            if rule.action.verb == verb and isinstance(kind, Literal):
                yield str(kind.value), rule.action.member("value")

    def evaluate(self, claims: Sequence[Claim]) -> Evaluation:
        """Decide over the claims of one piece of evidence; the same claims always come to the same."""
        trace: list[str] = []
        rule: Rule | None = None
        permitted = False
        try:
            run = Run(claims)
            for rule in (*self.tree.configuration, *self.tree.authorization):
                if not run.fires(rule):
                    continue
                trace.append(self._shown(rule))
                if rule.action.verb == "deny":
                    return _refused("azure-policy.denied", self._line(rule), "no rule that denies", "deny()", trace)
                permitted |= rule.action.verb == "permit"
            if not permitted:
                return _refused("azure-policy.no-permit", "authorizationrules", "a rule that permits", "none", trace)
            for rule in self.tree.issuance:
                if run.fires(rule):
                    trace.append(self._shown(rule))
        except EvaluationFailedError as error:
            where = self._line(rule) if rule else "claims"
            return _refused("azure-policy.evaluation", where, "a rule that can be evaluated", str(error), trace)
        return Evaluation(
            refusal=None, issued=_plain(run.issued), properties=_plain(run.properties), trace=tuple(trace)
        )

    def _line(self, rule: Rule) -> str:
        return f"line {place(self.text, rule.at)[0]}"

    def _shown(self, rule: Rule) -> str:
        return f"{self._line(rule)}: {rule.action.verb}"


def parse(text: str) -> AzurePolicy:
    """Read a policy. Raises FormatError (codes ``azure-policy.*``), the field naming line and column."""
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:
        raise refusal(text, error.start, "not Unicode text", found="a lone surrogate") from None
    if size > MAX_SIZE:
        raise FormatError(
            "the policy is too long",
            code="azure-policy.limit",
            expected=f"{MAX_SIZE} bytes at most",
            found=f"{size} bytes",
        )
    tree = Parser(text).tree()
    check(text, tree)
    return AzurePolicy(text, tree)


def azure_policy_digest(text: str) -> bytes:
    """Return what ``x-ms-policy-hash`` says of a policy: SHA-256 of the ASCII of base64url of its text, 32 bytes."""
    encoded = base64.urlsafe_b64encode(text.encode()).rstrip(b"=")
    return hashlib.sha256(encoded).digest()


def _refused(code: str, field: str, expected: str, found: str, trace: Sequence[str]) -> Evaluation:
    finding = Finding(code, field, expected, found)
    return Evaluation(refusal=finding, issued={}, properties={}, trace=tuple(trace))


def _plain(kept: Mapping[str, Values]) -> dict[str, Any]:
    return {name: values[0] if len(values) == 1 else list(values) for name, values in kept.items()}
