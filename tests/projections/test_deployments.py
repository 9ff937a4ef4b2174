"""A new version is built beside the live one, compared row by row, and put live at one stroke; until then nobody acts on it."""

from __future__ import annotations

import pickle
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postsale.aggregates.signals import InvoicePaid, TicketOpened, UsageObserved
from postsale.errors import InvalidInput, LeaseHeld, LeaseLost, NotLive
from postsale.events import ManualClock
from postsale.projections import Features, Fold, MemoryViews, Runner, count, days, derived, total
from postsale.projections.comparing import compare
from postsale.projections.deployments import Declared, Deployments
from postsale.projections.runner import Built
from postsale.store import Lease, Leases, MemoryStore

from .customers import day
from .list_store import ListStore
from .logs import Facts, whole


def pulse(window: int, version: int = 1) -> type[Features]:
    """Versions of one projection; the accessor of `used` and one feature differ too, from version 2 on."""

    class Pulse(Features, version=version, owner="tests"):
        paid = count(InvoicePaid, window=days(window))
        used = total(UsageObserved, (lambda e: e.count) if version == 1 else (lambda e: e.count * 2))
        tickets = count(TicketOpened)

        @derived(unit="ratio")
        def ratio(paid: int, tickets: int) -> float:
            return paid / tickets if tickets else float("nan")

    return Pulse


OLD, NEW = pulse(90), pulse(30, 2)


class World:
    def __init__(self, events: int = 0) -> None:
        self.clock = ManualClock(datetime(2027, 1, 1, tzinfo=UTC))
        self.store = MemoryStore(clock=self.clock)
        self.views = MemoryViews()
        self.deployments = Deployments(self.store.kv, self.clock)
        self.facts = Facts(5)
        if events:
            self.facts.append(self.store, events)

    def runner(self, features: type[Features], **how) -> Runner:
        return Runner(
            self.store, self.views, Fold(features), clock=self.clock, build=self.deployments.build_of("Pulse"), **{"batch": 10} | how
        )

    def leases(self, name: str = "one") -> Leases:
        return Leases(self.store.kv, self.clock, name)

    def names(self) -> set[str]:
        return {info.view for info in self.views.views() if not info.view.endswith("!aside")}


# ---------------------------------------------------------------- what is live


def test_the_first_that_is_asked_about_is_live_and_any_other_is_refused() -> None:
    """The refusal names both versions, and what to type; it survives pickling."""
    w = World()
    w.deployments.require(OLD)
    w.deployments.require(OLD)
    with pytest.raises(NotLive) as caught:
        w.deployments.require(NEW)
    e = caught.value
    assert (e.projection, e.version, e.live_version) == ("Pulse", 2, 1)
    assert (e.digest, e.live_digest) == (NEW.digest[:12], OLD.digest[:12])
    assert str(pickle.loads(pickle.dumps(e))) == str(e)
    assert "postsale projection" in str(e)


def test_the_same_version_number_with_other_content_is_another_version() -> None:
    w = World()
    w.deployments.require(OLD)
    with pytest.raises(NotLive):
        w.deployments.require(pulse(91))


def test_a_switch_and_the_way_back_are_one_stroke_each_and_say_who_and_why() -> None:
    w = World(30)
    w.deployments.require(OLD)
    runner = w.runner(NEW)
    live = w.deployments.switch(w.store, runner, by="ada", reason="shorter window")
    assert (live.declared, live.previous) == (Declared(2, NEW.digest), Declared(1, OLD.digest))
    assert (live.by, live.reason, live.since_us) == ("ada", "shorter window", w.clock.now_us())
    assert runner.position() == 30  # folded before it was put live
    w.deployments.require(NEW)
    with pytest.raises(NotLive):
        w.deployments.require(OLD)
    assert w.deployments.switch(w.store, runner, by="bob", reason="again") == live
    back = w.deployments.back("Pulse", by="bob", reason="too short")
    assert (back.declared, back.previous, back.by) == (live.previous, live.declared, "bob")
    w.deployments.require(OLD)
    assert w.deployments.all() == [back]


def test_there_is_no_switch_without_a_reason_and_no_way_back_where_there_was_none() -> None:
    w = World()
    w.deployments.require(OLD)
    for call in (
        lambda: w.deployments.switch(w.store, w.runner(NEW), by="ada", reason=" "),
        lambda: w.deployments.back("Pulse", by="ada", reason=""),
        lambda: w.deployments.back("Pulse", by="ada", reason="x"),
        lambda: w.deployments.back("Unheard", by="ada", reason="x"),
    ):
        with pytest.raises(InvalidInput):
            call()
    w.deployments.require(OLD)


