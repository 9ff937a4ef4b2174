"""Inclusion and consistency proofs: the same as other implementations give, few reads, and false for whatever is not a proof."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import Any

import pymerkle
import pytest
from hypothesis import given
from hypothesis import strategies as st

from postsale.errors import InvalidInput, LogDamaged
from postsale.store.leaves import EMPTY_ROOT, Frontier, leaf_of
from postsale.store.proofs import MAX_SIZE, Tree, verify_consistency, verify_inclusion
from postsale.testing.store_contract_beside import root as root_read_aloud

ENTRIES = [b"entry %d" % number for number in range(700)]
LEAVES = [leaf_of(entry) for entry in ENTRIES]


def reader(leaves: list[bytes], counts: list[int] | None = None) -> Callable[[int, int, int], Sequence[bytes]]:
    """Levels as a store keeps them; counts how many hashes each read gave."""
    levels = {0: leaves}
    for level, _, hash_ in Frontier().extend(leaves):
        levels.setdefault(level, []).append(hash_)

    def read(level: int, start: int, stop: int) -> Sequence[bytes]:
        found = levels.get(level, [])[start:stop]
        if counts is not None:
            counts.append(len(found))
        return found

    return read


def split(count: int) -> int:
    return 1 << (count - 1).bit_length() - 1


def path_read_aloud(index: int, leaves: list[bytes]) -> list[bytes]:
    """RFC 6962, 2.1.1."""
    if len(leaves) == 1:
        return []
    k = split(len(leaves))
    if index < k:
        return [*path_read_aloud(index, leaves[:k]), root_read_aloud(leaves[k:])]
    return [*path_read_aloud(index - k, leaves[k:]), root_read_aloud(leaves[:k])]


def consistency_read_aloud(first: int, leaves: list[bytes], whole: bool = True) -> list[bytes]:
    """RFC 6962, 2.1.2."""
    if first == len(leaves):
        return [] if whole else [root_read_aloud(leaves)]
    k = split(len(leaves))
    if first <= k:
        return [*consistency_read_aloud(first, leaves[:k], whole), root_read_aloud(leaves[k:])]
    return [*consistency_read_aloud(first - k, leaves[k:], False), root_read_aloud(leaves[:k])]


sizes = st.one_of(st.integers(1, 700), st.sampled_from([1, 2, 255, 256, 257, 511, 512, 513]))


@given(sizes, st.data())
def test_an_inclusion_proof_is_the_one_the_rfc_and_another_implementation_give(size: int, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, size - 1))
    tree = Tree(reader(LEAVES))  # the log may be longer than the checkpoint
    path = tree.inclusion(index, size)
    assert path == path_read_aloud(index, LEAVES[:size])
    assert tree.root(size) == root_read_aloud(LEAVES[:size])
    oracle = pymerkle.InmemoryTree.init_from_entries(ENTRIES[:size], algorithm="sha256")
    theirs = oracle.prove_inclusion(index + 1, size)
    assert [hash_.hex() for hash_ in path] == theirs.serialize()["path"][1:]
    assert verify_inclusion(LEAVES[index], index, size, path, oracle.get_root())


@given(sizes, st.data())
def test_a_consistency_proof_is_the_one_the_rfc_gives_between_roots_of_another_implementation(second: int, data: st.DataObject) -> None:
    first = data.draw(st.integers(1, second))
    path = Tree(reader(LEAVES)).consistency(first, second)
    assert path == consistency_read_aloud(first, LEAVES[:second])
    oracle = pymerkle.InmemoryTree.init_from_entries(ENTRIES[:second], algorithm="sha256")
    assert verify_consistency(first, oracle.get_root(first), second, oracle.get_root(second), path)


def test_proofs_are_those_that_certificate_transparency_published() -> None:
    """The eight entries and the paths that its reference implementations share."""
    entries = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]
    tree = Tree(reader([leaf_of(bytes.fromhex(entry)) for entry in entries]))
    published = {
        tuple(tree.inclusion(0, 8)): ["96a296d2", "5f083f0a", "6b47aaf2"],
        tuple(tree.inclusion(5, 8)): ["bc1a0643", "ca854ea1", "d37ee418"],
        tuple(tree.consistency(1, 8)): ["96a296d2", "5f083f0a", "6b47aaf2"],
        tuple(tree.consistency(6, 8)): ["0ebc5d34", "ca854ea1", "d37ee418"],
        tuple(tree.consistency(2, 5)): ["5f083f0a", "bc1a0643"],
    }
    for path, beginnings in published.items():
        assert [hash_.hex()[:8] for hash_ in path] == beginnings


def test_every_tree_is_the_beginning_of_every_later_one() -> None:
    tree = Tree(reader(LEAVES))
    roots = [tree.root(size) for size in range(70)]
    for second in range(70):
        for first in range(second + 1):
            path = tree.consistency(first, second)
            assert verify_consistency(first, roots[first], second, roots[second], path)
            assert not verify_consistency(first, sha256(roots[first]).digest(), second, roots[second], path)
            wrong = verify_consistency(first, roots[first], second, sha256(roots[second]).digest(), path)
            assert wrong is (first == 0 < second)  # an empty tree says nothing about what comes later


class Levels:
    """Levels of ten million leaves without the leaves: any hash will do to count what is read."""

    def __init__(self) -> None:
        self.reads: dict[int, list[int]] = {}

    def __call__(self, level: int, start: int, stop: int) -> list[bytes]:
        stop = min(stop, 10_000_000 >> 8 * level)
        self.reads.setdefault(level, []).append(stop - start)
        return [sha256(b"%d %d" % (level, number)).digest() for number in range(start, stop)]


@pytest.mark.parametrize("seed", [random.getrandbits(32)])
def test_a_proof_in_ten_million_leaves_reads_a_few_runs_of_256_hashes(seed: int) -> None:
    rand = random.Random(seed)
    for _ in range(20):
        for build in (
            lambda tree: tree.inclusion(rand.randrange(10_000_000), 10_000_000),
            lambda tree: tree.consistency(rand.randrange(1, 10_000_000), 10_000_000),
            lambda tree: tree.root(rand.randrange(1, 10_000_000)),
        ):
            levels = Levels()
            build(Tree(levels))
            assert set(levels.reads) <= {0, 1, 2}
            for reads in levels.reads.values():
                assert len(reads) <= 2  # where the leaf is, and at the right edge
                assert max(reads) <= 256


def test_neighbours_share_what_was_read() -> None:
    counts: list[int] = []
    tree = Tree(reader(LEAVES, counts))
    tree.inclusion(3, 700)
    before = len(counts)
    for index in range(256):
        tree.inclusion(index, 700)
    assert len(counts) == before


def test_a_tree_that_grew_is_read_again() -> None:
    leaves = LEAVES[:3]
    tree = Tree(lambda level, start, stop: leaves[start:stop] if level == 0 else [])
    assert tree.root(3) == root_read_aloud(LEAVES[:3])
    leaves += LEAVES[3:9]
    assert tree.root(9) == root_read_aloud(LEAVES[:9])


def test_more_runs_than_are_held_change_no_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("postsale.store.proofs._TILES_HELD", 1)
    tree = Tree(reader(LEAVES))
    assert tree.root(700) == root_read_aloud(LEAVES)
    assert tree.inclusion(600, 700) == path_read_aloud(600, LEAVES)


@pytest.mark.parametrize(
    "build",
    [
        lambda tree: tree.inclusion(5, 5),
        lambda tree: tree.inclusion(-1, 5),
        lambda tree: tree.inclusion(0, 0),
        lambda tree: tree.inclusion(0.0, 5),
        lambda tree: tree.consistency(6, 5),
        lambda tree: tree.consistency(-1, 5),
        lambda tree: tree.root(-1),
        lambda tree: tree.root(MAX_SIZE + 1),
    ],
)
def test_a_proof_of_what_cannot_be_is_invalid_input(build: Any) -> None:
    with pytest.raises(InvalidInput):
        build(Tree(reader(LEAVES)))


@pytest.mark.parametrize("read", [lambda *_: [], lambda *_: [b"short"], lambda *_: ["x" * 32] * 256, reader(LEAVES[:100])])
def test_a_tree_with_a_missing_or_malformed_hash_is_a_damaged_log(read: Any) -> None:
    with pytest.raises(LogDamaged):
        Tree(read).inclusion(600, 700)


# ---------------------------------------------------------------- what is not a proof


def changed(value: bytes) -> bytes:
    return value[:-1] + bytes([value[-1] ^ 1])


@given(st.integers(1, 300), st.data())
def test_any_change_of_a_proof_makes_it_false(size: int, data: st.DataObject) -> None:
    """Longer, shorter, another order, another place, one bit: each part of a proof counts."""
    tree = Tree(reader(LEAVES))
    index = data.draw(st.integers(0, size - 1))
    first = data.draw(st.integers(1, size))
    sound: dict[Any, tuple[Any, ...]] = {
        verify_inclusion: (LEAVES[index], index, size, tree.inclusion(index, size), tree.root(size)),
        verify_consistency: (first, tree.root(first), size, tree.root(size), tree.consistency(first, size)),
    }
    for verify, arguments in sound.items():
        assert verify(*arguments) is True
        at = data.draw(st.integers(0, 4))
        value = arguments[at]
        others: list[Any] = []
        if type(value) is int:  # a size can be another's where the tree below is the same: only for what the proof binds
            others = [-1, value + MAX_SIZE + 1, size + 1] if verify is verify_inclusion and at == 1 else [-1, MAX_SIZE + 1]
        elif type(value) is bytes:
            others = [changed(value), b"", value + b"\0", value[:-1]]
        elif value:
            where = data.draw(st.integers(0, len(value) - 1))
            others = [
                value[1:],
                value[:-1],
                [*value, value[-1]],
                [value[0], *value],
                [*value[:where], changed(value[where]), *value[where + 1 :]],
            ]
        else:
            others = [[EMPTY_ROOT], [LEAVES[0], LEAVES[1]]]
        for other in others:
            assert verify(*arguments[:at], other, *arguments[at + 1 :]) is False


def pair(left: bytes, right: bytes) -> bytes:
    return sha256(b"\x01" + left + right).digest()


def claimed_root(leaf: bytes, index: int, size: int, path: list[bytes]) -> bytes | None:
    """RFC 6962, 2.1.1, read backwards: the root that a path leads to, None when it has not the length for this place."""
    if index >= size or (size == 1) != (not path):
        return None
    if size == 1:
        return leaf
    *rest, last = path
    k = split(size)
    inner = claimed_root(leaf, index, k, rest) if index < k else claimed_root(leaf, index - k, size - k, rest)
    return None if inner is None else pair(inner, last) if index < k else pair(last, inner)


def claimed_roots(first: int, old: bytes, second: int, path: list[bytes], whole: bool = True) -> tuple[bytes, bytes] | None:
    """RFC 6962, 2.1.2, read backwards: both roots that a path leads to."""
    if first == second:
        if whole:
            return None if path else (old, old)
        return (path[0], path[0]) if len(path) == 1 else None
    if not path:
        return None
    *rest, last = path
    k = split(second)
    inner = claimed_roots(first, old, k, rest, whole) if first <= k else claimed_roots(first - k, old, second - k, rest, False)
    if inner is None:
        return None
    return (inner[0], pair(inner[1], last)) if first <= k else (pair(last, inner[0]), pair(last, inner[1]))


def test_a_path_proves_exactly_the_places_and_sizes_that_the_rfc_lets_it_prove() -> None:
    """Every path of small trees, claimed for every other place and size, too small and too large ones included."""
    tree = Tree(reader(LEAVES))
    proved = 0
    for size in range(1, 10):
        root = tree.root(size)
        for at in range(size):
            path = tree.inclusion(at, size)
            for claim, claimed in ((index, other) for other in range(1, 20) for index in range(other)):
                truth = claimed_root(LEAVES[at], claim, claimed, path) == root
                assert verify_inclusion(LEAVES[at], claim, claimed, path, root) is truth, (at, size, claim, claimed)
                proved += truth
        for first in range(1, size + 1):
            path, old = tree.consistency(first, size), tree.root(first)
            for claim, claimed in ((earlier, later) for later in range(1, 20) for earlier in range(1, later + 1)):
                truth = claimed_roots(claim, old, claimed, path) == (old, root)
                assert verify_consistency(claim, old, claimed, root, path) is truth, (first, size, claim, claimed)
                proved += truth
    assert proved >= 2 * 45


@given(st.integers(2, 200), st.data())
def test_a_proof_for_one_leaf_is_none_for_another_place(size: int, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, size - 1))
    other = data.draw(st.integers(0, size - 1).filter(lambda i: i != index))
    tree = Tree(reader(LEAVES))
    assert not verify_inclusion(LEAVES[index], other, size, tree.inclusion(index, size), tree.root(size))
    assert not verify_inclusion(LEAVES[other], index, size, tree.inclusion(index, size), tree.root(size))


numbers = st.one_of(st.integers(), st.integers(-2, 9), st.integers(MAX_SIZE - 2, MAX_SIZE + 2), st.floats(), st.booleans(), st.none())
hashes = st.one_of(st.binary(min_size=32, max_size=32), st.binary(max_size=40), st.none(), st.text(max_size=3), st.integers())
paths = st.one_of(st.lists(st.binary(min_size=32, max_size=32), max_size=70), st.lists(hashes), hashes, st.sets(st.integers()))


@given(numbers, hashes, numbers, hashes, paths)
def test_anything_at_all_is_false_and_never_an_exception(first: Any, one: Any, second: Any, other: Any, path: Any) -> None:
    assert verify_inclusion(one, first, second, path, other) is (
        (first, second, path) == (0, 1, [])
        and type(first) is type(second) is int
        and one == other
        and type(one) is bytes
        and len(one) == 32
    )
    same = one == other and path == [] and type(first) is type(second) is int and first == second and 0 < first <= MAX_SIZE
    assert verify_consistency(first, one, second, other, path) is (same and type(one) is bytes and len(one) == 32)


class Odd(bytes):
    """Equal to everything."""

    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return 0


def test_a_value_that_claims_to_equal_everything_is_false() -> None:
    root = Tree(reader(LEAVES)).root(3)
    assert not verify_inclusion(LEAVES[0], 0, 3, [LEAVES[1], LEAVES[2]], Odd(root[:-1] + b"\0"))
    assert not verify_consistency(2, Odd(32), 3, root, [LEAVES[2]])


def test_the_empty_tree_begins_every_tree_and_no_other_root_does() -> None:
    root = Tree(reader(LEAVES)).root(3)
    assert verify_consistency(0, EMPTY_ROOT, 3, root, [])
    assert verify_consistency(0, EMPTY_ROOT, 0, EMPTY_ROOT, [])
    assert not verify_consistency(0, root, 3, root, [])
    assert not verify_consistency(0, EMPTY_ROOT, 0, root, [])
    assert not verify_consistency(0, EMPTY_ROOT, 3, root, [LEAVES[0]])
