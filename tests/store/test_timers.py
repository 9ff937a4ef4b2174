"""Timers: each fires at its instant, once, whatever crashes, clocks and other workers do, and none that was acknowledged is lost."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import tempfile
from collections import Counter
from contextlib import closing
from datetime import UTC, date, datetime, time, timedelta
from itertools import product
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test
from tests.nursery import Fork
from tests.postgres import fresh_log
from tests.shared import examples
from tests.store.meddled import Meddled
from tests.store.stores import STORES, Maker
from tests.store.timer_worker import STREAM

from postsale.errors import InvalidInput
from postsale.events import MAX_INT, ManualClock, from_us, to_us
from postsale.store import MemoryStore, Query, Store, open_store
from postsale.store.postgres_schema import DEFAULT_SCHEMA
from postsale.store.timers import MAX_ID, QUEUE, TIMERS, Timers, local_instant
from postsale.testing.store_building import START

ROOT = Path(__file__).parents[2]
WORKER = Path(__file__).with_name("timer_worker.py")
END = MAX_INT - 1


@pytest.fixture
def timers(store: Store) -> Timers:
    return Timers(store.kv, "acme")


def ids(found: Any) -> list[str]:
    return [timer.id for timer in found]


# ---------------------------------------------------------------- setting, firing


def test_due_timers_come_in_order_of_due_time_then_id_and_none_before_its_time(timers: Timers) -> None:
    for id, due in (("late", 30), ("b", 20), ("a", 20), ("early", 10), ("zero", 0)):
        assert timers.set(id, due, {"n": due})
    assert ids(timers.due(-1)) == []
    assert ids(timers.due(0)) == ["zero"]
    assert ids(timers.due(19)) == ["zero", "early"]
    assert [(t.id, t.due_us, t.payload) for t in timers.due(20)] == [
        ("zero", 0, {"n": 0}),
        ("early", 10, {"n": 10}),
        ("a", 20, {"n": 20}),
        ("b", 20, {"n": 20}),
    ]
    assert ids(timers.due(2**70)) == ["zero", "early", "a", "b", "late"]


def test_a_timer_is_due_until_it_is_settled(timers: Timers) -> None:
    timers.set("a", 10)
    (timer,) = timers.due(10)
    assert ids(timers.due(11)) == ["a"]
    assert timers.settle(timer)
    assert ids(timers.due(END)) == []
    assert timers.get("a") is None
    assert not timers.settle(timer)


def test_setting_a_timer_again_changes_nothing_and_setting_it_anew_moves_it(store: Store, timers: Timers) -> None:
    assert timers.set("a", 10, {"n": 1})
    assert not timers.set("a", 10, {"n": 1})
    (first,) = timers.due(10)
    assert timers.set("a", 20, {"n": 1})
    assert ids(timers.due(19)) == []
    assert not timers.settle(first)
    assert timers.set("a", 20, {"n": 2})
    (moved,) = timers.due(20)
    assert (moved.due_us, moved.payload) == (20, {"n": 2})
    assert moved.event_id != first.event_id
    assert len(store.kv.scan(QUEUE, "acme")) == 1


def test_the_event_of_a_firing_has_the_same_id_at_each_attempt(timers: Timers, store: Store) -> None:
    timers.set("a", 10)
    (one,), (two,) = timers.due(10), Timers(store.kv, "acme").due(99)
    timers.settle(one)
    timers.set("a", 10)
    (again,) = timers.due(10)
    assert one.event_id == two.event_id == again.event_id
    other = Timers(store.kv, "globex")
    other.set("a", 10)
    assert other.get("a") is not None
    assert next(other.due(10)).event_id != one.event_id


def test_a_cancelled_timer_never_fires(timers: Timers, store: Store) -> None:
    timers.set("a", 10)
    assert timers.cancel("a")
    assert not timers.cancel("a")
    assert ids(timers.due(END)) == []
    assert store.kv.scan(QUEUE, "acme") == store.kv.scan(TIMERS, "acme") == []


def test_timers_belong_to_their_tenant(timers: Timers, store: Store) -> None:
    timers.set("a", 10)
    other = Timers(store.kv, "globex")
    assert ids(other.due(END)) == []
    assert other.get("a") is None
    assert not other.cancel("a")


def test_many_timers_are_read_page_by_page_while_they_are_settled(timers: Timers) -> None:
    rand = random.Random(5)
    times = {f"t{n}": rand.randrange(50) for n in range(130)}
    for id, due in times.items():
        timers.set(id, due)
    seen = []
    for timer in timers.due(END):
        seen.append(timer.id)
        timers.settle(timer)
    assert seen == sorted(times, key=lambda id: (times[id], id))
    assert ids(timers.due(END)) == []


@pytest.mark.parametrize(
    ("id", "due", "payload", "field"),
    [
        ("", 1, {}, "id"),
        ("x" * (MAX_ID + 1), 1, {}, "id"),
        ("a\x00", 1, {}, "key"),
        ("a", -1, {}, "due_us"),
        ("a", MAX_INT, {}, "due_us"),
        ("a", 1, {"n": 2**60}, "payload"),
        ("a", 1, {"n": object()}, "payload"),
        ("a", 1, {"n": "\ud800"}, "payload"),
    ],
)
def test_what_cannot_be_a_timer_is_refused_and_nothing_is_set(
    timers: Timers, store: Store, id: str, due: int, payload: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidInput) as refused:
        timers.set(id, due, payload)
    assert refused.value.field == field
    assert store.kv.scan(QUEUE, "acme") == []


def test_ids_of_any_characters_come_back(timers: Timers) -> None:
    for id in ("a/b", "ü💡", "/", "x" * MAX_ID):
        timers.set(id, 1)
    assert sorted(ids(timers.due(1))) == sorted(["a/b", "ü💡", "/", "x" * MAX_ID])


@pytest.mark.parametrize("damage", [b"", b"x", b"{}", b'{"due_us":"soon","payload":{}}', b"[1]"])
def test_a_damaged_record_is_named_and_can_be_cancelled_or_set_anew(timers: Timers, store: Store, damage: bytes) -> None:
    for mend in (timers.cancel, lambda id: timers.set(id, 10)):
        timers.set("a", 10)
        store.kv.put(TIMERS, "acme", "a", damage)
        with pytest.raises(InvalidInput, match="timer 'a'"):
            list(timers.due(END))
        mend("a")
        list(timers.due(END))


# ---------------------------------------------------------------- clocks


def test_a_clock_moved_back_and_forth_fires_a_timer_once(timers: Timers) -> None:
    day_us = 86_400_000_000
    timers.set("a", 10 * day_us)
    fired: Counter[str] = Counter()
    for now in (9, 11, 8, 10, 12):
        for timer in timers.due(now * day_us):
            fired[timer.id] += timers.settle(timer)
    assert fired == {"a": 1}


@pytest.mark.parametrize(
    ("day", "zone", "before", "at", "expected"),
    [
        (date(2026, 7, 31), "Europe/Berlin", 30, time(9), "2026-07-01T07:00"),
        (date(2026, 4, 15), "Europe/Berlin", 30, time(9), "2026-03-16T08:00"),  # the change lies in between
        (date(2026, 3, 29), "Europe/Berlin", 0, time(9), "2026-03-29T07:00"),  # the day of the change
        (date(2026, 3, 29), "Europe/Berlin", 0, time(2, 30), "2026-03-29T01:30"),  # skipped: 03:30 by the new time
        (date(2026, 10, 25), "Europe/Berlin", 0, time(2, 30), "2026-10-25T00:30"),  # twice: the first
        (date(2026, 10, 25), "Europe/Berlin", 0, time(9), "2026-10-25T08:00"),
        (date(2028, 3, 1), "America/New_York", 1, time(9), "2028-02-29T14:00"),  # a leap day
        (date(2028, 2, 29), "UTC", 366, time(9), "2027-02-28T09:00"),
        (date(2027, 3, 1), "UTC", 1, time(9), "2027-02-28T09:00"),
        (date(2011, 12, 31), "Pacific/Apia", 1, time(9), "2011-12-30T19:00"),  # a day that Samoa skipped
        (date(2026, 1, 5), "Asia/Kathmandu", 5, time(9), "2025-12-31T03:15"),
    ],
)
def test_days_before_a_local_date_at_a_local_time_are_one_instant(day: date, zone: str, before: int, at: time, expected: str) -> None:
    assert from_us(local_instant(day, zone, days_before=before, at=at)).strftime("%Y-%m-%dT%H:%M") == expected


@given(
    st.dates(date(1971, 1, 1), date(2250, 1, 1)),
    st.integers(0, 400),
    st.sampled_from(["Europe/Berlin", "America/Sao_Paulo", "Australia/Lord_Howe", "Africa/Casablanca", "UTC"]),
)
def test_nine_in_the_morning_is_nine_in_the_morning(day: date, before: int, zone: str) -> None:
    local = from_us(local_instant(day, zone, days_before=before)).astimezone(ZoneInfo(zone))
    assert (local.date(), local.hour, local.minute) == (day - timedelta(days=before), 9, 0)


@pytest.mark.parametrize("wrong", [{"zone": "Mars/Base"}, {"zone": "../etc/passwd"}, {"zone": ""}, {"days_before": 10**7}])
def test_a_zone_or_day_that_does_not_exist_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        local_instant(**{"day": date(2026, 1, 1), "zone": "UTC"} | wrong)


@pytest.mark.parametrize(
    ("zone", "change"), [("Europe/Berlin", date(2026, 3, 29)), ("Europe/Berlin", date(2026, 10, 25)), ("UTC", date(2028, 2, 29))]
)
def test_a_renewal_reminder_fires_once_through_a_change_of_clocks_and_a_skewed_look(timers: Timers, zone: str, change: date) -> None:
    """Computed again each day, as a worker would, and looked for every half hour by clocks that are an hour ahead or behind."""
    renewal = change + timedelta(days=1)
    due = local_instant(renewal, zone, days_before=1, at=time(2, 30))
    fired: Counter[str] = Counter()
    now = datetime.combine(change, time(0), UTC) - timedelta(hours=6)
    timers.set(f"renewal/{renewal}", due)
    for step in range(60):
        now += timedelta(minutes=30)
        if not fired:
            timers.set(f"renewal/{renewal}", local_instant(renewal, zone, days_before=1, at=time(2, 30)))
        for timer in timers.due(to_us(now) + (-1) ** step * 3_600_000_000):
            fired[timer.id] += timers.settle(timer)
    assert fired == {f"renewal/{renewal}": 1}


# ---------------------------------------------------------------- any interleaving and crash

State = tuple[int, int] | None  # due time and payload
Op = tuple[Any, ...]


class Crash(BaseException):
    """The process is gone."""


class Play:
    """Two workers on the same few timers, and what must have come of it: each operation in one order or the other."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.kv = Meddled(store.kv)
        self.mine, self.theirs = Timers(self.kv, "acme"), Timers(store.kv, "acme")
        self.model: dict[str, State] = dict.fromkeys("abc")
        # Set by who crashed and was told nothing: may come up late when it was set before, or wait until it is set again.
        self.late: set[str] = set()
        self.unqueued: set[str] = set()
        self.fired: Counter[tuple[str, int]] = Counter()  # by id and revision

    def act(self, timers: Timers, op: Op) -> None:
        match op:
            case "set", id, due, n:
                timers.set(id, due, {"n": n})
            case "cancel", id:
                timers.cancel(id)
            case "fire", now:
                last = (-1, "")
                for timer in timers.due(now):
                    assert timer.due_us <= now
                    assert (timer.due_us, timer.id) > last
                    last = (timer.due_us, timer.id)
                    if timers.settle(timer):
                        self.fired[timer.id, timer.revision] += 1

    @staticmethod
    def expected(op: Op | None, id: str, state: State) -> State:
        match op:
            case "set", name, due, n if name == id:
                return (due, n)
            case "cancel", name if name == id:
                return None
            case "fire", now if state is not None and state[0] <= now:
                return None
        return state

    def perform(self, op: Op, other: Op | None, call: int) -> None:
        """`op`, and just before its call of that number, if it makes so many, `other` by the other worker, or the end of its process."""

        def meanwhile() -> None:
            if other == ("crash",):
                raise Crash
            self.act(self.theirs, other or ("nothing",))

        self.kv.left, self.kv.meanwhile = call, meanwhile if call else None
        crashed = False
        try:
            self.act(self.mine, op)
        except Crash:
            crashed = True
        second = other if call and self.kv.meanwhile is None and not crashed else None
        self.kv.meanwhile = None
        for id, before in self.model.items():
            found = self.theirs.get(id)
            after: State = None if found is None else (found.due_us, found.payload["n"])
            orders = {
                self.expected(second, id, self.expected(op, id, before)),
                self.expected(op, id, self.expected(second, id, before)),
                *([before] if crashed else []),
            }
            assert after in orders or (id in self.late and after == before), (id, before, op, second, after)
            if crashed and op[:2] == ("set", id) and after is not None:
                self.late.add(id)
                if before is None:
                    self.unqueued.add(id)
            elif after is None or (op[:2] == ("set", id) and not crashed) or (second or ())[:2] == ("set", id):
                self.late.discard(id)
                self.unqueued.discard(id)
            self.model[id] = after
        assert max(self.fired.values(), default=1) == 1

    def all_that_is_set_comes_up(self) -> None:
        list(self.theirs.due(END))  # puts right what a crash left behind
        found = [(t.due_us, t.id) for t in self.theirs.due(END)]
        want = sorted((state[0], id) for id, state in self.model.items() if state is not None)
        assert [x for x in found if x[1] not in self.unqueued] == [x for x in want if x[1] not in self.unqueued]
        assert len(self.store.kv.scan(QUEUE, "acme")) == len(found)


