"""The runner: folds new facts of the log into a view, one state per stream.

Knows neither health nor agents; both hang on through `on_fact` and `read_state`. How a view is read is `reading`, how a batch becomes
rows `partition`; who folds when, among several processes, is `projector`. Imports the store's contract, views and folds.
"""

from __future__ import annotations

import secrets
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, closing
from itertools import islice
from typing import Final, NamedTuple

from postsale.events import Clock, Lane, StoredEvent, StreamId
from postsale.projections.folding import Fold, State, fact_of
from postsale.projections.freshness import Pace
from postsale.projections.hot_rows import HotRows
from postsale.projections.kin import Kin
from postsale.projections.partition import (
    PARKED,
    POISON,
    Batch,
    Names,
    OnFact,
    Parked,
    Partition,
    commit,
    load_parked,
    moved_entries,
    parked_at,
)
from postsale.projections.reading import Reader, anchor_of
from postsale.projections.views import Move, Views
from postsale.store.contract import Query, Store

CATEGORIES: Final = frozenset({"customers", "aliases"})
_BATCH_BYTES: Final = 16_777_216  # of headers and data read before they are folded; the last event may exceed it

_FILL_ROWS: Final = 2_000

Tokens = Mapping[int, int | None]
"""Shares of a view to fold, each with the fencing token it is folded under; None where no lease is asked for."""


class Progress(NamedTuple):
    """How far a run came: from a position (exclusive) to a position (inclusive), and how many facts it folded."""

    from_position: int
    to_position: int
    events: int
    target: int  # where this run ends


class Built(NamedTuple):
    """States that are computed at once: the rows of a view by key, as the fold's `dump` writes them, and from how many facts."""

    rows: Iterable[tuple[str, bytes]]
    events: int


States = Callable[[Store, Fold, int], AbstractContextManager[Built]]
"""`with states(store, fold, upto) as built`: what folding every fact up to a position (inclusive) gives; its rows are read inside.
Raises what an unreadable event raises."""


