"""A view computed at once over all history is the view that folding would have given, and folding goes on from it."""

from __future__ import annotations

import random
import threading
from contextlib import closing, contextmanager

import pytest

from postsale.aggregates.signals import InvoicePaid, TicketOpened, UsageObserved
from postsale.errors import ViewMoved
from postsale.events import ManualClock, StreamId, encode_payload, schema_digest, to_us
from postsale.projections import CustomerHealth, Fold, MemoryViews, Runner, SqliteViews
from postsale.projections.handover import duckdb_states
from postsale.store import SQLiteStore, Store
from postsale.testing import Events
from postsale.testing.store_building import START, each
from tests.store.stores import STORES

from .customers import day, signal
from .list_store import ListStore
from .test_runner import FOLD as POKES
from .test_runner import STREAMS, _mended, poison, poke, small_log


def record(store: Store, seed: int, size: int) -> None:
    events, rand = Events(seed), random.Random(seed)
    made = []
    for n in range(size):
        what = signal(rand.choice([InvoicePaid, UsageObserved, TicketOpened]), rand.randrange(90))
        stream = StreamId(rand.choice(["acme", "globex"]), "customers", f"c{rand.randrange(9)}")
        at = rand.choice([to_us(what.occurred_at), day(n)])
        made.append(
            events.fact(stream, wire_name=what.wire_name, schema=schema_digest(type(what)), data=encode_payload(what), occurred_at_us=at)
        )
    store.append(each(*made))


@pytest.mark.parametrize("at_once", [2_000_000, 30])  # all events, or by parts from disk
@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_a_view_computed_at_once_and_folded_on_equals_a_fold_over_everything(kind, at_once, tmp_path, monkeypatch):
    monkeypatch.setattr("postsale.projections.handover._EVENTS_AT_ONCE", at_once)
    seed = random.getrandbits(32)
    with closing(STORES[kind](tmp_path, ManualClock(START))) as store:
        record(store, seed, 200)
        runner = Runner(store, SqliteViews(tmp_path / "views", store.log_id), Fold(CustomerHealth), batch=30)
        told = []
        assert runner.rebuild(told.append, states=duckdb_states) == (0, 200, 200, 200), seed
        assert told == [(0, 200, 200, 200)]
        record(store, seed + 1, 100)
        assert runner.catch_up() == (200, 300, 100, 300)
        by_fold = Runner(store, MemoryViews(), Fold(CustomerHealth))
        by_fold.catch_up()
        assert runner.digest() == by_fold.digest(), seed
        again = Runner(store, SqliteViews(tmp_path / "views", store.log_id), Fold(CustomerHealth))  # which trusts the view it finds
        assert again.catch_up().events == 0
        assert again.digest() == by_fold.digest(), seed


def test_what_is_written_while_it_is_computed_is_folded_after_it(tmp_path):
    seed = random.getrandbits(32)
    with closing(SQLiteStore(tmp_path / "log.db", clock=ManualClock(START), durable=False)) as store:
        record(store, seed, 100)

        @contextmanager
        def while_writing(log, fold, upto):
            writer = threading.Thread(target=record, args=(store, seed + 1, 60))
            writer.start()
            with duckdb_states(log, fold, upto) as built:
                writer.join()
                yield built

        runner = Runner(store, MemoryViews(), Fold(CustomerHealth))
        assert runner.rebuild(states=while_writing) == (0, 160, 160, 160), seed
        by_fold = Runner(store, MemoryViews(), Fold(CustomerHealth))
        by_fold.catch_up()
        assert runner.digest() == by_fold.digest(), seed


def test_a_log_with_an_unreadable_event_is_folded_one_by_one_and_its_stream_parked():
    _mended["yes"] = False
    store = small_log(8)
    poison(store, STREAMS[1], 9)
    poke(store, STREAMS[1], 10)
    runner, other = Runner(store, MemoryViews(), POKES), Runner(store, MemoryViews(), POKES)
    assert runner.rebuild(states=duckdb_states) == other.rebuild()
    assert [(p.key, p.position, p.waiting) for p in runner.parked()] == [(str(STREAMS[1]), 9, 1)]
    assert runner.digest() == other.digest()


def test_another_runner_that_was_quicker_is_not_overwritten():
    store = small_log(8)
    views = MemoryViews()
    runner, other = Runner(store, views, POKES), Runner(store, views, POKES)

    def while_another_folds(log, fold, upto):
        other.catch_up()
        return duckdb_states(log, fold, upto)

    with pytest.raises(ViewMoved):
        runner.rebuild(states=while_another_folds)
    assert runner.catch_up().events == 0


def test_an_empty_log_gives_an_empty_view():
    runner = Runner(ListStore(), MemoryViews(), Fold(CustomerHealth))
    assert runner.rebuild(states=duckdb_states) == (0, 0, 0, 0)
    assert runner.status().rows == 0
