"""The runner: folds new facts of the log into a view, one state per stream, and reads one customer up to date.

Knows neither health nor agents; both hang on through `on_fact` and `read_state`. How a batch becomes rows is `partition`; who folds
when, among several processes, is `projector`. Imports the store's contract, views and folds.

The view's rows are states by stream key `tenant/category/id`.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from typing import Final, NamedTuple

from postsale.errors import InvalidInput
from postsale.events import SECOND_US, Clock, Lane, StoredEvent, StreamId, SystemClock, canonical, registry
from postsale.projections.fold import Fold, State, fact_of
from postsale.projections.freshness import WITHIN_S, AtLeast, Pace, RealPace, await_log, await_position, position_of
from postsale.projections.hot_rows import HotRows
from postsale.projections.partition import PARKED, POISON, Names, OnFact, Parked, Partition, load_parked, parked_at
from postsale.projections.views import Views
from postsale.store.contract import Query, Store

__all__ = ["CATEGORIES", "POISON", "Lag", "Progress", "Read", "Runner", "Status"]

CATEGORIES: Final = frozenset({"customers", "aliases"})
_TRIES: Final = 5
_BATCH_BYTES: Final = 16_777_216  # of headers and data read before they are folded; the last event may exceed it

Tokens = Mapping[int, int | None]
"""Shares of a view to fold, each with the fencing token it is folded under; None where no lease is asked for."""


class Progress(NamedTuple):
    """How far a run came: from a position (exclusive) to a position (inclusive), and how many facts it folded."""

    from_position: int
    to_position: int
    events: int
    target: int  # where this run ends


class Lag(NamedTuple):
    """How far the view is behind: positions not looked at yet, and the age of the oldest of them."""

    events: int
    seconds: float


class Status(NamedTuple):
    """What an operator sees of a view."""

    view: str
    checkpoint: int  # of the share that is furthest behind
    head: int
    rows: int
    lag: Lag
    parked: tuple[Parked, ...]
    checkpoints: tuple[int, ...]  # of each share


class Read(NamedTuple):
    """A state, and the log's position it was read at: every fact up to there is in it."""

    state: State
    position: int


