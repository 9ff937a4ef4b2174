"""Durable timers: what is to happen at an instant, kept beside the log until somebody has done it.

A timer is a record by id, which is the truth, and an entry in a queue whose keys begin with the due time, so that a scan finds what
is due in order. The record is written first, the entry after it; an entry that does not fit its record is put right when it comes
up. Written over the contract alone; may import errors and events.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, Final
from uuid import UUID
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import orjson

from postsale.errors import InvalidInput
from postsale.events import MAX_INT, canonical, check_tenant, derive_id, to_us
from postsale.store.contract import Kept, KeyValue

TIMERS: Final = "timers"
QUEUE: Final = "timer-queue"
MAX_ID: Final = 160  # characters

_DIGITS: Final = 16  # of MAX_INT
_PAGE: Final = 100


@dataclass(frozen=True, slots=True)
class Timer:
    """Something that is due at an instant."""

    tenant: str
    id: str
    due_us: int  # UTC microseconds since 1970
    payload: Mapping[str, Any]  # what `set` was given
    revision: int

    @property
    def event_id(self) -> UUID:
        """For the event that a firing appends: the same for each attempt, another one once the timer was set for another time."""
        return derive_id("timer", self.tenant, self.id, self.due_us)


class Timers:
    """The timers of one tenant. Thread-safe; any number of workers may look at them.

    To have the effect of a timer exactly once: hold a lease, append an event with the timer's `event_id` under the lease's condition,
    then `settle`. After a crash in between the timer is due again, and the append finds its event there.
    """

    def __init__(self, kv: KeyValue, tenant: str) -> None:
        self._kv = kv
        self._tenant = check_tenant(tenant)

    def set(self, id: str, due_us: int, payload: Mapping[str, Any] | None = None) -> bool:
        """Have a timer due at `due_us` and at no other time; False when it is set so already. Durable when it returns.

        `payload` is kept in the clear: JSON of names and references, no personal data. A crash before it returns may leave the
        timer as it was, or not queued: set it again. Raises InvalidInput.
        """
        key = self._key(id, due_us)
        try:
            value = canonical({"due_us": due_us, "payload": dict(payload or {})})
        except (TypeError, ValueError):
            raise InvalidInput(what="timer", field="payload", reason="expected JSON with integers below 2^53") from None
        kept = self._kv.get(TIMERS, self._tenant, id)
        if kept is not None and kept.value == value:
            self._kv.put(QUEUE, self._tenant, key, b"", expected=0)
            return False
        before = self._entry(kept)
        self._kv.put(TIMERS, self._tenant, id, value)
        # Also where there is an entry: its new revision keeps a worker that saw the old record from removing it.
        self._kv.put(QUEUE, self._tenant, key, b"")
        if before is not None and before.key != key:
            self._kv.delete(QUEUE, self._tenant, before.key, expected=before.revision)
        return True

    def get(self, id: str) -> Timer | None:
        """A timer that is set, due or not."""
        kept = self._kv.get(TIMERS, self._tenant, id)
        return None if kept is None else self._timer(kept)

    def cancel(self, id: str) -> bool:
        """Unset a timer, whenever it is due; False when there is none."""
        before = self._entry(self._kv.get(TIMERS, self._tenant, id))
        if not self._kv.delete(TIMERS, self._tenant, id):
            return False
        if before is not None:
            self._kv.delete(QUEUE, self._tenant, before.key, expected=before.revision)
        return True

    def due(self, now_us: int) -> Iterator[Timer]:
        """Timers with due time <= `now_us`, by due time, then by id. Memory is bounded; one that is not settled is due again.

        InvalidInput names a timer whose record is damaged.
        """
        after, upto = "", f"{max(0, min(now_us, MAX_INT) + 1):0{_DIGITS}d}"
        while entries := self._kv.scan(QUEUE, self._tenant, after=after, upto=upto, limit=_PAGE):
            for entry in entries:
                due_us, _, id = entry.key.partition("/")
                kept = self._kv.get(TIMERS, self._tenant, id)
                timer = None if kept is None else self._timer(kept)
                if timer is not None and timer.due_us == int(due_us):
                    yield timer
                    continue
                if timer is not None:  # set for another time by who then crashed, perhaps before it was queued
                    self._kv.put(QUEUE, self._tenant, self._key(id, timer.due_us), b"", expected=0)
                self._kv.delete(QUEUE, self._tenant, entry.key, expected=entry.revision)
            after = entries[-1].key

    def settle(self, timer: Timer) -> bool:
        """Unset a timer whose effect is durable; False when it was settled, cancelled or set anew since it was read."""
        key = self._key(timer.id, timer.due_us)
        entry = self._kv.get(QUEUE, self._tenant, key)
        if not self._kv.delete(TIMERS, self._tenant, timer.id, expected=timer.revision):
            return False
        if entry is not None:
            self._kv.delete(QUEUE, self._tenant, key, expected=entry.revision)
        return True

    def _entry(self, kept: Kept | None) -> Kept | None:
        """The queue's entry of a record, as it is before the record is changed."""
        try:
            return None if kept is None else self._kv.get(QUEUE, self._tenant, self._key(kept.key, self._timer(kept).due_us))
        except InvalidInput:  # the record cannot be read: it is being replaced or removed, and its entry goes when it comes up
            return None

    def _timer(self, kept: Kept) -> Timer:
        try:
            written = orjson.loads(kept.value)
            return Timer(self._tenant, kept.key, int(written["due_us"]), written["payload"], kept.revision)
        except (ValueError, LookupError, TypeError):
            raise InvalidInput(what=f"timer {kept.key!r}", field="record", reason="cannot be read; cancel the timer") from None

    @staticmethod
    def _key(id: str, due_us: int) -> str:
        if not 1 <= len(id) <= MAX_ID:
            raise InvalidInput(what="timer", field="id", reason=f"expected 1 to {MAX_ID} characters")
        if not 0 <= due_us < MAX_INT:
            raise InvalidInput(what="timer", field="due_us", reason="expected microseconds from 1970 to 2255")
        return f"{due_us:0{_DIGITS}d}/{id}"


def local_instant(day: date, zone: str, *, days_before: int = 0, at: time = time(9)) -> int:
    """UTC microseconds of a local time on a day in a zone, such as 30 days before a renewal at 09:00 in Europe/Berlin.

    One instant for each: of a time that occurs twice when clocks go back, the first; a time that clocks skip when they go forward
    is what it would have been without the change. Raises InvalidInput for a zone that is not in the IANA database.
    """
    try:
        where = ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise InvalidInput(what="time", field="zone", reason="expected an IANA time zone such as Europe/Berlin") from None
    try:
        return to_us(datetime.combine(day - timedelta(days=days_before), at.replace(tzinfo=None, fold=0), where).astimezone(UTC))
    except OverflowError:
        raise InvalidInput(what="time", field="day", reason="expected a day within the years 1 to 9999") from None
