"""Facts of a log as Arrow record batches, for engines that read columns: what they hold, and how any store gives them.

A store that can do better than one Python object per event has a `fact_source` of its own (`Columnar`). Nothing is decoded or
upcast here: `data` is as stored. Needs the extra `archive` or `batch`, for pyarrow. Imports the contract and the archive.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import replace
from itertools import islice
from typing import Any, Final, NamedTuple, Protocol, runtime_checkable

from postsale.errors import InvalidInput, LogDamaged
from postsale.events import Lane
from postsale.store.archive import Archive, Part
from postsale.store.contract import Query, Store
from postsale.store.segments import pyarrow

BATCH_ROWS: Final = 65_536


class Source(NamedTuple):
    """The facts of a query: `batches` has those of the live table, `parts` says which archived chapters hold the others.

    A chapter of `parts` may hold facts that the query did not ask for.
    """

    batches: Generator[Any, None, None]
    parts: Sequence[Part] = ()
    archive: Archive | None = None

    def archived(self, query: Query, *, header: bool) -> Generator[Any, None, None]:
        """The archived facts of the query, as batches."""
        if self.archive is not None:
            yield from from_segments(self.archive, self.parts, query, header=header)


@runtime_checkable
class Columnar(Protocol):
    """A store that reads facts as columns."""

    def fact_source(self, query: Query, *, header: bool) -> AbstractContextManager[Source]:
        """See `fact_source` in `store.columns`; the query has been checked."""
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


@contextmanager
def fact_source(store: Store, query: Query, *, header: bool = False) -> Iterator[Source]:
    """Where the facts of a query are: each once, of one snapshot, in no order. Batches have at most 65,536 rows.

    InvalidInput for a query with streams, a limit, or backward: those are for `Store.read`. Raises what `Store.read` raises, and
    MissingExtra. Memory: a few batches, and the names of the streams.
    """
    if query.streams or query.limit is not None or query.backward or query.lane == Lane.DECISION:
        raise InvalidInput(what="Query", field="streams", reason="columns are read of all facts by tenant, category, kinds and bounds only")
    query = replace(query, lane=Lane.FACT)
    if isinstance(store, Columnar):
        with store.fact_source(query, header=header) as source:
            yield source
    else:
        with closing(_of_events(store, query, header=header)) as batches:
            yield Source(batches)


def fact_batches(store: Store, query: Query, *, header: bool = False) -> Generator[Any, None, None]:
    """All the facts of a `fact_source` as batches."""
    with fact_source(store, query, header=header) as source:
        yield from source.batches
        yield from source.archived(query, header=header)


def _of_events(store: Store, query: Query, *, header: bool) -> Generator[Any, None, None]:
    pa, schema = pyarrow(), batch_schema(header=header)
    with closing(store.read(query)) as events:
        while rows := list(islice(events, BATCH_ROWS)):
            columns = {field.name: [getattr(row, field.name) for row in rows] for field in schema if field.name != "stream"}
            columns["stream"] = [str(row.stream) for row in rows]
            yield pa.record_batch([pa.array(columns[field.name], field.type) for field in schema], schema=schema)


def from_segments(archive: Archive, parts: Sequence[Part], query: Query, *, header: bool) -> Generator[Any, None, None]:
    """The archived facts of a query in these parts, as batches."""
    pa, schema = pyarrow(), batch_schema(header=header)
    stored = [field.name for field in schema if field.name != "stream"]
    with closing(archive.tables(parts, query, ["tenant", "category", "id", *stored])) as tables:
        for table in tables:
            stream = pa.compute.binary_join_element_wise(table["tenant"], table["category"], table["id"], "/")
            columns = [stream if field.name == "stream" else table[field.name].cast(field.type) for field in schema]
            yield from pa.table(columns, schema=schema).to_batches()


class Names:
    """Names in place of a store's numbers."""

    def __init__(self, streams: Any, kinds: Sequence[tuple[int, str, bytes]]) -> None:
        """`streams`: an Arrow array of `tenant/category/id` at the places of their numbers."""
        pa = pyarrow()
        self._streams = streams
        self._numbers = pa.array([no for no, _, _ in kinds], pa.int64())
        self._wire_names = pa.array([name for _, name, _ in kinds], pa.string())
        self._schemas = pa.array([schema for _, _, schema in kinds], pa.binary())

    def batch(self, rows: Any, *, header: bool) -> Any:
        """A batch from rows with the columns position, stream, kind, occurred_at, recorded_at, data, header. LogDamaged for a number that
        leads nowhere."""
        pa, schema = pyarrow(), batch_schema(header=header)
        compute = pa.compute
        kind = compute.index_in(rows["kind"], self._numbers)
        known = compute.and_(compute.greater(rows["stream"], 0), compute.less(rows["stream"], len(self._streams)))
        columns = {
            "position": rows["position"],
            "stream": compute.take(self._streams, compute.if_else(known, rows["stream"], 0)),
            "wire_name": pa.DictionaryArray.from_arrays(kind, self._wire_names),
            "schema": compute.take(self._schemas, kind),
            "occurred_at_us": rows["occurred_at"],
            "recorded_at_us": rows["recorded_at"],
            "data": rows["data"],
            "header": rows["header"] if header else None,
        }
        for name in ("stream", "schema"):
            if columns[name].null_count:
                row = compute.index(columns[name].is_null(), value=True).as_py()
                raise LogDamaged(position=rows["position"][row].as_py(), reason=f"its {name} is not in the table of names")
        return pa.record_batch([columns[field.name] for field in schema], schema=schema)


def at_numbers(numbers: Any, names: Any) -> Any:
    """An Arrow array with each name at the place of its number, null elsewhere and at 0."""
    pa = pyarrow()
    if not len(numbers):
        return pa.array([None], pa.string())
    places = pa.array(range(pa.compute.max(numbers).as_py() + 1), pa.int64())
    return pa.compute.take(names, pa.compute.index_in(places, numbers))
