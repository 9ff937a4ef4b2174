"""Rounds: whom the agents visit now. New facts, new decisions, what is due, and once a day everybody.

Decides nothing: a visit is `EmbeddedEngine.attend`. Where the rounds have come to is a view; lose it, and everybody is visited
once. Part of the wiring: may import everything below `app`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import orjson

from postsale.agents.engines.embedded import Attended, EmbeddedEngine
from postsale.aggregates.identity import CUSTOMERS
from postsale.app.readings import Readings, Subject
from postsale.events import DAY_US, Lane, StoredEvent, StreamId
from postsale.projections.views import Views
from postsale.store.contract import Query
from postsale.store.log import Log

_VIEW = "rounds"
_WAKING = frozenset({"approval/granted", "customer/command-issued", "agent/trigger-raised", "identity/stream-joined", "consent/withdrawn"})


@dataclass(slots=True)
class RunReport:
    """What one run did."""

    folded: int = 0  # facts taken into read models
    visited: int = 0  # customers
    raised: int = 0  # triggers
    decided: int = 0
    called: int = 0  # tools
    lapsed: int = 0  # approval requests that expired
    outcomes: int = 0
    dispositions: Counter[str] = field(default_factory=Counter)  # of the decisions of this run, as they stand at its end

    def add(self, done: Attended) -> None:
        self.visited += 1
        self.raised += done.raised
        self.decided += len(done.decided)
        self.called += done.called
        self.lapsed += done.lapsed
        self.outcomes += done.outcomes

    def to_dict(self) -> dict[str, Any]:
        names = ("folded", "visited", "raised", "decided", "called", "lapsed", "outcomes")
        return {"counts": {name: getattr(self, name) for name in names}, "dispositions": dict(self.dispositions)}


class Rounds:
    """The visits of one engine."""

    def __init__(self, log: Log, views: Views, readings: Readings, engine: EmbeddedEngine) -> None:
        self._log = log
        self._views = views
        self._readings = readings
        self._engine = engine

    def run(self, tenants: Iterable[str], report: RunReport, on_progress: Callable[[int], None] | None = None) -> None:
        """Visit whoever needs it. Safe to repeat, to kill and to run beside another one: visits do each thing once."""
        for tenant in tenants:
            self._tenant(tenant, report, on_progress or (lambda _: None))

    def _tenant(self, tenant: str, report: RunReport, on_progress: Callable[[int], None]) -> None:
        view, now_us, head = f"{_VIEW}/{tenant}", self._log.clock.now_us(), self._log.store.head()
        done = self._views.checkpoint(view)
        last_us = _number(self._views.get(view, "last")) or now_us - DAY_US
        visits = self._news(tenant, done, head)
        for key, raw in self._views.scan(view, "due/"):
            if (_number(raw) or 0) <= now_us:
                visits.setdefault(StreamId(tenant, CUSTOMERS, key.removeprefix("due/")), None)
        if now_us // DAY_US != last_us // DAY_US or done == 0:
            for subject in self._readings.subjects(tenant, now_us):
                if self._moved(subject, now_us):
                    visits.setdefault(subject.customer.stream, None)
        rows: dict[str, bytes | None] = {"last": orjson.dumps(now_us)}
        for stream, cause in visits.items():
            attended = self._engine.attend(stream, cause, since_us=last_us)
            report.add(attended)
            due = attended.next_due_us
            rows[f"due/{stream.id}"] = None if due is None else orjson.dumps(due)
            on_progress(1)
        self._views.write(view, rows, checkpoint=head, expected=done)

    def _news(self, tenant: str, after: int, upto: int) -> dict[StreamId, StoredEvent | None]:
        """Streams with something new, in the order of their first news, with the newest fact that may raise a trigger."""
        visits: dict[StreamId, StoredEvent | None] = {}
        for stored in self._log.store.read(Query(tenant=tenant, lane=Lane.FACT, after=after, upto=upto)):
            if self._engine.raises(stored):
                visits[stored.stream] = stored
        woken = Query(tenant=tenant, category=CUSTOMERS, lane=Lane.DECISION, kinds=_WAKING, after=after, upto=upto)
        for stored in self._log.store.read(woken):
            visits.setdefault(stored.stream, self._joined(stored) if stored.kind == "identity/stream-joined" else None)
        return visits

    def _joined(self, joined: StoredEvent) -> StoredEvent | None:
        """A link or merge is news because of the facts that came with it."""
        customer = self._log.customer(joined.stream)
        newest = Query(streams=customer.fact_streams, lane=Lane.FACT, backward=True, limit=1)
        return next(iter(self._log.store.read(newest)), None)

    def _moved(self, subject: Subject, now_us: int) -> bool:
        """Whether a visit has anything to do, seen from one cheap pass over everybody."""
        c = subject.customer
        if c.pending or c.decisions:
            return True
        for agent in self._engine.agents.values():
            values = agent.values(c, subject.reading, now_us)
            for condition in agent.policy.conditions:
                was = (agent.name, condition.id) in c.up
                if condition.up(values, was) != was:
                    return True
        return False


def _number(raw: bytes | None) -> int | None:
    return None if raw is None else int(orjson.loads(raw))
