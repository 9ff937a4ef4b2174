"""Reading a SQLite log: which index serves a query, and how rows become events. Takes a connection in a read transaction."""

from __future__ import annotations

import heapq
import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, islice, takewhile
from operator import itemgetter
from typing import Any, Final, NamedTuple

from postsale.errors import LogDamaged
from postsale.events import Lane, StoredEvent, StreamId, uuid_of
from postsale.store.contract import Query
from postsale.store.sqlite_schema import BLOCK_BITS

COLUMNS: Final = (
    "position, stream, lane, version, event_id, kind, occurred_at, recorded_at, content_mac, header, data, salt, leaf_index, leaf"
)

_TOGETHER: Final = 8  # so many streams share their statements: each costs more than an event
_MAX_CURSORS: Final = 256  # more streams than this are found by a scan
_FEW_STREAMS: Final = 64  # a category of no more streams than this is read stream by stream
_SCAN_SHARE: Final = 4  # a tenant with at least one in so many events is read by a scan: it costs less per event than an index
_KIND_SHARE: Final = 8  # the same for kinds
_MOST_COUNTED: Final = 100_000  # index entries of a kind, before it is taken for a common one
_NAMES_HELD: Final = 65_536  # stream names held per reader, for bounded memory
_LANES: Final = (Lane.FACT, Lane.DECISION)


def read(db: sqlite3.Connection, query: Query) -> Iterator[StoredEvent]:
    """The events of `query` in the live table, in order. Memory is bounded by the number of names, not of events."""
    selection = _Selection(db, query)
    decode = Decoder(db, selection.names)
    for row in selection.rows():
        yield decode(row)


class Decoder:
    """Rows as events; names are looked up once."""

    def __init__(self, db: sqlite3.Connection, streams: Mapping[int, StreamId] | None = None) -> None:
        """`streams`: names that are known already."""
        self._db = db
        self._streams: dict[int, StreamId] = dict(streams or {})
        self._kinds: dict[int, tuple[str, bytes]] = {}

    def __call__(self, row: Sequence[Any]) -> StoredEvent:
        position, stream, lane, version, event_id, kind, occurred, recorded, mac, header, data, salt, index, leaf = row
        try:
            names = self._streams.get(stream) or self._stream(stream)
            wire_name, schema = self._kinds.get(kind) or self._kind(kind)
            if len(event_id) != 16:
                raise ValueError("not an event id")
            id_ = uuid_of(int.from_bytes(event_id))
            return StoredEvent(
                position, names, _LANES[lane], version, id_, wire_name, schema, occurred, recorded, mac, header, data, salt, index, leaf
            )
        except (LookupError, ValueError, TypeError, sqlite3.OperationalError) as error:
            raise LogDamaged(position=position, reason=f"a column cannot be read ({type(error).__name__})") from error

    def _stream(self, no: int) -> StreamId:
        found = self._db.execute(
            "SELECT t.name, s.category, s.id FROM streams s JOIN tenants t ON t.no = s.tenant WHERE s.no = ?", (no,)
        ).fetchone()
        if found is None:
            raise LookupError("no such stream")
        if len(self._streams) >= _NAMES_HELD:
            self._streams.clear()
        names = self._streams[no] = StreamId(*found)
        return names

    def _kind(self, no: int) -> tuple[str, bytes]:
        found: tuple[str, bytes] | None = self._db.execute("SELECT wire_name, schema FROM kinds WHERE no = ?", (no,)).fetchone()
        if found is None:
            raise LookupError("no such kind")
        self._kinds[no] = found
        return found


def kind_numbers(db: sqlite3.Connection, kinds: frozenset[str]) -> list[int]:
    """The numbers of every version of these kinds (wire names without version)."""
    return [no for no, wire_name in db.execute("SELECT no, wire_name FROM kinds") if wire_name.partition("@")[0] in kinds]


def stream_number(db: sqlite3.Connection, stream: StreamId) -> int | None:
    found = db.execute(
        "SELECT s.no FROM streams s JOIN tenants t ON t.no = s.tenant WHERE t.name = ? AND s.category = ? AND s.id = ?", stream
    ).fetchone()
    return None if found is None else found[0]


def stream_numbers(db: sqlite3.Connection, streams: Sequence[StreamId]) -> dict[int, StreamId]:
    """Those of these streams that there are, by number, in one statement."""
    found = db.execute(
        "SELECT s.no, w.key FROM json_each(?) w CROSS JOIN tenants t ON t.name = json_extract(w.value, '$[0]')"
        " CROSS JOIN streams s ON s.tenant = t.no AND s.category = json_extract(w.value, '$[1]') AND s.id = json_extract(w.value, '$[2]')",
        (json.dumps(streams),),
    )
    return {no: streams[at] for no, at in found}


