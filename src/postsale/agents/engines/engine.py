"""What an engine is: it has customers visited. Who is to be visited is found by others; what a visit does is in the steps."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol, Self
from uuid import UUID

from postsale.agents.engines.edges import Trouble
from postsale.agents.engines.steps import Steps
from postsale.events import StoredEvent, StreamId
from postsale.store.leases import Lease


@dataclass(frozen=True, slots=True)
class Attended:
    """What one visit to a customer did, and when to come back: UTC microseconds, None when nobody need.

    Of an engine that works elsewhere it is empty: that engine comes back by itself.
    """

    raised: int = 0
    decided: tuple[UUID, ...] = ()
    called: int = 0
    lapsed: int = 0
    outcomes: int = 0
    next_due_us: int | None = None
    troubles: tuple[Trouble, ...] = ()  # agents whose conditions could not be looked at: attend again, for the same fact


class Visit(NamedTuple):
    """Whom to attend to, and why; see `Steps.visit`."""

    stream: StreamId
    cause: StoredEvent | None = None
    since_us: int | None = None


class Engine(Protocol):
    """Drives the steps of agents. The log is the truth: an engine may die, be lost or be exchanged, and nothing is done twice or left."""

    @property
    def name(self) -> str:
        """Whoever remembers what an engine was told asks by this name: another engine is told everything anew."""

    @property
    def steps(self) -> Steps:
        """What it drives."""

    def attend(self, stream: StreamId, cause: StoredEvent | None = None, *, since_us: int | None = None) -> Attended:
        """Have everything done that is to be done for one customer now, here or durably elsewhere; see `Steps.visit`."""

    def attend_many(self, visits: Iterable[Visit]) -> Iterator[tuple[Visit, Attended | Exception]]:
        """`attend` for many, each with what it returned or raised, as they end; none is another's trouble. Read it to its end.

        The next visit is asked for when there is room for it: who wants to stop offers no more.
        """

    def under(self, lease: Lease) -> Self:
        """This engine as long as it holds a lease: what it does here afterwards raises LeaseLost."""
