"""Members of customers, from the log: whom the ids of relations stand for at every time of knowledge, and the facts of whose members.

Part of the wiring: may import everything below `app`. What a member is, is `projections.related`; how a view keeps it, `projections.members`.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from postsale.aggregates.identity import AliasLinked, ExternalId
from postsale.app.directory import Directory, as_external
from postsale.app.lineage import EVER, Lineage
from postsale.errors import InvalidInput
from postsale.events import Lane, StreamId, decode
from postsale.projections.folding import FeatureValues, Fold, Related, State, fact_of
from postsale.projections.kin import chunked
from postsale.projections.related import Who, all_named, exchanged, gathered
from postsale.projections.runner import CATEGORIES
from postsale.store.contract import Query
from postsale.store.log import Log


@dataclass(slots=True)
class Ids:
    """Whom ids stand for: by relation and id the customers, each from a time of knowledge on."""

    since: dict[tuple[str, str], list[tuple[int, str]]] = field(default_factory=dict)  # ascending

    @classmethod
    def read(
        cls, log: Log, tenant: str, sources: Mapping[str, str], named: Iterable[tuple[str, str]], lineage: Lineage, *, ever: bool = False
    ) -> Ids:
        """Of these (relation, id), in a few round trips; `sources` by relation. `ever`: as it was known in the end, from the beginning."""
        directory, found = Directory(log), cls()
        wanted: dict[ExternalId, list[tuple[str, str]]] = {}
        for relation, id_ in named:
            try:
                wanted.setdefault(as_external(ExternalId("customer", sources[relation], id_)), []).append((relation, id_))
            except InvalidInput:
                continue  # no customer can have such an id
        for externals in chunked(wanted):
            newest = log.store.latest([directory.alias(tenant, external) for external in externals])
            for external, stored in zip(externals, newest, strict=True):
                linked = decode(stored).data if stored is not None else None
                if stored is not None and isinstance(linked, AliasLinked):
                    if ever:
                        spans = [(EVER, lineage.survivor(linked.account, None))]
                    else:
                        spans = list(lineage.survivors(linked.account, stored.recorded_at_us))
                    for key in wanted[external]:
                        found.since[key] = spans
        return found

    def who(self, us: int | None) -> Who[str]:
        """As known at a time, None for the end."""

        def who(relation: str, id_: str) -> str | None:
            spans = self.since.get((relation, id_), ())
            index = len(spans) if us is None else bisect_right(spans, us, key=lambda span: span[0])
            return spans[index - 1][1] if index else None

        return who

    def refs(self) -> set[str]:
        """Everybody whom an id ever stood for."""
        return {ref for spans in self.since.values() for _, ref in spans}

    def spans(self) -> Iterator[tuple[str, str, str, int, int | None]]:
        """Relation, id, customer, since, until (exclusive, None for ever)."""
        for (relation, id_), spans in self.since.items():
            for index, (since, ref) in enumerate(spans):
                yield relation, id_, ref, since, spans[index + 1][0] if index + 1 < len(spans) else None


def whole_states(lineage: Lineage, fold: Fold, states: Mapping[StreamId, State], us: int | None) -> dict[str, State]:
    """The states of streams as those of the customers that they belonged to, by reference, as known at a time."""
    out: dict[str, State] = {}
    for stream, state in states.items():
        ref = lineage.owner(stream, us)
        if ref is not None:
            out[ref] = fold.merge(out[ref], state) if ref in out else state
    return out


def members_of(
    log: Log, fold: Fold, customer: StreamId, *, as_of_us: int | None, known_at_us: int | None, newest_us: int | None
) -> tuple[Related, int]:
    """The members of one customer, and the time to finish at: `as_of_us`, or by default now, or the newest fact's where that is later.

    Reads every fact of the tenant that says whose member somebody is, then the facts of the members: time grows with both, memory with
    the members' facts that are read at once, and with the tenant's customers that are somebody's member.
    """
    tenant = customer.tenant
    lineage = Lineage.read(log, tenant, log.store.head())
    kinds = frozenset(kind for relation in fold.relations for kind in fold.features.leaves[relation].kinds)
    states: dict[StreamId, State] = {}
    query = Query(tenant=tenant, lane=Lane.FACT, kinds=kinds, as_of_us=as_of_us, known_at_us=known_at_us)
    for stored in log.store.read(query):
        if stored.stream.category in CATEGORIES:
            fold.add(states.setdefault(stored.stream, fold.empty()), fact_of(stored))
    wholes = whole_states(lineage, fold, states, known_at_us)
    who = Ids.read(log, tenant, fold.relations, all_named(fold, wholes.values()), lineage).who(known_at_us)
    theirs: dict[str, list[str]] = {}  # relations, by member
    for ref, state in wholes.items():
        if ref != customer.id:
            by = [relation for relation, id_ in all_named(fold, [state]) if who(relation, id_) == customer.id]
            theirs |= {ref: by} if by else {}
    streams = {stream: ref for ref in theirs for stream in lineage.streams(ref, tenant, known_at_us)}
    members = {ref: fold.empty() for ref in theirs}
    for some in chunked(streams):
        query = Query(streams=some, lane=Lane.FACT, kinds=fold.kinds, as_of_us=as_of_us, known_at_us=known_at_us)
        for stored in log.store.read(query):
            fold.add(members[streams[stored.stream]], fact_of(stored))
    related = gathered(fold, ((relation, members[ref]) for ref, by in theirs.items() for relation in by))
    if as_of_us is None:
        as_of_us = max([log.clock.now_us(), *(n for n in (newest_us, related.newest_us) if n is not None)])
    return related, as_of_us


def all_related(
    log: Log, fold: Fold, tenant: str, states: Iterable[tuple[StreamId, State, int]], known_at_us: int | None
) -> Iterator[tuple[str, FeatureValues]]:
    """Finished values of every customer that has a fact or a member, by reference: of states as `states_of` gives them, all at one time."""
    by_ref, at_us = {}, None
    for stream, state, at in states:
        by_ref[stream.id], at_us = state, at if at_us is None else max(at, at_us)
    if at_us is None:
        return
    lineage = Lineage.read(log, tenant, log.store.head())
    who = Ids.read(log, tenant, fold.relations, all_named(fold, by_ref.values()), lineage).who(known_at_us)
    related = exchanged(fold, by_ref, who)
    for ref in sorted(by_ref.keys() | related.keys()):
        yield ref, fold.finish(by_ref.get(ref) or fold.empty(), at_us, related.get(ref) or gathered(fold, ()))
