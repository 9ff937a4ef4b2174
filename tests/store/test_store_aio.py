"""The async twin of a store: tasks share commits and have outcomes of their own; cancelling loses and doubles nothing."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from contextlib import aclosing, suppress

import pytest

from postsale.errors import StoreUnavailable, VersionConflict
from postsale.store import Appended, AsyncStore, Outcome, Query, Store, Submission
from postsale.testing import Events
from postsale.testing.store_building import each, one, stored


class Counting:
    """A store that counts its calls of `append`; everything else is the store's own."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.calls = 0

    def append(self, submissions: Sequence[Submission]) -> list[Outcome]:
        self.calls += 1
        return self._store.append(submissions)

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)


def test_many_tasks_share_commits_and_each_has_its_own_outcome(store: Store) -> None:
    events = Events(random.getrandbits(32))
    counting = Counting(store)
    contended = events.stream()

    async def run() -> list[list[Outcome]]:
        log = AsyncStore(counting)  # type: ignore[arg-type]
        good = [log.append(one(events.fact(), events.fact())) for _ in range(32)]
        return await asyncio.gather(*good, *(log.append(each(events.decision(contended, 0))) for _ in range(4)))

    results = asyncio.run(run())
    positions = [p for (outcome,) in results[:32] for p in stored(outcome).positions]
    assert len(set(positions)) == 64, f"seed {events.seed}"
    assert sorted(type(outcome).__name__ for (outcome,) in results[32:]) == ["Appended", *["VersionConflict"] * 3]
    assert sum(isinstance(outcome, VersionConflict) for (outcome,) in results[32:]) == 3
    assert counting.calls < 8, "36 tasks went one by one"


def test_what_is_wrong_with_the_store_is_every_tasks_error_and_what_is_wrong_with_one_call_is_its_own(store: Store) -> None:
    events = Events(random.getrandbits(32))

    async def run() -> list[object]:
        log = AsyncStore(store)
        garbage = log.append([None])  # type: ignore[list-item]
        mixed = await asyncio.gather(log.append(each(events.fact())), garbage, log.append(each(events.fact())), return_exceptions=True)
        store.close()
        closed = await asyncio.gather(*(log.append(each(events.fact())) for _ in range(3)), return_exceptions=True)
        return [*mixed, *closed]

    first, wrong, second, *closed = asyncio.run(run())
    assert isinstance(first, list)
    assert isinstance(second, list)
    assert stored(first[0]).stored
    assert stored(second[0]).stored
    assert isinstance(wrong, AttributeError)
    assert [type(error) for error in closed] == [StoreUnavailable] * 3


def test_a_cancelled_append_sent_again_is_there_once(store: Store) -> None:
    events = Events(random.getrandbits(32))
    rand = random.Random(events.seed)

    async def run() -> None:
        log = AsyncStore(store)
        for _ in range(10):
            submission = each(events.fact(), events.fact())
            task = asyncio.create_task(log.append(submission))
            for _ in range(rand.randrange(4)):
                await asyncio.sleep(0)
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            assert all(isinstance(outcome, Appended) for outcome in await log.append(submission))

    asyncio.run(run())
    assert store.head() == 20, f"seed {events.seed}"
    assert len({event.event_id for event in store.read(Query())}) == 20


def test_reads_come_in_pages_and_may_be_left_or_cancelled_at_any_event(store: Store) -> None:
    events = Events(random.getrandbits(32))
    store.append(each(*(events.fact() for _ in range(1_200))))

    async def run() -> None:
        log = AsyncStore(store)
        assert [event.position async for event in log.read(Query(after=100))] == list(range(101, 1_201))
        async with aclosing(log.read(Query())) as rows:  # type: ignore[type-var]
            assert (await anext(rows)).position == 1

        async def read_all() -> None:
            async for _ in log.read(Query()):
                pass

        task = asyncio.create_task(read_all())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await log.head() == 1_200

    asyncio.run(run())


def test_following_sees_what_another_task_appends(store: Store) -> None:
    events = Events(random.getrandbits(32))

    async def run() -> list[int]:
        log = AsyncStore(store)
        seen: list[int] = []

        async def follow() -> None:
            async for page in log.follow():
                seen.extend(event.position for event in page.events)
                if page.position == 6:
                    return

        following = asyncio.create_task(follow())
        for _ in range(3):
            await log.append(each(events.fact(), events.fact()))
        await asyncio.wait_for(following, 60)
        return seen

    assert asyncio.run(run()) == [1, 2, 3, 4, 5, 6], f"seed {events.seed}"
