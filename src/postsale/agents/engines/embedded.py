"""The embedded engine: the log itself drives agents, in the processes that read it.

May import the steps and what they need.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, Self

from postsale.agents.engines.engine import Attended, Visit
from postsale.agents.engines.steps import Steps
from postsale.agents.work import Work, alone, load, together
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
        return alone(self.desk, self._attending(Visit(stream, cause, since_us)))

    def attend_many(self, visits: Iterable[Visit]) -> Iterator[tuple[Visit, Attended | Exception]]:
        """See `Engine`: they share reads, appends and commits, and their tools are called side by side."""
        pooled, taken = self.pooled(), dict[int, Visit]()

        def works() -> Iterator[Work[Attended]]:
            for no, visit in enumerate(visits):
                taken[no] = visit
                yield pooled._attending(visit)

        for no, done in together(pooled.desk, works()):
            yield taken.pop(no), done

    def _attending(self, visit: Visit) -> Work[Attended]:
        done = yield from self.visiting(*visit)
        called, due = 0, []
        for customer in done.customers:
            sent, seen = yield from self.outbox.dispatching(customer.stream, customer)
            called += sent.called
            due.append(self.next_due_us((yield from load(seen.stream, seen)) if sent.called else customer))
        next_due_us = min((x for x in due if x is not None), default=None)
        return Attended(done.raised, done.decided, called, done.lapsed, done.outcomes, next_due_us, done.troubles)
