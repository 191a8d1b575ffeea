# SPDX-License-Identifier: Apache-2.0
"""Append-only Merkle trees as of RFC 9162, section 2.1 (the same trees as of RFC 6962), with SHA-256.

Only complete subtrees are kept, each under (level, index): the one at level ``l`` and index ``i`` covers the leaves
from ``i << l`` to ``(i + 1) << l``. Such a hash never changes, so growing by a leaf writes two nodes on average, and
every root and proof of a tree of n leaves reads O(log n) of them.
(The Python packages that were found are under the GPL, keep the whole tree in memory, or hash otherwise.)
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from kubenclave.errors import TrustError, UsageError

HASH_SIZE: Final = 32
EMPTY_ROOT: Final = hashlib.sha256(b"").digest()

ReadNode = Callable[[int, int], bytes]  # (level, index) of a complete subtree to its hash


def leaf_hash(entry: bytes) -> bytes:
    """Hash of a leaf (RFC 9162, 2.1.1), 32 bytes."""
    return hashlib.sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Hash of a node over its two children (RFC 9162, 2.1.1), 32 bytes."""
    return hashlib.sha256(b"\x01" + left + right).digest()


@dataclass(slots=True)
class Frontier:
    """The right edge of a growing tree: all that appending needs.

    ``hashes``: of the complete subtrees that ``size`` leaves fall into, from left to right, so the largest first.
    """

    size: int = 0
    hashes: list[bytes] = field(default_factory=list)

    @classmethod
    def read(cls, read: ReadNode, size: int) -> "Frontier":
        """Take up a stored tree of ``size`` leaves."""
        return cls(size, [read(level, index) for level, index in _subtrees(0, size)])

    def append(self, leaf: bytes) -> list[tuple[int, int, bytes]]:
        """Add the hash of a leaf; returns the nodes that became complete, as (level, index, hash)."""
        level, index, value = 0, self.size, leaf
        nodes = [(level, index, value)]
        while index & 1:
            value = node_hash(self.hashes.pop(), value)
            level, index = level + 1, index >> 1
            nodes.append((level, index, value))
        self.hashes.append(value)
        self.size += 1
        return nodes

    def root(self) -> bytes:
        """Root of the tree so far, 32 bytes."""
        return _fold(self.hashes)


def root_of(read: ReadNode, size: int) -> bytes:
    """Root of the first ``size`` leaves, 32 bytes."""
    return _hash_of(read, 0, size)


def inclusion_proof(read: ReadNode, index: int, size: int) -> list[bytes]:
    """Proof that leaf ``index`` is in the tree of ``size`` leaves (RFC 9162, 2.1.3.1), from the leaf upwards.

    Raises UsageError ``log.range`` when there is no such leaf in that tree.
    """
    if not 0 <= index < size:
        raise _out_of_range("index", f"less than the size of the tree, {size}", index)
    begin, end, proof = 0, size, []
    while end - begin > 1:
        middle = begin + _split(end - begin)
        if index < middle:
            proof.append(_hash_of(read, middle, end))
            end = middle
        else:
            proof.append(_hash_of(read, begin, middle))
            begin = middle
    return proof[::-1]


def consistency_proof(read: ReadNode, first: int, second: int) -> list[bytes]:
    """Proof that the tree of ``first`` leaves begins that of ``second`` leaves (RFC 9162, 2.1.4.1).

    Empty when both are the same size, or the first is empty. Raises UsageError ``log.range`` when first > second.
    """
    if not 0 <= first <= second:
        raise _out_of_range("first", f"{second} at most", first)
    if first in {0, second}:
        return []
    begin, end, proof = 0, second, []
    while end != first:
        middle = begin + _split(end - begin)
        if first <= middle:
            proof.append(_hash_of(read, middle, end))
            end = middle
        else:
            proof.append(_hash_of(read, begin, middle))
            begin = middle
    if begin:  # otherwise the verifier knows this hash: it is the first root
        proof.append(_hash_of(read, begin, end))
    return proof[::-1]


def check_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> None:
    """Check an inclusion proof (RFC 9162, 2.1.3.2); raises TrustError ``log.inclusion`` when it proves nothing."""
    if not 0 <= index < size:
        raise _not_included()
    sides, value = _sides(index, size - 1), leaf
    if len(sides) != len(proof):
        raise _not_included()
    for is_left, sibling in zip(sides, proof, strict=True):
        value = node_hash(sibling, value) if is_left else node_hash(value, sibling)
    if value != root:
        raise _not_included()


def check_consistency(first: int, first_root: bytes, second: int, second_root: bytes, proof: Sequence[bytes]) -> None:
    """Check a consistency proof (RFC 9162, 2.1.4.2); raises TrustError ``log.consistency`` when it proves nothing."""
    if not 0 <= first <= second:
        raise _not_consistent()
    if first in {0, second}:
        if proof or first_root != (EMPTY_ROOT if first == 0 else second_root):
            raise _not_consistent()
        return
    complete = (first & -first).bit_length() - 1  # level of the subtree that both trees have, at the end of the first
    path = [first_root, *proof] if first == 1 << complete else proof
    sides = _sides((first - 1) >> complete, (second - 1) >> complete)
    if len(path) != len(sides) + 1:
        raise _not_consistent()
    before = after = path[0]
    for is_left, sibling in zip(sides, path[1:], strict=True):
        if is_left:
            before, after = node_hash(sibling, before), node_hash(sibling, after)
        else:
            after = node_hash(after, sibling)
    if before != first_root or after != second_root:
        raise _not_consistent()


def _sides(node: int, last: int) -> list[bool]:
    """Tell for each sibling on the way from ``node`` to the root, upwards, whether it is on the left.

    ``last`` is the last node of the same level. Where the right edge has no sibling, the node itself moves up.
    """
    sides = []
    while last:
        if node & 1 or node == last:
            sides.append(True)
            while node and not node & 1:
                node, last = node >> 1, last >> 1
        else:
            sides.append(False)
        node, last = node >> 1, last >> 1
    return sides


def _split(size: int) -> int:
    """Return the largest power of two below ``size``, which is 2 or more."""
    return 1 << (size - 1).bit_length() - 1


def _subtrees(begin: int, end: int) -> Iterable[tuple[int, int]]:
    """Complete subtrees that cover the leaves from ``begin`` to ``end``; ``begin`` is a multiple of the first one."""
    while begin < end:
        level = (end - begin).bit_length() - 1
        yield level, begin >> level
        begin += 1 << level


def _hash_of(read: ReadNode, begin: int, end: int) -> bytes:
    return _fold([read(level, index) for level, index in _subtrees(begin, end)])


def _fold(hashes: Sequence[bytes]) -> bytes:
    """Root over complete subtrees from left to right: the smallest two belong together first."""
    if not hashes:
        return EMPTY_ROOT
    value = hashes[-1]
    for left in reversed(hashes[:-1]):
        value = node_hash(left, value)
    return value


def _out_of_range(name: str, expected: str, found: int) -> UsageError:
    return UsageError(
        "the log has no such place",
        code="log.range",
        field=name,
        expected=expected,
        found=str(found),
    )


def _not_included() -> TrustError:
    return TrustError(
        "the entry is not in the log that this head speaks of",
        code="log.inclusion",
        hint="keep entry, proof and head: they show that a receipt was forged, or that the log was changed",
    )


def _not_consistent() -> TrustError:
    return TrustError(
        "the later head of the log does not continue the earlier one",
        code="log.consistency",
        hint="keep both signed heads: together they show that the log was rewritten, or restored from a copy",
    )
