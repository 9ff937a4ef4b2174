"""From all history at once to a live fold: DuckDB computes the state up to a position, the runner goes on from the next one.

    runner.rebuild(states=duckdb_states)

The rows are byte for byte those that folding the same facts one by one would have written, so the digest of the view is the same.
Imports feeding and columnar; needs the extra `batch`.
"""

from __future__ import annotations

from postsale.projections.columnar import fold_state, state_table
from postsale.projections.columnar_duckdb import duckdb_connection, read, table
from postsale.projections.feeding import load_facts
from postsale.projections.fold import Fold
from postsale.projections.runner import Built
from postsale.store.contract import Query, Store


def duckdb_states(store: Store, fold: Fold, upto: int, *, memory_mb: int | None = None) -> Built:
    """The rows of the view of `fold` at position `upto`, of all tenants. Memory: DuckDB's, at most `memory_mb`, and the rows.

    Beyond that DuckDB uses the directory of temporary files. Raises what an unreadable event raises, and InvalidInput for a sum
    beyond 64 bits: the runner then folds one by one instead.
    """
    features = fold.features
    rows: dict[str, bytes] = {}
    with duckdb_connection(memory_mb=memory_mb) as connection:
        events = load_facts(connection, features, store, Query(upto=upto))
        for batch in read(connection, state_table(features, table(connection, "facts"), keys=["key"])):
            for row in batch.to_pylist():
                rows[row["key"]] = fold.dump(fold_state(features, row))
    return Built(rows, events)
