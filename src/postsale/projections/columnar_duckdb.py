"""DuckDB, the embedded engine: connections, Ibis tables over them, and results as Arrow. Errors never repeat a value.

Everything that is particular to DuckDB's Python package is here. Needs the extra `batch`; imports columnar and the errors.

    with duckdb_connection() as connection:
        connection.register("facts", arrow_table)
        rows = read(connection, value_table(Billing, table(connection, "facts"), keys=["key"], as_of=now_us))
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from postsale.errors import InvalidInput, MissingExtra, StoreUnavailable
from postsale.projections.columnar_expressions import Table, ibis

BATCH_ROWS: Final = 16_384

_TYPES: Final = {"BIGINT": "int64", "INTEGER": "int32", "VARCHAR": "string", "BOOLEAN": "boolean", "DOUBLE": "float64", "BLOB": "binary"}

_SPACE: Final = frozenset({"OutOfMemoryException", "IOException", "InternalException", "FatalException", "InterruptException"})


@contextmanager
def duckdb_connection(*, memory_mb: int | None = None, on_disk: bool = False) -> Iterator[Any]:
    """A database of its own, in memory, closed at the end. Beyond `memory_mb` (without it, most of the machine's memory) it uses a
    temporary directory, gone at the end. `on_disk`: its tables are there, compressed, from the beginning. MissingExtra."""
    try:
        import duckdb
    except ImportError:
        raise MissingExtra(feature="features over all history", extra="batch") from None
    settings: dict[str, Any] = {"preserve_insertion_order": False}  # facts have none
    if memory_mb is not None:
        settings["memory_limit"] = f"{memory_mb}MB"
    with tempfile.TemporaryDirectory(prefix="postsale-") as directory:
        connection = duckdb.connect(f"{directory}/tables" if on_disk else ":memory:", config={**settings, "temp_directory": directory})
        try:
            yield connection
        finally:
            connection.close()


def table(connection: Any, name: str) -> Table:
    """A table, view or registered Arrow table of the connection, for Ibis. Columns of types that no feature can use are left out."""
    # Not through Ibis' own connection, which asks DuckDB in ways that DuckDB 2 warns about.
    described = connection.execute("SELECT column_name, column_type FROM (DESCRIBE FROM query_table(?))", [name]).fetchall()
    return ibis().table({column: _TYPES[type_] for column, type_ in described if type_ in _TYPES}, name=name)


def read(connection: Any, expression: Table, *, batch_rows: int = BATCH_ROWS) -> Iterator[Any]:
    """The rows of an expression over tables of this connection, as Arrow record batches; read them before the next query.

    InvalidInput when a sum or product passes 64 bits or a value does not fit; StoreUnavailable when memory or disk ran out.
    """
    sql = str(ibis().to_sql(expression, dialect="duckdb"))
    with refusing():
        yield from connection.sql(sql).to_arrow_reader(batch_rows)


@contextmanager
def refusing() -> Iterator[None]:
    """Turn the engine's errors, whose texts repeat values, into ours."""
    import duckdb

    try:
        yield
    except duckdb.Error as error:
        name = type(error).__name__
        if name in _SPACE:
            raise StoreUnavailable(
                url="DuckDB in this process", reason=f"{name}: it ran out of memory or disk, or was interrupted"
            ) from None
        reason = f"DuckDB refused a value ({name}): an integer beyond 64 bits, or a field that does not hold its declared type"
        raise InvalidInput(what="features over all history", field="data", reason=reason) from None
