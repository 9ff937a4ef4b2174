"""Following a log: what a query asks for after a position, then each new event of it, page by page. Over the contract alone.

None is skipped, because positions become visible in their order: a page ends at a head that was read before it. Waiting polls beneath
notifications, so one that is lost costs time and one that is forged a look. Imports errors, events and the contract.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from typing import Final, NamedTuple

from postsale.errors import InvalidInput
from postsale.events import StoredEvent
from postsale.store.contract import Query, Store

PAGE: Final = 500
_PAGE_BYTES: Final = 4_194_304  # of headers and data; the last event of a page may exceed it
_WAIT_S: Final = 0.05


class Page(NamedTuple):
    """Events in order, and the position up to which the log was read with them: keep it as the checkpoint once they are processed."""

    events: tuple[StoredEvent, ...]  # may be empty: what lies up to `position` was not asked for
    position: int


class Subscription:
    """Pages of a query after a position, for ever: `for page in Subscription(store, Query(kinds=…), after=checkpoint)`.

    Holds one page at a time, at most 4 MiB and one event, and no snapshot, so a slow consumer holds back nothing but itself. For one
    thread; `stop` may be called from any.
    Raises InvalidInput for a query that is not open-ended forward, and what `Store.read` raises.
    """

    def __init__(self, store: Store, query: Query | None = None, *, after: int = 0, page: int = PAGE, wait_s: float = _WAIT_S) -> None:
        """`page`: events at most in one page. `wait_s`: how late `stop` may be noticed, in seconds, while there is nothing new."""
        query = query or Query()
        if query.backward or query.limit is not None or query.upto is not None or query.known_at_us is not None:
            raise InvalidInput(what="Subscription", field="query", reason="expected no backward, limit, upto or known_at_us: it has no end")
        if page < 1 or after < 0:
            raise InvalidInput(what="Subscription", field="page" if page < 1 else "after", reason="expected a positive number")
        self._store = store
        self._query = query
        self._position = max(after, query.after)
        self._page = page
        self._wait_s = wait_s
        self._stopped = threading.Event()

    @property
    def position(self) -> int:
        """Up to where the log was read."""
        return self._position

    def stop(self) -> None:
        """End the iteration at its next look. Nothing is lost: a new subscription goes on after `position`."""
        self._stopped.set()

    def __iter__(self) -> Iterator[Page]:
        while not self._stopped.is_set():
            page = self.next_page()
            if page is None:
                self._store.wait(self._position, self._wait_s)
            else:
                yield page

    def next_page(self) -> Page | None:
        """The next page if there is something new in the log, without waiting."""
        head = self._store.head()
        if head <= self._position:
            return None
        events: list[StoredEvent] = []
        room = _PAGE_BYTES
        with closing(self._store.read(replace(self._query, after=self._position, upto=head, limit=self._page))) as rows:
            for event in rows:
                events.append(event)
                room -= len(event.header) + len(event.data)
                if room <= 0:
                    break
        full = room <= 0 or len(events) == self._page
        self._position = events[-1].position if full else head
        return Page(tuple(events), self._position)
