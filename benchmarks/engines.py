"""Customers with one thing to do each, through the embedded engine and through Temporal's development server, in the same process.

`python -m benchmarks.engines --json --size 200`. A customer's fact raises a trigger, which is decided on and suppressed: one activity on Temporal,
one visit here. Each engine has a log of its own on SQLite with the same facts. Temporal's rate is from the first call until the last
workflow is at rest, with its worker in this process and sixteen callers at once; its limit
is the calls alone.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

from benchmarks._common import report
from postsale.access import FileVault
from postsale.agents import Agent, ChurnOutreach
from postsale.agents.engines import EmbeddedEngine
from postsale.agents.engines.temporal import TemporalEngine
from postsale.aggregates.identity import customer_stream
from postsale.aggregates.signals import InvoicePaid
from postsale.events import DAY_US, StoredEvent, SystemClock, from_us
from postsale.store import SQLiteStore
from postsale.store.log import Cause, Log

GOAL = 5.0
_CALLERS = 16  # at once; the embedded engine has one, as a run has
_TENANT, _AGENT = "acme", "churn-outreach"


def prepared(folder: Path, size: int) -> tuple[SQLiteStore, EmbeddedEngine, list[StoredEvent]]:
    """A log with a payment of long ago for each customer, and the engine that has not looked yet."""
    clock = SystemClock()
    store = SQLiteStore(folder / "log.db", clock=clock)
    log = Log(store, FileVault(folder / "log.keys"), clock)
    agents: list[Agent] = [ChurnOutreach()]
    engine = EmbeddedEngine(log, agents)
    engine.install(_TENANT, _AGENT)
    at = from_us(clock.now_us() - 90 * DAY_US)
    facts = [
        log.fact(
            customer_stream(_TENANT, f"c{n}"),
            InvoicePaid(source="bench", id=str(n), occurred_at=at, amount_minor=1, currency="EUR"),
            said_of=f"c{n}",
            subject=f"c{n}",
            cause=Cause(),
        )
        for n in range(size)
    ]
    log.append(facts)
    found = [store.find(_TENANT, fact.event_id) for fact in facts]
    return store, engine, [event for event in found if event is not None]


def embedded(size: int) -> float:
    """Visits a second."""
    with tempfile.TemporaryDirectory() as folder:
        store, engine, facts = prepared(Path(folder), size)
        with closing(store):
            begin = time.perf_counter()
            decided = sum(len(engine.attend(fact.stream, fact).decided) for fact in facts)
            taken = time.perf_counter() - begin
        assert decided == size
        return size / taken


def temporal(address: str, size: int) -> tuple[float, float]:
    """Workflows a second, and calls alone."""
    with tempfile.TemporaryDirectory() as folder:
        store, engine, facts = prepared(Path(folder), size)
        with closing(store), TemporalEngine(engine, address) as driven, driven.worker():
            begin = time.perf_counter()
            with ThreadPoolExecutor(_CALLERS) as callers:
                list(callers.map(lambda fact: driven.attend(fact.stream, fact), facts))
                called = time.perf_counter() - begin
                list(callers.map(lambda fact: driven.settle(fact.stream), facts))
            taken = time.perf_counter() - begin
            decided = sum(not engine.log.customer(fact.stream).pending for fact in facts)
            assert decided == size
        return size / taken, size / called


def main(argv: list[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print only the last line")
    parser.add_argument("--size", type=int, default=200, help="customers")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--address", help="of a running server; without it the one of the tests is started")
    chosen = parser.parse_args(argv)
    address = chosen.address
    if address is None:
        from tests.temporal import server

        address = server().address
    here = max(embedded(chosen.size) for _ in range(chosen.rounds))
    there, calls = max(temporal(address, chosen.size) for _ in range(chosen.rounds))
    measures = [
        {"name": "embedded", "value": round(here), "unit": "visits/s", "goal": None, "met": True, "peer": round(there), "limit": None},
        {
            "name": "temporal",
            "value": round(there, 1),
            "unit": "workflows/s",
            "goal": None,
            "met": True,
            "peer": None,
            "limit": round(calls, 1),
        },
        {
            "name": "embedded / temporal",
            "value": round(here / there, 2),
            "unit": "ratio",
            "goal": GOAL,
            "met": here / there >= GOAL,
            "peer": 1.0,
            "limit": None,
        },
    ]
    return report("engines", measures, only_json=chosen.json)


if __name__ == "__main__":
    main()
