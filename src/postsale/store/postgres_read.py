"""Reading a PostgreSQL log: queries as pages of rows, and rows as events.

A log is a snapshot of itself: rows never change and become visible in order of position, because they are committed under one
lock. So a read notes the newest position at its start and asks for pages up to there, each in a short transaction of its own. It
holds no connection and no server's snapshot between two pages. Reads of one tenant run in its name; all others as the tailer.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import Any, Final
from uuid import UUID

import psycopg
from psycopg.rows import tuple_row

from postsale.errors import LogDamaged
from postsale.events import Lane, StoredEvent, StreamId, uuid_of
from postsale.store.archive import Archive, Part, merged
from postsale.store.columns import Source
from postsale.store.contract import Query, TreeHead
from postsale.store.leaves import Frontier
from postsale.store.postgres_archive import Segments
from postsale.store.postgres_columns import Facts
from postsale.store.postgres_link import Connection, Link, Script
from postsale.store.postgres_names import Kind, Names, enter
from postsale.store.postgres_schema import NO_TENANT

COLUMNS: Final = (
    "position, stream, lane, version, event_id, kind, occurred_at, recorded_at, content_mac, header, data, salt, leaf_index, leaf"
)
_LANES: Final = (Lane.FACT, Lane.DECISION)

_FIRST_ROWS: Final = 100  # of the first page: most readers want few
_MOST_ROWS: Final = 2_000  # of a page
_PAGE_BYTES: Final = 4_000_000  # of a page, beyond which it takes no further event
_SIZE: Final = "(length(header) + length(data))"
_SPAN: Final = 65_536  # positions that the first pages look at; spans bound how many partitions a page touches
_WIDER: Final = 8  # times, when a page was not full
_FEW_STREAMS: Final = 64  # a category of no more streams than this is read by its streams


class Reads:
    """The reading half of `PostgresStore`."""

    _link: Link
    _names: Names
    _archive: Archive

    @contextmanager
    def _reading(self, tenant: str | None, script: Script | None = None) -> Generator[Connection, None, None]:
        """A read transaction for one tenant, or as the tailer for all, that begins with `script`."""
        link = self._link
        role = link.roles.tailer if tenant is None else link.roles.writer
        opening = link.begin(role, read_only=True)
        if tenant is not None:
            enter(opening, link.schema, tenant)
        if script is not None:
            opening.extend(script)
        with link.translated(role), link.transaction(opening) as db:
            yield db

    def _ask(self, tenant: str | None, sql: str, *values: Any) -> list[Any]:
        """The rows of one statement, in one round trip."""
        found: list[Any] = []
        script = Script()
        script.add(sql, *values, take=found.extend)
        script.add("COMMIT")  # else giving the connection back would ask the server once more
        with self._reading(tenant, script):
            return found

    # ---------------------------------------------------------------- events

    def read(self, query: Query) -> Generator[StoredEvent, None, None]:
        """See `Store.read`. Memory: a page of at most 2,000 events and 4 MB, or of one event. NotAllowed when all tenants are asked for and the login may not."""
        if query.limit == 0:
            return
        tenants = {query.tenant} if query.tenant is not None else {stream.tenant for stream in query.streams}
        tenant = tenants.pop() if len(tenants) == 1 else None
        selection = self._selection(query, tenant)
        left = query.limit
        while selection is not None and (left is None or left > 0) and not selection.ended:
            with self._reading(tenant) as db:
                page = self._decoded(db, selection.fetch(db, left))
                # After the page: a chapter that is detached in between is then in both, and not in neither.
                parts = self._archived_parts(db, query, selection)
            found: Iterator[StoredEvent] = iter(page)
            if parts:
                after, upto = selection.fetched
                archived = self._archive.read(parts, replace(query, after=after, upto=upto))
                found = merged(found, archived, replace(query, limit=left))
            for event in found:
                yield event
                if left is not None:
                    left -= 1

    @contextmanager
    def fact_source(self, query: Query, *, header: bool) -> Generator[Source, None, None]:
        """See `store.columns`. Memory: the facts of 65,536 positions. NotAllowed when all tenants are asked for and the login may not."""
        facts = Facts(self._reading, self._link.schema, self._archive, query, header=header)
        with closing(facts.batches()) as batches:
            yield Source(batches, facts.parts, self._archive)

    def _archived_parts(self, db: Connection, query: Query, selection: _Selection) -> list[Part]:
        if query.lane == Lane.DECISION:
            return []
        kept = Segments(db, self._link.schema)
        return kept.parts(*selection.fetched, streams=selection.streams, tenant=selection.tenant)

    def _selection(self, query: Query, tenant: str | None) -> _Selection | None:
        """What a query asks for, in numbers; None when there is nothing like it."""
        s, known = self._link.schema, self._names.now
        before = known.seen
        found: dict[str, Any] = {"prefix": [], "kinds": [], "streams": []}
        script = Script()
        script.add(f"SELECT position, recorded_at FROM {s}.log", take=lambda rows: found.update(head=rows[0]))
        if tenant is not None:
            script.add(f"SELECT {s}.tenant_no()", take=lambda rows: found.update(number=rows[0][0]))
        if query.known_at_us is not None:
            script.add(f"SELECT {s}.known_prefix({query.known_at_us})", take=found["prefix"].extend)
        if query.kinds:
            script.add(
                f"SELECT no FROM {s}.kinds WHERE split_part(wire_name, '@', 1) = ANY (%s)", sorted(query.kinds), take=found["kinds"].extend
            )
        mine = "" if tenant is None else f" AND s.tenant = (SELECT {s}.tenant_no())"
        if query.streams:
            wanted = [
                stream
                for stream in dict.fromkeys(query.streams)
                if query.tenant in (None, stream.tenant) and query.category in (None, stream.category)
            ]
            script.add(
                f"SELECT s.no FROM {s}.streams s JOIN {s}.tenants t ON t.no = s.tenant"
                " JOIN unnest(%s::text[], %s::text[], %s::text[]) n (tenant, category, id)"
                f" ON n.tenant = t.name AND n.category = s.category AND n.id = s.id WHERE true{mine}",
                *([stream[at] for stream in wanted] for at in range(3)),
                take=found["streams"].extend,
            )
        elif query.category is not None:
            script.add(
                f"SELECT s.no FROM {s}.streams s WHERE s.category = %s{mine} LIMIT {_FEW_STREAMS + 1}",
                query.category,
                take=found["streams"].extend,
            )
        with self._reading(tenant, script):
            pass
        self._names.saw(known, before, found["head"])
        number = found.get("number")
        if number == NO_TENANT:
            return None
        upto = min([found["head"][0]] + [bound for bound in (query.upto, *(prefix for (prefix,) in found["prefix"])) if bound is not None])
        streams = [no for (no,) in found["streams"]]
        filters, values = [], []
        if number is not None and not streams:
            filters.append(f"tenant = {number}")
        if query.lane is not None:
            filters.append(f"lane = {int(query.lane)}")
        if query.as_of_us is not None:
            filters.append(f"occurred_at <= {query.as_of_us}")
        if query.kinds:
            filters.append(f"kind = ANY ('{_numbers(no for (no,) in found['kinds'])}'::integer[])")
        if query.category is not None and not query.streams and len(streams) > _FEW_STREAMS:
            filters.append(f"stream IN (SELECT s.no FROM {s}.streams s WHERE s.category = %s{mine})")
            values.append(query.category)
        elif query.category is not None or query.streams:
            filters.append(f"stream = {streams[0]}" if len(streams) == 1 else f"stream = ANY ('{_numbers(streams)}'::bigint[])")
        if (query.kinds and not found["kinds"]) or ((query.category is not None or query.streams) and not streams):
            return None
        one_stream = len(streams) == 1 and not query.kinds
        few = None if not query.streams and (query.category is None or len(streams) > _FEW_STREAMS) else streams
        page = _Selection(s, filters, values, max(query.after, 0), upto, query.backward, span=None if one_stream else _SPAN)
        page.streams, page.tenant = few, number
        return page

    def _decoded(self, db: Connection, rows: list[Any]) -> list[StoredEvent]:
        streams, kinds = self._named(db, rows)
        events = []
        for row in rows:
            try:
                position, stream, lane, version, event_id, kind, occurred, recorded, mac, header, data, salt, index, leaf = row
                if len(event_id) != 16:
                    raise ValueError("not a UUID")
                wire_name, schema = kinds[kind]
                event = StoredEvent(
                    position, streams[stream], _LANES[lane], version, uuid_of(int.from_bytes(event_id)), wire_name, schema,
                    occurred, recorded, mac, header, data, salt, index, leaf,
                )  # fmt: skip
            except (LookupError, ValueError, TypeError) as error:
                raise LogDamaged(position=row[0], reason=f"a column cannot be read ({type(error).__name__})") from error
            events.append(event)
        return events

    def _named(self, db: Connection, rows: list[Any]) -> tuple[dict[int, StreamId], dict[int, Kind]]:
        """The names that these rows need; looked up are those that nobody needed before."""
        known, s, script = self._names.now, self._link.schema, Script()
        before = known.seen
        streams, kinds = {row[1] for row in rows}, {row[5] for row in rows}
        known_streams = {no: stream for no in streams if (stream := known.stream_of.get(no)) is not None}
        known_kinds = {no: kind for no in kinds if (kind := known.kind_of.get(no)) is not None}

        def take_streams(found: list[Any]) -> None:
            for no, *stream in found:
                known_streams[no] = StreamId(*stream)
                known.learn_stream(no, known_streams[no])

        def take_kinds(found: list[Any]) -> None:
            for no, *kind in found:
                known_kinds[no] = kind[0], kind[1]
                known.learn_kind(no, known_kinds[no])

        if new := streams - known_streams.keys():
            script.add(
                f"SELECT s.no, t.name, s.category, s.id FROM {s}.streams s JOIN {s}.tenants t ON t.no = s.tenant"
                f" WHERE s.no = ANY ('{_numbers(new)}'::bigint[])",
                take=take_streams,
            )
        if kinds - known_kinds.keys():
            script.add(f"SELECT no, wire_name, schema FROM {s}.kinds", take=take_kinds)
        if len(script):
            script.add(f"SELECT position, recorded_at FROM {s}.log", take=lambda found: self._names.saw(known, before, found[0]))
            script.run(db)
        return known_streams, known_kinds

    def find(self, tenant: str, event_id: UUID) -> StoredEvent | None:
        s = self._link.schema
        sql = f"SELECT {COLUMNS} FROM {s}.events WHERE event_id = %s AND tenant IS NOT DISTINCT FROM (SELECT {s}.tenant_no())"
        with self._reading(tenant) as db:
            events = self._decoded(db, _binary(db, sql, [event_id.bytes]))
            if events:
                return events[0]
            sql = f"SELECT position FROM {s}.archived_ids WHERE tenant = (SELECT {s}.tenant_no()) AND event_id = %s"
            archived = _binary(db, sql, [event_id.bytes])
            segments = Segments(db, s).described(archived[0][0] - 1, archived[0][0]) if archived else []
        return self._archive.at(segments[0], archived[0][0]) if segments else None

    def latest(self, streams: Sequence[StreamId]) -> list[StoredEvent | None]:
        newest: dict[StreamId, StoredEvent] = {}
        for tenant, names in _by_tenant(streams).items():
            sql = (
                f"SELECT e.* FROM {self._named_streams()} CROSS JOIN LATERAL (SELECT {COLUMNS} FROM {self._link.schema}.events"
                " WHERE lane = 1 AND stream = s.no ORDER BY version DESC LIMIT 1) e"
            )
            found: list[Any] = []
            script = Script()
            script.add(sql, *names, take=found.extend)  # with the opening in one round trip: few rows, and asked before every write
            with self._reading(tenant, script) as db:
                newest |= {event.stream: event for event in self._decoded(db, found)}
        return [newest.get(stream) for stream in streams]

    def versions(self, streams: Sequence[StreamId]) -> list[int]:
        found: dict[StreamId, int] = {}
        for tenant, names in _by_tenant(streams).items():
            newest = f"(SELECT max(version) FROM {self._link.schema}.events WHERE lane = 1 AND stream = s.no)"
            for category, id_, version in self._ask(tenant, f"SELECT s.category, s.id, {newest} FROM {self._named_streams()}", *names):
                found[StreamId(tenant, category, id_)] = version or 0
        return [found.get(stream, 0) for stream in streams]

    def _named_streams(self) -> str:
        """Streams of the tenant whose categories and ids are given as two lists."""
        s = self._link.schema
        return (
            f"(SELECT s.no, s.category, s.id FROM {s}.streams s JOIN unnest(%s::text[], %s::text[]) n (category, id) USING (category, id)"
            f" WHERE s.tenant = (SELECT {s}.tenant_no())) s"
        )

    # ---------------------------------------------------------------- heads and trees

    def head(self) -> int:
        return int(self._ask("_system", f"SELECT position FROM {self._link.schema}.log")[0][0])

    def tenants(self) -> list[str]:
        return [name for (name,) in self._ask(None, f"SELECT name FROM {self._link.schema}.tenants WHERE size > 0 ORDER BY name")]

    def tree_head(self, tenant: str) -> TreeHead:
        s = self._link.schema
        found = self._ask(tenant, f"SELECT size, frontier FROM {s}.tenants WHERE no = (SELECT {s}.tenant_no())")
        try:
            frontier = Frontier.from_bytes(*found[0]) if found else Frontier()
        except ValueError as error:
            raise LogDamaged(position=0, reason=f"the tree head of tenant {tenant!r} is unreadable") from error
        return TreeHead(frontier.size, frontier.root())

    def tree(self, tenant: str, level: int, start: int, stop: int) -> list[bytes]:
        if start >= stop:
            return []
        s = self._link.schema
        if level:
            sql = (
                f"SELECT hash FROM {s}.nodes WHERE tenant = (SELECT {s}.tenant_no()) AND level = {level}"
                f" AND number >= {start} AND number < {stop} ORDER BY number"
            )
            return [digest for (digest,) in self._ask(tenant, sql)]
        sql = (
            f"SELECT leaf_index, leaf FROM {s}.events WHERE tenant = (SELECT {s}.tenant_no()) AND leaf_index < {stop}"
            f" AND position >= {s}.position_of_leaf((SELECT {s}.tenant_no()), {start}) ORDER BY position LIMIT {stop - start}"
        )
        with self._reading(tenant) as db:
            by_index = dict(_binary(db, sql))
            parts = Segments(db, s).leaf_parts(_binary(db, f"SELECT {s}.tenant_no()")[0][0], start, stop)
        by_index |= dict(self._archive.leaves(parts, tenant, start, stop))
        return [leaf for _, leaf in sorted(by_index.items())]


class _Selection:
    """Pages of the rows that pass some filters, by position."""

    def __init__(
        self, schema: str, filters: list[str], values: list[Any], after: int, upto: int, backward: bool, *, span: int | None
    ) -> None:
        self._schema = schema
        self._filters = filters
        self._values = values
        self._after = after  # exclusive; what is left is after < position <= upto
        self._upto = upto
        self._backward = backward
        self._span = span  # positions of the next page's range; None: all that are left
        self._rows = _FIRST_ROWS
        self.fetched = (after, after)  # the range of the newest page: after < position <= upto
        self.streams: list[int] | None = None  # that are asked for, when they are few
        self.tenant: int | None = None

    @property
    def ended(self) -> bool:
        return self._after >= self._upto

    def fetch(self, db: Connection, limit: int | None) -> list[Any]:
        """The next page, which may be empty."""
        after, upto, span = self._after, self._upto, self._span
        if span is not None and upto - after > span:
            after, upto = (upto - span, upto) if self._backward else (after, after + span)
        most = self._rows if limit is None else min(self._rows, limit)
        where = " AND ".join([*self._filters, f"position > {after}", f"position <= {upto}"])
        order = "DESC" if self._backward else "ASC"
        # The size of a page is bounded on the server: what was read before says nothing about what comes.
        sql = (
            f"SELECT {COLUMNS} FROM (SELECT *, sum({_SIZE}) OVER (ORDER BY position {order} ROWS UNBOUNDED PRECEDING) AS sizes"
            f" FROM (SELECT {COLUMNS} FROM {self._schema}.events WHERE {where} ORDER BY position {order} LIMIT {most}) e) p"
            f" WHERE sizes - {_SIZE} < {_PAGE_BYTES} ORDER BY position {order}"
        )
        rows = _binary(db, sql, self._values)
        size = sum([len(row[9]) + len(row[10]) for row in rows])
        full = len(rows) == most or size >= _PAGE_BYTES
        if self._backward:
            self._upto = rows[-1][0] - 1 if full else after
            self.fetched = (self._upto, upto)
        else:
            self._after = rows[-1][0] if full else upto
            self.fetched = (after, self._after)
        if not full and span is not None:
            self._span = span * _WIDER
        if rows:
            self._rows = max(1, min(self._rows * 4, _MOST_ROWS, _PAGE_BYTES * len(rows) // (size + 1)))
        return rows


def _binary(db: Connection, sql: str, values: Sequence[Any] = ()) -> list[Any]:
    """The rows of one statement, bytes as they are: as text they would travel in hex."""
    with psycopg.Cursor(db, row_factory=tuple_row) as cursor:
        return cursor.execute(sql.encode(), values or None, binary=True, prepare=False).fetchall()


def _by_tenant(streams: Sequence[StreamId]) -> dict[str, tuple[list[str], list[str]]]:
    """Categories and ids, by tenant; each stream once."""
    found: dict[str, tuple[list[str], list[str]]] = {}
    for tenant, category, id_ in dict.fromkeys(streams):
        categories, ids = found.setdefault(tenant, ([], []))
        categories.append(category)
        ids.append(id_)
    return found


def _numbers(numbers: Any) -> str:
    return "{" + ",".join(map(str, numbers)) + "}"
