"""Training rows as a columnar query: the rows of `training`, by joining points with facts in DuckDB. Needs the extra `batch`.

Reads these tables of a connection: `facts`, and `later` with an outcome (as `feeding.load_facts` makes them, with `known_us` as
`known_facts` adds it); `owners` (stream, ref, since_us, until_us: which stream was whose, by time of knowledge, null is for ever) and
`later_owners` (stream, ref); `points` (ref, as_of_us); `names` (ref, customer); with features `across` customers
also `who` (relation, id, ref, since_us, until_us: whom an id stands for, by time of knowledge) and `merged` (ref, since_us, until_us: who is part
of another customer then). Each point and each fact of a customer meet once, so
the cost grows with facts times points of a customer. Imports columnar, training and features; no store.
"""

from __future__ import annotations

from typing import Any, Final

from postsale.projections.algebra import Leaf
from postsale.projections.columnar import SKETCH, empty_of, finished_value, value_table
from postsale.projections.columnar_duckdb import refusing, table
from postsale.projections.columnar_expressions import Table, column_of, ibis, parent_columns
from postsale.projections.expressions import Field
from postsale.projections.features import Features
from postsale.projections.training import LABEL, arrow_type, assembled, columns_of, derived_columns, pyarrow, values_of

_POINT: Final = "point_"
_AT: Final = "as_of_us_"
_REF: Final = "ref_"


def known_facts(connection: Any, name: str, *, claimed: bool) -> None:
    """Add to facts from when each was known: as recorded, or as claimed where the source says so."""
    known = "coalesce(available_at_us, recorded_at_us)" if claimed else "recorded_at_us"
    connection.execute(f'CREATE OR REPLACE VIEW "{name}" AS SELECT *, {known} AS known_us FROM "{name}_read"')


def training_columns(
    connection: Any,
    features: type[Features],
    *,
    lag_us: int = 0,
    outcome: type[Features] | None = None,
    horizon_us: int = 0,
    until_us: int = 0,
    only_known: bool = False,
) -> Any:
    """The table that `training_table` makes of the same facts. `only_known`: without points at which no fact counts.

    InvalidInput for a sum beyond 64 bits; StoreUnavailable when memory or disk ran out.
    """
    pa = pyarrow()
    with refusing():
        connection.execute(
            f"""CREATE OR REPLACE TEMP TABLE placed AS SELECT row_number() OVER (ORDER BY as_of_us, customer) AS {_POINT},
                as_of_us AS {_AT}, ref, customer FROM points JOIN names USING (ref)"""
        )
        connection.execute(
            f"""CREATE OR REPLACE TEMP VIEW used AS SELECT {_POINT}, {_AT}, f.* FROM facts f JOIN owners o ON f.key = o.stream
                JOIN placed p ON p.ref = o.ref
                WHERE f.occurred_at_us <= {_AT} AND greatest(f.known_us, o.since_us) <= {_AT} + {lag_us:d}
                AND (o.until_us IS NULL OR {_AT} + {lag_us:d} < o.until_us)"""
        )
        if features.relations:
            _finish_related(connection, features, lag_us)
        else:
            _finish(connection, features, "used", [_POINT], "known_values")
        if only_known:
            connection.execute(f"DELETE FROM placed WHERE {_POINT} NOT IN (SELECT {_POINT} FROM known_values)")
        head = connection.sql(f"SELECT customer, {_AT} FROM placed ORDER BY {_POINT}").to_arrow_table()
        columns = _columns(connection, features, "known_values", "")
        censored = None
        if outcome is not None:
            connection.execute(
                f"""CREATE OR REPLACE TEMP VIEW came AS SELECT {_POINT}, {_AT} + {horizon_us:d} AS {_AT}, f.* FROM later f
                    JOIN later_owners o ON f.key = o.stream JOIN placed p ON p.ref = o.ref
                    WHERE f.occurred_at_us > p.{_AT} AND f.occurred_at_us <= p.{_AT} + {horizon_us:d}
                    AND p.{_AT} + {horizon_us:d} <= {until_us:d}"""
            )
            _finish(connection, outcome, "came", [_POINT], "later_values")
            censored = pa.compute.greater(pa.compute.add(head.column(_AT), horizon_us), until_us)
            columns += [
                (field, pa.compute.if_else(censored, pa.scalar(None, column.type), column))
                for field, column in _columns(connection, outcome, "later_values", LABEL)
            ]
    return assembled(head.column("customer"), head.column(_AT), lag_us, columns, censored)


