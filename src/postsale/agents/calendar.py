"""Business time: which hours of which days count, in one zone, holidays left out. Data, and arithmetic on instants in UTC.

A day's hours begin and end at one instant each, by the rule of `store.timers.local_instant`: of a time that occurs twice when
clocks go back the first; a time that clocks skip is what it would have been without the change. A day that a zone skips has no hours.
Pure; may import the tables and `local_instant`.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from datetime import date, time, timedelta
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import Field, ValidationError, model_validator

from postsale.agents.tables import Table, Within
from postsale.errors import InvalidInput
from postsale.events import DAY_US, SECOND_US, Id, from_us, invalid_input
from postsale.store.timers import local_instant

HOUR_US = 3_600 * SECOND_US
Weekday = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
WEEKDAYS: tuple[Weekday, ...] = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
Hours = Annotated[str, Field(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]-(([01][0-9]|2[0-3]):[0-5][0-9]|24:00)$")]
Holiday = Annotated[str, Field(pattern=r"^([0-9]{4}-)?(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])$")]
_LONGEST_DAYS = 4_000  # how far ahead open hours are looked for


class Calendar(Table):
    """Open hours by weekday, `HH:MM-HH:MM` on the clock of `zone`; the end is exclusive and may be 24:00. Weekdays not named are closed.

    A holiday is `2026-12-24`, or `12-24` for every year; `02-29` is one in leap years only.
    """

    zone: Id
    hours: dict[Weekday, tuple[Hours, ...]]
    holidays: Annotated[tuple[Holiday, ...], Field(max_length=2_000)] = ()

    @model_validator(mode="after")
    def _valid(self) -> Self:
        check_zone(self.zone)
        if not any(self.hours.values()):
            raise ValueError("expected hours on one weekday at least")
        for day, spans in self.hours.items():
            flat = [part for span in spans for part in span.split("-")]
            if any(a >= b for a, b in pairwise(flat)):
                raise ValueError(f"{day}: expected hours in order, none of which overlap, touch or pass midnight")
        for holiday in self.holidays:
            try:
                date.fromisoformat(holiday if len(holiday) == 10 else f"2024-{holiday}")
            except ValueError:
                raise ValueError(f"holiday {holiday}: there is no such day") from None
        return self

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """The calendar in a TOML file. Raises InvalidInput naming the place, OSError when there is no such file."""
        return cls.from_toml(Path(path).read_text(encoding="utf-8"))

    @classmethod
    def from_toml(cls, text: str) -> Self:
        """The calendar in a TOML text; InvalidInput names the place."""
        try:
            return cls.model_validate(tomllib.loads(text), strict=False)
        except tomllib.TOMLDecodeError as error:
            raise InvalidInput(what="calendar", field="(file)", reason=f"not TOML: {error}") from None
        except ValidationError as error:
            raise invalid_input("calendar", error) from None

    # ------------------------------------------------------------ arithmetic

    def works(self, day: date) -> bool:
        """Whether anything is open on a day."""
        return bool(self.hours.get(WEEKDAYS[day.weekday()])) and not {day.isoformat(), f"{day:%m-%d}"} & self._holidays

    def is_open(self, at_us: int) -> bool:
        """Whether an instant lies in open hours: from their beginning on, no longer at their end."""
        return any(begin <= at_us < end for begin, end in self._open(at_us, at_us + 1))

    def after(self, begin_us: int, open_us: int) -> int:
        """The first instant by which `open_us` of open time have passed since `begin_us`. InvalidInput when there is none within years."""
        if open_us <= 0:
            return begin_us
        left = open_us
        for begin, end in self._open(begin_us, begin_us + _LONGEST_DAYS * DAY_US):
            begin = max(begin, begin_us)
            if end - begin >= left:
                return begin + left
            left -= end - begin
        raise InvalidInput(what="calendar", field="hours", reason=f"they do not add up to so much time within {_LONGEST_DAYS} days")

    def between(self, begin_us: int, end_us: int) -> int:
        """Microseconds of open time in [begin, end); 0 when the end is not after the beginning."""
        spans = self._open(begin_us, end_us)
        return sum(max(0, min(end, end_us) - max(begin, begin_us)) for begin, end in spans)

    def _open(self, begin_us: int, end_us: int) -> Iterator[tuple[int, int]]:
        """Open hours that end after `begin_us`, up to the first that begins at or after `end_us`; in order, disjoint."""
        day, done = local_day(begin_us, self.zone) - timedelta(days=1), begin_us
        while True:
            for span in self.hours.get(WEEKDAYS[day.weekday()], ()) if self.works(day) else ():
                begin, end = self._instants(day, span)
                begin = max(begin, done)
                if begin >= end_us:
                    return
                if end > begin:
                    yield begin, end
                    done = end
            day += timedelta(days=1)
            if local_instant(day, self.zone, at=time(0)) >= end_us:
                return

    def _instants(self, day: date, span: str) -> tuple[int, int]:
        first, last = span.split("-")
        begin = local_instant(day, self.zone, at=time.fromisoformat(first))
        end = (
            local_instant(day + timedelta(days=1), self.zone, at=time(0))
            if last == "24:00"
            else local_instant(day, self.zone, at=time.fromisoformat(last))
        )
        return (begin, end) if local_day(begin, self.zone) == day else (begin, begin)  # else: the zone skipped that day

    @cached_property
    def _holidays(self) -> frozenset[str]:
        return frozenset(self.holidays)


def due_us(begin_us: int, within: Within, calendar: Calendar | None) -> int:
    """When a length of time that begins at `begin_us` is over. The policy's check has made sure of the calendar."""
    if within.within_days is not None:
        return begin_us + within.within_days * DAY_US
    if within.within_h is not None:
        return begin_us + within.within_h * HOUR_US
    assert calendar is not None
    return calendar.after(begin_us, (within.within_business_h or 0) * HOUR_US)


def local_day(at_us: int, zone: str) -> date:
    """The date that the clocks of a zone show at an instant."""
    return from_us(at_us).astimezone(ZoneInfo(zone)).date()


def check_zone(zone: str) -> None:
    """ValueError for a name that is not in the IANA database."""
    try:
        ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError("expected an IANA time zone name, such as Europe/Berlin") from None
