"""The five agents that came last, told with real facts: given a past, when something happens, then exactly this is done."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from postsale.agents import HealthCheck, OnboardingOptimisation, PostRenewalOutreach, ReferralInvitation, Upsell
from postsale.aggregates.signals import (
    AccountProfiled,
    AdvocacyGiven,
    CancellationScheduled,
    MilestoneReached,
    OnboardingStepCompleted,
    ReferralConverted,
    ReferralInvited,
    RenewalCalledFinally,
    ReviewPublished,
    Signal,
    SubscriptionStarted,
    SurveyAnswered,
    TicketEscalated,
    TicketOpened,
    UsageObserved,
)
from postsale.testing import asked, consent, decision, effect, given
from tests.agents.world import NOON

C = "cus_1"


def said(cls: type[Signal], days: float = 0, /, **fields: Any) -> tuple[str, Signal]:
    """What a source says happened so many days before."""
    at = NOON - timedelta(days=days)
    return C, cls(source="test", id=f"{cls.__name__}-{days}-{sorted(fields.items())}"[:200], occurred_at=at, **fields)


def subscribed(days: float, **more: Any) -> tuple[str, Signal]:
    at = NOON - timedelta(days=days)
    terms = {"subscription_id": "s1", "mrr_minor": 4_900, "interval": "month", "currency": "EUR", "effective_at": at, **more}
    return said(SubscriptionStarted, days, **terms)


def mail(template: str) -> Any:
    return effect("email.send@1", customer=C, template=template)


SERVICE, MARKETING = consent(C, "email"), consent(C, "email", "marketing")


def test_onboarding_that_has_not_begun_gets_the_first_step_and_what_stalls_the_next_one() -> None:
    with given(OnboardingOptimisation(), subscribed(10), SERVICE, at=NOON) as told:
        told.when(asked(C)).then(decision(C, "acted", "email"), effects=[mail("onboarding-first-step")])
    step = said(OnboardingStepCompleted, 8, step="import", steps=4)
    with given(OnboardingOptimisation(), subscribed(12), step, SERVICE, at=NOON) as told:
        told.when(asked(C)).then(decision(C, "acted", "email"), effects=[mail("onboarding-next-step")])
    with given(OnboardingOptimisation(), subscribed(12), step, said(MilestoneReached, 2, milestone="live"), SERVICE, at=NOON) as told:
        told.when(asked(C)).then(decision(C, "suppressed", suppressed_by="policy:has-value"))


def test_a_silent_subscriber_is_asked_how_it_goes_unless_a_ticket_was_escalated_lately() -> None:
    past = (subscribed(100), said(UsageObserved, 20, feature="x"), SERVICE)
    with given(HealthCheck(), *past, at=NOON) as told:
        told.when(asked(C)).then(decision(C, "acted", "email"), effects=[mail("how-is-it-going")])
    with given(HealthCheck(), *past, said(TicketEscalated, 13, ticket_id="t"), at=NOON) as told:
        told.when(asked(C)).then(decision(C, "suppressed", "email", suppressed_by="sequence:no-mail-after-an-escalation"))


def test_seats_that_are_used_up_are_offered_more_but_not_after_a_complaint_nor_to_a_detractor() -> None:
    past = (subscribed(100, seats=10), said(UsageObserved, 1, feature="x", active_users=9), MARKETING)
    with given(Upsell(), *past, at=NOON) as told:
        told.when(asked(C)).then(decision(C, "acted", "email"), effects=[mail("more-seats")])
    with given(Upsell(), *past, said(TicketEscalated, 30, ticket_id="t"), at=NOON) as told:
        told.when(asked(C)).then(decision(C, "suppressed", "email", suppressed_by="sequence:not-after-a-complaint"))
    with given(Upsell(), *past, said(SurveyAnswered, 60, survey="nps", score=6), at=NOON) as told:
        told.when(asked(C)).then(decision(C, "suppressed", suppressed_by="policy:detractor"))
    with given(Upsell(), *past, said(SurveyAnswered, 61, survey="nps", score=6), at=NOON) as told:
        told.when(asked(C)).then(decision(C, "acted", "email"), effects=[mail("more-seats")])


def test_a_detractor_is_remembered_whatever_others_answer_since() -> None:
    """A 6 of 60 days ago, then an 8 and a 10: neither takes it back; of 61 days ago it is over."""
    since = (said(SurveyAnswered, 20, survey="nps", score=8), said(SurveyAnswered, 1, survey="nps", score=10))
    full = (subscribed(100, seats=10), said(UsageObserved, 1, feature="x", active_users=9), MARKETING, *since)
    for agent, action, template in ((Upsell(), "email", "more-seats"), (ReferralInvitation(), "invite", "invite-promoter")):
        with given(agent, *full, said(SurveyAnswered, 60, survey="nps", score=6), at=NOON) as told:
            told.when(asked(C)).then(decision(C, "suppressed", suppressed_by="policy:detractor"))
        with given(agent, *full, said(SurveyAnswered, 61, survey="nps", score=6), at=NOON) as told:
            told.when(asked(C)).then(decision(C, "acted", action), effects=[mail(template)])


def test_answers_to_other_questions_and_on_other_scales_make_nobody_a_detractor() -> None:
    full = (subscribed(100, seats=10), said(UsageObserved, 1, feature="x", active_users=9), MARKETING)
    for answer in (
        {"survey": "csat", "score": 1, "scale_min": 1, "scale_max": 5},
        {"survey": "nps", "score": 4, "scale_min": 1, "scale_max": 5},
    ):
        with given(Upsell(), *full, said(SurveyAnswered, 2, **answer), at=NOON) as told:
            told.when(asked(C)).then(decision(C, "acted", "email"), effects=[mail("more-seats")])


def test_a_renewal_is_thanked_for_and_a_cancellation_after_it_is_not() -> None:
    renewed = said(RenewalCalledFinally, 3, renews_at=NOON, call="renew")
    with given(PostRenewalOutreach(), subscribed(300), renewed, SERVICE, at=NOON) as told:
        told.when(asked(C)).then(decision(C, "acted", "email"), effects=[mail("renewal-thanks")])
    terms = {"subscription_id": "s1", "mrr_minor": 4_900, "interval": "month", "currency": "EUR", "effective_at": NOON}
    with given(PostRenewalOutreach(), subscribed(300), renewed, said(CancellationScheduled, 1, **terms), SERVICE, at=NOON) as told:
        told.when(asked(C)).then(decision(C, "suppressed", suppressed_by="policy:leaving"))
    smaller = said(RenewalCalledFinally, 3, renews_at=NOON, call="contract")
    with given(PostRenewalOutreach(), subscribed(300), smaller, at=NOON) as told:
        because = "Renewed smaller 3 days ago; what was missing decides about the next time."
        task = effect("crm.create_task@1", customer=C, title="Renewed smaller: ask what was missing", note=because, due_in_days=5)
        told.when(asked(C)).then(decision(C, "acted", "call"), effects=[task])


def test_who_speaks_well_of_us_is_invited_once_and_whoever_invited_already_is_thanked() -> None:
    for signal, template in (
        (said(SurveyAnswered, 0, survey="nps", score=10), "invite-promoter"),
        (said(AdvocacyGiven, 0, act="testimonial"), "invite-advocate"),
        (said(ReviewPublished, 0, site="g2", stars=5), "invite-reviewer"),
    ):
        with given(ReferralInvitation(), subscribed(200), MARKETING, at=NOON) as told:
            told.when(signal).then(decision(C, "acted", "invite"), effects=[mail(template)])
    bought = (said(ReferralInvited, 40, referral_id="r"), MARKETING)
    with given(ReferralInvitation(), *bought, at=NOON) as told:
        told.when(said(ReferralConverted, referral_id="r")).then(decision(C, "acted", "thank"), effects=[mail("referral-thanks")])
    with given(
        ReferralInvitation(), said(SurveyAnswered, 1, survey="nps", score=10), said(TicketOpened, 1, ticket_id="t"), at=NOON
    ) as told:
        told.when(asked(C)).then(decision(C, "suppressed", suppressed_by="policy:open-ticket"))
    with given(ReferralInvitation(), MARKETING, said(TicketEscalated, 60, ticket_id="t"), at=NOON) as told:
        told.when(said(AdvocacyGiven, 0, act="talk")).then(
            decision(C, "suppressed", "invite", suppressed_by="sequence:not-after-a-complaint")
        )


def test_marketing_agents_do_nothing_with_a_consent_for_service_only() -> None:
    past = (subscribed(100, seats=10), said(AccountProfiled, 90, segment="smb"), said(UsageObserved, 1, feature="x", active_users=9))
    with given(Upsell(), *past, SERVICE, at=NOON) as told:
        told.when(asked(C)).then(decision(C, "suppressed", "email", suppressed_by="consent:email/marketing"))
