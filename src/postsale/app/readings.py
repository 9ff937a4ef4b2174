"""Customers with their health, as agents read them: one from the log, or all of a tenant in one pass.

Part of the wiring: may import everything below `app`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from postsale.agents.evidence import HealthReading
from postsale.agents.expressions import InputType
from postsale.agents.readings import RunnerHealth
from postsale.aggregates.customer import CustomerAggregate
from postsale.aggregates.evolve import evolve_decision, evolve_facts
from postsale.aggregates.identity import CUSTOMERS
from postsale.events import DAY_US, Lane, StoredEvent, StreamId
from postsale.projections.bulk import read_facts
from postsale.projections.customer_health import CUSTOMER_HEALTH
from postsale.projections.folding import Fact, Fold, State, fact_of
from postsale.projections.health import HealthModel
from postsale.projections.lifecycle import Lifecycle, lifecycle_stage, read_lifecycle
from postsale.projections.partition import POISON
from postsale.projections.why import TREND_DAYS, Health, explain_health
from postsale.store.contract import Query
from postsale.store.log import Log

_TOGETHER = 32  # facts of one customer that are taken in at once


@dataclass(slots=True)
class Subject:
    """A customer as agents look at it."""

    customer: CustomerAggregate
    reading: HealthReading


def health_of(
    log: Log, model: HealthModel, customer: CustomerAggregate, *, as_of_us: int | None = None, known_at_us: int | None = None
) -> Health:
    """One customer's health, from the log: it has seen every fact acknowledged before.

    Without `as_of_us` it is now, or the newest fact's time where a source's clock is a little ahead; without `known_at_us` it is
    everything that is recorded.
    """
    facts, as_of_us, known_at_us, position = _facts_of(log, model.fold, customer, as_of_us, known_at_us)
    return explain_health(model, facts, as_of_us, known_at_us, position=position)


def lifecycle_of(
    log: Log, model: HealthModel, customer: CustomerAggregate, *, as_of_us: int | None = None, known_at_us: int | None = None
) -> Lifecycle:
    """One customer's lifecycle stage, from the log, with the times of `health_of`; by the shipped stages where the model has none."""
    model = model if model.stage is not None else CUSTOMER_HEALTH
    facts, as_of_us, known_at_us, _ = _facts_of(log, model.fold, customer, as_of_us, known_at_us)
    return read_lifecycle(model.fold, model.stage or lifecycle_stage, facts, as_of_us, known_at_us)


def _facts_of(
    log: Log, fold: Fold, customer: CustomerAggregate, as_of_us: int | None, known_at_us: int | None
) -> tuple[list[Fact], int, int, int]:
    """The customer's facts, both times with their defaults, and how far the log was read."""
    newest = next(iter(log.store.read(Query(tenant=customer.stream.tenant, backward=True, limit=1))), None)
    now_us = log.clock.now_us()
    facts = read_facts(log.store, customer.fact_streams, as_of_us=as_of_us, known_at_us=known_at_us)
    if as_of_us is None:
        as_of_us = max([now_us, *(f.occurred_at_us for f in facts if f.kind in fold.kinds)])
    if known_at_us is None:
        known_at_us = max(now_us, newest.recorded_at_us if newest else 0)
    return facts, as_of_us, known_at_us, newest.position if newest else 0


class Readings:
    """Customers as agents look at them, singly or all of a tenant in one pass; the readings are those of the engine."""

    def __init__(self, log: Log, model: HealthModel, health: RunnerHealth) -> None:
        self._log = log
        self._fold = model.fold
        self._health = health

    def subject(self, stream: StreamId, at_us: int, wanted: frozenset[str], *, known_at_us: int | None = None) -> Subject:
        """One customer, read from the log, as known at a time."""
        customer = self._log.customer(stream, known_at_us=known_at_us)
        return Subject(customer, self._health.read(customer, at_us, wanted, known_at_us=known_at_us))

    @property
    def features(self) -> Mapping[str, InputType | None]:
        """Names of evidence beyond a customer's own state, with their types where they are known."""
        return self._health.features

    def reading(self, customer: CustomerAggregate, at_us: int, wanted: frozenset[str], *, known_at_us: int | None = None) -> HealthReading:
        """The health of a customer that was read already, at a time, as known at a time."""
        return self._health.read(customer, at_us, wanted, known_at_us=known_at_us)

    def subjects(self, tenant: str, at_us: int, wanted: frozenset[str], unreadable: set[StreamId]) -> Iterator[Subject]:
        """Every customer of a tenant in one pass over its events; customers that are part of another one and have no open matter are left out.

        Customers with an event that cannot be read here are added to `unreadable` instead. Memory is bounded by customers, not by
        events. Raises NotLive.
        """
        self._health.require_live()
        fold, before_us, trend = self._fold, at_us - TREND_DAYS * DAY_US, "health_trend" in wanted
        models = self._health.models_of(tenant)
        rows: dict[StreamId, _Row] = {}
        for stored in self._log.store.read(Query(tenant=tenant, category=CUSTOMERS)):
            if stored.stream in unreadable:
                continue
            row = rows.get(stored.stream)
            if row is None:
                row = rows[stored.stream] = _Row(CustomerAggregate(stream=stored.stream), fold.empty(), fold.empty())
            try:
                if stored.lane is Lane.DECISION:
                    row.settle()
                    row.customer = evolve_decision(row.customer, stored)
                elif stored.occurred_at_us <= at_us:
                    row.take(stored)
                    if stored.kind in fold.kinds:
                        fact: Fact = fact_of(stored)
                        fold.add(row.state, fact)
                        if trend and fact.occurred_at_us <= before_us:
                            fold.add(row.before, fact)
            except POISON:
                unreadable.add(stored.stream)
                del rows[stored.stream]
        for stream, row in rows.items():
            try:
                row.settle()
                if row.customer.merged_into is not None and not (row.customer.pending or row.customer.decisions):
                    continue
                if row.customer.joined:  # few: their facts are on other streams too
                    subject = self.subject(stream, at_us, wanted)
                else:
                    position, before = fold.position(row.state), row.before if trend else None
                    subject = Subject(row.customer, self._health.reading(row.state, at_us, position=position, before=before, models=models))
            except POISON:
                unreadable.add(stream)
                continue
            yield subject


@dataclass(slots=True)
class _Row:
    customer: CustomerAggregate
    state: State
    before: State
    facts: list[StoredEvent] = field(default_factory=list)

    def take(self, fact: StoredEvent) -> None:
        self.facts.append(fact)
        if len(self.facts) >= _TOGETHER:
            self.settle()

    def settle(self) -> None:
        if self.facts:
            self.customer = evolve_facts(self.customer, self.facts)
            self.facts = []
