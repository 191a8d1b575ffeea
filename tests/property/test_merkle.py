# SPDX-License-Identifier: Apache-2.0
"""Random trees: every proof holds, and none holds for anything else."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from kubenclave.dcap import merkle
from kubenclave.errors import TrustError
from tests.unit.test_dcap_merkle import Stored, written_out

LEAVES = st.lists(st.binary(max_size=8), min_size=1, max_size=70)


@given(LEAVES, st.data())
def test_every_leaf_is_proved_and_no_other(leaves, data):
    tree, size = Stored(leaves), len(leaves)
    index = data.draw(st.integers(0, size - 1))
    proof = merkle.inclusion_proof(tree.read, index, size)
    merkle.check_inclusion(merkle.leaf_hash(leaves[index]), index, size, proof, written_out(leaves))
    other = data.draw(st.binary(max_size=8))
    assume(other != leaves[index])
    with pytest.raises(TrustError):
        merkle.check_inclusion(merkle.leaf_hash(other), index, size, proof, written_out(leaves))


@given(LEAVES, st.data())
def test_a_log_that_grew_is_consistent_and_one_that_was_rewritten_is_not(leaves, data):
    tree, second = Stored(leaves), len(leaves)
    first = data.draw(st.integers(1, second))
    proof = merkle.consistency_proof(tree.read, first, second)
    merkle.check_consistency(first, written_out(leaves[:first]), second, written_out(leaves), proof)
    place = data.draw(st.integers(0, first - 1))
    rewritten = [*leaves[:place], leaves[place] + b"!", *leaves[place + 1 :]]
    changed = Stored(rewritten)
    for offered in (proof, merkle.consistency_proof(changed.read, first, second)):
        with pytest.raises(TrustError):
            merkle.check_consistency(first, written_out(leaves[:first]), second, changed.roots[-1], offered)


@given(LEAVES, st.data())
def test_one_bit_of_a_proof_makes_it_worthless(leaves, data):
    tree, size = Stored(leaves), len(leaves)
    index = data.draw(st.integers(0, size - 1))
    proof = merkle.inclusion_proof(tree.read, index, size)
    assume(proof)
    place, bit = data.draw(st.integers(0, len(proof) - 1)), data.draw(st.integers(0, 255))
    flipped = (int.from_bytes(proof[place], "big") ^ 1 << bit).to_bytes(32, "big")
    with pytest.raises(TrustError):
        merkle.check_inclusion(
            merkle.leaf_hash(leaves[index]), index, size, [*proof[:place], flipped, *proof[place + 1 :]], tree.roots[-1]
        )


@given(st.integers(0, 2**63), st.integers(0, 2**63), st.lists(st.binary(max_size=40), max_size=70))
def test_made_up_proofs_are_refused_and_nothing_else_happens(first, second, proof):
    root, leaf = bytes(32), b"\1" * 32
    with pytest.raises(TrustError):
        merkle.check_inclusion(leaf, first, second, proof, root)
    if first != second:
        with pytest.raises(TrustError):
            merkle.check_consistency(first, root, second, root, proof)
