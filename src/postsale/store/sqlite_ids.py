"""Which ids a SQLite log has, and where: the newest in memory, older ones in sorted generations behind filters.

An index on random keys would write a page for every event. Here the ids of the newest events are in `events` only, and in a dict of
each store that asks; when there are GENERATION of them, one statement writes them sorted into `ids`, where they outlive archived
events. Memory and filters only say where to look: what is found is read from the file, by the snapshot of whoever asks.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from hashlib import sha256
from itertools import count
from typing import Final

from postsale.errors import LogDamaged
from postsale.store.dedup import Filter
from postsale.store.plan import Id, Key

GENERATION: Final = 65_536  # events whose ids are in memory: up to 20 MB, and as many rows are read when a store first asks
_IDS_PER_LOOKUP: Final = 500

SEALED: Final = "SELECT coalesce(max(last), 0) FROM id_generations"
"""The position up to which ids are in generations."""

_IN_GENERATIONS: Final = (  # the version of an archived event is its position: decisions are never archived
    "SELECT i.event_id, i.position, coalesce(e.version, i.position), i.recorded_at, i.content_mac"
    " FROM id_generations g CROSS JOIN ids i LEFT JOIN events e ON e.position = i.position"
    " WHERE g.generation BETWEEN ? AND ? AND i.generation = g.generation AND i.tenant = ? AND i.event_id IN ({marks})"
)
_HELD: Final = "SELECT generation, min(position), max(position), count(*) FROM ids GROUP BY generation"


class Ids:
    """The ids of one log, for the threads of one store. Each call takes a connection in a transaction."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sealed = 0  # position up to which ids are in generations
        self._seen = 0  # position up to which the ids after that are known
        self._unsealed: dict[Id, int] = {}  # their positions
        self._filters: dict[int, tuple[int, Filter]] = {}  # by first generation: the last one and the filter over both and between

    def forget(self) -> None:
        """After a transaction was rolled back: read everything again when it is needed."""
        with self._lock:
            self._sealed = self._seen = 0
            self._unsealed.clear()
            self._filters.clear()

    def find(self, db: sqlite3.Connection, ids: Sequence[Id]) -> dict[Id, Key]:
        """Those of these ids that the log has."""
        with self._lock:
            if not self._follow(db):
                return _find_without_memory(db, ids)
            unsealed = self._unsealed
            near = [] if unsealed.keys().isdisjoint(ids) else [(id_, unsealed[id_]) for id_ in ids if id_ in unsealed]
            far = [(first, last, some) for first, (last, filter_) in self._filters.items() if (some := filter_.suspects(ids))]
        found = {id_: key for id_, position in near if (key := _key_at(db, id_, position)) is not None}
        for first, last, some in far:
            found |= _in_generations(db, first, last, some)
        return found

    def added(self, ids: Sequence[Id], first: int) -> None:
        """These ids, at `first` and the positions after it, are committed: they need not be read."""
        with self._lock:
            if self._seen == first - 1:
                self._unsealed.update(zip(ids, count(first)))
                self._seen += len(ids)

    def seal_when_due(self, db: sqlite3.Connection, position: int) -> None:
        """Seal when the newest event, at `position`, makes a generation complete. In a write transaction."""
        if position - db.execute(SEALED).fetchone()[0] >= GENERATION:
            self.seal(db, position)

    def seal(self, db: sqlite3.Connection, position: int) -> None:
        """Write the ids up to this position into a generation, unless they are in one. In a write transaction."""
        with self._lock:
            (sealed,) = db.execute(SEALED).fetchone()
            if position <= sealed:
                return
            self._read_filters(db)
            (generation,) = db.execute("SELECT coalesce(max(generation), 0) + 1 FROM id_generations").fetchone()
            written = db.execute(
                "INSERT INTO ids SELECT ?, tenant, event_id, position, recorded_at, content_mac FROM events NOT INDEXED"
                " WHERE position > ? AND position <= ? ORDER BY tenant, event_id",
                (generation, sealed, position),
            )
            if written.rowcount != position - sealed:
                raise LogDamaged(position=sealed + 1, reason=f"up to {position} there are {written.rowcount} events")
            db.execute("INSERT INTO id_generations VALUES (?, ?)", (generation, position))
            raw_ids = db.execute("SELECT event_id FROM ids WHERE generation = ?", (generation,))
            self._keep_in_filter(db, generation, (raw_id for (raw_id,) in raw_ids))

    # ---------------------------------------------------------------- under the lock

    def _follow(self, db: sqlite3.Connection) -> bool:
        """Take in what this snapshot has more than memory. False when memory is a generation ahead of it."""
        sealed, position = db.execute(f"SELECT ({SEALED}), position FROM log").fetchone()
        if sealed < self._sealed:
            return False
        if sealed > self._sealed:
            self._read_filters(db)
            self._unsealed.clear()
            self._sealed = self._seen = sealed
        if position > self._seen:
            tenants = dict(db.execute("SELECT no, name FROM tenants"))
            rows = db.execute("SELECT tenant, event_id, position FROM events NOT INDEXED WHERE position > ?", (self._seen,))
            self._unsealed.update(((tenants[no], raw_id), at) for no, raw_id, at in rows)
            self._seen = position
        return True

    def _read_filters(self, db: sqlite3.Connection) -> None:
        for first, last in db.execute("SELECT first, last FROM id_filters ORDER BY first").fetchall():
            if first not in self._filters or self._filters[first][0] != last:
                kept = db.execute("SELECT ids, bits, sha256 FROM id_filters WHERE first = ?", (first,)).fetchone()
                self._filters[first] = (last, Filter.kept(*kept))
        (generations,) = db.execute("SELECT coalesce(max(generation), 0) FROM id_generations").fetchone()
        covered = 0
        for first, (last, _) in sorted(self._filters.items()):
            if first != covered + 1:
                break
            covered = last
        if covered < generations:  # a filter is missing or says too little: look into every generation
            self._filters = {1: (generations, Filter.of_anything())}

    def _keep_in_filter(self, db: sqlite3.Connection, generation: int, raw_ids: Iterable[bytes]) -> None:
        first = max(self._filters, default=generation)
        newest = self._filters[first][1] if first in self._filters else None
        if newest is None or newest.count >= newest.capacity:
            first, newest = generation, Filter.empty(newest)
        newest.add(raw_ids)
        self._filters[first] = (generation, newest)
        db.execute(
            "INSERT OR REPLACE INTO id_filters VALUES (?, ?, ?, ?, ?)", (first, generation, newest.count, newest.bits, newest.digest())
        )