def known_prefix(db: sqlite3.Connection, known_at_us: int) -> int:
    """The position up to which live events were recorded at or before this time: a binary search, as `recorded_at` rises with position."""
    low, high = 0, db.execute("SELECT coalesce(max(position), 0) FROM events").fetchone()[0]
    while low < high:
        middle = (low + high + 1) // 2
        at = db.execute("SELECT recorded_at FROM events WHERE position >= ? ORDER BY position LIMIT 1", (middle,)).fetchone()
        if at is not None and at[0] <= known_at_us:  # None: what follows is archived
            low = middle
        else:
            high = middle - 1
    return low


def leaves(db: sqlite3.Connection, tenant: int, start: int, stop: int) -> list[tuple[int, bytes]]:
    """(leaf index, leaf) of a tenant's live events with start <= index < stop: indexes rise with position, so the first is searched for."""
    low, high = 1, db.execute("SELECT coalesce(max(position), 0) + 1 FROM events").fetchone()[0]
    while low < high:
        middle = (low + high) // 2
        found = db.execute(
            "SELECT leaf_index FROM events INDEXED BY events_by_tenant WHERE tenant = ? AND position >= ? ORDER BY position LIMIT 1",
            (tenant, middle),
        ).fetchone()
        if found is not None and found[0] < start:
            low = middle + 1
        else:
            high = middle
    rows = db.execute(
        "SELECT leaf_index, leaf FROM events INDEXED BY events_by_tenant WHERE tenant = ? AND position >= ? ORDER BY position LIMIT ?",
        (tenant, low, stop - start),
    )
    return list(takewhile(lambda row: row[0] < stop, rows))


def few_streams(db: sqlite3.Connection, category: str, tenant: int | None) -> list[int] | None:
    """The streams of a small category, None for a large one."""
    sql = "SELECT no FROM streams WHERE category = ?"
    found = (
        db.execute(f"{sql} LIMIT ?", (category, _FEW_STREAMS + 1))
        if tenant is None
        else db.execute(f"{sql} AND tenant = ? LIMIT ?", (category, tenant, _FEW_STREAMS + 1))
    ).fetchall()
    return [no for (no,) in found] if len(found) <= _FEW_STREAMS else None


def blocks_of(db: sqlite3.Connection, after: int, upto: int | None) -> range:
    """The blocks of `facts_by_stream` that have events with after < position <= upto."""
    newest = db.execute("SELECT position FROM log").fetchone()[0]
    last = newest if upto is None else min(upto, newest)
    return range((max(after, 0) + 1) >> BLOCK_BITS, (last >> BLOCK_BITS) + 1)


class _Arm(NamedTuple):
    """A SELECT over some of the events, in order of position."""

    where: str  # from the index on
    order: str = "position"
    by_block: bool = False  # one SELECT for each block


_OF_STREAM: Final = {
    Lane.FACT: _Arm(f"INDEXED BY facts_by_stream WHERE position >> {BLOCK_BITS} = :block AND stream = {{}} AND lane = 0", by_block=True),
    Lane.DECISION: _Arm("INDEXED BY decisions_by_version WHERE stream = {} AND lane = 1", order="version"),  # which rises with positions
}


_OF_STREAMS: Final = {  # positions first: they come out of a set of them in order, and few bytes are kept for each
    Lane.FACT: _Arm(
        "NOT INDEXED WHERE position IN (SELECT position FROM events INDEXED BY facts_by_stream"
        f" WHERE position >> {BLOCK_BITS} = :block AND stream IN ({{}}) AND lane = 0 AND position > :after)",
        by_block=True,
    ),
    Lane.DECISION: _Arm(
        "NOT INDEXED WHERE position IN (SELECT position FROM events INDEXED BY decisions_by_version"
        " WHERE stream IN ({}) AND lane = 1 AND position > :after)"
    ),
}


