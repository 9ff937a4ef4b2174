"""A candidate's budgets while history is decided again: what others took of them, as recorded, and what the candidate takes itself.

May import everything below `audit`, but neither tools nor engines.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import UUID

from postsale.agents.budget import Page
from postsale.agents.budget_policy import Left, period
from postsale.agents.policy import Policy
from postsale.aggregates.budgets import BudgetCompensated, BudgetReleased, BudgetReserved, BudgetSliceGranted
from postsale.events import Lane, Recorded
from postsale.store.contract import Query
from postsale.store.log import Log

_KINDS = frozenset(cls.wire_name.partition("@")[0] for cls in (BudgetReserved, BudgetReleased, BudgetCompensated, BudgetSliceGranted))


class CandidatesBudgets:
    """The candidate's budgets: what others took of them, in slices too, and what it takes itself."""

    def __init__(self, log: Log, tenant: str, candidate: Policy) -> None:
        self.budgets = candidate.budgets or ()
        self.held: dict[tuple[str, UUID], tuple[UUID, Page, int]] = {}  # budget, effect -> its decision; reserved, or used up
        self.replayed: set[UUID] = set()
        self.taken: dict[tuple[str, UUID], tuple[Page, int]] = {}
        self._whole: dict[str, str] = {}  # slice -> its budget
        self._news: Iterator[Recorded[Any]] = iter(())
        if self.budgets:
            self._news = log.events(Query(tenant=tenant, lane=Lane.DECISION, kinds=_KINDS))
        self._next = next(self._news, None)

    def advance(self, position: int) -> None:
        """Take in what was recorded before a position."""
        while self._next is not None and self._next.position < position:
            event, purse = self._next.data, self._next.stored.stream.id
            name = self._whole.get(purse, purse)
            match event:
                case BudgetSliceGranted(slice=slice_):
                    self._whole[slice_] = purse
                case BudgetReserved(intent_id=id_):
                    self.held[name, id_] = (event.decision_id, Page(event.unit, event.period), event.amount)
                case BudgetReleased(intent_id=id_) | BudgetCompensated(intent_id=id_):
                    back = self.held.pop((name, id_), None)
                    if back is not None and self.taken.get((name, id_)) == back[1:]:
                        del self.taken[name, id_]  # the same promise would have come to the same end
            self._next = next(self._news, None)

    def left(self, agent: str, now_us: int) -> dict[str, Left]:
        """What the candidate's agent has left of each budget."""
        out = {}
        for budget in self.budgets:
            name, page = budget.ledger(agent), Page(budget.counted_in, period(budget, now_us))
            held = [n for (b, _), (by, p, n) in self.held.items() if (b, p) == (name, page) and by not in self.replayed]
            taken = [n for (b, _), (p, n) in self.taken.items() if (b, p) == (name, page)]
            out[budget.name] = Left(max(0, budget.limit - sum(held) - sum(taken)), page.period)
        return out