# ---------------------------------------------------------------- what the file says


def _key_at(db: sqlite3.Connection, id_: Id, position: int) -> Key | None:
    """What is known of an unsealed id; None when this snapshot does not have it yet."""
    row = db.execute(
        "SELECT e.version, e.recorded_at, e.content_mac FROM events e CROSS JOIN tenants t ON t.no = e.tenant"
        " WHERE e.position = ? AND t.name = ? AND e.event_id = ?",
        (position, *id_),
    ).fetchone()
    return None if row is None else Key(position, *row)


def _in_generations(db: sqlite3.Connection, first: int, last: int, ids: Iterable[Id]) -> dict[Id, Key]:
    found: dict[Id, Key] = {}
    by_tenant: dict[str, list[bytes]] = {}
    for tenant, raw_id in ids:
        by_tenant.setdefault(tenant, []).append(raw_id)
    for tenant, raw_ids in by_tenant.items():
        for (no,) in db.execute("SELECT no FROM tenants WHERE name = ?", (tenant,)).fetchall():
            for at in range(0, len(raw_ids), _IDS_PER_LOOKUP):
                some = raw_ids[at : at + _IDS_PER_LOOKUP]
                rows = db.execute(_IN_GENERATIONS.format(marks=", ".join("?" * len(some))), (first, last, no, *some))
                found |= {(tenant, raw_id): Key(*key) for raw_id, *key in rows}
    return found


def _find_without_memory(db: sqlite3.Connection, ids: Sequence[Id]) -> dict[Id, Key]:
    """For a reader whose snapshot is older than memory: through all generations, and all events after them."""
    found = _in_generations(db, 1, 2**62, ids)
    for id_ in ids:
        for (position,) in db.execute(
            f"SELECT e.position FROM events e NOT INDEXED WHERE e.position > ({SEALED}) AND e.event_id = ?", (id_[1],)
        ).fetchall():
            if (key := _key_at(db, id_, position)) is not None:
                found[id_] = key
    return found


# ---------------------------------------------------------------- for verification


def doubts(db: sqlite3.Connection) -> Iterator[str]:
    """Whether each id can be found: it is in the generation of its position, and a sound filter covers that. The ids are compared elsewhere."""
    held = {generation: tuple(found) for generation, *found in db.execute(_HELD)}
    before = 0
    generations = db.execute("SELECT generation, last FROM id_generations ORDER BY generation").fetchall()
    for number, (generation, last) in enumerate(generations, 1):
        if generation != number or held.pop(generation, None) != (before + 1, last, last - before):
            yield f"generation {generation} of the ids does not hold those of positions {before + 1} to {last}"
        before = last
    yield from (f"there are ids of a generation {generation!r} that does not exist" for generation in held)
    covered = 0
    for first, last, bits, digest in db.execute("SELECT first, last, bits, sha256 FROM id_filters ORDER BY first"):
        if first != covered + 1 or sha256(bits).digest() != digest:
            yield f"the filter of the ids from generation {first} on is damaged"
        covered = last
    if covered != len(generations):
        yield f"the filters of the ids end at generation {covered}, there are {len(generations)}"
