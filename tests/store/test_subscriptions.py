"""Following a log: nothing skipped or repeated, progress over what was not asked for, an end when told."""

from __future__ import annotations

import random
import subprocess
import threading
from collections.abc import Generator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
from tests.nursery import Fork
from tests.postgres import fresh_log

from postsale.errors import InvalidInput
from postsale.events import Lane, StoredEvent
from postsale.store import MemoryStore, Query, Store, Submission, Subscription, open_store
from postsale.store.postgres_schema import DEFAULT_SCHEMA
from postsale.testing import Events
from postsale.testing.store_building import each, in_threads, one


def test_pages_are_the_query_in_order_each_event_once_and_the_position_passes_what_was_not_asked_for(store: Store) -> None:
    seed = random.getrandbits(32)
    events, rand = Events(seed), random.Random(seed)
    store.append(each(*(events.fact(kind=rand.choice(["test/seen", "test/paid"])) for _ in range(90))))
    store.append(each(*(events.fact(kind="test/paid") for _ in range(10))))
    subscription = Subscription(store, Query(kinds=frozenset({"test/seen"})), after=7, page=4)
    found, positions = [], []
    while (page := subscription.next_page()) is not None:
        assert len(page.events) <= 4, f"seed {seed}"
        found += page.events
        positions.append(page.position)
    assert found == list(store.read(Query(kinds=frozenset({"test/seen"}), after=7))), f"seed {seed}"
    assert positions == sorted(positions), f"seed {seed}"
    assert subscription.position == 100
    assert subscription.next_page() is None


def test_a_new_subscription_goes_on_where_a_checkpoint_says(store: Store) -> None:
    events = Events(random.getrandbits(32))
    store.append(each(*(events.fact() for _ in range(25))))
    found: list[int] = []
    position = 0
    while (page := Subscription(store, after=position, page=10).next_page()) is not None:
        found += [event.position for event in page.events]
        position = page.position
    assert found == list(range(1, 26)), f"seed {events.seed}"


def test_followers_in_threads_see_every_event_of_concurrent_writers_and_end_when_stopped(store: Store) -> None:
    seed = random.getrandbits(32)
    subscriptions = [Subscription(store, page=3), Subscription(store, Query(lane=Lane.FACT), page=50)]
    seen: list[list[int]] = [[], []]

    def run(index: int) -> None:
        if index < 3:
            events = Events(seed + index)
            for _ in range(10):
                store.append(each(*(events.fact() for _ in range(2))))
            return
        for page in subscriptions[index - 3]:
            seen[index - 3] += [event.position for event in page.events]
            if page.position == 60:
                subscriptions[index - 3].stop()

    in_threads(run, 5)
    assert seen == [list(range(1, 61))] * 2, f"seed {seed}"


def test_stop_ends_a_subscription_that_waits(store: Store) -> None:
    subscription = Subscription(store, wait_s=0.01)
    waiting = threading.Thread(target=lambda: list(subscription))
    waiting.start()
    subscription.stop()
    waiting.join(60)
    assert not waiting.is_alive()


@pytest.mark.parametrize("query", [Query(backward=True), Query(limit=3), Query(upto=9), Query(known_at_us=1)])
def test_a_query_that_ends_is_nothing_to_subscribe_to(store: Store, query: Query) -> None:
    with pytest.raises(InvalidInput):
        Subscription(store, query)


# ---------------------------------------------------------------- notifications that lie, consumers that are slow


class Deaf(MemoryStore):
    """Every notification is lost: a wait ends with its time, and says that there is nothing."""

    def wait(self, after: int, timeout_s: float) -> bool:
        super().wait(10**9, timeout_s)
        return False


class Forged(MemoryStore):
    """A wait ends at once and says that there is something, whether there is or not."""

    waits = 0

    def wait(self, after: int, timeout_s: float) -> bool:
        self.waits += 1
        if self.waits == 100:  # somebody does write in the end
            self.append(each(Events(100).fact()))
        return True


