"""One share of a view: its checkpoint, the states it keeps at hand, and the folding of a batch into its rows in one transaction.

Which events are read, and by whom, is the runner's matter. Imports the store's contract, views and folds.

The streams of a view are shared out by a hash of their key. All shares write rows of the same view; each has a checkpoint, and so a
transaction, of its own. Beside the view, in `VIEW!aside`: `parked/KEY` for each stream that waits behind an event that cannot be read,
and per share `anchor`, the leaf of the last event looked at, by which a log that was restored from an older copy is noticed;
and of features across customers the entries of `members`, which change with the rows.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, NamedTuple

import orjson

from postsale.errors import InvalidInput, UnknownWireName, UpcastFailed
from postsale.events import StoredEvent, canonical
from postsale.projections.folding import Fold, State, fact_of
from postsale.projections.views import Move, Views

POISON: Final = (UnknownWireName, UpcastFailed, InvalidInput)
PARKED: Final = "parked/"

OnFact = Callable[[StoredEvent, State, State], None]
"""`on_fact(event, before, after)`: the stream's state without and with this fact. `after` goes on being folded: do not keep or
change it. Called in the order of positions within a stream, before the commit of the fact's batch, so after a crash it is called
again for the same facts: at least once; derive ids from the event. When it raises, nothing of its batch is committed."""


Index = Callable[[str, State], frozenset[str]]
"""`index(key, state)`: under which keys beside the view a stream with this state is to be found; see `members`."""


class Names(NamedTuple):
    """How a view, what is beside it, and the checkpoints of its shares are named in `Views`."""

    view: str
    aside: str
    checkpoints: tuple[str, ...]
    anchors: tuple[str, ...]

    @property
    def filling(self) -> str:
        """Whose checkpoint is not 0 while the view's rows are written before its shares move from 0: until then they count for nothing."""
        return f"{self.view}!filling"

    @classmethod
    def of(cls, base: str, partitions: int, build: int = 0) -> Names:
        """Another number of shares, or another build, is another view: no row of one is ever read as one of the other."""
        view = base + (f".of{partitions}" if partitions > 1 else "") + (f"~{build}" if build else "")
        if partitions == 1:
            return cls(view, f"{view}!aside", (view,), ("anchor",))
        shares = range(partitions)
        return cls(view, f"{view}!aside", tuple(f"{view}.{n}" for n in shares), tuple(f"anchor.{n}" for n in shares))

    @property
    def all(self) -> tuple[str, ...]:
        """Everything that belongs to the view."""
        return tuple(dict.fromkeys((self.view, self.aside, self.filling, *self.checkpoints)))

    def share_of(self, key: str) -> int:
        """Which share a stream's key is in. Stored for ever, so a checksum that every language has."""
        return zlib.crc32(key.encode()) % len(self.checkpoints)


class Parked(NamedTuple):
    """A stream that waits: the event that cannot be read, why, and how many later events wait behind it."""

    key: str
    position: int
    wire_name: str
    error: str  # the error's class
    reason: str
    waiting: int


class Batch(NamedTuple):
    """What a share is to fold: its events after `at` up to `to`, by key, and what was read of the view before."""

    events: Sequence[tuple[str, StoredEvent]]
    at: int
    to: int
    anchor: bytes
    parked: Mapping[str, Parked]  # of any streams, those of these events among them
    rows: Mapping[str, bytes]  # the same; of those that are `missing`


def parked_at(key: str, event: StoredEvent, error: Exception) -> Parked:
    """A stream that begins to wait at this event."""
    return Parked(key, event.position, event.wire_name, type(error).__name__, str(error), 0)


def dump_parked(parked: Parked) -> bytes:
    return canonical(list(parked))


def load_parked(raw: bytes) -> Parked:
    return Parked(*orjson.loads(raw))


def moved_entries(before: frozenset[str], now: frozenset[str]) -> dict[str, bytes | None]:
    """The entries that go, and those that come."""
    return dict.fromkeys(before - now) | dict.fromkeys(now - before, b"1")


class Folded(NamedTuple):
    """What a share has folded and not committed yet."""

    move: Move
    rows: dict[str, bytes]
    aside: dict[str, bytes | None]
    events: int
    fresh: dict[str, bytes]  # the rows of streams that do not wait


def commit(views: Views, names: Names, moves: Sequence[Move], rows: Mapping[str, bytes], aside: Mapping[str, bytes | None]) -> None:
    """Write rows of the view and what is beside it, and move checkpoints, in one transaction. Raises ViewMoved, LeaseLost."""
    also: dict[str, Mapping[str, bytes | None]] = {names.view: rows, names.aside: aside}
    (view, to, at, token), *others = moves
    views.write(view, also.pop(view, {}), checkpoint=to, expected=at, also=also, token=token, moves=others)