def test_what_is_live_outlives_the_views() -> None:
    w = World(10)
    w.deployments.switch(w.store, w.runner(NEW), by="ada", reason="x")
    w.views = MemoryViews()
    with pytest.raises(NotLive):
        Deployments(w.store.kv).require(OLD)


# ---------------------------------------------------------------- building beside


@pytest.mark.parametrize("partitions", [1, 3])
def test_a_rebuild_serves_the_old_rows_until_the_new_ones_are_complete(partitions: int) -> None:
    """A row that was wrong stays wrong while it is folded anew beside, and is right at the stroke; the old build is gone."""
    w = World(60)
    runner = w.runner(OLD, partitions=partitions)
    runner.catch_up()
    right, view = runner.digest(), runner.view
    wrong = dict.fromkeys(dict(runner.rows()), Fold(OLD).dump(Fold(OLD).empty()))
    w.views.write("other", {}, checkpoint=1, expected=0, also={view: wrong})
    served = runner.digest()
    seen: list[tuple[str, str]] = []
    done = w.deployments.rebuild(w.store, runner, w.leases(), on_progress=lambda _: seen.append((runner.digest(), runner.view)))
    assert served != right
    assert seen == [(served, view)] * 6
    assert (done.serves, done.build, done.progress.to_position) == (True, 1, 60)
    assert (runner.digest(), runner.view) == (right, f"{view}~1")
    assert not {name for name in w.names() if name.startswith(view) and "~1" not in name}
    assert w.deployments.rebuild(w.store, runner, w.leases()).build == 2
    assert runner.digest() == whole(w.store, Fold(OLD))


def test_a_rebuild_that_was_stopped_is_resumed_where_it_was() -> None:
    w = World(60)
    runner = w.runner(OLD)
    runner.catch_up()
    view = runner.view
    answers = iter([False, False, True, True])
    half = w.deployments.rebuild(w.store, runner, w.leases(), stop=lambda: next(answers))
    assert (half.serves, half.progress.to_position, runner.view) == (False, 20, view)
    done = w.deployments.rebuild(w.store, w.runner(OLD), w.leases())
    assert (done.serves, done.build, done.progress.from_position) == (True, half.build, 20)
    assert runner.digest() == whole(w.store, Fold(OLD))


def test_a_rebuild_races_live_traffic_and_ends_with_everything() -> None:
    """After each of its commits more is appended, and another runner folds the live view and reads from it."""
    w = World(40)
    runner, other = w.runner(OLD, partitions=2), w.runner(OLD, partitions=2)
    left = list(range(12))

    def meanwhile(progress) -> None:
        if left:
            left.pop()
            w.facts.append(w.store, 7)
            other.catch_up()
            assert other.digest() == whole(w.store, Fold(OLD))

    done = w.deployments.rebuild(w.store, runner, w.leases(), on_progress=meanwhile)
    assert done.serves
    assert len(left) < 9
    other.catch_up()
    assert other.view.endswith("~1")
    assert other.digest() == whole(w.store, Fold(OLD))


@pytest.mark.parametrize("partitions", [1, 4])
def test_a_rebuild_may_begin_with_states_computed_at_once(partitions: int) -> None:
    """By whatever engine: here, by another fold; what is appended while it computes is folded after it, into every share."""
    w = World(80)

    @contextmanager
    def at_once(store, fold, upto):
        other = Runner(store, MemoryViews(), fold)
        done = other.catch_up(upto=upto)
        w.facts.append(w.store, 30)
        yield Built(other.rows(), done.events)

    runner = w.runner(OLD, partitions=partitions)
    runner.catch_up()
    told: list[int] = []
    done = w.deployments.rebuild(w.store, runner, w.leases(), states=at_once, on_progress=lambda p: told.append(p.to_position))
    assert (done.serves, told) == (True, [80, 90, 100, 110])
    assert runner.status().checkpoints == (110,) * partitions
    assert runner.digest() == whole(w.store, Fold(OLD))


def test_of_two_rebuilds_of_one_view_the_second_is_told_who_does_it() -> None:
    w = World(20)
    runner = w.runner(OLD)

    def second(_) -> None:
        with pytest.raises(LeaseHeld, match="first"):
            w.deployments.rebuild(w.store, w.runner(OLD), w.leases("second"))

    assert w.deployments.rebuild(w.store, runner, w.leases("first"), on_progress=second).serves


