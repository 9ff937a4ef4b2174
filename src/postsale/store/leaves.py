"""Commitments, leaves and the Merkle tree over them: pure functions of bytes. No storage, no clock; imports only the events.

The byte layout here is the proof format of every log, for ever: a changed byte makes every older root wrong. All integers are
big-endian; every text is UTF-8 behind its length as u32, so that no two different events have the same commitment.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from hashlib import sha256
from typing import Final, NamedTuple
from uuid import UUID

from postsale.events import Lane, StreamId

LEVEL_HEIGHT: Final = 8  # of the tree per kept level, as in C2SP's tlog-tiles: 256 hashes below make one above
EMPTY_ROOT: Final = sha256(b"").digest()  # RFC 6962, 2.1: the hash of an empty list

_INNER: Final = struct.Struct(">Q16sqqI")  # position, event_id, occurred_at_us, recorded_at_us, length of the header
_LEAF_INDEX: Final = struct.Struct(">Q")
_LANE_VERSION: Final = struct.Struct(">BQ")
_LENGTH: Final = struct.Struct(">I")


class StreamNames(NamedTuple):
    """A stream's names as a commitment carries them; encode once per stream, use for each of its events."""

    tenant: bytes
    category_and_id: bytes

    @classmethod
    def of(cls, stream: StreamId) -> StreamNames:
        return cls.of_bytes(stream.tenant.encode(), stream.category.encode(), stream.id.encode())

    @classmethod
    def of_bytes(cls, tenant: bytes, category: bytes, id: bytes) -> StreamNames:
        """The same from UTF-8 bytes that may be damaged: verification must not decode what it is about to check."""
        return cls(prefixed(tenant), prefixed(category) + prefixed(id))


def prefixed(text: bytes) -> bytes:
    """`text` behind its length."""
    return _LENGTH.pack(len(text)) + text


def kind_names(wire_name: bytes, schema: bytes) -> bytes:
    """A kind's wire name and 16-byte schema digest as a commitment carries them."""
    return prefixed(wire_name) + schema


def leaf_hash(
    stream: StreamNames,
    kind: bytes,
    leaf_index: int,
    lane: int,
    version: int,
    salt: bytes,
    position: int,
    event_id: bytes,
    occurred_at_us: int,
    recorded_at_us: int,
    header: bytes,
    content_mac: bytes,
    data: bytes,
) -> bytes:
    """`leaf_of(commitment(…))` of the parts, in one go: what stores and verification compute for every event.

    Trusts the 16 bytes of salt, event id, schema and content_mac. `struct.error` when a number does not fit its bits.
    """
    fixed = _INNER.pack(position, event_id, occurred_at_us, recorded_at_us, len(header))
    inner = sha256(b"%b%b%b%b%b" % (salt, fixed, header, content_mac, data)).digest()
    tenant, category_and_id = stream
    return sha256(
        b"\x00%b%b%b%b%b%b" % (tenant, _LEAF_INDEX.pack(leaf_index), category_and_id, _LANE_VERSION.pack(lane, version), kind, inner)
    ).digest()


def commitment(
    *,
    stream: StreamId,
    lane: Lane,
    version: int,
    wire_name: str,
    schema: bytes,
    leaf_index: int,
    salt: bytes,
    position: int,
    event_id: UUID,
    occurred_at_us: int,
    recorded_at_us: int,
    header: bytes,
    content_mac: bytes,
    data: bytes,
) -> bytes:
    """The bytes that a leaf hashes: tenant, leaf index, category and id, lane, version, wire name, schema digest, inner digest.

    The inner digest covers the salt and everything that may be personal, so that a commitment shown to a third party gives nothing
    away.
    """
    names, kind = StreamNames.of(stream), kind_names(wire_name.encode(), schema)
    fixed = _INNER.pack(position, event_id.bytes, occurred_at_us, recorded_at_us, len(header))
    inner = sha256(salt + fixed + header + content_mac + data).digest()
    return names.tenant + _LEAF_INDEX.pack(leaf_index) + names.category_and_id + _LANE_VERSION.pack(lane, version) + kind + inner


class Shown(NamedTuple):
    """What a commitment tells whoever sees it. Everything else about the event is hidden behind `inner` and its salt."""

    tenant: str
    leaf_index: int
    category: str
    id: str
    lane: int
    version: int
    wire_name: str
    schema: bytes
    inner: bytes


