"""A candidate's budget while history is decided again: what others took of it, as recorded, and what the candidate takes itself.

May import everything below `audit`, but neither tools nor engines.
"""

from __future__ import annotations

from collections.abc import Iterator
from uuid import UUID

from postsale.agents.budget import BudgetState, budget_stream, evolve_budget
from postsale.agents.guardrails import period
from postsale.agents.policy import Policy
from postsale.aggregates.budgets import BudgetEvent, BudgetReleased, BudgetReserved
from postsale.events import Lane
from postsale.store.contract import Query
from postsale.store.log import Log


class CandidatesMoney:
    """The candidate's budget: what others took of it, as recorded, and what it takes itself."""

    def __init__(self, log: Log, tenant: str, candidate: Policy) -> None:
        self.budget = candidate.guardrails.budget
        self.state = BudgetState()
        self.amounts: dict[UUID, tuple[str, int]] = {}  # what holds money now: reserved, or spent
        self.replayed: set[UUID] = set()
        self.taken: dict[UUID, tuple[str, int]] = {}
        self._news: Iterator[tuple[int, BudgetEvent]] = iter(())
        if self.budget is not None:
            events = log.events(Query(tenant=tenant, streams=(budget_stream(tenant, self.budget.name),), lane=Lane.DECISION))
            self._news = iter([(e.position, e.data) for e in events if isinstance(e.data, BudgetEvent)])
        self._next = next(self._news, None)

    def advance(self, position: int) -> None:
        """Take in what was recorded before a position."""
        while self._next is not None and self._next[0] < position:
            at, event = self._next
            self.state = evolve_budget(self.state, event, at)
            if isinstance(event, BudgetReserved):
                self.amounts[event.decision_id] = (event.period, event.amount_minor)
            elif isinstance(event, BudgetReleased):
                released = self.amounts.pop(event.decision_id, None)
                if released is not None and self.taken.get(event.decision_id) == released:
                    del self.taken[event.decision_id]  # the same promise would have come to the same end
            self._next = next(self._news, None)

    def left_minor(self, now_us: int) -> int | None:
        if self.budget is None:
            return None
        now = period(self.budget, now_us)
        others = sum(minor for id_, (when, minor) in self.amounts.items() if when == now and id_ not in self.replayed)
        own = sum(minor for when, minor in self.taken.values() if when == now)
        return max(0, self.budget.amount_minor - others - own)
