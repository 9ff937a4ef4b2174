"""Reading a whole SQLite log as typed events, beside upstream doing the same, in the same process on the same events.

`python -m benchmarks.read --json --size 100000`. From the row to the typed object: ours through `Log.events`, which also gives the
header and the envelope; upstream through pages of its recorder's `select_notifications` and its mapper. The limit is SQLite's
driver alone: every row of the log as a tuple.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from eventsourcing.persistence import ApplicationRecorder
from eventsourcing.sqlite import SQLiteApplicationRecorder, SQLiteDatastore

from benchmarks._common import Item, a_log, a_mapper, batches, facts, fastest, make_items, measure, options, report
from postsale.store import Query, SQLiteStore
from postsale.store.log import Log
from postsale.store.sqlite_read import COLUMNS

GOAL = 2.0  # times upstream's rate
BATCH = 5_000
PAGE = 1_000


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
    while page := recorder.select_notifications(after, PAGE, inclusive_of_start=False):
        for notification in page:
            found += mapper.to_domain_event(notification) is not None
        after = page[-1].id
    seconds = time.perf_counter() - start
    assert found == size
    return seconds


def read_rows(path: Path, size: int) -> float:
    start = time.perf_counter()
    with closing(sqlite3.connect(path)) as db:
        found = 0
        for _ in db.execute(f"SELECT {COLUMNS} FROM events ORDER BY position"):
            found += 1
    assert found == size
    return time.perf_counter() - start


def sqlite_measures(items: Sequence[Item], rounds: int) -> list[dict[str, Any]]:
    size = len(items)
    with TemporaryDirectory() as directory, a_log(SQLiteStore(Path(directory) / "log.db")) as log:
        recorder = SQLiteApplicationRecorder(SQLiteDatastore(str(Path(directory) / "upstream.db")))
        recorder.create_table()
        mapper = a_mapper()
        for part in batches(items, BATCH):
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
        measure("SQLite, row to typed event, of the peer", rate["ours"] / rate["upstream"], "ratio", goal=GOAL, peer=1),
    ]


def main(argv: list[str] | None = None) -> dict[str, Any]:
    chosen = options(__doc__, argv, size=100_000, rounds=3)
    return report("read", sqlite_measures(make_items(chosen.size), chosen.rounds), only_json=chosen.json)


if __name__ == "__main__":
    main()
