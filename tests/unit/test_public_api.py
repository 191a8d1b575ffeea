# SPDX-License-Identifier: Apache-2.0
"""The public API: its names, its types (checked by mypy alone), and that an import of it is cheap."""

import datetime as dt
import subprocess
import sys
from typing import assert_type

import pytest

import kubenclave
from kubenclave import Collateral, KubenclaveError, Policy, QuoteVerdict, VerificationError, verify_quote


def types_of_the_public_api(quote: bytes, at: dt.datetime) -> None:
    """Never called: mypy reads it."""
    collateral = assert_type(Collateral.from_json("{}"), Collateral)
    policy = assert_type(Policy.from_toml(""), Policy)
    verdict = assert_type(verify_quote(quote, collateral, at=at, policy=policy), QuoteVerdict)
    assert_type(verdict.appraised, bool)
    assert_type(verdict.advisories, tuple[str, ...])
    assert_type(verdict.relaxations, tuple[str, ...])
    assert_type(verdict.dates, dict[str, tuple[dt.datetime, dt.datetime]])
    verify_quote(quote, collateral)  # type: ignore[call-arg]  # the time has to be said
    verify_quote(quote, collateral, at, None)  # type: ignore[call-arg]  # by name alone
    verify_quote(quote, collateral, at=at, allow_debug=True)  # type: ignore[call-arg]  # relaxations name the danger


@pytest.mark.parametrize("name", kubenclave.__all__)
def test_every_public_name_is_there(name):
    assert getattr(kubenclave, name) is not None


def test_every_public_name_is_listed_before_it_is_used():
    code = "import kubenclave; print(set(kubenclave.__all__) - set(dir(kubenclave)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_a_name_that_is_not_public_is_refused():
    with pytest.raises(AttributeError, match="no attribute 'verify'"):
        _ = kubenclave.verify


@pytest.mark.parametrize(
    "name", [name for name in kubenclave.__all__ if name.endswith("Error") and name != "KubenclaveError"]
)
def test_every_public_error_belongs_to_the_tree(name):
    assert issubclass(getattr(kubenclave, name), KubenclaveError)


def test_a_refusal_is_one_error_to_catch():
    assert issubclass(kubenclave.TrustError, VerificationError)
    assert issubclass(kubenclave.PolicyError, VerificationError)


def test_an_import_loads_no_cryptography():
    code = "import sys, kubenclave; print(any(name.startswith(('cryptography', 'msgspec')) for name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
