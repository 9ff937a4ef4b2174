"""The shipped declarations behind outcomes, one customer each: revenue and contracts, onboarding, adoption, support, advocacy, answers.

Plain features: they run live, over all history and as training rows. What they say about a period or a tenant is in the modules
beside this one. Imports signals and features.

A `history` keeps ten years: what was stated before is counted by `stated` and not read, and such a customer is left out with that reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from postsale.aggregates.signals import (
    AccountChurned,
    AccountProfiled,
    AdvocacyGiven,
    CancellationWithdrawn,
    EventAttended,
    InvoicePaid,
    MilestoneReached,
    OnboardingStepCompleted,
    ReferralClicked,
    ReferralConverted,
    ReferralInvited,
    ReferralRegistered,
    ReferralWithdrawn,
    RenewalCalledByManager,
    RenewalCalledByModel,
    RenewalCalledFinally,
    RenewalDue,
    ReviewPublished,
    SeatsCounted,
    SubscriptionChanged,
    SubscriptionEnded,
    SubscriptionPaused,
    SubscriptionResumed,
    SubscriptionStarted,
    SurveyAnswered,
    SurveyRevised,
    TicketOpened,
    TicketReopened,
    TicketReplied,
    TicketSolved,
    UsageObserved,
    UserLoggedIn,
)
from postsale.events import DAY_US
from postsale.projections.algebra import Moment
from postsale.projections.declaring import count, days, distinct, first_seen, history, last_seen, latest, maximum, minimum, total
from postsale.projections.derived import derived
from postsale.projections.features import Features

_TERMS: Final = (SubscriptionStarted, SubscriptionChanged, SubscriptionResumed, CancellationWithdrawn)
_STATED: Final = (*_TERMS, SubscriptionPaused, SubscriptionEnded)
_CALLS: Final = (RenewalCalledByModel, RenewalCalledByManager, RenewalCalledFinally)
_SURVEYS: Final = (SurveyAnswered, SurveyRevised)
_REFERRALS: Final = (ReferralInvited, ReferralClicked, ReferralRegistered, ReferralConverted, ReferralWithdrawn)
_EVER: Final = days(3_660)
_STATES: Final = {"billing/subscription-paused": "paused", "billing/subscription-ended": "ended"}

Statements = Mapping[str, tuple[tuple[int, int, int, str, int, str], ...]]
"""By subscription, in order of (at, position): effective from, at, position, state (billed, trial, paused, ended), MRR in minor units, currency."""


class Revenue(Features, version=1, owner="postsale"):
    """What was ever stated about subscriptions and their recurring revenue, the end of contracts, and how renewals were called."""

    stated = count(_STATED)
    mrr = history(_STATED, lambda e: e.mrr_minor, by=lambda e: e.subscription_id, window=_EVER)
    effective = history(_STATED, lambda e: e.effective_at, by=lambda e: e.subscription_id, window=_EVER)
    currencies = history(_STATED, lambda e: e.currency, by=lambda e: e.subscription_id, window=_EVER)
    trials = history((SubscriptionStarted, SubscriptionChanged), window=_EVER, where=lambda e: e.trial)  # type: ignore[attr-defined]
    closings = history(AccountChurned, window=_EVER, description="the CRM closed the account as lost")
    avoidables = history((SubscriptionEnded, AccountChurned, RenewalCalledFinally), lambda e: e.avoidable, window=_EVER)
    dues = history(RenewalDue, lambda e: e.renews_at, window=_EVER)
    called_for = history(_CALLS, lambda e: e.renews_at, window=_EVER)
    calls = history(_CALLS, lambda e: e.call, window=_EVER)

    @derived(description="by subscription, what was stated: see `Statements`")
    def statements(
        mrr: Mapping[str, tuple[Moment, ...]],
        effective: Mapping[str, tuple[Moment, ...]],
        currencies: Mapping[str, tuple[Moment, ...]],
        trials: tuple[Moment, ...],
    ) -> Mapping[str, tuple[tuple[int, int, int, str, int, str], ...]]:
        trial = {m.position for m in trials}
        out = {}
        for subscription, moments in mrr.items():
            since = {m.position: m.value for m in effective.get(subscription, ())}
            money = {m.position: m.value for m in currencies.get(subscription, ())}
            out[subscription] = tuple(
                (
                    since[m.position],
                    m.at_us,
                    m.position,
                    "trial" if m.position in trial else _STATES.get(m.kind, "billed"),
                    m.value,
                    money[m.position],
                )
                for m in moments
                if m.position in since and m.position in money
            )
        return out

    @derived(unit="statements", description="older than ten years, and not read")
    def forgotten(stated: int, mrr: Mapping[str, tuple[Moment, ...]]) -> int:
        return stated - sum(len(moments) for moments in mrr.values())


class Onboarding(Features, version=1, owner="postsale"):
    """How far a customer's onboarding is, and how long it took to the first outcome that is worth it to them."""

    starts_at = latest(AccountProfiled, lambda e: e.starts_at, unit="us")
    first_terms = first_seen(_TERMS)
    first_purchase = first_seen(InvoicePaid)
    first_usage = first_seen(UsageObserved)
    steps_done = distinct(OnboardingStepCompleted, lambda e: e.step, unit="steps")
    steps_planned = latest(OnboardingStepCompleted, lambda e: e.steps, unit="steps")
    last_step = last_seen(OnboardingStepCompleted)
    milestones = first_seen(MilestoneReached, by=lambda e: e.milestone)
    value_at = first_seen(MilestoneReached, where=lambda e: e.value, description="the outcome they bought the product for")

    @derived(unit="us", description="when the relationship began: as the CRM says, else by the first terms, purchase or usage")
    def began_at(starts_at: int | None, first_terms: int | None, first_purchase: int | None, first_usage: int | None) -> int | None:
        if starts_at is not None:
            return starts_at
        return min((at for at in (first_terms, first_purchase, first_usage) if at is not None), default=None)

    @derived(unit="ratio", description="steps done / steps of the plan as it was last told, at most 1")
    def progress(steps_done: int, steps_planned: int | None) -> float | None:
        return min(1.0, steps_done / steps_planned) if steps_planned else None

    @derived(
        unit="us",
        description="time to value: from the beginning to the first outcome; None before it, or when it lies before the beginning",
    )
    def time_to_value(began_at: int | None, value_at: int | None) -> int | None:
        return None if began_at is None or value_at is None or value_at < began_at else value_at - began_at


