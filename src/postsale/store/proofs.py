"""Merkle proofs of RFC 6962: built from the levels that a log keeps, checked from hashes alone. Pure; imports errors and the leaves' format.

Building needs the tree; checking needs none of ours: RFC 9162, 2.1.3.2 and 2.1.4.2, give the steps that any language can follow.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import Any, Final

from postsale.errors import InvalidInput, LogDamaged
from postsale.store.leaves import EMPTY_ROOT, LEVEL_HEIGHT

MAX_SIZE: Final = 2**63 - 1  # leaves, as in a store
_TILE: Final = 1 << LEVEL_HEIGHT  # hashes that are read together
_TILES_HELD: Final = 1_024  # of at most 511 hashes: some 40 MB when all are full

ReadLevel = Callable[[int, int, int], Sequence[bytes]]
"""(level, start, stop) -> hashes start … stop - 1 of a level, fewer where the tree ends: `Store.tree` of one tenant."""


class Tree:
    """Proofs and roots of one tree at any of its past sizes. Not thread-safe. A proof at size n reads O(log n) runs of 256 hashes.

    Runs are held, so that proofs of neighbours cost little. LogDamaged where a hash that must be there is missing.
    """

    def __init__(self, read: ReadLevel) -> None:
        self._read = read
        self._tiles: dict[tuple[int, int], list[list[bytes]]] = {}  # by level and number: the hashes of each height in it

    def root(self, size: int) -> bytes:
        """The root over the first `size` leaves."""
        _check("size", size, 0, MAX_SIZE)
        return self._range(0, size) if size else EMPTY_ROOT

    def inclusion(self, index: int, size: int) -> list[bytes]:
        """The audit path of leaf `index` (from 0) in the tree of `size` leaves (RFC 6962, 2.1.1), the leaf's neighbour first."""
        _check("size", size, 1, MAX_SIZE)
        _check("index", index, 0, size - 1)
        path, at, last, height = [], index, size - 1, 0
        while last:
            if at & 1:
                path.append(self._node(height, at - 1))
            elif at < last:  # the last node of a height may be incomplete
                low, high = (at + 1) << height, (at + 2) << height
                path.append(self._node(height, at + 1) if high <= size else self._range(low, size))
            at, last, height = at >> 1, last >> 1, height + 1
        return path

    def consistency(self, first: int, second: int) -> list[bytes]:
        """The proof that the tree of `first` leaves is the beginning of the tree of `second` (RFC 6962, 2.1.2); empty from 0."""
        _check("second", second, 0, MAX_SIZE)
        _check("first", first, 0, second)
        if first == 0:
            return []
        path, low, high = [], 0, second
        while high != first:
            middle = low + _split(high - low)
            if first <= middle:
                path.append((middle, high))
                high = middle
            else:
                path.append((low, middle))
                low = middle
        if low:  # else the verifier has this root: it is the first tree's
            path.append((low, high))
        return [self._range(*part) for part in reversed(path)]

    def _range(self, low: int, high: int) -> bytes:
        """The hash over leaves low … high - 1, where `low` is a multiple of the smallest power of two that is not below their number."""
        found: list[bytes] = []
        while low < high:
            height = (high - low).bit_length() - 1
            found.append(self._node(height, low >> height))
            low += 1 << height
        root = found.pop()
        while found:
            root = sha256(b"\x01" + found.pop() + root).digest()
        return root

    def _node(self, height: int, number: int) -> bytes:
        """The root of the `number`-th run of 2 ** height complete leaves."""
        level, height = divmod(height, LEVEL_HEIGHT)
        tile, number = divmod(number, _TILE >> height)
        held = self._tiles.get((level, tile))
        if held is None or len(held[height]) <= number:  # the tree may have grown since
            held = self._load(level, tile)
            if len(held[height]) <= number:
                raise LogDamaged(position=0, reason=f"a hash of level {level} of a tree is missing")
        return held[height][number]

    def _load(self, level: int, tile: int) -> list[list[bytes]]:
        hashes = list(self._read(level, tile * _TILE, (tile + 1) * _TILE))
        if any(type(hash_) is not bytes or len(hash_) != 32 for hash_ in hashes):
            raise LogDamaged(position=0, reason=f"a hash of level {level} of a tree is not 32 bytes long")
        heights = [hashes]
        for _ in range(LEVEL_HEIGHT):
            below = heights[-1]
            heights.append([sha256(b"\x01" + below[at] + below[at + 1]).digest() for at in range(0, len(below) - 1, 2)])
        if len(self._tiles) >= _TILES_HELD:
            del self._tiles[next(iter(self._tiles))]
        self._tiles[level, tile] = heights
        return heights


def _check(field: str, value: int, least: int, most: int) -> None:
    if type(value) is not int or not least <= value <= most:
        raise InvalidInput(what="proof", field=field, reason=f"expected {least} to {most}")


def _split(count: int) -> int:
    """The largest power of two below `count`."""
    return 1 << (count - 1).bit_length() - 1


# ---------------------------------------------------------------- checking: false for anything else than a proof, never an exception


def verify_inclusion(leaf: Any, index: Any, size: Any, path: Any, root: Any) -> bool:
    """Whether `leaf` is the leaf hash at `index` (from 0) of the tree with this root and `size` leaves, by RFC 9162, 2.1.3.2.

    Any value of any type may be passed; what is not a proof is False.
    """
    if not (_are_hashes((leaf, root)) and _are_sizes(index, size) and index < size and _are_hashes(path)):
        return False
    at, last, hash_ = index, size - 1, leaf
    for sibling in path:
        if last == 0:
            return False
        if at & 1 or at == last:
            hash_ = sha256(b"\x01" + sibling + hash_).digest()
            while at and not at & 1:
                at, last = at >> 1, last >> 1
        else:
            hash_ = sha256(b"\x01" + hash_ + sibling).digest()
        at, last = at >> 1, last >> 1
    return bool(last == 0 and hash_ == root)


def verify_consistency(first: Any, first_root: Any, second: Any, second_root: Any, path: Any) -> bool:
    """Whether the tree with `first_root` over `first` leaves is the beginning of the other, by RFC 9162, 2.1.4.2.

    The empty tree is the beginning of every tree, with an empty proof. Any value may be passed; what is not a proof is False.
    """
    if not (_are_hashes((first_root, second_root)) and _are_sizes(first, second) and first <= second and _are_hashes(path)):
        return False
    if first == 0:
        return bool(not path and first_root == EMPTY_ROOT and (second > 0 or second_root == EMPTY_ROOT))
    if first == second:
        return bool(not path and first_root == second_root)
    hashes = [*path] if first & (first - 1) else [first_root, *path]  # of a power of two the first root is itself a node
    if not hashes:
        return False
    at, last = first - 1, second - 1
    while at & 1:
        at, last = at >> 1, last >> 1
    old = new = hashes[0]
    for sibling in hashes[1:]:
        if last == 0:
            return False
        if at & 1 or at == last:
            old, new = sha256(b"\x01" + sibling + old).digest(), sha256(b"\x01" + sibling + new).digest()
            while at and not at & 1:
                at, last = at >> 1, last >> 1
        else:
            new = sha256(b"\x01" + new + sibling).digest()
        at, last = at >> 1, last >> 1
    return bool(last == 0 and old == first_root and new == second_root)


def _are_sizes(*values: Any) -> bool:
    return all(type(value) is int and 0 <= value <= MAX_SIZE for value in values)


def _are_hashes(values: Any) -> bool:
    """Exact types: a subclass could do anything when it is compared or counted."""
    return type(values) in (list, tuple) and all(type(value) is bytes and len(value) == 32 for value in values)
