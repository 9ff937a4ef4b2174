"""Appending to a log, from typed objects to the acknowledged commit, beside upstream doing the same.

`python -m benchmarks.append --json --size 100000`. A batch is stored all or none on both sides; beside it, a submission for each
event, which upstream cannot do: each is refused or stored on its own. The limit is SQLite alone: `executemany` of finished rows into
our tables and indexes, without encoding, planning, hashing, looking anything up or triggers.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from eventsourcing.sqlite import SQLiteApplicationRecorder, SQLiteDatastore

from benchmarks._append_postgres import postgres_measures
from benchmarks._common import Item, a_log, a_mapper, batches, facts, fastest, make_items, measure, options, report, seconds_in_threads
from postsale.errors import PostSaleError
from postsale.store import SQLiteStore, Submission
from postsale.store.log import Log
from postsale.store.sqlite_schema import expected_schema

BATCHES = (1_000, 5_000)
THREADS = 32
GOAL_BATCH = 1.2  # times upstream's rate
GOAL_THREADS = 2.0


# ---------------------------------------------------------------- ours, on any store


def log_in_batches(log: Log, items: Sequence[Item], batch: int) -> float:
    """Seconds."""
    work = batches(items, batch)
    start = time.perf_counter()
    for part in work:
        log.append(facts(log, part))
    return time.perf_counter() - start


def log_each(log: Log, items: Sequence[Item], batch: int) -> float:
    """The same with a submission, and so an outcome, for each event."""
    work = batches(items, batch)
    start = time.perf_counter()
    for part in work:
        for outcome in log.store.append([Submission((event,)) for event in facts(log, part)]):
            if isinstance(outcome, PostSaleError):
                raise outcome
    return time.perf_counter() - start


def log_in_threads(log: Log, items: Sequence[Item], threads: int) -> float:
    """One event a call from each thread."""

    def run(index: int) -> None:
        for item in items[index::threads]:
            log.append(facts(log, (item,)))

    return seconds_in_threads(run, threads)


# ---------------------------------------------------------------- upstream, on any recorder


def upstream_in_batches(recorder: Any, items: Sequence[Item], batch: int) -> float:
    mapper = a_mapper()
    work = batches(items, batch)
    start = time.perf_counter()
    for part in work:
        recorder.insert_events([mapper.to_stored_event(item.domain_event) for item in part])
    return time.perf_counter() - start


def upstream_in_threads(recorder: Any, items: Sequence[Item], threads: int) -> float:
    mapper = a_mapper()

    def run(index: int) -> None:
        for item in items[index::threads]:
            recorder.insert_events([mapper.to_stored_event(item.domain_event)])

    return seconds_in_threads(run, threads)


# ---------------------------------------------------------------- SQLite


def ours(run: Callable[[Log, Sequence[Item], int], float], items: Sequence[Item], number: int) -> Callable[[Path], float]:
    def timed(directory: Path) -> float:
        with a_log(SQLiteStore(directory / "log.db")) as log:
            return run(log, items, number)

    return timed


def upstream(run: Callable[[Any, Sequence[Item], int], float], items: Sequence[Item], number: int) -> Callable[[Path], float]:
    def timed(directory: Path) -> float:
        recorder = SQLiteApplicationRecorder(SQLiteDatastore(str(directory / "log.db")))
        recorder.create_table()
        try:
            return run(recorder, items, number)
        finally:
            recorder.datastore.close()

    return timed


def sqlite_alone(items: Sequence[Item], batch: int) -> Callable[[Path], float]:
    def timed(directory: Path) -> float:
        with a_log(SQLiteStore(directory / "finished.db")) as log:
            log_in_batches(log, items, 5_000)
            with log.store.snapshot() as db:  # type: ignore[attr-defined]
                rows = db.execute("SELECT * FROM events ORDER BY position").fetchall()
        with closing(sqlite3.connect(directory / "log.db", isolation_level=None)) as db:
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = FULL")
            db.execute("PRAGMA wal_autocheckpoint = 8000")
            for sql in expected_schema().values():
                if "TRIGGER" not in sql:
                    db.execute(sql)
            insert = f"INSERT INTO events VALUES ({', '.join('?' * len(rows[0]))})"
            start = time.perf_counter()
            for part in batches(rows, batch):
                db.execute("BEGIN IMMEDIATE")
                db.executemany(insert, part)
                db.execute("COMMIT")
            return time.perf_counter() - start

    return timed


def sqlite_measures(items: Sequence[Item], rounds: int) -> list[dict[str, Any]]:
    found = []
    for batch in BATCHES:
        best = fastest(
            rounds,
            ours=ours(log_in_batches, items, batch),
            upstream=upstream(upstream_in_batches, items, batch),
            each=ours(log_each, items, batch),
            limit=sqlite_alone(items, batch),
        )
        rate = {name: len(items) / seconds for name, seconds in best.items()}
        of_peer = rate["ours"] / rate["upstream"]
        found += [
            measure(f"SQLite, {batch} a batch", rate["ours"], "events/s", peer=rate["upstream"], limit=rate["limit"]),
            measure(f"SQLite, {batch} a batch, of the peer", of_peer, "ratio", goal=GOAL_BATCH, peer=1),
            measure(f"SQLite, {batch} a batch, an outcome each", rate["each"], "events/s", peer=rate["upstream"], limit=rate["limit"]),
        ]
    few = items[: max(THREADS, len(items) // 20)]
    best = fastest(
        rounds,
        ours=ours(log_in_threads, few, THREADS),
        upstream=upstream(upstream_in_threads, few, THREADS),
        alone=ours(log_in_batches, few, 1),
        upstream_alone=upstream(upstream_in_batches, few, 1),
    )
    rate = {name: len(few) / seconds for name, seconds in best.items()}
    of_peer = rate["ours"] / rate["upstream"]
    return [
        *found,
        measure(f"SQLite, one event a call from {THREADS} threads", rate["ours"], "events/s", peer=rate["upstream"]),
        measure(f"SQLite, one event a call from {THREADS} threads, of the peer", of_peer, "ratio", goal=GOAL_THREADS, peer=1),
        measure("SQLite, one event a call from one thread", rate["alone"], "events/s", peer=rate["upstream_alone"]),
    ]


def main(argv: list[str] | None = None) -> dict[str, Any]:
    chosen = options(__doc__, argv, size=100_000, rounds=3)
    items = make_items(chosen.size)
    on_postgres = postgres_measures(
        items,
        chosen.rounds,
        log_in_batches=log_in_batches,
        log_in_threads=log_in_threads,
        upstream_in_batches=upstream_in_batches,
        upstream_in_threads=upstream_in_threads,
    )
    return report("append", [*sqlite_measures(items, chosen.rounds), *on_postgres], only_json=chosen.json)


if __name__ == "__main__":
    main()
