"""A log in a list, for tests of the rooms above the store: positions, times and filters as store/contract.py says."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from hashlib import sha256
from uuid import UUID

from postsale.aggregates.signals import Signal
from postsale.events import Actor, Header, Lane, NewEvent, StoredEvent, StreamId, encode_payload, to_us
from postsale.events.ids import derive_id
from postsale.store.contract import Appended, Outcome, Query, Submission


class ListStore:
    """Single-threaded; conditions and idempotency keys are not looked at: the tests here append blind facts once."""

    def __init__(self, log_id: str = "log-1", now_us: int = 1_700_000_000_000_000) -> None:
        self.log_id = log_id
        self.events: list[StoredEvent] = []
        self.now_us = now_us

    def append(self, submissions: Sequence[Submission]) -> list[Outcome]:
        return [self._append(submission) for submission in submissions]

    def _append(self, submission: Submission) -> Appended:
        added = [self._store(new) for new in submission.events]
        return Appended(tuple(e.position for e in added), tuple(e.version for e in added), tuple(e.recorded_at_us for e in added), True)

    def _store(self, new: NewEvent) -> StoredEvent:
        position = len(self.events) + 1
        last = self.events[-1].recorded_at_us if self.events else 0
        leaf = sha256(b"%d" % position + new.data + self.log_id.encode()).digest()
        event = StoredEvent(
            position, new.stream, new.lane, position, new.event_id, new.wire_name, new.schema, new.occurred_at_us,
            max(self.now_us, last + 1), new.content_mac, new.header, new.data, bytes(16), position - 1, leaf,
        )  # fmt: skip
        self.events.append(event)
        return event

    def put(self, stream: StreamId, wire_name: str, data: bytes, occurred_at_us: int, lane: Lane = Lane.FACT) -> StoredEvent:
        """Append raw bytes, however wrong they are."""
        header = Header(actor=Actor("source", "test"), source="test", source_id=str(len(self.events))).to_bytes()
        event_id = derive_id(self.log_id, len(self.events))
        return self._store(NewEvent(stream, lane, None, event_id, wire_name, bytes(16), occurred_at_us, bytes(16), header, data))

    def record(self, stream: StreamId, signal: Signal) -> StoredEvent:
        return self.put(stream, signal.wire_name, encode_payload(signal), to_us(signal.occurred_at))

    def read(self, query: Query) -> Generator[StoredEvent, None, None]:
        found = [e for e in self.events if _matches(e, query)]
        yield from (found[::-1] if query.backward else found)[: query.limit]

    def head(self) -> int:
        return len(self.events)

    def versions(self, streams: Sequence[StreamId]) -> list[int]:
        return [0 for _ in streams]

    def find(self, tenant: str, event_id: UUID) -> StoredEvent | None:
        return next((e for e in self.events if e.tenant == tenant and e.event_id == event_id), None)

    def latest(self, streams: Sequence[StreamId]) -> list[StoredEvent | None]:
        return [None for _ in streams]

    def close(self) -> None:
        pass


def _matches(e: StoredEvent, q: Query) -> bool:
    return (
        e.position > q.after
        and (q.upto is None or e.position <= q.upto)
        and (q.tenant is None or e.tenant == q.tenant)
        and (q.category is None or e.stream.category == q.category)
        and (not q.streams or e.stream in q.streams)
        and (q.lane is None or e.lane == q.lane)
        and (not q.kinds or e.kind in q.kinds)
        and (q.known_at_us is None or e.recorded_at_us <= q.known_at_us)
        and (q.as_of_us is None or e.occurred_at_us <= q.as_of_us)
    )
