"""Facts of a SQLite log as Arrow batches, by a driver that makes no Python object per event (ADBC; extra `batch`).

One read transaction on a connection of its own for the live table; archived chapters are read from their segments. See `columns`.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from postsale.errors import MissingExtra, StoreUnavailable
from postsale.store.archive import Archive
from postsale.store.columns import BATCH_ROWS, Names, Source, at_numbers
from postsale.store.contract import Query
from postsale.store.sqlite_archive import parts_of
from postsale.store.sqlite_schema import url_of

if TYPE_CHECKING:
    from postsale.store.sqlite import SQLiteStore


@contextmanager
def fact_source(store: SQLiteStore, path: Path, archive: Archive, query: Query, *, header: bool) -> Iterator[Source]:
    """See `Columnar`."""
    with _cursor(path) as cursor:
        # This SELECT takes the snapshot: a chapter that had a segment by then is read from it, all else from the live table, even while
        # it is being archived.
        archived = _rows(cursor, "SELECT first, last FROM segments ORDER BY first")
        with store.snapshot() as db:
            firsts = {first for first, _ in archived}
            parts = [part for part in parts_of(db, query) if part[0].first in firsts] if archived else []
        with closing(_live(cursor, path, query, archived, header=header)) as batches:
            yield Source(batches, parts, archive)


def _live(cursor: Any, path: Path, query: Query, archived: list[Any], *, header: bool) -> Generator[Any, None, None]:
    with _translated(path):
        cursor.execute("SELECT s.no, t.name || '/' || s.category || '/' || s.id FROM streams s JOIN tenants t ON t.no = s.tenant")
        streams = cursor.fetch_arrow_table().combine_chunks()
        kinds = _rows(cursor, "SELECT no, wire_name, schema FROM kinds")
        names = Names(at_numbers(*(column.combine_chunks() for column in streams.columns)), kinds)
        wanted = [no for no, name, _ in kinds if not query.kinds or name.partition("@")[0] in query.kinds]
        cursor.execute(_select(query, wanted, archived, header=header), _values(query))
        for batch in cursor.fetch_record_batch():
            if batch.num_rows:
                yield names.batch(batch, header=header)


def _select(query: Query, kinds: list[int], archived: list[Any], *, header: bool) -> str:
    """Numbers stand in the text; names are values."""
    conditions = ["lane = 0", f"position > {query.after:d}"]
    for column, bound in (("position", query.upto), ("recorded_at", query.known_at_us), ("occurred_at", query.as_of_us)):
        if bound is not None:
            conditions.append(f"{column} <= {bound:d}")
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


def _rows(cursor: Any, sql: str) -> list[Any]:
    cursor.execute(sql)
    return list(cursor.fetchall())


@contextmanager
def _cursor(path: Path) -> Iterator[Any]:
    try:
        import adbc_driver_sqlite.dbapi as driver
    except ImportError:
        raise MissingExtra(feature="facts as columns", extra="batch") from None
    with _translated(path):
        connection = driver.connect(f"{path.as_uri()}?mode=ro")
    with connection, connection.cursor() as cursor:
        cursor.adbc_statement.set_options(**{"adbc.sqlite.query.batch_rows": str(BATCH_ROWS)})
        yield cursor


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    from adbc_driver_manager import Error

    try:
        yield
    except Error as error:  # its texts may quote what is stored
        raise StoreUnavailable(url=url_of(path), reason=f"the columns' driver failed ({error.status_code.name})") from None
