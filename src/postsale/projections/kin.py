"""Who is who, for views: which ids stand for a customer, and which streams make up which customer. Read from the log.

An id that a fact names is looked up by its blind index, so no view needs a name in the clear. Ids by customer are kept in a view of their
own, `ids`, which whoever reads it brings up to date: the log finds an id's customer, but not a customer's ids. Imports access, the store's
contract and views.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from itertools import islice
from typing import Final, TypeVar

from postsale.access import KeyVault, blind_index
from postsale.aggregates.identity import (
    ALIASES,
    CUSTOMERS,
    AliasLinked,
    ExternalId,
    MergedInto,
    SplitFrom,
    StreamJoined,
    StreamParted,
    customer_stream,
)
from postsale.errors import ViewMoved
from postsale.events import Lane, StoredEvent, StreamId, canonical, decode
from postsale.projections.views import Views
from postsale.store.contract import Query, Store

T = TypeVar("T")

VIEW: Final = "ids"
_ASIDE: Final = f"{VIEW}!aside"
_LINKED: Final = frozenset({"identity/alias-linked"})
_WHOLE: Final = frozenset(cls.wire_name.partition("@")[0] for cls in (MergedInto, SplitFrom, StreamJoined, StreamParted))
_PAGE: Final = 2_000
_TOGETHER: Final = 128  # streams in one query; far more, and SQLite scans instead of looking each up


def chunked(items: Iterable[T]) -> Iterator[tuple[T, ...]]:
    """As many as one query takes."""
    left = iter(items)
    while some := tuple(islice(left, _TOGETHER)):
        yield some


class Kin:
    """Who is who in one log. Safe to use from several threads. Raises what an unreadable event of identity raises."""

    def __init__(self, store: Store, views: Views, vault: KeyVault) -> None:
        self._store, self._views, self._vault = store, views, vault
        self._checked = False

    def alias(self, tenant: str, source: str, id: str) -> str:
        """The blind index of a customer's id in a system, "" the tenant's own."""
        return blind_index(self._vault.tenant(tenant), ExternalId("customer", source, id))

    def aliases(self, tenant: str, refs: Collection[str], *, known_at_us: int | None = None) -> frozenset[str]:
        """The blind indexes of all ids that stand for these customers, linked by then."""
        self._catch_up()
        found = set()
        for ref in refs:
            prefix = f"{tenant}/{ref}/"
            for key, value in self._views.scan(VIEW, prefix):
                if known_at_us is None or int(value) <= known_at_us:
                    found.add(key.removeprefix(prefix))
        return frozenset(found)

    def _catch_up(self) -> None:
        while not self._checked:
            at, anchor = self._views.checkpoint(VIEW), self._views.get(_ASIDE, "anchor")
            if at != self._views.checkpoint(VIEW):
                continue  # somebody else moved it in between: look again
            if at and anchor != self._anchor(at):  # the log is an older copy, which went on differently
                self._views.drop(VIEW, _ASIDE)
            self._checked = True
        while (at := self._views.checkpoint(VIEW)) < (head := self._store.head()):
            query = Query(category=ALIASES, lane=Lane.DECISION, kinds=_LINKED, after=at, upto=head, limit=_PAGE)
            read = list(self._store.read(query))
            rows = {}
            for stored in read:
                linked = decode(stored).data
                if isinstance(linked, AliasLinked):
                    rows[f"{stored.stream.tenant}/{linked.account}/{stored.stream.id}"] = str(stored.recorded_at_us).encode()
            to = read[-1].position if len(read) == _PAGE else head
            try:
                self._views.write(VIEW, rows, checkpoint=to, expected=at, also={_ASIDE: {"anchor": self._anchor(to)}})
            except ViewMoved:
                continue  # somebody else does the same

    def _anchor(self, position: int) -> bytes:
        event = next(iter(self._store.read(Query(after=position - 1, upto=position))), None)
        return canonical([position, event.leaf.hex() if event is not None else None])

    def customers(
        self, tenant: str, streams: Iterable[StreamId], *, upto: int, known_at_us: int | None = None
    ) -> dict[str, tuple[StreamId, ...]]:
        """The customers that facts on these streams count for, after merges, by reference, each with all its streams."""
        refs = {stream.id for stream in streams if stream.category == CUSTOMERS}
        for some in chunked(stream for stream in streams if stream.category == ALIASES):
            for stored in self._store.latest(some):
                if stored is not None and stored.position <= upto and (known_at_us is None or stored.recorded_at_us <= known_at_us):
                    linked = decode(stored).data
                    refs |= {linked.account} if isinstance(linked, AliasLinked) else set()
        joined: dict[str, tuple[StreamId, ...]] = {}
        into: dict[str, str | None] = {}
        left = refs
        while left:
            into |= dict.fromkeys(left)
            for some in chunked(customer_stream(tenant, ref) for ref in sorted(left)):
                query = Query(streams=some, lane=Lane.DECISION, kinds=_WHOLE, upto=upto, known_at_us=known_at_us)
                for stored in self._store.read(query):
                    _evolve(stored, joined, into)
            left = {survivor for survivor in into.values() if survivor is not None} - into.keys()
        return {ref: (customer_stream(tenant, ref), *joined.get(ref, ())) for ref, survivor in into.items() if survivor is None}


def _evolve(stored: StoredEvent, joined: dict[str, tuple[StreamId, ...]], into: dict[str, str | None]) -> None:
    ref, tenant = stored.stream.id, stored.stream.tenant
    match decode(stored).data:
        case StreamJoined(category=category, id=id_):
            joined[ref] = (*joined.get(ref, ()), StreamId(tenant, category, id_))
        case StreamParted(category=category, id=id_):
            joined[ref] = tuple(stream for stream in joined.get(ref, ()) if stream != StreamId(tenant, category, id_))
        case MergedInto(survivor=survivor):
            into[ref] = survivor
        case SplitFrom():
            into[ref] = None
