"""Work of many threads that goes to the store together: appends share a commit, reads a transaction. Knows no database; imports errors."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from copy import copy
from itertools import islice
from typing import Final, Generic, TypeVar

from postsale.errors import StoreUnavailable

_MOST: Final = 5_000  # a group takes no further call beyond this many events or streams, which bounds its memory and everyone's wait
Q = TypeVar("Q")
A = TypeVar("A")


class Groups(Generic[Q, A]):
    """`do` calls that wait for each other share one call of `work`, made by one of them, the leader, under `lock`.

    A leader serves one group, its own ticket included, and hands over to the first that waits. Nobody else is woken for nothing: to
    pass a lock through every waiting thread costs more than a commit when the machine is busy.
    """

    def __init__(
        self, work: Callable[[list[Q]], list[A]], lock: AbstractContextManager[object], size: Callable[[Q], int] = lambda _: 1
    ) -> None:
        """`work` gives an answer for each thing it is asked, in order; `size` is what one counts towards a group's bound."""
        self._work = work
        self._size = size
        self._lock = lock
        self._waiting: list[_Ticket[Q, A]] = []
        self._waiting_lock = threading.Lock()
        self._led = False  # somebody leads, or was told to

    def do(self, asked: Sequence[Q]) -> list[A]:
        """The answers, in order; raises what `work` raised for them. Work that answers it begins after this call."""
        ticket: _Ticket[Q, A] = _Ticket(asked, sum(map(self._size, asked)))
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
        return ticket.answers

    def _leave(self, ticket: _Ticket[Q, A]) -> None:
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

    def _next(self) -> list[_Ticket[Q, A]]:
        """The tickets of the next group. They stay on the list until they are done, so that an interrupt loses none."""
        with self._waiting_lock:
            self._waiting = [ticket for ticket in self._waiting if not ticket.done]
            size, count = 0, 0
            for ticket in self._waiting:
                size += ticket.size
                if count and size > _MOST:
                    break
                count += 1
            return self._waiting[:count]

    def _serve(self, group: list[_Ticket[Q, A]]) -> None:
        """Do a group's work together. A store that is unavailable is everybody's error; after any other, each is tried alone."""
        try:
            answers = iter(self._work([one for ticket in group for one in ticket.asked]))
            for ticket in group:
                ticket.end(list(islice(answers, len(ticket.asked))))
        except StoreUnavailable as error:
            for ticket in group:
                ticket.end(copy(error))  # one object raised in many threads would mix up their tracebacks
        except Exception as error:
            if len(group) == 1:
                group[0].end(error)
            else:
                for ticket in group:
                    self._serve([ticket])


class _Ticket(Generic[Q, A]):
    """One call that waits for its answers."""

    __slots__ = ("answers", "asked", "done", "error", "gone", "leads", "size", "turn")

    def __init__(self, asked: Sequence[Q], size: int) -> None:
        self.asked = asked
        self.size = size
        self.answers: list[A] = []
        self.error: Exception | None = None
        self.done = False
        self.leads = False
        self.gone = False  # its thread waits no more
        self.turn = threading.Lock()
        self.turn.acquire()

    def end(self, result: list[A] | Exception) -> None:
        if isinstance(result, Exception):
            self.error = result
        else:
            self.answers = result
        self.done = True
        if not self.leads:
            self.turn.release()