class Partition:
    """Share `number` of a view. For one thread. Holds at most `cached` states between batches."""

    def __init__(self, views: Views, fold: Fold, names: Names, number: int, cached: int, index: Index | None = None) -> None:
        self._views, self._fold, self._names, self._cached = views, fold, names, cached
        self._index = index
        self._checkpoint = names.checkpoints[number]
        self._anchor = names.anchors[number]
        self._states: dict[str, State] = {}  # as the view holds them at `_states_at`; least recently touched first
        self._states_at = 0
        self._at: int | None = None  # where our own newest commit left it

    def position(self, *, held: bool = False) -> int:
        """How far the share is folded. Who holds it need not ask where its own commit left it: when it moved all the same, `fold` finds out."""
        if held and self._at is not None:
            return self._at
        return self._views.checkpoint(self._checkpoint)

    def look_again(self) -> None:
        """Ask the view where it stands before folding on."""
        self._at = None

    def missing(self, at: int, keys: Iterable[str]) -> list[str]:
        """Of these streams those whose rows are to be read before folding on from `at`."""
        if self._states_at != at:
            self._states.clear()
            self._states_at = at
        return [key for key in keys if key not in self._states]

    def claim(self, token: int | None) -> None:
        """From now on nobody writes this share under a smaller token. Raises ViewMoved, LeaseLost."""
        self._at = None
        at = self.position()
        self._views.write(self._checkpoint, {}, checkpoint=at, expected=at, token=token)

    def fold(self, batch: Batch, on_fact: OnFact | None, token: int | None) -> Folded:
        """Fold the events of this share; `commit` what it returns, then say `moved`, or `failed` when anything was raised.

        An event that cannot be read parks its stream.
        """
        self._at = None
        events, parked = batch.events, dict(batch.parked)
        states = self._load(batch)
        indexed = self._entries(states)
        changed: set[str] = set()
        aside: dict[str, bytes | None] = {}
        folded = 0
        for index, (key, event) in enumerate(events):
            record = parked.get(key)
            if record is not None:
                parked[key] = record._replace(waiting=record.waiting + 1)
                aside[PARKED + key] = dump_parked(parked[key])
                continue
            state = states[key]
            before = self._fold.copy(state) if on_fact is not None else state
            try:
                self._fold.add(state, fact_of(event))
            except POISON as error:
                parked[key] = parked_at(key, event, error)
                aside[PARKED + key] = dump_parked(parked[key])
                states[key] = self._refold(key, (e for k, e in events[:index] if k == key))
                self._states.pop(key, None)  # a parked stream is never cached: `retry` may rewrite its row
                continue
            changed.add(key)
            folded += 1
            if on_fact is not None:
                on_fact(event, before, state)
        rows = {key: self._fold.dump(states[key]) for key in changed}
        for key, entries in self._entries({key: states[key] for key in changed}).items():
            aside |= moved_entries(indexed[key], entries)
        aside[self._anchor] = batch.anchor
        fresh = {key: row for key, row in rows.items() if key not in parked}
        return Folded(Move(self._checkpoint, batch.to, batch.at, token), rows, aside, folded, fresh)

    def moved(self, to: int) -> None:
        """What was folded is committed."""
        self._at = self._states_at = to
        while len(self._states) > self._cached:
            del self._states[next(iter(self._states))]

    def failed(self) -> None:
        """What was folded is not committed, or nobody knows."""
        self._at = None
        self._states.clear()

    def rewrite(self, key: str, state: State, parked: Parked | None, at: int, token: int | None) -> None:
        """Replace one row where the share stands, and say whether its stream still waits."""
        self._states.pop(key, None)
        self._at = None
        aside: dict[str, bytes | None] = {PARKED + key: None if parked is None else dump_parked(parked)}
        if self._index is not None:
            before = self._views.get(self._names.view, key)
            old: frozenset[str] = frozenset() if before is None else self._index(key, self._fold.load(before))
            aside |= moved_entries(old, self._index(key, state))
        commit(self._views, self._names, [Move(self._checkpoint, at, at, token)], {key: self._fold.dump(state)}, aside)

    def _entries(self, states: Mapping[str, State]) -> dict[str, frozenset[str]]:
        return {} if self._index is None else {key: self._index(key, state) for key, state in states.items()}

    def _load(self, batch: Batch) -> dict[str, State]:
        """The states of this batch's streams, which become the most recently touched."""
        out: dict[str, State] = {}
        for key, _ in batch.events:
            if key not in out and key not in batch.parked:
                state = self._states.pop(key, None)
                if state is None:
                    state = self._fold.load(batch.rows[key]) if key in batch.rows else self._fold.empty()
                out[key] = self._states[key] = state
        return out

    def _refold(self, key: str, events: Iterable[StoredEvent]) -> State:
        """The state of the view's row and these readable events, after an add left it half-changed."""
        raw = self._views.get(self._names.view, key)
        state = self._fold.empty() if raw is None else self._fold.load(raw)
        for event in events:
            self._fold.add(state, fact_of(event))
        return state
