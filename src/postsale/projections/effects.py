"""What each fact did to a score, without folding everything again for each: exact, and held equal to folding again by tests.

Two ways. `Gauge` follows the score while facts are added one by one and computes again only what the newest one can have changed.
`leaving_out` folds everything but one fact by merging the states on either side of it: no leaf needs an inverse. Pure; knows no leaf's
inside. Imports health, fold and events.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from math import isqrt
from typing import Any, Final, cast

from postsale.projections.algebra import Leaf
from postsale.projections.derived import Derived
from postsale.projections.fold import Fact, FeatureValues, Fold, State
from postsale.projections.health import DEFAULT_ROW, Applied, HealthModel, Judged, Score

_ORDER: Final = ""  # no feature has this name: what was read is the newest fact's time or position
_ORDER_CHANGED: Final = frozenset({_ORDER})
_LEAST_BLOCK: Final = 16


class _Watched(Mapping[str, Any]):
    """`FeatureValues` that note which of them were read."""

    def __init__(self, values: FeatureValues) -> None:
        self._values = values
        self.as_of_us = values.as_of_us
        self.read: set[str] = set()

    @property
    def newest_us(self) -> int | None:
        self.read.add(_ORDER)
        return self._values.newest_us

    @property
    def position(self) -> int:
        self.read.add(_ORDER)
        return self._values.position

    def of(self, feature: Leaf[Any] | Derived[Any]) -> Any:
        return self[feature.name]

    def __getitem__(self, name: str) -> Any:
        self.read.add(name)
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


class Gauge:
    """The score of a model at one time while facts are added in any order. Facts after that time are not for it.

    A component is judged again only when a feature that it read has another value: components must be pure, as they are declared.
    """

    def __init__(self, model: HealthModel, as_of_us: int) -> None:
        self._model = model
        self._state = model.fold.empty()
        self._values = model.fold.finish(self._state, as_of_us)
        self._judged: list[Judged] = [(None, None)] * len(model.components)
        self._reads: list[frozenset[str]] = [frozenset()] * len(model.components)
        self._row_reads: frozenset[str] = frozenset()
        self._applied = Applied(0, DEFAULT_ROW, None, None, "")
        for index in range(len(model.components)):
            self._judge(index)
        self._apply()
        self.score = model.weigh(self._judged, self._applied)

    def add(self, fact: Fact) -> Score:
        """The score with this fact too; the very same object when the fact changed nothing."""
        self._model.fold.add(self._state, fact)
        self._values, changed = self._model.fold.refreshed(self._values, self._state, fact)
        changed |= _ORDER_CHANGED
        again = False
        for index, reads in enumerate(self._reads):
            if not reads.isdisjoint(changed):
                again = self._judge(index) or again
        if not self._row_reads.isdisjoint(changed):
            again = self._apply() or again
        if again:
            self.score = self._model.weigh(self._judged, self._applied)
        return self.score

    def _judge(self, index: int) -> bool:
        watched, before = _Watched(self._values), self._judged[index]
        self._judged[index] = self._model.judge(self._model.components[index], cast(FeatureValues, watched))
        self._reads[index] = frozenset(watched.read)
        return self._judged[index] != before

    def _apply(self) -> bool:
        watched, before = _Watched(self._values), self._applied
        self._applied = self._model.applied(cast(FeatureValues, watched))
        self._row_reads = frozenset(watched.read)
        return self._applied != before


def leaving_out(fold: Fold, facts: Sequence[Fact], wanted: Collection[int]) -> Iterator[tuple[int, State]]:
    """For each wanted index the state of all the other facts, ascending. Each state is to be read before the next one is asked for.

    Adds each fact about twice, and for each wanted one a few more: the facts of its block, of √n facts, one halving after another.
    """
    size = max(_LEAST_BLOCK, isqrt(len(facts)))
    blocks = {index // size for index in wanted}
    after: dict[int, State] = {}
    state = fold.empty()
    for block in reversed(range(-(-len(facts) // size))):
        if block in blocks:
            after[block] = fold.copy(state)
        _add_all(fold, state, facts[block * size : (block + 1) * size])
    state = fold.empty()
    for block in range(-(-len(facts) // size)):
        low, high = block * size, min((block + 1) * size, len(facts))
        if block in blocks:
            rest = fold.merge(state, after.pop(block))
            yield from _within(fold, facts, sorted(i for i in wanted if low <= i < high), low, high, rest)
        _add_all(fold, state, facts[low:high])


def _within(fold: Fold, facts: Sequence[Fact], wanted: Sequence[int], low: int, high: int, rest: State) -> Iterator[tuple[int, State]]:
    """`rest` holds everything but low … high, and is used up."""
    if not wanted:
        return
    if high - low == 1:
        yield low, rest
        return
    middle = (low + high) // 2
    left, right = [i for i in wanted if i < middle], [i for i in wanted if i >= middle]
    if left:
        other = fold.copy(rest) if right else rest
        _add_all(fold, other, facts[middle:high])
        yield from _within(fold, facts, left, low, middle, other)
    if right:
        _add_all(fold, rest, facts[low:middle])
        yield from _within(fold, facts, right, middle, high, rest)


def _add_all(fold: Fold, state: State, facts: Sequence[Fact]) -> None:
    for fact in facts:
        fold.add(state, fact)