def shown_by(commitment: bytes) -> Shown:
    """The fields of a commitment, inverse of `commitment`; ValueError when it is none."""
    rest = memoryview(commitment)

    def take(count: int) -> bytes:
        nonlocal rest
        if count > len(rest):
            raise ValueError("a commitment that ends too early")
        taken, rest = bytes(rest[:count]), rest[count:]
        return taken

    def text() -> str:
        return take(_LENGTH.unpack(take(_LENGTH.size))[0]).decode()

    tenant = text()
    (leaf_index,) = _LEAF_INDEX.unpack(take(_LEAF_INDEX.size))
    category, id_ = text(), text()
    lane, version = _LANE_VERSION.unpack(take(_LANE_VERSION.size))
    shown = Shown(tenant, leaf_index, category, id_, lane, version, text(), take(16), take(32))
    if rest:
        raise ValueError("a commitment that does not end")
    return shown


def leaf_of(commitment: bytes) -> bytes:
    """RFC 6962 leaf hash: SHA-256(0x00 ‖ commitment)."""
    return sha256(b"\x00" + commitment).digest()


class Node(NamedTuple):
    """The root of 256 ** level complete leaves: the `number`-th of its level, from 0."""

    level: int
    number: int
    hash: bytes


class Frontier:
    """The right edge of a Merkle tree (RFC 6962): appends leaves and knows the root in O(log n) memory.

    It works as a binary counter: one complete subtree for each 1 in the binary form of `size`, the largest first.
    """

    __slots__ = ("_nodes", "size")

    def __init__(self, size: int = 0, nodes: Iterable[bytes] = ()) -> None:
        self.size = size
        self._nodes = list(nodes)
        if size < 0 or len(self._nodes) != size.bit_count() or any(len(node) != 32 for node in self._nodes):
            raise ValueError(f"a frontier of size {size} has {size.bit_count() if size >= 0 else 'no'} nodes of 32 bytes")

    @classmethod
    def from_bytes(cls, size: int, raw: bytes) -> Frontier:
        """Inverse of `to_bytes`; ValueError when `raw` is not a frontier of that size."""
        if len(raw) % 32:
            raise ValueError(f"a frontier is a multiple of 32 bytes, not {len(raw)}")
        return cls(size, [raw[at : at + 32] for at in range(0, len(raw), 32)])

    def to_bytes(self) -> bytes:
        """The nodes, largest subtree first; the size is kept beside it."""
        return b"".join(self._nodes)

    def append(self, leaf: bytes) -> None:
        """Add the next leaf hash."""
        carry = self.size
        while carry & 1:
            leaf = sha256(b"\x01" + self._nodes.pop() + leaf).digest()
            carry >>= 1
        self._nodes.append(leaf)
        self.size += 1

    def extend(self, leaves: Iterable[bytes]) -> list[Node]:
        """Add leaf hashes; the roots of 256, 256 ** 2, … leaves that they completed, which a log keeps so that proofs are quick."""
        nodes, done = self._nodes, []
        for leaf in leaves:
            size = carry = self.size
            height = 0
            while carry & 1:
                leaf = sha256(b"\x01" + nodes.pop() + leaf).digest()
                carry >>= 1
                height += 1
                if not height % LEVEL_HEIGHT:
                    done.append(Node(height // LEVEL_HEIGHT, size >> height, leaf))
            nodes.append(leaf)
            self.size = size + 1
        return done

    def root(self) -> bytes:
        """The tree head over all leaves so far; `EMPTY_ROOT` for none."""
        if not self._nodes:
            return EMPTY_ROOT
        root = self._nodes[-1]
        for node in reversed(self._nodes[:-1]):
            root = sha256(b"\x01" + node + root).digest()
        return root

    def subtrees(self) -> list[tuple[int, int, bytes]]:
        """(first leaf index, number of leaves, hash) of each complete subtree, left to right."""
        out, first = [], 0
        bits = [1 << bit for bit in range(self.size.bit_length() - 1, -1, -1) if self.size >> bit & 1]
        for count, node in zip(bits, self._nodes, strict=True):
            out.append((first, count, node))
            first += count
        return out
