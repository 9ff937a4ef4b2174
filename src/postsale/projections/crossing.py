"""The smallest change of facts that would put a customer into the next band: searched in a fixed order, and verified by folding again.

A counterfactual says how the score works, not what a customer will do. Pure. Imports health, fold, signals' base and events.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from heapq import nsmallest
from itertools import combinations_with_replacement
from typing import Any, Final, Literal, NamedTuple

from pydantic import TypeAdapter, ValidationError

from postsale.errors import InvalidInput
from postsale.events import DAY_US, UtcDatetime, from_us
from postsale.projections.folding import Fact, FeatureValues, State, fact_from
from postsale.projections.health import HealthModel, Lever, Score

TOGETHER: Final = 3  # every mixture of up to so many facts is tried
ALONE: Final = 30  # and up to so many of one kind


_TIME: Final[TypeAdapter[UtcDatetime]] = TypeAdapter(UtcDatetime)


class Move(NamedTuple):
    """So many facts of one kind more, or so many of the newest ones not there."""

    lever: str
    kind: str  # wire name without version
    action: Literal["add", "remove"]
    facts: tuple[Fact, ...]  # those added, or those removed, the newest first

    def to_dict(self) -> dict[str, Any]:
        """JSON types. Positions of what was removed; what is added has none, and its fields are given."""
        out: dict[str, Any] = {"lever": self.lever, "kind": self.kind, "action": self.action, "count": len(self.facts)}
        if self.action == "remove":
            return {**out, "positions": [f.position for f in self.facts]}
        return {**out, "fields": self.facts[0].fields}


@dataclass(frozen=True, slots=True)
class Crossing:
    """The first change in the order of the search that reaches the next band, or None after `tried` changes."""

    direction: Literal["up", "down"]
    band: str  # the next one; the change may reach beyond it
    moves: tuple[Move, ...] | None
    reached: str | None  # the band it puts the customer into
    value_micro: int | None  # the value then
    tried: int

    @property
    def facts(self) -> int:
        """How many facts are otherwise."""
        return sum(len(move.facts) for move in self.moves or ())


class _Option(NamedTuple):
    lever: Lever
    action: Literal["add", "remove"]
    facts: tuple[Fact, ...]  # the first n are n of it


def crossings(model: HealthModel, facts: Sequence[Fact], as_of_us: int) -> tuple[Crossing, ...]:
    """Up, then down, from what `facts` give at `as_of_us`; without a band above or below, or without a value, none that way.

    Order of the search: fewer facts before more; of as many, by the order of the model's levers, adding before removing. Every mixture
    of up to 3 facts is tried, then up to 30 of one kind. Among those it is the smallest: with 4 and more a mixture might do it with fewer.
    """
    fold = model.fold
    newest = {kind: _newest(facts, kind) for kind in dict.fromkeys(_kind(lever) for lever in model.levers if lever.remove)}
    loose = {f.position for its in newest.values() for f in its}
    fixed = fold.fold(f for f in facts if f.position not in loose)
    movable = [f for f in facts if f.position in loose]
    state = fold.copy(fixed)
    _fill(model, state, movable, ())
    values = fold.finish(state, as_of_us)
    score = model.score(values)
    if score.band is None:
        return ()
    names = [name for name, _ in model.bands]
    here = names.index(score.band)
    goals: dict[Literal["up", "down"], str] = {}
    if here + 1 < len(names):
        goals["up"] = names[here + 1]
    if here:
        goals["down"] = names[here - 1]
    options = list(_options(model, newest, values, max((f.position for f in facts), default=0)))
    found: dict[str, Crossing] = {}
    tried = 0
    for change in _changes(options):
        if len(found) == len(goals):
            break
        tried += 1
        state = fold.copy(fixed)
        _fill(model, state, movable, change)
        then = model.score(fold.finish(state, as_of_us))
        if then.band is None or then.band == score.band:
            continue
        direction: Literal["up", "down"] = "up" if names.index(then.band) > here else "down"
        if direction in goals and direction not in found:
            found[direction] = _verified(model, facts, as_of_us, change, direction, goals[direction], then, tried)
    return tuple(found.get(way) or Crossing(way, band, None, None, None, tried) for way, band in goals.items())


def _kind(lever: Lever) -> str:
    return lever.kind.wire_name.partition("@")[0]


def _newest(facts: Iterable[Fact], kind: str) -> tuple[Fact, ...]:
    return tuple(nsmallest(ALONE, (f for f in facts if f.kind == kind), key=lambda f: (-f.occurred_at_us, -f.position)))


def _options(model: HealthModel, newest: Mapping[str, tuple[Fact, ...]], values: FeatureValues, position: int) -> Iterator[_Option]:
    """`newest` facts of each kind that may be taken away; `position` is the greatest there is."""
    can_occur = _can_occur(values.as_of_us) and _can_occur(values.as_of_us - ALONE * DAY_US)
    for lever in model.levers:
        fields = lever.add(values) if lever.add is not None and can_occur else None
        if fields is not None:
            more = []
            for n in range(ALONE):
                position += 1
                at = from_us(values.as_of_us - n * lever.every_days * DAY_US)
                try:
                    signal = lever.kind(source="counterfactual", id=str(n + 1), occurred_at=at, **fields)
                except ValueError:
                    reason = "its fields make no such signal"
                    raise InvalidInput(what=f"health model {model.name!r}", field=f"lever {lever.name}", reason=reason) from None
                more.append(fact_from(signal, position, recorded_at_us=values.as_of_us))
            yield _Option(lever, "add", tuple(more))
        if lever.remove and newest[_kind(lever)]:
            yield _Option(lever, "remove", newest[_kind(lever)])


def _can_occur(at_us: int) -> bool:
    """Whether a signal may say that it occurred then: values can be asked for at times when nothing can."""
    try:
        _TIME.validate_python(from_us(at_us))
    except (InvalidInput, ValidationError):
        return False
    return True


def _changes(options: Sequence[_Option]) -> Iterator[tuple[tuple[_Option, int], ...]]:
    for size in range(1, TOGETHER + 1):
        for chosen in combinations_with_replacement(range(len(options)), size):
            change = tuple((options[i], chosen.count(i)) for i in sorted(set(chosen)))
            if all(n <= len(option.facts) for option, n in change):
                yield change
    for size in range(TOGETHER + 1, ALONE + 1):
        yield from (((option, size),) for option in options if size <= len(option.facts))


def _fill(model: HealthModel, state: State, movable: Iterable[Fact], change: tuple[tuple[_Option, int], ...]) -> None:
    gone = {f.position for option, n in change if option.action == "remove" for f in option.facts[:n]}
    for fact in movable:
        if fact.position not in gone:
            model.fold.add(state, fact)
    for option, n in change:
        for fact in option.facts[:n] if option.action == "add" else ():
            model.fold.add(state, fact)


def _verified(
    model: HealthModel,
    facts: Sequence[Fact],
    as_of_us: int,
    change: tuple[tuple[_Option, int], ...],
    direction: Literal["up", "down"],
    band: str,
    expected: Score,
    tried: int,
) -> Crossing:
    """Folds the changed facts from the first one; InvalidInput when the model gives another value for the same facts."""
    state = model.fold.empty()
    _fill(model, state, facts, change)
    then = model.score(model.fold.finish(state, as_of_us))
    if then != expected:
        reason = "gave two scores for the same facts; its components must be pure"
        raise InvalidInput(what=f"health model {model.name!r}", field="components", reason=reason)
    moves = tuple(Move(option.lever.name, _kind(option.lever), option.action, option.facts[:n]) for option, n in change)
    return Crossing(direction, band, moves, then.band, then.value_micro, tried)
