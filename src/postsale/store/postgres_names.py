"""Numbers of names in a PostgreSQL log, as one process knows them. Rows of names never change, so a number found once stays right.

Numbers of tenants are asked for every time, because a tenant may exist without an event.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Final

from postsale.events import StreamId
from postsale.store.postgres_link import Script

_HELD: Final = 100_000

Kind = tuple[str, bytes]
"""Wire name and schema digest."""


Seen = tuple[int, int]
"""Position and recorded_at, UTC µs, of an event."""


class Known:
    """Committed names of streams and kinds and their numbers, both ways. Only ever grows, so that whoever works with it is not surprised.

    Holds for the log that had the event `seen`: a server that took over from another may lack the newest commits, and give their
    numbers to other names.
    """

    def __init__(self) -> None:
        self.streams: dict[StreamId, int] = {}
        self.kinds: dict[Kind, int] = {}
        self.chapters: set[int] = set()  # that have a partition
        self.seen: Seen = (0, 0)  # an event that is not older than any of these names
        self.stream_of: dict[int, StreamId] = {}
        self.kind_of: dict[int, Kind] = {}
        self._lock = threading.Lock()

    def learn_stream(self, no: int, stream: StreamId) -> None:
        self.streams[stream] = no
        self.stream_of[no] = stream

    def learn_kind(self, no: int, kind: Kind) -> None:
        self.kinds[kind] = no
        self.kind_of[no] = kind

    def saw(self, seen: Seen) -> None:
        with self._lock:  # never back: a slower thread saw an older head
            self.seen = max(self.seen, seen)


class Names:
    """What a store knows `now`, shared by threads; replaced by nothing rather than grown without bound, and when the log went back."""

    def __init__(self) -> None:
        self.now = Known()

    def forget(self) -> None:
        self.now = Known()

    def saw(self, known: Known, before: Seen, head: Seen) -> None:
        """`head` is the log's newest event, read after `known` had seen `before`."""
        if head[0] < before[0] or (head[0] == before[0] and head[1] != before[1]) or len(known.streams) > _HELD:
            self.forget()
        else:
            known.saw(head)


class NewNames:
    """What a transaction found and made: on top of what was known when it began, handed over when it has been committed."""

    def __init__(self, names: Names) -> None:
        self._names = names
        self._known = names.now
        self.seen = self._known.seen
        self.streams: dict[StreamId, int] = {}
        self.kinds: dict[Kind, int] = {}
        self.chapters: set[int] = set()

    def stream(self, stream: StreamId) -> int | None:
        return self.streams.get(stream) or self._known.streams.get(stream)

    def kind(self, kind: Kind) -> int | None:
        return self.kinds.get(kind) or self._known.kinds.get(kind)

    def has_chapter(self, no: int) -> bool:
        return no in self.chapters or no in self._known.chapters

    def committed(self, head: Seen) -> None:
        """The transaction was, with this as its newest event."""
        self._known.chapters.update(self.chapters)
        for stream, no in self.streams.items():
            self._known.learn_stream(no, stream)
        for kind, no in self.kinds.items():
            self._known.learn_kind(no, kind)
        self._names.saw(self._known, self.seen, head)


def enter(script: Script, schema: str, tenant: str, *, make: bool = False, take: Callable[[list[Any]], None] | None = None) -> None:
    """From here on the script works for this tenant. For one that does not exist, and is not to be made, it finds nothing.

    `take` gets a row with the tenant's number, or None.
    """
    script.add(f"SELECT {schema}.enter(%s, {make})", tenant, take=take)
