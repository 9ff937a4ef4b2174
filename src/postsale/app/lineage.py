"""Who was who at every time of knowledge: which streams made up which customer, and which customer was part of which.

Folded from the few events that change it, once for a whole tenant. Part of the wiring: may import everything below `app`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from postsale.aggregates.identity import CUSTOMERS, IDENTITY_KINDS, MergedInto, SplitFrom, StreamJoined, StreamParted
from postsale.events import Lane, StreamId
from postsale.store.contract import Query
from postsale.store.log import Log

EVER: Final = -(2**62)
"""Before every time, with room to calculate."""


@dataclass(slots=True)
class Part:
    """A stream that belongs to a customer, by time of knowledge: from `since_us` until `until_us`, exclusive."""

    stream: StreamId
    since_us: int
    until_us: int | None = None

    def holds(self, us: int | None) -> bool:
        """Whether it did at `us` (None: by the end)."""
        return self.until_us is None if us is None else self.since_us <= us and (self.until_us is None or us < self.until_us)


@dataclass(slots=True)
class Lineage:
    """Which streams made up which customer, and who was part of whom, at every time of knowledge."""

    parts: dict[str, list[Part]] = field(default_factory=dict)  # by reference, without its own stream
    merges: dict[str, list[tuple[int, str | None]]] = field(default_factory=dict)  # by reference: from when, into whom
    _holders: dict[StreamId, list[tuple[str, Part]]] | None = None

    @classmethod
    def read(cls, log: Log, tenant: str, upto: int) -> Lineage:
        lineage = cls()
        query = Query(tenant=tenant, category=CUSTOMERS, lane=Lane.DECISION, kinds=IDENTITY_KINDS, upto=upto)
        for event in log.events(query):
            ref, at = event.stored.stream.id, event.stored.recorded_at_us
            match event.data:
                case StreamJoined(category=category, id=id_):
                    lineage.parts.setdefault(ref, []).append(Part(StreamId(tenant, category, id_), at))
                case StreamParted(category=category, id=id_):
                    for part in lineage.parts.get(ref, ()):
                        if part.stream == StreamId(tenant, category, id_) and part.until_us is None:
                            part.until_us = at
                case MergedInto(survivor=survivor):
                    lineage.merges.setdefault(ref, []).append((at, survivor))
                case SplitFrom():
                    lineage.merges.setdefault(ref, []).append((at, None))
        return lineage

    def survivor(self, ref: str, us: int | None) -> str:
        """The customer that this one was part of, as known at `us` (None: by the end); itself unless merged."""
        into = None
        for at, survivor in self.merges.get(ref, ()):
            if us is None or at <= us:
                into = survivor
        return ref if into is None else self.survivor(into, us)

    def survivors(self, ref: str, since_us: int) -> Iterator[tuple[int, str]]:
        """The customers that this one was part of, from a time of knowledge on, each with when it began."""
        reached, left, times = {ref}, [ref], {since_us}
        while left:
            for at, survivor in self.merges.get(left.pop(), ()):
                times.add(max(at, since_us))
                if survivor is not None and survivor not in reached:
                    reached.add(survivor)
                    left.append(survivor)
        for at in sorted(times):
            yield at, self.survivor(ref, at)

    def streams(self, ref: str, tenant: str, us: int | None) -> list[StreamId]:
        """The streams of a customer as known at `us` (None: by the end)."""
        parts = self.of(ref, tenant)
        return [part.stream for part in parts if part.holds(us)]

    def owner(self, stream: StreamId, us: int | None) -> str | None:
        """The customer that a stream counted for, as known at `us` (None: by the end); None while nobody's."""
        if stream.category == CUSTOMERS:
            return self.survivor(stream.id, us)
        if self._holders is None:
            self._holders = {}
            for ref, parts in self.parts.items():
                for part in parts:
                    self._holders.setdefault(part.stream, []).append((ref, part))
        holders = (ref for ref, part in self._holders.get(stream, ()) if part.holds(us))
        return next((ref for ref in holders if self.survivor(ref, us) == ref), None)

    def refs(self) -> set[str]:
        """The customers that ever were more, or less, than their own stream."""
        return {*self.parts, *self.merges}

    def of(self, ref: str, tenant: str) -> list[Part]:
        """The streams of a customer, its own first."""
        return [Part(StreamId(tenant, CUSTOMERS, ref), EVER), *self.parts.get(ref, ())]

    def in_the_end(self, ref: str, tenant: str) -> set[StreamId]:
        """The streams of the customer that this one is part of by the end, and its own."""
        whole = self.of(self.survivor(ref, None), tenant)
        return {StreamId(tenant, CUSTOMERS, ref), *(part.stream for part in whole if part.until_us is None)}

    def spans_merged(self, ref: str) -> Iterator[tuple[int, int | None]]:
        """When a customer was part of another one: from, until (exclusive; None for ever)."""
        since: int | None = None
        for at, into in self.merges.get(ref, ()):
            if into is not None and since is None:
                since = at
            elif into is None and since is not None:
                yield since, at
                since = None
        if since is not None:
            yield since, None