def _finish(connection: Any, features: type[Features], facts: str, keys: list[str], into: str) -> None:
    expression: Table = value_table(features, table(connection, facts), keys=keys, as_of=_AT)
    connection.execute(f"CREATE OR REPLACE TEMP TABLE {into} AS {ibis().to_sql(expression, dialect='duckdb')}")


def _finish_related(connection: Any, features: type[Features], lag_us: int) -> None:
    """Every customer at every time of a point, because it may be somebody's member then; of these the points."""
    joins, parents = [], []
    for relation, column in parent_columns(features).items():
        leaf = features.leaves[relation]
        if not isinstance(leaf.value, Field):
            raise AssertionError("a text is a field: texts are not calculated with")
        kinds = ", ".join(f"'{kind}'" for kind in leaf.kinds)
        parents.append(f'"who_{relation}".ref AS "{column}"')
        joins.append(
            f"""LEFT JOIN who "who_{relation}" ON "who_{relation}".relation = '{relation}' AND f.kind IN ({kinds})
                AND "who_{relation}".id = f."{column_of(leaf.value)}" AND "who_{relation}".since_us <= t.as_of_us + {lag_us:d}
                AND ("who_{relation}".until_us IS NULL OR t.as_of_us + {lag_us:d} < "who_{relation}".until_us)"""
        )
    connection.execute(
        f"""CREATE OR REPLACE TEMP VIEW used AS SELECT o.ref AS {_REF}, t.as_of_us AS {_AT}, f.*, {", ".join(parents)}
            FROM facts f JOIN owners o ON f.key = o.stream JOIN (SELECT DISTINCT as_of_us FROM points) t
            ON f.occurred_at_us <= t.as_of_us AND greatest(f.known_us, o.since_us) <= t.as_of_us + {lag_us:d}
            AND (o.until_us IS NULL OR t.as_of_us + {lag_us:d} < o.until_us)
            ANTI JOIN merged m ON m.ref = o.ref AND m.since_us <= t.as_of_us + {lag_us:d}
            AND (m.until_us IS NULL OR t.as_of_us + {lag_us:d} < m.until_us) {" ".join(joins)}"""
    )
    _finish(connection, features, "used", [_REF, _AT], "every_value")
    connection.execute(
        f"""CREATE OR REPLACE TEMP TABLE known_values AS SELECT p.{_POINT}, v.* EXCLUDE ({_REF}, {_AT})
            FROM every_value v JOIN placed p ON p.ref = v.{_REF} AND p.{_AT} = v.{_AT}"""
    )


def _columns(connection: Any, features: type[Features], values: str, prefix: str) -> list[tuple[Any, Any]]:
    """The finished columns of every point, in order; leaves from the engine, derived features in Python over them."""
    pa = pyarrow()
    shown = columns_of(features)
    needed = {name for derived in features.deriveds for name in derived.needs}
    leaves = [leaf for leaf in features.leaves.values() if leaf in shown or leaf.name in needed]
    selected = ", ".join([_POINT, *(_selected(leaf) for leaf in leaves)])
    found = connection.sql(f"SELECT {selected} FROM placed LEFT JOIN {values} USING ({_POINT}) ORDER BY {_POINT}").to_arrow_table()
    out, inputs = [], {}
    for leaf in leaves:
        column = found.column(leaf.name).combine_chunks()
        column = column if isinstance(column, pa.Array) else pa.concat_arrays(column.chunks)
        if leaf not in shown:
            inputs[leaf.name] = [finished_value(leaf, kept) for kept in column.to_pylist()]
            continue
        kind = arrow_type(leaf)
        if leaf.operation == SKETCH:
            counted = [finished_value(leaf, kept) for kept in column.to_pylist()]
            column = pa.array([list(value.items()) if leaf.by is not None else value for value in counted], kind)
        elif leaf.by is not None:
            entries = column.values
            column = pa.MapArray.from_arrays(
                column.offsets, entries.field("key").cast(kind.key_type), entries.field("cell").cast(kind.item_type)
            )
        column = column.cast(kind)
        out.append((pa.field(prefix + leaf.name, kind), column))
        if leaf.name in needed:
            inputs[leaf.name] = values_of(column)
    return [*out, *derived_columns(features, inputs, prefix)]


def _selected(leaf: Leaf[Any]) -> str:
    name = f'"{leaf.name}"'
    if leaf.by is not None and leaf.operation not in ("history", SKETCH):
        return f"coalesce(list_sort({name}), []) AS {name}"
    return f"coalesce({name}, 0) AS {name}" if empty_of(leaf) == 0 and leaf.operation != SKETCH else name
