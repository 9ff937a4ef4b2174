"""Stores against a dict model under random sequences of everything that callers do, reopening included."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test
from tests.postgres import fresh_log
from tests.shared import examples

from postsale.errors import ConditionFailed, ContentConflict, EventTooLarge, InvalidInput, VersionConflict
from postsale.events import Lane, ManualClock, NewEvent, StreamId
from postsale.store import (
    Appended,
    Condition,
    MemoryStore,
    NoneSince,
    Query,
    SQLiteStore,
    Store,
    StreamAt,
    Submission,
    dedup,
    sqlite_ids,
    verify,
)
from postsale.store.postgres import PostgresStore
from postsale.testing.store_building import START, Events

LIMIT_BYTES = 512
STREAMS = [StreamId(tenant, category, id) for tenant in ("acme", "globex") for category in ("customers", "policies") for id in "ab"]
KINDS = ["test/seen", "test/paid"]

streams = st.sampled_from(STREAMS)
numbers = st.integers(0, 12)


class Model:
    """What a log is, in the fewest words: a list of rows."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def version(self, stream: StreamId) -> int:
        return sum(row["stream"] == stream and row["lane"] == Lane.DECISION for row in self.rows)

    def by_id(self, event: NewEvent) -> dict[str, Any] | None:
        same = [row for row in self.rows if row["event_id"] == event.event_id and row["stream"].tenant == event.stream.tenant]
        return same[0] if same else None

    def append(self, submission: Submission, now_us: int) -> tuple[str, list[int]]:
        if len({event.stream.tenant for event in submission.events}) > 1:
            return "InvalidInput", []
        there = [self.by_id(event) for event in submission.events]
        if any(row is not None for row in there):
            same = all(row and row["content_mac"] == event.content_mac for row, event in zip(there, submission.events, strict=True))
            return ("duplicate", [row["position"] for row in there if row]) if same else ("ContentConflict", [])
        for condition in submission.conditions:
            match condition:
                case StreamAt(stream, version):
                    if self.version(stream) != version:
                        return "VersionConflict", []
                case NoneSince(watched, kinds, position):
                    for row in self.rows:
                        if row["stream"] in watched and row["lane"] == 0 and row["kind"] in kinds and row["position"] > position:
                            return "ConditionFailed", []
        versions: dict[StreamId, int] = {}
        for event in submission.events:
            if event.lane == Lane.DECISION:
                version = versions.get(event.stream, self.version(event.stream))
                if event.expected_version != version:
                    return "VersionConflict", []
                versions[event.stream] = version + 1
        if any(len(event.header) + len(event.data) > LIMIT_BYTES for event in submission.events):
            return "EventTooLarge", []
        first = len(self.rows) + 1
        for event in submission.events:
            last = self.rows[-1]["recorded_at_us"] if self.rows else 0
            row = event._asdict()
            expected = row.pop("expected_version")
            row["position"] = len(self.rows) + 1
            row["version"] = row["position"] if expected is None else expected + 1
            row["recorded_at_us"] = max(now_us, last + 1)
            row["leaf_index"] = sum(other["stream"].tenant == event.stream.tenant for other in self.rows)
            row["kind"] = event.wire_name.split("@")[0]
            self.rows.append(row)
        return "stored", list(range(first, len(self.rows) + 1))

    def read(self, query: Query) -> list[int]:
        found = [
            row["position"]
            for row in self.rows
            if (query.tenant in (None, row["stream"].tenant))
            and (query.category in (None, row["stream"].category))
            and (not query.streams or row["stream"] in query.streams)
            and (query.lane in (None, row["lane"]))
            and (not query.kinds or row["kind"] in query.kinds)
            and row["position"] > query.after
            and (query.upto is None or row["position"] <= query.upto)
            and (query.known_at_us is None or row["recorded_at_us"] <= query.known_at_us)
            and (query.as_of_us is None or row["occurred_at_us"] <= query.as_of_us)
        ]
        if query.backward:
            found.reverse()
        return found[: query.limit]


