"""What surrounds decisions, as it stood at any position: switches, active policies, budgets. Folded once from the log.

Small streams, read whole, by the library's own code alone: nothing here comes from a decider. May import everything below `audit`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, NamedTuple
from uuid import UUID

from postsale.agents.budget import BudgetState, Page, evolve_budget
from postsale.aggregates.artifacts import (
    POLICIES,
    AgentControl,
    AgentEvent,
    ArtifactActivated,
    ArtifactPublished,
    ArtifactRetired,
    content_digest,
    evolve_agent,
    switch_streams,
)
from postsale.aggregates.budgets import BudgetEvent, BudgetReserved, BudgetSliceGranted
from postsale.events import SYSTEM_TENANT, Lane, Recorded, StreamId
from postsale.store.contract import Query
from postsale.store.log import Log


class Reserved(NamedTuple):
    """What was set aside for an effect, as the budget's stream has it."""

    position: int
    intent_id: UUID
    budget: str
    page: Page
    amount: int
    purse: str  # the stream it was taken from: the budget's own, or a slice of it


@dataclass(slots=True)
class _Steps:
    """A value over positions: what it was changed to, and where."""

    at: list[int] = field(default_factory=list)
    values: list[Any] = field(default_factory=list)

    def put(self, position: int, value: Any) -> None:
        self.at.append(position)
        self.values.append(value)

    def before(self, position: int, first: Any) -> Any:
        index = bisect_left(self.at, position)
        return self.values[index - 1] if index else first


class History:
    """Of one tenant up to a position, inclusive. `before a position` leaves that position out."""

    def __init__(self, log: Log, tenant: str, upto: int) -> None:
        self.tenant = tenant
        self.contents: dict[str, str] = {}  # of policies, by digest; those that are what their digest says
        self.reserved: dict[UUID, list[Reserved]] = {}  # by decision
        self.granted: dict[str, int] = {}  # slice of a budget -> how much
        self._switches: dict[StreamId, _Steps] = {}
        self._active: dict[str, _Steps] = {}
        self._stopped: dict[str, _Steps] = {}
        self._taken: dict[tuple[str, Page], _Steps] = {}  # budget or slice, and page -> what is taken of it
        for owner in (tenant, SYSTEM_TENANT):
            for event in _lane(log, owner, "agents", upto):
                if isinstance(event.data, AgentEvent):
                    steps = self._switches.setdefault(event.stored.stream, _Steps())
                    was: AgentControl = steps.values[-1] if steps.values else AgentControl()
                    steps.put(event.position, evolve_agent(was, event.data))
        for event in _lane(log, tenant, POLICIES, upto):
            match event.data:
                case ArtifactPublished(digest=digest, content=content) if content_digest(content) == digest:
                    self.contents[digest] = content
                case ArtifactActivated(digest=digest):
                    self._active.setdefault(event.stored.stream.id, _Steps()).put(event.position, digest)
                    self._stopped.setdefault(event.stored.stream.id, _Steps()).put(event.position, "")
                case ArtifactRetired(digest=digest) if self.active(event.stored.stream.id, event.position) == digest:
                    self._active[event.stored.stream.id].put(event.position, "")
                    self._stopped[event.stored.stream.id].put(event.position, digest)
        self._budgets(log, upto)

    def switches(self, agent: str, position: int) -> tuple[AgentControl, ...]:
        """The agent's own, the tenant's and everybody's, before a position."""
        streams = switch_streams(self.tenant, agent)
        return tuple(self._switches.get(s, _Steps()).before(position, AgentControl()) for s in streams)

    def active(self, policy: str, position: int) -> str:
        """The digest of the policy of this name that decided before a position; "" when none did."""
        digest: str = self._active.get(policy, _Steps()).before(position, "")
        return digest

    def stopped(self, policy: str, position: int) -> str:
        """The digest of the one that was active when it was retired, where none decided before a position; else ""."""
        digest: str = self._stopped.get(policy, _Steps()).before(position, "")
        return digest

    def left(self, purse: str, page: Page, limit: int, after: int, before: int) -> set[int]:
        """What was left of a page at any moment from a position on, before another one: it may have been looked at at any of them."""
        steps = self._taken.get((purse, page), _Steps())
        first, last = bisect_left(steps.at, after + 1), bisect_left(steps.at, before)
        taken = {steps.values[first - 1] if first else 0, *steps.values[first:last]}
        return {max(0, limit - amount) for amount in taken}

    def freed(self, replaced: UUID, purse: str, page: Page, before: int) -> int:
        """What a proposal had set aside in a purse: an edit of it, at a position, is decided with that given back."""
        mine = (r for r in self.reserved.get(replaced, ()) if (r.purse, r.page) == (purse, page) and r.position < before)
        return sum(r.amount for r in mine)

    def _budgets(self, log: Log, upto: int) -> None:
        """Budgets, then the slices that were granted of them: what was reserved in a slice was reserved of its budget."""
        states: dict[str, BudgetState] = {}
        whole: dict[str, str] = {}  # slice -> its budget
        for event in chain(_lane(log, self.tenant, "budgets", upto), _lane(log, self.tenant, "slices", upto)):
            purse, data = event.stored.stream.id, event.data
            if not isinstance(data, BudgetEvent):
                continue
            before = states.get(purse, BudgetState())
            after = states[purse] = evolve_budget(before, data)
            if isinstance(data, BudgetReserved):
                page = Page(data.unit, data.period)
                one = Reserved(event.position, data.intent_id, whole.get(purse, purse), page, data.amount, purse)
                self.reserved.setdefault(data.decision_id, []).append(one)
            elif isinstance(data, BudgetSliceGranted):
                whole[data.slice], self.granted[data.slice] = purse, data.amount
            for page, sums in after.pages.items():
                if sums.available != before.sums(page).available:
                    self._taken.setdefault((purse, page), _Steps()).put(event.position, -sums.available)


def _lane(log: Log, tenant: str, category: str, upto: int) -> Iterator[Recorded[Any]]:
    return log.events(Query(tenant=tenant, category=category, lane=Lane.DECISION, upto=upto))
