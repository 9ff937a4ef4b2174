"""Customers' histories, a few at a time: each one's facts as they became known, and as they occurred. For back-tests.

Part of the wiring: may import everything below `app`. Memory grows with the number of customers, and with the facts of a few of them.
The clocks are those of training rows: what a row may use is `projections.training`, who was who then is `lineage`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from postsale.aggregates.identity import ALIASES, AliasLinked
from postsale.app.lineage import EVER, Lineage, Part
from postsale.app.training import claimed_us
from postsale.events import Lane, StreamId
from postsale.projections.folding import Fact, fact_of
from postsale.projections.runner import CATEGORIES
from postsale.projections.training import Knowledge, Known, Subject, enters_us
from postsale.store.contract import Query
from postsale.store.log import Log

_TOGETHER = 100
_LINKED = frozenset({AliasLinked.wire_name.partition("@")[0]})


class Histories(NamedTuple):
    """The customers of a tenant as the log knows them up to a position."""

    log: Log
    tenant: str
    position: int
    lineage: Lineage
    customers: tuple[str, ...]  # references, sorted; those that are part of another one too
    knowledge: Knowledge

    @classmethod
    def read(cls, log: Log, tenant: str, knowledge: Knowledge) -> Histories:
        position = log.store.head()
        lineage = Lineage.read(log, tenant, position)
        links = log.events(Query(tenant=tenant, category=ALIASES, lane=Lane.DECISION, kinds=_LINKED, upto=position))
        refs = {event.data.account for event in links if isinstance(event.data, AliasLinked)}
        return cls(log, tenant, position, lineage, tuple(sorted(refs | lineage.refs())), knowledge)

    def whole(self, ref: str, at_us: int) -> str:
        """The customer that this one was part of, as known at a time; by claims nobody says who was who: then, in the end."""
        return self.lineage.survivor(ref, None if self.knowledge == "claimed" else at_us)

    def of(self, times_us: tuple[int, ...], kinds: frozenset[str]) -> Iterator[Subject]:
        """Each customer with its facts of these kinds, and the times at which it was not part of another one."""
        for start in range(0, len(self.customers), _TOGETHER):
            refs = self.customers[start : start + _TOGETHER]
            facts = self._facts(refs, kinds)
            for ref in refs:
                yield self._subject(ref, [at for at in times_us if self.whole(ref, at) == ref], facts)

    def _facts(self, refs: tuple[str, ...], kinds: frozenset[str]) -> dict[StreamId, list[tuple[int, Fact]]]:
        wanted = {part.stream for ref in refs for part in self.lineage.of(ref, self.tenant)}
        wanted |= {stream for ref in refs for stream in self.lineage.in_the_end(ref, self.tenant)}
        streams = tuple(sorted(s for s in wanted if s.category in CATEGORIES))
        found: dict[StreamId, list[tuple[int, Fact]]] = {}
        for stored in self.log.store.read(Query(streams=streams, lane=Lane.FACT, kinds=kinds, upto=self.position)):
            known_us = claimed_us(stored) if self.knowledge == "claimed" else stored.recorded_at_us
            found.setdefault(stored.stream, []).append((known_us, fact_of(stored)))
        return found

    def _parts(self, ref: str) -> list[Part]:
        parts = self.lineage.of(ref, self.tenant)
        return [Part(p.stream, EVER) for p in parts if p.until_us is None] if self.knowledge == "claimed" else parts

    def _subject(self, ref: str, points: list[int], facts: dict[StreamId, list[tuple[int, Fact]]]) -> Subject:
        known = [
            Known(enters_us(fact, max(us, part.since_us), 0), part.until_us, fact)
            for part in self._parts(ref)
            for us, fact in facts.get(part.stream, ())
        ]
        later = [fact for stream in sorted(self.lineage.in_the_end(ref, self.tenant)) for _, fact in facts.get(stream, ())]
        return Subject(ref, points, known, sorted(later, key=lambda f: (f.occurred_at_us, f.position)))
