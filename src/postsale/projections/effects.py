"""What each fact did to a score, without folding everything again for each: exact, and held equal to folding again by tests.

Two ways. `Gauge` follows the value while facts are added one by one and computes again only what the newest one can have changed.
`leaving_out` folds what is common to the states that each lack one fact, then adds the others by halves: no leaf needs an inverse.
Pure; knows no leaf's inside. Imports health, fold and events.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple, cast

from postsale.projections.algebra import Leaf
from postsale.projections.derived import Derived
from postsale.projections.folding import Fact, FeatureValues, Fold, State
from postsale.projections.health import DEFAULT_ROW, Applied, HealthModel, Judged

_ORDER: Final = ""  # no feature has this name: what was read is the newest fact's time or position


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


class Reading(NamedTuple):
    """What a gauge shows: the value, and what it is weighed from."""

    value_micro: int | None
    judged: tuple[Judged, ...]  # of the components, in their order
    applied: Applied


class Gauge:
    """The value of a model at one time while facts are added in any order. Facts after that time are not for it.

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
        self.reading = self._weighed()

    def add(self, fact: Fact) -> Reading:
        """What it shows with this fact too; the very same object when the fact changed nothing."""
        changed = self._model.fold.follow(self._values, self._state, fact)
        changed.add(_ORDER)
        again = False
        for index, reads in enumerate(self._reads):
            if not reads.isdisjoint(changed):
                again = self._judge(index) or again
        if not self._row_reads.isdisjoint(changed):
            again = self._apply() or again
        if again:
            self.reading = self._weighed()
        return self.reading

    def _weighed(self) -> Reading:
        judged = tuple(self._judged)
        return Reading(self._model.value([score for score, _ in judged], self._applied.row), judged, self._applied)

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

    Adds each fact that is not wanted once, and each of n wanted ones log n times: one halving of them after another.
    """
    gone = set(wanted)
    if gone:
        rest = fold.fold(fact for index, fact in enumerate(facts) if index not in gone)
        yield from _within(fold, facts, sorted(gone), rest)


def _within(fold: Fold, facts: Sequence[Fact], wanted: Sequence[int], rest: State) -> Iterator[tuple[int, State]]:
    """`rest` holds everything but the wanted ones, and is used up."""
    if len(wanted) == 1:
        yield wanted[0], rest
        return
    left, right = wanted[: len(wanted) // 2], wanted[len(wanted) // 2 :]
    for mine, others, state in ((left, right, fold.copy(rest)), (right, left, rest)):
        for index in others:
            fold.add(state, facts[index])
        yield from _within(fold, facts, mine, state)
