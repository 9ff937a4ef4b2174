"""Snapshots: a customer loaded with one is the customer folded from the start, and any doubt about it means that it is not used."""

from __future__ import annotations

import sqlite3
from collections.abc import Generator, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.aggregates.strategies import customer_events
from tests.aggregates.test_state_json import in_order
from tests.shared import examples

from postsale.access import FileVault
from postsale.aggregates import commands
from postsale.aggregates.identity import StreamJoined, StreamParted, customer_stream
from postsale.aggregates.signals import InvoicePaid, SurveyAnswered, UsageObserved
from postsale.errors import IdentityConflict, StoreUnavailable
from postsale.events import Actor, Event, ManualClock, StoredEvent, StreamId, derive_id, registry
from postsale.store import MemoryStore, Query, SQLiteStore, Store
from postsale.store import snapshots as module
from postsale.store.log import Cause, Draft, Log
from postsale.store.snapshots import SNAPSHOTS

NOON = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)
SOURCE = Cause(actor=Actor("source", "test"))
EVERY = 5
HERE = customer_stream("acme", "c1")


class Logs:
    """One log as it is read with snapshots and without."""

    def __init__(self, store: Store, clock: ManualClock, vault: FileVault | None = None) -> None:
        self.vault = vault or FileVault.in_memory()
        self.store = store
        self.clock = clock
        self.quick = Log(store, self.vault, clock, snapshot_every=EVERY)
        self.slow = Log(store, self.vault, clock, snapshot_every=0)
        self.number = count()

    def fact(self, stream: StreamId = HERE, kind: int = 0, at: datetime = NOON, **more: Any) -> None:
        n = next(self.number)
        base = {"source": "s", "id": f"{stream}{n}", "occurred_at": at}
        signal = (
            InvoicePaid(**base, amount_minor=n, currency="EUR")
            if kind == 0
            else UsageObserved(**base, feature="export", count=n)
            if kind == 1
            else SurveyAnswered(**base | {"survey": "nps", "score": 9, "scale_min": 0, "scale_max": 10} | more)
        )
        self.quick.append([self.quick.fact(stream, signal, said_of="x", subject=stream.id, cause=SOURCE)])

    def decide(self, stream: StreamId, event: Event) -> None:
        version = self.store.versions([stream])[0]
        draft = Draft(event, derive_id(stream, version), self.clock.now_us(), SOURCE)
        self.quick.append([self.quick.decision(stream, version, draft)])

    def snapshot(self, stream: StreamId = HERE) -> bytes | None:
        kept = self.store.kv.get(SNAPSHOTS, stream.tenant, derive_id("snapshot", stream).hex)
        return None if kept is None else kept.value

    def replace_snapshot(self, value: bytes, stream: StreamId = HERE) -> None:
        self.store.kv.put(SNAPSHOTS, stream.tenant, derive_id("snapshot", stream).hex, value)

    def same(self, stream: StreamId = HERE, **at: Any) -> None:
        quick, slow = self.quick.customer(stream, **at), self.slow.customer(stream, **at)
        assert in_order(quick) == in_order(slow)


@pytest.fixture
def logs(store: Store, clock: ManualClock) -> Iterator[Logs]:
    clock.move_to(NOON)
    logs = Logs(store, clock)
    with closing(logs.vault):
        yield logs


def settled(logs: Logs, facts: int = EVERY) -> bytes:
    """A snapshot of so many facts."""
    for n in range(facts):
        logs.fact(kind=n % 3)
    logs.same()
    value = logs.snapshot()
    assert value is not None
    return value


class Counting(MemoryStore):
    """A store that counts what is read from it."""

    events_read = 0

    def read(self, query: Query) -> Generator[StoredEvent, None, None]:
        for event in super().read(query):
            self.events_read += 1
            yield event


def test_a_snapshot_spares_reading_the_past_again() -> None:
    """After it, a load reads the news and the one event by which the snapshot is known to be of this log."""
    clock = ManualClock(NOON)
    store = Counting(clock=clock)
    logs = Logs(store, clock)
    settled(logs, 40)
    logs.fact()
    store.events_read = 0
    logs.quick.customer(HERE)
    assert store.events_read == 2


