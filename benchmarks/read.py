"""Reading a SQLite log: one customer with a long past, by its snapshot and folded from the start.

`python -m benchmarks.read --json --size 10000`: the number of facts of the customer. The limit is reading the customer's newest event
alone, which is what a load cannot do without.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from benchmarks._common import a_log, batches, facts, make_items, measure, options, report
from postsale.store import Query, SQLiteStore
from postsale.store.log import Log
from postsale.store.snapshots import EVERY

GOAL_MS: Final = 5.0
_EACH: Final = 20


def median_ms(run: Callable[[], object], rounds: int) -> float:
    """The middle of `rounds` times 20 runs, after one that warms caches."""
    run()
    times = []
    for _ in range(rounds * _EACH):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return sorted(times)[len(times) // 2] * 1_000


def main(argv: list[str] | None = None) -> dict[str, Any]:
    chosen = options(__doc__, argv, size=10_000, rounds=3)
    every = min(EVERY, chosen.size)
    items = make_items(chosen.size + every - 1, customers=1)
    here, news = items[0].stream, items[chosen.size :]
    with TemporaryDirectory() as directory, a_log(SQLiteStore(Path(directory) / "log.db")) as log:
        for part in batches(items[: chosen.size], 1_000):
            log.append(facts(log, part))
        whole = Log(log.store, log.vault, log.clock, snapshot_every=0)
        quick = Log(log.store, log.vault, log.clock, snapshot_every=every)
        if quick.customer(here) != whole.customer(here) or quick.snapshots.load(here) is None:
            raise SystemExit("the customer with a snapshot is not the customer without")
        with_it = median_ms(lambda: quick.customer(here), chosen.rounds)
        log.append(facts(log, news))
        oldest = median_ms(lambda: quick.customer(here), chosen.rounds)
        limit = median_ms(lambda: list(log.store.read(Query(streams=(here,), backward=True, limit=1))), chosen.rounds)
        start = time.perf_counter()
        whole.customer(here)
        without = (time.perf_counter() - start) * 1_000
    goal = GOAL_MS if chosen.size <= 10_000 else None
    measures = [
        measure(f"load a customer of {chosen.size} facts, with a snapshot", with_it, "ms", goal=goal, limit=limit, most=True),
        measure(f"the same, {len(news)} facts after it, when it is oldest", oldest, "ms", goal=goal, limit=limit, most=True),
        measure(f"load a customer of {chosen.size} facts, from the start", without, "ms"),
    ]
    return report("read", measures, only_json=chosen.json)


if __name__ == "__main__":
    main()
