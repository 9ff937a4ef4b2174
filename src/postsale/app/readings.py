"""Customers with their health, as agents read them: one from the log, or all of a tenant in one pass.

Part of the wiring: may import everything below `app`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from uuid import UUID

from postsale.agents.evidence import HealthReading
from postsale.agents.expressions import InputType
from postsale.aggregates.customer import CustomerAggregate, evolve_decision, evolve_fact
from postsale.aggregates.decisions import Scalar
from postsale.aggregates.identity import CUSTOMERS
from postsale.events import DAY_US, MAX_INT, Header, Lane, Origin, StoredEvent, StreamId
from postsale.projections.bulk import read_facts
from postsale.projections.fold import Fact, FeatureValues, State, fact_of
from postsale.projections.health import HealthModel, Score
from postsale.projections.why import TREND_DAYS, Health, direction, explain_health
from postsale.store.contract import Query
from postsale.store.log import Log


@dataclass(frozen=True, slots=True)
class Newest:
    """The newest fact of a customer: what causes a trigger."""

    position: int
    event_id: UUID
    origin: Origin
    depth: int


@dataclass(slots=True)
class Subject:
    """A customer as agents look at it: state, health reading, newest fact (None without facts)."""

    customer: CustomerAggregate
    reading: HealthReading
    newest: Newest | None


def health_of(
    log: Log, model: HealthModel, customer: CustomerAggregate, *, as_of_us: int | None = None, known_at_us: int | None = None
) -> Health:
    """One customer's health, from the log: it has seen every fact acknowledged before.

    Without `as_of_us` it is now, or the newest fact's time where a source's clock is a little ahead; without `known_at_us` it is
    everything that is recorded.
    """
    newest = next(iter(log.store.read(Query(backward=True, limit=1))), None)
    now_us = log.clock.now_us()
    facts = read_facts(log.store, customer.fact_streams, as_of_us=as_of_us, known_at_us=known_at_us)
    if as_of_us is None:
        as_of_us = max([now_us, *(f.occurred_at_us for f in facts)])
    if known_at_us is None:
        known_at_us = max(now_us, newest.recorded_at_us if newest else 0)
    return explain_health(model, facts, as_of_us, known_at_us, position=newest.position if newest else 0)


class Readings:
    """The `HealthSource` of agents, over one health model. Its features come along under their own names."""

    def __init__(self, log: Log, model: HealthModel) -> None:
        self._log = log
        self._model = model

    @property
    def features(self) -> Mapping[str, InputType]:
        """Features that evidence can hold: counts, totals and times are integers; others are not offered."""
        leaves = self._model.features.leaves
        whole = {"count", "total", "minimum", "maximum", "first_seen", "last_seen"}
        return {name: "integer" for name, leaf in leaves.items() if leaf.operation in whole and leaf.by is None}

    def read(self, customer: CustomerAggregate, at_us: int) -> HealthReading:
        """The reading of one customer at a time, from the log."""
        facts = read_facts(self._log.store, customer.fact_streams, as_of_us=at_us)
        health = explain_health(self._model, facts, at_us, MAX_INT)
        values = self._model.fold.finish(self._model.fold.fold(facts), at_us)
        return self._reading(values, health.score, health.band, health.trend.direction, facts[-1].position if facts else 0)

    def subject(self, stream: StreamId, at_us: int) -> Subject:
        """One customer, read from the log."""
        customer = self._log.customer(stream)
        newest = Query(streams=customer.fact_streams, lane=Lane.FACT, as_of_us=at_us, backward=True, limit=1)
        last = next(iter(self._log.store.read(newest)), None)
        return Subject(customer, self.read(customer, at_us), None if last is None else _newest(last))

    def subjects(self, tenant: str, at_us: int) -> Iterator[Subject]:
        """Every customer of a tenant in one pass over its events; customers that are part of another one are left out.

        Memory is bounded by customers, not by events.
        """
        fold, before_us = self._model.fold, at_us - TREND_DAYS * DAY_US
        rows: dict[StreamId, _Row] = {}
        for stored in self._log.store.read(Query(tenant=tenant, category=CUSTOMERS)):
            row = rows.get(stored.stream)
            if row is None:
                row = rows[stored.stream] = _Row(CustomerAggregate(stream=stored.stream), fold.empty(), fold.empty())
            if stored.lane is Lane.DECISION:
                row.customer = evolve_decision(row.customer, stored)
            elif stored.occurred_at_us <= at_us:
                row.customer = evolve_fact(row.customer, stored)
                row.newest = stored
                fact: Fact = fact_of(stored)
                fold.add(row.state, fact)
                if fact.occurred_at_us <= before_us:
                    fold.add(row.before, fact)
        for stream, row in rows.items():
            if row.customer.merged_into is not None:
                continue
            if row.customer.joined:  # few: their facts are on other streams too
                yield self.subject(stream, at_us)
                continue
            values = fold.finish(row.state, at_us)
            now, then = self._model.score(values), self._model.score(fold.finish(row.before, before_us))
            newest = _newest(row.newest) if row.newest is not None else None
            reading = self._reading(values, now.score, now.band, _direction(now, then), fold.position(row.state))
            yield Subject(row.customer, reading, newest)

    def _reading(self, values: FeatureValues, score: float | None, band: str | None, trend: str | None, position: int) -> HealthReading:
        offered: dict[str, Scalar | float] = {name: values[name] for name in self.features}
        return HealthReading(
            score=score,
            band=band,
            trend=trend,
            features=offered,
            model=self._model.digest,
            projection=self._model.name,
            projection_version=self._model.version,
            position=position,
        )


@dataclass(slots=True)
class _Row:
    customer: CustomerAggregate
    state: State
    before: State
    newest: StoredEvent | None = None


def _newest(stored: StoredEvent) -> Newest:
    header = Header.from_bytes(stored.header)
    return Newest(stored.position, stored.event_id, header.origin, header.depth)


def _direction(now: Score, then: Score) -> str | None:
    if now.value_micro is None or then.value_micro is None:
        return None
    return direction(now.value_micro - then.value_micro)