def test_a_snapshot_is_written_only_after_many_events(logs: Logs) -> None:
    for _ in range(EVERY - 1):
        logs.fact()
        logs.same()
    assert logs.snapshot() is None
    logs.fact()
    logs.same()
    first = logs.snapshot()
    assert first is not None
    for _ in range(EVERY - 1):
        logs.fact()
        logs.same()
        assert logs.snapshot() == first
    logs.fact()
    logs.same()
    assert logs.snapshot() != first


# ---------------------------------------------------------------- the same, whatever happened

numbers = st.integers(0, 2)
ops = st.one_of(
    st.tuples(st.just("fact"), numbers, numbers, st.integers(-300, 10)),
    st.tuples(st.just("event"), numbers, customer_events),
    st.tuples(st.sampled_from(["join", "part"]), numbers, numbers),
    st.tuples(st.just("load"), numbers),
    st.tuples(st.just("merge"), numbers, numbers),
    st.tuples(st.just("flip"), numbers, st.integers(0, 2**20)),
)


def play(logs: Logs, tenant: str, op: tuple[Any, ...]) -> None:
    streams = [customer_stream(tenant, f"c{n}") for n in range(3)]
    here = streams[op[1]]
    logs.clock.advance(timedelta(seconds=1))
    match op:
        case "fact", _, kind, minutes:
            logs.fact(here, kind, NOON + timedelta(minutes=minutes))
        case "event", _, event:
            logs.decide(here, event)
        case "join", _, other:
            logs.decide(here, StreamJoined(category=streams[other].category, id=streams[other].id, why="merge"))
        case "part", _, other:
            logs.decide(here, StreamParted(category=streams[other].category, id=streams[other].id, reason="r"))
        case "merge", _, other if here != streams[other]:
            survivor, absorbed = logs.quick.customer(here), logs.quick.customer(streams[other])
            change = commands.split if absorbed.merged_into == here.id else commands.merge
            try:
                ours, theirs = change(survivor, absorbed, "r")
            except IdentityConflict:
                return
            for stream, events in ((here, ours), (streams[other], theirs)):
                for event in events:
                    logs.decide(stream, event)
        case "load", _:
            logs.same(here)
        case "flip", _, at if (value := logs.snapshot(here)) is not None:
            byte = at // 8 % len(value)
            logs.replace_snapshot(value[:byte] + bytes([value[byte] ^ 1 << at % 8]) + value[byte + 1 :], here)


