"""From all history at once to a live fold: DuckDB computes the state up to a position, the runner goes on from the next one.

    runner.rebuild(states=duckdb_states)

The rows are byte for byte those that folding the same facts one by one would have written, so the digest of the view is the same.
Imports feeding and columnar; needs the extra `batch`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from postsale.projections.columnar import fold_state, state_table
from postsale.projections.columnar_duckdb import duckdb_connection, read, table
from postsale.projections.feeding import load_facts
from postsale.projections.folding import Fold
from postsale.projections.runner import Built
from postsale.store.contract import Query, Store

_BATCH_ROWS: Final = 2_048
_EVENTS_AT_ONCE: Final = 2_000_000


@contextmanager
def duckdb_states(store: Store, fold: Fold, upto: int, *, memory_mb: int | None = None) -> Iterator[Built]:
    """The rows of the view of `fold` at position `upto`, of all tenants. Memory: DuckDB's, at most `memory_mb`, and a batch of rows.

    Beyond that DuckDB uses the directory of temporary files: some 20 bytes an event. Raises what an unreadable event raises, and
    InvalidInput for a sum beyond 64 bits: the runner then folds one by one instead.
    """
    features = fold.features
    # What spills is not compressed, and a query over everything at once spills: many events go to disk at once, and are taken by customers.
    with duckdb_connection(memory_mb=memory_mb, on_disk=upto > _EVENTS_AT_ONCE) as connection:
        events = load_facts(connection, features, store, Query(upto=upto))
        parts = max(1, -(-events // _EVENTS_AT_ONCE))

        def rows() -> Iterator[tuple[str, bytes]]:
            for part in range(parts):
                name = "facts"
                if parts > 1:  # a table of its own, because the query reads it once for each grain
                    name = "facts_of_part"
                    of_part = f"SELECT * FROM facts WHERE hash(key) % {parts} = {part}"
                    connection.execute(f"CREATE OR REPLACE TEMP TABLE {name} AS {of_part}")
                expression = state_table(features, table(connection, name), keys=["key"])
                for batch in read(connection, expression, batch_rows=_BATCH_ROWS):
                    for row in batch.to_pylist():
                        yield row["key"], fold.dump(fold_state(features, row))

        yield Built(rows(), events)
