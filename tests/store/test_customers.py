"""Customers read together, or on from what is held, are the customers that are read singly from the start."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from itertools import count
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.aggregates.test_state_json import in_order
from tests.shared import examples
from tests.store.test_snapshots import NOON, Logs, logs, ops, play

from postsale.access import FileVault
from postsale.aggregates.customer import CustomerAggregate
from postsale.aggregates.decisions import ConsentGiven
from postsale.aggregates.identity import StreamJoined, StreamParted, customer_stream
from postsale.aggregates.plans import PlanReceived
from postsale.aggregates.risk import RiskCaseOpened
from postsale.errors import KeyUnavailable, VersionConflict
from postsale.events import ManualClock, StoredEvent, derive_id
from postsale.store import MemoryStore, Query, SQLiteStore
from postsale.store.contract import Appended
from postsale.store.log import Cause, Draft

__all__ = ["logs"]  # the fixture


def test_customers_read_together_are_those_read_singly(logs: Logs) -> None:
    """With snapshots and without, on from any state that was held before, joined or not, some of them twice."""
    tenants = (f"t{n}" for n in count())
    together = 0

    @settings(max_examples=examples({MemoryStore: 80, SQLiteStore: 20}.get(type(logs.store), 6)), suppress_health_check=list(HealthCheck))  # type: ignore[call-overload]
    @given(st.lists(ops, min_size=6, max_size=30), st.lists(st.tuples(st.integers(0, 29), st.integers(0, 2)), max_size=4), st.booleans())
    def run(script: list[tuple[Any, ...]], hold: list[tuple[int, int]], twice: bool) -> None:
        nonlocal together
        tenant = next(tenants)
        streams = [customer_stream(tenant, f"c{n}") for n in range(3)]
        held: dict[int, CustomerAggregate] = {}
        for at, op in enumerate(script):
            play(logs, tenant, op)
            held |= {n: logs.slow.customer(streams[n]) for when, n in hold if when == at}
        wanted = [(stream, held.get(n)) for n, stream in enumerate(streams)] * (2 if twice else 1)
        for log in (logs.quick, logs.slow):
            for found, (stream, _) in zip(log.customers(wanted), wanted, strict=True):
                assert isinstance(found, CustomerAggregate)
                assert in_order(found) == in_order(logs.slow.customer(stream))
        for stream, known in wanted:
            assert in_order(logs.slow.customer(stream, held=known)) == in_order(logs.slow.customer(stream))
        together += len(wanted)

    run()
    assert together


class Broken(MemoryStore):
    """A store that gives one customer's events out damaged, and counts its reads."""

    broken = "c3"
    asked = 0
    given = 0

    def read(self, query: Query) -> Generator[StoredEvent, None, None]:
        self.asked += 1
        for event in super().read(query):
            self.given += 1
            yield event._replace(data=b"{") if event.stream.id == self.broken else event


def test_one_customer_that_cannot_be_read_is_no_others_trouble_and_many_are_one_read() -> None:
    clock = ManualClock(NOON)
    store = Broken(clock=clock)
    logs = Logs(store, clock)
    streams = [customer_stream("acme", f"c{n}") for n in range(50)]
    for stream in streams:
        logs.fact(stream)
        logs.decide(stream, ConsentGiven(channel="email", purpose="service", evidence="e"))
    store.asked = 0
    found = logs.quick.customers([(stream, None) for stream in streams])
    assert [n for n, x in enumerate(found) if isinstance(x, Exception)] == [3]
    assert store.asked == 2  # the second is for the one that is damaged
    store.broken = ""
    (third,) = logs.quick.customers([(streams[3], None)])
    assert isinstance(third, CustomerAggregate)


def test_customers_that_have_snapshots_are_read_on_from_them() -> None:
    clock = ManualClock(NOON)
    store = Broken(clock=clock)
    store.broken = ""
    logs = Logs(store, clock)
    streams = [customer_stream("acme", f"c{n}") for n in range(4)]
    for n in range(40):
        logs.fact(streams[n % 2])
    for stream in streams:
        logs.same(stream)
    logs.fact(streams[1])
    store.given = 0
    found = logs.quick.customers([(stream, None) for stream in streams])
    assert [in_order(x) for x in found if isinstance(x, CustomerAggregate)] == [in_order(logs.slow.customer(s)) for s in streams]
    assert store.given < 41 + 10  # by `slow` all 41; by `quick` what is new, and the event that a snapshot is known by


def test_appends_made_together_are_sealed_with_keys_of_one_call_and_refused_one_by_one(logs: Logs) -> None:
    vault, asked = logs.vault, []
    subjects = vault.subjects

    def counted(tenant: str, refs: Any, *, create: bool) -> Any:
        asked.append(list(refs := list(refs)))
        return subjects(tenant, refs, create=create)

    vault.subjects = counted  # type: ignore[method-assign]
    streams = [customer_stream("acme", f"c{n}") for n in range(4)]

    def received(n: int, version: int) -> tuple[Any, Any]:
        ids = {"trigger_id": derive_id("t", n), "request_id": derive_id("r", n), "attempt": 1, "took_ms": 1}
        event = PlanReceived(**ids, status="answered", answer="secret", answer_mac="0" * 64, answer_chars=6)
        draft = Draft(event, derive_id("e", n, version), logs.clock.now_us(), Cause(), streams[n].id)
        return ((streams[n], version, draft),), ()

    found = logs.quick.append_many([received(n, 0) for n in range(4)])
    assert all(isinstance(x, Appended) for x in found)
    assert asked == [[s.id for s in streams]]
    vault.destroy("acme", "c1")
    found = logs.quick.append_many([received(0, 1), received(1, 1), received(2, 5), received(3, 1)])
    assert [type(x) for x in found] == [Appended, KeyUnavailable, VersionConflict, Appended]


def test_nobody_gets_a_key_for_an_event_that_has_nothing_to_seal(logs: Logs) -> None:
    here = customer_stream("acme", "c1")
    draft = Draft(RiskCaseOpened(case_id=derive_id("c"), reason="r"), derive_id("e"), logs.clock.now_us(), Cause())
    with closing(FileVault.in_memory()):
        logs.quick.append_many([(((here, 0, draft),), ())])
    assert logs.vault.subjects("acme", ["c1"], create=False) == {}


def test_streams_that_were_parted_since_a_state_was_held_count_no_more(logs: Logs) -> None:
    here, there, other = (customer_stream("acme", f"c{n}") for n in range(3))
    for stream in (here, there, other):
        logs.fact(stream)
    logs.decide(here, StreamJoined(category=there.category, id=there.id, why="merge"))
    held = logs.slow.customer(here)
    assert held.joined == (there,)
    logs.decide(here, StreamParted(category=there.category, id=there.id, reason="r"))
    for found, stream in zip(logs.slow.customers([(here, held), (other, logs.slow.customer(other))]), (here, other), strict=True):
        assert isinstance(found, CustomerAggregate)
        assert in_order(found) == in_order(logs.slow.customer(stream))
