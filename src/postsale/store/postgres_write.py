"""One append inside a transaction of a PostgreSQL log: what `plan` must know, read under the lock, and the rows it decided on.

Every statement runs under exactly one tenant, set for the transaction. Whoever uses this begins and ends the transaction.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Sequence
from contextlib import closing
from typing import Any, Final

from postsale.errors import LogDamaged, MissingExtra, PostSaleError, SegmentUnreadable
from postsale.events import Lane, StoredEvent, StreamId
from postsale.store.archive import Archive
from postsale.store.contract import LEASES, LeaseName, NoneSince, Query, Submission
from postsale.store.leaves import Frontier
from postsale.store.plan import SALT_BYTES, Breach, Id, Key, Known, Mentions, Plan, plan
from postsale.store.postgres_archive import Segments
from postsale.store.postgres_link import Connection, Script
from postsale.store.postgres_names import Names, NewNames, enter
from postsale.store.segments import Segment

# A row in COPY's binary format: the number of columns, then each column behind its length. Order: EVENT_COLUMNS.
_BEFORE_HEADER: Final = struct.Struct("!hiqiiiqihiqi16siiiqiqi16si")
_BEFORE_DATA: Final = struct.Struct("!i")
_AFTER_DATA: Final = struct.Struct("!i16siqi32s")
_COPY_BEGIN: Final = b"PGCOPY\n\xff\r\n\x00" + bytes(8)
_COPY_END: Final = b"\xff\xff"


class Append:
    """Decides submissions and writes what was decided, on a connection in a transaction under the writer's role."""

    def __init__(self, db: Connection, schema: str, names: Names, archive: Archive, *, chapter: int) -> None:
        self._db = db
        self._archive = archive
        self._s = schema
        self._chapter = chapter
        self.names = NewNames(names)
        self._frontiers: dict[str, Frontier] = {}

    def decide(self, submissions: Sequence[Submission], mentioned: Mentions, *, now_us: int, limit_bytes: int) -> Plan:
        """Take the log's lock, which stays until the transaction ends, and plan. Nothing is written yet."""
        known = self._read(mentioned, {(event.wire_name, event.schema) for s in submissions for event in s.events})
        salts = os.urandom(SALT_BYTES * len(mentioned.ids))
        return plan(submissions, mentioned, known, now_us=now_us, salts=salts, limit_bytes=limit_bytes)

    # ---------------------------------------------------------------- what is known

    def _read(self, mentioned: Mentions, kinds: set[tuple[str, bytes]]) -> Known:
        head: list[Any] = []
        leaf_counts: dict[str, int] = {}
        versions: dict[StreamId, int] = {}
        ids: dict[Id, Key] = {}
        breaches: dict[NoneSince, Breach | PostSaleError] = {}
        tokens: dict[LeaseName, int] = {}

        script = Script()
        script.add(f"SELECT * FROM {self._s}.lock_head()", take=head.extend)
        watched = {stream for condition in mentioned.conditions for stream in condition.streams}
        streams = mentioned.streams | watched
        by_tenant: dict[str, list[bytes]] = {}
        for tenant, raw_id in mentioned.ids:
            by_tenant.setdefault(tenant, []).append(raw_id)
        if any(self.names.kind(kind) is None for kind in kinds):
            script.add(f"SELECT no, wire_name, schema FROM {self._s}.kinds", take=self._take_kinds)
        tenants = by_tenant.keys() | {stream.tenant for stream in streams} | {lease.tenant for lease in mentioned.leases}
        for tenant in sorted(tenants):
            self._enter(script, tenant)
            if tenant in mentioned.tenants:
                self._ask_head(script, tenant, leaf_counts)
            if raw_ids := by_tenant.get(tenant):
                self._ask_ids(script, tenant, raw_ids, ids)
            for lease in (lease for lease in mentioned.leases if lease.tenant == tenant):
                self._ask_token(script, lease, tokens)
            self._ask_versions(script, [s for s in mentioned.streams if s.tenant == tenant], versions)
            for condition in mentioned.conditions:
                self._ask_breach(script, condition, tenant, breaches)
        script.run(self._db)
        position, recorded_at_us, last = head[0]
        if position != last:
            raise LogDamaged(position=min(position, last) + 1, reason=f"the log's head says {position}, the last event is {last}")
        for condition in mentioned.conditions:
            self._look_into_archive(condition, breaches)
        return Known(
            position=position,
            recorded_at_us=recorded_at_us,
            leaf_counts=leaf_counts,
            versions=versions,
            ids=ids,
            breaches=breaches,
            tokens=tokens,
        )

    def _enter(self, script: Script, tenant: str, *, make: bool = False) -> None:
        enter(script, self._s, self.names, tenant, make=make)

    def _take_kinds(self, rows: Iterable[Any]) -> None:
        for no, wire_name, schema in rows:
            self.names.kinds[wire_name, schema] = no

    def _ask_head(self, script: Script, tenant: str, leaf_counts: dict[str, int]) -> None:
        def take(rows: list[Any]) -> None:
            try:
                frontier = Frontier.from_bytes(*rows[0]) if rows else Frontier()
            except ValueError:
                raise LogDamaged(position=0, reason=f"the tree head of tenant {tenant!r} is unreadable") from None
            self._frontiers[tenant] = frontier
            leaf_counts[tenant] = frontier.size

        script.add(f"SELECT size, frontier FROM {self._s}.tenants WHERE no = (SELECT {self._s}.tenant_no())", take=take)

    def _ask_ids(self, script: Script, tenant: str, raw_ids: list[bytes], ids: dict[Id, Key]) -> None:
        def take(rows: list[Any]) -> None:
            for raw_id, position, version, recorded_at, content_mac in rows:
                ids[tenant, raw_id] = Key(position, version, recorded_at, content_mac)

        wanted = f"tenant = (SELECT {self._s}.tenant_no()) AND event_id = ANY ({_digests(raw_ids)})"
        script.add(
            f"SELECT event_id, position, version, recorded_at, content_mac FROM {self._s}.events WHERE {wanted}"
            f" UNION ALL SELECT event_id, position, position, recorded_at, content_mac FROM {self._s}.archived_ids WHERE {wanted}",
            take=take,
        )

    def _ask_token(self, script: Script, lease: LeaseName, tokens: dict[LeaseName, int]) -> None:
        def take(rows: list[Any]) -> None:
            for (revision,) in rows:
                tokens[lease] = revision

        # Shared, so that nobody takes the lease over before this append is there for the new holder to see.
        script.add(
            f"SELECT revision FROM {self._s}.kv WHERE tenant = (SELECT {self._s}.tenant_no()) AND space = '{LEASES}' AND key = %s FOR SHARE",
            lease.name,
            take=take,
        )

    def _ask_versions(self, script: Script, streams: list[StreamId], versions: dict[StreamId, int]) -> None:
        """The newest decisions, and on the way the numbers of the streams."""
        newest = f"(SELECT max(e.version) FROM {self._s}.events e WHERE e.lane = 1 AND e.stream = s.no)"
        known = {no: stream for stream in streams if (no := self.names.stream(stream)) is not None}

        def take_known(rows: list[Any]) -> None:
            for no, version in rows:
                versions[known[no]] = version or 0

        def take_named(rows: list[Any]) -> None:
            for no, category, id_, version in rows:
                stream = named[category, id_]
                self.names.streams[stream] = no
                versions[stream] = version or 0

        if known:
            script.add(f"SELECT s.no, {newest} FROM unnest('{{{_joined(known)}}}'::bigint[]) s (no)", take=take_known)
        named = {(stream.category, stream.id): stream for stream in streams if self.names.stream(stream) is None}
        if named:
            script.add(
                f"SELECT s.no, s.category, s.id, {newest} FROM {self._s}.streams s"
                " JOIN unnest(%s::text[], %s::text[]) n (category, id) USING (category, id)"
                f" WHERE s.tenant = (SELECT {self._s}.tenant_no())",
                [category for category, _ in named],
                [id_ for _, id_ in named],
                take=take_named,
            )

    def _look_into_archive(self, condition: NoneSince, breaches: dict[NoneSince, Breach | PostSaleError]) -> None:
        """An unreadable segment is the error of the submission that needs it, not of all that share the commit."""
        if not condition.streams or not condition.kinds:
            return
        query = Query(streams=condition.streams, kinds=condition.kinds, lane=Lane.FACT, after=condition.position)
        parts: dict[int, tuple[Segment, set[int]]] = {}
        kept = Segments(self._db, self._s)
        for tenant in sorted({stream.tenant for stream in condition.streams}):
            opening = Script()
            self._enter(opening, tenant)
            opening.run(self._db)
            numbers = [no for no, _ in kept.numbers(stream for stream in condition.streams if stream.tenant == tenant).values()]
            for segment, groups in kept.parts(condition.position, 2**63 - 1, streams=numbers, tenant=None):
                parts.setdefault(segment.chapter, (segment, set()))[1].update(groups or ())
        if not parts:
            return
        try:
            with closing(self._archive.read([(segment, sorted(groups)) for _, (segment, groups) in sorted(parts.items())], query)) as found:
                first = next(found, None)
        except (SegmentUnreadable, MissingExtra) as error:
            breaches[condition] = error.with_traceback(None)
            return
        live = breaches.get(condition)
        if first is not None and not (isinstance(live, Breach) and live.position < first.position):
            breaches[condition] = Breach(first.stream, first.wire_name, first.position)

    def _ask_breach(self, script: Script, condition: NoneSince, tenant: str, breaches: dict[NoneSince, Breach | PostSaleError]) -> None:
        def take(rows: list[Any]) -> None:
            for position, wire_name, category, id_ in rows:
                known = breaches.get(condition)
                if not isinstance(known, Breach) or position < known.position:
                    breaches[condition] = Breach(StreamId(tenant, category, id_), wire_name, position)

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

    def write(self, rows: list[StoredEvent]) -> Script:
        """Write the rows; the script that is left moves the heads and must be run before the COMMIT."""
        self._make_names(rows)
        parts: dict[tuple[str, str], list[StoredEvent]] = {}
        for row in rows:
            table = "decisions" if row.lane is Lane.DECISION else f"facts_{(row.position - 1) // self._chapter}"
            parts.setdefault((row.stream.tenant, table), []).append(row)
        for (tenant, table), part in parts.items():
            opening = Script()
            self._enter(opening, tenant)
            opening.run(self._db)
            self._copy(table, part)
        return self._heads(rows)

    def _make_names(self, rows: list[StoredEvent]) -> None:
        script = Script()
        kinds = {(row.wire_name, row.schema) for row in rows}
        if new_kinds := [kind for kind in kinds if self.names.kind(kind) is None]:
            wire_names, schemas = zip(*new_kinds, strict=True)
            script.add(
                f"INSERT INTO {self._s}.kinds (wire_name, schema) SELECT * FROM unnest(%s::text[], {_digests(schemas)})"
                " RETURNING no, wire_name, schema",
                list(wire_names),
                take=self._take_kinds,
            )
        for chapter in sorted({(row.position - 1) // self._chapter for row in rows}):
            if not self.names.has_chapter(chapter):
                script.add(f"SELECT {self._s}.ensure_chapter({chapter})")
                self.names.chapters.add(chapter)
        new_streams: dict[str, list[StreamId]] = {}
        for stream in {row.stream for row in rows}:
            if self.names.stream(stream) is None:
                new_streams.setdefault(stream.tenant, []).append(stream)
        for tenant, streams in new_streams.items():
            self._enter(script, tenant, make=True)
            self._make_streams(script, tenant, streams)
        script.run(self._db)

    def _make_streams(self, script: Script, tenant: str, streams: list[StreamId]) -> None:
        def take(rows: list[Any]) -> None:
            for no, category, id_ in rows:
                self.names.streams[StreamId(tenant, category, id_)] = no

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

    def _copy(self, table: str, rows: list[StoredEvent]) -> None:
        out = [_COPY_BEGIN]
        for row in rows:
            position, stream, lane, version, event_id, wire_name, schema, occurred, recorded, mac, header, data, salt, index, leaf = row
            tenant, stream_no, kind = self.names.tenant(stream.tenant), self.names.stream(stream), self.names.kind((wire_name, schema))
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
        with self._db.cursor() as cursor, cursor.copy(f"COPY {self._s}.{table} FROM STDIN (FORMAT BINARY)".encode()) as copy:
            copy.write(b"".join(out))

    def _heads(self, rows: list[StoredEvent]) -> Script:
        script = Script()
        leaves: dict[str, list[bytes]] = {}
        for row in rows:
            leaves.setdefault(row.stream.tenant, []).append(row.leaf)
        for tenant, its_leaves in leaves.items():
            frontier, no = self._frontiers[tenant], self.names.tenant(tenant)
            nodes = frontier.extend(its_leaves)
            self._enter(script, tenant)
            if nodes:
                values = ", ".join(f"({no}, {node.level}, {node.number}, {_digest(node.hash)})" for node in nodes)
                script.add(f"INSERT INTO {self._s}.nodes VALUES {values}")
            script.add(f"UPDATE {self._s}.tenants SET size = {frontier.size}, frontier = {_digest(frontier.to_bytes())} WHERE no = {no}")
        script.add(f"UPDATE {self._s}.log SET position = {rows[-1].position}, recorded_at = {rows[-1].recorded_at_us}")
        return script


def _joined(numbers: Iterable[int]) -> str:
    return ",".join(map(str, numbers))


def _digest(value: bytes) -> str:
    """Bytes as SQL: with E, so that it does not depend on the server's standard_conforming_strings."""
    return f"E'\\\\x{value.hex()}'::bytea"


def _digests(values: Iterable[bytes]) -> str:
    return "E'{" + ",".join([f'"\\\\\\\\x{value.hex()}"' for value in values]) + "}'::bytea[]"
