# SPDX-License-Identifier: Apache-2.0
"""The operations turn one document into the other, and say no more than changed."""

import copy
import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from kubenclave.cluster.webhook.jsonpatch import difference
from tests.fake_cluster import patched

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.text("a~/0", max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("a~/0", max_size=3), inner, max_size=3),
    max_leaves=12,
)


@given(old=st.dictionaries(st.text("a~/", max_size=2), JSON), new=st.dictionaries(st.text("a~/", max_size=2), JSON))
def test_old_becomes_new(old, new):
    before = copy.deepcopy(old)
    assert json.dumps(patched(old, difference(old, new)), sort_keys=True) == json.dumps(new, sort_keys=True)
    assert old == before


@given(document=JSON)
def test_nothing_changed_is_nothing_to_do(document):
    assert difference(document, copy.deepcopy(document)) == []


def test_only_what_changed():
    old: Any = {"spec": {"containers": [{"name": "a", "env": [{"name": "x"}]}, {"name": "b"}]}, "kept": [1]}
    new = copy.deepcopy(old)
    new["spec"]["containers"][0]["env"].append({"name": "y"})
    new["spec"]["containers"][1]["resources"] = {"limits": {"a/b": "1"}}
    assert difference(old, new) == [
        {"op": "add", "path": "/spec/containers/0/env/-", "value": {"name": "y"}},
        {"op": "add", "path": "/spec/containers/1/resources", "value": {"limits": {"a/b": "1"}}},
    ]


def test_true_is_not_one():
    assert difference({"a": 1}, {"a": True}) == [{"op": "replace", "path": "/a", "value": True}]
