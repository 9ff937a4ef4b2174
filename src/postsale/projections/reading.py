"""Reading a view: one customer up to date or as the view keeps it, every row, and how far it is behind. Folds nothing into it.

Imports the store's contract, views, folds and hot rows. The view's rows are states by stream key `tenant/category/id`; what is beside
them is said in `partition`.
"""

from __future__ import annotations

import hashlib
import secrets
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Final, NamedTuple

from postsale.errors import InvalidInput
from postsale.events import SECOND_US, Clock, Lane, StoredEvent, StreamId, SystemClock, canonical, registry
from postsale.projections.folding import Fold, Related, State, fact_of
from postsale.projections.freshness import WITHIN_S, AtLeast, Pace, RealPace, await_log, await_position, position_of
from postsale.projections.hot_rows import HotRows
from postsale.projections.kin import Kin, chunked
from postsale.projections.members import Members
from postsale.projections.partition import PARKED, Names, Parked, load_parked
from postsale.projections.related import gathered
from postsale.projections.views import Views
from postsale.store.contract import Query, Store

_TRIES: Final = 5
_SECRET: Final = "secret"
_SECRET_S: Final = 5.0  # how long a process may go on with the hot rows of a view that another dropped


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
    """A state, and the log's position it was read at: every fact up to there is in it. `related` where features read across customers."""

    state: State
    position: int
    related: Related | None = None


