"""Following a log: nothing skipped or repeated, progress over what was not asked for, an end when told."""

from __future__ import annotations

import random
import threading

import pytest

from postsale.errors import InvalidInput
from postsale.events import Lane
from postsale.store import Query, Store, Subscription
from postsale.testing import Events
from postsale.testing.store_building import each, in_threads


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