def word_for(outcome: object) -> str:
    match outcome:
        case Appended(stored=True):
            return "stored"
        case Appended():
            return "duplicate"
        case ContentConflict() | VersionConflict() | ConditionFailed() | EventTooLarge() | InvalidInput():
            return type(outcome).__name__
    raise AssertionError(outcome)


class LogMachine(RuleBasedStateMachine):
    make: Callable[[Path, ManualClock], Store]

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp())
        self.clock = ManualClock(START)
        self.model = Model()
        self.events = Events()
        self.store = type(self).make(self.directory / "log.db", self.clock)
        self.other = self.store if isinstance(self.store, MemoryStore) else type(self).make(self.directory / "log.db", self.clock)

    @initialize(seed=st.integers(0, 2**32))
    def seeded(self, seed: int) -> None:
        self.events = Events(seed)

    def teardown(self) -> None:
        report = verify(self.store)
        assert report.problems == []
        assert report.events == len(self.model.rows)
        self.store.close()
        self.other.close()
        shutil.rmtree(self.directory)

    def event(self, spec: tuple[StreamId, str, int]) -> NewEvent:
        stream, what, number = spec
        match what:
            case "decide right":
                return self.events.decision(stream, self.model.version(stream))
            case "decide wrong":
                return self.events.decision(stream, number)
            case "too large":
                return self.events.fact(stream, data=b"x" * LIMIT_BYTES)
            case "again" if self.model.rows:
                row = self.model.rows[number % len(self.model.rows)]
                return self.events.fact(row["stream"])._replace(event_id=row["event_id"], content_mac=row["content_mac"])
            case "again, changed" if self.model.rows:
                return self.events.fact(stream)._replace(event_id=self.model.rows[number % len(self.model.rows)]["event_id"])
        return self.events.fact(stream, KINDS[number % 2], 1 + number // 2 % 2)

    specs = st.tuples(
        streams,
        st.sampled_from(["fact", "fact", "fact", "decide right", "decide right", "decide wrong", "too large", "again", "again, changed"]),
        numbers,
    )
    conditions = st.one_of(
        st.builds(StreamAt, streams, st.integers(0, 3)),
        st.builds(NoneSince, st.lists(streams, max_size=3).map(tuple), st.frozensets(st.sampled_from([*KINDS, "no/kind"])), numbers),
    )

    @rule(batch=st.lists(st.tuples(st.lists(specs, min_size=1, max_size=3), st.lists(conditions, max_size=2)), min_size=1, max_size=3))
    def append_twice(self, batch: list[tuple[list[tuple[StreamId, str, int]], list[Condition]]]) -> None:
        submissions = []
        for specs, conditions in batch:
            events = {(e.stream.tenant, e.event_id): e for e in map(self.event, specs)}  # an id at most once in a submission
            submissions.append(Submission(tuple(events.values()), tuple(conditions)))
        first = self.append(submissions)
        second = self.append(submissions)
        for before, after in zip(first, second, strict=True):
            if isinstance(before, Appended):
                assert isinstance(after, Appended)
                assert not after.stored
                assert (after.positions, after.versions, after.recorded_at_us) == (before.positions, before.versions, before.recorded_at_us)

    def append(self, submissions: list[Submission]) -> list[Any]:
        expected = [self.model.append(submission, self.clock.now_us()) for submission in submissions]
        outcomes = self.store.append(submissions)
        assert [word_for(outcome) for outcome in outcomes] == [word for word, _ in expected]
        assert [list(o.positions) for o in outcomes if isinstance(o, Appended)] == [
            at for word, at in expected if word in ("stored", "duplicate")
        ]
        return outcomes

    @rule(seconds=st.integers(-100_000, 100_000))
    def move_the_clock(self, seconds: int) -> None:
        self.clock.advance(timedelta(seconds=seconds))

    @precondition(lambda self: not isinstance(self.store, MemoryStore))
    @rule()
    def reopen(self) -> None:
        log_id = self.store.log_id
        self.store.close()
        self.store = type(self).make(self.directory / "log.db", self.clock)
        assert self.store.log_id == log_id

    @rule()
    def another_process_goes_on(self) -> None:
        self.store, self.other = self.other, self.store

    @rule(
        query=st.builds(
            Query,
            tenant=st.sampled_from([None, "acme", "globex", "nobody"]),
            category=st.sampled_from([None, "customers", "policies", "nothing"]),
            streams=st.lists(streams, max_size=3).map(tuple),
            lane=st.sampled_from([None, Lane.FACT, Lane.DECISION]),
            kinds=st.frozensets(st.sampled_from([*KINDS, "test/decided", "no/kind"]), max_size=2),
            after=st.one_of(st.just(0), numbers),
            upto=st.none() | numbers,
            backward=st.booleans(),
            limit=st.none() | st.integers(0, 5),
        ),
        known=st.none() | numbers,
        as_of=st.none() | numbers,
    )
    def read(self, query: Query, known: int | None, as_of: int | None) -> None:
        rows = self.model.rows
        if rows and known is not None:
            query = Query(**{**asdict(query), "known_at_us": rows[known % len(rows)]["recorded_at_us"] - known % 2})
        if rows and as_of is not None:
            query = Query(**{**asdict(query), "as_of_us": rows[as_of % len(rows)]["occurred_at_us"]})
        assert [event.position for event in self.store.read(query)] == self.model.read(query)

    @invariant()
    def the_whole_log_is_the_model(self) -> None:
        found = list(self.store.read(Query()))
        assert len(found) == len(self.model.rows)
        for event, row in zip(found, self.model.rows, strict=True):
            assert {name: getattr(event, name) for name in row} == row

    @invariant()
    def heads_and_lookups_agree(self) -> None:
        assert self.store.head() == len(self.model.rows)
        assert self.store.versions(STREAMS) == [self.model.version(stream) for stream in STREAMS]
        latest = [
            max((row["position"] for row in self.model.rows if row["stream"] == stream and row["lane"] == 1), default=None)
            for stream in STREAMS
        ]
        assert [event and event.position for event in self.store.latest(STREAMS)] == latest
        for row in self.model.rows[-3:]:
            found = self.store.find(row["stream"].tenant, row["event_id"])
            assert found is not None
            assert found.position == row["position"]
        assert self.store.find("acme", UUID(int=0)) is None


@cache
def log_at(_: Path) -> tuple[str, str]:
    """URL and schema of the log that stands for this path."""
    return fresh_log()


def asdict(query: Query) -> dict[str, Any]:
    return {name: getattr(query, name) for name in Query.__dataclass_fields__}


@pytest.mark.torture
@pytest.mark.parametrize(
    ("make", "many", "generation"),
    [
        (lambda _, clock: MemoryStore(clock=clock, limit_bytes=LIMIT_BYTES), 100, 0),
        (lambda path, clock: SQLiteStore(path, clock=clock, limit_bytes=LIMIT_BYTES, durable=False), 40, sqlite_ids.GENERATION),
        (lambda path, clock: SQLiteStore(path, clock=clock, limit_bytes=LIMIT_BYTES, durable=False), 40, 5),
        (lambda path, clock: PostgresStore(log_at(path)[0], schema=log_at(path)[1], clock=clock, limit_bytes=LIMIT_BYTES), 25, 0),
    ],
    ids=["memory", "sqlite", "sqlite in small generations", "postgres"],
)
def test_a_store_does_what_the_model_does(
    make: Callable[[Path, ManualClock], Store], many: int, generation: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_ids, "GENERATION", generation)
    monkeypatch.setattr(dedup, "FIRST_CAPACITY", 16)
    machine = type("Machine", (LogMachine,), {"make": staticmethod(make)})
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        machine,
        settings=settings(
            max_examples=examples(many), stateful_step_count=25, deadline=None, print_blob=True, suppress_health_check=list(HealthCheck)
        ),
    )
