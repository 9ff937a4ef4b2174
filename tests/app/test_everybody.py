"""A pass over everybody that goes on from the one before finds what a pass from the beginning finds, whatever happened in between."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from postsale.access import FileVault
from postsale.agents import SHIPPED
from postsale.app import PostSale, everybody
from postsale.app.readings import Readings
from postsale.errors import IdentityConflict, InvalidInput
from postsale.events import DAY_US, Lane, ManualClock, StreamId
from postsale.projections.views import MemoryViews
from postsale.store import MemoryStore, Query

from .support import NOON, cancelled, failed, paid, subscribed, used
from .test_rounds import CountingStore

_WANTED = frozenset({"health", "health_trend", "days_since_last_usage"})
LONG_AGO = NOON - timedelta(days=200)
_MADE = {"used": used, "failed": failed, "paid": paid, "subscribed": subscribed, "cancelled": cancelled}
CUSTOMERS = st.sampled_from(["cus_1", "cus_2", "cus_3"])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("fact"), CUSTOMERS, st.sampled_from(sorted(_MADE)), st.integers(-70 * 24, 0)),  # hours from now
        st.tuples(st.just("consent"), CUSTOMERS, st.booleans()),
        st.tuples(st.just("merge"), CUSTOMERS, CUSTOMERS),
        st.tuples(st.just("split"), CUSTOMERS),
        st.tuples(st.just("run")),
        st.tuples(
            st.just("wait"), st.one_of(st.integers(-30, 30), st.integers(0, 40 * 24))
        ),  # hours; back, facts become ones of a time to come
    ),
    min_size=5,
    max_size=25,
)


_START_US = ManualClock(NOON).now_us()


def found(ps: PostSale, readings: Readings, *, keep: bool) -> tuple[list[Any], set[StreamId]]:
    unreadable: set[StreamId] = set()
    subjects = readings.subjects("acme", ps.clock.now_us(), _WANTED, unreadable, keep=keep)
    return sorted(((s.customer, s.reading) for s in subjects), key=lambda x: x[0].stream), unreadable


def begin(ps: PostSale) -> None:
    """Customers whose health has a trend."""
    for name in ("cus_1", "cus_2", "cus_3"):
        ps.tenant("acme").record(name, subscribed(f"s-{name}", NOON - timedelta(days=100)))
        ps.tenant("acme").record_many([(name, used(f"{name}-{n}", NOON - timedelta(days=n), count=n)) for n in (1, 20, 29, 35, 50)])


def step(ps: PostSale, clock: ManualClock, no: int, what: tuple[Any, ...]) -> None:
    acme, now = ps.tenant("acme"), clock.now_us()
    match what:
        case ("fact", name, kind, hours):
            acme.record(name, _MADE[kind](f"e{no}", NOON + timedelta(microseconds=now - _START_US) + timedelta(hours=hours)))
        case ("consent", name, given_):
            acme.record(name, used(f"c{no}", LONG_AGO))
            acme.consent(name, "email", "service", given=given_, evidence="form")
        case ("merge" | "split", *names):
            try:
                for name in names:
                    acme.record(name, used(f"m{no}{name}", LONG_AGO))
                if len(names) == 2:
                    acme.merge(names[0], into=names[1], reason="the same")
                else:
                    acme.split(names[0], reason="not the same")
            except (IdentityConflict, InvalidInput):
                pass
        case ("run",):
            ps.run_once()
        case ("wait", hours):
            clock.move_to(NOON + timedelta(microseconds=now - _START_US) + timedelta(hours=hours))


@settings(max_examples=25)
@given(STEPS)
def test_a_kept_pass_is_a_pass_from_the_beginning(steps: list[tuple[Any, ...]]) -> None:
    """Late facts, facts of a time to come, merges, decisions in between, a clock that goes on or back: the same customers, the same readings."""
    clock = ManualClock(NOON)
    agents = [cls() for cls in SHIPPED.values()]
    with PostSale(MemoryStore(clock=clock), FileVault.in_memory(), MemoryViews(), clock=clock, agents=agents) as ps:
        begin(ps)
        for no, what in enumerate(steps):
            step(ps, clock, no, what)
            fresh = Readings(ps.log, ps.model, ps._health)
            assert found(ps, ps.readings, keep=True) == found(ps, fresh, keep=False)


@settings(max_examples=25)
@given(STEPS, st.integers(0, 200), st.integers(-30, 30))
def test_a_customer_as_known_at_each_of_its_facts_is_what_the_log_said_then(steps: list[tuple[Any, ...]], from_: int, back: int) -> None:
    clock = ManualClock(NOON)
    with PostSale(MemoryStore(clock=clock), FileVault.in_memory(), MemoryViews(), clock=clock) as ps:
        begin(ps)
        for no, what in enumerate(steps):
            step(ps, clock, no, what)
        stream = ps.directory.customer("acme", "cus_1")
        facts = list(ps.log.store.read(Query(tenant="acme", streams=(stream,), lane=Lane.FACT)))
        facts = facts[from_ % len(facts) :]
        if not facts:
            return
        at_us = clock.now_us() - back * DAY_US // 24
        then = ps.readings.since(stream, facts[0], at_us, _WANTED)
        for fact in facts:
            mine, there = then(fact), ps.readings.subject(stream, at_us, _WANTED, known_at_us=fact.recorded_at_us)
            assert mine.customer == there.customer
            for name in ("score", "band", "trend", "features", "row", "stage"):
                assert getattr(mine.reading, name) == getattr(there.reading, name)


def test_a_second_pass_reads_what_is_new_and_a_third_after_an_older_log_was_put_back_reads_all() -> None:
    clock = ManualClock(NOON)
    store = CountingStore(clock=clock)
    with PostSale(store, FileVault.in_memory(), MemoryViews(), clock=clock) as ps:
        acme = ps.tenant("acme")
        acme.record_many([("cus_1", used(f"u{n}")) for n in range(200)])
        first = found(ps, ps.readings, keep=True)
        acme.record("cus_1", used("one more"))
        store.events_read = 0
        second = found(ps, ps.readings, keep=True)
        assert store.events_read < 10
        assert first != second == found(ps, Readings(ps.log, ps.model, ps._health), keep=False)
        ps.readings._kept["acme"]._leaf = bytes(32)  # as if the log were another one
        store.events_read = 0
        assert found(ps, ps.readings, keep=True) == second
        assert store.events_read > 200


@pytest.mark.parametrize("bound", ["_MOST_CUSTOMERS", "_MOST_RECENT"])
def test_beyond_its_bounds_nothing_is_kept(bound: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(everybody, bound, 2)
    clock = ManualClock(NOON)
    with PostSale(MemoryStore(clock=clock), FileVault.in_memory(), MemoryViews(), clock=clock) as ps:
        acme = ps.tenant("acme")
        acme.record_many([(f"cus_{n % 2}", used(f"u{n}")) for n in range(2)])
        assert len(found(ps, ps.readings, keep=True)[0]) == 2
        assert set(ps.readings._kept) == {"acme"}
        acme.record("cus_3", used("u3"))
        assert len(found(ps, ps.readings, keep=True)[0]) == 3
        assert ps.readings._kept == {}
