"""The ledger of budgets: double entry per unit and period, folded from `tenant/budgets/<name>` and `tenant/slices/<slice>`. Pure.

Every event moves an amount from one account to another of the same unit and period, so the accounts sum to zero after each event.
`available` begins at zero and may fall to minus the limit. Nothing entered is ever changed: what comes back after it was used up is an
entry of its own. May import aggregates and events.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, assert_never
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
    Reservation,
)
from postsale.aggregates.conversations import ConversationEnded
from postsale.aggregates.customer import CustomerAggregate
from postsale.events import Event, StreamId, to_us

_EMPTY: Mapping[Any, Any] = MappingProxyType({})
Account = Literal["available", "reserved", "committed", "compensated", "sliced"]
Settled = BudgetCommitted | BudgetReleased | BudgetCompensated


class Page(NamedTuple):
    """What accounts are kept for, within one budget."""

    unit: str
    period: str


class Movement(NamedTuple):
    """One entry: what is debited grows by the amount, what is credited falls by it."""

    page: Page
    debit: Account
    credit: Account
    amount: int


@dataclass(frozen=True, slots=True)
class Sums:
    """The accounts of one page. Their balances sum to zero; `released` is no account but a turnover."""

    available: int = 0  # minus what was taken: with a limit beside it, what is left
    reserved: int = 0
    committed: int = 0
    compensated: int = 0  # minus what was used up and came back
    sliced: int = 0  # with workers, or used up by them: granted less returned
    released: int = 0  # that went from reserved back to available so far

    @property
    def balance(self) -> int:
        """0, always."""
        return self.available + self.reserved + self.committed + self.compensated + self.sliced


@dataclass(frozen=True, slots=True)
class Granted:
    """A slice that was not closed yet."""

    worker: str
    page: Page
    amount: int
    expires_at_us: int


@dataclass(frozen=True, slots=True)
class BudgetState:
    """What the stream of a budget, or of a slice of one, says now. Bounded by pages, open reservations and open slices."""

    version: int = 0
    position: int = 0  # of the newest event folded
    pages: Mapping[Page, Sums] = field(default_factory=lambda: _EMPTY)
    open: Mapping[UUID, tuple[Page, int]] = field(default_factory=lambda: _EMPTY)  # effect -> what is reserved for it
    slices: Mapping[str, Granted] = field(default_factory=lambda: _EMPTY)  # open ones
    closed: bool = False  # of a slice: nothing more is reserved from it

    def sums(self, page: Page) -> Sums:
        return self.pages.get(page, Sums())

    def left(self, limit: int, page: Page) -> int:
        """What may still be promised of a page; never below 0."""
        return max(0, limit + self.sums(page).available)


def budget_stream(tenant: str, name: str) -> StreamId:
    return StreamId(tenant, "budgets", name)


def slice_stream(tenant: str, slice_: str) -> StreamId:
    return StreamId(tenant, "slices", slice_)


def ledger_stream(tenant: str, budget: str, slice_: str | None) -> StreamId:
    """Where a reservation is, and is settled."""
    return slice_stream(tenant, slice_) if slice_ else budget_stream(tenant, budget)


def movement(event: BudgetEvent) -> Movement | None:
    """Which accounts an event debits and credits; None for one that moves nothing."""
    match event:
        case BudgetReserved():
            debit, credit = _RESERVED, _AVAILABLE
        case BudgetCommitted():
            debit, credit = _COMMITTED, _RESERVED
        case BudgetReleased():
            debit, credit = _AVAILABLE, _RESERVED
        case BudgetCompensated():
            debit, credit = _AVAILABLE, _COMPENSATED
        case BudgetSliceGranted():
            debit, credit = _SLICED, _AVAILABLE
        case BudgetSliceReturned():
            debit, credit = _AVAILABLE, _SLICED
        case BudgetSliceClosed():
            return None
        case _:
            assert_never(event)
    return Movement(Page(event.unit, event.period), debit, credit, event.amount)


_AVAILABLE: Account = "available"
_RESERVED: Account = "reserved"
_COMMITTED: Account = "committed"
_COMPENSATED: Account = "compensated"
_SLICED: Account = "sliced"


def evolve_budget(state: BudgetState, event: BudgetEvent, position: int = 0) -> BudgetState:
    """Total: a reservation that is open already, and a settlement of what is not open, change nothing but version and position."""
    state = replace(state, version=state.version + 1, position=max(state.position, position))
    match event:
        case BudgetReserved(intent_id=id_):
            if id_ in state.open:
                return state
            state = replace(state, open={**state.open, id_: (Page(event.unit, event.period), event.amount)})
        case BudgetCommitted(intent_id=id_) | BudgetReleased(intent_id=id_):
            if id_ not in state.open:
                return state
            state = replace(state, open={k: v for k, v in state.open.items() if k != id_})
        case BudgetSliceGranted(slice=slice_):
            granted = Granted(event.worker, Page(event.unit, event.period), event.amount, to_us(event.expires_at))
            state = replace(state, slices={**state.slices, slice_: granted})
        case BudgetSliceReturned(slice=slice_):
            state = replace(state, slices={k: v for k, v in state.slices.items() if k != slice_})
        case BudgetSliceClosed():
            state = replace(state, closed=True)
        case BudgetCompensated():
            pass
        case _:
            assert_never(event)
    moved = movement(event)
    return state if moved is None else replace(state, pages={**state.pages, moved.page: post(state.sums(moved.page), moved)})


def post(sums: Sums, moved: Movement) -> Sums:
    """The accounts after an entry."""
    changed = {
        moved.debit: getattr(sums, moved.debit) + moved.amount,
        moved.credit: getattr(sums, moved.credit) - moved.amount,
    }
    freed = moved.amount if (moved.debit, moved.credit) == (_AVAILABLE, _RESERVED) else 0
    return replace(sums, **changed, released=sums.released + freed)


def settlements(customer: CustomerAggregate, event: Event) -> Iterator[tuple[Reservation, Settled]]:
    """What `event`, about to be appended to this customer, does to what its decision reserved.

    Each effect settles its own: used up when it happened, given back when it certainly did not.
    """
    decision_id = getattr(event, "decision_id", None)
    known = customer.decisions.get(decision_id) if decision_id is not None else None
    if known is None:
        return
    if known.undoes is not None:
        for held in known.reservations if isinstance(event, d.EffectSucceeded) else ():
            yield held, BudgetCompensated(decision_id=known.decision_id, spent_by=known.undoes[0], **_entry(held))
        return
    for held in known.reservations:
        effect = known.effects.get(held.intent_id)
        if effect is None or effect.settled:
            continue
        match event:
            case d.EffectSucceeded(intent_id=held.intent_id):
                yield held, BudgetCommitted(decision_id=known.decision_id, **_entry(held))
            case d.EffectFailed(final=True, intent_id=held.intent_id) | d.EffectCancelled(intent_id=held.intent_id):
                yield held, BudgetReleased(decision_id=known.decision_id, reason="its effect did not happen", **_entry(held))
            case d.ApprovalRejected() | d.ApprovalLapsed() | a.ApprovalTimedOut(outcome="reject") | a.ApprovalReplaced():
                yield held, BudgetReleased(decision_id=known.decision_id, reason="it was not approved", **_entry(held))
            case d.DecisionOverridden() | ConversationEnded():
                if effect.status in {"held", "ready", "retry"} and not effect.ambiguous:
                    by = "a person set it aside" if isinstance(event, d.DecisionOverridden) else "its conversation ended"
                    yield held, BudgetReleased(decision_id=known.decision_id, reason=by, **_entry(held))


def _entry(held: Reservation) -> dict[str, Any]:
    return {"intent_id": held.intent_id, "unit": held.unit, "period": held.period, "amount": held.amount}
