"""Budgets: what decisions reserve, and the ledger of it. Streams: `tenant/budgets/<name>`, and `tenant/slices/<slice>` for slices.

A budget is counted in one unit: minor units of a currency (`EUR`), contacts on a channel (`contacts/email`), or points of `risk`.
Wire names and fields are the storage format. May import `events` and parts only; the rules are in `agents.budget`.
"""

from __future__ import annotations

from typing import ClassVar, Final, Literal
from uuid import UUID

from postsale.aggregates.parts import Part
from postsale.events import Count, Event, Id, Text, UtcDatetime, money_text

RISK: Final = "risk"
_CONTACTS: Final = "contacts/"


def contacts_on(channel: str) -> str:
    """The unit in which contacts on a channel are counted."""
    return f"{_CONTACTS}{channel}"


def is_money(unit: str) -> bool:
    """Whether a unit is a currency."""
    return unit != RISK and not unit.startswith(_CONTACTS)


def comes_back(unit: str) -> bool:
    """Whether taking an effect back gives back what it used up. Money and risk, yes; a contact that was made is not unmade."""
    return not unit.startswith(_CONTACTS)


def amount_text(amount: int, unit: str) -> str:
    """As people read it: `4,500.00 EUR`, `3 contacts by email`, `12 risk points`."""
    if is_money(unit):
        return money_text(amount, unit)
    return f"{amount:,} risk points" if unit == RISK else f"{amount:,} contacts by {unit.removeprefix(_CONTACTS)}"


class Reservation(Part):
    """What one effect of a decision sets aside of a budget's period until it is settled."""

    intent_id: UUID  # the effect
    budget: Id
    unit: Id
    period: Id  # such as 2026-11 or 2026-11-23
    amount: Count  # of `unit`
    slice: Id | None = None  # of the budget, that it is taken from; None: the budget itself


class BudgetReserved(Event):
    """Part of a period is set aside for an effect of a decision: from available to reserved. In the decision's append."""

    wire_name: ClassVar[str] = "budget/reserved@1"
    decision_id: UUID
    intent_id: UUID
    unit: Id
    period: Id  # such as 2026-11
    amount: Count


class BudgetCommitted(Event):
    """The effect happened, so what it reserved is used up: from reserved to committed."""

    wire_name: ClassVar[str] = "budget/committed@1"
    decision_id: UUID
    intent_id: UUID
    unit: Id
    period: Id
    amount: Count


class BudgetReleased(Event):
    """The effect certainly did not happen, so what it reserved is free again: from reserved to available."""

    wire_name: ClassVar[str] = "budget/released@1"
    decision_id: UUID
    intent_id: UUID
    unit: Id
    period: Id
    amount: Count
    reason: Text


class BudgetCompensated(Event):
    """What was used up came back, because the effect was taken back: from compensated to available. The spending stays as it was entered."""

    wire_name: ClassVar[str] = "budget/compensated@1"
    decision_id: UUID  # the order that took it back
    spent_by: UUID  # the decision that had spent it
    intent_id: UUID  # the effect that was taken back
    unit: Id
    period: Id
    amount: Count


class BudgetSliceGranted(Event):
    """Part of a period is a worker's to reserve from, without asking here, until its lease ends: from available to sliced. On the budget."""

    wire_name: ClassVar[str] = "budget/slice-granted@1"
    slice: Id
    worker: Id
    unit: Id
    period: Id
    amount: Count
    expires_at: UtcDatetime


SliceEnd = Literal["exchanged", "expired", "given-back"]


class BudgetSliceClosed(Event):
    """Nothing more is reserved from this slice. On `tenant/slices/<slice>`, where its reservations are; they are settled there later."""

    wire_name: ClassVar[str] = "budget/slice-closed@1"
    why: SliceEnd


class BudgetSliceReturned(Event):
    """What nothing holds of a slice, as it was closed or released afterwards, is the budget's: from sliced to available. On the budget."""

    wire_name: ClassVar[str] = "budget/slice-returned@1"
    slice: Id
    unit: Id
    period: Id
    amount: Count


BudgetEvent = (
    BudgetReserved | BudgetCommitted | BudgetReleased | BudgetCompensated | BudgetSliceGranted | BudgetSliceClosed | BudgetSliceReturned
)
