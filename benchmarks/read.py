"""Reading a SQLite log: as typed events beside upstream, and one customer with a long past, by its snapshot and from the start.

`python -m benchmarks.read --json --size 100000`. Whole log: from the row to the typed object; ours through `Log.events`, which also
gives the header and the envelope; upstream through pages of its recorder's `select_notifications` and its mapper; the limit is
SQLite's driver alone, every row as a tuple. One customer (of at most 10,000 facts): the limit is reading the newest event alone,
which is what a load cannot do without.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from eventsourcing.persistence import ApplicationRecorder
from eventsourcing.sqlite import SQLiteApplicationRecorder, SQLiteDatastore

from benchmarks._common import Item, a_log, a_mapper, batches, facts, fastest, make_items, measure, options, report
from postsale.store import Query, SQLiteStore
from postsale.store.log import Log
from postsale.store.snapshots import EVERY
from postsale.store.sqlite_read import COLUMNS

GOAL_OF_PEER: Final = 2.0  # times upstream's rate
GOAL_MS: Final = 5.0
_BATCH: Final = 5_000
_PAGE: Final = 1_000
_LONG: Final = 10_000  # facts of the customer
_EACH: Final = 20


# ---------------------------------------------------------------- the whole log


def read_log(log: Log, size: int) -> float:
    """Seconds."""
    found = 0
    start = time.perf_counter()
    for recorded in log.events(Query()):
        found += recorded.data is not None
    seconds = time.perf_counter() - start
    assert found == size
    return seconds


def read_upstream(recorder: ApplicationRecorder, size: int) -> float:
    mapper = a_mapper()
    found, after = 0, 0
    start = time.perf_counter()
    while page := recorder.select_notifications(after, _PAGE, inclusive_of_start=False):
        for notification in page:
            found += mapper.to_domain_event(notification) is not None
        after = page[-1].id
    seconds = time.perf_counter() - start
    assert found == size
    return seconds


def read_rows(path: Path, size: int) -> float:
    found = 0
    start = time.perf_counter()
    with closing(sqlite3.connect(path)) as db:
        for _ in db.execute(f"SELECT {COLUMNS} FROM events ORDER BY position"):
            found += 1
    assert found == size
    return time.perf_counter() - start


def whole_log(items: Sequence[Item], rounds: int) -> list[dict[str, Any]]:
    size = len(items)
    with TemporaryDirectory() as directory, a_log(SQLiteStore(Path(directory) / "log.db")) as log:
        recorder = SQLiteApplicationRecorder(SQLiteDatastore(str(Path(directory) / "upstream.db")))
        recorder.create_table()
        mapper = a_mapper()
        for part in batches(items, _BATCH):
            log.append(facts(log, part))
            recorder.insert_events([mapper.to_stored_event(item.domain_event) for item in part])
        best = fastest(
            rounds,
            ours=lambda _: read_log(log, size),
            upstream=lambda _: read_upstream(recorder, size),
            limit=lambda _: read_rows(Path(directory) / "log.db", size),
        )
        recorder.datastore.close()
    rate = {name: size / seconds for name, seconds in best.items()}
    return [
        measure("SQLite, row to typed event", rate["ours"], "events/s", peer=rate["upstream"], limit=rate["limit"]),
        measure("SQLite, row to typed event, of the peer", rate["ours"] / rate["upstream"], "ratio", goal=GOAL_OF_PEER, peer=1),
    ]


# ---------------------------------------------------------------- one customer


def median_ms(run: Callable[[], object], rounds: int) -> float:
    """The middle of `rounds` times 20 runs, after one that warms caches."""
    run()
    times = []
    for _ in range(rounds * _EACH):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return sorted(times)[len(times) // 2] * 1_000


def one_customer(size: int, rounds: int) -> list[dict[str, Any]]:
    every = min(EVERY, size)
    items = make_items(size + every - 1, customers=1)
    here, news = items[0].stream, items[size:]
    with TemporaryDirectory() as directory, a_log(SQLiteStore(Path(directory) / "log.db")) as log:
        for part in batches(items[:size], 1_000):
            log.append(facts(log, part))
        whole = Log(log.store, log.vault, log.clock, snapshot_every=0)
        quick = Log(log.store, log.vault, log.clock, snapshot_every=every)
        if quick.customer(here) != whole.customer(here) or quick.snapshots.load(here) is None:
            raise SystemExit("the customer with a snapshot is not the customer without")
        with_it = median_ms(lambda: quick.customer(here), rounds)
        log.append(facts(log, news))
        oldest = median_ms(lambda: quick.customer(here), rounds)
        limit = median_ms(lambda: list(log.store.read(Query(streams=(here,), backward=True, limit=1))), rounds)
        start = time.perf_counter()
        whole.customer(here)
        without = (time.perf_counter() - start) * 1_000
    return [
        measure(f"load a customer of {size} facts, with a snapshot", with_it, "ms", goal=GOAL_MS, limit=limit, most=True),
        measure(f"the same, {len(news)} facts after it, when it is oldest", oldest, "ms", goal=GOAL_MS, limit=limit, most=True),
        measure(f"load a customer of {size} facts, from the start", without, "ms"),
    ]


def main(argv: list[str] | None = None) -> dict[str, Any]:
    chosen = options(__doc__, argv, size=100_000, rounds=3)
    measures = whole_log(make_items(chosen.size), chosen.rounds) + one_customer(min(_LONG, chosen.size), chosen.rounds)
    return report("read", measures, only_json=chosen.json)


if __name__ == "__main__":
    main()
