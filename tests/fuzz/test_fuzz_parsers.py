# SPDX-License-Identifier: Apache-2.0
"""Whatever the bytes, a parser reads them so that they lead back to themselves, or refuses with the errors it names."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.strategies import GARBAGE, changed, changed_json
from tests.fuzz.targets import TARGETS

JSON = (
    "collateral",
    "verify-collateral",
    "tcb-info",
    "qe-identity",
    "policy-json",
    "pod-json",
    "admission-review",
    "control-line",
    "platform-state",
    "jwks",
    "platform-collateral",
    "registration",
    "appraisal-policy",
)


@pytest.mark.parametrize("name", TARGETS)
@given(data=GARBAGE)
def test_garbage(name: str, data: bytes) -> None:
    TARGETS[name].check(data)


@pytest.mark.parametrize("name", TARGETS)
@given(data=st.data())
def test_good_input_with_changes(name: str, data: st.DataObject) -> None:
    TARGETS[name].check(data.draw(changed(TARGETS[name].seeds)))


@pytest.mark.parametrize("name", JSON)
@given(data=st.data())
def test_good_documents_with_members_changed(name: str, data: st.DataObject) -> None:
    TARGETS[name].check(data.draw(changed_json(TARGETS[name].seeds)))


@pytest.mark.parametrize("name", TARGETS)
def test_seeds_are_good(name: str) -> None:
    for seed in TARGETS[name].seeds:
        TARGETS[name].run(seed)
