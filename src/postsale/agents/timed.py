"""What time brings to a customer under one agent's policy: schedules, waits, terms of risk cases; as events, and as the next time to look.

The same for every engine. Pure but for drafts and evidence, which are passed in. May import the pure modules of this room.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple
from uuid import UUID

from postsale.agents import schedules, sla, waits
from postsale.agents.evidence import PROFILE
from postsale.agents.expressions import Value
from postsale.agents.policy import Policy
from postsale.aggregates.customer import CustomerAggregate
from postsale.aggregates.decisions import TriggerRaised
from postsale.aggregates.timed import ScheduleCame, SlaWarned
from postsale.events import Event, derive_id, from_us


class Timed(NamedTuple):
    """An event to append, its id, its cause, and how deep it is in the chain of causes.

    What follows from an effect of our own is deeper than it. A schedule is of depth 0: no effect can bring the calendar forward.
    """

    event: Event
    event_id: UUID
    cause: UUID | None = None
    depth: int = 0


def time_brings(
    c: CustomerAggregate, agent: str, policy: Policy, since_us: int, now_us: int, values: Callable[[], Mapping[str, Value]]
) -> Iterator[Timed]:
    """Events, in order, each cause before its trigger. `since_us`: since when the policy is active; `values`: evidence, read when needed.

    Nothing comes twice: what came is in the customer's state, and ids derive from what was due.
    """
    if c.merged_into is not None:
        return
    for schedule in policy.schedules or ():
        yield from _schedule(c, agent, policy, schedule, since_us, now_us, values)
    for wait in waits.due(c, agent, now_us):
        end = waits.verdict(policy, wait, values())
        it = Timed(end, derive_id(wait.wait_id, "ended"), wait.wait_id, wait.depth)
        yield from _with_trigger(it, agent, wait.wait, raises=end.result == "due")
    for term in sla.terms(c, agent, policy):
        event = sla.missed(term, agent, now_us)
        if event is not None:
            kind = "warning" if isinstance(event, SlaWarned) else "breach"
            id_ = derive_id(term.case.case_id, agent, term.sla.id, term.since_us, kind)
            it = Timed(event, id_, term.case.event_id, term.case.depth)
            yield from _with_trigger(it, agent, term.sla.id, raises=kind in term.sla.asks)


def next_us(c: CustomerAggregate, agent: str, policy: Policy, since_us: int) -> Iterator[int]:
    """When something of this policy is due for this customer; in the past for what is due already."""
    if c.merged_into is not None:
        return
    for schedule in policy.schedules or ():
        last = c.came.get((agent, schedule.id))
        zone = _zone(c, policy, schedule).zone
        at = schedules.upcoming(schedule, policy.calendar, zone, max(_known_us(c, since_us), last.due_us if last else 0), last)
        if at is not None:
            yield at
    for wait in c.waits.values():
        if wait.agent == agent and wait.due is None:
            yield wait.until_us
    for term in sla.terms(c, agent, policy):
        if term.next_us is not None:
            yield term.next_us


def _schedule(
    c: CustomerAggregate,
    agent: str,
    policy: Policy,
    schedule: schedules.Schedule,
    since_us: int,
    now_us: int,
    values: Callable[[], Mapping[str, Value]],
) -> Iterator[Timed]:
    last = c.came.get((agent, schedule.id))
    where = _zone(c, policy, schedule)
    after = max(_known_us(c, since_us), last.due_us if last else 0)
    firing = schedules.latest(schedule, policy.calendar, where.zone, after, now_us, last)
    if firing is None:
        return
    raised = policy.holds(schedule.when, f"schedule {schedule.id!r}, when", values())
    came = ScheduleCame(
        agent=agent,
        schedule=schedule.id,
        due_at=from_us(firing.due_us),
        day=firing.day.isoformat(),
        zone=where.zone,
        zone_of=where.of,
        raised=raised,
    )
    id_ = derive_id("schedule", c.stream, agent, schedule.id, firing.due_us)
    yield from _with_trigger(Timed(came, id_), agent, schedule.id, raises=raised)


def _with_trigger(it: Timed, agent: str, condition: str, *, raises: bool) -> Iterator[Timed]:
    yield it
    if raises:
        raised = TriggerRaised(agent=agent, condition=condition, cause="time", causing_event=it.event_id, depth=it.depth)
        yield Timed(raised, derive_id(agent, condition, it.event_id), it.event_id, it.depth)


def _zone(c: CustomerAggregate, policy: Policy, schedule: schedules.Schedule) -> schedules.Where:
    return schedules.zone_of(schedule.zone, c.latest(PROFILE, "time_zone"), policy.zone)


def _known_us(c: CustomerAggregate, since_us: int) -> int:
    """Since when a schedule may come for a customer: since the policy is active, and somebody knows of them."""
    return max(since_us, min((s.first_at_us for s in c.facts.values()), default=since_us))
