"""What the store contract is written with: random events, short forms, the hooks a third party fills in. No claims here. Needs pytest."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from postsale.events import Actor, Clock, Header, Lane, ManualClock, NewEvent, StreamId
from postsale.store import Appended, Query, Store, Submission

START = datetime(2027, 1, 1, tzinfo=UTC)
LIMIT_BYTES = 4_096


class Events:
    """Builds events with random content; the same seed builds the same events. What a test cares about, it passes."""

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self._random = random.Random(seed)

    def stream(self, tenant: str = "acme", category: str = "customers", id: str | None = None) -> StreamId:
        return StreamId(tenant, category, id or f"c{self._random.getrandbits(64):016x}")

    def fact(self, stream: StreamId | None = None, kind: str = "test/seen", version: int = 1, **fields: Any) -> NewEvent:
        """A fact; `fields` replace what would be random."""
        return self._event(stream or self.stream(), Lane.FACT, None, f"{kind}@{version}", fields)

    def decision(self, stream: StreamId, expected_version: int, kind: str = "test/decided", **fields: Any) -> NewEvent:
        return self._event(stream, Lane.DECISION, expected_version, f"{kind}@1", fields)

    def _event(self, stream: StreamId, lane: Lane, expected: int | None, wire_name: str, fields: dict[str, Any]) -> NewEvent:
        rand = self._random
        header = Header(actor=Actor("source", "test"), source="test", source_id=f"{rand.getrandbits(64):x}")
        event = NewEvent(
            stream=stream,
            lane=lane,
            expected_version=expected,
            event_id=UUID(int=rand.getrandbits(128)),
            wire_name=wire_name,
            schema=b"schema of a test",
            occurred_at_us=1_790_000_000_000_000 + rand.randrange(-(10**15), 10**15),
            content_mac=rand.randbytes(16),
            header=header.to_bytes(),
            data=b'{"n":%d}' % rand.randrange(10**9),
        )
        return event._replace(**fields)


def one(*events: NewEvent) -> list[Submission]:
    """These events as one submission."""
    return [Submission(events)]


def each(*events: NewEvent) -> list[Submission]:
    """These events as a submission each."""
    return [Submission((event,)) for event in events]


def stored(outcome: object) -> Appended:
    """The outcome, which must be a success."""
    assert isinstance(outcome, Appended), outcome
    return outcome


def positions(store: Store, query: Query) -> list[int]:
    return [event.position for event in store.read(query)]


def in_threads(run: Any, count: int, writers: int | None = None, done: threading.Event | None = None) -> None:
    """Run `run(0)` … `run(count - 1)` at once; re-raise the first error. `done` is set when the first `writers` have ended."""
    errors: list[BaseException] = []

    def guarded(index: int) -> None:
        try:
            run(index)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(index,)) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads[:writers]:
        thread.join()
    if done is not None:
        done.set()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


class Hooks:
    directory: Path

    def make_store(self, clock: Clock, limit_bytes: int) -> Store:
        """A new, empty store; `self.directory` is an empty directory of this test. The only method to supply."""
        raise NotImplementedError

    @pytest.fixture(autouse=True)
    def _directory(self, tmp_path: Path) -> None:
        self.directory = tmp_path

    @pytest.fixture
    def clock(self) -> ManualClock:
        return ManualClock(START)

    @pytest.fixture
    def store(self, clock: ManualClock) -> Iterator[Store]:
        with closing(self.make_store(clock, LIMIT_BYTES)) as store:
            yield store

    @pytest.fixture
    def events(self, request: pytest.FixtureRequest) -> Events:
        events = Events(seed=random.getrandbits(32))
        request.node.add_report_section("setup", "seed", f"Events(seed={events.seed})")  # shown when the test fails
        return events