class Runner(Reader):
    """Keeps one view of one fold. Its name carries a digest of the features and of the versions their kinds are read as.

    Another declaration, another view; and when a kind gets a next version, events of all versions are folded as that one.
    `partitions` shares of the streams have a checkpoint each, so that several processes can fold one view (`Projector`).
    Safe to retry and to kill at any point: rows, parked streams and checkpoint are one transaction. Two runners of one view
    do not corrupt it: the slower one gets ViewMoved and may call again. Memory is bounded by `batch` events, of 16 MiB, and
    `cached` states. Not to be shared by threads; `read_state` and `kept` alone may be called from any thread.
    """

    def __init__(
        self,
        store: Store,
        views: Views,
        fold: Fold,
        *,
        batch: int = 2_000,
        cached: int = 20_000,
        clock: Clock | None = None,
        partitions: int = 1,
        build: Callable[[str], int] | None = None,
        hot: HotRows | None = None,
        pace: Pace | None = None,
        kin: Kin | None = None,
    ) -> None:
        """`build` says which build of the view of this name is meant, 0 unless given; it is asked again at every call.

        `kin` says who is who; a declaration with features across customers is refused without it.
        """
        super().__init__(store, views, fold, clock=clock, partitions=partitions, build=build, hot=hot, pace=pace, kin=kin)
        self._batch_size, self._cached = max(1, batch), max(0, cached) // partitions
        self._shares: tuple[Names, tuple[Partition, ...]] | None = None

    def at_build(self, build: int) -> Runner:
        """A runner of the same view in another build, whichever build serves."""
        return Runner(
            self._store,
            self._views,
            self.fold,
            batch=self._batch_size,
            cached=self._cached * self.partitions,
            clock=self._clock,
            partitions=self.partitions,
            build=lambda _: build,
            pace=self._pace,
            kin=self._kin,
        )

    def _parts(self, names: Names | None = None) -> tuple[Names, tuple[Partition, ...]]:
        names = names or self.names()
        if self._shares is None or self._shares[0] is not names:
            index = self._members.index if self._members is not None else None
            parts = (Partition(self._views, self.fold, names, n, self._cached, index) for n in range(self.partitions))
            self._shares = names, tuple(parts)
        return self._shares

    # ------------------------------------------------------------ folding

    def catch_up(
        self,
        on_fact: OnFact | None = None,
        on_progress: Callable[[Progress], None] | None = None,
        upto: int | None = None,
        stop: Callable[[], bool] = lambda: False,
    ) -> Progress:
        """Fold the facts after the checkpoint, up to the head as it is now or `upto`; `on_progress` after each commit.

        An event that cannot be read (UnknownWireName, UpcastFailed, InvalidInput) parks its stream; others go on. Ends early,
        between two batches, when `stop` says so; the next call goes on from there.
        Raises ViewMoved when another runner moved the view meanwhile.
        """
        names = self.names()
        self._check_log(names)
        start = at = self._checkpoint(names)
        head = self._store.head()
        target = head if upto is None else min(head, upto)
        everything: Tokens = dict.fromkeys(range(self.partitions))
        events = 0
        while at < target and not stop():
            at, folded = self.advance(everything, target, on_fact)
            events += folded
            if on_progress is not None:
                on_progress(Progress(start, at, events, target))
        return Progress(start, at, events, target)

    def advance(self, shares: Tokens, target: int, on_fact: OnFact | None = None, names: Names | None = None) -> tuple[int, int]:
        """Fold one batch into those of these shares that are furthest behind, in one commit.

        Returns where the furthest behind is now, and how many facts were folded. `names` are those of the view now, if the caller
        has just asked. Raises ViewMoved, LeaseLost; then nothing was written.
        """
        names, parts = self._parts(names)
        positions = {n: parts[n].position(held=token is not None) for n, token in shares.items()}
        at = min(positions.values(), default=target)
        if at >= target:
            return at, 0
        if at == 0:
            self._clear(names)
        behind = [n for n, position in positions.items() if position == at]
        ahead = [position for position in positions.values() if position > at]
        read, to = self._read_batch(at, min([target, *ahead]))
        sorted_out: dict[int, list[tuple[str, StoredEvent]]] = defaultdict(list)
        for event in read:
            if event.stream.category in CATEGORIES:
                key = str(event.stream)
                sorted_out[names.share_of(key)].append((key, event))
        keys = {n: list(dict.fromkeys(key for key, _ in sorted_out[n])) for n in behind}
        aside = self._views.get_many(names.aside, [PARKED + key for n in behind for key in keys[n]]) if read else {}
        parked = {key.removeprefix(PARKED): load_parked(raw) for key, raw in aside.items()}
        missing = [key for n in behind for key in parts[n].missing(at, keys[n]) if key not in parked]
        rows = self._views.get_many(names.view, missing) if missing else {}
        anchor = anchor_of(to, read[-1]) if read and read[-1].position == to else self._anchor(to)
        try:
            folded = [parts[n].fold(Batch(sorted_out[n], at, to, anchor, parked, rows), on_fact, shares[n]) for n in behind]
            moves = [done.move for done in folded]
            if at == 0:
                moves.append(Move(names.filling, 0, 0))  # nobody fills it meanwhile
            changed = {key: row for done in folded for key, row in done.rows.items()}
            commit(self._views, names, moves, changed, {key: value for done in folded for key, value in done.aside.items()})
        except BaseException:
            for n in behind:
                parts[n].failed()
            raise
        for n in behind:
            parts[n].moved(to)
        fresh = {key: row for done in folded for key, row in done.fresh.items()}
        if self._hot is not None and fresh:
            self._hot.put_many(names.view, self._secret(names), fresh, to)
        return to, sum(done.events for done in folded)

    def _read_batch(self, at: int, target: int) -> tuple[list[StoredEvent], int]:
        """The next events of our kinds, and the position up to which that is all of them."""
        query = Query(lane=Lane.FACT, kinds=self.fold.kinds, after=at, upto=target, limit=self._batch_size)
        read: list[StoredEvent] = []
        room = _BATCH_BYTES
        with closing(self._store.read(query)) as rows:
            for event in rows:
                read.append(event)
                room -= len(event.header) + len(event.data)
                if room <= 0:
                    break
        full = room <= 0 or len(read) == self._batch_size
        return read, read[-1].position if full else target

    def claim(self, shares: Tokens) -> None:
        """Fence off whoever held these shares before, and fold their parked streams again: this process may read what others could not.

        Raises ViewMoved when a share moved meanwhile, LeaseLost when there is a newer holder.
        """
        names, parts = self._parts()
        self._check_log(names)
        for n, token in shares.items():
            parts[n].claim(token)
        self.retry(shares=shares)

    def look_again(self) -> None:
        """Let the next `advance` ask where every share stands, also of those that are held: the view may have been dropped since."""
        for part in self._parts()[1]:
            part.look_again()

    # ------------------------------------------------------------ parked streams

    def retry(self, on_fact: OnFact | None = None, shares: Tokens | None = None) -> tuple[Parked, ...]:
        """Fold every parked stream again from its first event up to the checkpoint; returns those that still cannot be read.

        Run it after the missing module is imported or the upcaster mended. `on_fact` gets the events from the parked one on.
        Only streams of `shares`, if given. Raises ViewMoved when another runner moved the view meanwhile; call it again. LeaseLost.
        """
        names, parts = self._parts()
        self._check_log(names)
        still: list[Parked] = []
        for record in self.parked():
            share = names.share_of(record.key)
            if shares is not None and share not in shares:
                continue
            at = parts[share].position()
            state, aside = self._fold_again(record, at, on_fact)
            if aside is not None:
                still.append(aside)
            parts[share].rewrite(record.key, state, aside, at, None if shares is None else shares[share])
        return tuple(still)

    def _fold_again(self, record: Parked, at: int, on_fact: OnFact | None) -> tuple[State, Parked | None]:
        stream = StreamId(*record.key.split("/", 2))
        state = self.fold.empty()
        aside: Parked | None = None
        for event in self._store.read(self._query((stream,), upto=at)):
            if aside is not None:
                aside = aside._replace(waiting=aside.waiting + 1)
                continue
            told = on_fact is not None and event.position >= record.position
            before = self.fold.copy(state) if told else state
            try:
                self.fold.add(state, fact_of(event))
            except POISON as error:
                aside = parked_at(record.key, event, error)
                readable = self._store.read(self._query((stream,), upto=event.position - 1))
                state = self.fold.fold(map(fact_of, readable))
                continue
            if told and on_fact is not None:
                on_fact(event, before, state)
        return state, aside

    # ------------------------------------------------------------ beginning anew

    def drop(self) -> None:
        """Forget the view; the next `catch_up` folds the whole log."""
        self._drop(self.names())

    def _drop(self, names: Names) -> None:
        super()._drop(names)
        self._shares = None

    def rebuild(self, on_progress: Callable[[Progress], None] | None = None, *, states: States | None = None) -> Progress:
        """Drop and fold again, raising no triggers. Ends with the same `digest` as if it had never been dropped.

        Reads come from the log meanwhile; `Deployments.rebuild` builds beside the view that serves. `states` as in `compute`.
        """
        self.drop()
        events = self.compute(states, on_progress) if states is not None else 0
        progress = self.catch_up(on_progress=on_progress)
        return progress._replace(from_position=0, events=progress.events + events)

    def compute(self, states: States, on_progress: Callable[[Progress], None] | None = None) -> int:
        """Fill a view that is at position 0 with what `states` (such as `handover.duckdb_states`) computes; returns how many facts it took.

        Folding goes on from there. Where an event cannot be read nothing is left, and all is folded one by one. Rows are written a
        few thousand at a time and count for nothing until the last, with which every share moves; so memory does not grow with the
        customers. A fill that was killed is cleared away by the next. Raises ViewMoved when another runner began to fold meanwhile.
        """
        names, _ = self._parts()
        head = self._store.head()
        unmoved = [Move(checkpoint, 0, 0) for checkpoint in names.checkpoints]
        self._clear(names)
        step = 0
        try:
            with states(self._store, self.fold, head) as built:
                source = iter(built.rows)
                while rows := dict(islice(source, _FILL_ROWS)):
                    # Begins anywhere, so that one that was cleared away never takes another's steps for its own.
                    then = step + 1 if step else secrets.randbelow(1 << 40) + 1
                    commit(self._views, names, [Move(names.filling, then, step), *unmoved], rows, self._entries(rows))
                    step = then
                events = built.events
        except POISON:
            self._clear(names)
            return 0
        anchor = self._anchor(head)
        moves = [Move(checkpoint, head, 0) for checkpoint in names.checkpoints]
        commit(self._views, names, [*moves, Move(names.filling, step, step)], {}, dict.fromkeys(names.anchors, anchor))
        self._views.drop(names.filling)
        if on_progress is not None:
            on_progress(Progress(0, head, events, head))
        return events

    def _entries(self, rows: Mapping[str, bytes]) -> dict[str, bytes | None]:
        """What stands beside rows that come: who belongs to whom."""
        if self._members is None:
            return {}
        found = (self._members.index(key, self.fold.load(row)) for key, row in rows.items())
        return moved_entries(frozenset(), frozenset().union(*found))

    def _clear(self, names: Names) -> None:
        """Take away what a fill left that did not end. One that goes on meanwhile is told ViewMoved."""
        if self._views.checkpoint(names.filling) and not self._checkpoint(names):
            self._drop(names)
