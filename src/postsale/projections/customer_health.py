"""The shipped declaration: what is known about a customer's health, and the components that judge it.

Plain features and pure integer functions over them; the arithmetic of weights, bands and explanations is `health`. Scores are
micro-points, 0 (worst) to 100,000,000 (best). Imports signals, features, `health` and `lifecycle`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from postsale.aggregates.signals import (
    AccountChurned,
    AccountProfiled,
    CancellationScheduled,
    CancellationWithdrawn,
    InvoicePaid,
    InvoicePaymentFailed,
    RenewalDue,
    SubscriptionChanged,
    SubscriptionEnded,
    SubscriptionPaused,
    SubscriptionResumed,
    SubscriptionStarted,
    SurveyAnswered,
    SurveyRevised,
    TicketEscalated,
    TicketOpened,
    TicketSolved,
    UsageObserved,
)
from postsale.events import DAY_US, from_us
from postsale.projections.declaring import count, days, first_seen, last_seen, latest, maximum, total
from postsale.projections.derived import derived
from postsale.projections.features import Features
from postsale.projections.folding import FeatureValues
from postsale.projections.health import FULL_MICRO, Component, HealthModel, Lever
from postsale.projections.lifecycle import STAGES, lifecycle_stage

_TERMS: Final = (SubscriptionStarted, SubscriptionChanged, SubscriptionResumed, CancellationWithdrawn)
_SURVEYS: Final = (SurveyAnswered, SurveyRevised)
Times = Mapping[str, int]


class CustomerHealth(Features, version=1, owner="postsale"):
    """Payments, usage, adoption, support, surveys, contract and purchases of one customer."""

    failed_90d = count(InvoicePaymentFailed, window=days(90))
    paid_90d = count(InvoicePaid, window=days(90))
    last_charge = last_seen((InvoicePaid, InvoicePaymentFailed))

    purchases = count(InvoicePaid, description="invoices or purchases paid, ever")
    first_purchase = first_seen(InvoicePaid)
    last_purchase = last_seen(InvoicePaid)

    usage_30d = total(UsageObserved, lambda e: e.count, window=days(30), unit="uses")
    usage_60d = total(UsageObserved, lambda e: e.count, window=days(60), unit="uses")
    last_usage = last_seen(UsageObserved)
    active_users = maximum(UsageObserved, lambda e: e.active_users, window=days(30), unit="people")
    last_active_users = last_seen(UsageObserved, where=lambda e: e.active_users >= 0)  # type: ignore[operator]

    tickets_30d = count(TicketOpened, window=days(30))
    escalations_90d = count(TicketEscalated, window=days(90))
    last_ticket = last_seen((TicketOpened, TicketEscalated, TicketSolved))

    first_usage = first_seen(UsageObserved)

    survey_micro = latest(
        _SURVEYS,
        lambda e: (e.score - e.scale_min) * 100_000_000 // (e.scale_max - e.scale_min),
        where=lambda e: e.scale_max > e.scale_min,
        unit="micro-points",
    )
    survey_higher_is_better = latest(_SURVEYS, lambda e: e.higher_is_better, where=lambda e: e.scale_max > e.scale_min)
    last_survey = last_seen(_SURVEYS, where=lambda e: e.scale_max > e.scale_min)
    last_detracted = last_seen(
        _SURVEYS,
        where=lambda e: (e.survey == "nps") & (e.scale_min == 0) & (e.scale_max == 10) & (e.score <= 6),
        description="somebody would not recommend us, whatever others answered since",
    )

    segment = latest(AccountProfiled, lambda e: e.segment, description="the newest that the CRM named")
    starts_at = latest(AccountProfiled, lambda e: e.starts_at, unit="us")
    first_terms = first_seen(_TERMS)
    seats_profiled = latest(AccountProfiled, lambda e: e.seats)
    seats_by = latest(_TERMS, lambda e: e.seats, by=lambda e: e.subscription_id)
    mrr_by = latest(_TERMS, lambda e: e.mrr_minor, by=lambda e: e.subscription_id)
    currency_by = latest(_TERMS, lambda e: e.currency, by=lambda e: e.subscription_id)
    terms_at = last_seen(_TERMS, by=lambda e: e.subscription_id)
    trial_started_at = last_seen(SubscriptionStarted, where=lambda e: e.trial, by=lambda e: e.subscription_id)
    trial_changed_at = last_seen(SubscriptionChanged, where=lambda e: e.trial, by=lambda e: e.subscription_id)
    cancelled_at = last_seen(CancellationScheduled, by=lambda e: e.subscription_id)
    ends_at = latest(CancellationScheduled, lambda e: e.effective_at, by=lambda e: e.subscription_id, unit="us")
    paused_at = last_seen(SubscriptionPaused, by=lambda e: e.subscription_id)
    ended_at = last_seen(SubscriptionEnded, by=lambda e: e.subscription_id)
    churned_at = last_seen(AccountChurned)
    renews_at = latest(RenewalDue, lambda e: e.renews_at, unit="us")

    @derived(unit="subscriptions", description="ever known")
    def known(terms_at: Times, cancelled_at: Times, ended_at: Times) -> tuple[str, ...]:
        return tuple(sorted({*terms_at, *cancelled_at, *ended_at}))

    @derived(unit="subscriptions", description="running: neither ended, nor ended and not begun again")
    def running(known: tuple[str, ...], terms_at: Times, cancelled_at: Times, ended_at: Times) -> tuple[str, ...]:
        return tuple(
            s for s in known if s not in ended_at or ended_at[s] < max(terms_at.get(s, ended_at[s]), cancelled_at.get(s, ended_at[s]))
        )

    @derived(unit="subscriptions", description="running, and cancelled since their terms were last set")
    def cancelling(running: tuple[str, ...], terms_at: Times, cancelled_at: Times) -> tuple[str, ...]:
        return tuple(s for s in running if s in cancelled_at and (s not in terms_at or cancelled_at[s] >= terms_at[s]))

    @derived(unit="subscriptions", description="running with revenue: neither in trial nor paused, terms known")
    def billed(
        running: tuple[str, ...], terms_at: Times, paused_at: Times, trial_started_at: Times, trial_changed_at: Times
    ) -> tuple[str, ...]:
        terms = {s: terms_at[s] for s in running if s in terms_at and paused_at.get(s, terms_at[s] - 1) < terms_at[s]}
        return tuple(s for s, at in terms.items() if at not in (trial_started_at.get(s), trial_changed_at.get(s)))

    @derived(description="the CRM closed the account as lost, and neither new terms nor a purchase came after that")
    def churned(churned_at: int | None, terms_at: Times, last_purchase: int | None) -> bool:
        return churned_at is not None and churned_at >= max([*terms_at.values(), last_purchase or churned_at])

    @derived(unit="ISO 4217", description="of mrr_minor; None when subscriptions differ, because currencies are never added")
    def currency(billed: tuple[str, ...], currency_by: Mapping[str, str]) -> str | None:
        currencies = {currency_by[s] for s in billed}
        return currencies.pop() if len(currencies) == 1 else None

    @derived(unit="minor units per month")
    def mrr_minor(billed: tuple[str, ...], mrr_by: Mapping[str, int], currency: str | None) -> int | None:
        return sum(mrr_by[s] for s in billed) if currency else None

    @derived(unit="seats", description="of running subscriptions, else of the profile")
    def seats(running: tuple[str, ...], seats_by: Mapping[str, int], seats_profiled: int | None) -> int | None:
        contracted = [seats_by[s] for s in running if s in seats_by]
        return sum(contracted) if contracted else seats_profiled

    @derived(unit="us", description="when the relationship began: as the CRM says, else by the first terms, purchase or usage")
    def began_at(starts_at: int | None, first_terms: int | None, first_purchase: int | None, first_usage: int | None) -> int | None:
        if starts_at is not None:
            return starts_at
        return min((at for at in (first_terms, first_purchase, first_usage) if at is not None), default=None)

    @derived(unit="uses", description="in the 30 days before the last 30")
    def usage_prior_30d(usage_30d: int, usage_60d: int) -> int:
        return usage_60d - usage_30d


# ---------------------------------------------------------------- components

_POINT: Final = FULL_MICRO // 100


def _payments(v: FeatureValues) -> int | None:
    """Share of charges of 90 days that went through. Of a shopper's own purchases it says nothing until one fails."""
    paid, failed = v["paid_90d"], v["failed_90d"]
    if not paid + failed or not (failed or v["known"]):
        return None
    return int(FULL_MICRO * paid // (paid + failed))


def _usage(v: FeatureValues) -> int:
    """80 points for as much use as in the 30 days before, in proportion, 100 from a quarter more; new use counts as steady."""
    now, prior = v["usage_30d"], v["usage_prior_30d"]
    if not prior:
        return 80 * _POINT if now else 0
    return int(min(FULL_MICRO, 80 * _POINT * now // prior))


def _adoption(v: FeatureValues) -> int | None:
    """Licence utilisation: the most people active in 30 days / seats."""
    seats = v["seats"]
    return int(min(FULL_MICRO, FULL_MICRO * (v["active_users"] or 0) // seats)) if seats else None


def _support(v: FeatureValues) -> int:
    """100 points less 10 for each ticket opened in 30 days and 25 for each escalation in 90."""
    return int(max(0, FULL_MICRO - 10 * _POINT * v["tickets_30d"] - 25 * _POINT * v["escalations_90d"]))


def _survey(v: FeatureValues) -> int | None:
    """The latest answer on its own scale, turned round where lower is better."""
    answer = v["survey_micro"]
    return int(answer if v["survey_higher_is_better"] else FULL_MICRO - answer)


def _contract(v: FeatureValues) -> int | None:
    """The share of running subscriptions that is not cancelled; 0 when all ended or the CRM closed the account; says nothing while none is cancelled."""
    if v["churned"]:
        return 0
    running, cancelling = len(v["running"]), len(v["cancelling"])
    if not v["known"] or (running and not cancelling):
        return None
    return FULL_MICRO * (running - cancelling) // running if running else 0


_FIRST_GAP_US: Final = 90 * DAY_US


def _purchasing(v: FeatureValues) -> int | None:
    """Time since the last purchase, beside the customer's own pace.

    pace = (last - first + 90 days) / purchases: the mean gap, drawn towards 90 days while purchases are few. 100 points up to
    one pace, then evenly down to 0 at three. Silence is the information, so this is never stale.
    """
    purchases = v["purchases"]
    if not purchases or v["known"] or v["churned"]:
        return None
    pace = (v["last_purchase"] - v["first_purchase"] + _FIRST_GAP_US) // purchases
    silent = v.as_of_us - v["last_purchase"]
    return int(max(0, min(FULL_MICRO, FULL_MICRO * (3 * pace - silent) // (2 * pace))))


# ---------------------------------------------------------------- what might have been otherwise


def _one_more(values: FeatureValues) -> Mapping[str, Any]:  # noqa: ARG001
    return {"amount_minor": 0, "currency": "XXX"}  # health counts charges, whatever their amount


def _usual_day(values: FeatureValues) -> Mapping[str, Any] | None:
    """A day like the average day of the last 30, or one use where there was none."""
    if values["last_usage"] is None:
        return None
    active = {} if values["active_users"] is None else {"active_users": values["active_users"]}
    return {"feature": "any", "count": max(1, values["usage_30d"] // 30), **active}


def _full_house(values: FeatureValues) -> Mapping[str, Any] | None:
    return {"feature": "any", "count": 0, "active_users": values["seats"]} if values["seats"] else None


def _answer(score: int) -> Callable[[FeatureValues], Mapping[str, Any]]:
    return lambda values: {"survey": "nps", "score": score}  # noqa: ARG005


def _ticket(values: FeatureValues) -> Mapping[str, Any]:  # noqa: ARG001
    return {"ticket_id": "one-more"}


def _cancellation(values: FeatureValues) -> Mapping[str, Any] | None:
    """Of the first running subscription that is not cancelled yet."""
    left = [s for s in values["running"] if s not in values["cancelling"] and s in values["currency_by"]]
    if not left:
        return None
    terms = {"mrr_minor": values["mrr_by"][left[0]], "currency": values["currency_by"][left[0]], "interval": "month"}
    return {"subscription_id": left[0], "effective_at": from_us(values.as_of_us), **terms}


LEVERS: Final = (
    Lever("paid invoice", InvoicePaid, add=_one_more),
    Lever("failed payment", InvoicePaymentFailed, add=_one_more, remove=True),
    Lever("active day", UsageObserved, add=_usual_day, every_days=1),
    Lever("day with every seat in use", UsageObserved, add=_full_house),
    Lever("ticket", TicketOpened, add=_ticket, remove=True),
    Lever("escalation", TicketEscalated, add=_ticket, remove=True),
    Lever("survey answered 10 of 10", SurveyAnswered, add=_answer(10)),
    Lever("survey answered 0 of 10", SurveyAnswered, add=_answer(0)),
    Lever("cancellation", CancellationScheduled, add=_cancellation, remove=True),
)
"""What the smallest change across a band is made of."""

CUSTOMER_HEALTH: Final = HealthModel(
    name="customer-health",
    version=1,
    features=CustomerHealth,
    components=(
        Component("payments", 25, _payments, fresh="last_charge", absent="no charge of a subscription, and none that failed"),
        Component("usage", 25, _usage, fresh="last_usage", absent="no usage was ever observed"),
        Component("adoption", 15, _adoption, fresh="last_active_users", absent="active users or seats are not known"),
        Component("support", 20, _support, fresh="last_ticket", absent="no ticket was ever seen"),
        Component("survey", 15, _survey, fresh="last_survey", absent="no survey was ever answered"),
        # As heavy as all of the above: whoever has cancelled is never better than the middle of the scale.
        Component("contract", 100, _contract, absent="no cancellation is scheduled"),
        Component("purchasing", 100, _purchasing, absent="only for customers with purchases and without a subscription"),
    ),
    segment="segment",
    stage=lifecycle_stage,
    stages=STAGES,
    levers=LEVERS,
)
"""The model that ships: weights are a starting point, not calibrated on anybody's outcomes."""
