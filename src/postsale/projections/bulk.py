"""Many customers at once, straight from the log: no view, no runner. For lists as of a past time, and for exports.

Imports the store's contract and folds. Memory grows with the number of streams, never with the number of events.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from postsale.events import Lane, StreamId
from postsale.projections.folding import Fact, Fold, State, fact_of
from postsale.projections.runner import CATEGORIES
from postsale.store.contract import Query, Store


def fold_all(
    store: Store,
    fold: Fold,
    tenant: str,
    as_of_us: int | None = None,
    known_at_us: int | None = None,
    *,
    categories: frozenset[str] = CATEGORIES,
) -> Iterator[tuple[str, State]]:
    """The state of every stream of a tenant, by key `tenant/category/id`, ascending; both times inclusive, None for no bound.

    Streams without a fact that the fold reads do not appear. Raises what an unreadable event raises.
    """
    query = Query(tenant=tenant, lane=Lane.FACT, kinds=fold.kinds, as_of_us=as_of_us, known_at_us=known_at_us)
    states: dict[StreamId, State] = {}
    for event in store.read(query):
        stream = event.stream
        state = states.get(stream)
        if state is None:
            if stream.category not in categories:
                continue
            state = states[stream] = fold.empty()
        fold.add(state, fact_of(event))
    for key, stream in sorted((str(stream), stream) for stream in states):
        yield key, states[stream]


def read_facts(
    store: Store,
    streams: Sequence[StreamId],
    *,
    kinds: frozenset[str] = frozenset(),
    as_of_us: int | None = None,
    known_at_us: int | None = None,
) -> list[Fact]:
    """The facts of these streams by position, of all kinds or of `kinds`; what `explain_health` takes.

    Raises what an unreadable event raises.
    """
    if not streams:  # to a store, no streams would mean all of them
        return []
    query = Query(streams=tuple(streams), lane=Lane.FACT, kinds=kinds, as_of_us=as_of_us, known_at_us=known_at_us)
    return [fact_of(event) for event in store.read(query)]
