"""A PostgreSQL log laid open for verification: raw values in one snapshot, read as the tailer. Decides nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, Final

import psycopg
from psycopg.rows import tuple_row

from postsale.errors import LogDamaged
from postsale.events import StreamId
from postsale.store.archive import Archive
from postsale.store.archive_evidence import ArchivedEvidence
from postsale.store.contract import Row, Unreadable
from postsale.store.postgres_archive import Segments
from postsale.store.postgres_link import Connection, Link, Script, lost
from postsale.store.postgres_schema import EVENT_COLUMNS
from postsale.store.postgres_structure import damage
from postsale.store.segments import Listing, Segment

_ROWS: Final = 500  # fetched at once, and fewer when they are large
_FETCH_BYTES: Final = 4_000_000
_NAMES: Final = 1_000  # fetched at once
_SINGLE_STEPS: Final = 64  # how many positions after an unreadable one are tried one by one, then in strides of as many
_MAX_TRIES: Final = 100_000
_NUMBERS_HELD: Final = 65_536


class PostgresEvidence:
    """Raw reads within one transaction. A context manager; holds a connection and the server's snapshot until it is left."""

    def __init__(self, link: Link, archive: Archive) -> None:
        self._link = link
        self._archive = archive
        self._archived: ArchivedEvidence | None = None  # once rows were read
        self._numbers: dict[StreamId, tuple[Any, Any]] = {}
        self._kinds: dict[tuple[str, bytes], Any] = {}
        self._s = link.schema
        self._stack = ExitStack()
        self._db: Connection
        self._streams: dict[Any, tuple[Any, bytes, bytes, bytes]] = {}

    def __enter__(self) -> PostgresEvidence:
        link = self._link
        opening = link.begin(link.roles.tailer, read_only=True, isolation="REPEATABLE READ")
        opening.add("SET LOCAL statement_timeout = 0")  # a whole index may be walked through
        opening.add(f"SELECT 1 FROM {self._s}.log")  # takes the snapshot
        with ExitStack() as stack:
            stack.enter_context(link.translated(link.roles.tailer))
            self._db = stack.enter_context(link.transaction(opening))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    def rows(self) -> Iterator[Row | Unreadable]:
        """The live tables and the segments, by position."""
        self._archived = ArchivedEvidence(self._archive, stream=self._number, kind=self._kind_number, listed=self._listed)
        return self._archived.beside(self._live_rows(), self._segments(self._archived.doubts))

    def _segments(self, doubts: list[str]) -> Iterator[Segment]:
        for (chapter,) in self._ask(f"SELECT chapter FROM {self._s}.segments ORDER BY chapter"):
            first = self._ask(f"SELECT first, last FROM {self._s}.segments WHERE chapter = %s", chapter)
            try:
                yield from Segments(self._db, self._s).described(first[0][0] - 1, first[0][0])
            except LogDamaged:
                doubts.append(f"the description of the segment of chapter {chapter} is unreadable")

    def _listed(self, segment: Segment, listing: Listing) -> bool:
        return Segments(self._db, self._s).listed(segment, listing, self._number)

    def _number(self, stream: StreamId) -> tuple[Any, Any]:
        """The numbers of a stream and its tenant, None for names that the log does not know."""
        if stream not in self._numbers:
            if len(self._numbers) >= _NUMBERS_HELD:
                self._numbers.clear()
            self._numbers[stream] = Segments(self._db, self._s).numbers([stream]).get(stream, (None, None))
        return self._numbers[stream]

    def _kind_number(self, wire_name: str, schema: bytes) -> Any:
        if (wire_name, schema) not in self._kinds:
            found = self._ask(f"SELECT no FROM {self._s}.kinds WHERE wire_name = %s AND schema = %s", wire_name, schema)
            self._kinds[wire_name, schema] = found[0][0] if found else None
        return self._kinds[wire_name, schema]

    def _live_rows(self) -> Iterator[Row | Unreadable]:
        columns = ", ".join(name for name, _ in EVENT_COLUMNS)
        start, last, tries = -(2**63), 0, 0
        hole = ""  # why what follows `last` could not be read
        end = self._end()
        while True:
            try:
                for row in self._walk(f"SELECT {columns} FROM {self._s}.events WHERE position >= {start} ORDER BY position"):
                    if hole:
                        yield Unreadable(last + 1, row[0] - 1, hole)
                        hole, tries = "", 0
                    last = row[0]
                    yield row
            except psycopg.Error as error:
                if lost(error):
                    raise
                hole = hole or f"SQLSTATE {error.sqlstate}"
                tries += 1
                # Other pages may still be readable: go on a little behind the damage.
                start = max(start, last + 1) + (1 if tries <= _SINGLE_STEPS else _SINGLE_STEPS)
                if start <= end and tries <= _MAX_TRIES:
                    continue
            if hole:
                yield Unreadable(last + 1, max(end, last + 1), hole)
            return

    def _end(self) -> int:
        """The furthest position worth trying."""
        return max(
            (
                found[0][0]
                for sql in (f"SELECT position FROM {self._s}.log", f"SELECT coalesce(max(position), 0) FROM {self._s}.events")
                if (found := self._ask(sql))
            ),
            default=0,
        )

    def ids(self) -> Iterator[tuple[Any, Any, Any, Any, Any] | Unreadable]:
        # Through the indexes on purpose: an id that they do not lead to is one that could be stored twice.
        forced = "SET LOCAL enable_seqscan = off; SET LOCAL enable_sort = off; SET LOCAL enable_bitmapscan = off"
        self._db.execute(forced.encode(), prepare=False)
        try:
            columns, before = "tenant, event_id, position, recorded_at, content_mac", None
            for row in self._walk(
                f"SELECT {columns} FROM {self._s}.events UNION ALL SELECT {columns} FROM {self._s}.archived_ids ORDER BY event_id, tenant"
            ):
                if row != before:  # in both while its chapter is being archived
                    yield row
                before = row
        except psycopg.Error as error:
            yield self._unreadable(error)

    def nodes(self) -> Iterator[tuple[Any, Any, Any, Any] | Unreadable]:
        try:
            yield from self._walk(f"SELECT tenant, level, number, hash FROM {self._s}.nodes ORDER BY tenant, level, number")
        except psycopg.Error as error:
            yield self._unreadable(error)

    def stream(self, ref: Any) -> tuple[Any, bytes, bytes, bytes] | None:
        found = self._streams.pop(ref, None)
        if found is None:
            self._streams.clear()
            for no, *names in self._ask(
                f"SELECT s.no, s.tenant, textsend(t.name), textsend(s.category), textsend(s.id) FROM {self._s}.streams s"
                f" JOIN {self._s}.tenants t ON t.no = s.tenant WHERE s.no >= %s ORDER BY s.no LIMIT {_NAMES}",
                ref,
            ):
                self._streams[no] = names[0], names[1], names[2], names[3]
            found = self._streams.pop(ref, None)
        return found

    def kind(self, ref: Any) -> tuple[bytes, bytes] | None:
        rows = self._ask(f"SELECT textsend(wire_name), schema FROM {self._s}.kinds WHERE no = %s", ref)
        return (rows[0][0], rows[0][1]) if rows else None

    def heads(self) -> dict[Any, tuple[bytes, Any, Any]]:
        # A tenant may exist for its records beside the log only.
        rows = self._ask(f"SELECT no, textsend(name), size, frontier FROM {self._s}.tenants WHERE size <> 0 OR frontier <> ''")
        return {no: (name, size, frontier) for no, name, size, frontier in rows}

    def head(self) -> tuple[Any, Any]:
        rows = self._ask(f"SELECT position, recorded_at FROM {self._s}.log")
        return (rows[0][0], rows[0][1]) if rows else (None, None)

    def structure(self) -> Iterator[str]:
        yield from self._archived.doubts if self._archived else ()
        yield from damage(self._db, self._s)

    # ---------------------------------------------------------------- statements

    def _walk(self, sql: str) -> Iterator[Any]:
        """All rows of a statement, some at a time. A failure of the statement does not end the transaction."""
        Script("SAVEPOINT walk").run(self._db)
        try:
            with psycopg.ServerCursor(self._db, "walk", row_factory=tuple_row) as cursor:
                cursor.execute(sql.encode(), binary=True)
                count = _ROWS
                while rows := cursor.fetchmany(count):
                    yield from rows
                    size = sum(len(value) for row in rows for value in row if type(value) is bytes) // len(rows) + 1
                    count = max(1, min(_ROWS, _FETCH_BYTES // size))
        except psycopg.Error as error:
            if not lost(error):
                Script("ROLLBACK TO walk").run(self._db)
            raise

    def _ask(self, sql: str, *values: Any) -> list[Any]:
        """The rows of a small statement; none when it fails."""
        Script("SAVEPOINT asked").run(self._db)
        try:
            with psycopg.Cursor(self._db, row_factory=tuple_row) as cursor:
                return cursor.execute(sql.encode(), values or None, binary=True, prepare=False).fetchall()
        except psycopg.Error as error:
            if lost(error):
                raise
            Script("ROLLBACK TO asked").run(self._db)
            return []

    @staticmethod
    def _unreadable(error: psycopg.Error) -> Unreadable:
        if lost(error):
            raise error
        return Unreadable(0, 0, f"SQLSTATE {error.sqlstate}")
