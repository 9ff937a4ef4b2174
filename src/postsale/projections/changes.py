"""When something read from a customer's facts last changed, and which fact did it, by what is known now. Pure.

A band or a lifecycle stage moves with time as well as with facts: windows slide, inputs go stale. So days are compared by how they
ended, and within the day of the change the moment is found. Imports fold and events.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from postsale.events import DAY_US
from postsale.projections.folding import Fact, FeatureValues, Fold, State

LOOK_BACK_DAYS: Final = 366

V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class Changed(Generic[V]):
    """The last change at or before a time."""

    at_us: int  # the first microsecond of the new reading
    before: V  # one microsecond earlier
    after: V
    cause: Fact | None  # the last fact of that microsecond; None: time passed


def last_change(
    fold: Fold, facts: Sequence[Fact], as_of_us: int, read: Callable[[FeatureValues], V], *, look_back_days: int = LOOK_BACK_DAYS
) -> Changed[V] | None:
    """The last time within `look_back_days` whole UTC days at which `read` began to give what it gives at `as_of_us`.

    None when every day in that time ended with the same reading: a change that is taken back on the same day is none. On the day of
    the change a moment is given before which it was another reading; if it went to and fro on that day, one such moment. Facts must
    have occurred by `as_of_us`.
    """
    ordered = sorted(facts, key=lambda f: (f.occurred_at_us, f.position))
    today = as_of_us // DAY_US
    ends = [*((day + 1) * DAY_US - 1 for day in range(today - look_back_days, today)), as_of_us]
    state, index = fold.empty(), 0
    readings: list[V] = []
    for end in ends:
        index = _add_until(fold, state, ordered, index, end)
        readings.append(read(fold.finish(state, end)))
    now = readings[-1]
    last = next((i for i in range(len(ends) - 2, -1, -1) if readings[i] != now), None)
    if last is None:
        return None
    return _on_that_day(fold, ordered, ends[last], ends[last + 1], now, read)


def _on_that_day(fold: Fold, ordered: Sequence[Fact], low_us: int, high_us: int, now: V, read: Callable[[FeatureValues], V]) -> Changed[V]:
    """Halves the times of facts, then the time between two: at `low_us` it reads otherwise, at `high_us` it reads `now`."""
    base = fold.empty()
    start = _add_until(fold, base, ordered, 0, low_us)

    def state_at(us: int) -> State:
        state = fold.copy(base)
        _add_until(fold, state, ordered, start, us)
        return state

    times = sorted({f.occurred_at_us for f in ordered[start:] if f.occurred_at_us <= high_us})
    points = [low_us, *times, high_us]
    low, high = 0, len(points) - 1
    while high - low > 1:
        middle = (low + high) // 2
        if read(fold.finish(state_at(points[middle]), points[middle])) == now:
            high = middle
        else:
            low = middle
    low_us, high_us = points[low], points[high]
    state = state_at(high_us - 1)
    before = read(fold.finish(state, high_us - 1))
    if before != now:
        facts = [f for f in ordered if f.occurred_at_us == high_us]
        return Changed(high_us, before, now, facts[-1] if facts else None)
    high_us -= 1  # from the fact before, or the day's beginning, until here time alone passes
    while high_us - low_us > 1:
        middle = (low_us + high_us) // 2
        reading = read(fold.finish(state, middle))
        low_us, high_us = (low_us, middle) if reading == now else (middle, high_us)
    return Changed(high_us, read(fold.finish(state, low_us)), now, None)


def _add_until(fold: Fold, state: State, ordered: Sequence[Fact], index: int, us: int) -> int:
    while index < len(ordered) and ordered[index].occurred_at_us <= us:
        fold.add(state, ordered[index])
        index += 1
    return index
