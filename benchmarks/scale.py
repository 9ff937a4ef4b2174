"""Appending to a large log against appending to a small one: the same store, the same work, 100 times as many rows before it.

`python -m benchmarks.scale --json --size 10000000`. The log is filled through `Log.append`, a fifth of a million customers at the
full size, and stopped twice: at a hundredth of `size` and at `size`. Each time the store is closed and opened again, and the
fastest of several batches of 1,000 and of single events is taken. What would break it is a unique index over random ids: `limit` is the same ratio
for one bare SQLite table with such an index, filled with as many ids.
"""

from __future__ import annotations

import itertools
import random
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from tests.postgres import new_log

from benchmarks._common import Item, each_item, facts, measure, options, report
from postsale.access import FileVault
from postsale.events import SystemClock
from postsale.store import SQLiteStore, Store
from postsale.store.log import Log
from postsale.store.postgres import PostgresStore

GOAL: Final = 1.5  # times the time of the small log, at most
SMALLER: Final = 100
_FILL: Final = 5_000
_BATCH: Final = 1_000


def _timed(log: Log, items: Iterator[Item], size: int, rounds: int) -> float:
    """Seconds of the fastest append of `size` events."""
    times = []
    for _ in range(rounds):
        work = list(itertools.islice(items, size))
        start = time.perf_counter()
        log.append(facts(log, work))
        times.append(time.perf_counter() - start)
    return min(times)


def of_a_store(name: str, open_store: Callable[[], Store], size: int, rounds: int) -> list[dict[str, Any]]:
    items = each_item(max(1, size // 50))
    rows, found = 0, []
    vault = FileVault.in_memory()
    for goal in (size // SMALLER, size):
        with closing(open_store()) as store:
            log = Log(store, vault, SystemClock())
            while rows < goal:
                part = list(itertools.islice(items, min(_FILL, goal - rows)))
                log.append(facts(log, part))
                rows += len(part)
                print(f"\r{name}: {rows:,} of {size:,} rows", end="", file=sys.stderr)
        start = time.perf_counter()
        store = open_store()
        opened = time.perf_counter() - start
        with closing(store):
            log = Log(store, vault, SystemClock())
            log.append(facts(log, list(itertools.islice(items, 1))))  # finds the head and the names
            found.append((opened, _timed(log, items, _BATCH, rounds), _timed(log, items, 1, rounds)))
            rows += 1 + rounds * (_BATCH + 1)
    print(file=sys.stderr)
    small, large = found
    measures = []
    for at, what in ((1, f"a batch of {_BATCH}"), (2, "one event")):
        measures += [
            measure(f"{name}, {what} at {size // SMALLER} rows", small[at] * 1_000, "ms"),
            measure(f"{name}, {what} at {size} rows", large[at] * 1_000, "ms"),
            measure(f"{name}, {what}, large to small", large[at] / small[at], "ratio", goal=GOAL, most=True),
        ]
    return [*measures, measure(f"{name}, opening the log of {size} rows", large[0] * 1_000, "ms")]


def bare_index(size: int, rounds: int) -> dict[str, Any]:
    """The limit: 1,000 random ids into a bare table with a unique index, before and after `size` ids."""
    rand = random.Random(7)
    with TemporaryDirectory() as directory, closing(sqlite3.connect(Path(directory) / "ids.db", isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.execute("CREATE TABLE ids (at INTEGER PRIMARY KEY, id BLOB NOT NULL UNIQUE)")

        def insert(count: int) -> float:
            rows = [(rand.randbytes(16),) for _ in range(count)]
            start = time.perf_counter()
            db.execute("BEGIN IMMEDIATE")
            db.executemany("INSERT INTO ids (id) VALUES (?)", rows)
            db.execute("COMMIT")
            return time.perf_counter() - start

        seconds = []
        rows = 0
        for goal in (size // SMALLER, size):
            while rows < goal:
                rows += _FILL
                insert(_FILL)
            seconds.append(min(insert(_BATCH) for _ in range(rounds)))
    return measure("SQLite, a bare unique index of random ids, large to small", seconds[1] / seconds[0], "ratio")


def main(argv: list[str] | None = None) -> dict[str, Any]:
    chosen = options(__doc__, argv, size=10_000_000, rounds=41)
    measures = [bare_index(chosen.size, chosen.rounds)]
    with TemporaryDirectory() as directory:
        measures += of_a_store("SQLite", lambda: SQLiteStore(Path(directory) / "log.db"), chosen.size, chosen.rounds)
    with new_log() as (url, schema):
        measures += of_a_store("PostgreSQL", lambda: PostgresStore(url, schema=schema), chosen.size, chosen.rounds)
    return report("scale", measures, only_json=chosen.json)


if __name__ == "__main__":
    main()
