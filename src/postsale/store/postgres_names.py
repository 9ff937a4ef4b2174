"""Numbers of names in a PostgreSQL log, as one process knows them. Rows of names never change, so a number found once stays right."""

from __future__ import annotations

from typing import Any, Final

from postsale.events import StreamId
from postsale.store.postgres_link import Script
from postsale.store.postgres_schema import SYSTEM, SYSTEM_NO

_HELD: Final = 100_000

Kind = tuple[str, bytes]
"""Wire name and schema digest."""


class Names:
    """Committed names and their numbers, both ways; shared by threads. Forgets rather than grows without bound."""

    def __init__(self) -> None:
        self.tenants: dict[str, int] = {SYSTEM: SYSTEM_NO}
        self.streams: dict[StreamId, int] = {}
        self.kinds: dict[Kind, int] = {}
        self.chapters: set[int] = set()  # that have a partition
        self._stream_of: dict[int, StreamId] = {}
        self._kind_of: dict[int, Kind] = {}

    def forget(self) -> None:
        for known in (self.tenants, self.streams, self.kinds, self._stream_of, self._kind_of):
            known.clear()
        self.tenants[SYSTEM] = SYSTEM_NO
        self.chapters.clear()

    def tenant(self, name: str) -> int | None:
        return self.tenants.get(name)

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
        self.tenants: dict[str, int] = {}
        self.streams: dict[StreamId, int] = {}
        self.kinds: dict[Kind, int] = {}
        self.chapters: set[int] = set()

    def tenant(self, name: str) -> int | None:
        return self.tenants.get(name, self._known.tenants.get(name))

    def stream(self, stream: StreamId) -> int | None:
        return self.streams.get(stream) or self._known.streams.get(stream)

    def kind(self, kind: Kind) -> int | None:
        return self.kinds.get(kind) or self._known.kinds.get(kind)

    def has_chapter(self, no: int) -> bool:
        return no in self.chapters or no in self._known.chapters

    def committed(self) -> None:
        self._known.tenants |= self.tenants
        self._known.chapters |= self.chapters
        for stream, no in self.streams.items():
            self._known.learn_stream(no, stream)
        for kind, no in self.kinds.items():
            self._known.learn_kind(no, kind)


def enter(script: Script, schema: str, names: Names | NewNames, tenant: str, *, make: bool = False) -> None:
    """From here on the script works for this tenant. For one that does not exist, and is not to be made, it finds nothing."""
    no = names.tenant(tenant)
    if no is not None:
        script.add(f"SET LOCAL postsale.tenant = {no}")
        return

    def take(rows: list[Any]) -> None:
        if rows[0][0] is not None:
            names.tenants[tenant] = rows[0][0]

    script.add(f"SELECT {schema}.enter(%s, {make})", tenant, take=take)
