"""Verifying a SQLite log, beside the least that any verification must do, in the same process on the same file.

`python -m benchmarks.verify --json --size 100000`. The limit fetches every row and computes three SHA-256 of the right lengths
for it (inner digest, leaf, one tree node), and checks nothing. There is no peer: upstream keeps no proofs. Reading the same log
as events is measured beside it.
"""

from __future__ import annotations

import argparse
import gc
import json
import sqlite3
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from hashlib import sha256
from pathlib import Path
from typing import Any

from benchmarks.append import BATCH, batches, make_events, measure
from postsale.store import Query, SQLiteStore, Submission, verify
from postsale.store.sqlite_read import COLUMNS

GOAL_PER_S = 500_000


def least(path: Path) -> int:
    count = 0
    with closing(sqlite3.connect(path)) as db:
        for row in db.execute(f"SELECT {COLUMNS} FROM events"):
            header, data, leaf = row[9], row[10], row[13]
            inner = sha256(leaf + leaf + header + data).digest()
            other = sha256(leaf + leaf + leaf + inner).digest()
            sha256(b"\x01" + leaf + other).digest()
            count += 1
    return count


def best_rate(run: Callable[[], int], rounds: int) -> float:
    """Events per second of the fastest round."""
    best, count = float("inf"), 0
    for _ in range(rounds):
        gc.collect()
        start = time.perf_counter()
        count = run()
        best = min(best, time.perf_counter() - start)
    return count / best


def main(argv: list[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print only the JSON line")
    parser.add_argument("--size", type=int, default=100_000, help="events")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "log.db"
        with closing(SQLiteStore(path)) as store:
            for part in batches(make_events(options.size), BATCH):
                store.append([Submission((event,)) for event in part])

            def verified() -> int:
                report = verify(store)
                assert report.ok, report.problems
                return report.events

            limit = best_rate(lambda: least(path), options.rounds)
            rate = best_rate(verified, options.rounds)
            read = best_rate(lambda: sum(1 for _ in store.read(Query())), options.rounds)
    result = {
        "benchmark": "verify",
        "measures": [
            measure("verify", rate, GOAL_PER_S, None, limit),
            measure("verify, of the limit", rate / limit, None, None, 1, "ratio"),
            measure("read", read, None, None, limit),
        ],
    }
    if not options.json:
        for row in result["measures"]:
            print(row)
    print(json.dumps(result))
    return result


if __name__ == "__main__":
    main()
