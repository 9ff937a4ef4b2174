"""Projectors share a view's folding evenly, take over what a dead one left, are fenced when they lost it, and leave nothing behind."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from postsale.errors import LeaseLost
from postsale.events import ManualClock
from postsale.projections import CustomerHealth, Fold, MemoryViews, Projector, Runner
from postsale.projections.views_postgres import PostgresViews
from postsale.projections.views_postgres_schema import views_schema, views_sql
from postsale.store import Leases, MemoryStore, Query, SQLiteStore, Store
from tests.postgres import new_log, server

from .logs import Facts, whole
from .test_partitions import FakePace

FOLD = Fold(CustomerHealth)
TTL_S = 12.0
START = datetime(2027, 3, 1, tzinfo=UTC)


class World:
    """One log, one set of views, one clock, and any number of projectors over them."""

    def __init__(self, store: Store | None = None, partitions: int = 8, batch: int = 7) -> None:
        self.clock = ManualClock(START)
        self.store = store or MemoryStore(clock=self.clock)
        self.views = MemoryViews()
        self.facts = Facts(1)
        self.partitions, self.batch = partitions, batch
        self.names = 0

    def runner(self) -> Runner:
        return Runner(self.store, self.views, FOLD, partitions=self.partitions, batch=self.batch, clock=self.clock)

    def projector(self) -> Projector:
        self.names += 1
        leases = Leases(self.store.kv, self.clock, f"worker {self.names}")
        return Projector(self.store, [self.runner()], leases, clock=self.clock, ttl_s=TTL_S)

    def later(self, seconds: float) -> None:
        self.clock.advance(timedelta(seconds=seconds))

    def settled(self, projectors: Sequence[Projector]) -> list[int]:
        """How many shares each has after everybody had time to look about."""
        for _ in range(2 * len(projectors)):
            self.later(TTL_S / 6)
            for projector in projectors:
                projector.turn()
        return [len(shares(projector)) for projector in projectors]


def shares(projector: Projector) -> tuple[int, ...]:
    (held,) = projector.held.values()
    return held


def fold_all(projectors: Sequence[Projector]) -> None:
    while True in {projector.turn().more for projector in projectors}:  # a turn for each
        pass


def test_one_projector_takes_every_share_and_folds_all() -> None:
    world = World()
    world.facts.append(world.store, 50)
    one = world.projector()
    assert not one.ready
    fold_all([one])
    assert (shares(one), one.ready, one.trouble) == (tuple(range(8)), True, None)
    assert world.runner().digest() == whole(world.store, FOLD)


def test_projectors_share_evenly_and_make_room_for_one_that_comes() -> None:
    world = World()
    world.facts.append(world.store, 90)
    projectors = [world.projector()]
    for expected in ([8], [4, 4], [3, 3, 2], [2, 2, 2, 2], [2, 2, 2, 1, 1]):
        assert sorted(world.settled(projectors), reverse=True) == expected
        assert sorted(n for p in projectors for n in shares(p)) == list(range(8))
        world.facts.append(world.store, 30)
        fold_all(projectors)
        assert world.runner().digest() == whole(world.store, FOLD)
        projectors.append(world.projector())


def test_with_one_share_the_second_stands_by_and_goes_on_at_once_when_the_first_stops() -> None:
    """As on SQLite: no time passes between the first one's end and the second one's work."""
    world = World(partitions=1)
    world.facts.append(world.store, 20)
    first, second = world.projector(), world.projector()
    fold_all([first, second])
    assert (shares(first), shares(second)) == ((0,), ())
    assert second.ready  # the view is, whoever folds it
    first.drain()
    world.facts.append(world.store, 20)
    world.later(TTL_S / 6)
    fold_all([second])
    assert shares(second) == (0,)
    assert world.runner().digest() == whole(world.store, FOLD)


def test_a_share_of_one_that_stands_still_is_taken_over_and_its_writes_are_fenced_off() -> None:
    """It wakes up, is told, writes nothing, and works on with what is its own by then."""
    world = World(partitions=2)
    world.facts.append(world.store, 20)
    asleep, awake = world.projector(), world.projector()
    world.settled([asleep, awake])
    stolen = shares(asleep)
    world.later(TTL_S + 1)
    world.facts.append(world.store, 30)
    fold_all([awake])
    world.settled([awake])
    assert shares(awake) == (0, 1)
    digest = world.runner().digest()
    tokens = {n: lease.token for n, lease in asleep._jobs[0].leases.items()}
    with pytest.raises(LeaseLost):
        asleep._jobs[0]._runner.claim(tokens)
    assert world.runner().digest() == digest
    asleep.turn()
    assert set(shares(asleep)).isdisjoint(stolen)
    assert sorted(world.settled([asleep, awake])) == [1, 1]
    world.facts.append(world.store, 30)
    fold_all([asleep, awake])
    assert world.runner().digest() == whole(world.store, FOLD)


def test_tokens_of_another_course_of_the_log_stop_nobody_for_ever() -> None:
    """As when the log was put back to an older copy, and its views were not: leases begin below what the view has seen, and it is folded anew."""
    world = World(partitions=2)
    world.facts.append(world.store, 40)
    world.runner().catch_up()
    for name in world.runner().names().checkpoints:
        world.views.write(name, {}, checkpoint=40, expected=40, token=10**6)
    world.facts.append(world.store, 10)
    one = world.projector()
    for _ in range(40):
        one.turn()
    assert world.runner().position() == 50
    assert world.runner().digest() == whole(world.store, FOLD)


def test_a_clock_that_is_moved_back_stops_nobody() -> None:
    world = World(partitions=2)
    one = world.projector()
    fold_all([one])
    world.later(-86_400)
    world.facts.append(world.store, 10)
    fold_all([one])
    two = world.projector()
    assert sorted(world.settled([one, two])) == [1, 1]
    assert world.runner().digest() == whole(world.store, FOLD)


def test_run_folds_what_is_appended_until_it_is_stopped_and_gives_everything_back(tmp_path: Path) -> None:
    """On a real file and the real clock, while another thread writes; afterwards a second projector has all shares at its first turn."""
    store = SQLiteStore(tmp_path / "log.db", durable=False)
    views, facts, leases = MemoryViews(), Facts(2), Leases(store.kv)
    runner = Runner(store, views, FOLD, partitions=4, batch=10)
    projector = Projector(store, [runner], leases)
    thread = threading.Thread(target=projector.run)
    thread.start()
    for _ in range(8):
        last = facts.append(store, 9)
    reader = Runner(store, views, FOLD, partitions=4)
    for stream in {e.stream for e in store.read(Query())}:
        assert reader.kept([stream], at_least=last, within_s=60).position >= last
    projector.stop()
    thread.join()
    assert reader.digest() == whole(store, FOLD)
    (held,) = projector.held.values()
    assert held == ()
    after = Projector(store, [reader], leases)
    after.turn()
    assert next(iter(after.held.values())) == (0, 1, 2, 3)
    store.close()


def test_stop_finishes_the_batch_under_way_and_begins_no_other() -> None:
    world = World(partitions=1, batch=10)
    world.facts.append(world.store, 50)
    projector = world.projector()
    projector.run(on_turn=lambda _: projector.stop())
    assert world.runner().position() == 10
    assert (shares(projector), projector.ready) == ((), False)
    again = world.projector()
    again.run(on_turn=lambda turn: again.stop() if not turn.more else None)
    assert (world.runner().position(), again.ready) == (50, True)
    assert world.runner().digest() == whole(world.store, FOLD)


def test_while_the_views_cannot_be_used_it_says_why_waits_longer_each_time_and_goes_on_by_itself() -> None:
    """A real schema dropped under it, and made again: nothing is lost, and nothing needs a restart."""
    with new_log() as (url, schema):
        clock = ManualClock(START)
        store = MemoryStore(clock=clock)
        Facts(3).append(store, 30)
        views = PostgresViews(url, store.log_id, schema=schema)

        def admin(*statements: str) -> None:
            with psycopg.connect(server(), autocommit=True) as db, db.transaction():
                for statement in statements:
                    db.execute(statement)

        seen: list[str | None] = []
        pace = FakePace(*[lambda: None] * 30, lambda: admin(views_sql(schema)))
        runner = Runner(store, views, FOLD, partitions=2)
        projector = Projector(store, [runner], Leases(store.kv, clock), clock=clock, pace=pace)

        def told(turn) -> None:
            seen.append(projector.trouble)
            if turn.events and not turn.more:
                projector.stop()

        admin(f"DROP SCHEMA {views_schema(schema)} CASCADE")
        projector.run(told)
        assert "postsale db init" in (seen[0] or "")
        assert (seen[-1], pace.happens, len(seen) < 10) == (None, [], True)  # 30 slices of pause in a few turns
        assert runner.digest() == whole(store, FOLD)
        views.close()


# ---------------------------------------------------------------- any order of events


class Shared(RuleBasedStateMachine):
    """Projectors come, go, die and stand still while facts arrive and others fold without a lease: no fact is lost or counted twice."""

    def __init__(self) -> None:
        super().__init__()
        self.alive: list[Projector] = []

    @initialize(partitions=st.integers(1, 4), batch=st.integers(1, 9))
    def begin(self, partitions, batch):
        self.world = World(partitions=partitions, batch=batch)

    @rule(n=st.integers(1, 12))
    def append(self, n):
        self.world.facts.append(self.world.store, n)

    @rule()
    def come(self):
        if len(self.alive) < 4:
            self.alive.append(self.world.projector())

    @rule(data=st.data(), end=st.sampled_from(["drain", "die"]))
    def go(self, data, end):
        if self.alive:
            gone = self.alive.pop(data.draw(st.integers(0, len(self.alive) - 1)))
            if end == "drain":
                gone.drain()

    @rule(data=st.data())
    def turn(self, data):
        if self.alive:
            projector = data.draw(st.sampled_from(self.alive))
            projector.turn()
            assert projector.trouble is None

    @rule(seconds=st.sampled_from([1, 3, 13]))
    def time_passes(self, seconds):
        self.world.later(seconds)

    @rule()
    def run_once(self):
        self.world.runner().catch_up()

    @invariant()
    def what_is_kept_is_what_the_log_says(self):
        world = self.world
        runner = world.runner()
        at = runner.position()
        runner.catch_up(upto=at)
        if len(set(runner.status().checkpoints)) == 1:
            expected = Runner(world.store, MemoryViews(), FOLD)
            expected.catch_up(upto=at)
            assert runner.digest() == expected.digest()

    def teardown(self):
        if hasattr(self, "world"):
            last = self.world.projector()
            self.world.later(TTL_S + 1)
            for _ in range(3):
                fold_all([last])
                self.world.later(TTL_S + 1)
            assert self.world.runner().digest() == whole(self.world.store, FOLD)
            assert self.world.runner().position() == self.world.store.head()


Shared.TestCase.settings = settings(stateful_step_count=25)


class TestProjectorsThatComeAndGo(Shared.TestCase):  # type: ignore[misc]
    """In any order, under any clock."""


@pytest.mark.parametrize("partitions", [1, 8])
def test_a_view_that_another_process_dropped_is_folded_again_although_nothing_is_appended(partitions: int) -> None:
    """Who holds a share does not ask where it stands for every batch; now and then it does."""
    world = World(partitions=partitions)
    world.facts.append(world.store, 40)
    one = world.projector()
    fold_all([one])
    world.runner().drop()
    world.later(TTL_S / 6)
    fold_all([one])
    assert (world.runner().position(), world.runner().digest()) == (40, whole(world.store, FOLD))
