"""The embedded engine: the log itself drives agents, in the processes that read it.

May import the steps and what they need.
"""

from __future__ import annotations

from typing import Final, Self

from postsale.agents.engines.engine import Attended
from postsale.agents.engines.steps import Steps
from postsale.events import StoredEvent, StreamId


class EmbeddedEngine(Steps):
    """The steps, taken one after another by whoever calls. Several engines over one log do each thing once."""

    name: Final = "embedded"

    @property
    def steps(self) -> Self:
        """Itself."""
        return self

    def attend(self, stream: StreamId, cause: StoredEvent | None = None, *, since_us: int | None = None) -> Attended:
        """Do everything that is to be done for one customer now: as `visit`, and the effects that are due."""
        done = self.visit(stream, cause, since_us=since_us)
        called, due = 0, []
        for customer in done.customers:
            sent = self.outbox.dispatch(customer.stream, customer).called
            called += sent
            due.append(self.next_due_us(self.log.customer(customer.stream) if sent else customer))
        next_due_us = min((x for x in due if x is not None), default=None)
        return Attended(done.raised, done.decided, called, done.lapsed, done.outcomes, next_due_us)
