"""Facts of a log, or of anything that gives Fact objects, as tables of typed columns for the columnar engines.

Most payloads are taken apart by DuckDB itself: those that were stored as the current version, in the shape that its class has now. An
older version goes through its upcasters first, one event at a time; so does a payload that was written in another shape, and
both are then checked field by field. Nothing unreadable is skipped. Imports the store's columns, fold and columnar; needs the extra `batch`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import chain
from typing import Any, Final

from postsale.errors import InvalidInput
from postsale.events import Lane, canonical, decode_payload, from_us, registry, schema_digest, stored_fields
from postsale.projections.columnar_duckdb import refusing
from postsale.projections.columnar_expressions import fact_schema, fields_of, parent_columns, payload_columns
from postsale.projections.expressions import Field, Type, evaluate
from postsale.projections.features import Features
from postsale.projections.folding import Fact
from postsale.projections.related import Who
from postsale.projections.runner import CATEGORIES
from postsale.store.columns import batch_schema, fact_source
from postsale.store.contract import Query, Store
from postsale.store.segments import pyarrow

_JSON: Final[dict[Type, str]] = {"int": "BIGINT", "str": "VARCHAR", "bool": "BOOLEAN", "time": "VARCHAR"}
_PYTHON: Final[dict[Type, type]] = {"int": int, "str": str, "bool": bool, "time": str}
_ARROW: Final = {"string": "string", "int64": "int64", "boolean": "bool_"}


# ---------------------------------------------------------------- from objects


def facts_table(features: type[Features], facts: Iterable[tuple[str, Fact]], who: Who[str] | None = None) -> Any:
    """Facts by key as an Arrow table with the columns that `columnar` reads: for tests, notebooks, and data that is not in a log.

    `who` says which key an id of a relation stands for; without it nobody belongs to anybody.
    InvalidInput when a field does not hold its declared type.
    """
    pa = pyarrow()
    schema = pa.schema([(name, getattr(pa, _ARROW[type_])()) for name, type_ in _schema(features).items()])
    reads = fields_read(features)
    columns: dict[str, list[Any]] = {name: [] for name in schema.names}
    payload = payload_columns(features)
    for key, fact in facts:
        for name, value in zip(_HEAD, (key, fact.kind, fact.position, fact.occurred_at_us, fact.recorded_at_us), strict=True):
            columns[name].append(value)
        mine = reads.get(fact.kind, frozenset())
        _check(fact.kind, fact.position, fact.fields, mine)
        for name, field in payload.items():
            columns[name].append(evaluate(field, fact.fields) if field in mine else None)
        for relation, name in parent_columns(features).items():
            leaf = features.leaves[relation]
            id_ = evaluate(leaf.value, fact.fields) if leaf.value is not None and fact.kind in leaf.kinds else None
            columns[name].append(None if id_ is None or who is None else who(relation, id_))
    return pa.table([pa.array(columns[field.name], field.type) for field in schema], schema=schema)


_HEAD: Final = ("key", "kind", "position", "occurred_at_us", "recorded_at_us")


def _schema(features: type[Features]) -> dict[str, str]:
    columns = fact_schema(features, {"key": "string"})
    schema = {name: "int64" if name == "recorded_at_us" else columns[name] for name in (*_HEAD, *payload_columns(features))}
    return schema | dict.fromkeys(parent_columns(features).values(), "string")


def fields_read(features: type[Features]) -> dict[str, frozenset[Field]]:
    """Which fields are read of each kind."""
    found: dict[str, frozenset[Field]] = {}
    for leaf in features.leaves.values():
        fields = frozenset().union(*(fields_of(part) for part in (leaf.value, leaf.where, leaf.by)))
        for kind in leaf.kinds:
            found[kind] = found.get(kind, frozenset()) | fields
    return found


def _check(kind: str, position: int, fields: dict[str, Any], wanted: frozenset[Field]) -> None:
    for field in wanted:
        value = fields.get(field.name)
        if value is not None and type(value) is not _PYTHON[field.type]:
            raise InvalidInput(what=f"{kind} at position {position}", field=field.name, reason=f"does not hold {field.type} as declared")


# ---------------------------------------------------------------- from a log


def load_facts(
    connection: Any,
    features: type[Features],
    store: Store,
    query: Query | None = None,
    *,
    categories: frozenset[str] = CATEGORIES,
    name: str = "facts",
    available: bool = False,
) -> int:
    """Make the table `name` of the facts that `features` reads; returns how many rows it has.

    Columns: `key` (`tenant/category/id`), `kind`, `position`, `occurred_at_us`, `recorded_at_us`, those of `payload_columns`, and with
    `available` also `available_at_us`, what the source claimed, else null. `query` narrows by tenant and by bounds. Memory: a few batches;
    the table itself is DuckDB's to spill. Raises what an unreadable event raises.
    """
    reads = fields_read(features)
    query = replace(query or Query(), lane=Lane.FACT, kinds=frozenset(reads))
    readable = _Readable(reads)
    make = _Making(features, reads, sorted(categories), name, available=available)
    with fact_source(store, query, header=available) as source:
        files: list[str] = []
        if source.archive is not None:
            with ThreadPoolExecutor(_CHECKERS) as threads:  # hashing lets other threads run
                files = [str(path) for path in threads.map(source.archive.verified, [segment for segment, _ in source.parts])]
        with refusing():
            connection.execute(make.empty())
            foreign = _foreign_shapes(connection, files, readable) if files else []
            if files:
                connection.execute(make.from_files(files, query, readable.current, foreign))
        upcast = _upcast_rows(connection, make, files, query, foreign) if foreign else iter(())
        _insert(connection, make, map(readable, chain(source.batches, upcast)), available=available)
    with refusing():
        ((rows,),) = connection.execute(f'SELECT count(*) FROM "{name}"').fetchall()
    return int(rows)


def _insert(connection: Any, make: _Making, batches: Iterator[Any], *, available: bool) -> None:
    failed: list[BaseException] = []

    def watched() -> Iterator[Any]:
        try:
            yield from batches
        except BaseException as error:  # DuckDB would make a text of it
            failed.append(error)
            raise

    pa = pyarrow()
    connection.register("incoming_facts", pa.RecordBatchReader.from_batches(batch_schema(header=available), watched()))
    try:
        with refusing():
            connection.execute(make.from_batches())
    except Exception:
        if failed:
            raise failed[0] from None
        raise
    finally:
        connection.unregister("incoming_facts")


def _foreign_shapes(connection: Any, files: list[str], readable: _Readable) -> list[tuple[str, bytes]]:
    """Wire names and shapes in these files that DuckDB must not take apart."""
    shapes = connection.execute(f"SELECT DISTINCT wire_name, schema FROM {_segments(files)}").fetchall()
    return sorted((name, schema) for name, schema in shapes if readable.reads(name) and (name, schema) not in readable.current)


def _upcast_rows(connection: Any, make: _Making, files: list[str], query: Query, foreign: list[tuple[str, bytes]]) -> Iterator[Any]:
    pa, schema = pyarrow(), batch_schema(header=make.available)
    with refusing(), connection.cursor() as cursor:  # a cursor of its own: the connection is busy with what takes these rows
        for rows in cursor.sql(make.stored(files, query, foreign)).to_arrow_reader(_FOREIGN_ROWS):
            yield pa.record_batch([rows[field.name].cast(field.type) for field in schema], schema=schema)


class _Making:
    """The statements that fill a table of facts. Names and texts are quoted; numbers stand as they are."""

    def __init__(
        self, features: type[Features], reads: dict[str, frozenset[Field]], categories: list[str], name: str, *, available: bool
    ) -> None:
        self._name, self.available = name, available
        self._among = ", ".join(map(_quoted, categories))
        # Every payload is parsed once for all its fields; once more only where two kinds hold a field as different types.
        layers: list[dict[str, Field]] = []
        self._places: list[str] = []
        self._types = ["key VARCHAR", "kind VARCHAR", *(f"{column} BIGINT" for column in _HEAD[2:])]
        for column, field in payload_columns(features).items():
            at = next((i for i, layer in enumerate(layers) if field.name not in layer), len(layers))
            if at == len(layers):
                layers.append({})
            layers[at][field.name] = field
            value = f'j{at}."{field.name}"'
            if field.type == "time":  # which another kind may hold as any text
                kinds = ", ".join(_quoted(kind) for kind, fields in sorted(reads.items()) if field in fields)
                value = f"CASE WHEN kind IN ({kinds}) THEN epoch_us(CAST({value} AS TIMESTAMPTZ)) END"
            self._places.append(value)
            self._types.append(f'"{column}" {"BIGINT" if field.type == "time" else _JSON[field.type]}')
        self._parsed = []
        for at, layer in enumerate(layers):
            shape = canonical({field.name: _JSON[field.type] for field in layer.values()}).decode()
            self._parsed.append(f"json_transform(decode(data), {_quoted(shape)}) AS j{at}")
        if available:
            self._parsed.append("CAST(json_extract_string(decode(header), '$.available_at_us') AS BIGINT) AS available_at_us")
            self._places.append("available_at_us")
            self._types.append("available_at_us BIGINT")

    def empty(self) -> str:
        return f'CREATE OR REPLACE TABLE "{self._name}" ({", ".join(self._types)})'

    def from_batches(self) -> str:
        return self._from("incoming_facts", f"split_part(stream, '/', 2) IN ({self._among})")

    def from_files(self, files: list[str], query: Query, current: list[tuple[str, bytes]], foreign: list[tuple[str, bytes]]) -> str:
        known = f"wire_name IN ({', '.join(_quoted(name) for name, _ in current)})"
        but = f" AND NOT ({_shapes(foreign)})" if foreign else ""
        return self._from(_segments(files), f"{known}{but} AND {self._asked(query)}")

    def stored(self, files: list[str], query: Query, foreign: list[tuple[str, bytes]]) -> str:
        columns = ", ".join([_STREAM, *_STORED, *(["header"] if self.available else [])])
        return f"SELECT {columns} FROM {_segments(files)} WHERE ({_shapes(foreign)}) AND {self._asked(query)}"

    def _from(self, source: str, condition: str) -> str:
        stream = "stream" if source == "incoming_facts" else _STREAM
        inner = ", ".join([stream, "split_part(wire_name, '@', 1) AS kind", *_HEAD[2:], *self._parsed])
        outer = ", ".join(["stream", "kind", *_HEAD[2:], *self._places])
        return f'INSERT INTO "{self._name}" SELECT {outer} FROM (SELECT {inner} FROM {source} WHERE {condition})'

    def _asked(self, query: Query) -> str:
        conditions = [f"category IN ({self._among})", f"position > {query.after:d}"]
        for column, bound in (("position", query.upto), ("recorded_at_us", query.known_at_us), ("occurred_at_us", query.as_of_us)):
            if bound is not None:
                conditions.append(f"{column} <= {bound:d}")
        for column, name in (("tenant", query.tenant), ("category", query.category)):
            if name is not None:
                conditions.append(f"{column} = {_quoted(name)}")
        return " AND ".join(conditions)


_STREAM: Final = "tenant || '/' || category || '/' || id AS stream"
_STORED: Final = ("position", "wire_name", "schema", "occurred_at_us", "recorded_at_us", "data")
_FOREIGN_ROWS: Final = 4_096
_CHECKERS: Final = 4  # files whose digests are checked at once


def _segments(files: list[str]) -> str:
    return f"read_parquet([{', '.join(map(_quoted, files))}])"


def _shapes(shapes: list[tuple[str, bytes]]) -> str:
    return " OR ".join(f"(wire_name = {_quoted(name)} AND schema = from_hex('{schema.hex()}'))" for name, schema in shapes)


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


class _Readable:
    """Batches whose every payload is of the current version and holds what it declares."""

    def __init__(self, reads: dict[str, frozenset[Field]]) -> None:
        self._reads = reads
        current = [registry.get(registry.versions(kind)[-1]) for kind in sorted(reads)]
        self.current = [(cls.wire_name, schema_digest(cls)) for cls in current]

    def reads(self, wire_name: str) -> bool:
        return wire_name.partition("@")[0] in self._reads

    def __call__(self, batch: Any) -> Any:
        pa = pyarrow()
        compute = pa.compute
        named = compute.index_in(batch["wire_name"].cast(pa.string()), pa.array([name for name, _ in self.current], pa.string()))
        shaped = compute.index_in(batch["schema"], pa.array([digest for _, digest in self.current], pa.binary()))
        same = compute.fill_null(compute.equal(named, shaped), False)
        if compute.all(same).as_py() is not False:
            return batch
        rows = [row for row, is_same in enumerate(same.to_pylist()) if not is_same]
        data = batch["data"].to_pylist()
        for row in rows:
            position, wire_name, at = (batch[column][row].as_py() for column in ("position", "wire_name", "occurred_at_us"))
            data[row] = self._upcast(wire_name, data[row], position, at)
        columns = [pa.array(data, pa.binary()) if field.name == "data" else batch[field.name] for field in batch.schema]
        return pa.record_batch(columns, schema=batch.schema)

    def _upcast(self, wire_name: str, data: bytes, position: int, at: int) -> bytes:
        """The payload as `fact_of` reads it; raises what it raises, and InvalidInput for a field of another type."""
        cls = registry.get(wire_name, position)
        if not registry.is_current(wire_name):  # what an upcaster made was never validated before
            envelope = {"source": "-", "id": "-", "occurred_at": from_us(at)} if cls.envelope_fields else None
            decode_payload(wire_name, data, envelope, position)
        fields = stored_fields(wire_name, data, position)
        kind = wire_name.partition("@")[0]
        wanted = self._reads[kind]
        kept = {field.name: fields.get(field.name) for field in wanted}
        # A sealed value is no value: no feature may read it, whichever version sealed it.
        kept = {name: value for name, value in kept.items() if value is not None and not isinstance(value, dict)}
        _check(kind, position, kept, wanted)
        return canonical(kept)
