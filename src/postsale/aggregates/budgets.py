"""Budgets: what decisions reserve, and the ledger of it. Streams: `tenant/budgets/<name>`, and `tenant/slices/<slice>` for slices.

Wire names and fields are the storage format. May import `events` and parts only; the rules are in `agents.budget`.
"""

from __future__ import annotations

from typing import ClassVar, Literal
from uuid import UUID

from postsale.aggregates.parts import Part
from postsale.events import AmountMinor, Currency, Event, Id, Text, UtcDatetime


class Reservation(Part):
    """Money of a budget's period that a decision sets aside until its effect is settled."""

    budget: Id
    period: Id  # such as 2026-11
    amount_minor: AmountMinor
    currency: Currency


class BudgetReserved(Event):
    """Money of a period is set aside for a decision. On `tenant/budgets/<name>`."""

    wire_name: ClassVar[str] = "budget/reserved@1"
    decision_id: UUID
    period: Id  # such as 2026-11
    amount_minor: AmountMinor
    currency: Currency


class BudgetCommitted(Event):
    """The reservation was spent."""

    wire_name: ClassVar[str] = "budget/committed@1"
    decision_id: UUID


class BudgetReleased(Event):
    """The reservation was given back."""

    wire_name: ClassVar[str] = "budget/released@1"
    decision_id: UUID
    reason: Text


class BudgetCompensated(Event):
    """Money that was spent came back, because the effect it was spent on was taken back. The spending stays as it was entered."""

    wire_name: ClassVar[str] = "budget/compensated@1"
    decision_id: UUID  # the order that took it back
    spent_by: UUID  # the decision that had spent it
    period: Id
    amount_minor: AmountMinor
    currency: Currency


class BudgetSliceGranted(Event):
    """Part of a period's money is a worker's to reserve from, without asking here, until its lease ends. On the budget's stream."""

    wire_name: ClassVar[str] = "budget/slice-granted@1"
    slice: Id
    worker: Id
    period: Id
    amount_minor: AmountMinor
    currency: Currency
    expires_at: UtcDatetime


class BudgetSliceClosed(Event):
    """Nothing more is reserved from this slice. On `tenant/slices/<slice>`, where its reservations are; they are settled there later."""

    wire_name: ClassVar[str] = "budget/slice-closed@1"
    why: Literal["exchanged", "expired", "given-back"]


class BudgetSliceReturned(Event):
    """Money of a slice that nothing holds is the budget's again: as it was closed, or what was released afterwards. On the budget's stream."""

    wire_name: ClassVar[str] = "budget/slice-returned@1"
    slice: Id
    period: Id
    amount_minor: AmountMinor


BudgetEvent = (
    BudgetReserved | BudgetCommitted | BudgetReleased | BudgetCompensated | BudgetSliceGranted | BudgetSliceClosed | BudgetSliceReturned
)
