"""Regions: which evidence a row of a decision table matches, as sets that can be met and cut, so that overlaps are shown, not guessed.

A cell is a set of values of one input, a `when` is a box of them. Exact while inputs are independent of each other: of two inputs that
never go together in the world nothing is known here. Pure; may import expressions only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from postsale.agents.expressions import Cell, InputType, Value

LOW, HIGH = -(10**30), 10**30  # beyond every integer that evidence may hold
_MOST_STEPS = 20_000
_BOTH: frozenset[Value] = frozenset({True, False})
Spans = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Values:
    """A set of values of one input; whether "not known" is among them is `missing`."""

    kind: InputType
    missing: bool
    spans: Spans = ()  # of integers: ascending, apart, both ends included
    named: frozenset[Value] = frozenset()  # of texts and booleans
    rest: bool = False  # every text but those named

    def __and__(self, other: Values) -> Values:
        missing = self.missing and other.missing
        if self.kind == "integer":
            met = ((max(a, c), min(b, d)) for a, b in self.spans for c, d in other.spans)
            return Values("integer", missing, tuple((a, b) for a, b in met if a <= b))
        if self.rest and other.rest:
            return Values(self.kind, missing, named=self.named | other.named, rest=True)
        if self.rest or other.rest:
            some, but = (other, self) if self.rest else (self, other)
            return Values(self.kind, missing, named=some.named - but.named)
        return Values(self.kind, missing, named=self.named & other.named)

    def __invert__(self) -> Values:
        if self.kind == "integer":
            edges, at = [], LOW
            for a, b in self.spans:
                edges.append((at, a - 1))
                at = b + 1
            return Values("integer", not self.missing, tuple((a, b) for a, b in [*edges, (at, HIGH)] if a <= b))
        if self.kind == "boolean":
            return Values("boolean", not self.missing, named=_BOTH - self.named)
        return Values("text", not self.missing, named=self.named, rest=not self.rest)

    def __bool__(self) -> bool:
        return self.missing or self.rest or bool(self.spans or self.named)

    def example(self) -> Value:
        """One of them; "not known" only where there is nothing else."""
        for a, b in self.spans:
            return min(max(0, a), b)
        if self.rest:
            return next(text for n in range(len(self.named) + 1) if (text := f"other{n or ''}") not in self.named)
        return min(self.named, key=str) if self.named else None


Box = Mapping[str, Values]
"""What a `when` matches: a set for each input that it names; any value of the others."""


class Without(NamedTuple):
    """What a point must not be in: the box, except for what is in one of `unless`."""

    box: Box
    unless: tuple[Box, ...] = ()


class TooManyCases(Exception):
    """It cannot be told within bounds."""


def values_of(cell: Cell, kind: InputType) -> Values:
    """The values that satisfy a cell."""
    numbers = [v for v in cell.operands if isinstance(v, int)]
    match cell.op:
        case "missing":
            return Values(kind, True)
        case "known":
            return ~Values(kind, True)
        case "==" | "in":
            return _some(kind, cell.operands)
        case "!=" | "not in":
            return ~_some(kind, cell.operands) & ~Values(kind, True)
        case "between":
            return Values(kind, False, ((numbers[0], numbers[1]),))
        case "<":
            return Values(kind, False, ((LOW, numbers[0] - 1),))
        case "<=":
            return Values(kind, False, ((LOW, numbers[0]),))
        case ">":
            return Values(kind, False, ((numbers[0] + 1, HIGH),))
        case ">=":
            return Values(kind, False, ((numbers[0], HIGH),))


def _some(kind: InputType, operands: tuple[Value, ...]) -> Values:
    if kind != "integer":
        return Values(kind, False, named=frozenset(operands))
    spans: list[tuple[int, int]] = []
    for n in sorted(v for v in set(operands) if isinstance(v, int)):
        if spans and spans[-1][1] == n - 1:
            spans[-1] = (spans[-1][0], n)
        else:
            spans.append((n, n))
    return Values(kind, False, tuple(spans))


def box_of(cells: Mapping[str, Cell], inputs: Mapping[str, InputType]) -> Box:
    """What a parsed `when` matches."""
    return {name: values_of(cell, inputs[name]) for name, cell in sorted(cells.items())}


def meet(a: Box, b: Box) -> Box | None:
    """What both match; None when that is nothing."""
    met = {**a, **{name: a[name] & values if name in a else values for name, values in b.items()}}
    return met if all(met.values()) else None


def point_in(box: Box, without: Sequence[Without] = ()) -> dict[str, Value] | None:
    """Values of inputs that are in the box and in nothing of `without`; None when there are none. Raises TooManyCases."""
    return _Search().point(box, tuple(without))


class _Search:
    def __init__(self) -> None:
        self.steps = 0

    def point(self, box: Box, without: tuple[Without, ...]) -> dict[str, Value] | None:
        self.steps += 1
        if self.steps > _MOST_STEPS:
            raise TooManyCases
        for n, clause in enumerate(without):
            if meet(box, clause.box) is None:
                continue
            inside, rest = dict(box), without[n + 1 :]
            for name, values in clause.box.items():
                had = inside.get(name)
                outside = ~values if had is None else had & ~values
                if outside and (found := self.point({**inside, name: outside}, rest)) is not None:
                    return found
                inside[name] = values if had is None else had & values
            for allowed in clause.unless:
                met = meet(inside, allowed)
                if met is not None and (found := self.point(met, rest)) is not None:
                    return found
            return None
        return {name: values.example() for name, values in box.items()} if all(box.values()) else None


def shown(point: Mapping[str, Value]) -> str:
    """A point in words, such as `segment vip, failed_payments 2`."""
    return ", ".join(f"{name} {'not known' if v is None else v}" for name, v in point.items()) or "anything"
