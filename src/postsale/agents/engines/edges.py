"""Edges: every agent's conditions are compared with how they stood, and what rose or is over is recorded; schedules too.

Not here: what is decided about a trigger. May import the crew and what it may.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple
from uuid import UUID

from postsale.agents.agent import Agent
from postsale.agents.desk import NOTHING, Change
from postsale.agents.engines.crew import Crew, own_fault
from postsale.agents.policy import Policy
from postsale.agents.timed import time_brings
from postsale.agents.work import Work, load
from postsale.aggregates import commands
from postsale.aggregates import decisions as d
from postsale.aggregates.artifacts import agent_stream
from postsale.aggregates.customer import CustomerAggregate
from postsale.errors import PostSaleError
from postsale.events import DAY_US, Actor, Header, Origin, StoredEvent, derive_id
from postsale.store.log import Cause, Draft


class Trouble(NamedTuple):
    """An agent whose conditions could not be looked at; `why` has no words that may be personal."""

    agent: str
    why: str
    error: Exception  # without its frames; its words may be personal


def watching(
    crew: Crew, customer: CustomerAggregate, cause: StoredEvent | None, since_us: int | None
) -> Work[tuple[int, CustomerAggregate, tuple[Trouble, ...]]]:
    """`Steps.watch` as a work, from the customer just loaded; also returns the customer after it, and whose conditions could not be read."""
    header = Header.from_bytes(cause.header) if cause is not None else None
    if header is not None and header.origin not in crew.raising:
        return 0, customer, ()
    now_us, stream = crew.desk.now_us(), customer.stream
    causing = cause.event_id if cause is not None else derive_id("time", stream, now_us // DAY_US)
    before_us = None
    if cause is None and crew.desk.origin is Origin.LIVE:
        before_us = since_us if since_us is not None else now_us - DAY_US
    raised, moved = 0, False
    known = customer
    troubles: dict[str, Trouble] = {}
    for agent in crew.agents.values():
        policy, _, retired = crew.policy(stream.tenant, agent)
        if retired:
            continue
        depth = header.depth if header is not None else 0
        how = Cause(actor=Actor("agent", agent.name), causation_id=causing, depth=depth, origin=crew.desk.origin)

        def rule(c: CustomerAggregate, agent: Agent = agent, policy: Policy = policy, how: Cause = how) -> Change:
            try:
                crew.check(agent, policy)
                edges = _edges(crew, c, agent, policy, "fact" if cause is not None else "time", causing, how, before_us)
                return Change((*edges.drafts, *_timed(crew, c, agent, policy)))
            except Exception as error:  # one agent's own: the others look all the same
                if not own_fault(error):
                    raise
                told = f"{type(error).__name__}: {error}" if isinstance(error, PostSaleError) else f"it raised {type(error).__name__}"
                troubles[agent.name] = Trouble(agent.name, told, error.with_traceback(None))
                return NOTHING

        change, stored, known = yield from crew.desk.changing(stream, rule, None if moved else known, known)
        if stored is not None:
            moved = True
            raised += sum(isinstance(x.event, d.TriggerRaised) for x in change.drafts) if stored.stored else 0
    return raised, ((yield from load(stream, known)) if moved else customer), tuple(troubles.values())


def _edges(
    crew: Crew,
    c: CustomerAggregate,
    agent: Agent,
    policy: Policy,
    kind: Literal["fact", "time"],
    causing: UUID,
    how: Cause,
    before_us: int | None,
) -> Change:
    if c.merged_into is not None:
        return NOTHING
    values = crew.values(c, agent, crew.desk.now_us())[0]
    before: dict[str, d.Scalar] | None = None
    drafts = []
    for condition in policy.conditions:
        was = (agent.name, condition.id) in c.up
        up = condition.up(values, was)
        if up and not was:
            if before_us is not None:
                before = before if before is not None else crew.values(c, agent, before_us)[0]
                if condition.up(before, False):
                    continue
            id_ = derive_id(agent.name, condition.id, causing)
            raised = d.TriggerRaised(agent=agent.name, condition=condition.id, cause=kind, causing_event=causing, depth=how.depth)
            drafts += [crew.desk.draft(e, id_, how) for e in commands.raise_trigger(c, id_, raised)]
        elif was and not up:
            cleared = d.TriggerCleared(agent=agent.name, condition=condition.id, causing_event=causing)
            id_ = derive_id(agent.name, condition.id, causing, "cleared")
            drafts += [crew.desk.draft(e, id_, how) for e in commands.clear_trigger(c, cleared)]
    if drafts and crew.desk.control(agent_stream(c.stream.tenant, agent.name)).retired:
        return NOTHING
    return Change(tuple(drafts))


def _timed(crew: Crew, c: CustomerAggregate, agent: Agent, policy: Policy) -> Iterator[Draft]:
    """Schedules, waits and terms whose time has come."""
    if not policy.timed or crew.desk.control(agent_stream(c.stream.tenant, agent.name)).retired:
        return
    now_us, since_us = crew.desk.now_us(), crew.desk.seen_policy(c.stream.tenant, policy.name)[1]
    for it in time_brings(c, agent.name, policy, since_us, now_us, lambda: crew.values(c, agent, now_us)[0]):
        how = Cause(actor=Actor("agent", agent.name), causation_id=it.cause, depth=it.depth, origin=crew.desk.origin)
        yield crew.desk.draft(it.event, it.event_id, how)
