"""Time: integer UTC microseconds inside, aware datetimes outside. The only place that reads the system clock."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Protocol

import orjson

from postsale.errors import InvalidInput

SECOND_US = 1_000_000
DAY_US = 86_400 * SECOND_US
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_ONE_US = timedelta(microseconds=1)


class Clock(Protocol):
    """Where "now" comes from. Injected everywhere, so that tests, replay and simulation own it."""

    def now_us(self) -> int:
        """UTC microseconds since 1970."""
        ...


class SystemClock:
    """The machine's clock."""

    def now_us(self) -> int:
        return time.time_ns() // 1000


class ManualClock:
    """A clock that moves only when told; for tests, simulation and replay."""

    def __init__(self, at: datetime | int) -> None:
        self._now_us = at if isinstance(at, int) else to_us(at)

    def now_us(self) -> int:
        return self._now_us

    def advance(self, delta: timedelta) -> None:
        self._now_us += delta // _ONE_US

    def move_to(self, at: datetime | int) -> None:
        """Set the time, backwards too: the log must cope with a clock that is moved back."""
        self._now_us = at if isinstance(at, int) else to_us(at)


def to_us(at: datetime) -> int:
    """UTC microseconds of an aware datetime; a naive one is InvalidInput, because a guess would be wrong somewhere."""
    if not isinstance(at, datetime):
        raise InvalidInput(what="time", field="type", reason=f"expected an aware datetime, got {type(at).__name__}")
    if at.tzinfo is not UTC and at.utcoffset() is None:
        raise InvalidInput(what="time", field="tzinfo", reason="a datetime without a time zone; expected an aware one")
    return (at - _EPOCH) // _ONE_US


def from_us(us: int) -> datetime:
    """The aware UTC datetime of integer microseconds. Inverse of `to_us`; InvalidInput outside the years 1 to 9999."""
    try:
        return _EPOCH + timedelta(0, 0, us)
    except OverflowError:
        raise InvalidInput(what="time", field="us", reason="expected microseconds within the years 1 to 9999") from None


def iso(us: int) -> str:
    """RFC 3339 in UTC with microseconds and Z."""
    return iso_of(from_us(us))


def iso_of(at: datetime) -> str:
    """The same of an aware datetime."""
    if at.tzinfo is not UTC:
        at = at.astimezone(UTC)
    text = orjson.dumps(at, option=orjson.OPT_UTC_Z)[1:-2].decode()  # `isoformat` costs eight times as much
    return f"{text}Z" if at.microsecond else f"{text}.000000Z"
