"""The simulated vendor: processor time for a customer's year, and memory as customers and days grow.

`python -m benchmarks.simulator --json --size 200`: customers whose year is lived. The peer draws the same number of events from a plain
generator, one after the other, and knows no customer; the limit makes the same signals again, of values that are there already. Memory is what
Python allocates at its peak, of 60 customers and of ten times `--size`, for a month; and of 60 after a month and after a year.
"""

from __future__ import annotations

import random
import time
import tracemalloc
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from benchmarks._common import measure, options, report
from postsale.simulator import Delivery, Vendor

START = datetime(2026, 1, 5, tzinfo=UTC)
YEAR, MONTH, FEW = 365, 30, 60
GOAL_S, GOAL_RATIO = 0.1, 1.5
_KINDS = [f"kind-{n}" for n in range(40)]


def vendor(customers: int, days: int) -> Vendor:
    return Vendor(3, customers=customers, start=START, days=days)


def processor_s(run: Callable[[], object], rounds: int) -> float:
    """Of this process, in the fastest round."""
    best = float("inf")
    for _ in range(rounds):
        start = time.process_time()
        run()
        best = min(best, time.process_time() - start)
    return best


def lived(customers: int, days: int) -> int:
    """Live through a story, holding nothing; how many signals reached us."""
    return sum(isinstance(arrival, Delivery) for arrival in vendor(customers, days).arrivals())


def drawn(number: int) -> int:
    """As many events of random customers, kinds and times, each forgotten at once."""
    rand, seconds, total = random.Random(3), 0.0, 0
    for _ in range(number):
        seconds += rand.expovariate(1 / 600)
        event = {"customer": rand.randrange(1_000), "kind": rand.choice(_KINDS), "at": START + timedelta(seconds=seconds)}
        total += len(event)
    return total


def peak_kb(customers: int, days: int) -> float:
    tracemalloc.start()
    try:
        lived(customers, days)
        return tracemalloc.get_traced_memory()[1] / 1_000
    finally:
        tracemalloc.stop()


def main(argv: list[str] | None = None) -> dict[str, Any]:
    chosen = options(__doc__, argv, size=200, rounds=2)
    few_customers = min(FEW, chosen.size)
    signals = [arrival.signal for arrival in vendor(few_customers, MONTH).arrivals() if isinstance(arrival, Delivery)]
    values = [(type(signal), dict(signal)) for signal in signals]
    number = lived(chosen.size, YEAR)
    ours = processor_s(lambda: lived(chosen.size, YEAR), chosen.rounds)
    bare = processor_s(lambda: vendor(chosen.size, YEAR).live(), chosen.rounds)
    peer = processor_s(lambda: drawn(number), chosen.rounds)
    made = processor_s(lambda: [cls(**fields) for cls, fields in values], chosen.rounds) / len(values) * number
    few, many, longer = peak_kb(few_customers, MONTH), peak_kb(10 * chosen.size, MONTH), peak_kb(few_customers, YEAR)
    ratio = (many / (10 * chosen.size)) / (few / few_customers)
    measures = [
        measure("a customer's year, as its sources tell it", 1_000 * ours / chosen.size, "processor ms", goal=1_000 * GOAL_S, peer=1_000 * peer / chosen.size, limit=1_000 * made / chosen.size, most=True),
        measure("a customer's year, for the truth alone", 1_000 * bare / chosen.size, "processor ms"),
        measure("signals", number / ours, "signals/s", peer=number / peer),
        measure(f"memory a customer, {few_customers} to {10 * chosen.size:,} customers", ratio, "times", goal=GOAL_RATIO, most=True),
        measure("memory, a month to a year", longer / few, "times", goal=GOAL_RATIO, most=True),
        measure(f"memory of {10 * chosen.size:,} customers", many / 1_000, "MB"),
    ]  # fmt: skip
    return report("simulator", measures, only_json=chosen.json)


if __name__ == "__main__":
    main()
