"""Every customer of a tenant folded in one pass over its events, and folded on from there: a later pass reads what is new.

What is kept is memory of one process and worth nothing but time: it is thrown away when the log is another one, when time went back, and when it
grows beyond its bounds. Part of the wiring: may import everything below `app`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from postsale.aggregates.customer import CustomerAggregate
from postsale.aggregates.evolve import evolve_decision, evolve_facts
from postsale.aggregates.identity import CUSTOMERS
from postsale.events import DAY_US, Lane, StoredEvent, StreamId
from postsale.projections.folding import Fact, Fold, State, fact_of
from postsale.projections.partition import POISON
from postsale.projections.why import TREND_DAYS
from postsale.store.contract import Query
from postsale.store.log import Log

_TOGETHER: Final = 32  # facts of one customer that are taken in at once
_MOST_CUSTOMERS: Final = 10_000  # beyond, nothing is kept
_MOST_RECENT: Final = 200_000  # facts too new for the state of 30 days ago, of all customers


@dataclass(slots=True)
class Row:
    """One customer as far as it was read: itself, its state at the time of the pass, and its state 30 days before."""

    customer: CustomerAggregate
    state: State
    before: State
    recent: list[Fact] = field(default_factory=list)  # in `state` and not yet in `before`
    facts: list[StoredEvent] = field(default_factory=list)  # not yet in `customer`

    def take(self, fact: StoredEvent) -> None:
        self.facts.append(fact)
        if len(self.facts) >= _TOGETHER:
            self.settle()

    def settle(self) -> None:
        if self.facts:
            self.customer = evolve_facts(self.customer, self.facts)
            self.facts = []

    def grow_old(self, fold: Fold, before_us: int) -> None:
        """What has become old enough is in the state of 30 days ago, too."""
        young = []
        for fact in self.recent:
            if fact.occurred_at_us <= before_us:
                fold.add(self.before, fact)
            else:
                young.append(fact)
        self.recent = young


class Everybody:
    """The customers of one tenant, folded up to a position and a time."""

    def __init__(self, tenant: str, fold: Fold, *, trend: bool) -> None:
        self.rows: dict[StreamId, Row] = {}
        self._tenant, self._fold, self._trend = tenant, fold, trend
        self._at_us = 0
        self._position, self._leaf = 0, b""  # of the last event that was read
        self._anew: set[StreamId] = set()  # unreadable ones, and ones with facts of a time to come: read from their beginnings

    @property
    def small(self) -> bool:
        """Whether it is within the bounds of what may be kept."""
        return len(self.rows) <= _MOST_CUSTOMERS and sum(len(row.recent) for row in self.rows.values()) <= _MOST_RECENT

    def goes_on(self, log: Log, at_us: int, *, trend: bool) -> bool:
        """Whether this log at this time continues what was read: another log, or an older copy of it, does not."""
        if at_us < self._at_us or trend is not self._trend or not self._position:
            return False
        event = next(iter(log.store.read(Query(after=self._position - 1, upto=self._position))), None)
        return event is not None and event.leaf == self._leaf

    def read_on(self, log: Log, at_us: int) -> set[StreamId]:
        """Take in what is new, as of a time: `rows` are the customers then. Returns who cannot be read and is not among them.

        Raises what the store raises: then this is to be thrown away.
        """
        before_us, lost = at_us - TREND_DAYS * DAY_US, set[StreamId]()
        anew, self._anew, self._at_us = self._anew, set(), at_us
        for stream in anew:
            self.rows.pop(stream, None)
        queries = [Query(tenant=self._tenant, category=CUSTOMERS, after=self._position)]
        if anew:
            queries.insert(0, Query(tenant=self._tenant, streams=tuple(sorted(anew)), upto=self._position))
        for query in queries:
            for stored in log.store.read(query):
                if stored.position > self._position:
                    self._position, self._leaf = stored.position, stored.leaf
                if stored.stream in lost:
                    continue
                try:
                    self._take(stored, at_us, before_us)
                except POISON:
                    lost.add(stored.stream)
        for stream, row in self.rows.items():
            try:
                row.settle()
                row.grow_old(self._fold, before_us)
            except POISON:
                lost.add(stream)
        for stream in lost:
            self.rows.pop(stream, None)
        self._anew |= lost
        return lost

    def _take(self, stored: StoredEvent, at_us: int, before_us: int) -> None:
        fold, row = self._fold, self.rows.get(stored.stream)
        if row is None:
            row = self.rows[stored.stream] = Row(CustomerAggregate(stream=stored.stream), fold.empty(), fold.empty())
        if stored.lane is Lane.DECISION:
            row.settle()
            row.customer = evolve_decision(row.customer, stored)
        elif stored.occurred_at_us > at_us:
            self._anew.add(stored.stream)
        else:
            row.take(stored)
            if stored.kind in fold.kinds:
                fact: Fact = fact_of(stored)
                fold.add(row.state, fact)
                if not self._trend:
                    return
                if fact.occurred_at_us <= before_us:
                    fold.add(row.before, fact)
                else:
                    row.recent.append(fact)
