"""One append inside a transaction of a PostgreSQL log: what `plan` must know, read under the lock, and the rows it decided on.

Every statement runs under exactly one tenant, set for the transaction. Whoever uses this begins and ends the transaction.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Sequence
from contextlib import closing
from typing import Any, Final

import psycopg

from postsale.errors import LogDamaged, MissingExtra, PostSaleError, SegmentUnreadable
from postsale.events import Lane, StoredEvent, StreamId
from postsale.store.archive import Archive
from postsale.store.contract import LEASES, LeaseName, NoneSince, Query, Submission
from postsale.store.leaves import Frontier
from postsale.store.plan import SALT_BYTES, Breach, Id, Key, Known, Plan, mentions, plan
from postsale.store.postgres_archive import Segments
from postsale.store.postgres_link import Connection, Script
from postsale.store.postgres_names import Names, NewNames, enter
from postsale.store.postgres_schema import SYSTEM
from postsale.store.segments import Segment

# A row in COPY's binary format: the number of columns, then each column behind its length. Order: EVENT_COLUMNS.
_BEFORE_HEADER: Final = struct.Struct("!hiqiiiqihiqi16siiiqiqi16si")
_BEFORE_DATA: Final = struct.Struct("!i")
_AFTER_DATA: Final = struct.Struct("!i16siqi32s")
_COPIED: Final = 64  # rows from which on COPY is quicker
_COPY_BEGIN: Final = b"PGCOPY\n\xff\r\n\x00" + bytes(8)
_COPY_END: Final = b"\xff\xff"


class LogWentBack(Exception):
    """The log is not the one whose names are known: forget them and begin again."""


class Append:
    """Decides submissions and writes what was decided, in a transaction under the writer's role: `ask`, `decide`, `write`."""

    def __init__(self, schema: str, names: Names, archive: Archive, submissions: Sequence[Submission], *, chapter: int) -> None:
        self._archive = archive
        self._s = schema
        self._chapter = chapter
        self._submissions = submissions
        self._mentioned = mentions(submissions)
        self._names = NewNames(names)
        self._tenants: dict[str, int] = {}
        self._head: tuple[int, int, int] = (0, 0, 0)
        self._frontiers: dict[str, Frontier] = {}
        self._leaf_counts: dict[str, int] = {}
        self._versions: dict[StreamId, int] = {}
        self._ids: dict[Id, Key] = {}
        self._breaches: dict[NoneSince, Breach | PostSaleError] = {}
        self._archived_upto = 0  # position
        self._tokens: dict[LeaseName, int] = {}

    def decide(self, db: Connection, *, now_us: int, limit_bytes: int) -> Plan:
        """The outcomes and rows, once `ask` was run."""
        position, recorded_at_us, last = self._head
        if position != last:
            raise LogDamaged(position=min(position, last) + 1, reason=f"the log's head says {position}, the last event is {last}")
        for condition in self._mentioned.conditions:
            self._look_into_archive(db, condition)
        known = Known(
            position=position,
            recorded_at_us=recorded_at_us,
            leaf_counts=self._leaf_counts,
            versions=self._versions,
            ids=self._ids,
            breaches=self._breaches,
            tokens=self._tokens,
        )
        salts = os.urandom(SALT_BYTES * len(self._mentioned.ids))
        return plan(self._submissions, self._mentioned, known, now_us=now_us, salts=salts, limit_bytes=limit_bytes)

    def committed(self, rows: list[StoredEvent]) -> None:
        """The transaction with these rows was: what it learned of names holds."""
        self._names.committed((rows[-1].position, rows[-1].recorded_at_us))

    # ---------------------------------------------------------------- what is known

    def ask(self, script: Script, timeouts: tuple[int, int, int]) -> None:
        """Have the script take the log's lock, which stays until the transaction ends, and read what `decide` must know."""
        mentioned = self._mentioned
        by_tenant: dict[str, list[bytes]] = {}
        for tenant, raw_id in mentioned.ids:
            by_tenant.setdefault(tenant, []).append(raw_id)
        watched = (stream for condition in mentioned.conditions for stream in condition.streams)
        tenants = by_tenant.keys() | {stream.tenant for stream in (*mentioned.streams, *watched)} | {k.tenant for k in mentioned.leases}
        for tenant in sorted(tenants) or [SYSTEM]:  # names are looked up under the lock only: who held it before may have made them
            self._ask_tenant(script, tenant, by_tenant.get(tenant, []), timeouts)
            for lease in mentioned.leases:
                if lease.tenant == tenant:
                    self._ask_token(script, lease)
            self._ask_versions(script, [stream for stream in mentioned.streams if stream.tenant == tenant])
            for condition in mentioned.conditions:
                self._ask_breach(script, condition, tenant)
        if mentioned.conditions:
            script.add(f"SELECT coalesce(max(last), 0) FROM {self._s}.segments", take=self._take_archived)
        if any(self._names.kind((event.wire_name, event.schema)) is None for s in self._submissions for event in s.events):
            script.add(f"SELECT no, wire_name, schema FROM {self._s}.kinds", take=self._take_kinds)

    def _take_archived(self, rows: list[Any]) -> None:
        self._archived_upto = rows[0][0]

    def _enter(self, script: Script, tenant: str, *, make: bool = False) -> None:
        """From here on the script works for this tenant."""

        def take(rows: list[Any]) -> None:
            if rows[0][0] is not None:
                self._tenants[tenant] = rows[0][0]

        enter(script, self._s, tenant, make=make, take=take)

    def _take_kinds(self, rows: Iterable[Any]) -> None:
        for no, wire_name, schema in rows:
            self._names.kinds[wire_name, schema] = no

    def _ask_tenant(self, script: Script, tenant: str, raw_ids: list[bytes], timeouts: tuple[int, int, int]) -> None:
        def take(rows: list[Any]) -> None:
            position, recorded_at, last, same_log, number, size, nodes, *found = rows[0]
            if not same_log:
                raise LogWentBack
            self._head = position, recorded_at, last
            if number is not None:
                self._tenants[tenant] = number
            try:
                frontier = Frontier() if size is None else Frontier.from_bytes(size, nodes)
            except ValueError:
                raise LogDamaged(position=0, reason=f"the tree head of tenant {tenant!r} is unreadable") from None
            self._frontiers[tenant] = frontier
            self._leaf_counts[tenant] = frontier.size
            if found[0] is not None:
                for raw_id, *key in zip(*found, strict=True):
                    self._ids[tenant, raw_id] = Key(*key)

        numbers = ", ".join(map(str, (*self._names.seen, *timeouts)))
        script.add(f"SELECT * FROM {self._s}.ask(%s, {_digests(raw_ids)}, {numbers})", tenant, take=take)

    def _ask_token(self, script: Script, lease: LeaseName) -> None:
        def take(rows: list[Any]) -> None:
            for (revision,) in rows:
                self._tokens[lease] = revision

        # Shared, so that nobody takes the lease over before this append is there for the new holder to see.
        script.add(
            f"SELECT revision FROM {self._s}.kv WHERE tenant = (SELECT {self._s}.tenant_no()) AND space = '{LEASES}' AND key = %s FOR SHARE",
            lease.name,
            take=take,
        )

    def _ask_versions(self, script: Script, streams: list[StreamId]) -> None:
        """The newest decisions, and on the way the numbers of the streams."""
        newest = f"(SELECT max(e.version) FROM {self._s}.events e WHERE e.lane = 1 AND e.stream = s.no)"
        known = {no: stream for stream in streams if (no := self._names.stream(stream)) is not None}

        def take_known(rows: list[Any]) -> None:
            for no, version in rows:
                self._versions[known[no]] = version or 0

        def take_named(rows: list[Any]) -> None:
            for no, category, id_, version in rows:
                stream = named[category, id_]
                self._names.streams[stream] = no
                self._versions[stream] = version or 0

        if known:
            script.add(f"SELECT s.no, {newest} FROM unnest({_numbers(known)}::bigint[]) s (no)", take=take_known)
        named = {(stream.category, stream.id): stream for stream in streams if self._names.stream(stream) is None}
        if named:
            script.add(
                f"SELECT s.no, s.category, s.id, {newest} FROM {self._s}.streams s"
                " JOIN unnest(%s::text[], %s::text[]) n (category, id) USING (category, id)"
                f" WHERE s.tenant = (SELECT {self._s}.tenant_no())",
                [category for category, _ in named],
                [id_ for _, id_ in named],
                take=take_named,
            )

    def _look_into_archive(self, db: Connection, condition: NoneSince) -> None:
        """An unreadable segment is the error of the submission that needs it, not of all that share the commit."""
        if condition.position >= self._archived_upto or not condition.streams or not condition.kinds:
            return
        query = Query(streams=condition.streams, kinds=condition.kinds, lane=Lane.FACT, after=condition.position)
        parts: dict[int, tuple[Segment, set[int]]] = {}
        kept = Segments(db, self._s)
        for tenant in sorted({stream.tenant for stream in condition.streams}):
            opening = Script()
            self._enter(opening, tenant)
            opening.run(db)
            numbers = [no for no, _ in kept.numbers(stream for stream in condition.streams if stream.tenant == tenant).values()]
            for segment, groups in kept.parts(condition.position, 2**63 - 1, streams=numbers, tenant=None):
                parts.setdefault(segment.chapter, (segment, set()))[1].update(groups or ())
        if not parts:
            return
        try:
            with closing(self._archive.read([(segment, sorted(groups)) for _, (segment, groups) in sorted(parts.items())], query)) as found:
                first = next(found, None)
        except (SegmentUnreadable, MissingExtra) as error:
            self._breaches[condition] = error.with_traceback(None)
            return
        live = self._breaches.get(condition)
        if first is not None and not (isinstance(live, Breach) and live.position < first.position):
            self._breaches[condition] = Breach(first.stream, first.wire_name, first.position)

    def _ask_breach(self, script: Script, condition: NoneSince, tenant: str) -> None:
        def take(rows: list[Any]) -> None:
            for position, wire_name, category, id_ in rows:
                known = self._breaches.get(condition)
                if not isinstance(known, Breach) or position < known.position:
                    self._breaches[condition] = Breach(StreamId(tenant, category, id_), wire_name, position)

        streams = [(stream.category, stream.id) for stream in condition.streams if stream.tenant == tenant]
        if streams and condition.kinds:
            categories, ids = zip(*streams, strict=True)
            script.add(
                f"SELECT e.position, k.wire_name, s.category, s.id FROM {self._s}.streams s"
                f" JOIN unnest(%s::text[], %s::text[]) n (category, id) USING (category, id)"
                f" CROSS JOIN LATERAL (SELECT position, kind FROM {self._s}.events WHERE lane = 0 AND stream = s.no"
                f" AND position > {condition.position} AND kind = ANY (ARRAY(SELECT no FROM {self._s}.kinds WHERE split_part(wire_name, '@', 1) = ANY (%s)))"
                f" ORDER BY position LIMIT 1) e JOIN {self._s}.kinds k ON k.no = e.kind"
                f" WHERE s.tenant = (SELECT {self._s}.tenant_no()) ORDER BY e.position LIMIT 1",
                list(categories),
                list(ids),
                sorted(condition.kinds),
                take=take,
            )

    # ---------------------------------------------------------------- what was decided

    def write(self, db: Connection, rows: list[StoredEvent], *, commit: bool) -> None:
        """Write the rows and move the heads; then COMMIT, unless that is the caller's."""
        self._make_names(db, rows)
        by_tenant: dict[str, list[StoredEvent]] = {}
        for row in rows:
            by_tenant.setdefault(row.stream.tenant, []).append(row)
        parts = list(by_tenant.items())
        for tenant, its_rows in parts:
            leaves = [row.leaf for row in its_rows]
            if len(rows) >= _COPIED:
                self._copy(db, tenant, its_rows)
                its_rows = []
            self._store(db, tenant, its_rows, leaves, rows[-1] if tenant == parts[-1][0] else None)
        if commit:
            Script("COMMIT").run(db)

    def _make_names(self, db: Connection, rows: list[StoredEvent]) -> None:
        script = Script()
        kinds = {(row.wire_name, row.schema) for row in rows}
        if new_kinds := [kind for kind in kinds if self._names.kind(kind) is None]:
            wire_names, schemas = zip(*new_kinds, strict=True)
            script.add(
                f"INSERT INTO {self._s}.kinds (wire_name, schema) SELECT * FROM unnest(%s::text[], {_digests(schemas)})"
                " RETURNING no, wire_name, schema",
                list(wire_names),
                take=self._take_kinds,
            )
        for chapter in sorted({(row.position - 1) // self._chapter for row in rows}):
            if not self._names.has_chapter(chapter):
                script.add(f"SELECT {self._s}.ensure_chapter({chapter})")
                self._names.chapters.add(chapter)
        new_streams: dict[str, list[StreamId]] = {}
        for stream in {row.stream for row in rows}:
            if self._names.stream(stream) is None:
                new_streams.setdefault(stream.tenant, []).append(stream)
        for tenant, streams in new_streams.items():
            self._enter(script, tenant, make=True)  # a new tenant has new streams only
            self._make_streams(script, tenant, streams)
        script.run(db)

    def _make_streams(self, script: Script, tenant: str, streams: list[StreamId]) -> None:
        def take(rows: list[Any]) -> None:
            for no, category, id_ in rows:
                self._names.streams[StreamId(tenant, category, id_)] = no

        s = self._s
        # Whoever makes streams holds the log's lock, so what is not found here is made by nobody else.
        script.add(
            f"WITH n AS MATERIALIZED (SELECT * FROM unnest(%s::text[], %s::text[]) n (category, id)), there AS MATERIALIZED"
            f" (SELECT s.no, s.category, s.id FROM {s}.streams s JOIN n USING (category, id) WHERE s.tenant = (SELECT {s}.tenant_no())),"
            f" made AS (INSERT INTO {s}.streams (tenant, category, id) SELECT (SELECT {s}.tenant_no()), category, id FROM n"
            " WHERE (category, id) NOT IN (SELECT category, id FROM there) RETURNING no, category, id)"
            " SELECT * FROM there UNION ALL SELECT * FROM made",
            [stream.category for stream in streams],
            [stream.id for stream in streams],
            take=take,
        )

    def _copy(self, db: Connection, tenant: str, rows: list[StoredEvent]) -> None:
        Script(f"SET LOCAL postsale.tenant = {self._tenants[tenant]}").run(db)
        parts: dict[str, list[StoredEvent]] = {}
        for row in rows:
            table = "decisions" if row.lane is Lane.DECISION else f"facts_{(row.position - 1) // self._chapter}"
            parts.setdefault(table, []).append(row)
        for table, part in parts.items():
            self._copy_into(db, table, part)

    def _copy_into(self, db: Connection, table: str, rows: list[StoredEvent]) -> None:
        out = [_COPY_BEGIN]
        for row in rows:
            position, stream, lane, version, event_id, wire_name, schema, occurred, recorded, mac, header, data, salt, index, leaf = row
            tenant, stream_no, kind = self._tenants[stream.tenant], self._names.stream(stream), self._names.kind((wire_name, schema))
            raw_id = event_id.int.to_bytes(16)
            out += (
                _BEFORE_HEADER.pack(
                    *(15, 8, position, 4, tenant, 8, stream_no, 2, lane, 8, version, 16, raw_id, 4, kind),
                    *(8, occurred, 8, recorded, 16, mac, len(header)),
                ),
                header,
                _BEFORE_DATA.pack(len(data)),
                data,
                _AFTER_DATA.pack(16, salt, 8, index, 32, leaf),
            )
        out.append(_COPY_END)
        with db.cursor() as cursor, cursor.copy(f"COPY {self._s}.{table} FROM STDIN (FORMAT BINARY)".encode()) as copy:
            copy.write(b"".join(out))

    def _store(self, db: Connection, tenant: str, rows: list[StoredEvent], leaves: list[bytes], last: StoredEvent | None) -> None:
        frontier = self._frontiers[tenant]
        nodes = frontier.extend(leaves)
        names = self._names
        # What an event says goes as values: it must not stand in a statement that a server may write to its log.
        values = (
            f"{self._tenants[tenant]}",
            _numbers(row.position for row in rows),
            _numbers(names.stream(row.stream) for row in rows),
            _numbers(int(row.lane) for row in rows),
            _numbers(row.version for row in rows),
            _digests(row.event_id.bytes for row in rows),
            _numbers(names.kind((row.wire_name, row.schema)) for row in rows),
            _numbers(row.occurred_at_us for row in rows),
            _numbers(row.recorded_at_us for row in rows),
            _digests(row.content_mac for row in rows),
            "%b::bytea[], %b::bytea[]",
            _digests(row.salt for row in rows),
            _numbers(row.leaf_index for row in rows),
            _digests(row.leaf for row in rows),
            f"{frontier.size}",
            _digest(frontier.to_bytes()),
            _numbers(node.level for node in nodes),
            _numbers(node.number for node in nodes),
            _digests(node.hash for node in nodes),
            "NULL, NULL" if last is None else f"{last.position}, {last.recorded_at_us}",
        )
        sql = f"SELECT {self._s}.store({', '.join(values)})"
        psycopg.Cursor(db).execute(sql.encode(), ([row.header for row in rows], [row.data for row in rows]), prepare=False)


def _numbers(numbers: Iterable[int | None]) -> str:
    return "'{" + ",".join(map(str, numbers)) + "}'"


def _digest(value: bytes) -> str:
    """Bytes as SQL: with E, so that it does not depend on the server's standard_conforming_strings."""
    return f"E'\\\\x{value.hex()}'::bytea"


def _digests(values: Iterable[bytes]) -> str:
    return "E'{" + ",".join([f'"\\\\\\\\x{value.hex()}"' for value in values]) + "}'::bytea[]"