class Reader:
    """Reads the view of one fold. `read_state` and `kept` may be called from any thread."""

    def __init__(
        self,
        store: Store,
        views: Views,
        fold: Fold,
        *,
        clock: Clock | None = None,
        partitions: int = 1,
        build: Callable[[str], int] | None = None,
        hot: HotRows | None = None,
        pace: Pace | None = None,
        kin: Kin | None = None,
    ) -> None:
        """`build` says which build of the view of this name is meant, 0 unless given; it is asked again at every call."""
        if not 1 <= partitions <= 1_024:
            raise InvalidInput(what="view", field="partitions", reason="expected 1 to 1,024")
        read_as = [registry.versions(kind)[-1:] for kind in sorted(fold.kinds)]
        digest = hashlib.sha256(canonical([fold.digest_of_features, read_as])).hexdigest()
        self.base = f"{fold.name}.v{fold.features.version}.{digest[:12]}"
        self.fold = fold
        self.partitions = partitions
        self._store, self._views, self._build = store, views, build
        self._clock: Clock = clock or SystemClock()
        self._hot = hot
        self._pace: Pace = pace or RealPace()
        self._kin = kin
        if fold.relations and kin is None:
            raise InvalidInput(what=fold.name, field="kin", reason="reads across customers: expected Kin(store, views, vault), who is who")
        self._members = Members(store, views, fold, kin) if fold.relations and kin is not None else None
        self._names_of: dict[int, Names] = {}
        self._secrets: dict[str, tuple[bytes, float]] = {}  # of views, and until when they hold
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
        """One state over these streams, with every fact the log holds now: the view's rows, hot ones where they are, plus what is newer
        in the log.

        Needs no runner to have run, and moves no checkpoint. `as_of_us` and `known_at_us` (inclusive) restrict to facts that had
        occurred and were recorded by then. With features across customers either of them means reading the tenant's relations from the log;
        without them `related` is as of every fact: finish at now. Raises what an unreadable event raises; nothing is left out silently. StaleRead when
        the log cannot be read up to `at_least` within `within_s` seconds.
        """
        names = self.names()
        self._check_log(names)
        if at_least is not None:
            await_log(self._store, at_least, within_s)
        if not streams:  # to a store, no streams would mean all of them
            return Read(self.fold.empty(), self._store.head(), None if self._members is None else gathered(self.fold, ()))
        # Who belonged to the customer at `as_of` and moved on since, is in no state of now.
        if known_at_us is None and (as_of_us is None or self._members is None):
            (state,), head = self._read_now(names, [streams])
            newest = self.fold.newest_us(state)
            if as_of_us is None or newest is None or newest <= as_of_us:
                related = None if self._members is None else self._members.now(names, streams, partial(self._read_now, names))
                return Read(state, head, related)
        head = self._store.head()
        query = self._query(tuple(streams), upto=head, as_of_us=as_of_us, known_at_us=known_at_us)
        state = self.fold.fold(map(fact_of, self._store.read(query)))
        related = None if self._members is None else self._members.then(streams, query)
        return Read(state, head, related)

    def _read_now(self, names: Names, customers: Sequence[Sequence[StreamId]]) -> tuple[list[State], int]:
        """The state over the streams of each, and where the log was read to."""
        fold = self.fold
        keys = [str(stream) for streams in customers for stream in streams]
        parked: dict[str, Parked] = {}
        hot, head = self._hot_rows(names, keys, now=True), self._store.head()
        if hot is not None and max(at for at, _ in hot.values()) <= head:  # beyond it they are of a log that was put back since
            positions = {key: at for key, (at, _) in hot.items()}
            rows = {key: row for key, (_, row) in hot.items() if row is not None}
        else:
            positions, rows, parked = self._rows(names, keys)
            head = self._store.head()
            if not parked:
                self._warm(names, rows, positions)
        states: list[State] = []
        whose: dict[StreamId, State] = {}
        after: dict[int, list[StreamId]] = defaultdict(list)
        for streams in customers:
            state = fold.empty()
            for stream in streams:
                key = str(stream)
                at = positions[key]
                after[at].append(stream)
                if key in parked:
                    state = fold.merge(state, fold.fold(map(fact_of, self._store.read(self._query((stream,), upto=at)))))
                elif key in rows:
                    state = fold.merge(state, fold.load(rows[key])) if len(streams) > 1 else fold.load(rows[key])
            whose |= dict.fromkeys(streams, state)
            states.append(state)
        for at, its in after.items():
            for some in chunked(its) if at < head else ():
                for event in self._store.read(self._query(some, after=at, upto=head)):
                    fold.add(whose[event.stream], fact_of(event))
        return states, head

    def _hot_rows(self, names: Names, keys: Sequence[str], *, now: bool = False) -> dict[str, tuple[int, bytes | None]] | None:
        """Of every key its hot row and position; None unless there are all. `now`: none of a view that another process has dropped."""
        if self._hot is None or not keys:
            return None
        found = self._hot.get_many(names.view, self._secret(names, now=now), keys)
        return found if len(found) == len(set(keys)) else None

    def _warm(self, names: Names, rows: Mapping[str, bytes], positions: Mapping[str, int]) -> None:
        """Make hot what the table said, of streams that do not wait."""
        if self._hot is not None:
            for key, position in positions.items():
                if position:
                    self._hot.put_many(names.view, self._secret(names), {key: rows.get(key)}, position)

    def _rows(self, names: Names, keys: Sequence[str]) -> tuple[dict[str, int], dict[str, bytes], dict[str, Parked]]:
        """Of each key the position of its share, its row, and where it waits, as of one moment of the view."""
        shares = {key: names.checkpoints[names.share_of(key)] for key in keys}
        checkpoints = sorted(set(shares.values()))
        for _ in range(_TRIES):
            at = {name: self._views.checkpoint(name) for name in checkpoints}
            # Parked first: a stream that `retry` frees in between is then folded from the log, never read from its old row.
            found = self._views.get_many(names.aside, [PARKED + key for key in keys])
            parked = {key.removeprefix(PARKED): load_parked(raw) for key, raw in found.items()}
            rows = self._views.get_many(names.view, [key for key in keys if at[shares[key]]])  # those of a share at 0 are not whole yet
            if at == {name: self._views.checkpoint(name) for name in checkpoints}:
                return {key: at[shares[key]] for key in keys}, rows, parked
        return dict.fromkeys(keys, 0), {}, {}

    def kept(self, streams: Sequence[StreamId], *, at_least: AtLeast | None = None, within_s: float = WITHIN_S) -> Read:
        """The state as the view keeps it, without a look at the log: cheap, and as old as `position`.

        With `at_least` it waits, at most `within_s` seconds, until the view holds that write, then raises StaleRead. A stream that
        is parked is as old as its last event that could be read. Answers from the hot rows where they are new enough.
        """
        keys, names = [str(stream) for stream in streams], self.names()
        wanted = 0 if at_least is None else position_of(at_least)
        hot = self._hot_rows(names, keys) if self._members is None else None
        if hot is not None and (oldest := min(position for position, _ in hot.values())) >= wanted:
            return Read(self._merged(row for _, row in hot.values() if row is not None), oldest)
        found: list[Read] = []

        def look() -> int:
            positions, rows, parked = self._rows(names, keys)
            true = {key: parked[key].position - 1 if key in parked else positions[key] for key in keys}
            oldest, related = min(true.values(), default=wanted), None
            if self._members is not None and keys:
                related, theirs = self._members.kept(names, streams, self._kept_states)  # members may be in any share
                oldest = min(oldest, theirs)
            found[:] = [Read(self._merged(rows.values()), oldest, related)]
            self._warm(names, rows, true)
            return found[0].position

        await_position(f"view {names.view}", look, wanted, within_s, self._pace)
        return found[0]

    def _kept_states(self, names: Names, customers: Sequence[Sequence[StreamId]]) -> tuple[list[State], int | None]:
        positions, rows, _ = self._rows(names, [str(stream) for streams in customers for stream in streams])
        states = [self._merged(rows[key] for key in map(str, streams) if key in rows) for streams in customers]
        return states, min(positions.values(), default=None)

    def _secret(self, names: Names, *, now: bool = False) -> bytes:
        """Under which this view's hot rows are sealed: another one each time it begins anew."""
        secret, until = self._secrets.get(names.view, (b"", 0.0))
        if now or not secret or self._pace.now() >= until:
            kept = self._views.get(names.aside, _SECRET)
            if kept is None:
                self._views.write(names.aside, {_SECRET: secrets.token_bytes(32)}, checkpoint=0, expected=0)
                kept = self._views.get(names.aside, _SECRET) or b""  # whose came last
            secret = kept
            self._secrets[names.view] = secret, self._pace.now() + _SECRET_S
        return secret

    def rows(self) -> Iterator[tuple[str, bytes]]:
        """Every row of the view by key, as `Fold.dump` wrote it. Bounded memory; rows written meanwhile may show."""
        names = self.names()
        there = [self._views.checkpoint(checkpoint) > 0 for checkpoint in names.checkpoints]
        return ((key, row) for key, row in self._views.scan(names.view) if there[names.share_of(key)])

    def folded(self, stream: StreamId, upto: int) -> State:
        """The state of one stream up to a position, from the log alone. Raises what an unreadable event raises."""
        return self.fold.fold(map(fact_of, self._store.read(self._query((stream,), upto=upto))))

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

    # ------------------------------------------------------------ looking after it

    def parked(self) -> tuple[Parked, ...]:
        """The streams that wait, by key."""
        return tuple(load_parked(raw) for _, raw in self._views.scan(self.names().aside, PARKED))

    def digest(self) -> str:
        """SHA-256 over the view's rows by key, hex: the same facts give the same digest, however they were folded."""
        digest = hashlib.sha256()
        for key, value in self.rows():
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

    def _check_log(self, names: Names) -> None:
        """Drop a view that was folded from events this log does not have; once per runner and build."""
        while names.view not in self._checked:
            at = list(map(self._views.checkpoint, names.checkpoints))
            anchors = self._views.get_many(names.aside, names.anchors)
            if at != list(map(self._views.checkpoint, names.checkpoints)):
                continue  # another runner committed in between: look again
            if any(position and anchors.get(name) != self._anchor(position) for name, position in zip(names.anchors, at, strict=True)):
                self._drop(names)
            self._checked.add(names.view)

    def _anchor(self, position: int) -> bytes:
        return anchor_of(position, next(iter(self._store.read(Query(after=position - 1, upto=position))), None))

    def _drop(self, names: Names) -> None:
        self._views.drop(*names.all)
        self._secrets.pop(names.view, None)  # what was hot before is never given again


def anchor_of(position: int, event: StoredEvent | None) -> bytes:
    """What is kept with a checkpoint, to tell its log from another one or from an older copy."""
    return canonical([position, event.leaf.hex() if event is not None else None])