class _Selection:
    """A query as one or more arms over disjoint sets of events, merged by position."""

    def __init__(self, db: sqlite3.Connection, query: Query) -> None:
        self._db = db
        self._query = query
        self._filters = ["position > :after"]  # what every arm checks
        self._values: dict[str, Any] = {"after": query.after}
        self._arms: list[_Arm] = []
        self.names: dict[int, StreamId] = {}
        if query.limit != 0:
            self._choose()

    def rows(self) -> Iterator[Any]:
        arms = [self._rows(arm) for arm in self._arms]
        rows = arms[0] if len(arms) == 1 else heapq.merge(*arms, key=itemgetter(0), reverse=self._query.backward)
        return islice(rows, self._query.limit)

    def _rows(self, arm: _Arm) -> Iterator[Any]:
        query = self._query
        where = " AND ".join((arm.where, *self._filters))
        order = "DESC" if query.backward else "ASC"
        limit = "" if query.limit is None else f" LIMIT {query.limit}"
        sql = f"SELECT {COLUMNS} FROM events {where} ORDER BY {arm.order} {order}{limit}"
        if not arm.by_block:
            return self._db.execute(sql, self._values)
        blocks = blocks_of(self._db, query.after, self._values.get("upto"))
        return chain.from_iterable(
            self._db.execute(sql, self._values | {"block": block}) for block in (reversed(blocks) if query.backward else blocks)
        )

    def _choose(self) -> None:
        query = self._query
        if query.upto is not None or query.known_at_us is not None:
            upto = query.upto
            if query.known_at_us is not None:
                prefix = known_prefix(self._db, query.known_at_us)
                upto = prefix if upto is None else min(upto, prefix)
            self._filter("position <= :upto", upto=upto)
        if query.as_of_us is not None:
            self._filter("occurred_at <= :as_of", as_of=query.as_of_us)
        if query.kinds:
            numbers = kind_numbers(self._db, query.kinds)
            if not numbers:  # no such event yet; an empty list in the SQL has no plan with the index that is asked for
                return
            self._filter(f"+kind IN ({', '.join(map(str, numbers))})")
        else:
            numbers = []
        tenant: tuple[int, int] | None = None
        if query.tenant is not None:
            tenant = self._db.execute("SELECT no, size FROM tenants WHERE name = ?", (query.tenant,)).fetchone()
            if tenant is None:
                return
        if query.streams:
            self._by_streams(self._wanted_streams())
        elif query.category is not None and (few := few_streams(self._db, query.category, tenant and tenant[0])) is not None:
            self._by_streams(few)
        else:
            if query.category is not None:
                self._filter("EXISTS (SELECT 1 FROM streams s WHERE s.no = stream AND s.category = :category)", category=query.category)
            self._by_tenant(tenant, numbers)

    def _filter(self, condition: str, **values: Any) -> None:
        self._filters.append(condition)
        self._values |= values

    def _wanted_streams(self) -> list[int]:
        wanted = {
            stream
            for stream in self._query.streams
            if self._query.tenant in (None, stream.tenant) and self._query.category in (None, stream.category)
        }
        if len(wanted) < _TOGETHER:
            return [no for stream in wanted if (no := stream_number(self._db, stream)) is not None]
        self.names = stream_numbers(self._db, list(wanted))
        return list(self.names)

    def _by_streams(self, streams: list[int]) -> None:
        lanes = _LANES if self._query.lane is None else (self._query.lane,)
        if len(streams) * len(lanes) <= _MAX_CURSORS:
            if len(streams) >= _TOGETHER and not self._query.backward and self._query.limit is None:
                listed = ", ".join(map(str, streams))
                self._arms = [_OF_STREAMS[lane]._replace(where=_OF_STREAMS[lane].where.format(listed)) for lane in lanes]
                return
            arms = [_OF_STREAM[lane] for lane in lanes]
            self._arms = [arm._replace(where=arm.where.format(stream)) for stream in streams for arm in arms]
            return
        self._filter("+stream IN (SELECT value FROM json_each(:streams))", streams=json.dumps(streams))
        self._scan()

    def _by_tenant(self, tenant: tuple[int, int] | None, kinds: list[int]) -> None:
        if kinds and self._are_rare(kinds):
            self._filter_lane()
            if tenant is not None:
                self._filter("+tenant = :tenant", tenant=tenant[0])
            self._arms = [_Arm(f"INDEXED BY events_by_kind WHERE kind = {no}") for no in kinds]
            return
        if self._query.lane == Lane.DECISION:
            numbers = (
                [tenant[0]]
                if tenant is not None
                else [no for (no,) in self._db.execute("SELECT no FROM tenants LIMIT ?", (_MAX_CURSORS + 1,))]
            )
            if len(numbers) <= _MAX_CURSORS:
                self._arms = [_Arm(f"INDEXED BY decisions_by_tenant WHERE tenant = {no} AND lane = 1") for no in numbers]
                return
        if tenant is not None:
            no, size = tenant
            total = self._db.execute("SELECT position FROM log").fetchone()[0]
            if size * _SCAN_SHARE < total:
                self._filter_lane()
                self._arms = [_Arm(f"INDEXED BY events_by_tenant WHERE tenant = {no}")]
                return
            self._filter("+tenant = :tenant", tenant=no)
        self._scan()

    def _are_rare(self, kinds: list[int]) -> bool:
        """Whether it costs less to find events of these kinds through their index than to look at every event. Counts no further."""
        newest = self._db.execute("SELECT position FROM log").fetchone()[0]
        among = min(self._values.get("upto", newest), newest) - self._query.after
        enough = min(max(among, 0) // _KIND_SHARE, _MOST_COUNTED)
        of_kinds = f"kind IN ({', '.join(map(str, kinds))}) AND position > ?"
        (count,) = self._db.execute(
            f"SELECT count(*) FROM (SELECT 1 FROM events INDEXED BY events_by_kind WHERE {of_kinds} LIMIT ?)", (self._query.after, enough)
        ).fetchone()
        return bool(count < enough)

    def _scan(self) -> None:
        self._filter_lane()
        self._arms = [_Arm("NOT INDEXED WHERE true")]

    def _filter_lane(self) -> None:
        if self._query.lane is not None:
            self._filter("+lane = :lane", lane=int(self._query.lane))
