"""Facts of a SQLite log as Arrow batches, by a driver that makes no Python object per event (ADBC; extra `batch`).

One read transaction on a connection of its own for the live table, then archived chapters from their segments. See `columns`.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from postsale.errors import LogDamaged, MissingExtra, StoreUnavailable
from postsale.store.archive import Archive
from postsale.store.columns import BATCH_ROWS, batch_schema, from_segment
from postsale.store.contract import Query
from postsale.store.segments import pyarrow
from postsale.store.sqlite_archive import parts_of
from postsale.store.sqlite_schema import url_of

if TYPE_CHECKING:
    from postsale.store.sqlite import SQLiteStore


def fact_batches(store: SQLiteStore, path: Path, archive: Archive, query: Query, *, header: bool) -> Generator[Any, None, None]:
    """See `Columnar`."""
    with _cursor(path) as cursor:
        # This SELECT takes the snapshot: a chapter that had a segment by then is read from it, all else from the live table, even while
        # it is being archived.
        archived = _rows(cursor, "SELECT first, last FROM segments ORDER BY first")
        streams = _names(cursor, "SELECT s.no, t.name || '/' || s.category || '/' || s.id FROM streams s JOIN tenants t ON t.no = s.tenant")
        kinds = _rows(cursor, "SELECT no, wire_name, schema FROM kinds")
        wanted = [no for no, name, _ in kinds if not query.kinds or name.partition("@")[0] in query.kinds]
        cursor.execute(_select(query, wanted, archived, header=header), _values(query))
        batches = cursor.fetch_record_batch()
        yield from (_named(batch, streams, kinds, header=header) for batch in batches if batch.num_rows)
    if archived:
        firsts = {first for first, _ in archived}
        with store.snapshot() as db:
            parts = [part for part in parts_of(db, query) if part[0].first in firsts]
        with closing(archive.tables(parts, query)) as tables:
            for table in tables:
                yield from from_segment(table, header=header)


def _select(query: Query, kinds: list[int], archived: list[Any], *, header: bool) -> str:
    """Numbers stand in the text; names are values."""
    conditions = ["lane = 0", f"position > {int(query.after)}"]
    for column, bound in (("position", query.upto), ("recorded_at", query.known_at_us), ("occurred_at", query.as_of_us)):
        if bound is not None:
            conditions.append(f"{column} <= {int(bound)}")
    if query.kinds:
        conditions.append(f"+kind IN ({', '.join(map(str, kinds))})")
    if query.tenant is not None:
        conditions.append("+tenant IN (SELECT no FROM tenants WHERE name = ?)")
    if query.category is not None:
        conditions.append("+stream IN (SELECT no FROM streams WHERE category = ?)")
    conditions += [f"position NOT BETWEEN {first} AND {last}" for first, last in _joined(archived)]
    columns = "position, stream, kind, occurred_at, recorded_at, data" + (", header" if header else "")
    return f"SELECT {columns} FROM events NOT INDEXED WHERE {' AND '.join(conditions)}"


def _values(query: Query) -> tuple[str, ...] | None:
    return tuple(name for name in (query.tenant, query.category) if name is not None) or None


def _joined(ranges: list[Any]) -> list[list[int]]:
    """Adjoining ranges as one: chapters are mostly archived from the first on."""
    joined: list[list[int]] = []
    for first, last in ranges:
        if joined and joined[-1][1] + 1 == first:
            joined[-1][1] = last
        else:
            joined.append([first, last])
    return joined


def _named(batch: Any, streams: Any, kinds: list[Any], *, header: bool) -> Any:
    """A batch with names in place of numbers; LogDamaged for a number that leads nowhere."""
    pa, schema = pyarrow(), batch_schema(header=header)
    numbers = pa.array([no for no, _, _ in kinds], pa.int64())
    at = pa.compute.index_in(batch["kind"], numbers).cast(pa.int32())
    names = pa.compute.take(streams, pa.compute.if_else(_within(batch["stream"], streams), batch["stream"], 0))
    columns = {
        "position": batch["position"],
        "stream": names,
        "wire_name": pa.DictionaryArray.from_arrays(at, pa.array([name for _, name, _ in kinds], pa.string())),
        "schema": pa.compute.take(pa.array([schema for _, _, schema in kinds], pa.binary()), at),
        "occurred_at_us": batch["occurred_at"],
        "recorded_at_us": batch["recorded_at"],
        "data": batch["data"],
    }
    if header:
        columns["header"] = batch["header"]
    for name in ("stream", "schema"):
        if columns[name].null_count:
            row = pa.compute.index(columns[name].is_null(), value=True).as_py()
            raise LogDamaged(position=batch["position"][row].as_py(), reason=f"its {name} is not in the table of names")
    return pa.record_batch([columns[field.name] for field in schema], schema=schema)


def _within(numbers: Any, names: Any) -> Any:
    compute = pyarrow().compute
    return compute.and_(compute.greater(numbers, 0), compute.less(numbers, len(names)))


def _names(cursor: Any, sql: str) -> Any:
    """The second column, at the places that the first one says; null where there is none."""
    pa = pyarrow()
    cursor.execute(sql)
    rows = cursor.fetch_arrow_table()
    if not rows.num_rows:
        return pa.array([None], pa.string())
    at = pa.compute.index_in(pa.array(range(pa.compute.max(rows[0]).as_py() + 1), pa.int64()), rows[0].combine_chunks())
    return pa.compute.take(rows[1].combine_chunks(), at)


def _rows(cursor: Any, sql: str) -> list[Any]:
    cursor.execute(sql)
    return list(cursor.fetchall())


@contextmanager
def _cursor(path: Path) -> Any:
    try:
        import adbc_driver_sqlite.dbapi as driver
        from adbc_driver_manager import Error
    except ImportError:
        raise MissingExtra(feature="facts as columns", extra="batch") from None
    try:
        with driver.connect(f"{path.as_uri()}?mode=ro") as connection, connection.cursor() as cursor:
            cursor.adbc_statement.set_options(**{"adbc.sqlite.query.batch_rows": str(BATCH_ROWS)})
            yield cursor
    except Error as error:  # its texts may quote what is stored
        raise StoreUnavailable(url=url_of(path), reason=f"the columns' driver failed ({error.status_code.name})") from None
