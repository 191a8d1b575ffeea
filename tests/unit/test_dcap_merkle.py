# SPDX-License-Identifier: Apache-2.0
"""Merkle trees against the roots that implementations of RFC 6962 share, and against the definition written out."""

import hashlib

import pytest

from kubenclave.dcap import merkle
from kubenclave.errors import TrustError, UsageError

# The leaves and roots that the tests of Certificate Transparency logs have in common.
LEAVES = [
    bytes.fromhex(each)
    for each in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f")
]
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


def written_out(leaves):
    """MTH of RFC 9162, 2.1.1, as it stands there."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return hashlib.sha256(b"\0" + leaves[0]).digest()
    k = 1
    while 2 * k < len(leaves):
        k *= 2
    return hashlib.sha256(b"\1" + written_out(leaves[:k]) + written_out(leaves[k:])).digest()


class Stored:
    """A tree as a database keeps it."""

    def __init__(self, leaves):
        self.nodes: dict[tuple[int, int], bytes] = {}
        self.edge, self.reads = merkle.Frontier(), 0
        self.roots = [self.edge.root()]
        for leaf in leaves:
            self.nodes |= {(level, index): value for level, index, value in self.edge.append(merkle.leaf_hash(leaf))}
            self.roots.append(self.edge.root())

    def read(self, level, index):
        self.reads += 1
        return self.nodes[level, index]


def test_roots_are_those_of_other_implementations():
    tree = Stored(LEAVES)
    assert [root.hex() for root in tree.roots] == ROOTS
    assert [merkle.root_of(tree.read, size).hex() for size in range(9)] == ROOTS


@pytest.mark.parametrize("size", [*range(20), 31, 32, 33, 64, 65])
def test_roots_and_proofs_follow_the_definition(size):
    leaves = [bytes([number]) for number in range(size)]
    tree = Stored(leaves)
    root = written_out(leaves)
    assert tree.roots[-1] == root == merkle.root_of(tree.read, size)
    assert merkle.Frontier.read(tree.read, size) == tree.edge
    for index, leaf in enumerate(leaves):
        proof = merkle.inclusion_proof(tree.read, index, size)
        merkle.check_inclusion(merkle.leaf_hash(leaf), index, size, proof, root)
    for first in range(size + 1):
        proof = merkle.consistency_proof(tree.read, first, size)
        merkle.check_consistency(first, written_out(leaves[:first]), size, root, proof)


def test_a_proof_in_a_large_tree_reads_few_nodes():
    tree = Stored(number.to_bytes(4, "big") for number in range(10_000))
    tree.reads = 0
    merkle.inclusion_proof(tree.read, 4711, 10_000)
    merkle.consistency_proof(tree.read, 4711, 10_000)
    merkle.Frontier.read(tree.read, 10_000)
    assert tree.reads < 3 * 2 * 14


@pytest.mark.parametrize(("index", "size"), [(0, 0), (5, 5), (-1, 3)])
def test_there_is_no_proof_of_a_leaf_that_is_not_there(index, size):
    with pytest.raises(UsageError) as caught:
        merkle.inclusion_proof(Stored(LEAVES).read, index, size)
    assert caught.value.code == "log.range"


@pytest.mark.parametrize(("first", "second"), [(4, 3), (-1, 3)])
def test_there_is_no_consistency_with_an_earlier_tree(first, second):
    with pytest.raises(UsageError) as caught:
        merkle.consistency_proof(Stored(LEAVES).read, first, second)
    assert caught.value.code == "log.range"


def included(leaf, index, size, proof, root):
    with pytest.raises(TrustError) as caught:
        merkle.check_inclusion(leaf, index, size, proof, root)
    return caught.value.code


def consistent(*arguments):
    with pytest.raises(TrustError) as caught:
        merkle.check_consistency(*arguments)
    return caught.value.code


def test_an_inclusion_proof_that_was_changed_proves_nothing():
    tree = Stored(LEAVES)
    leaf, root = merkle.leaf_hash(LEAVES[5]), tree.roots[7]
    proof = merkle.inclusion_proof(tree.read, 5, 7)
    for wrong in (
        (leaf, 5, 7, proof[:-1], root),
        (leaf, 5, 7, [*proof, bytes(32)], root),
        (leaf, 5, 7, [*proof[:-1], bytes(32)], root),
        (leaf, 5, 7, [proof[0][:-1], *proof[1:]], root),
        (leaf, 4, 7, proof, root),
        (leaf, 7, 7, proof, root),
        (leaf, -1, 7, proof, root),
        (leaf, 5, 6, proof, root),
        (leaf, 5, 7, proof, tree.roots[8]),
        (merkle.leaf_hash(LEAVES[4]), 5, 7, proof, root),
    ):
        assert included(*wrong) == "log.inclusion"


def test_a_consistency_proof_that_was_changed_proves_nothing():
    tree = Stored(LEAVES)
    for first in range(1, 7):
        before, after = tree.roots[first], tree.roots[7]
        proof = merkle.consistency_proof(tree.read, first, 7)
        for wrong in (
            (first, before, 7, after, proof[:-1]),
            (first, before, 7, after, [*proof, bytes(32)]),
            (first, before, 7, after, [*proof[:-1], bytes(32)]),
            (first, before, 7, tree.roots[8], proof),
            (first, tree.roots[first + 1], 7, after, proof),
            (8, before, 7, after, proof),
            (-1, before, 7, after, proof),
        ):
            assert consistent(*wrong) == "log.consistency"


def test_equal_and_empty_trees_need_no_proof_and_take_none():
    tree = Stored(LEAVES)
    merkle.check_consistency(0, merkle.EMPTY_ROOT, 5, tree.roots[5], [])
    merkle.check_consistency(5, tree.roots[5], 5, tree.roots[5], [])
    for wrong in (
        (0, tree.roots[1], 5, tree.roots[5], []),
        (0, merkle.EMPTY_ROOT, 5, tree.roots[5], [bytes(32)]),
        (5, tree.roots[5], 5, tree.roots[4], []),
        (5, tree.roots[5], 5, tree.roots[5], [bytes(32)]),
    ):
        assert consistent(*wrong) == "log.consistency"
