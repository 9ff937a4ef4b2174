"""Signals of a CRM: who the customer is, who works there, who owns it, what its deals and renewals do."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator

from postsale.aggregates.signals.base import Signal
from postsale.events import AmountMinor, Count, Currency, Id, Personal, Text, UtcDatetime


def _check_zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError("expected an IANA time zone name, such as Europe/Berlin") from None
    return name


TimeZone = Annotated[Id, AfterValidator(_check_zone)]


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


class ContactProfiled(Signal):
    """A person at the customer, whole, as the CRM has them now. `contact` in the envelope names the person."""

    wire_name: ClassVar[str] = "crm/contact-profiled@1"
    name: Personal[Text] | None = None
    role: Id | None = None  # such as champion, decision-maker, user
    left: bool = False  # the person does not work there any more


class OwnerChanged(Signal):
    """Somebody else looks after the account."""

    wire_name: ClassVar[str] = "crm/owner-changed@1"
    owner: Id | None = None  # login; None: nobody does now
    before: Id | None = None


class RenewalNoticeGiven(Signal):
    """One side told the other formally what it intends at the end of the contract."""

    wire_name: ClassVar[str] = "crm/renewal-notice-given@1"
    renews_at: UtcDatetime  # the end of the contract that it is about
    given_by: Literal["customer", "vendor"]
    intends: Literal["renew", "change", "leave"]


class _RenewalCall(Signal):
    renews_at: UtcDatetime  # the end of the contract that it is about
    call: Literal["renew", "expand", "contract", "churn", "unsure"]
    reason: Id | None = None


class RenewalCalledByModel(_RenewalCall):
    """What a system expects of a renewal. One of three facts that are kept apart and never averaged: model, manager, final."""

    wire_name: ClassVar[str] = "crm/renewal-called-by-model@1"
    model: Id | None = None  # whose call it is


class RenewalCalledByManager(_RenewalCall):
    """What the customer success manager expects of a renewal."""

    wire_name: ClassVar[str] = "crm/renewal-called-by-manager@1"
    manager: Id | None = None  # login


class RenewalCalledFinally(_RenewalCall):
    """How a renewal ended, once it is settled. Money is billing's word; this is the CRM's."""

    wire_name: ClassVar[str] = "crm/renewal-called-finally@1"
    avoidable: bool | None = None  # of a churn; None: the source does not say
