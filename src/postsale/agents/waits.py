"""Waits: "if no login 7 days after the nudge". Declared in a policy, begun by an effect that happened, ended by a fact or by time.

A fact counts by when it happened: after the beginning, before the end. One that says so only after the wait was due changes nothing
that was done; it is recorded as late, and voids an approval that is still asked for because of the wait.
Pure; may import the tables, the calendar, aggregates.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

from pydantic import Field, JsonValue

from postsale.agents.calendar import due_us
from postsale.agents.expressions import Value
from postsale.agents.tables import Kind, Name, Within
from postsale.aggregates.customer import CustomerAggregate, OpenDecision
from postsale.aggregates.timed import Result, Wait, WaitBegan, WaitEnded
from postsale.events import derive_id, from_us

if TYPE_CHECKING:
    from postsale.agents.policy import Policy


class WaitFor(Within):
    """Ask the agent, with this id as condition, when none of `unless` happens within so long after `after`, an action of this policy,
    had its effect; and only if `when` holds then.
    """

    id: Name
    after: Name
    unless: Annotated[tuple[Kind, ...], Field(min_length=1, max_length=20)]
    when: dict[str, JsonValue] = Field(default_factory=dict)


def wait_id(decision_id: UUID, wait: str) -> UUID:
    """One wait of a kind for a decision, however many effects it has."""
    return derive_id(decision_id, "wait", wait)


def begun(policy: Policy, open_: OpenDecision, at_us: int) -> Iterator[tuple[UUID, WaitBegan]]:
    """The waits that begin with the first effect of a decision that happens, with the ids of their events."""
    if any(effect.status == "succeeded" for effect in open_.effects.values()):
        return
    for wait in policy.waits or ():
        if wait.after == open_.action:
            until = from_us(due_us(at_us, wait, policy.calendar))
            event = WaitBegan(agent=open_.agent, wait=wait.id, decision_id=open_.decision_id, kinds=wait.unless, until=until)
            yield wait_id(open_.decision_id, wait.id), event


def ended(c: CustomerAggregate) -> Iterator[WaitEnded]:
    """Waits whose end is known without asking anybody: a fact came, in time or late; or the customer is part of another one."""
    for w in c.waits.values():
        if w.met is not None:
            result: Result = "met" if w.due is None else "late"
            yield WaitEnded(wait_id=w.wait_id, agent=w.agent, wait=w.wait, result=result, fact_event=w.met)
        elif c.merged_into is not None and w.due is None:
            yield WaitEnded(wait_id=w.wait_id, agent=w.agent, wait=w.wait, result="gone")


def due(c: CustomerAggregate, agent: str, now_us: int) -> list[Wait]:
    """An agent's waits whose time is over and for which no fact came."""
    return [w for w in c.waits.values() if w.agent == agent and w.met is None and w.due is None and now_us >= w.until_us]


def verdict(policy: Policy, w: Wait, values: Mapping[str, Value]) -> WaitEnded:
    """How a wait that is due ends: by asking the agent, or without, when the policy's condition does not hold or it waits no more."""
    declared = next((x for x in policy.waits or () if x.id == w.wait), None)
    result: Result = "gone" if declared is None else "due" if policy.holds(declared.when, f"wait {w.wait!r}, when", values) else "idle"
    return WaitEnded(wait_id=w.wait_id, agent=w.agent, wait=w.wait, result=result)


def refuted(c: CustomerAggregate, trigger_id: UUID | None) -> list[str]:
    """The wait behind a trigger, when a late fact has shown by now that it was not in vain."""
    return [f"wait:{w.wait}" for w in c.waits.values() if w.due is not None and w.met and derive_id(w.agent, w.wait, w.due) == trigger_id]
