# SPDX-License-Identifier: Apache-2.0
"""JMESPath within bounds: a query of a few characters can otherwise double its result a hundred times over."""

from typing import Any, Final

import jmespath.exceptions
import jmespath.functions
import jmespath.parser
import jmespath.visitor

from kubenclave.dcap.azurepolicy.work import EvaluationFailedError, Work

MAX_QUERY: Final = 4096  # characters
MAX_DEPTH: Final = 64  # of what was parsed
_TEXT_UNIT: Final = 64  # characters that cost as much as one value
_MAX_JOINED: Final = 1 << 20  # characters


def search(query: str, document: Any, work: Work) -> Any:
    """Return what a query finds in JSON values. Raises EvaluationFailedError, whatever the query."""
    if not 0 < len(query) <= MAX_QUERY:
        raise EvaluationFailedError(f"a query has 1 to {MAX_QUERY} characters, not {len(query)}")
    try:
        parsed = jmespath.parser.Parser().parse(query).parsed
        _check_depth(parsed)
        return _Interpreter(work).visit(parsed, document)
    except EvaluationFailedError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever its authors did not foresee in a text refuses as well
        reason = str(error).partition("\n")[0][:100] or type(error).__name__
        raise EvaluationFailedError(f"the query fails: {reason}") from None


class _Functions(jmespath.functions.Functions):
    """Its functions, except that ``join`` says first how long its result is going to be."""

    @jmespath.functions.signature({"types": ["string"]}, {"types": ["array-string"]})
    def _func_join(self, glue: str, parts: list[str]) -> str:
        if len(glue) * len(parts) + sum(map(len, parts)) > _MAX_JOINED:
            raise EvaluationFailedError("a query joins texts into too long a one")
        return glue.join(parts)


class _Interpreter(jmespath.visitor.TreeInterpreter):
    """Charges for every value that a step comes to, as often as it occurs in it."""

    def __init__(self, work: Work) -> None:
        super().__init__(jmespath.visitor.Options(custom_functions=_Functions()))
        self._work = work

    def visit(self, node: Any, *args: Any, **kwargs: Any) -> Any:
        self._work.spend(1)
        found = super().visit(node, *args, **kwargs)
        _charge(found, self._work)
        return found


def _charge(value: Any, work: Work) -> None:
    waiting = [value]
    while waiting:
        each = waiting.pop()
        if isinstance(each, str):
            work.spend(len(each) // _TEXT_UNIT)
        elif isinstance(each, list | dict):
            work.spend(len(each))
            waiting += each if isinstance(each, list) else each.values()


def _check_depth(node: Any) -> None:
    level = [node]
    for _ in range(MAX_DEPTH):
        level = [child for each in level for child in each["children"] if isinstance(child, dict)]
        if not level:
            return
    raise EvaluationFailedError(f"a query is nested deeper than {MAX_DEPTH}")
