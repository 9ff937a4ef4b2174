"""Schedules: "every Monday at 09:00 on the customer's clock". At most one firing a day and customer; what was missed is made up once.

Days are counted on the clock of the schedule's zone. A local time that occurs twice is its first occurrence, one that is skipped is what
it would have been without the change. The 29th to 31st do not come in every month; -1 is a month's last day. Pure; may import the
tables, the calendar, aggregates.
"""

from __future__ import annotations

from calendar import monthrange
from collections.abc import Iterator
from datetime import date, time, timedelta
from typing import Annotated, Literal, NamedTuple, Self

from pydantic import Field, JsonValue, model_validator

from postsale.agents.calendar import WEEKDAYS, Calendar, Weekday, check_zone, local_day
from postsale.agents.expressions import Value
from postsale.agents.tables import Clock, Name, Table
from postsale.aggregates.timed import Came
from postsale.events import Id
from postsale.store.timers import local_instant

CUSTOMER = "customer"
_AHEAD_DAYS = 366 * 8 + 2  # 29 February may be eight years away


class Schedule(Table):
    """Ask the agent, with this id as condition, on these days at `at`; and only if `when` holds then."""

    id: Name
    at: Clock
    weekdays: Annotated[tuple[Weekday, ...], Field(min_length=1)] | None = None
    month_days: Annotated[tuple[Annotated[int, Field(ge=-1, le=31)], ...], Field(min_length=1)] | None = None
    months: Annotated[tuple[Annotated[int, Field(ge=1, le=12)], ...], Field(min_length=1)] | None = None  # None: every month
    open_days_only: bool = False  # days on which the policy's [calendar] has hours
    zone: Id = CUSTOMER  # "customer", or an IANA name
    when: dict[str, JsonValue] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _valid(self) -> Self:
        if (self.weekdays is None) is (self.month_days is None):
            raise ValueError("expected either weekdays or month_days")
        if 0 in (self.month_days or ()):
            raise ValueError("month_days: expected 1 to 31, or -1 for the last day")
        if self.zone != CUSTOMER:
            check_zone(self.zone)
        longest = max((monthrange(2024, m)[1] for m in self.months or (1,)), default=31)
        if self.month_days is not None and all(day > longest for day in self.month_days):
            raise ValueError("month_days: none of these days comes in these months")
        return self

    def comes(self, day: date, calendar: Calendar | None) -> bool:
        """Whether this day is one of the schedule's."""
        if self.months is not None and day.month not in self.months:
            return False
        if self.weekdays is not None and WEEKDAYS[day.weekday()] not in self.weekdays:
            return False
        last = monthrange(day.year, day.month)[1]
        if self.month_days is not None and day.day not in self.month_days and not (-1 in self.month_days and day.day == last):
            return False
        return not self.open_days_only or calendar is None or calendar.works(day)


class Firing(NamedTuple):
    """One coming of a schedule."""

    due_us: int
    day: date


def latest(schedule: Schedule, calendar: Calendar | None, zone: str, after_us: int, now_us: int, last: Came | None) -> Firing | None:
    """The newest coming in (after, now] on a later day than the last one; None when there is none. Older ones that were missed are not
    made up one by one.
    """
    day, first = local_day(now_us, zone), local_day(after_us, zone) - timedelta(days=1)
    while day >= first:
        firing = _at(schedule, calendar, zone, day)
        if firing is not None and after_us < firing.due_us <= now_us:
            return firing if last is None or (firing.due_us > last.due_us and day.isoformat() > last.day) else None
        day -= timedelta(days=1)
    return None


def upcoming(schedule: Schedule, calendar: Calendar | None, zone: str, after_us: int, last: Came | None = None) -> int | None:
    """When the schedule comes next after an instant; None when never within eight years."""
    for firing in _from(schedule, calendar, zone, after_us):
        if last is None or (firing.due_us > last.due_us and firing.day.isoformat() > last.day):
            return firing.due_us
    return None


def _from(schedule: Schedule, calendar: Calendar | None, zone: str, after_us: int) -> Iterator[Firing]:
    day = local_day(after_us, zone) - timedelta(days=1)
    for _ in range(_AHEAD_DAYS):
        firing = _at(schedule, calendar, zone, day)
        if firing is not None and firing.due_us > after_us:
            yield firing
        day += timedelta(days=1)


def _at(schedule: Schedule, calendar: Calendar | None, zone: str, day: date) -> Firing | None:
    if not schedule.comes(day, calendar):
        return None
    due_us = local_instant(day, zone, at=time.fromisoformat(schedule.at))
    return Firing(due_us, day) if local_day(due_us, zone) == day else None  # else: the zone skipped that day


class Where(NamedTuple):
    """A zone, and whose it is."""

    zone: str
    of: Literal["schedule", "customer", "policy", "utc"]


def zone_of(named: str, customers: Value, policys: str | None) -> Where:
    """The zone that counts: the one that is named, else the customer's own, else the policy's, else UTC; and which of them it is."""
    if named != CUSTOMER:
        return Where(named, "schedule")
    if isinstance(customers, str):
        try:
            check_zone(customers)
        except ValueError:
            pass
        else:
            return Where(customers, "customer")
    return Where(policys, "policy") if policys is not None else Where("UTC", "utc")
