"""What each row, trigger and limit of the shipped policies is there for: evidence, and what has to come of it. Data for tests.

A story says what is known of a customer and what the agent must do then, written down by hand and not taken from the policy.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

E = Mapping[str, Any]


class Story(NamedTuple):
    """`comes_to`: the row, and what becomes of it: none, or a disposition and an action."""

    known: E
    row: str
    comes_to: str


SUB = {"subscribed": True, "risk_case_open": False, "awaiting_approval": 0, "cancellation_scheduled": False, "failed_payments": 0}
NEW = {**SUB, "onboarding_steps_done": 0, "days_since_first_seen": 10, "milestones": 0, "account_lost": False}
WELL = {**SUB, "health": 90, "health_band": "good", "milestones": 1, "days_since_first_seen": 200, "account_lost": False, "plan": "pro"}
FULL = {**WELL, "seat_use_percent": 95, "milestones": 0}
BUYER = {"payments": 5, "days_since_last_payment": 60, "typical_gap_days": 20, "overdue_percent": 300, "awaiting_approval": 0}
RENEWED = {"renewal_outcome": "renew", "days_since_renewal": 3, "cancellation_scheduled": False, "health_band": "good"}
FAN = {"failed_payments": 0, "cancellation_scheduled": False, "account_lost": False, "health_band": "good", "advocacy_acts": 0}
PROMOTER = {**FAN, "survey": "nps", "survey_score": 10, "days_since_last_survey": 2}
LEAVING = {**SUB, "cancellation_scheduled": True, "health": 70, "health_band": "fair"}

STORIES: dict[str, tuple[Story, ...]] = {
    "renewal-rescue": (
        Story({**LEAVING, "subscribed": False}, "not-a-subscriber", "none"),
        Story({**LEAVING, "awaiting_approval": 1}, "already-with-a-person", "none"),
        Story({**LEAVING, "segment": "enterprise"}, "save-cancelling-enterprise", "acted call"),
        Story({**LEAVING, "currency": "EUR", "mrr_minor": 12_000}, "save-cancelling", "awaiting offer-credit"),
        Story({**LEAVING, "currency": "EUR", "mrr_minor": 9_000}, "ask-why-cancelling", "acted email"),
        Story({**SUB, "failed_payments": 2, "mrr_minor": 60_000}, "dunning-big", "acted call"),
        Story({**SUB, "failed_payments": 2, "mrr_minor": 6_000}, "dunning", "acted email"),
        Story({**SUB, "days_to_renewal": 40, "health_band": "poor", "health": 30, "risk_case_open": True}, "renewal-at-risk", "acted call"),
        Story(
            {**SUB, "days_since_last_usage": 30, "health_band": "poor", "health": 30, "risk_case_open": True}, "gone-quiet", "acted email"
        ),
        Story({**SUB, "health_band": "poor", "health": 30, "days_since_last_usage": 3}, "unwell-open-case", "acted call"),
        Story({**SUB, "health_band": "good", "health": 90}, "leave-alone", "none"),
    ),
    "churn-outreach": (
        Story({**BUYER, "subscribed": True}, "has-a-subscription", "none"),
        Story({**BUYER, "days_since_last_payment": 400}, "long-gone", "none"),
        Story({**BUYER, "payments": 12}, "regular-lapsing", "awaiting offer-credit"),
        Story(BUYER, "repeat-lapsing", "acted call"),
        Story({**BUYER, "payments": 1, "days_since_last_payment": 70}, "nudge", "acted email"),
        Story({**BUYER, "payments": 0}, "watch", "none"),
    ),
    "health-check": (
        Story({**SUB, "subscribed": False, "open_tickets": 4}, "not-a-subscriber", "none"),
        Story({**SUB, "cancellation_scheduled": True, "open_tickets": 4}, "leaving", "none"),
        Story({**SUB, "risk_case_open": True, "open_tickets": 4}, "looked-after", "none"),
        Story({**SUB, "open_tickets": 4}, "many-tickets", "acted call"),
        Story({**SUB, "days_since_last_usage": 20, "segment": "enterprise"}, "silent-enterprise", "acted call"),
        Story({**SUB, "days_since_last_usage": 20, "segment": "smb"}, "silent", "acted email"),
        Story({**SUB, "health": 65, "health_band": "fair", "health_trend": "falling"}, "falling", "acted call"),
        Story({**SUB, "health": 65, "health_band": "fair", "health_trend": "steady"}, "fair", "acted email"),
        Story({**SUB, "health": 90, "health_band": "good"}, "watch", "none"),
    ),
    "onboarding-optimisation": (
        Story({**NEW, "subscribed": False}, "not-a-subscriber", "none"),
        Story({**NEW, "milestones": 1}, "has-value", "none"),
        Story({**NEW, "open_tickets": 1}, "ticket-in-the-way", "acted call"),
        Story({**NEW, "segment": "enterprise"}, "kick-off", "acted call"),
        Story(NEW, "first-step", "acted email"),
        Story({**NEW, "onboarding_steps_done": 2, "onboarding_steps_left": 3, "days_since_onboarding_step": 8}, "next-step", "acted email"),
        Story(
            {
                **NEW,
                "onboarding_steps_done": 5,
                "onboarding_steps_left": 0,
                "days_since_onboarding_step": 25,
                "days_since_first_seen": 40,
            },
            "session",
            "acted call",
        ),
        Story({**NEW, "onboarding_steps_done": 2, "onboarding_steps_left": 3, "days_since_onboarding_step": 2}, "watch", "none"),
    ),
    "post-renewal-outreach": (
        Story({**RENEWED, "renewal_outcome": "churn"}, "not-renewed", "none"),
        Story({**RENEWED, "renewal_outcome": None}, "nothing-known", "none"),
        Story({**RENEWED, "cancellation_scheduled": True}, "leaving", "none"),
        Story({**RENEWED, "renewal_outcome": "contract"}, "smaller", "acted call"),
        Story({**RENEWED, "segment": "enterprise"}, "plan-for-the-term", "acted call"),
        Story({**RENEWED, "health_band": "poor"}, "unwell", "acted call"),
        Story({**RENEWED, "open_tickets": 1}, "tickets-first", "none"),
        Story(RENEWED, "thanks", "acted email"),
        Story({**RENEWED, "days_since_renewal": 70}, "how-it-goes", "acted email"),
        Story({**RENEWED, "days_since_renewal": 45}, "watch", "none"),
    ),
    "upsell": (
        Story({**FULL, "subscribed": False}, "not-a-subscriber", "none"),
        Story({**FULL, "cancellation_scheduled": True}, "leaving", "none"),
        Story({**FULL, "failed_payments": 1}, "owes", "none"),
        Story({**FULL, "days_since_detractor": 60}, "detractor", "none"),
        Story({**FULL, "open_tickets": 1}, "open-ticket", "none"),
        Story({**FULL, "segment": "enterprise"}, "seats-enterprise", "acted call"),
        Story({**FULL, "currency": "EUR", "mrr_minor": 20_000}, "seats-offer", "awaiting offer-credit"),
        Story({**FULL, "currency": "EUR", "mrr_minor": 2_000}, "seats", "acted email"),
        Story({**WELL, "plan": "starter", "milestones": 3}, "next-plan", "acted email"),
        Story({**WELL, "milestones": 3}, "cross-sell", "acted email"),
        Story(WELL, "watch", "none"),
    ),
    "referral-invitation": (
        Story({**PROMOTER, "days_since_detractor": 60}, "detractor", "none"),
        Story({**PROMOTER, "cancellation_scheduled": True}, "leaving", "none"),
        Story({**PROMOTER, "account_lost": True}, "lost", "none"),
        Story({**PROMOTER, "failed_payments": 1}, "owes", "none"),
        Story({**PROMOTER, "open_tickets": 1}, "open-ticket", "none"),
        Story({**PROMOTER, "health_band": "poor"}, "unwell", "none"),
        Story({**FAN, "referrals_converted": 1, "days_since_referral_invited": 40}, "thanks", "acted thank"),
        Story({**PROMOTER, "days_since_referral_invited": 40}, "invited-lately", "none"),
        Story(PROMOTER, "promoter", "acted invite"),
        Story({**FAN, "advocacy_acts": 1, "days_since_advocacy": 2}, "advocate", "acted invite"),
        Story({**FAN, "review_stars": 5, "days_since_advocacy": 2}, "reviewer", "acted invite"),
        Story(FAN, "watch", "none"),
    ),
}
"""By policy, a story for each row."""

TRIGGERS: dict[str, dict[str, E]] = {
    "renewal-rescue": {
        "payment-failing": {**SUB, "failed_payments": 2},
        "cancellation": {**LEAVING},
        "unwell": {**SUB, "health": 50},
        "renewal-near": {**SUB, "days_to_renewal": 60, "health": 75},
    },
    "churn-outreach": {
        "overdue": {**BUYER},
        "one-and-done": {"payments": 1, "days_since_last_payment": 60},
    },
    "health-check": {
        "slipping": {**SUB, "health": 70},
        "silent": {**SUB, "days_since_last_usage": 14},
        "tickets": {**SUB, "open_tickets": 3},
    },
    "onboarding-optimisation": {
        "no-start": {**NEW, "days_since_first_seen": 3},
        "stalled": {
            **NEW,
            "onboarding_steps_done": 2,
            "onboarding_steps_left": 1,
            "days_since_onboarding_step": 7,
            "days_since_first_seen": 20,
        },
        "no-value": {**NEW, "onboarding_steps_done": 5, "onboarding_steps_left": 0, "days_since_first_seen": 30},
    },
    "post-renewal-outreach": {
        "renewed": {**RENEWED, "days_since_renewal": 0},
        "two-months-on": {**RENEWED, "days_since_renewal": 60},
    },
    "upsell": {
        "seats-full": {**FULL, "health": 50, "seat_use_percent": 90},
        "at-home": {**WELL, "days_since_first_seen": 90, "health": 75},
    },
    "referral-invitation": {
        "promoter": {**PROMOTER, "survey_score": 9, "days_since_last_survey": 14},
        "spoke-up": {**FAN, "advocacy_acts": 1, "days_since_advocacy": 30},
        "good-review": {**FAN, "review_stars": 4, "days_since_advocacy": 30},
        "referral-bought": {**FAN, "referrals_converted": 1},
    },
}
"""By policy and trigger, what is known when it, and no other trigger, asks."""

STOPS: dict[str, dict[str, E]] = {
    "renewal-rescue": {"ended": {"subscribed": False}},
    "churn-outreach": {"subscribed-again": {"subscribed": True}},
    "health-check": {"ended": {"subscribed": False}, "leaving": {"cancellation_scheduled": True}, "lost": {"account_lost": True}},
    "onboarding-optimisation": {"ended": {"subscribed": False}, "lost": {"account_lost": True}},
    "post-renewal-outreach": {"leaving": {"cancellation_scheduled": True}, "lost": {"account_lost": True}},
    "upsell": {
        "ended": {"subscribed": False},
        "leaving": {"cancellation_scheduled": True},
        "detractor": {"days_since_detractor": 60},
        "at-risk": {"risk_case_open": True},
        "lost": {"account_lost": True},
    },
    "referral-invitation": {
        "detractor": {"days_since_detractor": 60},
        "leaving": {"cancellation_scheduled": True},
        "lost": {"account_lost": True},
    },
}
"""By policy, what ends its conversations."""


class Limits(NamedTuple):
    """The limits of a policy, each as somebody who never saw the file would have to notice that it is gone."""

    contacts: tuple[tuple[int, int], ...]  # this many within so many days, and one more is too many
    sequence: tuple[tuple[str, str], ...] = ()  # (rule, an action that it forbids)
    purpose: str = "service"
    quiet: tuple[str, str] = ("20:00", "07:59")  # the first and the last quiet minute
    depth: int = 1  # the deepest chain that it may still act in
    money: tuple[int, str] | None = None  # this much must be left for an offer, of this budget
    changes: tuple[str, ...] = ()  # kinds whose arrival voids a decision under way
    bound: tuple[str, ...] = ()  # what an approval is bound to
    expires_h: int = 168
    outcome: tuple[tuple[str, ...], int] = ((), 30)
    priority: int = 0


LIMITS: dict[str, Limits] = {
    "renewal-rescue": Limits(
        ((1, 7), (2, 30)),
        depth=2,
        money=(12_000, "retention"),
        changes=("billing/invoice-paid", "billing/subscription-changed", "billing/subscription-ended"),
        bound=("cancellation_scheduled", "subscribed", "mrr_minor"),
        outcome=(("billing/invoice-paid", "billing/subscription-changed"), 30),
        priority=1,
    ),
    "churn-outreach": Limits(
        ((1, 30), (3, 365)),
        purpose="marketing",
        quiet=("19:00", "08:59"),
        money=(1_000, "win-back"),
        changes=("billing/invoice-paid",),
        bound=("payments",),
        outcome=(("billing/invoice-paid",), 30),
        priority=2,
    ),
    "health-check": Limits(
        ((1, 14), (2, 60)),
        (("no-mail-after-an-escalation", "email"),),
        changes=("product/usage-observed", "billing/cancellation-scheduled"),
        bound=("subscribed", "risk_case_open"),
        outcome=(("product/usage-observed", "ticketing/ticket-solved", "survey/answered"), 21),
        priority=3,
    ),
    "onboarding-optimisation": Limits(
        ((1, 5), (3, 30)),
        (("no-mail-after-an-escalation", "email"),),
        changes=("product/onboarding-step-completed", "product/milestone-reached"),
        bound=("onboarding_steps_done", "milestones"),
        expires_h=72,
        outcome=(("product/onboarding-step-completed", "product/milestone-reached"), 14),
        priority=4,
    ),
    "post-renewal-outreach": Limits(
        ((1, 10), (2, 90)),
        (("no-mail-after-an-escalation", "email"),),
        changes=("crm/renewal-called-finally", "billing/cancellation-scheduled"),
        bound=("renewal_outcome", "cancellation_scheduled"),
        outcome=(("survey/answered", "product/milestone-reached", "billing/subscription-changed"), 30),
        priority=5,
    ),
    "upsell": Limits(
        ((1, 21), (4, 365)),
        (("not-after-a-complaint", "email"), ("not-while-at-risk", "call")),
        purpose="marketing",
        money=(5_000, "expansion"),
        changes=("billing/subscription-changed", "billing/cancellation-scheduled", "ticketing/ticket-escalated"),
        bound=("cancellation_scheduled", "risk_case_open", "mrr_minor"),
        outcome=(("billing/subscription-changed",), 30),
        priority=6,
    ),
    "referral-invitation": Limits(
        ((1, 30), (3, 365)),
        (("not-after-a-complaint", "invite"), ("not-while-at-risk", "invite")),
        purpose="marketing",
        changes=("survey/answered", "survey/revised", "ticketing/ticket-escalated", "billing/cancellation-scheduled"),
        bound=("cancellation_scheduled", "account_lost"),
        expires_h=72,
        outcome=(("referral/invited",), 30),
        priority=7,
    ),
}
