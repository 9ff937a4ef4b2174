"""A SQLite log laid open for verification: raw values, however damaged the file is. Decides nothing; reads on one snapshot."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from postsale.errors import LogDamaged
from postsale.events import StreamId
from postsale.store.archive import Archive
from postsale.store.archive_evidence import ArchivedEvidence
from postsale.store.contract import Row, Unreadable
from postsale.store.segments import Listing, Segment
from postsale.store.sqlite_archive import listed_streams, listed_tenants, segments
from postsale.store.sqlite_ids import SEALED, doubts
from postsale.store.sqlite_read import stream_number
from postsale.store.sqlite_schema import DAMAGE, code_of, connect, expected_schema, translated, url_of

_ROWS: Final = (
    "SELECT position, tenant, stream, lane, version, event_id, kind, occurred_at, recorded_at, content_mac, header, data, salt,"
    " leaf_index, leaf FROM events NOT INDEXED WHERE position >= ? ORDER BY position"
)
_MIN_ROWID: Final = -(2**63)
_SINGLE_STEPS: Final = 64  # how many positions after an unreadable one are tried one by one, then in strides of as many
_MAX_TRIES: Final = 100_000
_NAMES_HELD: Final = 65_536


class SQLiteEvidence:
    """Raw reads of one file within one read transaction. A context manager; StoreUnavailable when the file cannot be opened."""

    def __init__(self, path: Path, archive: Archive, *, busy_timeout_s: float) -> None:
        self._archive = archive
        with translated(url_of(path)):
            self._db = connect(path, busy_timeout_s=busy_timeout_s, reader=True)
            try:
                self._db.execute("PRAGMA cell_size_check = ON")  # notices a damaged page before it is misread
                self._db.execute("BEGIN")
                self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()  # takes the snapshot
            except BaseException:
                self._db.close()
                raise
        self._db.text_factory = bytes  # damaged text need not be UTF-8
        self._archived: ArchivedEvidence | None = None  # once rows were read

    def __enter__(self) -> SQLiteEvidence:
        return self

    def __exit__(self, *error: object) -> None:
        self._db.close()

    def rows(self) -> Iterator[Row | Unreadable]:
        """The live table and the segments, by position."""
        numbers = _Numbers(self._db)
        self._archived = ArchivedEvidence(self._archive, stream=numbers.stream, kind=numbers.kind, listed=self._listed)
        return self._archived.beside(self._live_rows(), self._segments(self._archived.doubts))

    def _segments(self, doubts: list[str]) -> Iterator[Segment]:
        try:
            chapters = [chapter for (chapter,) in self._db.execute("SELECT chapter FROM segments ORDER BY chapter").fetchall()]
        except DAMAGE as error:
            doubts.append(f"the table of segments cannot be read ({code_of(error)})")
            return
        for chapter in chapters:
            try:
                yield from segments(self._db, "WHERE chapter = ?", (chapter,))
            except (LogDamaged, *DAMAGE):
                doubts.append(f"the description of the segment of chapter {chapter} is unreadable")

    def _listed(self, segment: Segment, listing: Listing) -> bool:
        try:
            return all(
                list(rows) == self._db.execute(f"SELECT * FROM {table} WHERE chapter = ? ORDER BY 1", (segment.chapter,)).fetchall()
                for table, rows in (
                    ("segment_streams", listed_streams(self._db, segment.chapter, listing)),
                    ("segment_tenants", listed_tenants(self._db, segment.chapter, listing)),
                )
            )
        except (LogDamaged, *DAMAGE):
            return False

    def _live_rows(self) -> Iterator[Row | Unreadable]:
        start, last, tries = _MIN_ROWID, 0, 0
        hole = ""  # why what follows `last` could not be read
        end = self._end()
        while True:
            try:
                for row in self._db.execute(_ROWS, (start,)):
                    if hole:
                        yield Unreadable(last + 1, row[0] - 1, hole)
                        hole, tries = "", 0
                    last = row[0]
                    yield row
            except DAMAGE as error:
                hole = hole or code_of(error)
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
            (found for sql in ("SELECT position FROM log", "SELECT max(position) FROM events") if type(found := self._value(sql)) is int),
            default=0,
        )

    def _value(self, sql: str) -> Any:
        try:
            row = self._db.execute(sql).fetchone()
        except DAMAGE:
            return None
        return row[0] if row else None

    def ids(self) -> Iterator[tuple[Any, Any, Any, Any, Any] | Unreadable]:
        try:
            yield from self._db.execute(
                "SELECT tenant, event_id, position, recorded_at, content_mac FROM ids UNION ALL"
                " SELECT tenant, event_id, position, recorded_at, content_mac FROM events NOT INDEXED"
                f" WHERE position > ({SEALED}) ORDER BY tenant, event_id"
            )
        except DAMAGE as error:
            yield Unreadable(0, 0, code_of(error))

    def stream(self, ref: Any) -> tuple[Any, bytes, bytes, bytes] | None:
        row = self._row(
            "SELECT s.tenant, t.name, s.category, s.id FROM streams s NOT INDEXED JOIN tenants t NOT INDEXED ON t.no = s.tenant"
            " WHERE s.no = ?",
            ref,
        )
        return (row[0], row[1], row[2], row[3]) if row and all(type(name) is bytes for name in row[1:]) else None

    def kind(self, ref: Any) -> tuple[bytes, bytes] | None:
        row = self._row("SELECT wire_name, schema FROM kinds NOT INDEXED WHERE no = ?", ref)
        return (row[0], row[1]) if row and all(type(name) is bytes for name in row) else None

    def _row(self, sql: str, ref: Any) -> Row | None:
        try:
            row: Row | None = self._db.execute(sql, (ref,)).fetchone()
        except (*DAMAGE, OverflowError):
            return None
        return row

    def heads(self) -> dict[Any, tuple[bytes, Any, Any]]:
        try:
            rows = self._db.execute("SELECT no, name, size, frontier FROM tenants NOT INDEXED").fetchall()
        except DAMAGE:
            return {}
        return {no: (name if type(name) is bytes else repr(name).encode(), size, frontier) for no, name, size, frontier in rows}

    def nodes(self) -> Iterator[tuple[Any, Any, Any, Any] | Unreadable]:
        try:
            yield from self._db.execute("SELECT tenant, level, number, hash FROM nodes ORDER BY tenant, level, number")
        except DAMAGE as error:
            yield Unreadable(0, 0, code_of(error))

    def head(self) -> tuple[Any, Any]:
        return self._value("SELECT position FROM log"), self._value("SELECT recorded_at FROM log")

    def structure(self) -> Iterator[str]:
        try:
            found = {
                name.decode(errors="backslashreplace"): sql.decode(errors="backslashreplace")
                for name, sql in self._db.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL")
            }
            for name, sql in expected_schema().items():
                if found.get(name) != sql:
                    yield f"{name} is {'changed' if name in found else 'missing'} in the schema of the file"
            yield from self._archived.doubts if self._archived else ()
            yield from self._doubts_about_ids()
            for (line,) in self._db.execute("PRAGMA integrity_check"):
                if line != b"ok":
                    yield line.decode(errors="backslashreplace")
        except DAMAGE as error:
            yield f"the file is damaged ({code_of(error)})"

    def _doubts_about_ids(self) -> Iterator[str]:
        try:
            yield from doubts(self._db)
        except (TypeError, *DAMAGE) as error:
            yield f"where ids are looked for cannot be read ({code_of(error)})"


class _Numbers:
    """The numbers that the live table has for the names in a segment; None for a name that the log does not know."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._streams: dict[StreamId, tuple[Any, Any]] = {}
        self._kinds: dict[tuple[str, bytes], Any] = {}

    def stream(self, stream: StreamId) -> tuple[Any, Any]:
        """Of the stream and its tenant."""
        if stream not in self._streams:
            if len(self._streams) >= _NAMES_HELD:
                self._streams.clear()
            try:
                no = stream_number(self._db, stream)
                tenant = self._db.execute("SELECT no FROM tenants WHERE name = ?", (stream.tenant,)).fetchone()
            except DAMAGE:
                no = tenant = None
            self._streams[stream] = (no, tenant and tenant[0])
        return self._streams[stream]

    def kind(self, wire_name: str, schema: bytes) -> Any:
        if (wire_name, schema) not in self._kinds:
            try:
                found = self._db.execute("SELECT no FROM kinds WHERE wire_name = ? AND schema = ?", (wire_name, schema)).fetchone()
            except DAMAGE:
                found = None
            self._kinds[wire_name, schema] = found and found[0]
        return self._kinds[wire_name, schema]
