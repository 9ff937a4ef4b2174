"""Facts of a log, or of anything that gives Fact objects, as tables of typed columns for the columnar engines.

Most payloads are taken apart by DuckDB itself: those that were stored as the current version, in the shape that its class has now. An
older version goes through its upcasters first, one event at a time; so does a payload that was written in another shape, and
both are then checked field by field. Nothing unreadable is skipped. Imports the store's columns, fold and columnar; needs the extra `batch`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from typing import Any, Final

from postsale.errors import InvalidInput
from postsale.events import Lane, canonical, decode_payload, from_us, registry, schema_digest, stored_fields
from postsale.projections.columnar import fact_schema, payload_columns
from postsale.projections.columnar_duckdb import refusing
from postsale.projections.features import Features
from postsale.projections.fold import Fact
from postsale.projections.runner import CATEGORIES
from postsale.projections.tracing import Expression, Field, Op, Type, evaluate
from postsale.store.columns import batch_schema, fact_batches
from postsale.store.contract import Query, Store
from postsale.store.segments import pyarrow

_JSON: Final[dict[Type, str]] = {"int": "BIGINT", "str": "VARCHAR", "bool": "BOOLEAN", "time": "VARCHAR"}
_PYTHON: Final[dict[Type, type]] = {"int": int, "str": str, "bool": bool, "time": str}
_ARROW: Final = {"string": "string", "int64": "int64", "boolean": "bool_"}


# ---------------------------------------------------------------- from objects


def facts_table(features: type[Features], facts: Iterable[tuple[str, Fact]]) -> Any:
    """Facts by key as an Arrow table with the columns that `columnar` reads: for tests, notebooks, and data that is not in a log.

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
    return pa.table([pa.array(columns[field.name], field.type) for field in schema], schema=schema)


_HEAD: Final = ("key", "kind", "position", "occurred_at_us", "recorded_at_us")


def _schema(features: type[Features]) -> dict[str, str]:
    columns = fact_schema(features, {"key": "string"})
    return {name: "int64" if name == "recorded_at_us" else columns[name] for name in (*_HEAD, *payload_columns(features))}


def fields_read(features: type[Features]) -> dict[str, frozenset[Field]]:
    """Which fields are read of each kind."""
    found: dict[str, frozenset[Field]] = {}
    for leaf in features.leaves.values():
        fields = frozenset().union(*(_fields(part) for part in (leaf.value, leaf.where, leaf.by)))
        for kind in leaf.kinds:
            found[kind] = found.get(kind, frozenset()) | fields
    return found


def _fields(expression: Expression | None) -> frozenset[Field]:
    match expression:
        case Field():
            return frozenset({expression})
        case Op(_, args):
            return frozenset().union(*map(_fields, args))
    return frozenset()


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
    pa = pyarrow()
    failed: list[BaseException] = []

    def batches() -> Iterator[Any]:
        readable = _Readable(reads)
        try:
            with closing(fact_batches(store, query, header=available)) as found:
                for batch in found:
                    yield readable(batch)
        except BaseException as error:  # DuckDB would make a text of it
            failed.append(error)
            raise

    incoming = pa.RecordBatchReader.from_batches(batch_schema(header=available), batches())
    connection.register("incoming_facts", incoming)
    try:
        with refusing():
            connection.execute(_create(features, reads, sorted(categories), name, available=available))
            ((rows,),) = connection.execute(f'SELECT count(*) FROM "{name}"').fetchall()
    except Exception:
        if failed:
            raise failed[0] from None
        raise
    finally:
        connection.unregister("incoming_facts")
    return int(rows)


def _create(features: type[Features], reads: dict[str, frozenset[Field]], categories: list[str], name: str, *, available: bool) -> str:
    """Every payload is parsed once for all its fields; once more only where two kinds hold a field as different types."""
    layers: list[dict[str, Field]] = []
    places: list[str] = []
    for column, field in payload_columns(features).items():
        at = next((i for i, layer in enumerate(layers) if field.name not in layer), len(layers))
        if at == len(layers):
            layers.append({})
        layers[at][field.name] = field
        kinds = ", ".join(_quoted(kind) for kind, fields in sorted(reads.items()) if field in fields)
        value = f'j{at}."{field.name}"'
        if field.type == "time":
            value = f"epoch_us(CAST({value} AS TIMESTAMPTZ))"
        places.append(f'CASE WHEN kind IN ({kinds}) THEN {value} END AS "{column}"')
    parsed = []
    for at, layer in enumerate(layers):
        shape = canonical({field.name: _JSON[field.type] for field in layer.values()}).decode()
        parsed.append(f"json_transform(decode(data), {_quoted(shape)}) AS j{at}")
    if available:
        parsed.append("CAST(json_extract_string(decode(header), '$.available_at_us') AS BIGINT) AS available_at_us")
        places.append("available_at_us")
    inner = ", ".join(["stream", "split_part(wire_name, '@', 1) AS kind", *_HEAD[2:], *parsed])
    outer = ", ".join(["stream AS key", "kind", *_HEAD[2:], *places])
    among = ", ".join(map(_quoted, categories))
    source = f"SELECT {inner} FROM incoming_facts WHERE split_part(stream, '/', 2) IN ({among})"
    return f'CREATE OR REPLACE TABLE "{name}" AS SELECT {outer} FROM ({source})'


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


class _Readable:
    """Batches whose every payload is of the current version and holds what it declares."""

    def __init__(self, reads: dict[str, frozenset[Field]]) -> None:
        self._reads = reads
        current = [registry.get(registry.versions(kind)[-1]) for kind in sorted(reads)]
        self._current = [(cls.wire_name, schema_digest(cls)) for cls in current]

    def __call__(self, batch: Any) -> Any:
        pa = pyarrow()
        compute = pa.compute
        named = compute.index_in(batch["wire_name"].cast(pa.string()), pa.array([name for name, _ in self._current], pa.string()))
        shaped = compute.index_in(batch["schema"], pa.array([digest for _, digest in self._current], pa.binary()))
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
