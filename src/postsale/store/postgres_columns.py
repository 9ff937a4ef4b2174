"""Facts of a PostgreSQL log as Arrow batches: copied out as text that Arrow takes apart, so that no Python object is made per column.

Read by ranges of positions, each in a short transaction of its own, in the name of the tenant or as the tailer. A chapter that is
archived meanwhile is read from its segment from then on. See `columns`.
"""

from __future__ import annotations

import io
import select
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any, Final

import psycopg
from psycopg.errors import error_from_result
from psycopg.pq import ExecStatus

from postsale.store.archive import Archive, Part
from postsale.store.columns import Names, at_numbers, from_segments
from postsale.store.contract import Query
from postsale.store.postgres_archive import Segments
from postsale.store.postgres_link import Connection
from postsale.store.segments import pyarrow

_SPAN: Final = 65_536  # positions of a range

Reading = Callable[[str | None], AbstractContextManager[Connection]]


class Facts:
    """The facts of a query, the head of the log noted at the start."""

    def __init__(self, reading: Reading, schema: str, archive: Archive, query: Query, *, header: bool) -> None:
        self._reading, self._s, self._archive, self._query, self._header = reading, schema, archive, query, header
        with reading(query.tenant) as db:
            bounds = [_number(db, f"SELECT position FROM {schema}.log")]
            if query.known_at_us is not None:
                bounds.append(_number(db, f"SELECT {schema}.known_prefix({query.known_at_us:d})"))
            if query.upto is not None:
                bounds.append(query.upto)
            self._upto = min(bounds)
            number = _number(db, f"SELECT {schema}.tenant_no()") if query.tenant is not None else None
            self._tenant = number
            self.parts: list[Part] = Segments(db, schema).parts(query.after, self._upto, streams=None, tenant=number)

    def batches(self) -> Generator[Any, None, None]:
        """Those of the live table, and of chapters that were archived since the start."""
        known = {segment.chapter for segment, _ in self.parts}
        with self._reading(self._query.tenant) as db:
            names, wanted = self._names(db)
        at = max(self._query.after, 0)
        while at < self._upto:
            to = min(at + _SPAN, self._upto)
            with self._reading(self._query.tenant) as db:
                rows = self._copied(db, at, to, wanted)
                # After the copy, whose locks keep a chapter it read from from being detached until this transaction ends: so a chapter
                # that is new here was detached before, and the copy has nothing of it.
                new = [p for p in Segments(db, self._s).parts(at, to, streams=None, tenant=self._tenant) if p[0].chapter not in known]
            for batch in rows.combine_chunks().to_batches():
                yield names.batch(batch, header=self._header)
            yield from from_segments(self._archive, new, replace(self._query, after=at, upto=to), header=self._header)
            at = to

    def _names(self, db: Connection) -> tuple[Names, list[int]]:
        pa, s = pyarrow(), self._s
        mine = "" if self._tenant is None else f" WHERE t.no = {self._tenant:d}"
        rows = db.execute(
            f"SELECT s.no, t.name || '/' || s.category || '/' || s.id FROM {s}.streams s JOIN {s}.tenants t ON t.no = s.tenant{mine}".encode()
        ).fetchall()
        kinds = db.execute(f"SELECT no, wire_name, schema FROM {s}.kinds".encode(), binary=True).fetchall()
        streams = at_numbers(pa.array([no for no, _ in rows], pa.int64()), pa.array([name for _, name in rows], pa.string()))
        wanted = [no for no, name, _ in kinds if not self._query.kinds or name.partition("@")[0] in self._query.kinds]
        return Names(streams, [(no, name, bytes(schema)) for no, name, schema in kinds]), wanted

    def _copied(self, db: Connection, after: int, upto: int, kinds: list[int]) -> Any:
        pa, s, query = pyarrow(), self._s, self._query
        conditions = ["lane = 0", f"position > {after}", f"position <= {upto}"]
        values: list[str] = []
        if self._tenant is not None:
            conditions.append(f"tenant = {self._tenant:d}")
        if query.kinds:
            conditions.append(f"kind = ANY ('{{{','.join(map(str, kinds))}}}'::integer[])")
        if query.as_of_us is not None:
            conditions.append(f"occurred_at <= {query.as_of_us:d}")
        if query.category is not None:
            conditions.append(f"stream IN (SELECT no FROM {s}.streams WHERE category = %s)")
            values.append(query.category)
        texts = ["data", "header"] if self._header else ["data"]
        columns = ["position", "stream", "kind", "occurred_at", "recorded_at", *texts]
        shown = [*columns[:5], *(f"convert_from({name}, 'UTF8')" for name in texts)]
        sql = f"COPY (SELECT {', '.join(shown)} FROM {s}.events WHERE {' AND '.join(conditions)}) TO STDOUT (FORMAT csv)"
        raw = _output(db, sql, values)
        types = dict.fromkeys(columns[:5], pa.int64()) | dict.fromkeys(texts, pa.binary())
        if not raw:
            return pa.table({name: pa.array([], type_) for name, type_ in types.items()})
        return pa.csv.read_csv(
            io.BytesIO(raw),
            read_options=pa.csv.ReadOptions(column_names=columns),
            parse_options=pa.csv.ParseOptions(newlines_in_values=True),
            convert_options=pa.csv.ConvertOptions(column_types=types),
        )


def _output(db: Connection, sql: str, values: list[str]) -> bytes:
    """What a COPY gives. By libpq's own calls: psycopg's reader costs five times as much per row as everything else here."""
    with psycopg.ClientCursor(db) as cursor:
        text = cursor.mogrify(sql, values) if values else sql
    link, rows = db.pgconn, list[bytes]()
    try:
        link.send_query(text.encode())
        _finished(link, ExecStatus.COPY_OUT)
        while (size := (found := link.get_copy_data(1))[0]) >= 0:
            if size:
                rows.append(bytes(found[1]))
            else:
                _more(link)
        _finished(link, ExecStatus.COMMAND_OK)
        link.get_result()  # that there is no other
    except psycopg.Error:
        raise
    except BaseException:
        db.close()  # in the middle of a copy it is good for nothing else
        raise
    return b"".join(rows)


def _finished(link: Any, status: ExecStatus) -> None:
    while link.is_busy():
        _more(link)
    result = link.get_result()
    if result is None or result.status != status:
        raise psycopg.OperationalError("the connection is lost") if result is None else error_from_result(result)


def _more(link: Any) -> None:
    select.select([link.socket], [], [])
    link.consume_input()


def _number(db: Connection, sql: str) -> int:
    row = db.execute(sql.encode()).fetchone()
    return int(row[0]) if row else 0
