"""Budgets: reserved, committed and released money per period, folded from `tenant/budgets/<name>`. Pure.

Sums hold: what is left = limit − reserved − committed, and each decision is counted once, in exactly one of the three.
May import aggregates and events.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, assert_never
from uuid import UUID

from postsale.aggregates.decisions import BudgetCommitted, BudgetEvent, BudgetReleased, BudgetReserved
from postsale.events import StreamId

_EMPTY: Mapping[Any, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Sums:
    """One period's money, in minor units."""

    reserved_minor: int = 0
    committed_minor: int = 0
    released_minor: int = 0  # given back; free again


@dataclass(frozen=True, slots=True)
class BudgetState:
    """What a budget's stream says now. Bounded by periods and open reservations."""

    version: int = 0
    periods: Mapping[str, Sums] = field(default_factory=lambda: _EMPTY)
    open: Mapping[UUID, tuple[str, int]] = field(default_factory=lambda: _EMPTY)  # decision -> (period, amount)

    def left_minor(self, limit_minor: int, period: str) -> int:
        """What may still be promised in a period; never below 0."""
        sums = self.periods.get(period, Sums())
        return max(0, limit_minor - sums.reserved_minor - sums.committed_minor)


def budget_stream(tenant: str, name: str) -> StreamId:
    return StreamId(tenant, "budgets", name)


def evolve_budget(state: BudgetState, event: BudgetEvent) -> BudgetState:
    """Total: a settlement of what is not reserved changes nothing but the version."""
    state = replace(state, version=state.version + 1)
    match event:
        case BudgetReserved(decision_id=id_, period=period, amount_minor=minor):
            if id_ in state.open:
                return state
            sums = state.periods.get(period, Sums())
            after = replace(sums, reserved_minor=sums.reserved_minor + minor)
            return replace(state, periods={**state.periods, period: after}, open={**state.open, id_: (period, minor)})
        case BudgetCommitted(decision_id=id_) | BudgetReleased(decision_id=id_):
            if id_ not in state.open:
                return state
            period, minor = state.open[id_]
            sums = state.periods[period]
            sums = replace(sums, reserved_minor=sums.reserved_minor - minor)
            if isinstance(event, BudgetCommitted):
                sums = replace(sums, committed_minor=sums.committed_minor + minor)
            else:
                sums = replace(sums, released_minor=sums.released_minor + minor)
            still = {k: v for k, v in state.open.items() if k != id_}
            return replace(state, periods={**state.periods, period: sums}, open=still)
    assert_never(event)


def fold_budget(events: Iterable[BudgetEvent], state: BudgetState | None = None) -> BudgetState:
    state = state or BudgetState()
    for event in events:
        state = evolve_budget(state, event)
    return state
