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
    """`append` calls that wait for each other share one call of `commit`, made by one of them, the leader, under `lock`.

    A leader serves one group, its own ticket included, and hands over to the first that waits. Nobody else is woken for nothing: to
    pass a lock through every waiting thread costs more than a commit when the machine is busy.
    """

    def __init__(self, commit: Callable[[list[Submission]], list[Outcome]], lock: AbstractContextManager[object]) -> None:
        self._commit = commit
        self._lock = lock
        self._waiting: list[_Ticket] = []
        self._waiting_lock = threading.Lock()
        self._led = False  # somebody leads, or was told to

    def append(self, submissions: Sequence[Submission]) -> list[Outcome]:
        """The outcomes of these submissions, in order; raises what `commit` raised for them."""
        ticket = _Ticket(submissions)
        try:
            with self._waiting_lock:
                self._waiting.append(ticket)
                if not self._led:
                    self._led = ticket.leads = True
            if not ticket.leads:
                ticket.turn.acquire()  # until served, or told to lead
            while not ticket.done:
                with self._lock:
                    self._serve(self._next())
        finally:
            try:
                self._leave(ticket)
            except BaseException:  # a Ctrl-C just now: without an heir nobody would be served again
                self._leave(ticket)
                raise
        if ticket.error is not None:
            raise ticket.error
        return ticket.outcomes

    def _leave(self, ticket: _Ticket) -> None:
        """`ticket` waits no more, and hands over if it leads. May be repeated after a Ctrl-C in the middle."""
        with self._waiting_lock:
            if ticket.gone or not ticket.leads:
                ticket.gone = True
                return
            self._waiting = [waiting for waiting in self._waiting if not waiting.done]
            # Who was interrupted while waiting has left a ticket, which is served, and leads no more.
            heirs = [waiting for waiting in self._waiting if not waiting.gone and waiting is not ticket]
            led = bool(heirs)
            # No Ctrl-C can fall between these, for nothing is called.
            ticket.gone = True
            self._led = led
            if led:
                heirs[0].leads = True
                heirs[0].turn.release()

    def _next(self) -> list[_Ticket]:
        """The tickets of the next commit. They stay on the list until they are done, so that an interrupt loses none."""
        with self._waiting_lock:
            self._waiting = [ticket for ticket in self._waiting if not ticket.done]
            size, count = 0, 0
            for ticket in self._waiting:
                size += ticket.events
                if count and size > _GROUP_EVENTS:
                    break
                count += 1
            return self._waiting[:count]

    def _serve(self, group: list[_Ticket]) -> None:
        """Commit a group together. A store that is unavailable is everybody's error; after any other, each is tried alone."""
        try:
            outcomes = iter(self._commit([submission for ticket in group for submission in ticket.submissions]))
            for ticket in group:
                ticket.end(list(islice(outcomes, len(ticket.submissions))))
        except StoreUnavailable as error:
            for ticket in group:
                ticket.end(copy(error))  # one object raised in many threads would mix up their tracebacks
        except Exception as error:
            if len(group) == 1:
                group[0].end(error)
            else:
                for ticket in group:
                    self._serve([ticket])


class _Ticket:
    """One `append` call that waits for its commit."""

    __slots__ = ("done", "error", "events", "gone", "leads", "outcomes", "submissions", "turn")

    def __init__(self, submissions: Sequence[Submission]) -> None:
        self.submissions = submissions
        self.events = sum(len(submission.events) for submission in submissions)
        self.outcomes: list[Outcome] = []
        self.error: Exception | None = None
        self.done = False
        self.leads = False
        self.gone = False  # its thread waits no more
        self.turn = threading.Lock()
        self.turn.acquire()

    def end(self, result: list[Outcome] | Exception) -> None:
        if isinstance(result, Exception):
            self.error = result
        else:
            self.outcomes = result
        self.done = True
        if not self.leads:
            self.turn.release()