def test_a_customer_loaded_with_snapshots_is_the_one_folded_from_the_start(logs: Logs) -> None:
    """Now, as known at any time and as of any time, after facts, decisions, links, merges, splits and damage in any order."""
    tenants = (f"t{n}" for n in count())
    used = 0

    @settings(max_examples=examples({MemoryStore: 80, SQLiteStore: 20}.get(type(logs.store), 6)), suppress_health_check=list(HealthCheck))  # type: ignore[call-overload]
    @given(st.lists(ops, min_size=10, max_size=45), st.integers(-300, 10))
    def run(script: list[tuple[Any, ...]], minutes: int) -> None:
        nonlocal used
        tenant = next(tenants)
        for op in script:
            play(logs, tenant, op)
        times = [event.recorded_at_us for event in logs.store.read(Query(tenant=tenant))]
        for n in range(3):
            here = customer_stream(tenant, f"c{n}")
            for _ in range(2):  # the first may write the snapshot that the second reads
                logs.same(here)
            used += logs.quick.snapshots.load(here) is not None
            for at in times[:: max(1, len(times) // 6)]:
                logs.same(here, known_at_us=at)
                logs.same(here, known_at_us=at - 1)
            logs.same(here, as_of_us=logs.clock.now_us() + minutes * 60_000_000)
            logs.same(here, as_of_us=logs.clock.now_us(), known_at_us=times[-1] if times else 0)

    run()
    assert used


def test_streams_that_were_joined_after_the_snapshot_count_with_their_whole_past(logs: Logs) -> None:
    other = customer_stream("acme", "c2")
    for _ in range(3):
        logs.fact(other)
    settled(logs)
    logs.decide(HERE, StreamJoined(category=other.category, id=other.id, why="merge"))
    logs.same()
    assert logs.quick.customer(HERE).facts["billing/invoice-paid"].count == 5
    before = logs.snapshot()
    logs.decide(HERE, StreamParted(category=other.category, id=other.id, reason="r"))
    logs.same()
    assert logs.quick.customer(HERE).facts["billing/invoice-paid"].count == 2
    assert logs.snapshot() != before  # what no longer fits is replaced, or every load would fold from the start


def test_a_snapshot_is_not_used_for_a_time_before_it(logs: Logs) -> None:
    for _ in range(EVERY):
        logs.fact()
        logs.clock.advance(timedelta(hours=1))
    logs.same()
    assert logs.snapshot() is not None
    last = logs.clock.now_us() - 3_600_000_000
    assert logs.quick.snapshots.load(HERE, known_at_us=last) is not None
    assert logs.quick.snapshots.load(HERE, known_at_us=last - 1) is None
    assert logs.quick.customer(HERE, known_at_us=last - 1).events == EVERY - 1


# ---------------------------------------------------------------- doubt


def test_any_flipped_bit_makes_a_snapshot_useless(logs: Logs) -> None:
    value = settled(logs)
    for byte in range(0, len(value), 1 if isinstance(logs.store, MemoryStore) else 97):
        logs.replace_snapshot(value[:byte] + bytes([value[byte] ^ 1 << byte % 8]) + value[byte + 1 :])
        assert logs.quick.snapshots.load(HERE) is None, byte
    logs.same()
    assert logs.quick.snapshots.load(HERE) is not None  # made anew by then


@pytest.mark.parametrize("value", [b"", b"\x00" * 16, b"{}", b"\xff" * 400])
def test_what_is_no_snapshot_is_ignored(logs: Logs, value: bytes) -> None:
    logs.fact()
    logs.replace_snapshot(value)
    logs.same()


def test_the_snapshot_of_another_customer_or_tenant_is_ignored(logs: Logs) -> None:
    value = settled(logs)
    for other in (customer_stream("acme", "c2"), customer_stream("globex", "c1")):
        logs.fact(other)
        logs.replace_snapshot(value, other)
        assert logs.quick.snapshots.load(other) is None
        logs.same(other)


def test_a_snapshot_of_another_log_or_of_events_that_this_log_does_not_have_is_ignored(tmp_path: Path, clock: ManualClock) -> None:
    """Under the same keys: a log that was made again from an older copy took another course from there on."""
    path = tmp_path / "log.db"
    with closing(FileVault.in_memory()) as vault:
        with closing(SQLiteStore(path, clock=clock)) as store:
            logs = Logs(store, clock, vault)
            logs.fact()
        copy = path.read_bytes()
        with closing(SQLiteStore(path, clock=clock)) as store:
            value = settled(Logs(store, clock, vault))
        path.write_bytes(copy)
        with closing(SQLiteStore(path, clock=clock)) as store:
            logs = Logs(store, clock, vault)
            logs.number = count(100)
            for _ in range(EVERY):
                logs.fact(kind=1)
            logs.replace_snapshot(value)
            assert logs.quick.snapshots.load(HERE) is None
            logs.same()
        with closing(MemoryStore(clock=clock)) as other:
            logs = Logs(other, clock, vault)
            logs.fact()
            logs.replace_snapshot(value)
            assert logs.quick.snapshots.load(HERE) is None


def test_a_snapshot_by_other_code_is_ignored(logs: Logs, monkeypatch: pytest.MonkeyPatch) -> None:
    settled(logs)
    monkeypatch.setattr(module, "code_digest", lambda: "0" * 64)
    assert logs.quick.snapshots.load(HERE) is None
    logs.same()


def test_every_module_that_folds_a_customer_counts_as_its_code(monkeypatch: pytest.MonkeyPatch) -> None:
    import inspect

    real = inspect.getsource
    digests = {module.code_digest.__wrapped__()}
    for folding in ("customer", "decisions", "identity", "state_json"):
        changed = f"postsale.aggregates.{folding}"
        monkeypatch.setattr(inspect, "getsource", lambda m, changed=changed: real(m) + "# changed" * (m.__name__ == changed))
        digests.add(module.code_digest.__wrapped__())
    assert len(digests) == 5

    def without(_: object) -> str:
        raise OSError

    monkeypatch.setattr(inspect, "getsource", without)
    assert module.code_digest.__wrapped__() != module.code_digest.__wrapped__()


def test_newest_payloads_are_read_by_the_upcasters_of_the_day(logs: Logs) -> None:
    """A snapshot that was written before a kind got a new version gives its fields in the new version."""
    settled(logs)
    assert logs.quick.customer(HERE).latest("billing/invoice-paid", "amount_minor") == 3
    known = dict(registry._classes), dict(registry._upcasters)
    try:
        registry._classes["billing/invoice-paid@2"] = registry._classes["billing/invoice-paid@1"]
        registry.upcaster("billing/invoice-paid@1", "billing/invoice-paid@2")(lambda fields: {**fields, "amount_minor": 1_000})
        assert logs.quick.snapshots.load(HERE) is not None
        assert logs.quick.customer(HERE).latest("billing/invoice-paid", "amount_minor") == 1_000
        logs.same()
    finally:
        registry._classes, registry._upcasters = known


def test_under_other_keys_a_snapshot_is_ignored(store: Store, clock: ManualClock) -> None:
    """As when the key file was lost: reading goes on, masked, from the start."""
    with closing(FileVault.in_memory()) as mine, closing(FileVault.in_memory()) as theirs:
        settled(Logs(store, clock, mine))
        logs = Logs(store, clock, theirs)
        assert logs.quick.snapshots.load(HERE) is None
        logs.same()


# ---------------------------------------------------------------- failures


class ReadOnly(MemoryStore):
    """A store whose records cannot be written."""

    tried = 0

    @property
    def kv(self) -> Any:
        outer, real = self, super().kv

        class Refusing:
            def __getattr__(self, name: str) -> Any:
                return getattr(real, name)

            def put(self, *args: Any, **kwargs: Any) -> int:
                outer.tried += 1
                raise StoreUnavailable(url="memory:", reason="read-only")

        return Refusing()


def test_a_snapshot_that_cannot_be_written_fails_nobody_and_is_not_tried_again_for_a_minute() -> None:
    clock = ManualClock(NOON)
    store = ReadOnly(clock=clock)
    logs = Logs(store, clock)
    for _ in range(EVERY):
        logs.fact()
    for _ in range(3):
        logs.same()
    assert store.tried == 1
    clock.advance(timedelta(minutes=1))
    logs.same()
    assert store.tried == 2


def test_a_damaged_record_space_fails_nobody(tmp_path: Path, clock: ManualClock) -> None:
    path = tmp_path / "log.db"
    with closing(SQLiteStore(path, clock=clock)) as store:
        logs = Logs(store, clock)
        settled(logs)
        other = sqlite3.connect(path)
        other.execute("DROP TABLE kv")
        other.commit()
        other.close()
        for _ in range(2):
            logs.same()


# ---------------------------------------------------------------- what it may hold


def test_no_personal_value_is_in_a_snapshot_and_after_erasure_none_comes_out_of_it(logs: Logs) -> None:
    canary = "canary.bird@example.com"
    for _ in range(EVERY):
        logs.fact(kind=2, comment=f"write to {canary}")
    logs.same()
    value = logs.snapshot()
    assert value is not None
    assert b"canary" not in value
    assert b"$sealed" in value
    logs.vault.destroy("acme", HERE.id)
    assert logs.quick.snapshots.load(HERE) is not None
    assert canary not in repr(logs.quick.customer(HERE))
    logs.same()


def test_dropped_snapshots_are_made_again(logs: Logs) -> None:
    value = settled(logs)
    for n in range(2, 4):
        other = customer_stream("acme", f"c{n}")
        for _ in range(EVERY):
            logs.fact(other)
        logs.same(other)
    there = customer_stream("globex", "c1")
    for _ in range(EVERY):
        logs.fact(there)
    logs.same(there)
    assert logs.quick.snapshots.drop("acme") == 3
    assert logs.snapshot() is None
    assert logs.snapshot(there) is not None
    logs.same()
    assert logs.snapshot() == value
    assert logs.quick.snapshots.drop("nobody") == 0
