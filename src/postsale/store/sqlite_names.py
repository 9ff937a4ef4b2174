"""What the write path of a SQLite log looks up under its lock: numbers of names, versions, facts that break a condition."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Final

from postsale.events import StreamId
from postsale.store.contract import NoneSince
from postsale.store.plan import Breach
from postsale.store.sqlite_read import blocks_of, kind_numbers
from postsale.store.sqlite_schema import BLOCK_BITS

_NAMES_HELD: Final = 100_000


class Names:
    """Numbers of names, as the write connection knows them. Rows of names never change, so a number found once stays right."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._tenants: dict[str, int] = {}
        self._streams: dict[StreamId, int] = {}
        self._kinds: dict[tuple[str, bytes], int] = {}

    def forget(self) -> None:
        self._tenants.clear()
        self._streams.clear()
        self._kinds.clear()

    def find_tenant(self, name: str) -> int | None:
        found = self._tenants.get(name)
        if found is None and (row := self._db.execute("SELECT no FROM tenants WHERE name = ?", (name,)).fetchone()):
            found = self._tenants[name] = row[0]
        return found

    def find_stream(self, stream: StreamId) -> int | None:
        found = self._streams.get(stream)
        if found is None and (tenant := self.find_tenant(stream.tenant)) is not None:
            row = self._db.execute(
                "SELECT no FROM streams WHERE category = ? AND tenant = ? AND id = ?", (stream.category, tenant, stream.id)
            )
            for (found,) in row:
                if len(self._streams) >= _NAMES_HELD:
                    self._streams.clear()
                self._streams[stream] = found
        return found

    def tenant(self, name: str) -> int:
        return self.find_tenant(name) or self._insert("INSERT INTO tenants (name, size, frontier) VALUES (?, 0, x'')", (name,))

    def stream(self, stream: StreamId) -> int:
        no = self.find_stream(stream)
        if no is None:
            no = self._insert(
                "INSERT INTO streams (tenant, category, id) VALUES (?, ?, ?)", (self.tenant(stream.tenant), stream.category, stream.id)
            )
            self._streams[stream] = no
        return no

    def of_streams(self, streams: Sequence[StreamId]) -> list[int]:
        known = self._streams
        return [known.get(stream) or self.stream(stream) for stream in streams]

    def kind(self, wire_name: str, schema: bytes) -> int:
        key = (wire_name, schema)
        no = self._kinds.get(key)
        if no is None:
            row = self._db.execute("SELECT no FROM kinds WHERE wire_name = ? AND schema = ?", key).fetchone()
            no = self._kinds[key] = row[0] if row else self._insert("INSERT INTO kinds (wire_name, schema) VALUES (?, ?)", key)
        return no

    def _insert(self, sql: str, values: tuple[object, ...]) -> int:
        no = self._db.execute(sql, values).lastrowid
        assert no is not None  # an INSERT has just been made
        return no


def decision_version(db: sqlite3.Connection, stream: int | None) -> int:
    found = db.execute("SELECT max(version) FROM events WHERE stream = ? AND lane = 1", (stream,)).fetchone()[0]
    return found or 0


def first_breach(db: sqlite3.Connection, names: Names, condition: NoneSince) -> Breach | None:
    numbers = kind_numbers(db, condition.kinds)
    if not numbers:  # `IN ()` beside INDEXED BY is "no query solution" to SQLite
        return None
    kinds = ", ".join(map(str, numbers))
    found: list[tuple[int, StreamId, str]] = []
    blocks = blocks_of(db, condition.position, None)
    for stream in condition.streams:
        no = names.find_stream(stream)
        for block in blocks:
            row = db.execute(
                "SELECT e.position, k.wire_name FROM events e INDEXED BY facts_by_stream CROSS JOIN kinds k ON k.no = e.kind"
                f" WHERE e.position >> {BLOCK_BITS} = ? AND e.stream = ? AND e.lane = 0 AND e.position > ? AND e.kind IN ({kinds})"
                " ORDER BY e.position LIMIT 1",
                (block, no, condition.position),
            ).fetchone()
            if row is not None:
                found.append((row[0], stream, row[1]))
                break
    if not found:
        return None
    position, stream, wire_name = min(found)
    return Breach(stream, wire_name, position)
