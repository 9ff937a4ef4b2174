"""Customers with their health, as agents read them: one from the log, or all of a tenant in one pass.

Part of the wiring: may import everything below `app`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from postsale.agents.evidence import HealthReading
from postsale.agents.expressions import InputType
from postsale.agents.readings import RunnerHealth
from postsale.aggregates.customer import CustomerAggregate
from postsale.aggregates.evolve import fold as fold_events
from postsale.aggregates.identity import IDENTITY_KINDS
from postsale.app.everybody import Everybody
from postsale.events import DAY_US, Lane, StoredEvent, StreamId
from postsale.projections.bulk import read_facts
from postsale.projections.customer_health import CUSTOMER_HEALTH
from postsale.projections.folding import Fact, Fold, fact_of
from postsale.projections.health import HealthModel
from postsale.projections.lifecycle import Lifecycle, lifecycle_stage, read_lifecycle
from postsale.projections.partition import POISON
from postsale.projections.why import TREND_DAYS, Health, explain_health
from postsale.store.contract import Query
from postsale.store.log import Log


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
        self._kept: dict[str, Everybody] = {}  # by tenant

    def subject(self, stream: StreamId, at_us: int, wanted: frozenset[str], *, known_at_us: int | None = None) -> Subject:
        """One customer, read from the log, as known at a time."""
        customer = self._log.customer(stream, known_at_us=known_at_us)
        return Subject(customer, self._health.read(customer, at_us, wanted, known_at_us=known_at_us))

    def since(self, stream: StreamId, first: StoredEvent, at_us: int, wanted: frozenset[str]) -> Callable[[StoredEvent], Subject]:
        """One customer as it was known at each of its facts from `first` on: its past before them is folded once."""
        before = self._log.customer(stream, known_at_us=first.recorded_at_us - 1)
        news = list(self._log.store.read(Query(tenant=stream.tenant, streams=before.fact_streams, after=first.position - 1)))
        if before.joined or any(event.kind in IDENTITY_KINDS for event in news):  # few: who it is may change on the way
            return lambda fact: self.subject(stream, at_us, wanted, known_at_us=fact.recorded_at_us)
        states = self._health.states(before, at_us, wanted, known_at_us=first.recorded_at_us - 1)

        def known(fact: StoredEvent) -> Subject:
            mine = [event for event in news if event.position <= fact.position]
            state, earlier = self._fold.copy(states[0]), None if states[1] is None else self._fold.copy(states[1])
            for event in mine:
                if event.lane is Lane.FACT and event.kind in self._fold.kinds and event.occurred_at_us <= at_us:
                    self._fold.add(state, fact_of(event))
                    if earlier is not None and event.occurred_at_us <= at_us - TREND_DAYS * DAY_US:
                        self._fold.add(earlier, fact_of(event))
            models = self._health.models_of(stream.tenant, known_at_us=fact.recorded_at_us)
            reading = self._health.reading(state, at_us, position=self._fold.position(state), before=earlier, models=models)
            return Subject(fold_events(before, mine), reading)

        return known

    @property
    def features(self) -> Mapping[str, InputType | None]:
        """Names of evidence beyond a customer's own state, with their types where they are known."""
        return self._health.features

    def reading(self, customer: CustomerAggregate, at_us: int, wanted: frozenset[str], *, known_at_us: int | None = None) -> HealthReading:
        """The health of a customer that was read already, at a time, as known at a time."""
        return self._health.read(customer, at_us, wanted, known_at_us=known_at_us)

    def subjects(
        self, tenant: str, at_us: int, wanted: frozenset[str], unreadable: set[StreamId], *, keep: bool = False
    ) -> Iterator[Subject]:
        """Every customer of a tenant in one pass over its events; customers that are part of another one and have no open matter are left out.

        Customers with an event that cannot be read here are added to `unreadable` instead. Memory is bounded by customers, not by
        events. With `keep`, for one thread at a time, what was folded is kept, within bounds, and the next such pass reads what is new. Raises NotLive.
        """
        self._health.require_live()
        trend = "health_trend" in wanted
        models = self._health.models_of(tenant)
        held = self._kept.pop(tenant, None) if keep else None
        everybody = held if held is not None and held.goes_on(self._log, at_us, trend=trend) else Everybody(tenant, self._fold, trend=trend)
        unreadable |= everybody.read_on(self._log, at_us)
        if keep and everybody.small:
            self._kept[tenant] = everybody
        for stream, row in everybody.rows.items():
            if row.customer.merged_into is not None and not (row.customer.pending or row.customer.decisions):
                continue
            try:
                if row.customer.joined:  # few: their facts are on other streams too
                    subject = self.subject(stream, at_us, wanted)
                else:
                    position, before = self._fold.position(row.state), row.before if trend else None
                    subject = Subject(row.customer, self._health.reading(row.state, at_us, position=position, before=before, models=models))
            except POISON:
                unreadable.add(stream)
                continue
            yield subject