def test_a_new_version_is_built_while_the_old_one_serves_and_is_folded() -> None:
    w = World(50)
    w.deployments.require(OLD)
    old, new = w.runner(OLD), w.runner(NEW)

    def meanwhile(_) -> None:
        if w.store.head() < 90:
            w.facts.append(w.store, 5)
        old.catch_up()

    w.deployments.rebuild(w.store, new, w.leases(), on_progress=meanwhile)
    with pytest.raises(NotLive):
        w.deployments.require(NEW)
    assert old.digest() == whole(w.store, Fold(OLD))
    w.deployments.switch(w.store, new, by="ada", reason="x")
    assert new.digest() == whole(w.store, Fold(NEW))


# ---------------------------------------------------------------- row by row


@given(st.integers(0, 10**6), st.integers(1, 80), st.integers(0, 80), st.integers(0, 80), st.integers(0, 60))
def test_a_comparison_counts_the_rows_whose_finished_values_differ_as_of_one_position(seed, events, old_at, new_at, as_of):
    """However far each view is: brute force over the log up to the lesser position gives the same counts."""
    store, views = MemoryStore(), MemoryViews()
    Facts(seed, customers=6).append(store, events)
    old, new = (Runner(store, views, Fold(f), batch=7) for f in (OLD, NEW))
    old.catch_up(upto=old_at)
    new.catch_up(upto=new_at)
    found = compare(old, new, day(as_of), samples=2)
    at = min(old_at, new_at, events)
    sides = []
    for features in (OLD, NEW):
        runner = Runner(store, MemoryViews(), Fold(features))
        runner.catch_up(upto=at)
        sides.append({key: runner.fold.load(raw) for key, raw in runner.rows()})
    counts: dict[str, int] = {}
    rows = 0
    for key in sides[0].keys() | sides[1].keys():
        values = []
        at_us = max(day(as_of), *(f[key][0] for f in sides if key in f))
        for features, side in zip((OLD, NEW), sides, strict=True):
            fold = Fold(features)
            values.append(fold.finish(side.get(key) or fold.empty(), at_us))
        wrong = [
            n for n in values[0] if values[0][n] != values[1][n] and not (values[0][n] != values[0][n] and values[1][n] != values[1][n])
        ]
        rows += bool(wrong)
        for name in wrong:
            counts[name] = counts.get(name, 0) + 1
    assert ({n: d.rows for n, d in found.features.items()}, found.differing, found.position) == (counts, rows, at)
    assert all(len(d.samples) == min(2, d.rows) for d in found.features.values())
    assert found.same == (not counts)


def test_a_comparison_shows_examples_and_what_only_one_declares() -> None:
    class Pulse(Features, version=3, owner="tests"):
        paid = count(InvoicePaid, where=lambda e: e.amount_minor > 0)
        extra = count(TicketOpened)

    w = World(60)
    old, new = w.runner(OLD), w.runner(Pulse)
    old.catch_up()
    new.catch_up()
    found = compare(old, new, day(400))
    assert (found.added, found.removed) == (("extra",), ("ratio", "tickets", "used"))
    assert set(found.features) == {"paid"}
    first = found.features["paid"].samples[0]
    assert first.old == 0 < first.new  # the window is over, and the new one has none
    assert first.key == min(s.key for s in found.features["paid"].samples)
    assert compare(old, old, day(400)).same
    assert (found.only_old, found.only_new) == (found.rows - sum(1 for _ in new.rows()), 0)


def test_views_of_two_projections_are_not_compared() -> None:
    class Other(Features, version=1, owner="tests"):
        paid = count(InvoicePaid)

    store = ListStore()
    with pytest.raises(InvalidInput, match="one projection"):
        compare(*(Runner(store, MemoryViews(), Fold(f)) for f in (OLD, Other)), day(0))  # type: ignore[misc]


def test_a_rebuild_that_stood_still_until_others_rebuilt_does_not_put_its_own_build_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped after it had made sure of its lease and before its build serves; two others end meanwhile, and its build is dropped."""
    w = World(30)
    runner, renew = w.runner(OLD), Lease.renew
    runner.catch_up()
    served: list[int] = []

    def stands_still(lease: Lease) -> None:
        renew(lease)
        if not served:
            served.append(0)
            w.clock.advance(timedelta(hours=1))
            served.extend(w.deployments.rebuild(w.store, w.runner(OLD), w.leases("another")).build for _ in range(2))

    monkeypatch.setattr(Lease, "renew", stands_still)
    with pytest.raises(LeaseLost):
        w.deployments.rebuild(w.store, w.runner(OLD), w.leases("one"))
    live = w.deployments.live("Pulse")
    assert live is not None
    assert (served, live.builds, live.building) == ([0, 1, 2], {runner.base: 2}, {})
    assert (runner.position(), runner.digest()) == (30, whole(w.store, Fold(OLD)))