OPS: list[Op] = [("set", "a", 1, 0), ("set", "a", 2, 0), ("cancel", "a"), ("fire", 1), ("fire", 2)]


def test_every_interleaving_of_two_operations_after_every_crash_of_a_third() -> None:
    """Exhaustive for one timer: what was there, who crashed at which step, who works, who comes in between and when."""
    for first, crashed, at in product([None, *OPS[:2]], [None, *OPS], range(1, 7)):
        if crashed is None and at > 1:
            continue
        for op, other, call in product(OPS, OPS, range(9)):
            if call == 0 and other is not OPS[0]:
                continue
            play = Play(MemoryStore(clock=ManualClock(START)))
            try:
                if first is not None:
                    play.perform(first, None, 0)
                if crashed is not None:
                    play.perform(crashed, ("crash",), at)
                play.perform(op, other, call)
                play.all_that_is_set_comes_up()
            except AssertionError as error:
                raise AssertionError(first, crashed, at, op, other, call) from error


class TimerMachine(RuleBasedStateMachine):
    """Longer stories of three timers."""

    make: Maker
    id = st.sampled_from("abc")
    due = st.integers(0, 5)
    call = st.integers(0, 7)
    other = st.one_of(
        st.none(),
        st.just(("crash",)),
        st.tuples(st.just("set"), id, due, st.integers(0, 3)),
        st.tuples(st.just("cancel"), id),
        st.tuples(st.just("fire"), st.integers(-1, 6)),
    )

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp())
        self.store = type(self).make(self.directory, ManualClock(START))
        self.play = Play(self.store)

    def teardown(self) -> None:
        self.play.all_that_is_set_comes_up()
        self.store.close()
        shutil.rmtree(self.directory)

    @rule(id=id, due=due, n=st.integers(0, 3), other=other, call=call)
    def set(self, id: str, due: int, n: int, other: Any, call: int) -> None:
        self.play.perform(("set", id, due, n), other, call)

    @rule(id=id, other=other, call=call)
    def set_again(self, id: str, other: Any, call: int) -> None:
        if (state := self.play.model[id]) is not None:
            self.play.perform(("set", id, *state), other, call)

    @rule(id=id, other=other, call=call)
    def cancel(self, id: str, other: Any, call: int) -> None:
        self.play.perform(("cancel", id), other, call)

    @rule(now=st.integers(-1, 6), other=other, call=st.integers(0, 12))
    def fire(self, now: int, other: Any, call: int) -> None:
        self.play.perform(("fire", now), other, call)

    @rule()
    def look_at_all(self) -> None:
        self.play.all_that_is_set_comes_up()


