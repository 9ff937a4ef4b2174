"""The sources layer: how what happened reaches us. Late, doubled, out of order, after a silent day, wrong and corrected; never lost.

May import `aggregates`, `events` and the simulator's layers below.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import count
from typing import Any

from postsale.aggregates import signals as s
from postsale.aggregates.signals import Signal
from postsale.simulator.draws import Draws, Stream
from postsale.simulator.model import Source
from postsale.simulator.state import ConsentGivenAt, Customer, ErasureRequestedAt, Fact, Happening, World, daily

_DAY = timedelta(days=1)
_MAY_BE_WRONG: tuple[type[Signal], ...] = (s.SurveyAnswered, s.SubscriptionStarted, s.SubscriptionChanged, s.AccountProfiled)


@dataclass(frozen=True, slots=True)
class Delivery:
    """A signal reaching us: `at` is when it arrives, which may be long after it occurred."""

    at: datetime
    customer: str
    signal: Signal


Arrival = Delivery | ConsentGivenAt | ErasureRequestedAt


class Sources:
    """What is on its way. Memory is what has happened and not arrived yet, whatever the length of the story."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._waiting: list[tuple[datetime, str, int, Arrival]] = []
        self._number = count()
        self._silent: dict[tuple[Source, int], bool] = {}

    def take(self, c: Customer, happening: Happening) -> None:
        """What happened to a customer goes on its way."""
        if not isinstance(happening, Fact):
            self._send(happening)
            return
        d = Stream(self._world.seed, "delivery", happening.id).of(happening.source)
        numbers = [d.uniform() for _ in range(8)]
        wrong = numbers[7] < self._world.model.wrong and happening.kind in _MAY_BE_WRONG
        self._deliver(c, happening if not wrong else _said_wrong(happening, d), numbers)
        if wrong:
            later = happening.at + timedelta(days=d.exponential(self._world.model.corrected_days), minutes=1)
            self._deliver(c, _corrected(happening, later), [d.uniform() for _ in range(8)])

    def arrived(self, until: datetime) -> Iterator[Arrival]:
        """What has reached us before `until` and was not handed out before, by time of arrival."""
        while self._waiting and self._waiting[0][0] < until:
            yield heapq.heappop(self._waiting)[3]

    def silent(self, source: Source, day: int) -> bool:
        """Whether the source says nothing on that day. Billing is never silent."""
        if day < 0 or source == "billing":
            return False
        key = source, day
        if key not in self._silent:
            self._silent[key] = self._world.stream.of(f"silent {source}", day).chance(daily(self._world.model.silent_per_year))
        return self._silent[key]

    def _deliver(self, c: Customer, fact: Fact, numbers: list[float]) -> None:
        m = self._world.model
        delay, late, how_late, again, how_long, catch_up = numbers[:6]
        hours = -m.delay_h[fact.source] * math.log(delay)
        if late < m.late:
            hours -= 24 * m.late_days * math.log(how_late)
        at = fact.at + timedelta(hours=hours)
        day = (at - self._world.start).days
        if self.silent(fact.source, day):
            while self.silent(fact.source, day):
                day += 1
            at = self._world.start + day * _DAY + timedelta(hours=2 * catch_up)
        signal = fact.kind(source=fact.source, id=fact.id, occurred_at=fact.at, **fact.fields)
        self._send(Delivery(at, c.name, signal))
        if again < m.repeated:
            self._send(Delivery(at + timedelta(minutes=1, hours=47.9 * how_long), c.name, signal))

    def _send(self, arrival: Arrival) -> None:
        heapq.heappush(self._waiting, (arrival.at, arrival.customer, next(self._number), arrival))


def _said_wrong(fact: Fact, d: Draws) -> Fact:
    """The same fact with a value that is wrong: another score, ten times the revenue, twice the seats."""
    fields = dict(fact.fields)
    if fact.kind is s.SurveyAnswered:
        low, high = fields.get("scale_min", 0), fields.get("scale_max", 10)
        fields["score"] = low + high - fields["score"] if fields["score"] * 2 != low + high else low
    elif fact.kind is s.AccountProfiled:
        fields["seats"] *= 2
    else:
        fields["mrr_minor"] *= 10 if d.chance(0.5) else 12
    return fact._replace(fields=fields)


def _corrected(fact: Fact, at: datetime) -> Fact:
    """What is said later, whole and right."""
    kinds: dict[type[Signal], type[Signal]] = {s.SurveyAnswered: s.SurveyRevised, s.SubscriptionStarted: s.SubscriptionChanged}
    fields: dict[str, Any] = dict(fact.fields)
    return Fact(kinds.get(fact.kind, fact.kind), fact.source, f"{fact.id}-corrected", at, fields)
