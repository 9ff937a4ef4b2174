"""Commitments, leaves and the tree over them."""

from __future__ import annotations

import struct
from hashlib import sha256
from typing import Any
from uuid import UUID

import pymerkle
import pytest
from hypothesis import given
from hypothesis import strategies as st

from postsale.events import Lane, StreamId
from postsale.store.leaves import EMPTY_ROOT, Frontier, commitment, leaf_of

FIELDS: dict[str, Any] = {
    "stream": StreamId("acme", "customers", "c1"),
    "lane": Lane.DECISION,
    "version": 3,
    "wire_name": "test/decided@1",
    "schema": bytes(range(16)),
    "leaf_index": 7,
    "salt": b"s" * 16,
    "position": 12,
    "event_id": UUID(int=5),
    "occurred_at_us": -1,
    "recorded_at_us": 1_790_000_000_000_000,
    "header": b'{"v":1}',
    "content_mac": b"m" * 16,
    "data": b"{}",
}


def tree(leaves: list[bytes]) -> Frontier:
    frontier = Frontier()
    for leaf in leaves:
        frontier.append(leaf)
    return frontier


def test_the_commitment_has_exactly_the_documented_bytes() -> None:
    """Written out a second time, field by field: a change here breaks every root ever published."""
    inner = sha256(
        b"s" * 16 + struct.pack(">Q", 12) + UUID(int=5).bytes + struct.pack(">qq", -1, 1_790_000_000_000_000)
        + struct.pack(">I", 7) + b'{"v":1}' + b"m" * 16 + b"{}"
    ).digest()  # fmt: skip
    expected = (
        b"\0\0\0\x04acme" + struct.pack(">Q", 7) + b"\0\0\0\x09customers" + b"\0\0\0\x02c1"
        + b"\x01" + struct.pack(">Q", 3) + b"\0\0\0\x0etest/decided@1" + bytes(range(16)) + inner
    )  # fmt: skip
    assert commitment(**FIELDS) == expected
    assert leaf_of(expected) == sha256(b"\0" + expected).digest()


@pytest.mark.parametrize(
    ("field", "other"),
    [
        ("stream", StreamId("acmec", "ustomers", "c1")),
        ("stream", StreamId("acme", "customersc", "1")),
        ("lane", Lane.FACT),
        ("version", 4),
        ("wire_name", "test/decided@2"),
        ("schema", bytes(16)),
        ("leaf_index", 8),
        ("salt", b"t" * 16),
        ("position", 13),
        ("event_id", UUID(int=6)),
        ("occurred_at_us", 0),
        ("recorded_at_us", 1_790_000_000_000_001),
        ("header", b'{"v":2}'),
        ("content_mac", b"n" * 16),
        ("data", b"[]"),
    ],
)
def test_a_commitment_depends_on_every_field(field: str, other: object) -> None:
    assert commitment(**{**FIELDS, field: other}) != commitment(**FIELDS)


def test_bytes_cannot_move_between_header_and_data() -> None:
    assert commitment(**{**FIELDS, "header": b'{"v":1}{', "data": b"}"}) != commitment(**FIELDS)


@given(st.integers(0, 200))
def test_the_root_is_the_one_another_implementation_finds(size: int) -> None:
    oracle = pymerkle.InmemoryTree(algorithm="sha256")
    frontier = Frontier()
    for number in range(size):
        entry = b"entry %d" % number
        oracle.append_entry(entry)
        frontier.append(leaf_of(entry))
    assert frontier.root() == (oracle.get_root() if size else EMPTY_ROOT)


def test_the_roots_are_those_of_rfc_6962_test_vectors() -> None:
    """The inputs and roots that Certificate Transparency's reference implementations share."""
    entries = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]
    roots = {
        1: "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        2: "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        3: "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        8: "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    }
    for size, root in roots.items():
        assert tree([leaf_of(bytes.fromhex(entry)) for entry in entries[:size]]).root().hex() == root


@given(st.lists(st.binary(min_size=32, max_size=32), max_size=70), st.integers(0, 70))
def test_a_frontier_saved_anywhere_continues_to_the_same_root(leaves: list[bytes], cut: int) -> None:
    first = tree(leaves[:cut])
    again = Frontier.from_bytes(first.size, first.to_bytes())
    for leaf in leaves[cut:]:
        again.append(leaf)
    assert again.root() == tree(leaves).root()
    assert len(again.to_bytes()) == 32 * len(leaves).bit_count()


@given(st.lists(st.binary(min_size=32, max_size=32), min_size=1, max_size=70), st.data())
def test_a_root_changes_with_any_leaf(leaves: list[bytes], data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(leaves) - 1))
    other = [*leaves]
    other[at] = sha256(leaves[at]).digest()
    assert tree(other).root() != tree(leaves).root()


@given(st.integers(0, 300))
def test_subtrees_cover_every_leaf_once(size: int) -> None:
    frontier = tree([leaf_of(b"%d" % number) for number in range(size)])
    covered = [index for first, count, _ in frontier.subtrees() for index in range(first, first + count)]
    assert covered == list(range(size))


@pytest.mark.parametrize(("size", "raw"), [(1, b""), (0, b"x" * 32), (3, b"x" * 32), (1, b"x" * 31), (-1, b"")])
def test_what_is_not_a_frontier_is_refused(size: int, raw: bytes) -> None:
    with pytest.raises(ValueError, match="frontier"):
        Frontier.from_bytes(size, raw)
