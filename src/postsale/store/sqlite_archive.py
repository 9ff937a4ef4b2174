"""Archived chapters of a SQLite log: what the file keeps about segments, which of them a query needs, and detaching a chapter.

Takes connections in a transaction; the files themselves are `archive`'s matter. Only `SQLiteChapters` changes anything, and the file's
own triggers let it delete nothing but facts whose chapter has a segment.
"""

from __future__ import annotations

import json
import sqlite3
import struct
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Final

from postsale.errors import LogDamaged
from postsale.events import Lane, StoredEvent, StreamId
from postsale.store.archive import Archive, Part, merged
from postsale.store.contract import NoneSince, Query
from postsale.store.plan import Breach
from postsale.store.segments import Listing, Segment, groups_from_bytes, pack_groups, pack_leaves, unpack_groups, unpack_leaves
from postsale.store.sqlite_read import COLUMNS, Decoder, few_streams, read, stream_number

if TYPE_CHECKING:
    from postsale.store.sqlite import SQLiteStore

LAST: Final = """SELECT max(
    (SELECT coalesce(max(position), 0) FROM events), coalesce((SELECT last FROM segments ORDER BY chapter DESC LIMIT 1), 0))"""
"""The position up to which there are events, archived ones included, from the events themselves."""

DETACH_ROWS: Final = 2_000  # positions per transaction

_SEGMENT: Final = (
    "SELECT chapter, CAST(name AS BLOB), CAST(directory AS BLOB), first, last, rows, size_bytes, sha256, tail_sha256, archived_at, {groups}"
    " FROM segments"
)


def segments(db: sqlite3.Connection, where: str = "", values: Sequence[object] = (), *, groups: bool = True) -> list[Segment]:
    """Descriptions of segments, by chapter. LogDamaged for one that cannot be read."""
    rows = db.execute(f"{_SEGMENT.format(groups='groups' if groups else 'NULL')} {where} ORDER BY chapter", values)
    return [_segment(row) for row in rows]


def _segment(row: Sequence[object]) -> Segment:
    chapter, name, directory, first, last, count, size, sha256, tail, archived_at, groups = row
    try:
        return Segment(
            chapter=int(str(chapter)),
            name=bytes(name).decode(),  # type: ignore[call-overload]
            directory=bytes(directory).decode(),  # type: ignore[call-overload]
            first=int(str(first)),
            last=int(str(last)),
            rows=int(str(count)),
            size_bytes=int(str(size)),
            sha256=bytes(sha256),  # type: ignore[call-overload]
            tail_sha256=bytes(tail),  # type: ignore[call-overload]
            groups=() if groups is None else groups_from_bytes(bytes(groups)),  # type: ignore[call-overload]
            archived_at_us=int(str(archived_at)),
        )
    except (ValueError, TypeError, struct.error) as error:
        raise LogDamaged(position=first if isinstance(first, int) else 0, reason="the description of its segment is unreadable") from error


def containing(db: sqlite3.Connection, position: int) -> Segment | None:
    """The segment of the chapter with this position, if it is archived."""
    found = segments(db, "WHERE first <= ? AND last >= ?", (position, position))
    return found[0] if found else None


# ---------------------------------------------------------------- reading


def read_all(db: sqlite3.Connection, archive: Archive, query: Query) -> Iterator[StoredEvent]:
    """The events of a query, from the live table and from segments, in order."""
    parts = parts_of(db, query)
    return merged(read(db, query), archive.read(parts, query), query) if parts else read(db, query)


def first_archived_breach(db: sqlite3.Connection, archive: Archive, condition: NoneSince) -> Breach | None:
    """The first archived fact that breaks a condition."""
    query = Query(streams=condition.streams, kinds=condition.kinds, lane=Lane.FACT, after=condition.position)
    parts = parts_of(db, query) if condition.streams and condition.kinds else []
    if not parts:
        return None
    with closing(archive.read(parts, query)) as found:
        first = next(found, None)
    return None if first is None else Breach(first.stream, first.wire_name, first.position)


def archived_leaves(db: sqlite3.Connection, archive: Archive, tenant: int, start: int, stop: int) -> list[tuple[int, bytes]]:
    """(leaf index, leaf) of the archived facts of a tenant with start <= leaf index < stop."""
    parts: list[Part] = []
    names = db.execute("SELECT name FROM tenants WHERE no = ?", (tenant,)).fetchone()
    for chapter, raw in db.execute("SELECT chapter, leaves FROM segment_tenants WHERE tenant = ? ORDER BY chapter", (tenant,)).fetchall():
        wanted = unpack_leaves(raw, start, stop)
        if wanted:
            parts += [(segment, wanted) for segment in segments(db, "WHERE chapter = ?", (chapter,))]
    return archive.leaves(parts, names[0], start, stop) if parts else []


def archived_at(db: sqlite3.Connection, archive: Archive, position: int) -> StoredEvent | None:
    """The archived fact at a position."""
    segment = containing(db, position)
    return None if segment is None else archive.at(segment, position)


