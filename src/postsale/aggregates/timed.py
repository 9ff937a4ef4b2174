"""What time alone brings to a customer: schedules that came round, waits that began and ended, terms of risk cases that were missed.

Events of the customer's decision lane and the state of open waits. Each event that raises a trigger is that trigger's cause.
May import events only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal
from uuid import UUID

from postsale.events import Event, Id, UtcDatetime

Result = Literal["met", "due", "idle", "late", "gone"]


class ScheduleCame(Event):
    """A schedule's time came for this customer. Recorded also when its condition did not hold, so that it is looked at once."""

    wire_name: ClassVar[str] = "schedule/came@1"
    agent: Id
    schedule: Id
    due_at: UtcDatetime
    day: Id  # the date on the clock that counted, such as 2026-11-16: one firing a day at most, also after a change of zone
    zone: Id
    zone_of: Literal["schedule", "customer", "policy", "utc"]  # whose zone it was
    raised: bool  # a trigger follows


class WaitBegan(Event):
    """From now on it is looked out for facts of these kinds. The event's id names the wait."""

    wire_name: ClassVar[str] = "wait/began@1"
    agent: Id
    wait: Id
    decision_id: UUID
    kinds: tuple[Id, ...]
    until: UtcDatetime


class WaitEnded(Event):
    """A wait is over. Of several, the first result counts; `late` is a second one, after `due`.

    met: one of the facts says it happened in time. due: none did, a trigger follows. idle: none did, and the policy's condition does not
    hold. late: it was due, and then a fact arrived that claims a time before the end. gone: nobody waits any more.
    """

    wire_name: ClassVar[str] = "wait/ended@1"
    wait_id: UUID
    agent: Id
    wait: Id
    result: Result
    fact_event: UUID | None = None


class SlaWarned(Event):
    """A share of a risk case's term has passed."""

    wire_name: ClassVar[str] = "risk/sla-warned@1"
    case_id: UUID
    agent: Id
    sla: Id
    since: UtcDatetime
    due_at: UtcDatetime


class SlaBreached(Event):
    """A risk case's term has passed."""

    wire_name: ClassVar[str] = "risk/sla-breached@1"
    case_id: UUID
    agent: Id
    sla: Id
    since: UtcDatetime
    due_at: UtcDatetime


MAX_OVER = 16  # waits that were due, kept in case a fact comes late
TimedEvent = ScheduleCame | WaitBegan | WaitEnded | SlaWarned | SlaBreached


@dataclass(frozen=True, slots=True)
class Wait:
    """An open wait; one that was due stays until a late fact, as one of the newest MAX_OVER."""

    wait_id: UUID
    agent: str
    wait: str
    decision_id: UUID
    kinds: tuple[str, ...]
    begun_us: int
    until_us: int
    met: UUID | None = None  # the first fact that counts: its time is after the beginning and before the end
    due: UUID | None = None  # the event that said so, the cause of its trigger
    depth: int = 0  # in the chain of causes: one more than the decision whose effect it follows


@dataclass(frozen=True, slots=True)
class Came:
    """The newest event by which time asked for a decision."""

    event_id: UUID
    due_us: int
    day: str = ""  # of a schedule