class Runner:
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
    ) -> None:
        """`build` says which build of the view of this name is meant, 0 unless given; it is asked again at every call."""
        if not 1 <= partitions <= 1_024:
            raise InvalidInput(what="Runner", field="partitions", reason="expected 1 to 1,024")
        read_as = [registry.versions(kind)[-1:] for kind in sorted(fold.kinds)]
        digest = hashlib.sha256(canonical([fold.digest_of_features, read_as])).hexdigest()
        self.base = f"{fold.name}.v{fold.features.version}.{digest[:12]}"
        self.fold = fold
        self.partitions = partitions
        self._store, self._views, self._build = store, views, build
        self._batch_size, self._cached = max(1, batch), max(0, cached) // partitions
        self._clock: Clock = clock or SystemClock()
        self._hot = hot
        self._pace: Pace = pace or RealPace()
        self._names_of: dict[int, Names] = {}
        self._shares: tuple[Names, tuple[Partition, ...]] | None = None
        self._checked: set[str] = set()

    @property
    def view(self) -> str:
        """The name of the view that is folded and read now."""
        return self.names().view

    def names(self) -> Names:
        """The names of the view now."""
        build = self._build(self.base) if self._build is not None else 0
        if build not in self._names_of:
            self._names_of[build] = Names.of(self.base, self.partitions, build)
        return self._names_of[build]

    def _parts(self) -> tuple[Names, tuple[Partition, ...]]:
        names = self.names()
        if self._shares is None or self._shares[0] is not names:
            parts = (Partition(self._views, self.fold, names, n, self._cached) for n in range(self.partitions))
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
        self._check_log()
        start = at = self._checkpoint(self.names())
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

    def advance(self, shares: Tokens, target: int, on_fact: OnFact | None = None) -> tuple[int, int]:
        """Fold one batch into those of these shares that are furthest behind; a commit for each.

        Returns where the furthest behind is now, and how many facts were folded. Raises ViewMoved, LeaseLost; what was committed
        before stays.
        """
        names, parts = self._parts()
        positions = {n: parts[n].position() for n in shares}
        at = min(positions.values(), default=target)
        if at >= target:
            return at, 0
        behind = [n for n, position in positions.items() if position == at]
        ahead = [position for position in positions.values() if position > at]
        read, to = self._read_batch(at, min([target, *ahead]))
        sorted_out: dict[int, list[tuple[str, StoredEvent]]] = defaultdict(list)
        for event in read:
            if event.stream.category in CATEGORIES:
                key = str(event.stream)
                sorted_out[names.share_of(key)].append((key, event))
        anchor, folded = self._anchor(to), 0
        for n in behind:
            done, rows = parts[n].fold(sorted_out[n], at, to, anchor, on_fact, shares[n])
            folded += done
            if self._hot is not None and rows:
                self._hot.put_many(names.view, rows, to)
        return to, folded

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
        self._check_log()
        for n, token in shares.items():
            self._parts()[1][n].claim(token)
        self.retry(shares=shares)

    # ------------------------------------------------------------ parked streams

    def parked(self) -> tuple[Parked, ...]:
        """The streams that wait, by key."""
        return tuple(load_parked(raw) for _, raw in self._views.scan(self.names().aside, PARKED))

    def retry(self, on_fact: OnFact | None = None, shares: Tokens | None = None) -> tuple[Parked, ...]:
        """Fold every parked stream again from its first event up to the checkpoint; returns those that still cannot be read.

        Run it after the missing module is imported or the upcaster mended. `on_fact` gets the events from the parked one on.
        Only streams of `shares`, if given. Raises ViewMoved when another runner moved the view meanwhile; call it again. LeaseLost.
        """
        self._check_log()
        names, parts = self._parts()
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

    # ------------------------------------------------------------ reading

    def read_state(
        self,
        streams: Sequence[StreamId],
        *,
        as_of_us: int | None = None,
        known_at_us: int | None = None,
        at_least: AtLeast | None = None,
        within_s: float = WITHIN_S,
    ) -> Read:
        """One state over these streams, with every fact the log holds now: the view's rows plus what is newer in the log.

        Needs no runner to have run, and moves no checkpoint. `as_of_us` and `known_at_us` (inclusive) restrict to facts that had
        occurred and were recorded by then. Raises what an unreadable event raises; nothing is left out silently. StaleRead when
        the log cannot be read up to `at_least` within `within_s` seconds.
        """
        self._check_log()
        if at_least is not None:
            await_log(self._store, at_least, within_s)
        if not streams:  # to a store, no streams would mean all of them
            return Read(self.fold.empty(), self._store.head())
        if known_at_us is None:
            state, head = self._read_now(streams)
            newest = self.fold.newest_us(state)
            if as_of_us is None or newest is None or newest <= as_of_us:
                return Read(state, head)
        head = self._store.head()
        query = self._query(tuple(streams), upto=head, as_of_us=as_of_us, known_at_us=known_at_us)
        return Read(self.fold.fold(map(fact_of, self._store.read(query))), head)

    def _read_now(self, streams: Sequence[StreamId]) -> tuple[State, int]:
        fold = self.fold
        keys = [str(stream) for stream in streams]
        positions, rows, parked = self._rows(keys)
        head = self._store.head()
        state = fold.empty()
        after: dict[int, list[StreamId]] = defaultdict(list)
        for stream, key in zip(streams, keys, strict=True):
            at = positions[key]
            after[at].append(stream)
            if key in parked:
                state = fold.merge(state, fold.fold(map(fact_of, self._store.read(self._query((stream,), upto=at)))))
            elif key in rows:
                state = fold.merge(state, fold.load(rows[key])) if len(keys) > 1 else fold.load(rows[key])
        for at, its in after.items():
            if at < head:
                for event in self._store.read(self._query(tuple(its), after=at, upto=head)):
                    fold.add(state, fact_of(event))
        return state, head

    def _rows(self, keys: Sequence[str]) -> tuple[dict[str, int], dict[str, bytes], dict[str, Parked]]:
        """Of each key the position of its share, its row, and where it waits, as of one moment of the view."""
        names = self.names()
        shares = {key: names.checkpoints[names.share_of(key)] for key in keys}
        checkpoints = sorted(set(shares.values()))
        for _ in range(_TRIES):
            at = {name: self._views.checkpoint(name) for name in checkpoints}
            # Parked first: a stream that `retry` frees in between is then folded from the log, never read from its old row.
            found = self._views.get_many(names.aside, [PARKED + key for key in keys])
            parked = {key.removeprefix(PARKED): load_parked(raw) for key, raw in found.items()}
            rows = self._views.get_many(names.view, keys)
            if at == {name: self._views.checkpoint(name) for name in checkpoints} and names is self.names():
                return {key: at[shares[key]] for key in keys}, rows, parked
        return dict.fromkeys(keys, 0), {}, {}

    def kept(self, streams: Sequence[StreamId], *, at_least: AtLeast | None = None, within_s: float = WITHIN_S) -> Read:
        """The state as the view keeps it, without a look at the log: cheap, and as old as `position`.

        With `at_least` it waits, at most `within_s` seconds, until the view holds that write, then raises StaleRead. A stream that
        is parked is as old as its last event that could be read. Answers from the hot rows where they are new enough.
        """
        keys = [str(stream) for stream in streams]
        wanted = 0 if at_least is None else position_of(at_least)
        if self._hot is not None and keys:
            hot = self._hot.get_many(self.view, keys)
            if len(hot) == len(set(keys)) and (oldest := min(position for position, _ in hot.values())) >= wanted:
                return Read(self._merged(row for _, row in hot.values() if row is not None), oldest)
        found: list[Read] = []

        def look() -> int:
            positions, rows, parked = self._rows(keys)
            true = {key: parked[key].position - 1 if key in parked else positions[key] for key in keys}
            found[:] = [Read(self._merged(rows.values()), min(true.values(), default=wanted))]
            if self._hot is not None and positions and any(positions.values()):
                for key in keys:
                    self._hot.put_many(self.view, {key: rows.get(key)}, true[key])
            return found[0].position

        await_position(f"view {self.view}", look, wanted, within_s, self._pace)
        return found[0]

    def _merged(self, rows: Iterable[bytes]) -> State:
        loaded = [self.fold.load(row) for row in rows]
        if len(loaded) == 1:
            return loaded[0]
        state = self.fold.empty()
        for one in loaded:
            state = self.fold.merge(state, one)
        return state

    def _query(
        self, streams: tuple[StreamId, ...], *, after: int = 0, upto: int, as_of_us: int | None = None, known_at_us: int | None = None
    ) -> Query:
        return Query(
            streams=streams, lane=Lane.FACT, kinds=self.fold.kinds, after=after, upto=upto, as_of_us=as_of_us, known_at_us=known_at_us
        )

    # ------------------------------------------------------------ operating

    def drop(self) -> None:
        """Forget the view; the next `catch_up` folds the whole log."""
        self._drop(self.names())

    def _drop(self, names: Names) -> None:
        self._views.drop(*names.all)
        self._shares = None
        if self._hot is not None:
            self._hot.forget(names.view)

    def rebuild(self, on_progress: Callable[[Progress], None] | None = None) -> Progress:
        """Drop and fold again, raising no triggers. Ends with the same `digest` as if it had never been dropped.

        Reads come from the log meanwhile; `Deployments.rebuild` builds beside the view that serves.
        """
        self.drop()
        return self.catch_up(on_progress=on_progress)

    def digest(self) -> str:
        """SHA-256 over the view's rows by key, hex: the same facts give the same digest, however they were folded."""
        digest = hashlib.sha256()
        for key, value in self._views.scan(self.view):
            for part in (key.encode(), value):
                digest.update(len(part).to_bytes(8, "big") + part)
        return digest.hexdigest()

    def position(self) -> int:
        """The position up to which the whole view is folded."""
        return self._checkpoint(self.names())

    def _checkpoint(self, names: Names) -> int:
        return min(map(self._views.checkpoint, names.checkpoints))

    def lag(self) -> Lag:
        """How far the view is behind the log now."""
        at, head = self.position(), self._store.head()
        oldest = next(iter(self._store.read(Query(after=at, limit=1))), None) if at < head else None
        seconds = max(0, self._clock.now_us() - oldest.recorded_at_us) / SECOND_US if oldest is not None else 0.0
        return Lag(max(0, head - at), seconds)

    def status(self) -> Status:
        """The view as an operator sees it."""
        names = self.names()
        rows = next((info.rows for info in self._views.views() if info.view == names.view), 0)
        shares = tuple(map(self._views.checkpoint, names.checkpoints))
        return Status(names.view, min(shares), self._store.head(), rows, self.lag(), self.parked(), shares)

    def _check_log(self) -> None:
        """Drop a view that was folded from events this log does not have; once per runner and build."""
        names = self.names()
        while names.view not in self._checked:
            at = list(map(self._views.checkpoint, names.checkpoints))
            anchors = self._views.get_many(names.aside, names.anchors)
            if at != list(map(self._views.checkpoint, names.checkpoints)):
                continue  # another runner committed in between: look again
            if any(position and anchors.get(name) != self._anchor(position) for name, position in zip(names.anchors, at, strict=True)):
                self._drop(names)
            self._checked.add(names.view)

    def _anchor(self, position: int) -> bytes:
        event = next(iter(self._store.read(Query(after=position - 1, upto=position))), None)
        return canonical([position, event.leaf.hex() if event is not None else None])
