"""Group commit: appends of many threads go to the store together. Knows no database; imports the contract and errors."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from copy import copy
from itertools import islice
from typing import Final

from postsale.errors import StoreUnavailable
from postsale.store.contract import Outcome, Submission

_GROUP_EVENTS: Final = 5_000  # a shared commit takes no further append beyond this, which bounds its memory and everyone's wait


class Groups:
    """`append` calls that wait for each other share one call of `commit`, made by one of them under `lock`."""

    def __init__(self, commit: Callable[[list[Submission]], list[Outcome]], lock: AbstractContextManager[object]) -> None:
        self._commit = commit
        self._lock = lock
        self._waiting: list[_Ticket] = []
        self._waiting_lock = threading.Lock()

    def append(self, submissions: Sequence[Submission]) -> list[Outcome]:
        """The outcomes of these submissions, in order; raises what `commit` raised for them."""
        ticket = _Ticket(submissions)
        with self._waiting_lock:
            self._waiting.append(ticket)
        with self._lock:
            while not ticket.done:
                self._serve(self._next())
        if ticket.error is not None:
            raise ticket.error
        return ticket.outcomes

    def _next(self) -> list[_Ticket]:
        with self._waiting_lock:
            size, count = 0, 0
            for ticket in self._waiting:
                size += ticket.events
                if count and size > _GROUP_EVENTS:
                    break
                count += 1
            group, self._waiting = self._waiting[:count], self._waiting[count:]
            return group

    def _serve(self, group: list[_Ticket]) -> None:
        """Commit a group together. A store that is unavailable is everybody's error; after any other, each is tried alone."""
        try:
            try:
                outcomes = iter(self._commit([submission for ticket in group for submission in ticket.submissions]))
                for ticket in group:
                    ticket.outcomes, ticket.done = list(islice(outcomes, len(ticket.submissions))), True
            except StoreUnavailable as error:
                for ticket in group:
                    ticket.fail(copy(error))  # one object raised in many threads would mix up their tracebacks
            except Exception as error:
                if len(group) == 1:
                    group[0].fail(error)
                else:
                    for ticket in group:
                        self._serve([ticket])
        finally:
            # After an interrupt (Ctrl-C) the others' threads still wait: put them back, ids make a second try safe.
            with self._waiting_lock:
                self._waiting[:0] = [ticket for ticket in group if not ticket.done]


class _Ticket:
    """One `append` call that waits for its commit."""

    __slots__ = ("done", "error", "events", "outcomes", "submissions")

    def __init__(self, submissions: Sequence[Submission]) -> None:
        self.submissions = submissions
        self.events = sum(len(submission.events) for submission in submissions)
        self.outcomes: list[Outcome] = []
        self.error: Exception | None = None
        self.done = False

    def fail(self, error: Exception) -> None:
        self.error, self.done = error, True
