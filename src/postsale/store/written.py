"""What this process has just written and will read again soon: events as reading them gives them, without decoding.

A memory of a pure function: whether it is the same event is told by its bytes, so that nothing has ever to be taken back.
May import `events`.
"""

from __future__ import annotations

from threading import Lock
from typing import Final, NamedTuple
from uuid import UUID

from postsale.events import MASKED, Event, NewEvent, StoredEvent, decode

_KEPT: Final = 512  # a few rounds of works that are done together


class _Known(NamedTuple):
    wire_name: str
    header: bytes
    data: bytes
    event: Event


class Written:
    """The newest events of one writer. Thread-safe."""

    def __init__(self) -> None:
        self._known: dict[UUID, _Known] = {}
        self._lock = Lock()

    def keep(self, event: Event, new: NewEvent) -> None:
        """An event and the bytes that it was encoded to."""
        if event.envelope_fields:
            return  # part of what reading gives is in the header
        sealed = {name: MASKED for name in event.personal_fields if getattr(event, name) is not None}
        known = _Known(new.wire_name, new.header, new.data, event.model_copy(update=sealed) if sealed else event)
        with self._lock:
            self._known[new.event_id] = known
            if len(self._known) > _KEPT:
                del self._known[next(iter(self._known))]

    def read(self, stored: StoredEvent) -> Event:
        """The event, personal fields MASKED. Raises as `decode`."""
        known = self._known.get(stored.event_id)
        if known is not None and (known.data, known.header, known.wire_name) == (stored.data, stored.header, stored.wire_name):
            return known.event
        return decode(stored).data
