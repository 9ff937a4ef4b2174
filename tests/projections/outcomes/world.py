"""Customers in days: signals at days of 2026, their books, and a period of days."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from postsale.aggregates.signals import Signal
from postsale.events import DAY_US, to_us
from postsale.projections import Fact, Features, FeatureValues, Fold, fact_from
from postsale.projections.outcomes import Book, Frame, Measure, Revenue

ZERO = datetime(2026, 1, 1, tzinfo=UTC)


def at(day: float) -> datetime:
    return ZERO + timedelta(days=day)


def us(day: float) -> int:
    return to_us(at(day))


def frame(start: float = 0, end: float = 90, as_of: float | None = None) -> Frame:
    seen = at(end if as_of is None else as_of)
    return Frame(start=at(start), end=at(end), as_of=seen, known_at=seen)


class Customer:
    """Facts of one customer; positions in the order of the calls. Terms default to subscription s1 in EUR, effective when they occur."""

    def __init__(self, ref: str = "c") -> None:
        self.ref = ref
        self.facts: list[Fact] = []

    def on(self, day: float, kind: type[Signal], *, known: float | None = None, **values: Any) -> Customer:
        fields = values
        if "effective_at" in kind.model_fields:
            fields = {"subscription_id": "s1", "mrr_minor": 0, "interval": "month", "currency": "EUR", "effective_at": day} | values
            fields["effective_at"] = at(fields["effective_at"])
        if "renews_at" in fields:
            fields["renews_at"] = at(fields["renews_at"])
        made = kind(source="test", id="x", occurred_at=at(day), **fields)
        recorded = us(day if known is None else known)
        self.facts.append(fact_from(made, len(self.facts) + 1, recorded_at_us=recorded))
        return self

    def values(self, features: type[Features], day: float, known: float | None = None) -> FeatureValues:
        """As of this day, as known on that one."""
        fold = Fold(features)
        seen = [f for f in self.facts if f.occurred_at_us <= us(day) and (known is None or f.recorded_at_us <= us(known))]
        return fold.finish(fold.fold(seen), us(day))

    def book(self, day: float = 400, known: float | None = None) -> Book:
        return Book.of(self.ref, self.values(Revenue, day, known))


def named(measures: list[Measure], name: str, currency: str | None = None) -> Measure:
    (found,) = (m for m in measures if m.name == name and currency in (None, m.currency))
    return found


def whole_days(time_us: int) -> float:
    return (time_us - us(0)) / DAY_US
