"""The runner folds every fact exactly once into its view, whatever is killed, poisoned, rebuilt or raced meanwhile."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import ClassVar
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postsale.aggregates.signals import InvoicePaid, Signal, UsageObserved
from postsale.errors import InvalidInput, UnknownWireName, UpcastFailed, ViewMoved
from postsale.events import Count, Lane, ManualClock, StreamId, encode_payload, registry
from postsale.projections import CustomerHealth, Features, Fold, MemoryViews, Runner, count, days, fact_of, latest, total
from postsale.projections.partition import POISON
from postsale.projections.views_postgres import PostgresViews
from tests.nursery import forked

from .customers import day, signal
from .killed_runner import EVENTS, make_store, make_views
from .list_store import ListStore


class Poked(Signal):
    wire_name: ClassVar[str] = "tests.projections/poked@2"
    force: Count


_mended = {"yes": False}


@registry.upcaster("tests.projections/poked@1", "tests.projections/poked@2")
def _poked(fields):
    return {"force": fields["force"] if _mended["yes"] else fields["strength"]}


class Pokes(Features, version=3, owner="tests"):
    n = count((Poked, InvoicePaid))
    force = total(Poked, lambda e: e.force)
    last = latest(Poked, lambda e: e.force)
    lately = count(Poked, window=days(10))


FOLD = Fold(Pokes)
STREAMS = [StreamId("acme", "customers", f"c{n}") for n in range(4)]
ALIAS = StreamId("acme", "aliases", "a1")


@pytest.fixture(autouse=True)
def _broken_upcaster():
    _mended["yes"] = False


def poke(store, stream, n, force=1):
    return store.record(stream, signal(Poked, n, force=force))


def poison(store, stream, n):
    """An event that only a mended upcaster can read."""
    return store.put(stream, "tests.projections/poked@1", b'{"force":100}', day(n))


def small_log(events=30):
    store = ListStore()
    for n in range(events):
        poke(store, STREAMS[n % 4], n, n)
    return store


def whole(store, stream):
    """What folding the stream from the log by hand gives."""
    return FOLD.digest(FOLD.fold(fact_of(e) for e in store.events if e.stream == stream and e.lane is Lane.FACT))


def states(runner, views):
    return {key: FOLD.digest(FOLD.load(raw)) for key, raw in views.scan(runner.view)}


def test_a_caught_up_view_holds_the_state_of_every_stream(views):
    store = small_log()
    runner = Runner(store, views, FOLD, batch=7)
    assert runner.catch_up() == (0, 30, 30, 30)
    assert states(runner, views) == {str(s): whole(store, s) for s in STREAMS}
    assert re.fullmatch(r"Pokes\.v3\.[0-9a-f]{12}", runner.view)
    assert runner.catch_up() == (30, 30, 0, 30)


def test_only_facts_of_customers_and_aliases_are_folded(views):
    store = ListStore()
    poke(store, ALIAS, 0)
    poke(store, StreamId("acme", "referrals", "r1"), 1)
    store.record(STREAMS[0], signal(UsageObserved, 2))
    store.put(STREAMS[0], Poked.wire_name, encode_payload(signal(Poked, 3, force=1)), day(3), Lane.DECISION)
    runner = Runner(store, views, FOLD)
    assert runner.catch_up() == (0, 4, 1, 4)
    assert states(runner, views) == {str(ALIAS): whole(store, ALIAS)}


def test_progress_is_told_after_each_commit_and_a_run_can_end_early(views):
    store = small_log()
    runner = Runner(store, views, FOLD, batch=8)
    told = []
    assert runner.catch_up(on_progress=lambda p: told.append((p, views.checkpoint(runner.view))), upto=20) == (0, 20, 20, 20)
    assert told == [((0, 8, 8, 20), 8), ((0, 16, 16, 20), 16), ((0, 20, 20, 20), 20)]
    assert runner.catch_up() == (20, 30, 10, 30)
    assert states(runner, views) == {str(s): whole(store, s) for s in STREAMS}


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 60)), max_size=40),
    st.integers(1, 9),
    st.integers(0, 3),
    st.lists(st.integers(0, 40), max_size=4),
)
def test_any_batching_caching_and_stopping_gives_the_same_view_as_a_rebuild(rows, batch, cached, stops):
    store, views = ListStore(), MemoryViews()
    runner = Runner(store, views, FOLD, batch=batch, cached=cached)
    for i, (stream, n) in enumerate(rows):
        poke(store, STREAMS[stream], n, i)
        if i in stops:
            runner.catch_up()
    runner.catch_up()
    digest = runner.digest()
    assert states(runner, views) == {str(s): whole(store, s) for s in STREAMS if any(e.stream == s for e in store.events)}
    runner.rebuild()
    assert runner.digest() == digest
    assert Runner(store, MemoryViews(), FOLD).rebuild() == (0, len(rows), len(rows), len(rows))


def test_each_fact_is_shown_with_the_state_before_and_after_in_the_order_of_the_log(views):
    store = small_log(12)
    seen = []

    def on_fact(event, before, after):
        assert FOLD.position(before) < event.position == FOLD.position(after)
        assert FOLD.finish(after, day(99))["n"] == FOLD.finish(before, day(99))["n"] + 1
        assert views.checkpoint(runner.view) < event.position  # before its commit
        seen.append(event.position)

    runner = Runner(store, views, FOLD, batch=5)
    runner.catch_up(on_fact)
    assert seen == list(range(1, 13))


def test_when_the_callback_fails_nothing_of_its_batch_is_kept_and_it_is_called_again(views):
    store = small_log(12)
    runner = Runner(store, views, FOLD, batch=5)
    seen = []

    def failing(event, before, after):
        seen.append(event.position)
        if len(seen) == 8:
            raise RuntimeError("trigger store is down")

    with pytest.raises(RuntimeError):
        runner.catch_up(failing)
    assert views.checkpoint(runner.view) == 5
    runner.catch_up(failing)
    assert seen == [*range(1, 9), *range(6, 13)]
    assert states(runner, views) == {str(s): whole(store, s) for s in STREAMS}


# ---------------------------------------------------------------- poison


def test_a_poison_event_parks_its_stream_and_no_other(views):
    store = small_log(8)
    bad = poison(store, STREAMS[1], 8)
    poke(store, STREAMS[1], 9)
    poke(store, STREAMS[2], 9)
    runner = Runner(store, views, FOLD, batch=100)
    assert runner.catch_up() == (0, 11, 9, 11)
    (parked,) = runner.parked()
    assert (parked.key, parked.position, parked.wire_name, parked.waiting) == (str(STREAMS[1]), bad.position, bad.wire_name, 1)
    assert (parked.error, parked.reason.startswith("the upcaster from")) == ("UpcastFailed", True)
    assert states(runner, views)[str(STREAMS[2])] == whole(store, STREAMS[2])
    assert FOLD.position(FOLD.load(views.get(runner.view, str(STREAMS[1])))) == 6  # all before the poison
    poke(store, STREAMS[1], 10)
    runner.catch_up()
    assert runner.parked()[0].waiting == 2
    assert runner.status().parked == runner.parked()


@pytest.mark.parametrize("batch", [1, 3, 100])
def test_after_the_fix_a_parked_stream_folds_on_in_order(views, batch):
    store = small_log(8)
    bad = poison(store, STREAMS[1], 8)
    poke(store, STREAMS[1], 9)
    runner = Runner(store, views, FOLD, batch=batch)
    runner.catch_up()
    assert [p.position for p in runner.retry()] == [bad.position]  # not mended yet: waits on, unharmed
    assert runner.parked()[0].waiting == 1
    _mended["yes"] = True
    seen = []
    assert runner.retry(lambda event, before, after: seen.append((event.position, FOLD.position(before)))) == ()
    assert seen == [(9, 6), (10, 9)]  # what nobody was shown before
    assert runner.parked() == ()
    poke(store, STREAMS[1], 11)
    runner.catch_up()
    assert states(runner, views) == {str(s): whole(store, s) for s in STREAMS}
    digest = runner.digest()
    runner.rebuild()
    assert runner.digest() == digest


@pytest.mark.parametrize(
    ("wire_name", "data", "error"),
    [
        ("tests.projections/poked@7", b"{}", "UnknownWireName"),
        ("tests.projections/poked@2", b"nonsense", "InvalidInput"),
        ("tests.projections/poked@2", b'{"force":"strong"}', "InvalidInput"),  # fails in the middle of the fold
    ],
)
def test_every_kind_of_poison_parks_and_leaves_the_state_as_it_was(views, wire_name, data, error):
    store = ListStore()
    runner = Runner(store, views, FOLD, batch=100)
    poke(store, STREAMS[0], 0, 5)
    runner.catch_up()
    poke(store, STREAMS[0], 1, 6)
    good = whole(store, STREAMS[0])
    store.put(STREAMS[0], wire_name, data, day(2))
    poke(store, STREAMS[0], 3, 7)
    runner.catch_up()
    assert [(p.error, p.position, p.waiting) for p in runner.parked()] == [(error, 3, 1)]
    assert states(runner, views) == {str(STREAMS[0]): good}
    assert [(p.error, p.position, p.waiting) for p in runner.retry()] == [(error, 3, 1)]
    assert states(runner, views) == {str(STREAMS[0]): good}


def test_an_event_of_a_kind_nobody_declared_here_does_not_park_anything(views):
    store = ListStore()
    store.put(STREAMS[0], "somebody/else@4", b"{}", day(0))
    runner = Runner(store, views, FOLD)
    assert runner.catch_up() == (0, 1, 0, 1)
    assert runner.parked() == ()


def test_a_runner_that_was_under_way_while_another_retried_parks_again_and_loses_nothing(views):
    store = small_log(4)
    poison(store, STREAMS[1], 5)
    slow, quick = (Runner(store, views, FOLD) for _ in range(2))
    slow.catch_up()
    poke(store, STREAMS[1], 6)
    poke(store, STREAMS[2], 6)

    def meanwhile(event, before, after):
        _mended["yes"] = True
        assert quick.retry() == ()

    slow.catch_up(meanwhile)
    assert len(slow.parked()) == 1
    assert slow.retry() == ()
    assert states(slow, views) == {str(s): whole(store, s) for s in STREAMS}


def test_a_stream_that_another_runner_retried_is_read_afresh_by_the_one_that_parked_it(views):
    store = small_log(4)
    poison(store, STREAMS[1], 5)
    poke(store, STREAMS[1], 6)
    one, other = (Runner(store, views, FOLD) for _ in range(2))
    one.catch_up()
    _mended["yes"] = True
    assert other.retry() == ()
    poke(store, STREAMS[1], 7)
    one.catch_up()
    assert states(one, views) == {str(s): whole(store, s) for s in STREAMS}


# ---------------------------------------------------------------- fencing, killing, other logs


def test_a_paused_runner_cannot_overwrite_one_that_went_on(views):
    store = small_log()
    paused, other = (Runner(store, views, FOLD, batch=10) for _ in range(2))
    with pytest.raises(ViewMoved):
        paused.catch_up(on_fact=lambda event, before, after: event.position == 15 and other.catch_up())
    assert states(other, views) == {str(s): whole(store, s) for s in STREAMS}
    poke(store, STREAMS[0], 40)
    assert paused.catch_up() == (30, 31, 1, 31)
    assert states(paused, views) == {str(s): whole(store, s) for s in STREAMS}


def test_a_view_dropped_under_a_running_runner_is_not_half_written(views):
    store = small_log()
    runner, other = (Runner(store, views, FOLD, batch=10) for _ in range(2))
    with pytest.raises(ViewMoved):
        runner.catch_up(on_fact=lambda event, before, after: event.position == 15 and other.drop())
    assert list(views.scan(runner.view)) == []
    runner.catch_up()
    assert states(runner, views) == {str(s): whole(store, s) for s in STREAMS}


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
@pytest.mark.parametrize(("commits", "facts"), [(1, 0), (4, 0), (0, 1), (0, 38), (0, 200), (0, EVENTS)])
def test_a_runner_killed_between_or_within_batches_goes_on_to_the_same_view(kind, tmp_path, request, commits, facts):
    place = [str(tmp_path / "x.views"), ""] if kind == "sqlite" else list(request.getfixturevalue("pg"))
    log_id = uuid4().hex
    assert __package__ is not None
    root = str(Path(__file__).parents[__package__.count(".") + 1])
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([root, *sys.path])}
    command = forked("-m", f"{__package__}.killed_runner", *place, log_id, commits, facts)
    killed = subprocess.run(command, check=False, timeout=60, env=env)
    assert killed.returncode == -9
    store, fold = make_store(log_id), Fold(CustomerHealth)
    views = make_views(*place, log_id)
    runner = Runner(store, views, fold)
    assert runner.catch_up().from_position == 37 * (commits or (facts - 1) // 37)
    undisturbed = Runner(store, MemoryViews(), fold)
    undisturbed.catch_up()
    assert runner.digest() == undisturbed.digest()
    views.close()


def test_of_many_runners_with_connections_of_their_own_each_fact_is_committed_once(pg):
    """Four fold one view at the same time: the view and its checkpoint are those of one, and who was slower was told."""
    url, schema = pg
    log_id = uuid4().hex
    places = [PostgresViews(url, log_id, schema=schema) for _ in range(4)]
    told = []

    def run(views):
        runner = Runner(make_store(log_id), views, Fold(CustomerHealth), batch=20)
        while True:
            try:
                told.append(runner.catch_up().to_position)
                return
            except ViewMoved:
                continue

    threads = [threading.Thread(target=run, args=(views,)) for views in places]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert told == [EVENTS] * 4
    undisturbed = Runner(make_store(log_id), MemoryViews(), Fold(CustomerHealth))
    undisturbed.catch_up()
    assert Runner(make_store(log_id), places[0], Fold(CustomerHealth)).digest() == undisturbed.digest()
    for views in places:
        views.close()


def test_a_view_that_is_ahead_of_a_restored_log_is_folded_again(views):
    store = small_log()
    Runner(store, views, FOLD).catch_up()
    del store.events[20:]
    runner = Runner(store, views, FOLD)
    assert runner.catch_up() == (0, 20, 20, 20)
    assert states(runner, views) == {str(s): whole(store, s) for s in STREAMS}


def test_a_view_of_a_log_that_took_another_course_is_folded_again(views):
    store = small_log()
    Runner(store, views, FOLD).catch_up()
    del store.events[20:]
    for n in range(15):
        poke(store, STREAMS[0], 50 + n)
    for read in (False, True):
        runner = Runner(store, views, FOLD)
        if read:
            assert FOLD.digest(runner.read_state([STREAMS[3]]).state) == whole(store, STREAMS[3])
        else:
            assert runner.catch_up() == (0, 35, 35, 35)


# ---------------------------------------------------------------- reading and operating


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 60), st.integers(0, 30)), max_size=25),
    st.one_of(st.none(), st.integers(0, 25)),
    st.one_of(st.none(), st.integers(0, 90)),
    st.one_of(st.none(), st.integers(0, 90)),
)
def test_a_read_is_up_to_date_whether_or_not_the_runner_ran_and_obeys_both_clocks(rows, upto, as_of, known):
    store = ListStore(now_us=0)
    for stream, n, late in rows:
        store.now_us = day(n + late)
        poke(store, STREAMS[stream], n, n)
    views = MemoryViews()
    runner = Runner(store, views, FOLD)
    if upto is not None:
        runner.catch_up(upto=upto)
    as_of_us, known_us = (None if n is None else day(n) for n in (as_of, known))
    for streams in ([STREAMS[0]], STREAMS[1:3], []):
        read = runner.read_state(streams, as_of_us=as_of_us, known_at_us=known_us)
        visible = [
            fact_of(e)
            for e in store.events
            if e.stream in streams
            and (as_of_us is None or e.occurred_at_us <= as_of_us)
            and (known_us is None or e.recorded_at_us <= known_us)
        ]
        assert FOLD.digest(read.state) == FOLD.digest(FOLD.fold(visible))
        assert read.position == len(rows)
    assert views.checkpoint(runner.view) == min(upto or 0, len(rows))


def test_a_read_of_a_parked_stream_names_the_event_until_it_is_mended(views):
    store = small_log(8)
    poison(store, STREAMS[1], 8)
    runner = Runner(store, views, FOLD)
    with pytest.raises(UpcastFailed):
        runner.read_state([STREAMS[1]])
    runner.catch_up()
    with pytest.raises(UpcastFailed):
        runner.read_state([STREAMS[1]])
    assert FOLD.digest(runner.read_state([STREAMS[0]]).state) == whole(store, STREAMS[0])
    _mended["yes"] = True
    poke(store, STREAMS[1], 12)
    assert FOLD.digest(runner.read_state([STREAMS[1]]).state) == whole(store, STREAMS[1])


def test_lag_counts_positions_and_the_age_of_the_oldest_that_waits(views):
    store = small_log(10)
    clock = ManualClock(store.events[6].recorded_at_us + 2_500_000)
    runner = Runner(store, views, FOLD, clock=clock)
    runner.catch_up(upto=6)
    assert runner.lag() == (4, 2.5)
    status = runner.status()
    assert (status.checkpoint, status.head, status.rows, status.parked) == (6, 10, 4, ())
    runner.catch_up()
    assert runner.lag() == (0, 0.0)
    assert runner.status().lag == (0, 0.0)


def test_an_empty_log_is_no_work(views):
    runner = Runner(ListStore(), views, FOLD)
    assert runner.catch_up() == (0, 0, 0, 0)
    assert runner.lag() == (0, 0.0)
    assert runner.read_state([STREAMS[0]])[:2] == (FOLD.empty(), 0)


def test_poison_is_exactly_what_a_stored_event_can_be_wrong_by():
    assert set(POISON) == {UnknownWireName, UpcastFailed, InvalidInput}
