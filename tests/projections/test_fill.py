"""A view that is filled a few rows at a time is there as a whole or not at all, whoever reads, folds or dies meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from postsale.errors import ViewMoved
from postsale.projections import CustomerHealth, Fold, MemoryViews, Runner
from postsale.projections.runner import Built, States
from postsale.store import MemoryStore, Query

from .logs import Facts, whole

FOLD = Fold(CustomerHealth)


@pytest.fixture(autouse=True)
def few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("postsale.projections.runner._FILL_ROWS", 2)


def log_of(events: int) -> MemoryStore:
    store = MemoryStore()
    Facts(11).append(store, events)
    return store


def computing(meanwhile: Callable[[], None], after: int = 5) -> States:
    """States of another fold; `meanwhile` happens when so many rows were asked for."""

    @contextmanager
    def states(store, fold, upto):
        other = Runner(store, MemoryViews(), fold)
        done = other.catch_up(upto=upto)

        def rows() -> Iterator[tuple[str, bytes]]:
            for number, row in enumerate(other.rows()):
                if number == after:
                    meanwhile()
                yield row

        yield Built(rows(), done.events)

    return states


@pytest.mark.parametrize("partitions", [1, 3])
def test_until_the_last_row_is_written_no_row_counts(views, partitions: int) -> None:
    store = log_of(60)
    runner = Runner(store, views, FOLD, partitions=partitions)
    streams = sorted({event.stream for event in store.read(Query())})
    looked = []

    def look() -> None:
        assert runner.status().rows > 0
        assert list(runner.rows()) == []
        assert runner.kept(streams) == (FOLD.empty(), 0, None)
        assert FOLD.digest(runner.read_state(streams).state) == expected
        looked.append(runner.position())

    expected = FOLD.digest(Runner(store, MemoryViews(), FOLD).read_state(streams).state)
    assert runner.rebuild(states=computing(look)) == (0, 60, 60, 60)
    assert looked == [0]
    assert runner.digest() == whole(store, FOLD)
    assert FOLD.digest(runner.kept(streams).state) == expected
    assert {info.view for info in views.views()} <= {runner.view, *runner.names().checkpoints, runner.names().aside}


@pytest.mark.parametrize("again", ["fold", "fill"])
def test_what_a_killed_fill_left_is_cleared_away_by_whoever_is_next(views, again: str) -> None:
    store = log_of(60)

    class Killed(BaseException):
        pass

    def die() -> None:
        raise Killed

    with pytest.raises(Killed):
        Runner(store, views, FOLD, batch=7).compute(computing(die))
    Facts(12).append(store, 10)  # so that a row that was left would be of another position than its share
    runner = Runner(store, views, FOLD, batch=7)
    if again == "fill":
        runner.compute(computing(lambda: None))
    runner.catch_up(upto=20)
    assert dict(runner.rows()) == dict(rows_upto(store, runner.position()))
    runner.catch_up()
    assert runner.digest() == whole(store, FOLD)


def rows_upto(store: MemoryStore, position: int) -> Iterator[tuple[str, bytes]]:
    other = Runner(store, MemoryViews(), FOLD)
    other.catch_up(upto=position)
    return other.rows()


@pytest.mark.parametrize("partitions", [1, 3])
@pytest.mark.parametrize("after", [0, 5])
@pytest.mark.parametrize("other_fills", [False, True])
def test_a_fill_that_another_got_ahead_of_is_told_and_changes_nothing_more(views, partitions: int, other_fills: bool, after: int) -> None:
    store = log_of(60)
    runner, other = (Runner(store, views, FOLD, partitions=partitions, batch=7) for _ in range(2))

    def overtake() -> None:
        if other_fills:
            other.compute(computing(lambda: None))
        else:
            other.catch_up(upto=20)

    with pytest.raises(ViewMoved):
        runner.compute(computing(overtake, after))
    assert dict(other.rows()) == dict(rows_upto(store, other.position()))
    other.catch_up()
    assert other.digest() == whole(store, FOLD)
