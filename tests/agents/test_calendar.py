"""Business time, held to an evaluator that walks a zone's clock minute by minute and knows nothing of intervals."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from functools import cache
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from postsale.agents.calendar import HOUR_US, WEEKDAYS, Calendar
from postsale.errors import InvalidInput
from postsale.events import SECOND_US, from_us, to_us

MIN_US = 60 * SECOND_US
ZONES = ("UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu", "Pacific/Apia", "America/Havana")
DAYS = {  # around changes of clocks, leap days, and a day that Samoa left out
    "UTC": (date(2024, 2, 29), date(2026, 12, 31)),
    "Europe/Berlin": (date(2026, 3, 29), date(2026, 10, 25), date(2028, 2, 29)),
    "America/New_York": (date(2026, 3, 8), date(2026, 11, 1)),
    "Australia/Lord_Howe": (date(2026, 4, 5), date(2026, 10, 4)),  # by half an hour
    "Asia/Kathmandu": (date(2026, 1, 1),),
    "Pacific/Apia": (date(2011, 12, 30),),
    "America/Havana": (date(2026, 3, 8), date(2026, 11, 1)),  # at midnight
}


def calendar(zone: str = "Europe/Berlin", holidays: tuple[str, ...] = (), **hours: tuple[str, ...]) -> Calendar:
    return Calendar(zone=zone, hours=hours or dict.fromkeys(WEEKDAYS[:5], ("09:00-17:00",)), holidays=holidays)  # type: ignore[arg-type]


def at(text: str) -> int:
    return to_us(datetime.fromisoformat(text))


@cache
def walls(zone: str, day: date) -> tuple[datetime, ...]:
    """What the clock shows at each minute of four UTC days around a day."""
    begin = datetime(day.year, day.month, day.day, tzinfo=UTC) - timedelta(days=2)
    return tuple((begin + timedelta(minutes=m)).astimezone(ZoneInfo(zone)).replace(tzinfo=None) for m in range(5 * 1440))


def naive(c: Calendar, zone: str, day: date) -> list[bool]:
    """For each of those minutes whether it is open, by looking at the clock and nothing else."""
    shown = walls(zone, day)
    first_at = {wall: minute for minute, wall in reversed(list(enumerate(shown)))}

    def minute_of(wall: datetime) -> int:
        """The first minute that shows this time; where the clock jumps over it, as long after the jump as it lies after its beginning."""
        if wall in first_at:
            return first_at[wall]
        after = next(
            (m for m in range(1, len(shown)) if shown[m - 1] < wall < shown[m] and shown[m] - shown[m - 1] > timedelta(minutes=1)), None
        )
        if after is None:
            return len(shown) if wall > shown[-1] else 0
        return after + int((wall - shown[after - 1]).total_seconds() // 60) - 1

    open_ = [False] * len(shown)
    for local in sorted({wall.date() for wall in shown}):
        if local.isoformat() in c.holidays or f"{local:%m-%d}" in c.holidays:
            continue
        for span in c.hours.get(WEEKDAYS[local.weekday()], ()):
            ends = [datetime.combine(local, datetime.min.time()) + timedelta(hours=int(t[:2]), minutes=int(t[3:])) for t in span.split("-")]
            for minute in range(minute_of(ends[0]), min(minute_of(ends[1]), len(shown))):
                open_[minute] = True
    return open_


@st.composite
def cases(draw: st.DrawFn) -> tuple[Calendar, str, date]:
    zone = draw(st.sampled_from(ZONES))
    day = draw(st.sampled_from(DAYS[zone]))
    hours = {}
    for weekday in WEEKDAYS:
        cuts = draw(st.lists(st.integers(0, 96), min_size=0, max_size=4, unique=True).map(sorted))
        times = [f"{q // 4:02d}:{q % 4 * 15:02d}" for q in cuts]
        hours[weekday] = tuple(f"{a}-{b}" for a, b in zip(times[::2], times[1::2], strict=False))
    hours[draw(st.sampled_from(WEEKDAYS))] = ("00:00-24:00",)
    near = [(day + timedelta(days=n)).isoformat() for n in (-1, 0, 1)]
    holidays = draw(st.lists(st.sampled_from([*near, near[1][5:]]), max_size=2, unique=True))
    return Calendar(zone=zone, hours=hours, holidays=tuple(holidays)), zone, day  # type: ignore[arg-type]


@given(cases(), st.integers(1440, 4 * 1440), st.integers(0, 2 * 1440))
@example((calendar("Europe/Berlin", sun=("02:15-02:45",)), "Europe/Berlin", date(2026, 3, 29)), 1440, 2880)  # skipped
@example((calendar("Europe/Berlin", sun=("02:15-02:45",)), "Europe/Berlin", date(2026, 10, 25)), 1440, 2880)  # twice
@example((calendar("Pacific/Apia", fri=("09:00-17:00",)), "Pacific/Apia", date(2011, 12, 30)), 1440, 2880)  # no such day
def test_open_time_is_what_a_walk_over_the_clock_counts_minute_by_minute(case: tuple[Calendar, str, date], start: int, more: int) -> None:
    c, zone, day = case
    counted = naive(c, zone, day)
    zero = to_us(datetime(day.year, day.month, day.day, tzinfo=UTC) - timedelta(days=2))
    end = min(start + more, len(counted) - 1)
    assert c.between(zero + start * MIN_US, zero + end * MIN_US) == sum(counted[start:end]) * MIN_US
    assert c.is_open(zero + start * MIN_US) is counted[start]
    passed = 0
    for minute in range(start, end):  # the first instant by which that much open time has passed
        passed += counted[minute]
        if counted[minute] and passed in {1, 7, 61, 500}:
            assert c.after(zero + start * MIN_US, passed * MIN_US) == zero + (minute + 1) * MIN_US


@given(st.sampled_from(ZONES), st.integers(at("2024-01-01T00:00:00+00:00"), at("2027-01-01T00:00:00+00:00")), st.integers(1, 300 * 60))
def test_after_and_between_are_inverse_at_any_instant(zone: str, begin_us: int, minutes: int) -> None:
    c = calendar(zone, ("12-25", "02-29"))
    end_us = c.after(begin_us, minutes * MIN_US)
    assert c.between(begin_us, end_us) == minutes * MIN_US
    assert c.between(begin_us, end_us - 1) == minutes * MIN_US - 1


def test_four_business_hours_on_friday_afternoon_end_on_monday_after_a_holiday_on_tuesday() -> None:
    c = calendar(holidays=("2026-11-16",))  # a Monday
    assert from_us(c.after(at("2026-11-13T15:00:00+01:00"), 4 * HOUR_US)).isoformat() == "2026-11-17T10:00:00+00:00"


def test_a_holiday_on_29_february_comes_in_leap_years_only() -> None:
    c = calendar(holidays=("02-29",))
    assert not c.works(date(2028, 2, 29))
    assert c.works(date(2027, 3, 1))
    assert from_us(c.after(at("2028-02-28T16:00:00+01:00"), 2 * HOUR_US)).isoformat() == "2028-03-01T09:00:00+00:00"


def test_a_round_the_clock_sunday_has_23_or_25_hours_when_clocks_change() -> None:
    c = calendar(sun=("00:00-24:00",))
    for day, hours in (("2026-03-29", 23), ("2026-10-25", 25), ("2026-11-01", 24)):
        begin = at(f"{day}T00:00:00+00:00") - 4 * HOUR_US
        assert c.between(begin, begin + 40 * HOUR_US) == hours * HOUR_US


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('zone = "Mars/Base"\n[hours]\nmon = ["09:00-17:00"]', "IANA"),
        ('zone = "UTC"\n[hours]\n', "one weekday at least"),
        ('zone = "UTC"\n[hours]\nmon = ["17:00-09:00"]', "in order"),
        ('zone = "UTC"\n[hours]\nmon = ["09:00-12:00", "11:00-13:00"]', "in order"),
        ('zone = "UTC"\nholidays = ["02-30"]\n[hours]\nmon = ["09:00-17:00"]', "no such day"),
        ('zone = "UTC"\n[hours]\nmon = ["9-17"]', "hours"),
        ("zone =", "not TOML"),
    ],
)
def test_a_calendar_that_cannot_be_is_refused(text: str, reason: str) -> None:
    with pytest.raises(InvalidInput, match=reason):
        Calendar.from_toml(text)


def test_hours_that_no_day_is_left_for_are_refused_when_they_are_asked_for() -> None:
    every_day = tuple((date(2024, 1, 1) + timedelta(days=n)).isoformat()[5:] for n in range(366))
    with pytest.raises(InvalidInput, match="add up"):
        calendar(holidays=every_day).after(at("2026-01-01T00:00:00+00:00"), HOUR_US)
