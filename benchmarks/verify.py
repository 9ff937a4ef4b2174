"""Verifying a SQLite log, beside the least that any verification must do, in the same process on the same file.

`python -m benchmarks.verify --json --size 200000`. The limit fetches every row in one process and computes three SHA-256 of the
right lengths for it (inner digest, leaf, one tree node), and checks nothing. There is no peer: upstream keeps no proofs.
"""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks._common import a_log, batches, facts, fastest, make_items, measure, options, report
from postsale.store import SQLiteStore, verify
from postsale.store.sqlite_read import COLUMNS

GOAL_PER_S = 500_000
BATCH = 5_000


def least(path: Path) -> float:
    """Seconds."""
    start = time.perf_counter()
    with closing(sqlite3.connect(path)) as db:
        for row in db.execute(f"SELECT {COLUMNS} FROM events"):
            header, data, leaf = row[9], row[10], row[13]
            inner = sha256(leaf + leaf + header + data).digest()
            other = sha256(leaf + leaf + leaf + inner).digest()
            sha256(b"\x01" + leaf + other).digest()
    return time.perf_counter() - start


def verified(path: Path, size: int) -> float:
    with closing(SQLiteStore(path)) as store:
        start = time.perf_counter()
        found = verify(store)
        seconds = time.perf_counter() - start
    if not found.ok or found.events != size:
        raise SystemExit(f"the log is not sound: {found.problems[:3]}")
    return seconds


def main(argv: list[str] | None = None) -> dict[str, Any]:
    chosen = options(__doc__, argv, size=200_000, rounds=3)
    with TemporaryDirectory() as directory:
        path = Path(directory) / "log.db"
        with a_log(SQLiteStore(path)) as log:
            for part in batches(make_items(chosen.size), BATCH):
                log.append(facts(log, part))
        best = fastest(chosen.rounds, ours=lambda _: verified(path, chosen.size), limit=lambda _: least(path))
    rate = {name: chosen.size / seconds for name, seconds in best.items()}
    measures = [
        measure("verify", rate["ours"], "events/s", goal=GOAL_PER_S, limit=rate["limit"]),
        measure("verify, of the limit", rate["ours"] / rate["limit"], "ratio", limit=1),
    ]
    return report("verify", measures, only_json=chosen.json)


if __name__ == "__main__":
    main()
