# SPDX-License-Identifier: Apache-2.0
"""Whatever a policy issued and a client sent along: a token speaks one dialect, the service has its say."""

import contextlib
import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubenclave.dcap.judgement import DataType, Freshness, HeldData, Judgement
from kubenclave.dcap.token.azure import CLAIMS, azure_claims
from kubenclave.dcap.token.compact import CompactToken
from kubenclave.dcap.token.ear import Dialect, ear_claims
from kubenclave.errors import FormatError
from tests.judgements import AZURE_POLICY, TYPED_POLICY, judgement, tdx

BASES = (judgement(), tdx())
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=8,
)
# No policy may be named like a claim of the other spelling here: what a policy issues is its own.
ISSUED = st.dictionaries(
    st.sampled_from(sorted(CLAIMS)) | st.from_regex("[a-z-]{1,12}", fullmatch=True), JSON, max_size=5
)
HELD = st.none() | st.builds(HeldData, st.binary(max_size=40), st.just(DataType.BINARY))
JUDGEMENTS = st.builds(
    replace,
    st.sampled_from(BASES),
    issued=ISSUED,
    runtime_data=HELD,
    init_data=HELD,
    nonce=st.none() | st.text(min_size=8, max_size=88),
    freshness=st.sampled_from(Freshness),
    policy=st.sampled_from([None, AZURE_POLICY, TYPED_POLICY]),
    draft=st.booleans(),
)


def names(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield name
            yield from names(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from names(inner)


@given(st.binary(max_size=40))
def test_held_data_is_known_by_its_digest(data: bytes) -> None:
    assert HeldData(data, DataType.BINARY).digest == hashlib.sha256(data).digest()


@given(JUDGEMENTS)
def test_names_of_the_other_spelling_never_appear(given_judgement: Judgement) -> None:
    draft, veraison = (list(names(ear_claims(given_judgement, each, build="b"))) for each in Dialect)
    assert any(name.startswith("ear_") for name in draft)
    assert not any(name.startswith("ear.") for name in draft)
    assert any(name.startswith("ear.") for name in veraison)
    assert not any(name.startswith("ear_") for name in veraison)


@given(JUDGEMENTS)
def test_every_dialect_says_what_the_service_has_to_say(given_judgement: Judgement) -> None:
    all_claims = [
        azure_claims(given_judgement),
        *(ear_claims(given_judgement, each, build="b") for each in Dialect),
    ]
    first = all_claims[0]["kubenclave"]
    for claims in all_claims:
        assert json.loads(json.dumps(claims)) == claims
        said = claims["kubenclave"]
        assert said == first
        assert said["simulated"] is True
        assert said["draft"] is given_judgement.draft
        assert said["appraised"] is (given_judgement.policy is not None)
        assert said["fresh"] is (given_judgement.freshness is Freshness.CHALLENGE)


@given(JUDGEMENTS)
def test_a_policy_changes_no_claim_that_is_not_its_own(given_judgement: Judgement) -> None:
    plain = azure_claims(replace(given_judgement, issued={}))
    claims = azure_claims(given_judgement)
    assert {name: claims.get(name) for name in plain} == plain
    assert claims.keys() - plain.keys() <= {*given_judgement.issued, "x-ms-policy"}


@given(
    st.binary(max_size=200)
    | st.from_regex(rb"[A-Za-z0-9_-]{0,20}\.[A-Za-z0-9_-]{0,20}\.[A-Za-z0-9_-]{0,20}", fullmatch=True)
)
def test_whatever_the_bytes_a_token_is_read_or_refused(data: bytes) -> None:
    with contextlib.suppress(FormatError):
        assert CompactToken.parse(data).text.encode() in data


@pytest.mark.parametrize("text", ["e30.e30.", " e30.e30.\n", "e30.e30.AA"])
def test_tokens_are_read(text: str) -> None:
    token = CompactToken.parse(text)
    assert (token.header, token.claims, token.algorithm) == ({}, {}, None)
    assert token.text == text.strip()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "e30",
        "e30.e30",
        "e30.e30..",
        "e30=.e30.",
        "e30.e30.A",
        "e30.e30.AB",
        "e30.W10.",
        "W10.e30.",
        "é.e30.",
        "e3.e30.",
        "e30 .e30.",
    ],
)
def test_tokens_are_refused(text: str) -> None:
    with pytest.raises(FormatError):
        CompactToken.parse(text.encode())


def test_a_token_that_is_too_long_is_refused() -> None:
    with pytest.raises(FormatError):
        CompactToken.parse("e30.e30." + "A" * (256 * 1024))