@pytest.mark.torture
@pytest.mark.parametrize("name", STORES)
def test_no_timer_is_lost_and_none_fires_twice(name: str) -> None:
    machine = type("Machine", (TimerMachine,), {"make": staticmethod(STORES[name])})
    many = {"memory": 100, "sqlite": 20}.get(name, 5)
    run_state_machine_as_test(machine, settings=settings(max_examples=examples(many), stateful_step_count=25))  # type: ignore[no-untyped-call]


# ---------------------------------------------------------------- real processes, really killed


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_the_effect_of_each_timer_counts_once_although_workers_are_killed(tmp_path: Path, kind: str) -> None:
    """Two workers at a time; whichever holds the lease is killed somewhere, and another goes on when the lease has expired."""
    url, schema = fresh_log() if kind == "postgres" else (f"sqlite:///{tmp_path / 'log.db'}", DEFAULT_SCHEMA)
    seed, clock = random.getrandbits(32), tmp_path / "clock"
    rand, now, count = random.Random(seed), to_us(START), 40
    with closing(open_store(url, schema=schema)) as store:
        for n in range(count):
            Timers(store.kv, "acme").set(f"t{n}", now - rand.randrange(10**9))
    pipes: dict[str, Any] = {
        "stdin": subprocess.PIPE,
        "stdout": subprocess.PIPE,
        "env": {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"},
    }
    idle = False
    for life in range(200):
        if idle:
            break
        clock.write_text(str(now + life * 31_000_000))
        with Fork(WORKER, url, schema, clock, f"w{life}", **pipes) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            for _ in range(rand.randrange(1, 15)):
                line = process.stdout.readline()
                assert line.startswith(("fired", "idle")), line
                if idle := line == "idle\n":
                    break
            process.kill()
    assert idle
    with closing(open_store(url, schema=schema)) as store:
        fired = [event.data.decode().strip('"') for event in store.read(Query(streams=(STREAM,)))]
        assert sorted(fired) == sorted(f"t{n}" for n in range(count)), f"seed {seed}"
        assert list(Timers(store.kv, "acme").due(END)) == []
