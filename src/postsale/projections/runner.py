"""The runner: folds new facts of the log into a view, one state per stream, and reads one customer up to date.

Knows neither health nor agents; both hang on through `on_fact` and `read_state`. Imports the store's contract, views and folds.

The view's rows are states by stream key `tenant/category/id`. Beside it, in the view `NAME!aside`, written in the same
transactions: `parked/KEY` for each stream that waits behind an event that cannot be read, and `anchor`, the leaf of the last
event folded, by which a log that was restored from an older copy is noticed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, NamedTuple

import orjson

from postsale.errors import InvalidInput, UnknownWireName, UpcastFailed
from postsale.events import SECOND_US, Clock, Lane, StoredEvent, StreamId, SystemClock, canonical, registry
from postsale.projections.fold import Fold, State, fact_of
from postsale.projections.views import Views
from postsale.store.contract import Query, Store

CATEGORIES: Final = frozenset({"customers", "aliases"})
POISON: Final = (UnknownWireName, UpcastFailed, InvalidInput)
_PARKED: Final = "parked/"
_ANCHOR: Final = "anchor"
_TRIES: Final = 5

OnFact = Callable[[StoredEvent, State, State], None]
"""`on_fact(event, before, after)`: the stream's state without and with this fact. `after` goes on being folded: do not keep or
change it. Called in the order of positions, before the commit of the fact's batch, so after a crash it is called again for the
same facts: at least once; derive ids from the event. When it raises, nothing of the batch is committed."""


class Progress(NamedTuple):
    """How far a run came: from a position (exclusive) to a position (inclusive), and how many facts it folded."""

    from_position: int
    to_position: int
    events: int
    target: int  # where this run ends


class Parked(NamedTuple):
    """A stream that waits: the event that cannot be read, why, and how many later events wait behind it."""

    key: str
    position: int
    wire_name: str
    error: str  # the error's class
    reason: str
    waiting: int


class Lag(NamedTuple):
    """How far the view is behind: positions not looked at yet, and the age of the oldest of them."""

    events: int
    seconds: float


class Status(NamedTuple):
    """What an operator sees of a view."""

    view: str
    checkpoint: int
    head: int
    rows: int
    lag: Lag
    parked: tuple[Parked, ...]


class Read(NamedTuple):
    """A state read up to date, and the log's position it was read at."""

    state: State
    position: int


class Built(NamedTuple):
    """States that were computed at once: the rows of a view, as the fold's `dump` writes them, and from how many facts."""

    rows: Mapping[str, bytes]
    events: int


States = Callable[[Store, Fold, int], Built]
"""`states(store, fold, upto)`: what folding every fact up to a position (inclusive) gives. Raises what an unreadable event raises."""


