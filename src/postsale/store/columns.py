"""Facts of a log as Arrow record batches, for engines that read columns: what they hold, and how any store gives them.

A store that can do better than one Python object per event has a `fact_batches` of its own (`Columnar`). Nothing is decoded or
upcast here: `data` is as stored. Needs the extra `archive` or `batch`, for pyarrow. Imports the contract and segments' reader of pyarrow.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import replace
from itertools import islice
from typing import Any, Final, Protocol, runtime_checkable

from postsale.errors import InvalidInput
from postsale.events import Lane
from postsale.store.contract import Query, Store
from postsale.store.segments import pyarrow

BATCH_ROWS: Final = 16_384


@runtime_checkable
class Columnar(Protocol):
    """A store that reads facts as columns."""

    def fact_batches(self, query: Query, *, header: bool) -> Generator[Any, None, None]:
        """See `fact_batches` in `store.columns`; the query has been checked."""
        ...


def batch_schema(*, header: bool) -> Any:
    """Columns of a batch: `stream` is `tenant/category/id`; `data`, and `header` if asked for, are the stored bytes, UTF-8 JSON."""
    pa = pyarrow()
    text = pa.dictionary(pa.int32(), pa.string())
    columns = [
        ("position", pa.int64()),
        ("stream", pa.string()),
        ("wire_name", text),
        ("schema", pa.binary()),
        ("occurred_at_us", pa.int64()),
        ("recorded_at_us", pa.int64()),
        ("data", pa.binary()),
    ]
    return pa.schema([*columns, ("header", pa.binary())] if header else columns)


def fact_batches(store: Store, query: Query, *, header: bool = False) -> Generator[Any, None, None]:
    """The facts of a query as record batches of at most 16,384 rows, each fact once, of one consistent snapshot, in no order.

    Archived chapters are included. InvalidInput for a query with streams, a limit, or backward: those are for `Store.read`. Raises what
    `Store.read` raises, and MissingExtra. Memory: a few batches, and the names of the streams.
    """
    if query.streams or query.limit is not None or query.backward or query.lane == Lane.DECISION:
        raise InvalidInput(what="Query", field="streams", reason="columns are read of all facts by tenant, category, kinds and bounds only")
    query = replace(query, lane=Lane.FACT)
    if isinstance(store, Columnar):
        with closing(store.fact_batches(query, header=header)) as batches:
            yield from batches
        return
    pa, schema = pyarrow(), batch_schema(header=header)
    with closing(store.read(query)) as events:
        while rows := list(islice(events, BATCH_ROWS)):
            columns = {field.name: [getattr(row, field.name) for row in rows] for field in schema if field.name != "stream"}
            columns["stream"] = [str(row.stream) for row in rows]
            yield pa.record_batch([pa.array(columns[field.name], field.type) for field in schema], schema=schema)


def from_segment(table: Any, *, header: bool) -> Iterator[Any]:
    """Batches of an Arrow table with the columns of a segment."""
    pa, schema = pyarrow(), batch_schema(header=header)
    stream = pa.compute.binary_join_element_wise(table["tenant"], table["category"], table["id"], "/")
    columns = [stream if field.name == "stream" else table[field.name].cast(field.type) for field in schema]
    yield from pa.table(columns, schema=schema).to_batches()
