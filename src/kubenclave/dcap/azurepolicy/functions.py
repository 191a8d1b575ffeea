# SPDX-License-Identifier: Apache-2.0
"""The functions of version 1.2 (Azure: claim rule functions). Arguments and results are sets of values.

A set is a tuple without repeats; one value is a set of one, JSON's null the empty set.
"""

import json
import re
from collections.abc import Callable, Sequence
from typing import Any, Final

from kubenclave.dcap.azurepolicy.claims import Scalar, is_integer, same, value_type_of
from kubenclave.dcap.azurepolicy.query import search
from kubenclave.dcap.azurepolicy.work import EvaluationFailedError, Work
from kubenclave.dcap.collateral import load_json
from kubenclave.errors import FormatError

Values = tuple[Scalar, ...]
MAX_TEXT: Final = 64 << 10  # characters of a value that a function makes
_SURROGATE: Final = re.compile(r"[\ud800-\udfff]")
MAX_VALUES: Final = 1024  # of a set that a function makes


def call(function: str, arguments: Sequence[Values], work: Work) -> Values:
    """Return what a function comes to. Raises EvaluationFailedError for arguments that it does not take."""
    work.spend(sum(1 + len(values) for values in arguments))
    return _FUNCTIONS[function](work, *arguments)


def distinct(values: Sequence[Scalar]) -> Values:
    """Return the values without repeats, in order."""
    return tuple({(value_type_of(value), value): value for value in values}.values())


def single(values: Values, function: str) -> Scalar:
    """Return the only value. Raises EvaluationFailedError when there are none or several."""
    if len(values) != 1:
        raise EvaluationFailedError(f"{function} takes one value and was given {len(values)}")
    return values[0]


def _text(values: Values, function: str) -> str:
    value = single(values, function)
    if not isinstance(value, str):
        raise EvaluationFailedError(f"{function} takes a String and was given a {value_type_of(value)}")
    return value


def _made(text: str) -> Values:
    if len(text) > MAX_TEXT:
        raise EvaluationFailedError(f"a value would have {len(text)} characters, more than {MAX_TEXT}")
    if _SURROGATE.search(text):  # JSON can spell it, and no token could be written
        raise EvaluationFailedError("a value would hold a lone surrogate")
    return (text,)


def _json(values: Values, function: str, work: Work) -> Any:
    text = _text(values, function)
    if len(text) > MAX_TEXT:
        raise EvaluationFailedError(f"{function} reads {MAX_TEXT} characters of JSON at most, not {len(text)}")
    work.spend(len(text) // 8)
    try:
        return load_json(text, "the value")
    except FormatError as error:
        raise EvaluationFailedError(f"{function} takes JSON: {error}") from None


def _jmes_path(work: Work, document: Values, query: Values) -> Values:
    found = search(_text(query, "JmesPath"), _json(document, "JmesPath", work), work)
    try:
        return _made(json.dumps(found, allow_nan=False, ensure_ascii=False, separators=(",", ":")))
    except (TypeError, ValueError):  # an expression as a value, or a number beyond all numbers
        raise EvaluationFailedError("a query comes to something that JSON lacks") from None


def _json_to_claim_value(work: Work, document: Values) -> Values:
    found = _json(document, "JsonToClaimValue", work)
    values = found if isinstance(found, list) else [found]
    if len(values) > MAX_VALUES:
        raise EvaluationFailedError(f"JsonToClaimValue makes {MAX_VALUES} values at most, not {len(values)}")
    return distinct([_value(each) for each in values if each is not None])


def _value(found: Any) -> Scalar:
    if isinstance(found, str):
        return single(_made(found), "JsonToClaimValue")
    if isinstance(found, bool) or is_integer(found):
        value: Scalar = found
        return value
    kind = {float: "a fraction", int: "an integer beyond 64 bits", dict: "an object"}.get(type(found), "a nested array")
    raise EvaluationFailedError(f"JsonToClaimValue cannot make a claim of {kind}")


def _is_subset_of(_: Work, part: Values, whole: Values) -> Values:
    known = {(value_type_of(value), value) for value in whole}
    return (all((value_type_of(value), value) in known for value in part),)


def _append_string(_: Work, head: Values, tail: Values) -> Values:
    return _made(_text(head, "AppendString") + _text(tail, "AppendString"))


def _negate_bool(_: Work, values: Values) -> Values:
    value = single(values, "NegateBool")
    if not isinstance(value, bool):
        raise EvaluationFailedError(f"NegateBool takes a Boolean and was given a {value_type_of(value)}")
    return (not value,)


def _contains_only_value(_: Work, values: Values, wanted: Values) -> Values:
    value = single(wanted, "ContainsOnlyValue")
    return (bool(values) and all(same(each, value) for each in values),)


_FUNCTIONS: Final[dict[str, Callable[..., Values]]] = {
    "JmesPath": _jmes_path,
    "JsonToClaimValue": _json_to_claim_value,
    "IsSubsetOf": _is_subset_of,
    "AppendString": _append_string,
    "NegateBool": _negate_bool,
    "ContainsOnlyValue": _contains_only_value,
}