def test_lost_notifications_are_made_good_by_looking() -> None:
    store = Deaf()
    subscription = Subscription(store, wait_s=0.001)
    written = threading.Event()

    def write() -> None:
        store.append(each(Events(1).fact(), Events(2).fact()))
        written.set()

    writer = threading.Thread(target=write)
    writer.start()
    seen: list[int] = []
    for page in subscription:
        seen += [event.position for event in page.events]
        if len(seen) == 2:
            subscription.stop()
    writer.join()
    assert seen == [1, 2]


def test_forged_notifications_give_no_event_and_skip_none() -> None:
    store = Forged()
    store.append(each(Events(1).fact()))
    subscription = Subscription(store)
    seen: list[int] = []
    for page in subscription:
        seen += [event.position for event in page.events]
        if len(seen) == 2:
            subscription.stop()
    assert seen == [1, 2]
    assert store.waits == 100


class Counting(MemoryStore):
    """A store that counts what is read from it, and what is being read."""

    events_read = 0
    reading = 0

    def read(self, query: Query) -> Generator[StoredEvent, None, None]:
        self.reading += 1
        try:
            for event in super().read(query):
                self.events_read += 1
                yield event
        finally:
            self.reading -= 1


def test_a_slow_consumer_holds_one_page_and_no_snapshot() -> None:
    """However much is written meanwhile; the log is read only when the next page is asked for."""
    store, events = Counting(), Events(3)
    subscription = Subscription(store, page=10)
    pages = iter(subscription)
    for number in range(5):
        store.append(one(*(events.fact() for _ in range(100))))
        page = next(pages)
        assert [event.position for event in page.events] == list(range(number * 10 + 1, number * 10 + 11))
        assert (store.events_read, store.reading) == ((number + 1) * 10, 0)


def test_a_page_of_large_events_ends_early(store: Store) -> None:
    """Memory is bounded by bytes too: 4 MiB, and the event that goes beyond."""
    events = Events(4)
    size = 900_000
    for _ in range(4):
        store.append([Submission(tuple(events.fact(data=b"x" * size) for _ in range(3)))])
    subscription = Subscription(store)
    counts = []
    while (page := subscription.next_page()) is not None:
        counts.append(len(page.events))
        assert page.position == sum(counts)
    assert counts == [5, 5, 2]


_WRITER = """
import sys
from postsale.store import Appended, Submission, open_store
from postsale.testing import Events
store, events = open_store(sys.argv[1], schema=sys.argv[2]), Events(int(sys.argv[3]))
print("ready", flush=True)
sys.stdin.readline()
while True:
    (outcome,) = store.append([Submission((events.fact(), events.fact()))])
    assert isinstance(outcome, Appended), outcome
    print(outcome.positions[-1], flush=True)
"""


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_a_follower_skips_nothing_of_processes_that_are_killed_in_mid_append(tmp_path: Path, kind: str) -> None:
    """Three real writers, each killed with SIGKILL after a while; what they acknowledged is followed, each event once."""
    url, schema = fresh_log() if kind == "postgres" else (f"sqlite:///{tmp_path / 'log.db'}", DEFAULT_SCHEMA)
    seed = random.getrandbits(32)
    rand = random.Random(seed)
    with closing(open_store(url, schema=schema)) as store, ExitStack() as stack:
        subscription = Subscription(store, page=7)
        seen: list[int] = []

        def follow() -> None:
            for page in subscription:
                seen.extend(event.position for event in page.events)

        follower = threading.Thread(target=follow)
        follower.start()
        stack.callback(follower.join)
        stack.callback(subscription.stop)
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        processes = [stack.enter_context(Fork("-c", _WRITER, url, schema, seed + n, **pipes)) for n in range(3)]
        assert [process.stdout and process.stdout.readline() for process in processes] == ["ready\n"] * 3
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        acknowledged = 0
        for process in processes:
            assert process.stdout is not None
            for _ in range(rand.randrange(5, 40)):
                acknowledged = max(acknowledged, int(process.stdout.readline()))
            process.kill()
            process.wait()
        head = store.head()
        while subscription.position < head:
            store.wait(10**9, 0.01)
        subscription.stop()
        follower.join()
        assert len(seen) >= head >= acknowledged  # a server may still commit what a dead client had sent
        assert seen == list(range(1, len(seen) + 1)), f"seed {seed}"
