# SPDX-License-Identifier: Apache-2.0
"""Requests made up from an OpenAPI document, and what their answers have to hold to."""

import contextlib
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

MODES = (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


def operations_of(api: Any) -> list[Any]:
    return [found.ok() for found in api.get_all_operations() if isinstance(found, Ok)]


def ask(operation: Any, headers: dict[str, str], examples: int = 6) -> None:
    """Send requests as the document allows them and as it does not; no answer may be another than it says."""
    for mode in MODES:
        _ask(operation.as_strategy(generation_mode=mode), headers, examples)


def _ask(cases: Any, headers: dict[str, str], examples: int) -> None:
    @given(case=cases)
    @settings(max_examples=examples, suppress_health_check=list(HealthCheck), deadline=None, derandomize=True)
    def each(case):
        case.call_and_validate(headers=headers, checks=CHECKS)

    with contextlib.suppress(Unsatisfiable):  # what takes nothing cannot be asked wrongly
        each()