class Adoption(Features, version=1, owner="postsale"):
    """How widely, how much, how often and by how many of those who are paid for the product is used, in the last 30 days."""

    breadth = distinct(UsageObserved, lambda e: e.feature, window=days(30), unit="features")
    uses = total(UsageObserved, lambda e: e.count, window=days(30), unit="uses")
    active_observed = maximum(UsageObserved, lambda e: e.active_users, window=days(30), unit="people")
    people = distinct(UserLoggedIn, lambda e: e.user, window=days(30), unit="people", description="MAU: who logged in")
    logins = history(UserLoggedIn, lambda e: e.user, window=days(30))
    terms_at = last_seen(_TERMS, by=lambda e: e.subscription_id)
    ended_at = last_seen(SubscriptionEnded, by=lambda e: e.subscription_id)
    seats_by = latest(_TERMS, lambda e: e.seats, by=lambda e: e.subscription_id)
    bought_by = latest(SeatsCounted, lambda e: e.bought, by=lambda e: e.subscription_id)
    bought = latest(SeatsCounted, lambda e: e.bought)
    assigned = latest(SeatsCounted, lambda e: e.assigned, unit="seats")
    seats_profiled = latest(AccountProfiled, lambda e: e.seats)

    @derived(unit="people", description="active in 30 days: who logged in, else the most that usage tells of at once")
    def active(people: int, active_observed: int | None) -> int | None:
        return people or active_observed

    @derived(unit="people", description="DAU: the mean over the 30 days of how many logged in on a day")
    def daily_active(logins: tuple[Moment, ...]) -> float:
        return len({(m.at_us // DAY_US, m.value) for m in logins}) / 30

    @derived(unit="ratio", description="DAU / MAU; None without a login")
    def stickiness(daily_active: float, people: int) -> float | None:
        return daily_active / people if people else None

    @derived(unit="uses per active user", description="None while nobody is known to be active")
    def depth(uses: int, active: int | None) -> float | None:
        return uses / active if active else None

    @derived(unit="seats", description="paid for: as counted, else of the terms, of subscriptions that run; else of the profile")
    def seats(
        bought_by: Mapping[str, int],
        bought: int | None,
        seats_by: Mapping[str, int],
        terms_at: Mapping[str, int],
        ended_at: Mapping[str, int],
        seats_profiled: int | None,
    ) -> int | None:
        ended = {s for s, at in ended_at.items() if at >= terms_at.get(s, at)}
        if ended and not terms_at.keys() - ended:
            return 0
        by = {s: n for s, n in {**seats_by, **bought_by}.items() if s not in ended}
        if by:
            return sum(by.values())
        return bought if bought is not None and not bought_by else seats_profiled

    @derived(unit="ratio", description="licence utilisation: active people / seats; above 1 where more come than are paid for")
    def utilisation(active: int | None, seats: int | None) -> float | None:
        return (active or 0) / seats if seats else None


class Advocacy(Features, version=1, owner="postsale"):
    """What the customer did for us in public, and whom it brought."""

    acts = count(AdvocacyGiven, by=lambda e: e.act)
    last_act = last_seen((AdvocacyGiven, ReviewPublished))
    reviews = count(ReviewPublished)
    stars = latest(ReviewPublished, lambda e: e.stars, by=lambda e: e.site)
    attended = count(EventAttended, window=days(366))
    invited_at = first_seen(ReferralInvited, by=lambda e: e.referral_id)
    clicked_at = first_seen(ReferralClicked, by=lambda e: e.referral_id)
    registered_at = first_seen(ReferralRegistered, by=lambda e: e.referral_id)
    converted_at = first_seen(ReferralConverted, by=lambda e: e.referral_id)
    withdrawn_at = first_seen(ReferralWithdrawn, by=lambda e: e.referral_id)

    @derived(unit="acts", description="references, case studies, talks and the like, and reviews")
    def given(acts: Mapping[str, int], reviews: int) -> int:
        return sum(acts.values()) + reviews

    @derived(unit="referrals")
    def invited(invited_at: Mapping[str, int]) -> int:
        return len(invited_at)

    @derived(unit="referrals", description="converted, and not withdrawn")
    def converted(converted_at: Mapping[str, int], withdrawn_at: Mapping[str, int]) -> int:
        return len(converted_at.keys() - withdrawn_at.keys())


class Support(Features, version=1, owner="postsale"):
    """Tickets by number: when they were opened, first answered in public, and last solved."""

    opened_at = first_seen(TicketOpened, by=lambda e: e.ticket_id)
    replied_at = first_seen(TicketReplied, by=lambda e: e.ticket_id)
    reply_min = minimum(TicketReplied, lambda e: e.after_min, by=lambda e: e.ticket_id, unit="minutes")
    solved_reply_min = minimum(TicketSolved, lambda e: e.first_reply_min, by=lambda e: e.ticket_id, unit="minutes")
    solved_at = last_seen(TicketSolved, by=lambda e: e.ticket_id)
    reopened_at = last_seen(TicketReopened, by=lambda e: e.ticket_id)


class Answers(Features, version=1, owner="postsale"):
    """What the customer's people answered. A revised answer replaces the one of the same `response`; without one it stands for itself."""

    nps_scores = history(
        _SURVEYS, lambda e: e.score, window=_EVER, where=lambda e: (e.survey == "nps") & (e.scale_min == 0) & (e.scale_max == 10)
    )
    csat_micro = history(
        _SURVEYS,
        lambda e: (e.score - e.scale_min) * 1_000_000 // (e.scale_max - e.scale_min),
        window=_EVER,
        where=lambda e: (e.survey == "csat") & (e.scale_max > e.scale_min),
    )
    csat_turned = history(_SURVEYS, window=_EVER, where=lambda e: (e.survey == "csat") & (e.higher_is_better == False))  # noqa: E712
    responses = history(_SURVEYS, lambda e: e.response, window=_EVER)

    @derived(unit="answers", description="as they stand, each with the time of its first form: (at, score 0 to 10)")
    def nps(nps_scores: tuple[Moment, ...], responses: tuple[Moment, ...]) -> tuple[tuple[int, int], ...]:
        return _standing(nps_scores, responses)

    @derived(
        unit="answers", description="as they stand, each with the time of its first form: (at, millionths of the scale, the best 1,000,000)"
    )
    def csat(csat_micro: tuple[Moment, ...], csat_turned: tuple[Moment, ...], responses: tuple[Moment, ...]) -> tuple[tuple[int, int], ...]:
        turned = {m.position for m in csat_turned}
        return _standing(tuple(m._replace(value=1_000_000 - m.value) if m.position in turned else m for m in csat_micro), responses)


def _standing(scores: tuple[Moment, ...], responses: tuple[Moment, ...]) -> tuple[tuple[int, int], ...]:
    named = {m.position: m.value for m in responses}
    answers: dict[object, tuple[int, int]] = {}
    for m in scores:
        key = named.get(m.position, m.position)
        first, _ = answers.get(key, (m.at_us, 0))
        answers[key] = (first, m.value)
    return tuple(sorted(answers.values()))
