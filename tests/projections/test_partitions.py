"""A view in shares is the view: the same rows, read at any moment, however unevenly its shares were folded."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postsale.errors import InvalidInput, LeaseLost, StaleRead, ViewMoved
from postsale.events import StreamId
from postsale.projections import CustomerHealth, Fold, MemoryViews, Runner
from postsale.projections.partition import Names
from postsale.store import MemoryStore, Query

from .logs import Facts, whole

FOLD = Fold(CustomerHealth)


class FakePace:
    """Time passes only by pauses; each does what it is told to."""

    def __init__(self, *happens: Any) -> None:
        self.at, self.happens = 0.0, list(happens)

    def now(self) -> float:
        return self.at

    def pause(self, seconds: float) -> None:
        self.at += seconds
        if self.happens:
            self.happens.pop(0)()


def log_of(seed: int, events: int) -> MemoryStore:
    store = MemoryStore()
    if events:
        Facts(seed).append(store, events)
    return store


def streams(store: MemoryStore) -> list[StreamId]:
    return sorted({e.stream for e in store.read(Query())})


@given(st.integers(0, 10**6), st.integers(0, 60), st.integers(1, 9), st.integers(1, 20), st.integers(0, 5), st.data())
def test_shares_folded_in_any_order_and_number_give_the_rows_of_the_whole(seed, events, partitions, batch, cached, data):
    store, views = log_of(seed, events), MemoryViews()
    runner = Runner(store, views, FOLD, partitions=partitions, batch=batch, cached=cached)
    for _ in range(data.draw(st.integers(0, 6))):
        some = data.draw(st.sets(st.integers(0, partitions - 1)))
        runner.advance(dict.fromkeys(some), data.draw(st.integers(0, events)))
        for stream in streams(store)[:3]:
            expected = FOLD.digest(Runner(store, MemoryViews(), FOLD).read_state([stream]).state)
            assert FOLD.digest(runner.read_state([stream]).state) == expected
    together = runner.read_state(streams(store)).state
    assert FOLD.digest(together) == FOLD.digest(Runner(store, MemoryViews(), FOLD).read_state(streams(store)).state)
    assert runner.catch_up().to_position == events
    assert runner.digest() == whole(store, FOLD)
    assert runner.status().checkpoints == (events,) * partitions
    assert runner.retry() == ()


def test_every_kind_of_views_keeps_shares_alike(views) -> None:
    store = log_of(3, 80)
    runner = Runner(store, views, FOLD, partitions=4, batch=9)
    runner.advance({1: None, 3: None}, 50)
    assert runner.status().checkpoints == (0, runner.status().checkpoints[1], 0, runner.status().checkpoints[1])
    runner.catch_up()
    assert (runner.digest(), runner.lag().events) == (whole(store, FOLD), 0)
    runner.drop()
    assert (views.views(), runner.position()) == ([], 0)
    assert runner.rebuild().to_position == 80
    assert runner.digest() == whole(store, FOLD)


def test_another_number_of_shares_is_another_view() -> None:
    """So a row that was folded up to one checkpoint is never read as one of another."""
    store, views = log_of(4, 40), MemoryViews()
    runners = [Runner(store, views, FOLD, partitions=n) for n in (1, 2, 3)]
    assert len({runner.view for runner in runners}) == 3
    for runner in runners:
        runner.catch_up(upto=20)
    runners[1].catch_up()
    assert [runner.position() for runner in runners] == [20, 40, 20]
    for wrong in (0, 1_025):
        with pytest.raises(InvalidInput, match="partitions"):
            Runner(store, views, FOLD, partitions=wrong)


def test_where_a_stream_belongs_never_changes() -> None:
    """Stored checkpoints depend on it: these are the shares that version 1 gave."""
    names = Names.of("v", 8)
    assert [names.share_of(f"acme/customers/c{n}") for n in range(8)] == [6, 0, 2, 4, 7, 1, 3, 5]
    assert Names.of("v", 1).checkpoints == ("v",)


def test_a_run_that_is_told_to_stop_ends_between_batches_and_the_next_goes_on(views) -> None:
    store = log_of(5, 60)
    runner = Runner(store, views, FOLD, partitions=3, batch=10)
    answers = iter([False, False, True])
    done = runner.catch_up(stop=lambda: next(answers))
    assert (done.to_position, done.target) == (20, 60)
    assert runner.catch_up().from_position == 20
    assert runner.digest() == whole(store, FOLD)


def test_a_batch_is_bounded_in_bytes(views, monkeypatch) -> None:
    """However many events a batch may have: here each exceeds the bytes of one alone."""
    monkeypatch.setattr("postsale.projections.runner._BATCH_BYTES", 1)
    store = log_of(6, 12)
    seen: list[int] = []
    Runner(store, views, FOLD).catch_up(on_progress=lambda p: seen.append(p.to_position))
    assert seen == list(range(1, 13))


# ---------------------------------------------------------------- fences


def test_who_has_a_smaller_token_writes_nothing_whatever_the_checkpoint(views) -> None:
    """A write without a token is judged by the checkpoint alone, and the fence stays; a drop forgets it, and the checkpoint judges."""
    views.write("v", {"a": b"1"}, checkpoint=5, expected=0, token=7)
    for token, expected in ((6, 5), (6, 0), (1, 5)):
        with pytest.raises(LeaseLost) as caught:
            views.write("v", {"a": b"old"}, checkpoint=9, expected=expected, also={"w": {"x": b"old"}}, token=token)
        assert caught.value.fields() == {"lease": "v", "token": token, "newest_token": 7}
    views.write("v", {"a": b"2"}, checkpoint=6, expected=5, token=7)
    views.write("v", {"a": b"3"}, checkpoint=7, expected=6)
    views.write("v", {}, checkpoint=7, expected=7, token=9)
    with pytest.raises(LeaseLost):
        views.write("v", {"a": b"old"}, checkpoint=9, expected=7, token=8)
    with pytest.raises(ViewMoved):
        views.write("v", {"a": b"old"}, checkpoint=9, expected=5, token=9)
    views.drop("v")
    with pytest.raises(ViewMoved):
        views.write("v", {"a": b"old"}, checkpoint=9, expected=7, token=9)
    assert (views.views(), list(views.scan("w"))) == ([], [])
    views.write("v", {"a": b"4"}, checkpoint=1, expected=0, token=2)
    assert views.get("v", "a") == b"4"


def test_a_share_that_was_claimed_by_another_is_not_written_by_the_one_before(views) -> None:
    """Although nothing was folded in between, so that the checkpoint alone would have let it."""
    store = log_of(7, 40)
    before, after = (Runner(store, views, FOLD, partitions=2, batch=10) for _ in range(2))
    before.advance({0: 1, 1: 1}, 20)
    after.claim({1: 2})
    before.advance({0: 1}, 40)
    with pytest.raises(LeaseLost):
        before.advance({1: 1}, 40)
    while after.advance({0: 2, 1: 2}, 40)[0] < 40:
        pass
    assert after.digest() == whole(store, FOLD)


# ---------------------------------------------------------------- what the view keeps


def test_what_the_view_keeps_is_read_without_the_log_as_of_the_position_it_names(views) -> None:
    store = log_of(8, 60)
    runner = Runner(store, views, FOLD, partitions=3)
    runner.catch_up(upto=30)
    runner.advance({0: None}, 45)
    for stream in streams(store):
        read = runner.kept([stream])
        assert read.position in (30, 45)
        assert FOLD.digest(read.state) == digest_at(store, [stream], read.position)
    both = runner.kept(streams(store))
    assert both.position == 30
    assert runner.kept([])[:2] == (FOLD.empty(), 0)


def digest_at(store: MemoryStore, its: list[StreamId], position: int) -> str:
    runner = Runner(store, MemoryViews(), FOLD)
    runner.catch_up(upto=position)
    return FOLD.digest(runner.kept(its).state)


@pytest.fixture
def half() -> tuple[MemoryStore, MemoryViews, Runner]:
    store, views = log_of(9, 40), MemoryViews()
    other = Runner(store, views, FOLD, partitions=2)
    other.catch_up(upto=20)
    return store, views, other


def test_a_demand_on_the_view_waits_until_it_was_folded(half) -> None:
    """By whoever folds it: here, during the second pause."""
    store, views, other = half
    pace = FakePace(lambda: None, other.catch_up)
    stream = streams(store)[0]
    read = Runner(store, views, FOLD, partitions=2, pace=pace).kept([stream], at_least=35, within_s=1)
    assert (read.position, pace.happens) == (40, [])
    assert FOLD.digest(read.state) == digest_at(store, [stream], 40)


def test_a_demand_that_is_not_met_in_time_is_refused_with_the_position_there_is(half) -> None:
    store, views, _ = half
    pace = FakePace()
    runner = Runner(store, views, FOLD, partitions=2, pace=pace)
    with pytest.raises(StaleRead) as caught:
        runner.kept(streams(store)[:1], at_least=35, within_s=0.5)
    assert (caught.value.position, caught.value.at_least, caught.value.what) == (20, 35, f"view {runner.view}")
    assert pace.at == pytest.approx(0.5)
    with pytest.raises(StaleRead, match="the log"):
        runner.read_state(streams(store)[:1], at_least=41, within_s=0)
    assert runner.read_state(streams(store)[:1], at_least=40, within_s=0).position == 40
