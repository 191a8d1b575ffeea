# SPDX-License-Identifier: Apache-2.0
"""Every vector of our own: the answer cold, warm and in any order, and dcap-qvl's opinion."""

import random

import dcap_qvl
import pytest

import kubenclave
from kubenclave.dcap.cache import Cache
from kubenclave.dcap.pckext import PckCa
from kubenclave.platform.simulated.issuer import Issuer
from kubenclave.platform.simulated.tcb import PlatformTcb
from vectors import cases_chain, generate
from vectors.reader import FOLDER, Vector, read
from vectors.scene import AT, BASES, PKI, collateral_of, scene
from vectors.second_opinion import REASONS, reasons

VECTORS = {vector.name: vector for vector in read()}
each_vector = pytest.mark.parametrize("name", VECTORS)


def answer(vector: Vector, cache: Cache) -> tuple[str, str | None]:
    try:
        verdict = kubenclave.verify_quote(
            vector.quote,
            kubenclave.Collateral.from_json(vector.collateral),
            at=vector.at,
            root=vector.root,
            pck_chain=vector.pck_chain,
            cache=cache,
            **vector.options,
        )
    except kubenclave.FormatError as error:
        return "malformed", error.code
    except kubenclave.VerificationError as error:
        return "reject", error.code
    return verdict.tcb_status.value, None


def expected(vector: Vector) -> tuple[str, str | None]:
    return vector.expect, vector.code


def second_opinion(vector: Vector) -> str:
    at = int(vector.at.timestamp())
    try:
        collateral = dcap_qvl.QuoteCollateralV3.from_json(vector.collateral)
        if vector.root is None:
            return str(dcap_qvl.verify(vector.quote, collateral, at).status)
        return str(dcap_qvl.verify_with_root_ca(vector.quote, collateral, vector.root, at).status)
    except ValueError:
        return "no"


def agrees(vector: Vector, opinion: str) -> bool:
    return opinion == ("no" if vector.code else vector.expect)


@each_vector
def test_cold(name):
    assert answer(VECTORS[name], Cache()) == expected(VECTORS[name])


@each_vector
def test_warm(name):
    vector, cache = VECTORS[name], Cache()
    # The genuine quote of the same base goes first: what is kept of it must not help a broken one.
    assert answer(VECTORS[f"{vector.base}/good"], cache) == ("UpToDate", None)
    assert [answer(vector, cache) for _ in range(2)] == [expected(vector)] * 2


@pytest.mark.parametrize(("seed", "entries"), [(1, 4096), (2, 4096), (3, 4096), (4, 7)], ids=str)
def test_any_order_with_one_cache(seed, entries):
    cache = Cache(entries)
    vectors = list(VECTORS.values())
    random.Random(seed).shuffle(vectors)
    wrong = [vector.name for vector in vectors if answer(vector, cache) != expected(vector)]
    assert wrong == []


@each_vector
def test_dcap_qvl_agrees_or_we_say_why_not(name):
    vector = VECTORS[name]
    assert agrees(vector, second_opinion(vector)) or reasons(name)


def test_every_reason_still_explains_a_difference():
    explained = {
        pattern
        for name, vector in VECTORS.items()
        for pattern in reasons(name)
        if not agrees(vector, second_opinion(vector))
    }
    assert explained == REASONS.keys()


def test_the_generator_writes_what_is_checked_in(tmp_path):
    generate.write(tmp_path)
    written = {path.relative_to(tmp_path): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    there = {path.relative_to(FOLDER): path.read_bytes() for path in FOLDER.rglob("*") if path.is_file()}
    assert sorted(written) == sorted(path for path in there if path.suffix != ".md")
    assert [str(path) for path, content in written.items() if there[path] != content] == []


def test_reading_a_vector_gives_what_the_case_was_made_of():
    made = {case.path: case.evidence for case in cases_chain.cases()}
    for name, evidence in made.items():
        vector = VECTORS[name]
        assert (vector.quote, vector.root, vector.pck_chain) == (evidence.quote, evidence.root, evidence.pck_chain)
        assert vector.collateral == evidence.collateral_text


@pytest.mark.parametrize("ca", list(PckCa), ids=str)
@pytest.mark.parametrize("base", BASES)
def test_a_scene_is_what_the_simulated_issuer_gives_out(base, ca):
    staged = scene(base, ca)
    issued = Issuer(PKI, ca=ca).collateral(PlatformTcb.UP_TO_DATE, AT, tee=staged.tee)
    assert collateral_of(staged.build()) == issued
    assert staged.root == Issuer(PKI).root_der
