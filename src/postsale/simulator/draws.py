"""Random numbers by name: each is a function of the seed and of what it is for, never of what was drawn before.

So two runs of one seed share every number whose purpose they share, whatever else differs between them (common random numbers), and
a chance that grows turns a "no" into a "yes" and never the other way round. Standard library only.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Sequence
from statistics import NormalDist
from typing import TypeVar

_WORDS = struct.Struct("<8Q")
_UNIT = 2.0**-53
_NORMAL = NormalDist()
_INVERT_BELOW = 30.0  # from this mean on a Poisson number is the rounded normal quantile
T = TypeVar("T")


class Stream:
    """All numbers of one owner, such as a customer: `stream.of("usage", day)` names one purpose."""

    __slots__ = ("_hash",)

    def __init__(self, seed: int, *names: object) -> None:
        self._hash = hashlib.blake2b("\x1f".join(map(str, (seed, *names))).encode() + b"\x1e")

    def of(self, purpose: str, number: int = 0) -> Draws:
        """The numbers of one purpose on one day, or of one occasion; the same ones however often they are asked for."""
        own = self._hash.copy()
        own.update(b"%b\x1f%d" % (purpose.encode(), number))
        return Draws(own)


class Draws:
    """Numbers of one purpose, in order. Each method uses exactly one uniform number, by inversion."""

    __slots__ = ("_block", "_hash", "_left", "_words")

    def __init__(self, own: hashlib.blake2b) -> None:
        self._hash = own
        self._words: tuple[int, ...] = _WORDS.unpack(own.digest())
        self._left, self._block = 0, 0

    def uniform(self) -> float:
        """In (0, 1), never an end of it."""
        if self._left == 8:
            self._block += 1
            more = self._hash.copy()
            more.update(b"\x1f%d" % self._block)
            self._words, self._left = _WORDS.unpack(more.digest()), 0
        word = self._words[self._left]
        self._left += 1
        return ((word >> 12) + 0.5) * 2 * _UNIT

    def chance(self, probability: float) -> bool:
        return self.uniform() < probability

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * self.uniform()

    def whole(self, below: int) -> int:
        """0 to `below` - 1, each as likely."""
        return int(self.uniform() * below)

    def pick(self, among: Sequence[T]) -> T:
        return among[int(self.uniform() * len(among))]

    def weighted(self, weights: Sequence[float]) -> int:
        """An index, by weight; weights need not sum to 1."""
        left = self.uniform() * sum(weights)
        for index, weight in enumerate(weights):
            left -= weight
            if left < 0:
                return index
        return len(weights) - 1

    def normal(self) -> float:
        return _NORMAL.inv_cdf(self.uniform())

    def exponential(self, mean: float) -> float:
        return -mean * math.log(self.uniform())

    def poisson(self, mean: float) -> int:
        """By inversion, so that a larger mean never gives a smaller number."""
        u = self.uniform()
        if mean >= _INVERT_BELOW:
            return max(0, round(mean + math.sqrt(mean) * _NORMAL.inv_cdf(u)))
        p = math.exp(-mean)
        k, reached = 0, p
        while u > reached and p > 0.0:
            k += 1
            p *= mean / k
            reached += p
        return k
