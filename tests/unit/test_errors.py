# SPDX-License-Identifier: Apache-2.0
"""The words of an error: what was expected, what was found, and the next step."""

import pytest

from kubenclave.errors import Finding, FormatError, PolicyError


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({}, "no"),
        ({"expected": "1", "found": "2"}, "no (expected 1, found 2)"),
        ({"expected": "1"}, "no (expected 1)"),
        ({"found": "2"}, "no (found 2)"),
        ({"field": "size", "found": ""}, "size: no (found )"),
    ],
    ids=["neither", "both", "expected", "found", "field"],
)
def test_only_what_is_known_is_said(fields, text):
    assert str(FormatError("no", code="a.b", **fields)) == text


def test_the_next_steps_of_all_findings_are_given_once():
    findings = [
        Finding("a.b", "f", "e", "g", "wait"),
        Finding("a.c", "f", "e", "g"),
        Finding("a.d", "f", "e", "g", "wait"),
    ]
    assert PolicyError(findings).hint == "wait"
    assert PolicyError([*findings, Finding("a.e", "f", "e", "g", "update")]).hint == "wait; update"
    assert PolicyError(findings[1:2]).hint is None
