"""Filters that say which ids a log cannot have, so that a new id costs no lookup. Pure; imports the standard library only.

An event id is random already (a keyed digest, or a SHA-1 of names), so the bits of a filter are bits of the id: nothing is hashed. Ids
that are not random make a filter say "perhaps" more often, no more. So does one whose kept bits are damaged: to every id.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import sha256
from typing import Final

from postsale.store.plan import Id

FIRST_CAPACITY: Final = 2**20  # ids
_MOST_CAPACITY: Final = 2**23  # bounds what is written when a filter changes: 16 MiB
_BITS_PER_ID: Final = 16  # with three probes: of new ids, a full filter suspects one in 200


class Filter:
    """A Bloom filter of fixed capacity, a power of two."""

    __slots__ = ("_mask", "bits", "count")

    def __init__(self, count: int, bits: bytearray) -> None:
        self.count = count  # of ids
        self.bits = bits
        self._mask = len(bits) * 8 - 1

    @classmethod
    def empty(cls, before: Filter | None) -> Filter:
        """The filter to go on with when the one before is full: twice its size, so that there are few of them."""
        capacity = FIRST_CAPACITY if before is None else max(FIRST_CAPACITY, min(2 * before.capacity, _MOST_CAPACITY))
        return cls(0, bytearray(capacity * _BITS_PER_ID // 8))

    @classmethod
    def kept(cls, count: int, bits: bytes, digest: bytes) -> Filter:
        """A filter that was kept with its digest."""
        return cls(count, bytearray(bits)) if sha256(bits).digest() == digest else cls.of_anything()

    @classmethod
    def of_anything(cls) -> Filter:
        """The filter that suspects every id, and takes none."""
        return cls(0, bytearray(b"\xff"))

    @property
    def capacity(self) -> int:
        return len(self.bits) * 8 // _BITS_PER_ID

    def digest(self) -> bytes:
        return sha256(self.bits).digest()

    def add(self, raw_ids: Iterable[bytes]) -> None:
        """Ids of 16 bytes."""
        bits, mask = self.bits, self._mask
        for raw_id in raw_ids:
            number = int.from_bytes(raw_id)
            # Three stretches that hold neither the version nor the variant of a UUID.
            for probe in (number & mask, number >> 27 & mask, number >> 84 & mask):
                bits[probe >> 3] |= 1 << (probe & 7)
            self.count += 1

    def suspects(self, ids: Sequence[Id]) -> list[Id]:
        """Those that may have been added; all the others certainly were not."""
        bits, mask = self.bits, self._mask
        return [
            id_
            for id_ in ids
            if bits[(probe := (number := int.from_bytes(id_[1])) & mask) >> 3] >> (probe & 7) & 1
            and bits[(probe := number >> 27 & mask) >> 3] >> (probe & 7) & 1
            and bits[(probe := number >> 84 & mask) >> 3] >> (probe & 7) & 1
        ]
