"""The members of a customer, by a view: which rows name its ids, and what they give together. Folds nothing into the view.

Beside a view with features across customers stands, for each stream whose row names somebody, `belongs/RELATION/TENANT/ALIAS/STREAM`, ALIAS the
blind index of the id. It is written with the row, by whoever holds the row's share, so members and those they belong to may be in
different shares. An entry is a candidate only: what counts is what the member's whole state says. Imports kin, related and views.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Final

from postsale.aggregates.identity import CUSTOMERS
from postsale.events import Lane, StreamId
from postsale.projections.folding import Fold, Related, State, fact_of
from postsale.projections.kin import Kin, chunked
from postsale.projections.partition import PARKED, Names, Parked, load_parked
from postsale.projections.related import gathered, named
from postsale.projections.views import Views
from postsale.store.contract import Query, Store

_BELONGS: Final = "belongs"
_CATEGORIES: Final = frozenset({"customers", "aliases"})

Streams = Sequence[StreamId]


class Members:
    """Reads members for one view. Safe to use from several threads."""

    def __init__(self, store: Store, views: Views, fold: Fold, kin: Kin) -> None:
        self._store, self._views, self._fold, self._kin = store, views, fold, kin
        self._kinds = frozenset(kind for relation in fold.relations for kind in fold.features.leaves[relation].kinds)

    def index(self, key: str, state: State) -> frozenset[str]:
        """The entries of a stream with this state."""
        tenant = key.partition("/")[0]
        ids = ((relation, source, named(self._fold, state, relation)) for relation, source in self._fold.relations.items())
        return frozenset(
            f"{self._prefix(r, tenant, self._kin.alias(tenant, source, id_))}{key}" for r, source, id_ in ids if id_ is not None
        )

    @staticmethod
    def _prefix(relation: str, tenant: str, alias: str) -> str:
        return f"{_BELONGS}/{relation}/{tenant}/{alias}/"

    # ------------------------------------------------------------ three ways to read

    def now(self, names: Names, streams: Streams, states: Callable[[Sequence[Streams]], tuple[list[State], int]]) -> Related:
        """With every fact the log holds: by the view's entries, and by what is newer in the log. Raises what an unreadable event of theirs raises."""
        tenant, aliases = self._whose(streams)
        head = self._store.head()
        found, oldest, parked = self._candidates(names, tenant, aliases)
        query = Query(tenant=tenant, lane=Lane.FACT, kinds=self._kinds, after=oldest, upto=head)
        found |= {event.stream for event in self._store.read(query)} if oldest < head else set()
        for waits in parked:
            stream = StreamId(*waits.key.split("/", 2))
            waiting = Query(streams=(stream,), lane=Lane.FACT, kinds=self._kinds, after=waits.position - 1, upto=head, limit=1)
            found |= {stream} if next(iter(self._store.read(waiting)), None) is not None else set()
        customers = self._others(tenant, streams, found, head)
        return self._gathered(tenant, aliases, states(customers)[0] if customers else [])

    def kept(
        self, names: Names, streams: Streams, states: Callable[[Names, Sequence[Streams]], tuple[list[State], int | None]]
    ) -> tuple[Related, int]:
        """As the view keeps them, and the position that this is as old as. Who is who comes from the log even so."""
        tenant, aliases = self._whose(streams)
        found, oldest, parked = self._candidates(names, tenant, aliases)
        customers = self._others(tenant, streams, found, self._store.head())
        members, at = states(names, customers) if customers else ([], None)
        waiting = (waits.position - 1 for waits in parked)  # whose members those are, nobody knows
        return self._gathered(tenant, aliases, members), min([oldest, *waiting, *([] if at is None else [at])])

    def then(self, streams: Streams, query: Query) -> Related:
        """At other times than now, by the bounds of `query`: from every fact of the tenant that says whose member somebody is."""
        tenant, aliases = self._whose(streams, query.known_at_us)
        every = replace(query, tenant=tenant, streams=(), kinds=self._kinds)
        found = {event.stream for event in self._store.read(every)}
        customers = self._others(tenant, streams, found, query.upto or 0, query.known_at_us)
        whose = {stream: n for n, its in enumerate(customers) for stream in its}
        states = [self._fold.empty() for _ in customers]
        for some in chunked(whose):
            for event in self._store.read(replace(query, streams=some)):
                self._fold.add(states[whose[event.stream]], fact_of(event))
        return self._gathered(tenant, aliases, states)

    # ------------------------------------------------------------ parts

    def _whose(self, streams: Streams, known_at_us: int | None = None) -> tuple[str, frozenset[str]]:
        """The tenant of a customer, and all its ids."""
        refs = [stream.id for stream in streams if stream.category == CUSTOMERS]
        return streams[0].tenant, self._kin.aliases(streams[0].tenant, refs, known_at_us=known_at_us)

    def _candidates(self, names: Names, tenant: str, aliases: Iterable[str]) -> tuple[set[StreamId], int, list[Parked]]:
        """Streams that the view has entries for, up to which position those are all there are, and the tenant's streams that wait."""
        # Before the entries: who left one since is in the log after it, and a stream that `retry` frees in between has one.
        before = list(map(self._views.checkpoint, names.checkpoints))
        parked = [load_parked(raw) for _, raw in self._views.scan(names.aside, f"{PARKED}{tenant}/")]
        found = self._entries(names, tenant, aliases)
        now = map(self._views.checkpoint, names.checkpoints)
        dropped = any(at < was for at, was in zip(now, before, strict=True))
        return found, 0 if dropped else min(before), parked

    def _entries(self, names: Names, tenant: str, aliases: Iterable[str]) -> set[StreamId]:
        prefixes = [self._prefix(relation, tenant, alias) for relation in self._fold.relations for alias in aliases]
        keys = (key.removeprefix(prefix) for prefix in prefixes for key, _ in self._views.scan(names.aside, prefix))
        return {StreamId(*key.split("/", 2)) for key in keys}

    def _others(self, tenant: str, own: Streams, found: set[StreamId], upto: int, known_at_us: int | None = None) -> list[Streams]:
        """The customers that these streams count for, but for the one that is asked about."""
        found = {stream for stream in found if stream.category in _CATEGORIES}
        customers = self._kin.customers(tenant, found, upto=upto, known_at_us=known_at_us)
        return [its for _, its in sorted(customers.items()) if its[0] not in own]

    def _gathered(self, tenant: str, aliases: frozenset[str], states: Iterable[State]) -> Related:
        return gathered(self._fold, self._naming(tenant, aliases, states))

    def _naming(self, tenant: str, aliases: frozenset[str], states: Iterable[State]) -> Iterator[tuple[str, State]]:
        for state in states:
            for relation, source in self._fold.relations.items():
                id_ = named(self._fold, state, relation)
                if id_ is not None and self._kin.alias(tenant, source, id_) in aliases:
                    yield relation, state
