"""Noticing: which conditions became true, for whom, because of what. Raises triggers; decides nothing.

A condition is looked at for each customer with new facts, and for every customer once per UTC day, because features have
tiles of one day. Whether it was true before is a view: lose it, and a condition that is true counts as new only where the log
has no trigger for it (ADR 0006). Part of the wiring: may import everything below `app`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import orjson

from postsale.agents import Agent
from postsale.aggregates import commands
from postsale.aggregates.decisions import CommandIssued, TriggerRaised
from postsale.aggregates.identity import ALIASES, CUSTOMERS, AliasLinked, customer_stream
from postsale.app.readings import Readings, Subject
from postsale.errors import PostSaleError
from postsale.events import DAY_US, Actor, Lane, NewEvent, Origin, StreamId, decode, derive_id
from postsale.projections.views import Views
from postsale.store.contract import Query, Submission
from postsale.store.log import Cause, Draft, Log

_BULK = 200  # from so many customers on, one pass over the tenant is cheaper than a read each
_BATCH = 500
_DAY = "\x00day"  # the row that remembers the day of the last look at everybody; not a customer's key


class Watch:
    """The conditions of some agents, over all tenants. `world` is the origin whose facts raise triggers here."""

    def __init__(self, log: Log, views: Views, readings: Readings, agents: Sequence[Agent], world: Origin) -> None:
        self._log = log
        self._views = views
        self._readings = readings
        self._agents = agents
        self._world = world

    def look(self, tenants: Iterable[str], on_progress: Callable[[int], None] | None = None) -> int:
        """Raise a trigger for each condition that became true; returns how many. Safe to repeat: a cause raises once."""
        now_us, head = self._log.clock.now_us(), self._log.store.head()
        return sum(self._tenant(agent, tenant, now_us, head, on_progress) for tenant in tenants for agent in self._agents)

    def _tenant(self, agent: Agent, tenant: str, now_us: int, head: int, on_progress: Callable[[int], None] | None) -> int:
        view = f"conditions/{tenant}/{agent.name}/{agent.policy.digest[:16]}"
        done = self._views.checkpoint(view)
        today = str(now_us // DAY_US).encode()
        everybody = self._views.get(view, _DAY) != today
        touched = self._touched(tenant, done, head)
        raised = 0
        if not everybody and not touched:
            self._views.write(view, {}, checkpoint=head, expected=done)
            return self._commands(agent, tenant, done, head)
        batch: list[tuple[Subject, str]] = []
        rows: dict[str, bytes | None] = {_DAY: today}
        for subject in self._subjects(tenant, now_us, everybody, touched):
            key = subject.customer.ref
            before = frozenset(orjson.loads(self._views.get(view, key) or b"[]"))
            values = agent.values(subject.customer, subject.reading, now_us)
            up = frozenset(c.id for c in agent.policy.conditions if c.up(values, c.id in before))
            for condition in sorted(up - before):
                if self._raises(agent, condition, subject, first_look=done == 0):
                    batch.append((subject, condition))
            if up != before:
                rows[key] = orjson.dumps(sorted(up)) if up else None
            if len(batch) >= _BATCH:
                raised += self._raise(agent, batch, touched, now_us)
                batch = []
            if on_progress is not None:
                on_progress(1)
        raised += self._raise(agent, batch, touched, now_us)
        raised += self._commands(agent, tenant, done, head)
        self._views.write(view, rows, checkpoint=head, expected=done)
        return raised

    def _raises(self, agent: Agent, condition: str, subject: Subject, *, first_look: bool) -> bool:
        """Facts of another world raise nothing here; after a lost view, what the log has a trigger for is not new."""
        newest = subject.newest
        if newest is None or newest.origin is not self._world:
            return False
        return not (first_look and (agent.name, condition) in subject.customer.triggers)

    def _raise(self, agent: Agent, batch: list[tuple[Subject, str]], touched: set[StreamId], now_us: int) -> int:
        """Append triggers, each under its customer's version; returns how many were new."""
        submissions: list[Submission] = []
        versions: dict[StreamId, int] = {}
        for subject, condition in batch:
            customer, newest = subject.customer, subject.newest
            assert newest is not None
            trigger_id = derive_id(agent.name, condition, newest.event_id)
            by_fact = any(stream in touched for stream in customer.fact_streams)
            event = TriggerRaised(
                agent=agent.name,
                condition=condition,
                cause="fact" if by_fact else "time",
                causing_event=newest.event_id,
                depth=newest.depth,
            )
            if not commands.raise_trigger(customer, trigger_id, event):
                continue
            version = versions.get(customer.stream, customer.version)
            versions[customer.stream] = version + 1
            submissions.append(Submission((self._trigger(customer.stream, version, event, now_us),)))
        return self._append(submissions)

    def _append(self, submissions: list[Submission]) -> int:
        """Store all; one whose customer was written to meanwhile goes alone, under its new version."""
        outcomes = zip(submissions, self._log.store.append(submissions), strict=True)
        return sum(self._alone(s.events[0]) if isinstance(o, PostSaleError) else o.stored for s, o in outcomes)

    def _alone(self, event: NewEvent) -> bool:
        for _ in range(20):
            (version,) = self._log.store.versions([event.stream])
            (outcome,) = self._log.store.append([Submission((event._replace(expected_version=version),))])
            if not isinstance(outcome, PostSaleError):
                return outcome.stored
        assert isinstance(outcome, PostSaleError)
        raise outcome

    def _trigger(self, stream: StreamId, version: int, event: TriggerRaised, now_us: int) -> NewEvent:
        id_ = derive_id(event.agent, event.condition, event.causing_event)
        cause = Cause(
            actor=Actor("agent", event.agent), causation_id=event.causing_event, correlation_id=id_, depth=event.depth, origin=self._world
        )
        return self._log.decision(stream, version, Draft(event, id_, now_us, cause))

    # ------------------------------------------------------------ whom to look at

    def _subjects(self, tenant: str, now_us: int, everybody: bool, touched: set[StreamId]) -> Iterator[Subject]:
        customers = self._customers(touched)
        if everybody or len(customers) >= _BULK:
            for s in self._readings.subjects(tenant, now_us):
                if everybody or s.customer.stream in customers or not touched.isdisjoint(s.customer.joined):
                    yield s
            return
        for stream in sorted(customers):
            subject = self._readings.subject(stream, now_us)
            if subject.customer.merged_into is None:
                yield subject

    def _touched(self, tenant: str, after: int, upto: int) -> set[StreamId]:
        """Streams with new facts, or new members."""
        kinds = frozenset({"identity/stream-joined"})
        facts = {s.stream for s in self._log.store.read(Query(tenant=tenant, lane=Lane.FACT, after=after, upto=upto))}
        joins = {s.stream for s in self._log.store.read(Query(tenant=tenant, lane=Lane.DECISION, kinds=kinds, after=after, upto=upto))}
        return facts | joins

    def _customers(self, streams: set[StreamId]) -> set[StreamId]:
        """The customers that streams belong to: an alias's account; a merged customer's survivor."""
        found: set[StreamId] = set()
        for stream in streams:
            if stream.category == ALIASES:
                (stored,) = self._log.store.latest([stream])
                if stored is None:
                    continue  # still waiting for its link
                link = decode(stored).data
                assert isinstance(link, AliasLinked)
                stream = customer_stream(stream.tenant, link.account)
            if stream.category == CUSTOMERS:
                found.add(stream)
        if len(found) < _BULK:
            for stream in list(found):
                survivor = self._log.customer(stream).merged_into
                if survivor is not None:
                    found.add(customer_stream(stream.tenant, survivor))
        return found

    # ------------------------------------------------------------ commands

    def _commands(self, agent: Agent, tenant: str, after: int, upto: int) -> int:
        """A command is a trigger of the agent it names, or of every agent."""
        raised = 0
        kinds = frozenset({"customer/command-issued"})
        for stored in self._log.store.read(
            Query(tenant=tenant, category=CUSTOMERS, lane=Lane.DECISION, kinds=kinds, after=after, upto=upto)
        ):
            command = decode(stored).data
            assert isinstance(command, CommandIssued)
            if command.agent not in (None, agent.name):
                continue
            condition = f"command:{command.command}"
            event = TriggerRaised(agent=agent.name, condition=condition, cause="command", causing_event=stored.event_id)
            raised += self._alone(self._trigger(stored.stream, 0, event, self._log.clock.now_us()))
        return raised