class Runner:
    """Keeps one view of one fold. Its name carries a digest of the features and of the versions their kinds are read as.

    Another declaration, another view; and when a kind gets a next version, events of all versions are folded as that one.
    Safe to retry and to kill at any point: rows, parked streams and checkpoint are one transaction. Two runners of one view
    do not corrupt it: the slower one gets ViewMoved and may call again. Memory is bounded by `batch` events and `cached` states.
    Not to be shared by threads; `read_state` alone may be called from any thread.
    """

    def __init__(
        self, store: Store, views: Views, fold: Fold, *, batch: int = 2_000, cached: int = 20_000, clock: Clock | None = None
    ) -> None:
        read_as = [registry.versions(kind)[-1:] for kind in sorted(fold.kinds)]
        digest = hashlib.sha256(canonical([fold.digest_of_features, read_as])).hexdigest()
        self.view = f"{fold.name}.v{fold.features.version}.{digest[:12]}"
        self._aside = f"{self.view}!aside"
        self._store, self._views, self._fold = store, views, fold
        self._batch_size, self._cache_size = max(1, batch), max(0, cached)
        self._clock: Clock = clock or SystemClock()
        self._states: dict[str, State] = {}  # as the view holds them at `_states_at`; least recently touched first
        self._states_at = 0
        self._log_checked = False

    # ------------------------------------------------------------ folding

    def catch_up(
        self,
        on_fact: OnFact | None = None,
        on_progress: Callable[[Progress], None] | None = None,
        upto: int | None = None,
    ) -> Progress:
        """Fold the facts after the checkpoint, up to the head as it is now or `upto`; `on_progress` after each commit.

        An event that cannot be read (UnknownWireName, UpcastFailed, InvalidInput) parks its stream; others go on.
        Raises ViewMoved when another runner moved the view meanwhile.
        """
        self._check_log()
        start = at = self._views.checkpoint(self.view)
        head = self._store.head()
        target = head if upto is None else min(head, upto)
        events = 0
        while at < target:
            try:
                at, folded = self._run_batch(at, target, on_fact)
            except BaseException:
                self._states.clear()  # they hold facts that were not committed
                raise
            events += folded
            if on_progress is not None:
                on_progress(Progress(start, at, events, target))
        return Progress(start, at, events, target)

    def _run_batch(self, at: int, target: int, on_fact: OnFact | None) -> tuple[int, int]:
        query = Query(lane=Lane.FACT, kinds=self._fold.kinds, after=at, upto=target, limit=self._batch_size)
        read = list(self._store.read(query))
        to = read[-1].position if len(read) == self._batch_size else target
        events = [(str(e.stream), e) for e in read if e.stream.category in CATEGORIES]
        keys = list(dict.fromkeys(key for key, _ in events))
        parked = self._parked(keys)
        states = self._load(at, [key for key in keys if key not in parked])
        changed: set[str] = set()
        aside: dict[str, bytes | None] = {}
        folded = 0
        for index, (key, event) in enumerate(events):
            record = parked.get(key)
            if record is not None:
                parked[key] = record._replace(waiting=record.waiting + 1)
                aside[_PARKED + key] = _record(parked[key])
                continue
            state = states[key]
            before = self._fold.copy(state) if on_fact is not None else state
            try:
                self._fold.add(state, fact_of(event))
            except POISON as error:
                parked[key] = Parked(key, event.position, event.wire_name, type(error).__name__, str(error), 0)
                aside[_PARKED + key] = _record(parked[key])
                states[key] = self._refold(key, (e for k, e in events[:index] if k == key))
                self._states.pop(key, None)  # a parked stream is never cached: `retry` may rewrite its row
                continue
            changed.add(key)
            folded += 1
            if on_fact is not None:
                on_fact(event, before, state)
        rows = {key: self._fold.dump(states[key]) for key in changed}
        aside[_ANCHOR] = self._anchor(to)
        self._views.write(self.view, rows, checkpoint=to, expected=at, also={self._aside: aside})
        self._states_at = to
        while len(self._states) > self._cache_size:
            del self._states[next(iter(self._states))]
        return to, folded

    def _load(self, at: int, keys: Sequence[str]) -> dict[str, State]:
        """States as the view holds them at `at`; those of `keys` become the most recently touched."""
        if self._states_at != at:
            self._states.clear()
            self._states_at = at
        rows = self._views.get_many(self.view, [key for key in keys if key not in self._states])
        out: dict[str, State] = {}
        for key in keys:
            state = self._states.pop(key, None)
            if state is None:
                state = self._fold.load(rows[key]) if key in rows else self._fold.empty()
            out[key] = self._states[key] = state
        return out

    def _refold(self, key: str, events: Iterable[StoredEvent]) -> State:
        """The state of the view's row and these readable events, after an add left it half-changed."""
        raw = self._views.get(self.view, key)
        state = self._fold.empty() if raw is None else self._fold.load(raw)
        for event in events:
            self._fold.add(state, fact_of(event))
        return state

    # ------------------------------------------------------------ parked streams

    def parked(self) -> tuple[Parked, ...]:
        """The streams that wait, by key."""
        return tuple(_parked(raw) for _, raw in self._views.scan(self._aside, _PARKED))

    def retry(self, on_fact: OnFact | None = None) -> tuple[Parked, ...]:
        """Fold every parked stream again from its first event up to the checkpoint; returns those that still cannot be read.

        Run it after the missing module is imported or the upcaster mended. `on_fact` gets the events from the parked one on.
        Raises ViewMoved when another runner moved the view meanwhile; call it again.
        """
        self._check_log()
        still: list[Parked] = []
        for record in self.parked():
            at = self._views.checkpoint(self.view)
            stream = StreamId(*record.key.split("/", 2))
            state = self._fold.empty()
            aside: Parked | None = None
            for event in self._store.read(self._query((stream,), upto=at)):
                if aside is not None:
                    aside = aside._replace(waiting=aside.waiting + 1)
                    continue
                told = on_fact is not None and event.position >= record.position
                before = self._fold.copy(state) if told else state
                try:
                    self._fold.add(state, fact_of(event))
                except POISON as error:
                    aside = Parked(record.key, event.position, event.wire_name, type(error).__name__, str(error), 0)
                    readable = self._store.read(self._query((stream,), upto=event.position - 1))
                    state = self._fold.fold(map(fact_of, readable))
                    continue
                if told and on_fact is not None:
                    on_fact(event, before, state)
            if aside is not None:
                still.append(aside)
            changed = {_PARKED + record.key: None if aside is None else _record(aside)}
            rows = {record.key: self._fold.dump(state)}
            self._views.write(self.view, rows, checkpoint=at, expected=at, also={self._aside: changed})
        return tuple(still)

    def _parked(self, keys: Sequence[str]) -> dict[str, Parked]:
        found = self._views.get_many(self._aside, [_PARKED + key for key in keys])
        return {key.removeprefix(_PARKED): _parked(raw) for key, raw in found.items()}

    # ------------------------------------------------------------ reading

    def read_state(self, streams: Sequence[StreamId], *, as_of_us: int | None = None, known_at_us: int | None = None) -> Read:
        """One state over these streams, with every fact the log holds now: the view's rows plus what is newer in the log.

        Needs no runner to have run, and moves no checkpoint. `as_of_us` and `known_at_us` (inclusive) restrict to facts that had
        occurred and were recorded by then. Raises what an unreadable event raises; nothing is left out silently.
        """
        self._check_log()
        if not streams:  # to a store, no streams would mean all of them
            return Read(self._fold.empty(), self._store.head())
        if known_at_us is None:
            state, head = self._read_now(streams)
            newest = self._fold.newest_us(state)
            if as_of_us is None or newest is None or newest <= as_of_us:
                return Read(state, head)
        head = self._store.head()
        query = self._query(tuple(streams), upto=head, as_of_us=as_of_us, known_at_us=known_at_us)
        return Read(self._fold.fold(map(fact_of, self._store.read(query))), head)

    def _read_now(self, streams: Sequence[StreamId]) -> tuple[State, int]:
        fold = self._fold
        keys = [str(stream) for stream in streams]
        for _ in range(_TRIES):
            at = self._views.checkpoint(self.view)
            # Parked first: a stream that `retry` frees in between is then folded from the log, never read from its old row.
            parked = self._parked(keys)
            rows = self._views.get_many(self.view, keys)
            if at == self._views.checkpoint(self.view):
                break
        else:
            at, parked, rows = 0, {}, {}
        head = self._store.head()
        state = fold.empty()
        for stream, key in zip(streams, keys, strict=True):
            if key in parked:
                state = fold.merge(state, fold.fold(map(fact_of, self._store.read(self._query((stream,), upto=at)))))
            elif key in rows:
                state = fold.merge(state, fold.load(rows[key])) if len(keys) > 1 else fold.load(rows[key])
        if at < head:
            for event in self._store.read(self._query(tuple(streams), after=at, upto=head)):
                fold.add(state, fact_of(event))
        return state, head

    def _query(
        self, streams: tuple[StreamId, ...], *, after: int = 0, upto: int, as_of_us: int | None = None, known_at_us: int | None = None
    ) -> Query:
        return Query(
            streams=streams, lane=Lane.FACT, kinds=self._fold.kinds, after=after, upto=upto, as_of_us=as_of_us, known_at_us=known_at_us
        )

    # ------------------------------------------------------------ operating

    def drop(self) -> None:
        """Forget the view; the next `catch_up` folds the whole log."""
        self._views.drop(self.view, self._aside)
        self._states.clear()

    def rebuild(self, on_progress: Callable[[Progress], None] | None = None, *, states: States | None = None) -> Progress:
        """Drop and fold again, raising no triggers. Ends with the same `digest` as if it had never been dropped.

        `states` (such as `handover.duckdb_states`) computes what the log holds now at once, and folding goes on from there; where it
        finds an event that cannot be read, all is folded one by one. Its rows are written in one transaction.
        """
        self.drop()
        events = self._load_built(states, on_progress) if states is not None else 0
        progress = self.catch_up(on_progress=on_progress)
        return progress._replace(from_position=0, events=progress.events + events)

    def _load_built(self, states: States, on_progress: Callable[[Progress], None] | None) -> int:
        head = self._store.head()
        try:
            built = states(self._store, self._fold, head)
        except POISON:
            return 0
        aside: dict[str, bytes | None] = {_ANCHOR: self._anchor(head)}
        self._views.write(self.view, built.rows, checkpoint=head, expected=0, also={self._aside: aside})
        if on_progress is not None:
            on_progress(Progress(0, head, built.events, head))
        return built.events

    def digest(self) -> str:
        """SHA-256 over the view's rows by key, hex: the same facts give the same digest, however they were folded."""
        digest = hashlib.sha256()
        for key, value in self._views.scan(self.view):
            for part in (key.encode(), value):
                digest.update(len(part).to_bytes(8, "big") + part)
        return digest.hexdigest()

    def lag(self) -> Lag:
        """How far the view is behind the log now."""
        at, head = self._views.checkpoint(self.view), self._store.head()
        oldest = next(iter(self._store.read(Query(after=at, limit=1))), None) if at < head else None
        seconds = max(0, self._clock.now_us() - oldest.recorded_at_us) / SECOND_US if oldest is not None else 0.0
        return Lag(max(0, head - at), seconds)

    def status(self) -> Status:
        """The view as an operator sees it."""
        rows = next((info.rows for info in self._views.views() if info.view == self.view), 0)
        return Status(self.view, self._views.checkpoint(self.view), self._store.head(), rows, self.lag(), self.parked())

    def _check_log(self) -> None:
        """Drop a view that was folded from events this log does not have; once per runner."""
        while not self._log_checked:
            at = self._views.checkpoint(self.view)
            anchor = self._views.get(self._aside, _ANCHOR)
            if at != self._views.checkpoint(self.view):
                continue  # another runner committed in between: look again
            if at and anchor != self._anchor(at):
                self.drop()
            self._log_checked = True

    def _anchor(self, position: int) -> bytes:
        event = next(iter(self._store.read(Query(after=position - 1, upto=position))), None)
        return canonical([position, event.leaf.hex() if event is not None else None])


def _record(parked: Parked) -> bytes:
    return canonical(list(parked))


def _parked(raw: bytes) -> Parked:
    return Parked(*orjson.loads(raw))
