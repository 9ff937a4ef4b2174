"""What every outcome is: a value with its population, who was left out and why, its interval, its period and two clocks.

No arithmetic of outcomes here. Imports events and errors only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from fractions import Fraction
from typing import Any, Literal

from iso4217 import Currency as Iso

from postsale.errors import InvalidInput
from postsale.events import from_us, iso, to_us


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """What an outcome is about: a period [start, end), read at `as_of` (true in the world) as known at `known_at`.

    What holds at `start` is what held just before it: a change that takes effect at `start` is in the period. InvalidInput when the period
    is empty or not over at `as_of`.
    """

    start: datetime
    end: datetime
    as_of: datetime
    known_at: datetime
    knowledge: Literal["recorded", "claimed"] = "recorded"  # `claimed`: known when the source says so, for backfills

    def __post_init__(self) -> None:
        if not self.start < self.end:
            raise InvalidInput(what="period", field="end", reason="expected a time after the start")
        if self.end > self.as_of:
            reason = f"the period is not over at {iso(to_us(self.as_of))}; end it there, or ask later"
            raise InvalidInput(what="period", field="end", reason=reason)

    @property
    def start_us(self) -> int:
        return to_us(self.start)

    @property
    def end_us(self) -> int:
        return to_us(self.end)

    @property
    def as_of_us(self) -> int:
        return to_us(self.as_of)

    def to_dict(self) -> dict[str, str]:
        times = {"start": self.start, "end": self.end, "as_of": self.as_of, "known_at": self.known_at}
        return {name: iso(to_us(at)) for name, at in times.items()} | {"knowledge": self.knowledge}


@dataclass(frozen=True, slots=True)
class Interval:
    """Where the value would lie in `level` of like populations, each customer (or answer) counting as one independent draw."""

    low: float
    high: float  # infinite where it is open, as of a median that may never be reached
    level: float
    source: str  # the method, with its reference

    def to_dict(self) -> dict[str, Any]:
        return {"low": self.low, "high": None if self.high == math.inf else self.high, "level": self.level, "source": self.source}


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """One outcome. `value` is None where the population is empty, never 0; `note` says why, and what to keep in mind."""

    name: str
    value: float | None
    unit: str
    population: str  # who is counted, in words
    n: int  # how many are
    frame: Frame
    numerator: int | None = None  # of a ratio; money in minor units
    denominator: int | None = None
    excluded: Mapping[str, int] = field(default_factory=dict)  # how many were left out, by reason
    interval: Interval | None = None  # None: not an estimate, or too few to give one
    cohort: str | None = None
    currency: str | None = None  # ISO 4217
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """JSON types; times are RFC 3339."""
        return {
            "name": self.name,
            "value": self.value,
            "unit": self.unit,
            "population": self.population,
            "n": self.n,
            "numerator": self.numerator,
            "denominator": self.denominator,
            "excluded": dict(self.excluded),
            "interval": None if self.interval is None else self.interval.to_dict(),
            "cohort": self.cohort,
            "currency": self.currency,
            "note": self.note,
            **self.frame.to_dict(),
        }


@dataclass(frozen=True, slots=True)
class Rates:
    """Exchange rates of one date: so many units of `to` for one unit of each currency, both in major units.

    The same rates hold at the start and at the end of a period, so that a rate's move is nobody's expansion.
    """

    to: str  # ISO 4217
    on: date
    per_unit: Mapping[str, Decimal]

    def convert(self, amounts: Mapping[str, int]) -> int | None:
        """Minor units of several currencies as minor units of `to`, rounded half to even once; None when a rate is missing."""
        total = Fraction(0)
        for currency, minor in amounts.items():
            rate = Decimal(1) if currency == self.to else self.per_unit.get(currency)
            if rate is None:
                if minor:
                    return None
                continue
            total += minor * Fraction(rate) * Fraction(10) ** (_exponent(self.to) - _exponent(currency))
        return round(total)


def _exponent(currency: str) -> int:
    return Iso(currency).exponent or 0


def day_of(us: int) -> str:
    """A time for people: its day in UTC."""
    return f"{from_us(us):%Y-%m-%d}"
