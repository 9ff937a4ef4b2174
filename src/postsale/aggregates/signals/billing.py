"""Signals of billing: invoices, subscriptions with their terms whole, seats, discounts. Amounts are in minor units of their currency."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from postsale.aggregates.signals.base import Signal
from postsale.events import AmountMinor, Count, Currency, Id, UtcDatetime

Interval = Literal["day", "week", "month", "quarter", "year"]


class InvoicePaid(Signal):
    """An invoice or purchase was paid. 0 is allowed: free goods, full discounts."""

    wire_name: ClassVar[str] = "billing/invoice-paid@1"
    amount_minor: AmountMinor
    currency: Currency
    invoice_id: Id | None = None
    items: Count | None = None  # units bought


class InvoicePaymentFailed(Signal):
    """A charge for an invoice did not go through."""

    wire_name: ClassVar[str] = "billing/invoice-payment-failed@1"
    amount_minor: AmountMinor
    currency: Currency
    invoice_id: Id | None = None
    attempt: Annotated[int, Field(ge=1, le=1_000)] = 1
    reason: Id | None = None  # the source's decline code


class _Subscription(Signal):
    subscription_id: Id
    mrr_minor: AmountMinor  # monthly recurring revenue after discounts, minor units of `currency`
    interval: Interval
    interval_count: Annotated[int, Field(ge=1, le=1_000)] = 1
    currency: Currency
    effective_at: UtcDatetime  # when the new terms hold; may differ from when it happened
    plan: Id | None = None
    seats: Count | None = None


class SubscriptionStarted(_Subscription):
    """A subscription began; a trial has `trial=True` and counts no revenue until it changes."""

    wire_name: ClassVar[str] = "billing/subscription-started@1"
    trial: bool = False


class SubscriptionChanged(_Subscription):
    """Terms of a running subscription changed: the new terms, whole."""

    wire_name: ClassVar[str] = "billing/subscription-changed@1"
    trial: bool = False


class CancellationScheduled(_Subscription):
    """The customer cancelled with effect from `effective_at`; the terms are those that run until then."""

    wire_name: ClassVar[str] = "billing/cancellation-scheduled@1"


class SubscriptionEnded(_Subscription):
    """A subscription ended; the terms are those that ended."""

    wire_name: ClassVar[str] = "billing/subscription-ended@1"
    reason: Id | None = None
    avoidable: bool | None = None  # None: the source does not say


class CancellationWithdrawn(_Subscription):
    """The customer took a scheduled cancellation back; the terms are those that run on."""

    wire_name: ClassVar[str] = "billing/cancellation-withdrawn@1"


class SubscriptionPaused(_Subscription):
    """A subscription counts no revenue from `effective_at` until it resumes; the terms are those that resume."""

    wire_name: ClassVar[str] = "billing/subscription-paused@1"
    resumes_at: UtcDatetime | None = None  # None: not known yet


class SubscriptionResumed(_Subscription):
    """A paused subscription runs again, with these terms."""

    wire_name: ClassVar[str] = "billing/subscription-resumed@1"


class InvoiceRefunded(Signal):
    """Money went back, all of an invoice or a part of it: what went back this time."""

    wire_name: ClassVar[str] = "billing/invoice-refunded@1"
    amount_minor: AmountMinor
    currency: Currency
    invoice_id: Id | None = None
    reason: Id | None = None


class DiscountApplied(Signal):
    """Recurring revenue is less than the list price. Whoever granted it: sales, a partner and the source itself do so too, not only agents."""

    wire_name: ClassVar[str] = "billing/discount-applied@1"
    subscription_id: Id | None = None
    amount_minor: AmountMinor  # a month
    currency: Currency
    granted_by: Id | None = None  # such as sales, partner, agent
    ends_at: UtcDatetime | None = None  # None: as long as the subscription
    reason: Id | None = None


class SeatsCounted(Signal):
    """How many licences are paid for, and how many of them are given to somebody."""

    wire_name: ClassVar[str] = "billing/seats-counted@1"
    subscription_id: Id | None = None
    bought: Count
    assigned: Count | None = None
