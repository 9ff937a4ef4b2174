"""Numbers of names in a PostgreSQL log, as one process knows them. Rows of names never change, so a number found once stays right."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from postsale.events import StreamId
from postsale.store.postgres_link import Script

_HELD: Final = 100_000

Kind = tuple[str, bytes]
"""Wire name and schema digest."""


class Names:
    """Committed names of streams and kinds and their numbers, both ways; shared by threads. Forgets rather than grows without bound.

    The numbers hold for the log that had the event `seen`: a server that took over from another may lack the newest commits, and give
    their numbers to other names. Numbers of tenants are asked for every time, because a tenant may exist without an event.
    """

    def __init__(self) -> None:
        self.streams: dict[StreamId, int] = {}
        self.kinds: dict[Kind, int] = {}
        self.chapters: set[int] = set()  # that have a partition
        self.seen = (0, 0)  # position and recorded_at of an event that is not older than any of these names
        self._stream_of: dict[int, StreamId] = {}
        self._kind_of: dict[int, Kind] = {}

    def forget(self) -> None:
        for known in (self.streams, self.kinds, self._stream_of, self._kind_of):
            known.clear()
        self.chapters.clear()
        self.seen = (0, 0)

    def saw(self, position: int, recorded_at_us: int) -> None:
        """The log's newest event now. When the log went back, everything is forgotten."""
        if position < self.seen[0] or (position == self.seen[0] and recorded_at_us != self.seen[1]):
            self.forget()
        self.seen = (position, recorded_at_us)

    def stream_of(self, no: int) -> StreamId | None:
        return self._stream_of.get(no)

    def kind_of(self, no: int) -> Kind | None:
        return self._kind_of.get(no)

    def learn_stream(self, no: int, stream: StreamId) -> None:
        if len(self._stream_of) >= _HELD:
            self.streams.clear()
            self._stream_of.clear()
        self.streams[stream] = no
        self._stream_of[no] = stream

    def learn_kind(self, no: int, kind: Kind) -> None:
        self.kinds[kind] = no
        self._kind_of[no] = kind


class NewNames:
    """What a transaction found and made: on top of what is known, handed over when it has been committed."""

    def __init__(self, known: Names) -> None:
        self._known = known
        self.seen = known.seen
        self.streams: dict[StreamId, int] = {}
        self.kinds: dict[Kind, int] = {}
        self.chapters: set[int] = set()

    def stream(self, stream: StreamId) -> int | None:
        return self.streams.get(stream) or self._known.streams.get(stream)

    def kind(self, kind: Kind) -> int | None:
        return self.kinds.get(kind) or self._known.kinds.get(kind)

    def has_chapter(self, no: int) -> bool:
        return no in self.chapters or no in self._known.chapters

    def committed(self, position: int, recorded_at_us: int) -> None:
        """The transaction was, with this as its newest event."""
        self._known.chapters |= self.chapters
        for stream, no in self.streams.items():
            self._known.learn_stream(no, stream)
        for kind, no in self.kinds.items():
            self._known.learn_kind(no, kind)
        self._known.saw(position, recorded_at_us)


def enter(script: Script, schema: str, tenant: str, *, make: bool = False, take: Callable[[list[Any]], None] | None = None) -> None:
    """From here on the script works for this tenant. For one that does not exist, and is not to be made, it finds nothing.

    `take` gets a row with the tenant's number, or None.
    """
    script.add(f"SELECT {schema}.enter(%s, {make})", tenant, take=take)
