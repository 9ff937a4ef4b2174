"""Signals: what sources say about a customer. Facts, typed, with units; an open registry that users extend by subclassing.

May import `events` only. The wire names and fields here are the storage format: to change one, add `…@2` and an upcaster.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, Field, ValidationError, model_validator

from postsale.events import AmountMinor, Count, Currency, Event, Id, Personal, Text, UtcDatetime, invalid_input, to_json


def _check_zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError("expected an IANA time zone name, such as Europe/Berlin") from None
    return name


TimeZone = Annotated[Id, AfterValidator(_check_zone)]


class Signal(Event):
    """A fact from a source. The same (source, id) arriving again changes nothing; with other content it is an error.

    `source` and `id` name the delivery, never a person. `occurred_at` is when it was true in the world. `contact` is the
    source's id of the person it is about, if any; that person belongs to the customer, and personal fields are sealed
    under that person's key (else under the customer's).
    """

    envelope_fields: ClassVar[frozenset[str]] = frozenset({"source", "id", "occurred_at", "available_at", "order", "contact"})

    source: Id
    id: Id
    occurred_at: UtcDatetime
    available_at: UtcDatetime | None = None  # when the source says it was knowable; backfills only
    order: Id | None = None  # compares lexicographically within a source: zero-pad numbers
    contact: Id | None = None


# ---------------------------------------------------------------- CRM


class AccountProfiled(Signal):
    """The account's profile in the CRM, whole, as it is now."""

    wire_name: ClassVar[str] = "crm/account-profiled@1"
    name: Personal[Text] | None = None
    segment: Id | None = None  # such as smb, mid-market, enterprise
    industry: Id | None = None
    country: Id | None = None  # ISO 3166-1 alpha-2
    time_zone: TimeZone | None = None  # IANA name; quiet hours are counted in it
    owner: Id | None = None  # login of the account's owner
    seats: Count | None = None
    starts_at: UtcDatetime | None = None  # when the relationship began


class AccountChurned(Signal):
    """The CRM closed the account as lost. Its word beside billing's: subscriptions end by SubscriptionEnded; the two may differ."""

    wire_name: ClassVar[str] = "crm/account-churned@1"
    reason: Id | None = None
    avoidable: bool | None = None  # None: the source does not say
    comment: Personal[Text] | None = None


class OpportunityStageChanged(Signal):
    """A deal with the customer moved."""

    wire_name: ClassVar[str] = "crm/opportunity-stage-changed@1"
    opportunity_id: Id
    stage: Id
    kind_of_deal: Literal["new", "renewal", "expansion"] = "renewal"
    amount_minor: AmountMinor | None = None
    currency: Currency | None = None
    closes_at: UtcDatetime | None = None


class RenewalDue(Signal):
    """The date on which the contract ends unless it is renewed. The latest one counts."""

    wire_name: ClassVar[str] = "crm/renewal-due@1"
    renews_at: UtcDatetime
    auto_renews: bool = False


class CustomerReferred(Signal):
    """The CRM credits a new lead or account to this customer's word. What comes of the referral is not said here."""

    wire_name: ClassVar[str] = "crm/customer-referred@1"
    referred: Id | None = None  # the source's id of the lead or account, never a person's name
    programme: Id | None = None


# ---------------------------------------------------------------- billing

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


# ---------------------------------------------------------------- ticketing


class TicketOpened(Signal):
    """The customer asked for help."""

    wire_name: ClassVar[str] = "ticketing/ticket-opened@1"
    ticket_id: Id
    priority: Literal["low", "normal", "high", "urgent"] = "normal"
    subject: Personal[Text] | None = None


class TicketEscalated(Signal):
    """A ticket was handed up."""

    wire_name: ClassVar[str] = "ticketing/ticket-escalated@1"
    ticket_id: Id


class TicketSolved(Signal):
    """A ticket was solved. Times are in minutes of wall-clock time since it was opened."""

    wire_name: ClassVar[str] = "ticketing/ticket-solved@1"
    ticket_id: Id
    first_reply_min: Count | None = None
    resolution_min: Count | None = None


# ---------------------------------------------------------------- telemetry


class UsageObserved(Signal):
    """A feature was used. `count` uses in the source's own batch, by `active_users` distinct people where known."""

    wire_name: ClassVar[str] = "product/usage-observed@1"
    feature: Id
    count: Count = 1
    active_users: Count | None = None
    duration_s: Count | None = None
    errors: Count = 0


# ---------------------------------------------------------------- messages we sent


class MessageDelivered(Signal):
    """The other side took a message over for the person it was meant for. Its cause is the effect that sent it."""

    wire_name: ClassVar[str] = "messaging/message-delivered@1"
    channel: Id  # such as email


class MessageBounced(Signal):
    """A message did not reach the person it was meant for. Its cause is the effect that sent it."""

    wire_name: ClassVar[str] = "messaging/message-bounced@1"
    channel: Id  # such as email
    permanent: bool  # False: the other side keeps trying
    code: Id | None = None  # the source's own, such as 5.1.1 (RFC 3463)


# ---------------------------------------------------------------- surveys


class SurveyAnswered(Signal):
    """A survey was answered. `scale_min` to `scale_max` are inclusive; NPS is 0 to 10; CES states its direction."""

    wire_name: ClassVar[str] = "survey/answered@1"
    survey: Literal["nps", "csat", "ces"]
    score: Annotated[int, Field(ge=0, le=100)]
    scale_min: Annotated[int, Field(ge=0, le=100)] = 0
    scale_max: Annotated[int, Field(ge=1, le=100)] = 10
    higher_is_better: bool = True
    comment: Personal[Text] | None = None

    @model_validator(mode="after")
    def _within_scale(self) -> Self:
        if not self.scale_min <= self.score <= self.scale_max:
            raise ValueError("score is outside scale_min … scale_max")
        return self


# ---------------------------------------------------------------- models of others


class ScoreReceived(Signal):
    """A warehouse's model scored the customer. `means` is its own word for what the value is: only a calibrated model's is a probability."""

    wire_name: ClassVar[str] = "model/score-received@1"
    model: Id  # which question it answers, such as churn
    model_version: Id  # a new version is another model: its scores are not compared with those of an older one
    outcome: Id  # what is scored, such as churned-within-90-days
    value_ppm: Annotated[int, Field(ge=0, le=1_000_000)]
    means: Literal["rank", "probability"] = "rank"


def signal_from(cls: type[Signal], values: dict[str, object]) -> Signal:
    """A signal from JSON-like values (ISO times as text allowed); InvalidInput names the field."""
    raw = to_json(cls.__name__, values)
    try:
        return cls.__pydantic_validator__.validate_json(raw)  # type: ignore[no-any-return]
    except ValidationError as error:
        refusal = invalid_input(cls.__name__, error)
    raise refusal  # out here, because pydantic's error, as context, would carry the input
