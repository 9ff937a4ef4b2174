"""Budgets: reserved, committed and released money per period, folded from `tenant/budgets/<name>`. Pure.

Sums hold: what is left = limit − reserved − committed + compensated, and each decision is counted once: reserved, committed or
released. Nothing entered is ever changed: money that comes back after it was spent is an entry of its own.
May import aggregates and events.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, assert_never
from uuid import UUID

from postsale.aggregates import asked as a
from postsale.aggregates import decisions as d
from postsale.aggregates.budgets import (
    BudgetCommitted,
    BudgetCompensated,
    BudgetEvent,
    BudgetReleased,
    BudgetReserved,
    BudgetSliceClosed,
    BudgetSliceGranted,
    BudgetSliceReturned,
)
from postsale.aggregates.conversations import ConversationEnded
from postsale.aggregates.customer import CustomerAggregate, OpenDecision
from postsale.events import Event, StreamId, to_us

_EMPTY: Mapping[Any, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Sums:
    """One period's money, in minor units."""

    reserved_minor: int = 0
    committed_minor: int = 0
    released_minor: int = 0  # given back; free again
    compensated_minor: int = 0  # spent, and come back with the effect; free again
    sliced_minor: int = 0  # with workers, or spent by them: granted less returned


@dataclass(frozen=True, slots=True)
class Granted:
    """A slice that was not closed yet."""

    worker: str
    period: str
    amount_minor: int
    expires_at_us: int


@dataclass(frozen=True, slots=True)
class BudgetState:
    """What the stream of a budget, or of a slice of one, says now. Bounded by periods, open reservations and open slices."""

    version: int = 0
    position: int = 0  # of the newest event folded
    periods: Mapping[str, Sums] = field(default_factory=lambda: _EMPTY)
    open: Mapping[UUID, tuple[str, int]] = field(default_factory=lambda: _EMPTY)  # decision -> (period, amount)
    slices: Mapping[str, Granted] = field(default_factory=lambda: _EMPTY)  # open ones
    closed: bool = False  # of a slice: nothing more is reserved from it

    def left_minor(self, limit_minor: int, period: str) -> int:
        """What may still be promised in a period; never below 0."""
        sums = self.periods.get(period, Sums())
        return max(0, limit_minor - sums.reserved_minor - sums.committed_minor - sums.sliced_minor + sums.compensated_minor)


def budget_stream(tenant: str, name: str) -> StreamId:
    return StreamId(tenant, "budgets", name)


def slice_stream(tenant: str, slice_: str) -> StreamId:
    return StreamId(tenant, "slices", slice_)


def money_stream(tenant: str, budget: str, slice_: str) -> StreamId:
    """Where a reservation is, and is settled."""
    return slice_stream(tenant, slice_) if slice_ else budget_stream(tenant, budget)


def evolve_budget(state: BudgetState, event: BudgetEvent, position: int = 0) -> BudgetState:
    """Total: a settlement of what is not reserved changes nothing but version and position."""
    state = replace(state, version=state.version + 1, position=max(state.position, position))
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
        case BudgetCompensated(period=period, amount_minor=minor):
            sums = state.periods.get(period, Sums())
            return replace(state, periods={**state.periods, period: replace(sums, compensated_minor=sums.compensated_minor + minor)})
        case BudgetSliceGranted(slice=slice_, period=period, amount_minor=minor):
            sums = state.periods.get(period, Sums())
            sums = replace(sums, sliced_minor=sums.sliced_minor + minor)
            granted = Granted(event.worker, period, minor, to_us(event.expires_at))
            return replace(state, periods={**state.periods, period: sums}, slices={**state.slices, slice_: granted})
        case BudgetSliceReturned(slice=slice_, period=period, amount_minor=minor):
            sums = state.periods.get(period, Sums())
            sums = replace(sums, sliced_minor=sums.sliced_minor - minor)
            left = {k: v for k, v in state.slices.items() if k != slice_}
            return replace(state, periods={**state.periods, period: sums}, slices=left)
        case BudgetSliceClosed():
            return replace(state, closed=True)
    assert_never(event)


def settlement(
    customer: CustomerAggregate, event: Event
) -> tuple[OpenDecision, BudgetCommitted | BudgetReleased | BudgetCompensated] | None:
    """What `event`, about to be appended to this customer, does to the money its decision reserved; None: nothing.

    Spent with the first effect that happened; given back when the last one has certainly not happened.
    """
    decision_id = getattr(event, "decision_id", None)
    known = customer.decisions.get(decision_id) if decision_id is not None else None
    if known is None or known.reservation is None:
        return None
    held = known.reservation
    if known.undoes is not None:
        if not isinstance(event, d.EffectSucceeded):
            return None
        back = BudgetCompensated(
            decision_id=known.decision_id,
            spent_by=known.undoes[0],
            period=held.period,
            amount_minor=held.amount_minor,
            currency=held.currency,
        )
        return known, back
    effects = known.effects
    spent = any(e.status == "succeeded" for e in effects.values())
    match event:
        case d.EffectSucceeded():
            return None if spent else (known, BudgetCommitted(decision_id=known.decision_id))
        case d.EffectFailed(final=True, intent_id=intent) | d.EffectCancelled(intent_id=intent):
            others = [e for k, e in effects.items() if k != intent]
            if not spent and all(e.settled for e in others):
                return known, BudgetReleased(decision_id=known.decision_id, reason="its effect did not happen")
        case d.ApprovalRejected() | d.ApprovalLapsed() | a.ApprovalTimedOut(outcome="reject") | a.ApprovalReplaced():
            return known, BudgetReleased(decision_id=known.decision_id, reason="it was not approved")
        case d.DecisionOverridden() | ConversationEnded():
            if not any(e.status in {"started", "succeeded", "unknown"} or e.ambiguous for e in effects.values()):
                by = "a person set it aside" if isinstance(event, d.DecisionOverridden) else "its conversation ended"
                return known, BudgetReleased(decision_id=known.decision_id, reason=by)
    return None