def parts_of(db: sqlite3.Connection, query: Query) -> list[Part]:
    """The groups of segments that can hold what a query asks for: by position, then by what the listing says of its names."""
    if query.lane == Lane.DECISION or query.limit == 0:
        return []
    bounds = (query.after, 2**63 - 1 if query.upto is None else query.upto)
    if db.execute("SELECT 1 FROM segments WHERE last > ? AND first <= ? LIMIT 1", bounds).fetchone() is None:
        return []
    among: dict[int, set[int]] | None = None
    tenant: int | None = None
    if query.tenant is not None:
        found = db.execute("SELECT no FROM tenants WHERE name = ?", (query.tenant,)).fetchone()
        if found is None:
            return []
        tenant = found[0]
    if query.streams:
        among = _groups_of_streams(db, [no for stream in set(query.streams) if (no := stream_number(db, stream)) is not None])
    elif query.category is not None and (few := few_streams(db, query.category, tenant)) is not None:
        among = _groups_of_streams(db, few)
    elif tenant is not None:
        among = {
            chapter: set(unpack_leaves(raw))
            for chapter, raw in db.execute("SELECT chapter, leaves FROM segment_tenants WHERE tenant = ?", (tenant,))
        }
    wanted = segments(db, "WHERE last > ? AND first <= ?", bounds)
    if among is None:
        return [(segment, None) for segment in wanted]
    return [(segment, sorted(among[segment.chapter])) for segment in wanted if segment.chapter in among]


def _groups_of_streams(db: sqlite3.Connection, streams: list[int]) -> dict[int, set[int]]:
    among: dict[int, set[int]] = {}
    rows = db.execute(
        "SELECT chapter, groups FROM segment_streams WHERE stream IN (SELECT value FROM json_each(?))", (json.dumps(streams),)
    )
    for chapter, raw in rows:
        among.setdefault(chapter, set()).update(unpack_groups(raw))
    return among


# ---------------------------------------------------------------- detaching


class SQLiteChapters:
    """The seam through which a SQLite log is archived; see `Chapters`."""

    def __init__(self, store: SQLiteStore) -> None:
        self._store = store

    @property
    def log_id(self) -> str:
        return self._store.log_id

    @property
    def chapter(self) -> int:
        return self._store.chapter

    def head(self) -> int:
        return self._store.head()

    def segments(self) -> list[Segment]:
        return self._store.segments()

    def facts(self, first: int, last: int) -> Generator[StoredEvent, None, None]:
        with self._store.snapshot() as db:
            decode = Decoder(db)
            rows = db.execute(
                f"SELECT {COLUMNS} FROM events NOT INDEXED WHERE position BETWEEN ? AND ? AND lane = 0 ORDER BY position", (first, last)
            )
            for row in rows:
                yield decode(row)

    def detach(self, segment: Segment, listing: Listing) -> bool:
        with self._store.writing() as db:
            if db.execute("SELECT 1 FROM segments WHERE chapter = ?", (segment.chapter,)).fetchone():
                return False
            self._store.ids.seal(db, segment.last)  # from now on only `ids` remembers them
            db.execute(
                "INSERT INTO segments VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    segment.chapter,
                    segment.name,
                    segment.directory,
                    segment.first,
                    segment.last,
                    segment.rows,
                    segment.size_bytes,
                    segment.sha256,
                    segment.tail_sha256,
                    segment.archived_at_us,
                    segment.groups_to_bytes(),
                ),
            )
            db.executemany("INSERT INTO segment_streams VALUES (?, ?, ?)", list(listed_streams(db, segment.chapter, listing)))
            db.executemany("INSERT INTO segment_tenants VALUES (?, ?, ?)", list(listed_tenants(db, segment.chapter, listing)))
            within = (segment.first, segment.last)
            (live,) = db.execute("SELECT count(*) FROM events NOT INDEXED WHERE position BETWEEN ? AND ? AND lane = 0", within).fetchone()
            if live != segment.rows:
                raise LogDamaged(
                    position=segment.first, reason=f"its chapter has {live:,} facts, its segment {segment.rows:,}; nothing was detached"
                )
        self.finish(segment)
        return True

    def finish(self, segment: Segment) -> None:
        """In many small transactions, with a pause as long after each: deleting a chapter at once would keep writers waiting for too long."""
        at = segment.first
        while at <= segment.last:
            began = time.monotonic()
            with self._store.writing() as db:
                db.execute("DELETE FROM events WHERE position BETWEEN ? AND ? AND lane = 0", (at, min(at + DETACH_ROWS - 1, segment.last)))
            at += DETACH_ROWS
            if at <= segment.last:
                time.sleep(time.monotonic() - began)


def listed_streams(db: sqlite3.Connection, chapter: int, listing: Listing) -> Iterator[tuple[int, int, bytes]]:
    """The rows of `segment_streams` of a chapter, ascending."""
    numbered = sorted((number_of(db, stream), groups) for stream, groups in listing.streams.items())
    for no, groups in numbered:
        yield no, chapter, pack_groups(groups)


def listed_tenants(db: sqlite3.Connection, chapter: int, listing: Listing) -> Iterator[tuple[int, int, bytes]]:
    """The rows of `segment_tenants` of a chapter, ascending."""
    numbered = sorted(
        (no, leaves)
        for name, leaves in listing.tenants.items()
        for (no,) in db.execute("SELECT no FROM tenants WHERE name = ?", (name,)).fetchall()
    )
    for no, leaves in numbered:
        yield no, chapter, pack_leaves(leaves)


def number_of(db: sqlite3.Connection, stream: StreamId) -> int:
    """The number of a stream that has events."""
    no = stream_number(db, stream)
    if no is None:
        raise LogDamaged(position=0, reason="an archived stream is not in the table of names")
    return no
