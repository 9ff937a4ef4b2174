"""Archived chapters of a PostgreSQL log: which segments a read needs, and detaching the partition of a chapter.

Readers see descriptions of all segments and the listings of their own tenant. Detaching takes the role of the migrator, who owns the
tables; a login that is no member of it gets NotAllowed.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import Any, Final
from uuid import UUID

import psycopg
from psycopg.rows import tuple_row

from postsale.errors import LogDamaged
from postsale.events import Lane, StoredEvent, StreamId
from postsale.store.archive import Part
from postsale.store.postgres_link import Connection, Link
from postsale.store.segments import Listing, Segment, groups_from_bytes, pack_groups, pack_leaves, unpack_groups, unpack_leaves

_ROWS: Final = 1_000  # fetched at once
_DESCRIPTION: Final = "chapter, name, directory, first, last, rows, size_bytes, sha256, tail_sha256, archived_at, groups"


class Segments:
    """The descriptions and listings of a log, on a connection in a transaction."""

    def __init__(self, db: Connection, schema: str) -> None:
        self._db = db
        self._s = schema

    def _ask(self, sql: str, *values: Any) -> list[Any]:
        with psycopg.Cursor(self._db, row_factory=tuple_row) as cursor:
            return cursor.execute(sql.encode(), values or None, binary=True, prepare=False).fetchall()

    def described(self, after: int = -1, upto: int = 2**63 - 1) -> list[Segment]:
        """Segments of chapters with a position in after < position <= upto, ascending."""
        rows = self._ask(
            f"SELECT {_DESCRIPTION} FROM {self._s}.segments WHERE last > %s::bigint AND first <= %s::bigint ORDER BY chapter", after, upto
        )
        found = []
        for *values, groups in rows:
            try:
                names = ("chapter", "name", "directory", "first", "last", "rows", "size_bytes", "sha256", "tail_sha256", "archived_at_us")
                found.append(Segment(**dict(zip(names, values, strict=True)), groups=groups_from_bytes(groups)))
            except struct.error as error:
                raise LogDamaged(position=values[3], reason="the description of its segment is unreadable") from error
        return found

    def parts(self, after: int, upto: int, *, streams: Sequence[int] | None, tenant: int | None) -> list[Part]:
        """The groups that can hold facts of these streams, or of this tenant, in a range of positions."""
        if not self._ask(f"SELECT 1 FROM {self._s}.segments WHERE last > %s::bigint AND first <= %s::bigint LIMIT 1", after, upto):
            return []
        among: dict[int, set[int]] | None = None
        if streams is not None:
            among = {}
            for chapter, raw in self._ask(
                f"SELECT chapter, groups FROM {self._s}.segment_streams WHERE stream = ANY (%s::bigint[])", list(streams)
            ):
                among.setdefault(chapter, set()).update(unpack_groups(raw))
        elif tenant is not None:
            among = {chapter: set(groups) for chapter, groups in self._groups_of(tenant, 0, 2**63)}
        wanted = self.described(after, upto)
        if among is None:
            return [(segment, None) for segment in wanted]
        return [(segment, sorted(among[segment.chapter])) for segment in wanted if segment.chapter in among]

    def leaf_parts(self, tenant: int, start: int, stop: int) -> list[Part]:
        """The groups that can hold leaves start … stop - 1 of a tenant."""
        wanted = {chapter: groups for chapter, groups in self._groups_of(tenant, start, stop) if groups}
        return [(segment, wanted[segment.chapter]) for segment in self.described() if segment.chapter in wanted] if wanted else []

    def _groups_of(self, tenant: int, start: int, stop: int) -> list[tuple[int, list[int]]]:
        rows = self._ask(f"SELECT chapter, leaves FROM {self._s}.segment_tenants WHERE tenant = %s ORDER BY chapter", tenant)
        return [(chapter, unpack_leaves(raw, start, stop)) for chapter, raw in rows]

    def listed(self, segment: Segment, listing: Listing, number: Callable[[StreamId], tuple[Any, Any]]) -> bool:
        """Whether the kept listing of a segment is this one. `number` gives the numbers of a stream and its tenant."""
        streams, tenants = _numbered(listing, number)
        return (
            streams
            == self._ask(
                f"SELECT tenant, stream, groups FROM {self._s}.segment_streams WHERE chapter = %s ORDER BY stream", segment.chapter
            )
        ) and tenants == self._ask(
            f"SELECT tenant, leaves FROM {self._s}.segment_tenants WHERE chapter = %s ORDER BY tenant", segment.chapter
        )

    def numbers(self, streams: Iterable[StreamId]) -> dict[StreamId, tuple[int, int]]:
        """The numbers of streams and their tenants."""
        wanted = list(streams)
        rows = self._ask(
            f"SELECT t.name, s.category, s.id, s.no, t.no FROM {self._s}.streams s JOIN {self._s}.tenants t ON t.no = s.tenant"
            " JOIN unnest(%s::text[], %s::text[], %s::text[]) n (tenant, category, id)"
            " ON n.tenant = t.name AND n.category = s.category AND n.id = s.id",
            *([stream[at] for stream in wanted] for at in range(3)),
        )
        return {StreamId(*names): (no, tenant) for *names, no, tenant in rows}


def _numbered(listing: Listing, number: Callable[[StreamId], tuple[Any, Any]]) -> tuple[list[Any], list[Any]]:
    """The rows of both listings: (tenant, stream, groups) by stream, (tenant, leaves) by tenant."""
    tenants: dict[str, Any] = {}
    streams = []
    for stream, groups in listing.streams.items():
        no, tenants[stream.tenant] = number(stream)
        streams.append((tenants[stream.tenant], no, pack_groups(groups)))
    leaves = [(tenants[name], pack_leaves(leaves)) for name, leaves in listing.tenants.items()]
    return sorted(streams, key=lambda row: str(row[1]).zfill(20)), sorted(leaves, key=lambda row: str(row[0]).zfill(20))


class PostgresChapters:
    """The seam through which a PostgreSQL log is archived; see `Chapters`. Its login must be a member of the migrator role."""

    def __init__(self, link: Link, log_id: str, chapter: int) -> None:
        self._link = link
        self._s = link.schema
        self._log_id = log_id
        self._chapter = chapter

    @property
    def log_id(self) -> str:
        return self._log_id

    @property
    def chapter(self) -> int:
        return self._chapter

    def head(self) -> int:
        return int(self._ask(f"SELECT position FROM {self._s}.log")[0][0])

    def segments(self) -> list[Segment]:
        link = self._link
        with link.translated(link.roles.migrator), link.transaction(link.begin(link.roles.migrator, read_only=True)) as db:
            return Segments(db, self._s).described()

    def _ask(self, sql: str) -> list[Any]:
        link = self._link
        with link.translated(link.roles.migrator), link.transaction(link.begin(link.roles.migrator, read_only=True)) as db:
            return db.execute(sql.encode(), prepare=False).fetchall()

    def facts(self, first: int, last: int) -> Generator[StoredEvent, None, None]:
        link = self._link
        opening = link.begin(link.roles.migrator, read_only=True, isolation="REPEATABLE READ")
        opening.add("SET LOCAL statement_timeout = 0")
        opening.add("SET LOCAL idle_in_transaction_session_timeout = 0")  # while a file is being written
        s = self._s
        sql = (
            "SELECT e.position, t.name, s.category, s.id, e.version, e.event_id, k.wire_name, k.schema, e.occurred_at, e.recorded_at,"
            f" e.content_mac, e.header, e.data, e.salt, e.leaf_index, e.leaf FROM {s}.events e JOIN {s}.streams s ON s.no = e.stream"
            f" JOIN {s}.tenants t ON t.no = s.tenant JOIN {s}.kinds k ON k.no = e.kind"
            f" WHERE e.lane = 0 AND e.position BETWEEN {first} AND {last} ORDER BY e.position"
        )
        with (
            link.translated(link.roles.migrator),
            link.transaction(opening) as db,
            psycopg.ServerCursor(db, "facts", row_factory=tuple_row) as cursor,
        ):
            cursor.execute(sql.encode(), binary=True)
            while rows := cursor.fetchmany(_ROWS):
                for position, tenant, category, id_, version, event_id, *rest in rows:
                    yield StoredEvent(position, StreamId(tenant, category, id_), Lane.FACT, version, UUID(bytes=event_id), *rest)

    def detach(self, segment: Segment, listing: Listing) -> bool:
        s, link = self._s, self._link
        within = f"lane = 0 AND position BETWEEN {segment.first} AND {segment.last}"
        with link.translated(link.roles.migrator):
            opening = link.begin(link.roles.migrator)
            opening.add("SET LOCAL statement_timeout = 0")
            # First and apart: this takes a while and disturbs nobody, the rest is short and locks out readers.
            with link.transaction(opening) as db:
                columns = "tenant, event_id, position, recorded_at, content_mac"
                sql = f"INSERT INTO {s}.archived_ids ({columns}) SELECT {columns} FROM {s}.events WHERE {within} ON CONFLICT DO NOTHING"
                db.execute(sql.encode(), prepare=False)
                db.execute("COMMIT", prepare=False)
            with link.transaction(opening) as db:
                kept = Segments(db, s)
                db.execute(f"LOCK TABLE {s}.segments IN SHARE ROW EXCLUSIVE MODE".encode(), prepare=False)
                if any(other.chapter == segment.chapter for other in kept.described()):
                    return False
                counted = f"SELECT (SELECT count(*) FROM {s}.events WHERE {within}), (SELECT count(*) FROM {s}.archived_ids WHERE position"
                row = db.execute(f"{counted} BETWEEN {segment.first} AND {segment.last})".encode(), prepare=False).fetchone()
                if row != (segment.rows, segment.rows):
                    raise LogDamaged(position=segment.first, reason=f"its chapter has not the {segment.rows:,} facts of its segment")
                self._keep(db, segment, *_numbered(listing, kept.numbers(listing.streams).__getitem__))
                partition = f"{s}.facts_{segment.chapter}"
                db.execute(f"ALTER TABLE {s}.facts DETACH PARTITION {partition}".encode(), prepare=False)
                db.execute(f"DROP TABLE {partition}".encode(), prepare=False)
                db.execute("COMMIT", prepare=False)
        return True

    def _keep(self, db: Connection, segment: Segment, streams: list[Any], tenants: list[Any]) -> None:
        s = self._s
        description = (segment.chapter, segment.name, segment.directory, segment.first, segment.last, segment.rows, segment.size_bytes)
        digests = (segment.sha256, segment.tail_sha256, segment.archived_at_us, segment.groups_to_bytes())
        marks = ", ".join(["%s"] * (len(description) + len(digests)))
        db.execute(f"INSERT INTO {s}.segments ({_DESCRIPTION}) VALUES ({marks})".encode(), (*description, *digests), prepare=False)
        db.execute(
            f"INSERT INTO {s}.segment_streams (tenant, stream, chapter, groups) SELECT t, n, {segment.chapter}, g"
            " FROM unnest(%s::integer[], %s::bigint[], %s::bytea[]) u (t, n, g)".encode(),
            [[row[at] for row in streams] for at in range(3)],
            prepare=False,
        )
        db.execute(
            f"INSERT INTO {s}.segment_tenants (tenant, chapter, leaves) SELECT t, {segment.chapter}, l"
            " FROM unnest(%s::integer[], %s::bytea[]) u (t, l)".encode(),
            [[row[at] for row in tenants] for at in range(2)],
            prepare=False,
        )

    def finish(self, segment: Segment) -> None:
        """Nothing: the partition goes in the transaction that keeps the segment."""
