"""The async twin of a store, for event loops: never blocks the loop, and lets the appends of many tasks share commits.

Holds no rule of its own: a `Store` does the work in worker threads. Imports errors, events, the contract and subscriptions.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from copy import copy
from itertools import islice
from typing import Final
from uuid import UUID

from postsale.errors import PostSaleError
from postsale.events import StoredEvent, StreamId
from postsale.store.contract import Outcome, Query, Store, Submission, TreeHead
from postsale.store.subscriptions import PAGE, Page, Subscription

_GROUP_EVENTS: Final = 5_000  # a shared commit takes no further append beyond this, which bounds everyone's wait

_Waiting = tuple[tuple[Submission, ...], int, "asyncio.Future[list[Outcome]]"]
"""Submissions, how many events they hold, and where their outcomes go."""


class AsyncStore:
    """A store for one event loop. Arguments, results and errors are those of `Store`; closing it is the caller's.

    What tasks append while a commit is under way goes into the next one together. A task that was cancelled may have appended all
    the same; ids make sending it again safe.
    """

    def __init__(self, store: Store) -> None:
        self.sync = store
        self._waiting: list[_Waiting] = []
        self._committing: asyncio.Task[None] | None = None

    # ---------------------------------------------------------------- writing

    async def append(self, submissions: Sequence[Submission]) -> list[Outcome]:
        """See `Store.append`."""
        size = sum(len(submission.events) for submission in submissions)
        future: asyncio.Future[list[Outcome]] = asyncio.get_running_loop().create_future()
        self._waiting.append((tuple(submissions), size, future))
        if self._committing is None:
            self._committing = asyncio.create_task(self._commit())
        return await future

    async def _commit(self) -> None:
        try:
            while self._waiting:
                await self._serve(self._next_group())
        finally:
            self._committing = None
            for _, _, future in self._waiting:  # only if the loop is being shut down
                future.cancel()

    def _next_group(self) -> list[_Waiting]:
        size, count = 0, 0
        for _, events, _ in self._waiting:
            size += events
            if count and size > _GROUP_EVENTS:
                break
            count += 1
        group, self._waiting = self._waiting[:count], self._waiting[count:]
        return group

    async def _serve(self, group: list[_Waiting]) -> None:
        """What is wrong with the store is everybody's error; after any other, each is tried alone."""
        try:
            outcomes = iter(await asyncio.to_thread(self.sync.append, [one for submissions, _, _ in group for one in submissions]))
        except PostSaleError as error:
            for _, _, future in group:
                _settle(future, copy(error))
        except Exception as error:
            if len(group) == 1:
                _settle(group[0][2], error)
            else:
                for one in group:
                    await self._serve([one])
        else:
            for submissions, _, future in group:
                _settle(future, list(islice(outcomes, len(submissions))))

    # ---------------------------------------------------------------- reading

    async def read(self, query: Query) -> AsyncIterator[StoredEvent]:
        """See `Store.read`; a page of events is in memory at a time. Close what is not read to its end (`contextlib.aclosing`)."""
        rows = self.sync.read(query)
        page: asyncio.Task[list[StoredEvent]] | None = None
        try:
            while True:
                page = asyncio.create_task(asyncio.to_thread(lambda: list(islice(rows, PAGE))))
                events = await asyncio.shield(page)
                if not events:
                    return
                for event in events:
                    yield event
        finally:
            if page is not None and not page.done():  # cancelled: the thread still reads
                await asyncio.wait([page])
            await asyncio.to_thread(rows.close)

    async def follow(self, query: Query | None = None, *, after: int = 0) -> AsyncIterator[Page]:
        """See `Subscription`: its pages, until the iterator is closed or its task cancelled."""
        subscription = Subscription(self.sync, query, after=after)
        while True:
            page = await asyncio.to_thread(subscription.next_page)
            if page is not None:
                yield page
            else:
                await asyncio.to_thread(self.sync.wait, subscription.position, _WAIT_S)

    async def head(self) -> int:
        """See `Store.head`."""
        return await asyncio.to_thread(self.sync.head)

    async def versions(self, streams: Sequence[StreamId]) -> list[int]:
        """See `Store.versions`."""
        return await asyncio.to_thread(self.sync.versions, streams)

    async def find(self, tenant: str, event_id: UUID) -> StoredEvent | None:
        """See `Store.find`."""
        return await asyncio.to_thread(self.sync.find, tenant, event_id)

    async def latest(self, streams: Sequence[StreamId]) -> list[StoredEvent | None]:
        """See `Store.latest`."""
        return await asyncio.to_thread(self.sync.latest, streams)

    async def tenants(self) -> list[str]:
        """See `Store.tenants`."""
        return await asyncio.to_thread(self.sync.tenants)

    async def tree_head(self, tenant: str) -> TreeHead:
        """See `Store.tree_head`."""
        return await asyncio.to_thread(self.sync.tree_head, tenant)


_WAIT_S: Final = 0.25  # how late a cancelled `follow` leaves its thread


def _settle(future: asyncio.Future[list[Outcome]], result: list[Outcome] | Exception) -> None:
    if future.done():  # its task was cancelled
        return
    if isinstance(result, Exception):
        future.set_exception(result)
    else:
        future.set_result(result)
