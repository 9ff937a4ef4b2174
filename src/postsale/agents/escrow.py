"""Escrow: a tenant's budget is handed to workers in slices, so that they do not all reserve on one stream. Sums hold through crashes.

A slice is part of a budget, of any unit, that a worker may reserve from until its lease ends, on a stream of its own. Whoever needs some closes slices whose
lease is over: the closing is on the slice's stream, which fences a worker that merely stood still, and in the same append its rest
returns. Spent or reserved in all slices and outside of them is never above the limit. May import the store, budget, policy, events.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple
from uuid import uuid4

from postsale.agents.budget import BudgetState, Granted, Page, evolve_budget, slice_stream
from postsale.aggregates.budgets import BudgetEvent, BudgetSliceClosed, BudgetSliceGranted, BudgetSliceReturned
from postsale.errors import BadDeclaration, ContentConflict, VersionConflict
from postsale.events import SECOND_US, Event, Lane, StreamId, derive_id, from_us
from postsale.store.contract import Query
from postsale.store.log import Cause, Draft, Log

_RACES = 50


class Purse(NamedTuple):
    """What a decision may reserve now: how much, from which slice (None: the budget itself), at which version of its stream."""

    left: int
    slice: str | None
    version: int


@dataclass(slots=True)
class Escrow:
    """One worker's slices. Thread-safe; a worker that is started again is another one.

    `lease_s`: for so long after it was granted a slice is the worker's, and so long it is away when the worker dies.
    `share`: a slice is this part of the limit at most, or what one decision needs.
    """

    lease_s: float = 300.0
    share: int = 16
    worker: str = field(default_factory=lambda: uuid4().hex[:12])
    _mine: dict[tuple[StreamId, Page, int], tuple[str, Granted]] = field(default_factory=dict)  # (budget, page, limit) -> slice
    _known: dict[StreamId, BudgetState] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        if self.lease_s <= 0 or self.share < 1:
            raise BadDeclaration(what="Escrow", reason="lease_s > 0, share ≥ 1")

    def purse(self, log: Log, main: StreamId, page: Page, limit: int, wanted: int) -> Purse:
        """Some of a budget for one decision: of this worker's slice, which is exchanged for a larger one where it does not do.

        Without a slice where nothing is wanted, where not so much is left, and where too many others were faster: then the budget's
        own stream gives it.
        """
        with self._lock:
            for _ in range(_RACES):
                found = self._look(log, main, page, limit, wanted)
                if found is not None:
                    return found
            state = self._read(log, main)
        return Purse(state.left(limit, page), None, state.version)

    def _look(self, log: Log, main: StreamId, page: Page, limit: int, wanted: int) -> Purse | None:
        now_us = log.clock.now_us()
        mine = self._mine.get((main, page, limit))  # what was granted under another limit says nothing of this one
        held, left = BudgetState(), 0
        if mine is not None:
            name, granted = mine
            held = self._read(log, slice_stream(main.tenant, name))
            if held.closed:
                mine = None
            else:
                left = held.left(granted.amount, page)
                if 0 < wanted <= left and now_us < granted.expires_at_us - int(self.lease_s * SECOND_US) // 4:
                    return Purse(left, name, held.version)
        state = self._read(log, main)
        free = limit + state.sums(page).available  # below 0 where more was taken under a larger limit
        if free + left < wanted:
            over = {
                n: "expired" if g.expires_at_us <= now_us else "exchanged"
                for n, g in state.slices.items()
                if (mine is None or n != mine[0]) and (g.expires_at_us <= now_us or (g.worker, g.page) == (self.worker, page))
            }
            for n, why in over.items():
                close(log, main, n, why)
            return None if over else Purse(max(0, free), None, state.version)
        if not wanted:
            return Purse(max(0, free), None, state.version)
        size = min(free + left, max(wanted, limit // self.share))
        name = f"{main.id[:40].strip()}-{derive_id(main, state.version, self.worker).hex[:16]}"
        expires_us = now_us + int(self.lease_s * SECOND_US)
        grant = BudgetSliceGranted(slice=name, worker=self.worker, **page._asdict(), amount=size, expires_at=from_us(expires_us))
        events: list[tuple[StreamId, int, Event]] = []
        version = state.version
        if mine is not None:
            events += [
                (slice_stream(main.tenant, mine[0]), held.version, BudgetSliceClosed(why="exchanged")),
                (main, version, BudgetSliceReturned(slice=mine[0], **page._asdict(), amount=left)),
            ]
            version += 1
        if not _append(log, [*events, (main, version, grant)]):
            return None
        self._mine[main, page, limit] = name, Granted(self.worker, page, size, expires_us)
        return Purse(size, name, 0)

    def _read(self, log: Log, stream: StreamId) -> BudgetState:
        self._known[stream] = state = read(log, stream, self._known.get(stream))
        return state

    def give_back(self, log: Log) -> None:
        """Close every slice of this worker, as when it stops: nobody has to wait for its lease."""
        with self._lock:
            for (main, _, _), (name, _) in list(self._mine.items()):
                close(log, main, name, "given-back")
            self._mine.clear()
            self._known.clear()


def close(log: Log, main: StreamId, slice_: str, why: str) -> bool:
    """Close a slice and return what nothing holds of it; False when it was closed already."""
    for _ in range(_RACES):
        state, held = read(log, main), read(log, slice_stream(main.tenant, slice_))
        granted = state.slices.get(slice_)
        if granted is None or held.closed:
            return False
        back = BudgetSliceReturned(slice=slice_, **granted.page._asdict(), amount=held.left(granted.amount, granted.page))
        closed = BudgetSliceClosed(why=why)  # type: ignore[arg-type]
        if _append(log, [(slice_stream(main.tenant, slice_), held.version, closed), (main, state.version, back)]):
            return True
    return False


def read(log: Log, stream: StreamId, known: BudgetState | None = None) -> BudgetState:
    """What a budget's or a slice's stream says now, folded on from `known`."""
    state = known or BudgetState()
    for recorded in log.events(Query(tenant=stream.tenant, streams=(stream,), lane=Lane.DECISION, after=state.position)):
        assert isinstance(recorded.data, BudgetEvent)
        state = evolve_budget(state, recorded.data, recorded.position)
    return state


def _append(log: Log, events: Sequence[tuple[StreamId, int, Event]]) -> bool:
    """All of these or none; False when somebody else was first."""
    now_us = log.clock.now_us()
    try:
        log.append([log.decision(s, v, Draft(e, derive_id(s, v, e.wire_name, str(e)), now_us, Cause())) for s, v, e in events])
    except (ContentConflict, VersionConflict):
        return False
    return True
