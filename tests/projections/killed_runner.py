"""Run as a process by test_runner: folds a log into views and kills itself where it is told."""

from __future__ import annotations

import os
import random
import signal as signals
import sys

from postsale.aggregates.signals import InvoicePaid, TicketOpened, UsageObserved
from postsale.events import StreamId
from postsale.projections import CustomerHealth, Fold, Runner, SqliteViews, Views
from postsale.projections.views_postgres import PostgresViews

from .customers import day, signal
from .list_store import ListStore

EVENTS = 400


def make_store(log_id: str) -> ListStore:
    """The same log in every process."""
    rng = random.Random(11)
    store = ListStore(log_id)
    for n in range(EVENTS):
        store.now_us = day(n)
        kind = rng.choice([InvoicePaid, UsageObserved, TicketOpened])
        store.record(StreamId("acme", "customers", f"c{rng.randrange(9)}"), signal(kind, n - rng.randrange(3)))
    return store


def make_views(place: str, schema: str, log_id: str) -> Views:
    return PostgresViews(place, log_id, schema=schema) if schema else SqliteViews(place, log_id)


def main(place: str, schema: str, log_id: str, commits: int, facts: int) -> None:
    seen = {"commits": 0, "facts": 0}

    def count(what: str, limit: int) -> None:
        seen[what] += 1
        if seen[what] == limit:
            os.kill(os.getpid(), signals.SIGKILL)

    runner = Runner(make_store(log_id), make_views(place, schema, log_id), Fold(CustomerHealth), batch=37)
    runner.catch_up(on_fact=lambda *_: count("facts", facts), on_progress=lambda _: count("commits", commits))


if __name__ == "__main__":
    main(*sys.argv[1:4], int(sys.argv[4]), int(sys.argv[5]))
