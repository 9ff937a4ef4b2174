"""Appending to a SQLite log, beside upstream's recorder and beside SQLite alone, in the same process on the same events.

`python -m benchmarks.append --json --size 50000`. All three are durable (WAL, synchronous=FULL, which is what upstream leaves SQLite at). The peer is the recorder of
`eventsourcing`: one table, four columns, no key for idempotency, no leaf; header and data are its state. The limit is
`executemany` of the finished rows into tables and indexes like ours, without planning, hashing, looking anything up or triggers.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import json
import random
import sqlite3
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import UUID

from eventsourcing.persistence import StoredEvent as UpstreamEvent
from eventsourcing.sqlite import SQLiteApplicationRecorder, SQLiteDatastore

from postsale.events import Actor, Header, Lane, NewEvent, StreamId
from postsale.store import Appended, SQLiteStore, Submission
from postsale.store.sqlite_schema import expected_schema

BATCH = 1_000
GOAL_OF_PEER = 1.2  # of upstream's recorder, which writes 4 columns to one table
THREADS = 8


def make_events(size: int) -> list[NewEvent]:
    """Facts of `size` / 50 customers, about 450 bytes each."""
    rand = random.Random(7)
    header = Header(actor=Actor("source", "benchmark"), source="billing", raw_mac="0" * 32, content_key="k1", trace="0" * 55)
    data = json.dumps({"amount_minor": 4_900, "currency": "EUR", "note": "n" * 150}).encode()
    return [
        NewEvent(
            stream=StreamId("acme", "customers", f"c{rand.randrange(max(1, size // 50)):016x}"),
            lane=Lane.FACT,
            expected_version=None,
            event_id=UUID(int=rand.getrandbits(128)),
            wire_name="billing/invoice-paid@1",
            schema=b"0123456789abcdef",
            occurred_at_us=1_790_000_000_000_000 + number,
            content_mac=rand.randbytes(16),
            header=header.to_bytes(),
            data=data,
        )
        for number in range(size)
    ]


def batches(events: Sequence[NewEvent], size: int) -> list[Sequence[NewEvent]]:
    return [events[at : at + size] for at in range(0, len(events), size)]


def ours(events: Sequence[NewEvent], path: Path, batch: int) -> float:
    """Seconds."""
    work = [[Submission((event,)) for event in part] for part in batches(events, batch)]
    with closing(SQLiteStore(path)) as store:
        start = time.perf_counter()
        for submissions in work:
            assert all(isinstance(outcome, Appended) for outcome in store.append(submissions))
        return time.perf_counter() - start


def ours_in_threads(events: Sequence[NewEvent], path: Path) -> float:
    """One event a call from each of THREADS threads, which share commits."""
    with closing(SQLiteStore(path)) as store:

        def run(part: Sequence[NewEvent]) -> None:
            for event in part:
                assert isinstance(store.append([Submission((event,))])[0], Appended)

        threads = [threading.Thread(target=run, args=(events[index::THREADS],)) for index in range(THREADS)]
        start = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return time.perf_counter() - start


def upstream(events: Sequence[NewEvent], path: Path, batch: int) -> float:
    recorder = SQLiteApplicationRecorder(SQLiteDatastore(str(path)))
    recorder.create_table()
    versions: dict[str, int] = {}
    work = []
    for part in batches(events, batch):
        rows = []
        for event in part:
            version = versions[event.stream.id] = versions.get(event.stream.id, 0) + 1
            id_ = UUID(bytes=hashlib.md5(event.stream.id.encode(), usedforsecurity=False).digest())
            rows.append(UpstreamEvent(id_, version, event.wire_name, event.header + event.data))
        work.append(rows)
    start = time.perf_counter()
    for rows in work:
        recorder.insert_events(rows)
    seconds = time.perf_counter() - start
    recorder.datastore.close()
    return seconds


def raw(events: Sequence[NewEvent], path: Path, batch: int) -> float:
    numbers: dict[StreamId, int] = {}
    work = []
    for first, part in zip(range(1, len(events) + 1, batch), batches(events, batch), strict=True):
        rows = [
            (
                position,
                1,
                numbers.setdefault(event.stream, len(numbers) + 1),
                0,
                position,
                event.event_id.bytes,
                1,
                event.occurred_at_us,
                event.occurred_at_us,
                event.content_mac,
                event.header,
                event.data,
                event.content_mac,
                position - 1,
                event.content_mac * 2,
            )
            for position, event in enumerate(part, first)
        ]
        work.append((sorted((1, row[5], row[0], row[9]) for row in rows), rows))
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.execute("PRAGMA wal_autocheckpoint = 8000")
        db.execute("PRAGMA cache_size = -32000")
        for sql in expected_schema().values():
            if "TRIGGER" not in sql:
                db.execute(sql)
        start = time.perf_counter()
        for keys, rows in work:
            db.execute("BEGIN IMMEDIATE")
            db.executemany("INSERT INTO keys VALUES (?, ?, ?, ?)", keys)
            db.executemany("INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)
            db.execute("COMMIT")
        return time.perf_counter() - start


def best_rate(run: Callable[[Sequence[NewEvent], Path, int], float], events: Sequence[NewEvent], batch: int, rounds: int) -> float:
    """Events per second of the fastest round, each on a file of its own."""
    best = float("inf")
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as directory:
            gc.collect()
            best = min(best, run(events, Path(directory) / "log.db", batch))
    return len(events) / best


def measure(name: str, value: float, goal: float | None, peer: float | None, limit: float | None, unit: str = "events/s") -> dict[str, Any]:
    digits = 0 if unit == "events/s" else 2
    return {
        "name": name,
        "value": round(value, digits),
        "unit": unit,
        "goal": goal,
        "met": goal is None or value >= goal,
        "peer": None if peer is None else round(peer, digits),
        "limit": None if limit is None else round(limit, digits),
    }


def main(argv: list[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print only the JSON line")
    parser.add_argument("--size", type=int, default=50_000, help="events; a tenth of them for the commit-per-event runs")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(argv)
    events = make_events(options.size)
    few = events[: max(THREADS, options.size // 10)]
    ours_batch, peer_batch, limit_batch = (best_rate(run, events, BATCH, options.rounds) for run in (ours, upstream, raw))
    ours_one, peer_one, limit_one = (best_rate(run, few, 1, options.rounds) for run in (ours, upstream, raw))
    shared = best_rate(lambda part, path, _: ours_in_threads(part, path), few, 1, options.rounds)
    result = {
        "benchmark": "append",
        "measures": [
            measure(f"append, {BATCH} a commit", ours_batch, None, peer_batch, limit_batch),
            measure(f"append, {BATCH} a commit, of the limit", ours_batch / limit_batch, None, peer_batch / limit_batch, 1, "ratio"),
            measure(f"append, {BATCH} a commit, of the peer", ours_batch / peer_batch, GOAL_OF_PEER, 1, limit_batch / peer_batch, "ratio"),
            measure("append, one a commit", ours_one, None, peer_one, limit_one),
            measure(f"append, one a call from {THREADS} threads", shared, None, None, limit_one),
        ],
    }
    if not options.json:
        for row in result["measures"]:
            print(row)
    print(json.dumps(result))
    return result


if __name__ == "__main__":
    main()
